"""Right CT series, and what may be said twice, left out, misspelt or wrong in them.

`variants` draws hundreds of folders; `file_variants.outcome` reads one and fails unless it is read
right or refused in one sentence, and never silently where it contradicts itself.
"""

from __future__ import annotations

import io
import warnings
import zipfile
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import dicom_cases as cases
import numpy as np
import pydicom
from file_variants import Variant, grid
from pydicom import uid
from pydicom.dataset import Dataset, FileDataset
from pydicom.tag import Tag

SHAPE = (24, 20, 8)
RAS = np.diag([-1.0, -1, 1, 1])
Each = Callable[[Any, int], None]
Files = dict[str, bytes]


@dataclass(frozen=True, eq=False)
class Folder(Variant):
    """Its content is a folder of this name, or its ZIP. build: the files, made when needed."""

    build: Callable[[], Files] = dict

    def write(self, folder: Path) -> Path:
        """Its path."""
        files = self.build()
        for name, data in files.items():
            path = folder / "ct" / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
        lone = [name for name in files if name.endswith(".zip")]
        return folder / "ct" / lone[0] if lone else folder / "ct"


@dataclass(eq=False)
class Right:
    """A right series. hu: columns, rows, slices. along: mm on the normal, from `origin`."""

    hu: np.ndarray
    origin: np.ndarray
    row: np.ndarray
    column: np.ndarray
    spacing: tuple[float, float, float]
    along: np.ndarray

    @property
    def affine(self) -> np.ndarray:
        """(column, row, slice) -> RAS."""
        step = np.cross(self.row, self.column) * (self.along[-1] - self.along[0])
        lps = np.eye(4)
        lps[:3] = np.c_[
            self.row * self.spacing[0],
            self.column * self.spacing[1],
            step / (len(self.along) - 1),
            self.origin,
        ]
        return RAS @ lps

    def images(self, **tags: Any) -> list[FileDataset]:
        """Its slices; signed if the intercept is 0."""
        inter = tags.get("RescaleIntercept", -1024)
        normal = np.cross(self.row, self.column)
        return [
            cases.image(
                (self.hu[..., k] - (inter or 0)).astype(np.uint16 if inter else np.int16),
                self.origin + mm * normal,
                (self.row, self.column),
                self.spacing[:2],
                {"InstanceNumber": k + 1, "SliceThickness": self.spacing[2]} | tags,
            )
            for k, mm in enumerate(self.along)
        ]


def right(rng: np.random.Generator, kind: str = "") -> Right:
    """Axial, coronal, sagittal or oblique, of non-square pixels, stacked either way."""
    kind = kind or str(rng.choice(["axial", "coronal", "sagittal", "oblique"]))
    axes = {
        "axial": np.eye(3),
        "coronal": np.eye(3)[[0, 2, 1]] * [[1], [-1], [1]],
        "sagittal": np.eye(3)[[1, 2, 0]] * [[1], [-1], [1]],
    }
    if kind == "oblique":
        turned = grid(rng)[:3, :3]
        row, column = turned[:, 0], turned[:, 1]
        row, column = row / np.linalg.norm(row), column / np.linalg.norm(column)
    else:
        row, column = axes[kind][:2] * rng.choice([1, -1], (2, 1))
    spacing = tuple(rng.uniform([0.5, 0.5, 1], [1, 1, 4]).round(3).tolist())
    along = np.arange(SHAPE[2]) * spacing[2] * rng.choice([-1, 1])
    hu = cases.phantom(SHAPE, int(rng.integers(1000)))
    return Right(hu, rng.uniform(-200, 200, 3).round(2), row, column, spacing, along)


def encoded(one: Dataset, syntax: str = uid.ExplicitVRLittleEndian, bare: bool = False) -> bytes:
    """A file, with its preamble and file meta information unless `bare`."""
    syntax = uid.UID(syntax)
    target = io.BytesIO()
    if syntax == uid.ExplicitVRBigEndian:
        words = np.frombuffer(one.PixelData, np.uint16)
        one.PixelData = words.byteswap().tobytes()
    if bare:
        del one.file_meta
        one.preamble = None
    else:
        one.file_meta.TransferSyntaxUID = syntax
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # invalid values are the point
        pydicom.dcmwrite(
            target,
            one,
            implicit_vr=syntax.is_implicit_VR,
            little_endian=syntax.is_little_endian,
            force_encoding=True,
        )
    return target.getvalue()


def raw(one: Dataset, keyword: str, value: bytes, vr: str = "") -> None:
    """Set a tag to these bytes."""
    tag = Tag(keyword)
    vr = vr or pydicom.datadict.dictionary_VR(tag).split()[0]
    value += b" " * (len(value) % 2)
    one._dict[tag] = pydicom.dataelem.RawDataElement(tag, vr, len(value), value, 0, False, True)


def short(keyword: str, vr: str, value: bytes) -> bytes:
    """One element of explicit little endian with a length of two bytes."""
    tag = Tag(keyword)
    head = tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little") + vr.encode()
    return head + len(value).to_bytes(2, "little") + value


def again(keyword: str, value: bytes | None) -> Callable[[bytes], bytes]:
    """Repeat an element, with another value if one is given."""

    def edit(data: bytes) -> bytes:
        tag = Tag(keyword)
        at = data.index(tag.group.to_bytes(2, "little") + tag.element.to_bytes(2, "little"), 132)
        end = at + 8 + int.from_bytes(data[at + 6 : at + 8], "little")
        twin = data[at:end] if value is None else short(keyword, data[at + 4 : at + 6].decode(),
                                                          value)  # fmt: skip
        return data[:end] + twin + data[end:]

    return edit


def group_lengths(data: bytes) -> bytes:
    """With (0008,0000) and (0028,0000), whose values readers must ignore."""
    for group in (8, 0x28):
        start = group.to_bytes(2, "little")
        at = data.index(start, 340 if group == 8 else 132)
        while group == 0x28 and data[at : at + 6] != start + b"\x02\x00US":
            at = data.index(start, at + 1)
        data = data[:at] + start + b"\0\0UL\x04\0\x07\0\0\0" + data[at:]
    return data


