"""Right NIfTI, NRRD and MetaImage files, and what may be said twice, left out or wrong in them.

`variants` draws hundreds of files; `outcome` reads one and fails unless it is read right or refused
in one sentence, and never silently where it contradicts itself.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import nibabel as nib
import numpy as np

from denovox.core.errors import InputError
from denovox.io import formats

SHAPE = (7, 6, 5)
INTEGERS = ["i1", "u1", "<i2", ">i2", "<u2", ">u2", "<i4", ">u4", "<i8", ">u8"]
REALS = ["<f4", ">f4", "<f8", ">f8"]


@dataclass(frozen=True, eq=False)
class Variant:
    """A file to be. stored: its voxels in its own axes, HU = slope * stored + inter; affine: RAS.

    expect: "right" (without a word), "note" (right, with one), "refused", "told" (one of the last
    two), or "safe" (any of the three). content: of the files, the first of which is read.
    """

    what: str
    expect: str
    stored: np.ndarray
    affine: np.ndarray
    content: dict[str, bytes]
    slope: float = 1.0
    inter: float = 0.0

    def write(self, folder: Path) -> Path:
        """Its path."""
        folder.mkdir(parents=True, exist_ok=True)
        for name, data in self.content.items():
            (folder / name).write_bytes(data)
        return folder / next(iter(self.content))


def outcome(variant: Variant, folder: Path) -> str:
    """right, note or refused; `AssertionError` if that is not what must become of it."""
    path = variant.write(folder)
    notes: list[str] = []
    try:
        volume = formats.read(path, say=notes.append)
    except InputError as error:
        said = str(error)
        assert str(path.parent) in said, said
        assert said.isprintable(), said
        assert len(said) < 3 * len(str(path)) + 400, said
        assert variant.expect in ("refused", "told", "safe"), f"{variant.what}: {said}"
        return "refused"
    assert variant.expect != "refused", f"{variant.what} was read ({notes})"
    own = nib.orientations.io_orientation(variant.affine)
    hu = variant.stored.astype(np.float64) * variant.slope + variant.inter
    turned = nib.orientations.apply_orientation(hu, own)
    affine = variant.affine @ nib.orientations.inv_ornt_aff(own, variant.stored.shape)
    np.testing.assert_allclose(volume.hu, turned, rtol=1e-6, atol=1e-4, err_msg=variant.what)
    # a quaternion of float32 turns by up to 0.05 degrees
    np.testing.assert_allclose(volume.affine, affine, atol=0.02, err_msg=variant.what)
    for note in notes:
        assert note.startswith(f"{path}: "), note
        assert note.isprintable(), note
    said = "note" if notes else "right"
    assert variant.expect != "right" or said == "right", f"{variant.what}: {notes}"
    assert variant.expect not in ("note", "told") or said == "note", f"{variant.what}: no word"
    return said


def variants(seed: int) -> Iterator[Variant]:
    """One draw of every variant; another seed is another geometry, type and packing."""
    yield from _nifti(np.random.default_rng([seed, 0]))
    yield from _nrrd(np.random.default_rng([seed, 1]))
    yield from _meta(np.random.default_rng([seed, 2]))


def grid(rng: np.random.Generator, most_degrees: float = 40.0) -> np.ndarray:
    """Axes in any order and direction, turned a little, of any voxel size."""
    axes = np.eye(3)[:, rng.permutation(3)] * rng.choice([-1, 1], 3)
    axis = rng.normal(size=3)
    axis /= np.linalg.norm(axis)
    angle = np.radians(rng.choice([0.0, rng.uniform(1, most_degrees)]))
    cross = np.cross(np.eye(3), axis)
    turn = np.eye(3) + np.sin(angle) * cross + (1 - np.cos(angle)) * cross @ cross
    affine = np.eye(4)
    affine[:3] = np.c_[turn @ axes * rng.uniform(0.4, 5, 3), rng.uniform(-300, 300, 3)]
    return affine


def voxels(rng: np.random.Generator, dtype: str) -> np.ndarray:
    """Every voxel another value, as far as the type has as many."""
    low, high = {"i": (-110, 120), "u": (0, 230), "f": (-1000, 900)}[np.dtype(dtype).kind]
    if np.dtype(dtype).itemsize > 1:
        low, high = low * 8, high * 12
    return rng.permutation(np.linspace(low, high, 210)).reshape(SHAPE).astype(dtype)


# ---- NIfTI --------------------------------------------------------------------------------------


def patched(data: bytes, kind: type = nib.Nifti1Image, **fields: object) -> bytes:
    """With these fields of its header, as they are."""
    header_class = kind.header_class
    size = header_class.sizeof_hdr
    header = header_class(data[:size], check=False)
    for name, value in fields.items():
        header[name] = value
    return bytes(header.binaryblock) + data[size:]


def _nifti(rng: np.random.Generator) -> Iterator[Variant]:
    def made(
        what: str,
        expect: str,
        affine: np.ndarray | None = None,
        stated: np.ndarray | None = None,
        codes: tuple[int, int] | None = None,
        dtype: str = "",
        kind: type | None = None,
        scale: tuple[float, float] | None = None,
        edit: Callable[[bytes], bytes] = bytes,
        **fields: object,
    ) -> Variant:
        """affine: of the sform, and unless `stated` is given, of the qform. codes: sform, qform."""
        affine = grid(rng) if affine is None else affine
        kind = kind or [nib.Nifti1Image, nib.Nifti2Image][rng.integers(2)]
        stored = voxels(rng, dtype or str(rng.choice(["<i2", ">i2", "<f4", ">i4"])))
        slope, inter = scale or ((1, 0), (1, -1024), (0.5, 3))[rng.integers(3)]
        order = "<" if stored.dtype.isnative else ">"
        image = kind(stored, affine, kind.header_class(endianness=order))
        image.set_data_dtype(stored.dtype)
        image.header.set_slope_inter(slope, inter)
        sform, qform = codes or ((1, 1), (2, 1), (4, 4), (1, 0), (3, 3))[rng.integers(5)]
        image.set_sform(affine, sform)
        image.set_qform(affine if stated is None else stated, qform)
        if not sform and not qform:
            image.header["pixdim"][1:4] = nib.affines.voxel_sizes(affine)
        data = edit(patched(image.to_bytes(), kind, **fields))
        packed = rng.random() < 0.4
        name = "ct.nii" + ".gz" * packed
        content = {name: gzip.compress(data, mtime=0) if packed else data}
        return Variant(f"NIfTI: {what}", expect, stored, affine, content, slope, inter)

    def sizes(affine: np.ndarray, factor: float) -> list[float]:
        mm = nib.affines.voxel_sizes(affine)
        mm[rng.integers(3)] *= factor
        return [1, *mm, 0, 0, 0, 0]

    def with_extension(data: bytes) -> bytes:
        """48 bytes of a comment before the voxels; the header does not say where these begin."""
        size = 348 if 348 in (int.from_bytes(data[:4], e) for e in ("little", "big")) else 540
        order: Literal["little", "big"] = (
            "little" if int.from_bytes(data[:4], "little") == size else "big"
        )
        extension = (48).to_bytes(4, order) + (6).to_bytes(4, order) + b"from the scanner".ljust(40)
        return data[:size] + b"\1\0\0\0" + extension + data[size + 4 :]

    yield made("both forms", "right")
    yield made("both forms", "right")
    yield made("sform only", "right", codes=(int(rng.integers(1, 5)), 0))
    yield made("qform only", "right", codes=(0, int(rng.integers(1, 5))))
    for dtype in INTEGERS + REALS:
        yield made(f"type {dtype}", "right", dtype=dtype)
    for name, code, bits in (("complex", 32, 64), ("colours", 128, 24), ("bits", 1, 1)):
        yield made(name, "refused", dtype="<f4", datatype=code, bitpix=bits,
                   edit=lambda data: data + data[-840:])  # fmt: skip
    sheared = grid(rng, 20)
    sheared[:3, 2] += sheared[:3, 1] * 0.3
    yield made("sheared sform", "right", sheared, codes=(1, 1))
    # stated twice
    base = grid(rng)
    flip = np.diag([*(-1.0 if k == rng.integers(3) else 1.0 for k in range(3)), 1.0])
    flip = flip if np.linalg.det(flip) < 0 else np.diag([-1.0, 1, 1, 1])
    both = {"codes": (1, 1), "affine": base}
    yield made("qform mirrored", "refused", stated=base @ flip, **both)
    yield made(
        "qform turned by 180 degrees", "refused", stated=base @ np.diag([-1, -1, 1, 1]), **both
    )
    swap = np.eye(4)[[1, 0, 2, 3]] @ np.diag([-1, 1, 1, 1])
    yield made("qform of other axes", "refused", stated=base @ swap, **both)
    for factor, expect in (
        (1.05, "refused"),
        (0.98, "refused"),
        (1.003, "note"),
        (1.00001, "right"),
    ):
        larger = base @ np.diag([1, 1, factor, 1])
        yield made(f"qform x {factor}", expect, stated=larger, **both)
        yield made(f"pixdim x {factor}", expect, base, codes=(2, 0), pixdim=sizes(base, factor))
    yield made("pixdim of a metre", "refused", base, codes=(1, 0), pixdim=sizes(base, 1e-3))
    moved = base.copy()
    moved[:3, 3] += rng.choice([-1, 1]) * rng.uniform(0.2, 50)
    yield made("qform moved", "note", stated=moved, **both)
    turned, (c, s) = base.copy(), (np.cos(np.radians(6)), np.sin(np.radians(6)))
    turned[:2, :3] = [[c, -s], [s, c]] @ base[:2, :3]
    yield made("qform turned by 6 degrees", "note", stated=turned, **both)
    yield made("qform not a rotation", "note", quatern_b=0.9, quatern_c=0.9, **both)
    yield made("pixdim 0", "note", codes=(1, 0), pixdim=[1, 0, 0, 0, 0, 0, 0, 0])
    yield made("pixdim negative", "note", codes=(1, 1), pixdim=[1, -1, 2, 3, 0, 0, 0, 0])
    yield made("pixdim NaN", "note", codes=(1, 0), pixdim=[1, np.nan, 1, 1, 0, 0, 0, 0])
    yield made("pixdim 0, qform only", "refused", codes=(0, 1), pixdim=[1, 0, 1, 1, 0, 0, 0, 0])
    yield made("no form", "refused", codes=(0, 0))
    yield made("sform of code 9", "note", codes=(1, 1), sform_code=9)
    yield made("both codes undefined", "refused", codes=(1, 1), sform_code=-1, qform_code=77)
    right = base if np.linalg.det(base) > 0 else base @ np.diag([-1, 1, 1, 1])
    size = [0, *nib.affines.voxel_sizes(right), 0, 0, 0, 0]
    yield made("qfac 0, qform only", "note", right, codes=(0, 2), pixdim=size)
    yield made("qfac 0, both forms", "right", base, codes=(1, 2),
               pixdim=[0, *nib.affines.voxel_sizes(base), 0, 0, 0, 0])  # fmt: skip
    wrong = [-np.sign(np.linalg.det(base)), *nib.affines.voxel_sizes(base), 0, 0, 0, 0]
    yield made("qfac of the other hand", "refused", base, codes=(1, 1), pixdim=wrong)
    yield made("sform of zeros", "refused", codes=(1, 1), srow_x=0, srow_y=0, srow_z=0)
    yield made("sform NaN", "refused", codes=(1, 0), srow_x=[np.nan, 0, 0, 0])
    for units, expect in ((0, "right"), (2, "right"), (10, "right"), (1, "refused"), (3, "refused"),
                          (5, "refused")):  # fmt: skip
        yield made(f"unit {units}", expect, xyzt_units=units)
    # values
    for value in (np.nan, np.inf):
        spoiled = voxels(rng, "<f4").tobytes()[:-4] + np.float32(value).tobytes()
        yield made(f"a voxel of {value}", "refused", dtype="<f4",
                   edit=lambda data, s=spoiled: data[: -len(s)] + s)  # fmt: skip
    plain = {"scale": (1, 0)}
    yield made("slope 0", "right", scl_slope=0, **plain)
    yield made("slope 0 and an intercept", "note", scl_slope=0, scl_inter=-1024, **plain)
    yield made("slope NaN", "right", scl_slope=np.nan, scl_inter=np.nan, **plain)
    yield made("slope infinite", "note", scl_slope=np.inf, **plain)
    yield made("intercept NaN", "refused", scl_inter=np.nan, **plain)
    # sizes
    for bits in (8, 64):
        yield made(f"{bits} bits", "refused", dtype="<i2", bitpix=bits)
    yield made("bits unset", "right", dtype="<i2", bitpix=0)
    yield made("a smaller type", "refused", dtype="<i4", datatype=4, bitpix=16)
    yield made("a larger type", "refused", dtype="<i2", datatype=16, bitpix=32)
    for axis in range(3):
        for more in (-1, 1):
            dim = [3, *SHAPE, 1, 1, 1, 1]
            dim[1 + axis] += more
            yield made(f"{more:+} along axis {axis}", "refused", dim=dim)
    for first, expect in (
        (4, "right"),
        (7, "right"),
        (2, "refused"),
        (0, "refused"),
        (9, "refused"),
    ):
        yield made(f"dim[0] {first}", expect, dim=[first, *SHAPE, 1, 1, 1, 1])
    yield made("dim[4] 2", "refused", dim=[4, *SHAPE, 2, 1, 1, 1])
    yield made("dim[4] 0", "refused", dim=[4, *SHAPE, 0, 1, 1, 1])
    one, two = {"kind": nib.Nifti1Image}, {"kind": nib.Nifti2Image}
    yield made("offset 0", "right", vox_offset=0, **one)
    yield made("offset within the header", "refused", vox_offset=300, **two)
    yield made("offset too far", "refused", vox_offset=368, **one)
    yield made("an extension", "right", edit=with_extension, vox_offset=400, **one)
    yield made("an extension", "right", edit=with_extension, vox_offset=592, **two)
    yield made("offset before an extension", "refused", edit=with_extension, **one)
    yield made("offset before an extension", "refused", edit=with_extension, **two)
    yield made("offset within an extension", "refused", edit=with_extension, vox_offset=384, **one)
    yield made("a byte less", "refused", edit=lambda data: data[:-1])
    yield made("half", "refused", edit=lambda data: data[: len(data) // 2])
    yield made("bytes behind", "note", dtype="<i2", edit=lambda data: data + bytes(16))
    yield made("a layer behind", "refused", edit=lambda data: data + data[-400:])
    yield made("magic of a pair", "refused", magic=b"ni1", **one)
    yield made("no magic", "refused", magic=b"", **one)
    yield made("size of another header", "refused", sizeof_hdr=540, **one)
    alone = made("half of a pair", "refused", **one)
    data = patched(next(iter(alone.content.values())), magic=b"ni1") if "ct.nii" in alone.content \
        else b"\1" * 348  # fmt: skip
    yield replace(alone, content={"ct.hdr": data[:348], "ct.img": data[352:]})
    packed = made("gzip cut", "refused")
    whole = next(iter(packed.content.values()))
    zipped = whole if whole[:2] == b"\x1f\x8b" else gzip.compress(whole, mtime=0)
    yield replace(packed, content={"ct.nii.gz": zipped[: int(rng.integers(20, len(zipped) - 1))]})
    yield replace(packed, what="NIfTI: gzip of another name", expect="right",
                  content={"ct.nii": zipped})  # fmt: skip


# ---- NRRD ---------------------------------------------------------------------------------------

SPACES = {
    "left-posterior-superior": (-1, -1, 1),
    "LPS": (-1, -1, 1),
    "right-anterior-superior": (1, 1, 1),
    "RAS": (1, 1, 1),
    "left-anterior-superior": (-1, 1, 1),
}
NAMES = {"i1": "signed char", "u1": "uchar", "i2": "short", "u2": "uint16", "i4": "int32",
         "u4": "unsigned int", "i8": "int64", "u8": "unsigned long long", "f4": "float",
         "f8": "double"}  # fmt: skip
META = {"i1": "MET_CHAR", "u1": "MET_UCHAR", "i2": "MET_SHORT", "u2": "MET_USHORT", "i4": "MET_INT",
        "u4": "MET_UINT", "i8": "MET_LONG_LONG", "u8": "MET_ULONG_LONG", "f4": "MET_FLOAT",
        "f8": "MET_DOUBLE"}  # fmt: skip


def text(values: np.ndarray) -> str:
    """Numbers with all their digits."""
    return " ".join(f"{v:.12g}" for v in np.ravel(values))


def vector(values: np.ndarray) -> str:
    """As NRRD writes one."""
    return f"({','.join(f'{v:.12g}' for v in values)})"


def _nrrd(rng: np.random.Generator) -> Iterator[Variant]:
    def made(
        what: str,
        expect: str,
        affine: np.ndarray | None = None,
        dtype: str = "",
        encoding: str | None = None,
        data: Callable[[bytes], bytes] = bytes,
        detached: bool = False,
        lead: int = 0,
        rows: str = "",
        **fields: str | None,
    ) -> Variant:
        """fields: replaced, or left out if None; rows: appended as they are."""
        affine = grid(rng) if affine is None else affine
        stored = voxels(rng, dtype or str(rng.choice(["<i2", ">i2", "<f4", "<u2"])))
        space = str(rng.choice(list(SPACES)))
        axes = np.array(SPACES[space])[:, None] * affine[:3]
        encoding = str(rng.choice(["raw", "gzip"])) if encoding is None else encoding
        order = "big" if stored.dtype.byteorder == ">" else "little"
        raw = stored.tobytes("F")
        if encoding in ("gzip", "gz"):
            raw = gzip.compress(raw, mtime=0)
        elif encoding in ("ascii", "text", "txt"):
            raw = text(stored.ravel("F")).encode()
        said = {
            "type": NAMES[stored.dtype.str[1:]],
            "dimension": "3",
            "space": space,
            "sizes": "7 6 5",
            "space directions": " ".join(vector(axis) for axis in axes[:, :3].T),
            "kinds": "domain domain domain",
            "endian": order,
            "encoding": encoding,
            "space origin": vector(axes[:, 3]),
        }
        if detached:
            said["data file"] = "ct.raw"
        said |= {key.replace("_", " "): value for key, value in fields.items()}
        head = "NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in said.items() if v is not None)
        head += rows + "\n" * (not detached)
        raw = bytes(lead) + data(raw)
        content = (
            {"ct.nhdr": head.encode(), "ct.raw": raw}
            if detached
            else {"ct.nrrd": head.encode() + raw}
        )
        return Variant(f"NRRD: {what}", expect, stored, affine, content)

    base = grid(rng)
    mm = nib.affines.voxel_sizes(base)
    for _ in range(3):
        yield made("any grid", "right")
    for dtype in INTEGERS + REALS:
        yield made(f"type {dtype}", "right", dtype=dtype)
    for encoding in ("raw", "gz", "ascii", "text"):
        yield made(f"encoding {encoding}", "right", dtype="<i2", encoding=encoding)
    for encoding in ("hex", "bzip2", ""):
        yield made(f"encoding {encoding}", "refused", dtype="<i2", encoding=encoding)
    yield made("detached", "right", detached=True)
    yield made("detached, byte skip -1", "right", detached=True, encoding="raw", lead=37,
               byte_skip="-1")  # fmt: skip
    yield made("detached, byte skip", "right", detached=True, encoding="raw", lead=37,
               byte_skip="37")  # fmt: skip
    yield made("detached, byte skip wrong", "refused", detached=True, encoding="raw", lead=37,
               byte_skip="36")  # fmt: skip
    yield made("byte skip of gzip", "refused", encoding="gzip", byte_skip="-1")
    yield made("line skip", "refused", line_skip="2")
    yield made("detached, gone", "refused", detached=True, data_file="gone.raw")
    yield made("detached, many files", "refused", detached=True, data_file="LIST")
    sheared = base.copy()
    sheared[:3, 2] += sheared[:3, 1] * 0.2
    yield made("sheared", "right", sheared)
    # stated twice
    for factor, expect in ((1, "right"), (1.005, "note"), (1.03, "refused"), (1e-3, "refused")):
        stated = mm * [1, factor, 1]
        yield made(f"spacings x {factor}", expect, base, spacings=text(stated))
    yield made("spacings NaN", "right", base, spacings="nan nan nan")
    yield made("spacings of one axis", "right", base, spacings=f"nan nan {mm[2]:.9g}")
    yield made("spacings of one axis, wrong", "refused", base, spacings=f"nan nan {2 * mm[2]:.9g}")
    yield made("spacings of two axes", "refused", base, spacings="1 1")
    yield made("space twice, the same", "right", rows="dimension: 3\n")
    yield made("origin twice", "refused", rows="space origin: (1,2,3)\n")
    yield made("directions twice", "refused", rows="space directions: (1,0,0) (0,1,0) (0,0,1)\n")
    yield made("sizes twice", "refused", rows="sizes: 5 6 7\n")
    for unit, expect in (("mm", "right"), ("", "right"), ("cm", "refused"), ("um", "refused")):
        yield made(f"units {unit}", expect, space_units=" ".join([f'"{unit}"'] * 3))
        yield made(f"axis units {unit}", expect, units=" ".join([f'"{unit}"'] * 3))
    yield made("axis mins", "note", axis_mins="0 0 0")
    yield made("quantised", "refused", old_min="-1000", old_max="3000")
    # left out
    for key in ("type", "dimension", "space", "sizes", "space_directions",
                "space_origin"):  # fmt: skip
        yield made(f"no {key}", "refused", **{key: None})
    yield made("no byte order", "refused", dtype="<i2", encoding="raw", endian=None)
    yield made("no byte order, bytes", "right", dtype="u1", endian=None)
    yield made("no kinds", "right", kinds=None)
    # wrong
    yield made("space of the scanner", "refused", space="scanner-xyz")
    yield made("space in 4D", "refused", space="left-posterior-superior-time")
    yield made("no space but its dimension", "refused", space=None, space_dimension="3")
    yield made("a direction of none", "refused", space_directions="none (1,0,0) (0,1,0)")
    yield made("two directions", "refused", space_directions="(1,0,0) (0,1,0)")
    yield made("a flat grid", "refused", space_directions="(1,0,0) (2,0,0) (0,0,1)")
    yield made("a direction of nothing", "refused", space_directions="(0,0,0) (0,1,0) (0,0,1)")
    yield made("NaN in a direction", "refused", space_directions="(nan,0,0) (0,1,0) (0,0,1)")
    yield made("an origin of two", "refused", space_origin="(1,2)")
    yield made("vectors", "refused", dimension="4", sizes="1 7 6 5",
               kinds="vector domain domain domain",
               space_directions="none (1,0,0) (0,1,0) (0,0,1)")  # fmt: skip
    for axis in range(3):
        for more in (-1, 1):
            size = list(SHAPE)
            size[axis] += more
            yield made(f"{more:+} along axis {axis}", "refused", sizes=text(np.array(size)))
    yield made("another dimension", "refused", dimension="2")
    yield made("fractions in sizes", "refused", sizes="7 6 5.5")
    yield made("negative sizes", "refused", sizes="7 -6 5")
    yield made("cut", "refused", data=lambda raw: raw[:-3])
    yield made("longer", "refused", encoding="raw", data=lambda raw: raw + bytes(5))
    yield made("damaged", "refused", encoding="gzip", data=lambda raw: raw[:30] + b"\xff" * 9)
    yield made("a smaller type", "refused", dtype="<i4", type="short")
    yield made("a larger type", "refused", dtype="<i2", type="float")
    yield made("blocks", "refused", type="block")
    yield made("too large for its type", "refused", dtype="<i2", encoding="ascii", type="uchar",
               data=lambda raw: b"999" + raw[raw.index(b" ") :])  # fmt: skip
    yield made("words for numbers", "refused", dtype="<i2", encoding="ascii",
               data=lambda raw: b"x" + raw)  # fmt: skip
    for value in (np.nan, -np.inf):
        spoiled = np.float32(value).tobytes()
        yield made(f"a voxel of {value}", "refused", dtype="<f4", encoding="raw",
                   data=lambda raw, s=spoiled: raw[:-4] + s)  # fmt: skip


# ---- MetaImage ----------------------------------------------------------------------------------


def _meta(rng: np.random.Generator) -> Iterator[Variant]:
    def made(
        what: str,
        expect: str,
        affine: np.ndarray | None = None,
        dtype: str = "",
        packed: bool | None = None,
        data: Callable[[bytes], bytes] = bytes,
        detached: bool = False,
        lead: int = 0,
        **fields: str | None,
    ) -> Variant:
        affine = grid(rng) if affine is None else affine
        stored = voxels(rng, dtype or str(rng.choice(["<i2", ">i2", "<f4", "<u2"])))
        lps = np.diag([-1, -1, 1]) @ affine[:3]
        mm = nib.affines.voxel_sizes(affine)
        packed = bool(rng.random() < 0.5) if packed is None else packed
        raw = stored.tobytes("F")
        raw = data(zlib.compress(raw) if packed else raw)
        said = {
            "ObjectType": "Image",
            "NDims": "3",
            "BinaryData": "True",
            "BinaryDataByteOrderMSB": str(stored.dtype.byteorder == ">"),
            "CompressedData": str(packed),
            "TransformMatrix": text((lps[:, :3] / mm).T),
            "Offset": text(lps[:, 3]),
            "ElementSpacing": text(mm),
            "DimSize": "7 6 5",
            "ElementType": META[stored.dtype.str[1:]],
        }
        if packed:
            said["CompressedDataSize"] = str(len(raw))
        said |= fields
        said["ElementDataFile"] = said.pop("ElementDataFile", "ct.raw" if detached else "LOCAL")
        head = "".join(f"{k} = {v}\n" for k, v in said.items() if v is not None).encode()
        raw = bytes(lead) + raw
        content = {"ct.mhd": head, "ct.raw": raw} if detached else {"ct.mha": head + raw}
        return Variant(f"MetaImage: {what}", expect, stored, affine, content)

    base = grid(rng)
    mm, lps = nib.affines.voxel_sizes(base), np.diag([-1, -1, 1]) @ base[:3]
    matrix, place = (lps[:, :3] / mm).T, lps[:, 3]
    from_letters = "".join(nib.aff2axcodes(base)).translate(str.maketrans("RLAPSI", "LRPAIS"))
    to_letters = "".join(nib.aff2axcodes(base))
    for _ in range(3):
        yield made("any grid", "right")
    for dtype in INTEGERS + REALS:
        yield made(f"type {dtype}", "right", dtype=dtype)
    yield made("detached", "right", detached=True)
    yield made("header size -1", "right", packed=False, detached=True, lead=41, HeaderSize="-1")
    yield made("header size", "right", packed=False, detached=True, lead=41, HeaderSize="41")
    yield made(
        "header size wrong", "refused", packed=False, detached=True, lead=41, HeaderSize="40"
    )
    yield made("header size of packed voxels", "refused", packed=True, HeaderSize="-1")
    yield made("detached, gone", "refused", detached=True, ElementDataFile="gone.raw")
    yield made("many files", "refused", ElementDataFile="LIST")
    yield made("text", "right", dtype="<i2", packed=False, BinaryData="False",
               data=lambda raw: text(np.frombuffer(raw, "<i2")).encode())  # fmt: skip
    # stated twice
    for factor, expect in ((1, "right"), (1.005, "note"), (0.97, "refused"), (1000, "refused")):
        yield made(f"ElementSize x {factor}", expect, base, ElementSize=text(mm * [1, 1, factor]))
        rows = matrix * np.array([1, factor, 1])[:, None]
        yield made(f"a matrix x {factor}", "told" if factor != 1 else "right",
                   np.r_[np.c_[base[:3, :3] * [1, factor, 1], base[:3, 3]], [[0, 0, 0, 1]]],
                   TransformMatrix=text(rows), ElementSpacing=text(mm))  # fmt: skip
    yield made("ElementSize alone", "right", base, ElementSpacing=None, ElementSize=text(mm))
    for key in ("Orientation", "Rotation"):
        yield made(f"{key}, the same", "right", base, **{key: text(matrix)})
        yield made(f"{key}, mirrored", "refused", base, **{key: text(matrix * [-1, 1, 1])})
        yield made(f"{key}, other axes", "refused", base, **{key: text(matrix[[1, 2, 0]])})
        yield made(f"{key} alone", "right", base, TransformMatrix=None, **{key: text(matrix)})
    yield made("Position, the same", "right", base, Position=text(place))
    yield made("Position, another", "note", base, Position=text(place + 3))
    yield made("Origin, another", "note", base, Origin=text(place), Offset=text(place - 9))
    yield made("Position alone", "right", base, Offset=None, Position=text(place))
    yield made("orientation as ITK", "right", base, AnatomicalOrientation=from_letters)
    yield made("orientation as documented", "right", base, AnatomicalOrientation=to_letters)
    yield made("orientation unknown", "right", base, AnatomicalOrientation="???")
    mirrored = from_letters[:2] + to_letters[2]
    yield made("orientation mirrored", "refused", base, AnatomicalOrientation=mirrored)
    yield made("orientation permuted", "refused", base,
               AnatomicalOrientation=from_letters[1:] + from_letters[0])  # fmt: skip
    yield made("a centre of rotation", "note", CenterOfRotation="1 2 3")
    yield made("no centre of rotation", "right", CenterOfRotation="0 0 0")
    yield made("two byte orders", "refused", dtype="<i2", ElementByteOrderMSB="True")
    yield made("a byte order twice", "right", dtype="<i2", ElementByteOrderMSB="False")
    for unit, expect in (("mm", "right"), ("?", "right"), ("um", "refused"), ("cm", "refused")):
        yield made(f"unit {unit}", expect, DistanceUnits=unit)
    yield made("a slope", "refused", ElementToIntensityFunctionSlope="2")
    yield made("an intercept", "refused", ElementToIntensityFunctionOffset="-1024")
    yield made("a slope of 1", "right", ElementToIntensityFunctionSlope="1")
    # left out
    for key in ("NDims", "TransformMatrix", "Offset", "ElementSpacing", "DimSize", "ElementType"):
        yield made(f"no {key}", "refused", **{key: None})
    yield made("no CompressedDataSize", "right", packed=True, CompressedDataSize=None)
    yield made("no byte order", "note", dtype="<i2", BinaryDataByteOrderMSB=None)
    # wrong
    yield made("NDims 4", "refused", NDims="4", DimSize="7 6 5 1")
    yield made("NDims 2", "refused", NDims="2")
    yield made("channels", "refused", ElementNumberOfChannels="2")
    for axis in range(3):
        for more in (-1, 1):
            size = list(SHAPE)
            size[axis] += more
            yield made(f"{more:+} along axis {axis}", "refused", DimSize=text(np.array(size)))
    yield made("a spacing of 0", "refused", ElementSpacing="1 0 1")
    yield made("NaN in the spacing", "refused", ElementSpacing="1 nan 1")
    yield made("a flat matrix", "refused", TransformMatrix="1 0 0 1 0 0 0 0 1")
    yield made("eight numbers", "refused", TransformMatrix="1 0 0 0 1 0 0 0")
    yield made("an offset of two", "refused", Offset="1 2")
    yield made("cut", "refused", data=lambda raw: raw[:-3])
    yield made("longer", "refused", packed=False, data=lambda raw: raw + bytes(5))
    yield made("damaged", "refused", packed=True, data=lambda raw: raw[:20] + b"\xff" * 9)
    yield made("said to be packed", "refused", packed=False, CompressedData="True")
    yield made("said to be plain", "refused", packed=True, CompressedData="False")
    yield made("a smaller type", "refused", dtype="<i4", ElementType="MET_SHORT")
    yield made("a larger type", "refused", dtype="<i2", ElementType="MET_FLOAT")
    yield made("a type of any size", "refused", ElementType="MET_LONG")
    for value in (np.nan, np.inf):
        spoiled = np.float32(value).tobytes()
        yield made(f"a voxel of {value}", "refused", dtype="<f4", packed=False,
                   data=lambda raw, s=spoiled: raw[:-4] + s)  # fmt: skip