def variants(seed: int) -> Iterator[Variant]:
    """One draw of every variant; another seed is another geometry and other values."""
    for number, kind in enumerate((_tags, _files, _geometry, _pixels, _statements, _enhanced)):
        yield from kind(np.random.default_rng([seed, number]))


def made(
    what: str,
    expect: str,
    rng: np.random.Generator,
    each: Each | None = None,
    *,
    base: Right | None = None,
    whole: Callable[[list[Any]], Sequence[Any]] | None = None,
    data: Callable[[bytes], bytes] | None = None,
    files: Callable[[Files], Files] | None = None,
    syntax: str = uid.ExplicitVRLittleEndian,
    bare: bool = False,
    only: int | None = None,
    truth: Right | None = None,
    **tags: Any,
) -> Variant:
    """each: edits each slice (or one, if `only`); whole: the list; data: each file; files: all."""
    base = base or right(rng)
    order = rng.permutation(20)

    def build() -> Files:
        slices: Sequence[Any] = base.images(**tags)
        for k, one in enumerate(slices):
            if each and only in (None, k):
                each(one, k)
        if whole:
            slices = whole(list(slices))
        content = {}
        for name, (k, one) in zip(order, enumerate(slices), strict=False):
            packed = encoded(one, syntax, bare)
            content[f"{name:03d}.dcm"] = data(packed) if data and only in (None, k) else packed
        return files(content) if files else content

    truth = truth or base
    return Folder(what, expect, truth.hu, truth.affine, {}, build=build)


def put(keyword: str, value: Any) -> Each:
    """Set a tag (to None: leave it out)."""

    def edit(one: Any, _: int) -> None:
        if value is None:
            one.pop(Tag(keyword), None)
        else:
            setattr(one, keyword, value)

    return edit


def put_raw(keyword: str, value: bytes, vr: str = "") -> Each:
    return lambda one, _: raw(one, keyword, value, vr)


NEEDED = (
    "Rows Columns BitsAllocated BitsStored PixelRepresentation ImagePositionPatient"
    " ImageOrientationPatient PixelSpacing PixelData SeriesInstanceUID RescaleSlope"
    " RescaleIntercept PhotometricInterpretation"
).split()
OPTIONAL = (
    "PatientID PatientName KVP ConvolutionKernel SliceThickness InstanceNumber StudyInstanceUID"
    " FrameOfReferenceUID SOPInstanceUID ImageType Manufacturer SeriesDescription HighBit"
    " SamplesPerPixel"
).split()


def _tags(rng: np.random.Generator) -> Iterator[Variant]:
    """Missing, empty, repeated, of another type."""
    for keyword in NEEDED:
        yield made(f"tags: no {keyword}", "refused", rng, put(keyword, None))
        lone = int(rng.integers(8))
        yield made(f"tags: no {keyword} in one", "refused", rng, put(keyword, None), only=lone)
        if keyword != "PixelData":
            yield made(f"tags: {keyword} empty", "refused", rng, put_raw(keyword, b""))
        if keyword not in ("PixelData", "PhotometricInterpretation", "SeriesInstanceUID"):
            yield made(f"tags: {keyword} is a word", "refused", rng,
                       put_raw(keyword, b"none", "LO"))  # fmt: skip
    for keyword in OPTIONAL:
        yield made(f"tags: no {keyword}", "right", rng, put(keyword, None))
        yield made(f"tags: {keyword} empty", "right", rng, put_raw(keyword, b""))
        if keyword not in ("HighBit", "SamplesPerPixel", "PatientID", "ConvolutionKernel"):
            expect = "note" if keyword in ("KVP", "FrameOfReferenceUID") else "right"
            yield made(f"tags: {keyword} garbled in one", expect, rng,
                       put_raw(keyword, b"\\x\xff?,", "LO"), only=2)  # fmt: skip
    direct = {"RescaleIntercept": 0, "RescaleSlope": None}
    yield made("tags: neither slope nor intercept", "note", rng, put("RescaleIntercept", None),
               **direct)  # fmt: skip
    yield made("tags: no Modality", "note", rng, put("Modality", None))
    yield made("tags: no SOPClassUID", "safe", rng, put("SOPClassUID", None))
    yield made("tags: RescaleType US", "note", rng, put("RescaleType", "US"))
    for unit in ("HU_MOD", "OD", "MGML"):
        yield made(f"tags: RescaleType {unit}", "refused", rng, put("RescaleType", unit))
    # repeated
    for keyword, other in (("RescaleIntercept", b"-10 "), ("PixelSpacing", b"2\\2 "),
                           ("Rows", b"\x18\0"), ("SeriesInstanceUID", b"1.2\0"),
                           ("ImagePositionPatient", b"1\\2\\3 "), ("BitsStored", b"\x0c\0"),
                           ("PixelRepresentation", b"\x01\0")):  # fmt: skip
        yield made(f"tags: {keyword} twice", "refused", rng, data=again(keyword, other))
        yield made(f"tags: {keyword} twice, the same", "safe", rng, data=again(keyword, None))
    yield made("tags: KVP twice", "safe", rng, data=again("KVP", b"80"))
    # of another type or format
    base = right(rng)
    dx, dy, _ = base.spacing
    spacings = {
        "spaces": (f"  {dy} \\ {dx}  ", "right"),
        "nulls": (f"{dy}\\{dx}\0\0", "safe"),
        "too long": (f"{dy:.19f}\\{dx:.19f}", "right"),
        "exponents": (f"{dy:.6e}\\{dx:+.6e}", "right"),
        "commas": (f"{dy}\\{dx}".replace(".", ","), "refused"),
        "one number": (f"{dy}", "refused"),
        "three numbers": (f"{dy}\\{dx}\\1", "refused"),
        "an empty part": (f"{dy}\\", "refused"),
        "a unit": (f"{dy} mm\\{dx} mm", "refused"),
        "a minus": (f"-{dy}\\{dx}", "refused"),
        "zero": (f"0\\{dx}", "refused"),
        "NaN": (f"NaN\\{dx}", "refused"),
        "inf": (f"1e999\\{dx}", "refused"),
        "metres": (f"{dy / 1e5}\\{dx / 1e5}", "refused"),
    }
    for what, (text, expect) in spacings.items():
        yield made(f"types: PixelSpacing with {what}", expect, rng,
                   put_raw("PixelSpacing", text.encode()), base=base)  # fmt: skip
    floats = np.array([dy, dx])
    yield made("types: PixelSpacing as FD", "right", rng,
               put_raw("PixelSpacing", floats.tobytes(), "FD"), base=base)  # fmt: skip
    yield made("types: PixelSpacing as LO", "right", rng,
               put_raw("PixelSpacing", f"{dy}\\{dx}".encode(), "LO"), base=base)  # fmt: skip

    def place(form: Callable[[np.ndarray], bytes], vr: str = "") -> Each:
        normal = np.cross(base.row, base.column)
        return lambda one, k: raw(
            one, "ImagePositionPatient", form(base.origin + base.along[k] * normal), vr
        )

    places: dict[str, tuple[Each, str]] = {
        "as FL": (place(lambda mm: mm.astype("<f4").tobytes(), "FL"), "right"),
        "as FD": (place(lambda mm: mm.astype("<f8").tobytes(), "FD"), "right"),
        "with commas": (
            place(lambda mm: "\\".join(f"{v:.6f}" for v in mm).replace(".", ",").encode()),
            "refused",
        ),
        "too long": (place(lambda mm: "\\".join(f"{v:.20f}" for v in mm).encode()), "right"),
        "of two numbers": (place(lambda mm: "\\".join(f"{v:.6f}" for v in mm[:2]).encode()),
                           "refused"),
        "of four numbers": (place(lambda mm: b"1\\" + "\\".join(map(str, mm)).encode()), "refused"),
        "rounded": (place(lambda mm: "\\".join(f"{v:.2f}" for v in mm).encode()), "right"),
        "far away": (put("ImagePositionPatient", [1e6, 0, 0]), "refused"),
        "the same in all": (put("ImagePositionPatient", [1, 2, 3]), "refused"),
    }  # fmt: skip
    for what, (edit, expect) in places.items():
        yield made(f"types: ImagePositionPatient {what}", expect, rng, edit, base=base)
    for what, text, expect in (("a point", b"1.", "right"), ("a plus", b"+1", "right"),
                               ("spaces", b"  1  ", "right"), ("zeros", b"1." + b"0" * 30, "right"),
                               ("two numbers", b"1\\1", "refused"), ("zero", b"0", "refused"),
                               ("a comma", b"1,0", "refused")):  # fmt: skip
        yield made(f"types: RescaleSlope with {what}", expect, rng, put_raw("RescaleSlope", text))
    for text, expect in ((b"-1024.000000", "right"), (b" -1.024E+03", "right"),
                         (b"-1024,0", "refused"), (b"-1024 HU", "refused"),
                         (b"-1024\\0", "refused"), (b"-2e9", "refused")):  # fmt: skip
        yield made(f"types: RescaleIntercept {text.decode()}", expect, rng,
                   put_raw("RescaleIntercept", text))  # fmt: skip
    yield made("types: InstanceNumber with decimals", "right", rng,
               lambda one, k: raw(one, "InstanceNumber", f"{k}.5".encode()))  # fmt: skip
    yield made("types: InstanceNumber too large", "right", rng,
               lambda one, k: raw(one, "InstanceNumber", f"{10**14 + k}".encode()))  # fmt: skip
    for vr, text in (("DS", b"20.0"), ("IS", b"20"), ("LO", b"20"), ("UL", b"\x14\0\0\0")):
        yield made(f"types: Rows as {vr}", "safe", rng, put_raw("Rows", text, vr))
    yield made("types: Rows of two values", "refused", rng, put_raw("Rows", b"\x14\0\x14\0"))
    yield made("types: Rows as a fraction", "refused", rng, put_raw("Rows", b"19.5", "DS"))
    yield made("types: PixelRepresentation 2", "refused", rng, put("PixelRepresentation", 2))

    def series(text: str) -> Callable[[Any, int], None]:
        return lambda one, k: raw(
            one, "SeriesInstanceUID", (cases.SERIES + text * (k % 2)).encode()
        )

    for what, text, expect in (("nulls", "\0\0\0", "right"), ("spaces", "  ", "right"),
                               ("a line end", "\r\n", "safe"), ("a tab", "\t", "safe")):  # fmt: skip  # noqa: E501
        yield made(f"types: SeriesInstanceUID with {what} in half", expect, rng, series(text))
    yield made("types: SOPClassUID with nulls", "right", rng,
               put_raw("SOPClassUID", uid.CTImageStorage.encode() + b"\0\0\0"))  # fmt: skip
    for text in (b" CT ", b"CT\0\0"):
        yield made(f"types: Modality {text!r}", "right", rng, put_raw("Modality", text))
    yield made("types: Modality ct", "safe", rng, put_raw("Modality", b"ct"))
    yield made("types: Modality of two", "safe", rng, put_raw("Modality", b"CT\\PT"))
    yield made("types: MONOCHROME2 with nulls", "right", rng,
               put_raw("PhotometricInterpretation", b"MONOCHROME2\0"))  # fmt: skip
    yield made("types: monochrome2", "safe", rng,
               put_raw("PhotometricInterpretation", b"monochrome2"))  # fmt: skip
    for charset in (b"ISO_IR 100", b"ISO 2022 IR 87", b"GB18030", b"UTF-8", b"nonsense", b"\\"):
        yield made(f"types: character set {charset!r}", "right", rng, lambda one, _, c=charset: (
            raw(one, "SpecificCharacterSet", c), raw(one, "PatientName", b"\xc4\x81\x30\x81"),
            raw(one, "SeriesDescription", b"\x1b$B\xff\n")))  # fmt: skip


def renamed(name: Callable[[int], str]) -> Callable[[Files], Files]:
    return lambda files: {name(k): data for k, data in enumerate(files.values())}


def zipped(prefix: str) -> Callable[[Files], Files]:
    def pack(files: Files) -> Files:
        target = io.BytesIO()
        with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
            for name, data in files.items():
                archive.writestr(prefix + name, data)
        return {"ct.zip": target.getvalue()}

    return pack


def _files(rng: np.random.Generator) -> Iterator[Variant]:
    """Names, folders, packing, encodings, damage."""
    names: dict[str, Callable[[int], str]] = {
        "no extension": lambda k: f"IM{k:06d}",
        ".IMA": lambda k: f"CT.{k}.IMA",
        "dots": lambda k: f"1.2.840.{k}",
        "upper case": lambda k: f"{k}.DCM",
        "folders": lambda k: f"S{k // 3}/I{k}",
        "odd characters": lambda k: f"sl ice #{k} ä%.dcm",
        "another ending": lambda k: f"{k}.nii.txt",
    }
    for what, name in names.items():
        yield made(f"files: {what}", "right", rng, files=renamed(name))
    yield made("files: ZIP", "right", rng, files=zipped(""))
    yield made("files: ZIP with folders", "right", rng, files=zipped("a/b/"))
    yield made("files: ZIP, cut", "refused", rng,
               files=lambda f: {n: d[: len(d) // 2] for n, d in zipped("")(f).items()})  # fmt: skip
    directory = Dataset()
    directory.SOPClassUID = "1.2.840.10008.1.3.10"
    media = cases.image(np.zeros((2, 2), np.uint16), tags={"SOPClassUID": "1.2.840.10008.1.3.10"})
    for keyword in ("SeriesInstanceUID", "Modality", "Rows"):
        delattr(media, keyword)
    index = encoded(media)
    extra: dict[str, tuple[Files, str]] = {
        "a DICOMDIR": ({"DICOMDIR": index}, "right"),
        "a text": ({"README.txt": b"text"}, "note"),
        "hidden files": ({"._000.dcm": b"x", ".DS_Store": b"y"}, "right"),
        "an empty .dcm": ({"z.dcm": b""}, "refused"),
        "a false .dcm": ({"z.dcm": b"something else" * 40}, "refused"),
    }
    for what, (more, expect) in extra.items():
        yield made(f"files: beside {what}", expect, rng, files=lambda f, m=more: f | m)
    yield made("files: all twice", "note", rng,
               files=lambda f: f | {f"copy/{n}": d for n, d in f.items()})  # fmt: skip
    # encodings
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRBigEndian,
                   uid.DeflatedExplicitVRLittleEndian):  # fmt: skip
        yield made(f"encoding: {syntax.name}", "right", rng, syntax=syntax)
    for syntax in (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian):
        yield made(f"encoding: {syntax.name} without preamble", "right", rng, syntax=syntax,
                   bare=True)  # fmt: skip
        yield made(f"encoding: {syntax.name} and group 2, no preamble", "right", rng, syntax=syntax,
                   data=lambda d: d[132:])  # fmt: skip
    yield made("encoding: big endian without preamble", "safe", rng, bare=True,
               syntax=uid.ExplicitVRBigEndian)  # fmt: skip
    yield made("encoding: two syntaxes in one series", "right", rng,
               data=lambda d: d[132:], only=3)  # fmt: skip
    yield made("encoding: group lengths", "right", rng, data=group_lengths)
    yield made("encoding: a preamble of a TIFF", "right", rng,
               data=lambda d: b"II*\0" + b"\x08\x01" * 62 + d[128:])  # fmt: skip
    yield made("encoding: group 2 of a wrong length", "safe", rng,
               data=lambda d: d[:140] + b"\x07\0\0\0" + d[144:])  # fmt: skip
    swaps = {
        "explicit said to be implicit": (uid.ExplicitVRLittleEndian, uid.ImplicitVRLittleEndian),
        "implicit said to be explicit": (uid.ImplicitVRLittleEndian, uid.ExplicitVRLittleEndian),
        "little said to be big": (uid.ExplicitVRLittleEndian, uid.ExplicitVRBigEndian),
        "big said to be little": (uid.ExplicitVRBigEndian, uid.ExplicitVRLittleEndian),
        "plain said to be deflated": (uid.ExplicitVRLittleEndian,
                                      uid.DeflatedExplicitVRLittleEndian),
        "plain said to be JPEG": (uid.ExplicitVRLittleEndian, uid.JPEGLosslessSV1),
        "plain said to be RLE": (uid.ExplicitVRLittleEndian, uid.RLELossless),
        "plain said to be private": (uid.ExplicitVRLittleEndian, "1.2.840.113619.5.2"),
        "plain said to be unknown": (uid.ExplicitVRLittleEndian, "1.2.3.4"),
    }  # fmt: skip
    for what, (true, said) in swaps.items():
        yield made(f"encoding: {what}", "safe", rng, syntax=true, data=restated(true, said))
    yield made("encoding: no TransferSyntaxUID", "safe", rng,
               data=restated(uid.ExplicitVRLittleEndian, ""))  # fmt: skip
    for packed in (uid.RLELossless, uid.JPEGLSLossless):
        yield made(f"encoding: {packed.name}", "right", rng, syntax=packed,
                   each=lambda one, _, s=packed: one.compress(s, generate_instance_uid=False))  # fmt: skip  # noqa: E501
        yield made(f"encoding: {packed.name}, cut", "refused", rng, syntax=packed, only=2,
                   data=lambda d: d[:-200],
                   whole=lambda s, p=packed: [o.compress(p, generate_instance_uid=False) or o
                                              for o in s])  # fmt: skip
    # damage
    yield made("damage: a trailing element", "right", rng,
               data=lambda d: d + b"\xfc\xff\xfc\xffOB\0\0\x04\0\0\0\0\0\0\0")  # fmt: skip
    yield made("damage: zeros behind", "safe", rng, data=lambda d: d + bytes(512))
    yield made("damage: text behind", "safe", rng, data=lambda d: d + b"end of file\r\n" * 9)
    for part in (0.1, 0.35, 0.5, 0.7, 0.9, 0.99):
        yield made(f"damage: cut at {part}", "refused", rng, only=int(rng.integers(8)),
                   data=lambda d, p=part: d[: int(p * len(d))])  # fmt: skip
    for _ in range(8):
        at = float(rng.uniform(0, 0.4))
        noise = rng.bytes(int(rng.integers(8, 64)))
        yield made("damage: overwritten", "safe", rng, only=int(rng.integers(1, 7)),
                   data=lambda d, a=int(at * 1000), n=noise: d[: 380 + a] + n
                   + d[380 + a + len(n):])  # fmt: skip


def restated(true: str, said: str) -> Callable[[bytes], bytes]:
    """Name another transfer syntax in the file meta information."""

    def edit(data: bytes) -> bytes:
        at = data.index(b"\x02\0\x10\0UI")
        size = int.from_bytes(data[at + 6 : at + 8], "little")
        value = said.encode() + b"\0" * (len(said) % 2)
        element = data[at : at + 6] + len(value).to_bytes(2, "little") + value if said else b""
        whole = int.from_bytes(data[140:144], "little") + len(element) - 8 - size
        return data[:140] + whole.to_bytes(4, "little") + data[144:at] + element + data[at + 8 + size :]  # fmt: skip  # noqa: E501

    return edit


def _geometry(rng: np.random.Generator) -> Iterator[Variant]:
    """Orders, directions, gaps, duplicates."""
    for kind in ("axial", "coronal", "sagittal", "oblique"):
        for _ in range(4):
            yield made(f"geometry: {kind}", "right", rng, base=right(rng, kind))
    base = right(rng)
    step = abs(base.along[1])

    def moved(along: np.ndarray) -> Right:
        return Right(base.hu, base.origin, base.row, base.column, base.spacing, along)

    lengths: dict[str, tuple[np.ndarray, str]] = {
        "jitter below 0.01 mm": (base.along + rng.uniform(-0.004, 0.004, 8), "right"),
        "jitter of 15 %": (base.along + step * np.array([0, 0, 0.15, 0, 0, -0.15, 0, 0]),
                           "refused"),
        "a gap of 1.5": (base.along + step * 0.5 * (np.arange(8) > 4) * np.sign(base.along[1]),
                         "refused"),
        "steps that grow": (base.along * (1 + 0.1 * np.arange(8)), "refused"),
    }  # fmt: skip
    for what, (along, expect) in lengths.items():
        yield made(f"geometry: {what}", expect, rng, base=moved(along),
                   truth=base if expect == "right" else None)  # fmt: skip
    yield made("geometry: a missing slice", "refused", rng, whole=lambda s: s[:4] + s[5:])
    yield made("geometry: two missing slices", "refused", rng, whole=lambda s: s[:2] + s[4:])
    cut = Right(base.hu[..., :-1], base.origin, base.row, base.column, base.spacing,
                base.along[:-1])  # fmt: skip
    yield made("geometry: the last is missing", "right", rng, base=base, whole=lambda s: s[:-1],
               truth=cut)  # fmt: skip
    half = Right(base.hu[..., ::2], base.origin, base.row, base.column, base.spacing,
                 base.along[::2])  # fmt: skip
    thin = {"SliceThickness": step}
    yield made("geometry: every second is missing", "note", rng, base=base, truth=half,
               whole=lambda s: s[::2], **thin)  # fmt: skip
    yield made("geometry: a slice twice", "note", rng, whole=lambda s: [*s, s[3]])

    def other(slices: list[Any]) -> list[Any]:
        twin = pydicom.dcmread(io.BytesIO(encoded(slices[3])))
        twin.PixelData = slices[4].PixelData
        twin.InstanceNumber = 99
        return [*slices, twin]

    yield made("geometry: two images at one place", "refused", rng, whole=other)
    yield made("geometry: one shifted sideways", "refused", rng, base=base, only=4,
               each=lambda one, k: put("ImagePositionPatient", [
                   f"{v:.6f}" for v in base.origin + base.along[k] * np.cross(base.row, base.column)
                   + 3 * base.row])(one, k))  # fmt: skip
    yield made("geometry: tilted", "refused", rng, base=base, each=lambda one, k: put(
        "ImagePositionPatient", [f"{v:.6f}" for v in base.origin + base.along[k]
                                 * (np.cross(base.row, base.column) + 0.3 * base.column)])(one, k))  # fmt: skip  # noqa: E501
    yield made("geometry: one of another spacing", "refused", rng, put("PixelSpacing", [2, 2]),
               only=5)  # fmt: skip
    yield made("geometry: one turned by 3 degrees", "refused", rng, base=right(rng, "axial"),
               only=3, each=put("ImageOrientationPatient", [0.99863, 0.05234, 0, -0.05234, 0.99863,
                                                            0]))  # fmt: skip
    flipped = right(rng, "axial")
    lps = [float(v) for v in (*-flipped.row, *flipped.column)]
    yield made("geometry: one mirrored", "refused", rng, base=flipped, only=3,
               each=put("ImageOrientationPatient", lps))  # fmt: skip
    for what, bad in (("parallel", [1, 0, 0, 1, 0, 0]), ("zero", [0] * 6), ("not unit", [2, 0, 0, 0,
                      2, 0]), ("skewed", [1, 0, 0, 0.3, 0.95, 0])):  # fmt: skip
        yield made(f"geometry: directions {what}", "refused", rng,
                   put("ImageOrientationPatient", bad))  # fmt: skip
    yield made("geometry: directions rounded", "right", rng, base=right(rng, "oblique"),
               each=lambda one, _: put("ImageOrientationPatient", [
                   f"{float(v):.6f}" for v in one.ImageOrientationPatient])(one, 0))  # fmt: skip
    for count in (1, 2):
        yield made(f"geometry: only {count}", "refused", rng, whole=lambda s, c=count: s[:c])
    # passes
    for keyword, values in (("AcquisitionNumber", (1, 2)), ("TemporalPositionIdentifier", (1, 2)),
                            ("ContentTime", ("120000", "120100")), ("KVP", (80, 140)),
                            ("ConvolutionKernel", ("B30f", "B70f")), ("EchoNumbers", (1, 2)),
                            ("PatientID", ("a", "b")), ("FrameOfReferenceUID", ("1.2", "1.3")),
                            ("SliceThickness", (1, 3))):  # fmt: skip
        yield made(f"passes: {keyword} in turn", "refused", rng,
                   lambda one, k, w=keyword, v=values: setattr(one, w, v[k % 2]))  # fmt: skip
        if keyword in ("KVP", "ConvolutionKernel", "PatientID", "FrameOfReferenceUID"):
            yield made(f"passes: {keyword} by halves", "told", rng,
                       lambda one, k, w=keyword, v=values: setattr(one, w, v[k // 4]))  # fmt: skip
    yield made("passes: stations", "right", rng,
               lambda one, k: setattr(one, "AcquisitionNumber", 1 + k // 4))  # fmt: skip
    yield made("passes: a series for each slice", "refused", rng,
               lambda one, k: setattr(one, "SeriesInstanceUID", f"{cases.SERIES}.{k}"))  # fmt: skip
    yield made("passes: two series", "refused", rng,
               lambda one, k: setattr(one, "SeriesInstanceUID", f"{cases.SERIES}.{k // 4}"))  # fmt: skip  # noqa: E501
    yield made("passes: all one InstanceNumber", "right", rng, put("InstanceNumber", 1))


def _words(edit: Callable[[np.ndarray], np.ndarray]) -> Each:
    def change(one: Any, _: int) -> None:
        words = edit(np.frombuffer(one.PixelData, np.uint16).copy())
        one.PixelData = words.astype(np.uint16).tobytes()
        one["PixelData"].VR = "OW"

    return change


def _pixels(rng: np.random.Generator) -> Iterator[Variant]:
    """How values are stored."""
    twelve = {"BitsStored": 12, "HighBit": 11}
    for stored, tags in (("16", {}), ("12", twelve)):
        yield made(f"pixels: unsigned of {stored} bits", "right", rng, **tags)
        yield made(f"pixels: signed of {stored} bits", "right", rng, RescaleIntercept=0, **tags)
        yield made(f"pixels: unsigned of {stored} bits said to be signed", "right", rng,
                   PixelRepresentation=1, RescaleIntercept=-1024, **tags
                   | ({"BitsStored": 13, "HighBit": 12} if tags else {}))  # fmt: skip
    yield made("pixels: signed of 12 bits without sign extension", "right", rng,
               _words(lambda w: w & 0xFFF), RescaleIntercept=0, **twelve)  # fmt: skip
    yield made("pixels: bits above, overlays", "right", rng,
               lambda one, _: (_words(lambda w: w | (w & 7 == 0) * np.uint16(0x1000))(one, 0),
                               one.add_new(0x60000102, "US", 12)), **twelve)  # fmt: skip
    yield made("pixels: bits above, one voxel", "note", rng,
               _words(lambda w: w | (np.arange(480) == 7) * np.uint16(0x8000)), **twelve)  # fmt: skip  # noqa: E501
    yield made("pixels: more bits than stated", "refused", rng, BitsStored=8, HighBit=7)
    yield made("pixels: HighBit in the middle", "refused", rng, **twelve | {"HighBit": 15})
    base = right(rng)
    for what, factor in (("2", 2.0), ("0.5", 0.5), ("-1", -1.0)):
        hu = base.hu.astype(np.float64)
        truth = Right((hu + 1024) * factor - 1000, base.origin, base.row, base.column,
                      base.spacing, base.along)  # fmt: skip
        yield made(f"pixels: a slope of {what}", "right", rng, base=base, truth=truth,
                   each=lambda one, _, f=factor: (put("RescaleSlope", f)(one, 0),
                                                  put("RescaleIntercept", -1000)(one, 0)))  # fmt: skip  # noqa: E501
    k = np.arange(8)
    own = Right((base.hu + 1024) * (1 + 0.25 * k) - 1024 + 8 * k, base.origin, base.row,
                base.column, base.spacing, base.along)  # fmt: skip
    yield made("pixels: a rescale for each slice", "right", rng, base=base, truth=own,
               each=lambda one, k: (put("RescaleSlope", 1 + 0.25 * k)(one, 0),
                                    put("RescaleIntercept", -1024 + 8 * k)(one, 0)))  # fmt: skip
    yield made("pixels: MONOCHROME1", "note", rng, PhotometricInterpretation="MONOCHROME1")
    for what in ("RGB", "PALETTE COLOR", "YBR_FULL"):
        yield made(f"pixels: {what}", "refused", rng, PhotometricInterpretation=what)
    yield made("pixels: three samples", "refused", rng, SamplesPerPixel=3)
    edge = Right(base.hu.copy(), base.origin, base.row, base.column, base.spacing, base.along)
    edge.hu[:4] = -1024
    for value in (-2000, 63536):
        yield made(f"pixels: padding {value}", "note", rng, base=edge, RescaleIntercept=0,
                   each=lambda one, _, v=value: (
                       _words(lambda w: np.where(w == 64512, 63536, w))(one, 0),
                       one.add_new("PixelPaddingValue", "SS" if v < 0 else "US", v)))  # fmt: skip
    yield made("pixels: a padding value that does not occur", "right", rng,
               lambda one, _: one.add_new("PixelPaddingValue", "US", 60000))  # fmt: skip
    yield made("pixels: stored as OB", "right", rng,
               lambda one, _: setattr(one["PixelData"], "VR", "OB"))  # fmt: skip
    yield made("pixels: NumberOfFrames 1", "right", rng, NumberOfFrames=1)
    for frames in (0, 2):
        yield made(f"pixels: NumberOfFrames {frames}", "refused", rng, NumberOfFrames=frames)
    for more, expect in ((-40, "refused"), (-2, "refused"), (2, "right"), (40, "refused")):
        yield made(f"pixels: {more:+} bytes", expect, rng, lambda one, _, m=more: setattr(
            one, "PixelData", one.PixelData[:m] if m < 0 else one.PixelData + bytes(m)))  # fmt: skip  # noqa: E501
    yield made("pixels: more rows", "refused", rng, put("Rows", 21))
    yield made("pixels: one of other rows", "refused", rng, put("Rows", 19), only=2)
    table = pydicom.Sequence([Dataset()])
    yield made("pixels: a Modality LUT", "refused", rng, ModalityLUTSequence=table)
    yield made("pixels: floats", "refused", rng, lambda one, _: (
        one.add_new(0x7FE00008, "OF", np.zeros(480, "<f4").tobytes()),
        one.pop(Tag("PixelData"))))  # fmt: skip
    yield made("pixels: two sorts", "refused", rng, put("BitsAllocated", 8))


def _statements(rng: np.random.Generator) -> Iterator[Variant]:
    """What repeats the positions and the pixel spacing."""
    base = right(rng, "axial")
    dx, dy, step = base.spacing
    sign = float(np.sign(base.along[1]))
    high = {"base": base}
    said: list[tuple[str, Any, str]] = [
        ("SpacingBetweenSlices", step, "right"),
        ("SpacingBetweenSlices", -step, "right"),
        ("SpacingBetweenSlices", step * 1.03, "note"),
        ("SpacingBetweenSlices", step * 2, "note"),
        ("SpacingBetweenSlices", 0, "safe"),
        ("SliceThickness", step * 2, "right"),
        ("SliceThickness", step / 2, "note"),
        ("SliceThickness", 0, "safe"),
        ("ReconstructionDiameter", 24 * dx, "right"),
        ("ReconstructionDiameter", 24 * dx * 1.2 + 5, "note"),
        ("ImagerPixelSpacing", [dy, dx], "right"),
        ("ImagerPixelSpacing", [dy, dx * 1.5], "note"),
        ("ImagerPixelSpacing", [dy * 1.5, dx], "note"),
        ("NominalScannedPixelSpacing", [dy, dx * 0.8], "note"),
        ("PixelAspectRatio", [1, 1], "note"),
        ("PixelAspectRatio", [round(1000 * dy), round(1000 * dx)], "right"),
        ("PatientPosition", "HFS", "safe"),
        ("GantryDetectorTilt", 0, "right"),
        ("GantryDetectorTilt", 12, "note"),
    ]
    for keyword, value, expect in said:
        shown = value if isinstance(value, str) else np.round(value, 2)
        yield made(f"statements: {keyword} {shown}", expect, rng, put(keyword, value), **high)
    for what, scale, expect in (("same", sign, "right"), ("other way", -sign, "right"),
                                ("twice", 2 * sign, "note")):  # fmt: skip
        yield made(f"statements: SliceLocation {what}", expect, rng, base=base,
                   each=lambda one, k, s=scale: setattr(one, "SliceLocation",
                                                        f"{s * k * step:.4f}"))  # fmt: skip
    order = [0, 3, 1, 2, 5, 4, 7, 6]
    yield made("statements: SliceLocation in another order", "note", rng, base=base,
               each=lambda one, k: setattr(one, "SliceLocation", order[k]))  # fmt: skip
    for position in ("HFS", "FFS", "HFP"):
        for row, column in (((1, 0, 0), (0, 1, 0)), ((-1, 0, 0), (0, 1, 0))):
            turned = Right(base.hu, base.origin, np.array(row, float), np.array(column, float),
                           base.spacing, base.along)  # fmt: skip
            yield made(f"statements: {position} along {row}", "right" if row[0] > 0 else "note",
                       rng, base=turned, PatientPosition=position)  # fmt: skip
    yield made("statements: a concatenation, whole", "refused", rng, lambda one, k: (
        setattr(one, "ConcatenationUID", "1.2.3"), setattr(one, "InConcatenationNumber", k + 1),
        setattr(one, "InConcatenationTotalNumber", 9)))  # fmt: skip


def _enhanced(rng: np.random.Generator) -> Iterator[Variant]:
    """Multi-frame: shared and per-frame groups."""

    def many(
        what: str,
        expect: str,
        edit: Callable[[Any], None] | None = None,
        own: bool | None = None,
        base: Right | None = None,
        made_of: Callable[[list[Any]], Sequence[Any]] = list,
        truth: Right | None = None,
    ) -> Variant:
        base = base or right(rng)
        order = rng.permutation(len(base.along))
        own = bool(rng.integers(2)) if own is None else own
        name = ("IM0001", "a.dcm")[rng.integers(2)]

        def build() -> Files:
            images = base.images()
            one = cases.enhanced(made_of([images[k] for k in order]), own)
            shared(one).PixelMeasuresSequence[0].SliceThickness = base.spacing[2]
            if edit:
                edit(one)
            return {name: encoded(one)}

        truth = truth or base
        return Folder(f"enhanced: {what}", expect, truth.hu, truth.affine, {}, build=build)

    def frames(one: Any) -> list[Any]:
        return list(one.PerFrameFunctionalGroupsSequence)

    def shared(one: Any) -> Any:
        return one.SharedFunctionalGroupsSequence[0]

    def to_frames(keyword: str, count: int | None = None, change: Each | None = None) -> Any:
        """Move a shared group into the frames (or some), changed in one if asked for."""

        def edit(one: Any) -> None:
            group = shared(one)[keyword]
            del shared(one)[keyword]
            for k, frame in enumerate(frames(one)[:count]):
                item = deepcopy(group.value[0])
                if change:
                    change(item, k)
                setattr(frame, keyword, pydicom.Sequence([item]))

        return edit

    def both(keyword: str, change: Each | None = None) -> Any:
        """A group in the frames and for all."""

        def edit(one: Any) -> None:
            group = shared(one)[keyword]
            to_frames(keyword, None, change)(one)
            shared(one).add(group)

        return edit

    for _ in range(8):
        yield many("any", "right")
    groups = ("PlaneOrientationSequence", "PixelMeasuresSequence")
    values = "PixelValueTransformationSequence"
    for keyword in groups:
        yield many(f"{keyword} in each frame", "right", to_frames(keyword))
        yield many(f"{keyword} in some frames", "refused", to_frames(keyword, 5))
        yield many(f"{keyword} in both", "right", both(keyword))
        yield many(f"no {keyword}", "refused", to_frames(keyword, 0))
    yield many(f"{values} in both", "right", both(values), own=False)
    base = right(rng)
    stored = replace(base, hu=base.hu + 1024)
    yield many(f"no {values}", "note", to_frames(values, 0), own=False, base=base, truth=stored)
    yield many(f"{values} in some frames", "refused", to_frames(values, 4), own=False)
    changes: dict[str, tuple[str, Each]] = {
        "another spacing": (groups[1], put("PixelSpacing", [3, 3])),
        "another orientation": (groups[0], put("ImageOrientationPatient", [0, 0, 1, 0, 1, 0])),
        "another slope": (values, put("RescaleSlope", 2)),
        "another intercept": (values, put("RescaleIntercept", 0)),
    }
    for what, (keyword, change) in changes.items():
        yield many(f"{what} in both", "refused", both(keyword, change), own=False)
        if keyword != values:
            yield many(f"{what} in one", "refused", to_frames(
                keyword, None, lambda item, k, c=change: c(item, k) if k == 3 else None))  # fmt: skip  # noqa: E501

    def top(one: Any) -> None:
        for keyword in groups:
            one.update(shared(one)[keyword].value[0])
            del shared(one)[keyword]

    def at_frame(keyword: str | None, which: Sequence[int], value: Any = None) -> Any:
        def edit(one: Any) -> None:
            for k in which:
                frame = frames(one)[k]
                if keyword:
                    frame.pop(Tag(keyword))
                else:
                    frame.clear()

        return edit

    yield many("geometry at the top", "right", top)
    yield many("a position missing", "refused", at_frame("PlanePositionSequence", [3]))
    yield many("all positions missing", "refused", at_frame("PlanePositionSequence", range(8)))
    yield many("no frame content", "right", at_frame("FrameContentSequence", range(8)))
    yield many("an empty frame", "refused", at_frame(None, [2]), own=True)
    yield many("a slope missing in one", "refused", at_frame(values, [3]), own=True)
    yield many("no shared groups", "refused",
               lambda one: one.pop(Tag("SharedFunctionalGroupsSequence")))  # fmt: skip
    yield many("no per-frame groups", "refused",
               lambda one: one.pop(Tag("PerFrameFunctionalGroupsSequence")))  # fmt: skip
    for count in (7, 9, 0, 80000):
        yield many(f"{count} frames stated", "refused", put_frames(count))
    yield many("frames stated as text", "right", lambda one: raw(one, "NumberOfFrames", b" 8 "))
    yield many("no NumberOfFrames", "refused", lambda one: one.pop(Tag("NumberOfFrames")))
    yield many("pixels cut", "refused", lambda one: setattr(one, "PixelData", one.PixelData[:-99]))
    yield many("pixels of one frame more", "refused",
               lambda one: setattr(one, "PixelData", one.PixelData + bytes(960)))  # fmt: skip
    yield many("Legacy Converted", "right",
               lambda one: setattr(one, "SOPClassUID", "1.2.840.10008.5.1.4.1.1.2.2"))  # fmt: skip
    yield many("RLE", "right", None, made_of=list)

    def private(one: Any) -> None:
        for frame in frames(one):
            item = Dataset()
            item.PixelSpacing, item.RescaleSlope = [9, 9], 7
            frame.add_new(0x00090010, "LO", "VENDOR")
            frame.add_new(0x00091001, "SQ", pydicom.Sequence([item]))

    yield many("a private group", "right", private)

    def stacks(one: Any) -> None:
        for k, frame in enumerate(frames(one)):
            frame.FrameContentSequence[0].StackID = str(1 + k % 2)

    def localiser(one: Any) -> None:
        for frame in frames(one):
            item = Dataset()
            item.FrameType = ["ORIGINAL", "PRIMARY", "LOCALIZER", "NONE"]
            frame.CTImageFrameTypeSequence = pydicom.Sequence([item])

    base = right(rng)
    yield many("phases", "refused", base=base, made_of=lambda s: [*s, *[
        put("TemporalPositionIndex", 2)(o, 0) or o for o in right_like(base, rng).images()]])  # fmt: skip  # noqa: E501
    yield many("two stacks in turn", "refused", stacks, base=base,
               made_of=lambda s: sorted(s, key=lambda o: o.InstanceNumber))  # fmt: skip
    yield many("all localisers", "refused", localiser)
    yield many("a frame missing", "refused", base=base,
               made_of=lambda s: [o for o in s if o.InstanceNumber != 4])  # fmt: skip
    yield many("a frame twice", "note", base=base, made_of=lambda s: [*s, s[3]])
    yield many("half of a concatenation", "refused", lambda one: (
        setattr(one, "ConcatenationUID", "1.2.3"), setattr(one, "InConcatenationNumber", 1),
        setattr(one, "InConcatenationTotalNumber", 2)))  # fmt: skip
    yield many("a whole concatenation of one", "right", lambda one: (
        setattr(one, "ConcatenationUID", "1.2.3"), setattr(one, "InConcatenationNumber", 1),
        setattr(one, "InConcatenationTotalNumber", 1)))  # fmt: skip
    yield many("IPP at the top, another", "right",
               lambda one: setattr(one, "ImagePositionPatient", [1, 2, 3]))  # fmt: skip


def right_like(base: Right, rng: np.random.Generator) -> Right:
    """The same geometry with other values."""
    hu = cases.phantom(SHAPE, 2000 + int(rng.integers(1000)))
    return Right(hu, base.origin, base.row, base.column, base.spacing, base.along)


def put_frames(count: int) -> Callable[[Any], None]:
    return lambda one: setattr(one, "NumberOfFrames", count)
