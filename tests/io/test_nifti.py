"""denovox.io.nifti: what a file said comes back exactly; what cannot be read is refused."""

from __future__ import annotations

import gzip
import io
import itertools
import os
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.orientations import aff2axcodes, axcodes2ornt, inv_ornt_aff

from denovox.core import labels
from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.io import gzip_stream, label_maps, nifti, nifti_bytes

SHAPE = (3, 4, 5)
REPOSITORY = Path(__file__).parents[2]
DATA = Path(os.environ.get("DENOVOX_TEST_DATA", REPOSITORY / "../shared/ct"))
AXES = [
    "".join(codes)
    for order in itertools.permutations(("RL", "AP", "SI"))
    for codes in itertools.product(*order)
]


def scene(dtype: str = "<i2") -> np.ndarray:
    """Every voxel another value; as HU, from -1000 up."""
    return (np.arange(60).reshape(SHAPE) * 7 - 1000).astype(dtype)


def place(axes: str = "LPS", mm: tuple[float, ...] = (0.5, 0.5, 5.0)) -> np.ndarray:
    """An affine of these axes; mm are the spacings along the file's axes."""
    affine = inv_ornt_aff(axcodes2ornt(tuple(axes)), SHAPE) @ np.diag([*mm, 1.0])
    affine[:3, 3] = -120.5, 33.25, 700
    return affine


def oblique() -> np.ndarray:
    """Turned by 30 degrees about x, with a negative spacing."""
    c, s = np.cos(np.pi / 6), np.sin(np.pi / 6)
    turn = np.array([[1, 0, 0], [0, c, -s], [0, s, c]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([-0.5, 0.5, 5.0])
    affine[:3, 3] = 10, -20, 30
    return affine


def make(
    path: Path,
    raw: np.ndarray,
    affine: np.ndarray | None = None,
    slope: float = 1,
    inter: float = 0,
    kind: type = nib.Nifti1Image,
    **fields: object,
) -> Path:
    """A file that stores `raw` as it is; `fields` are set in its header."""
    header = kind.header_class(endianness="<" if raw.dtype.isnative else ">")
    header.set_data_dtype(raw.dtype)
    image = kind(raw, place() if affine is None else affine, header)
    image.header.set_slope_inter(slope, inter)  # with a slope given, nibabel stores raw itself
    for name, value in fields.items():
        image.header[name] = value
    nib.save(image, path)
    saved = kind.header_class.from_fileobj(io.BytesIO(content(path)), check=False)
    for name, value in fields.items():
        np.testing.assert_equal(saved[name].item(), value)  # nibabel may have changed its mind
    return path


def content(path: Path) -> bytes:
    """A file's bytes, unpacked."""
    data = path.read_bytes()
    return gzip.decompress(data) if path.name.endswith(".gz") else data


def patch(path: Path, offset: int, form: str, *values: float) -> Path:
    """Overwrite bytes of an unpacked file."""
    data = bytearray(path.read_bytes())
    struct.pack_into(form, data, offset, *values)
    path.write_bytes(data)
    return path


# ---- there and back -----------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("axes", AXES)
def test_every_orientation_keeps_every_voxel_in_its_place(tmp_path: Path, axes: str) -> None:
    raw, affine = scene(), place(axes)
    path = make(tmp_path / "ct.nii", raw, affine)
    volume = nifti.read(path)
    assert "".join(aff2axcodes(volume.affine)) == "RAS"
    assert volume.hu.flags.c_contiguous
    for index in np.ndindex(*SHAPE):
        where = affine[:3, :3] @ index + affine[:3, 3]
        here = np.argwhere(volume.hu == raw[index])
        assert here.shape == (1, 3)
        np.testing.assert_allclose(volume.affine[:3, :3] @ here[0] + volume.affine[:3, 3], where)
    nifti.write(volume, tmp_path / "back.nii")
    assert content(tmp_path / "back.nii") == content(path)


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("scale", [(1, 0), (1, -1024), (0.1, -1000.7), (-2, 3)])
@pytest.mark.parametrize(
    "dtype", ["<i2", "<u2", "<i4", "<f4", "<f8", ">i2", ">u2", ">i4", ">f4", ">f8"]
)
def test_untouched_is_written_back_bit_for_bit(
    tmp_path: Path, dtype: str, scale: tuple[float, float], suffix: str
) -> None:
    raw = (np.arange(60).reshape(SHAPE) * (1 if "u" in dtype else -1) * 997).astype(dtype)
    if dtype[1] == "f":
        raw += np.random.default_rng(1).normal(size=SHAPE).astype(dtype)
        raw[0, 0, 0] = -0.0
    if dtype[1:] == "i4":
        raw[0, 0, 0], raw[0, 0, 1] = 2**24 + 1, 2**31 - 1  # float32 cannot hold them
    path = make(tmp_path / f"ct{suffix}", raw, oblique(), *scale)
    assert np.array_equal(nib.load(path).dataobj.get_unscaled(), raw)  # the fixture is what it says
    volume = nifti.read(path)
    assert volume.hu.dtype == (np.float64 if dtype[1:] == "f8" else np.float32)
    expected = nib.as_closest_canonical(nib.load(path))
    np.testing.assert_allclose(volume.hu, expected.get_fdata(), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-12)
    nifti.write(volume, tmp_path / f"back{suffix}")
    assert content(tmp_path / f"back{suffix}") == content(path)
    # HU in double precision, as a task may compute them, are no change either.
    nifti.write(volume.with_hu(volume.hu.astype(np.float64)), tmp_path / f"wide{suffix}")
    assert content(tmp_path / f"wide{suffix}") == content(path)


def test_int16_with_slope_1_is_exact_in_hu(tmp_path: Path) -> None:
    raw = np.arange(-(2**15), 2**15, dtype="<i2").reshape(32, 32, 64)
    volume = nifti.read(make(tmp_path / "ct.nii", raw, np.eye(4)))
    assert np.array_equal(volume.hu, raw)


@pytest.mark.parametrize(
    ("affine", "fields"),
    [
        (place("LPS"), {"qform_code": 2, "sform_code": 0}),
        (oblique(), {"qform_code": 1, "sform_code": 3}),
        (place("SRP"), {"qform_code": 0, "sform_code": 4}),
        (oblique(), {"descrip": b"a scanner", "intent_code": 1001, "cal_max": 300, "toffset": 2}),
        (oblique(), {"xyzt_units": 10, "scl_slope": 0, "aux_file": b"x", "slice_code": 3}),
        (oblique(), {"xyzt_units": 0}),
    ],
)
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_the_whole_header_comes_back(
    tmp_path: Path, affine: np.ndarray, fields: dict[str, object], kind: type
) -> None:
    path = make(tmp_path / "ct.nii", scene(), affine, kind=kind, **fields)
    volume = nifti.read(path)
    nifti.write(volume.with_hu(volume.hu + 1), tmp_path / "back.nii")
    before, after = nib.load(path), nib.load(tmp_path / "back.nii")
    assert type(after) is kind
    assert after.header == before.header
    assert np.array_equal(after.affine, before.affine)
    assert np.array_equal(after.get_fdata(), before.get_fdata() + 1)


@pytest.mark.parametrize(
    ("offset", "values"),
    [(112, (np.nan, np.nan)), (112, (0, 5)), (108, (0,))],
    ids=["slope NaN", "slope 0", "voxel offset unset"],
)
def test_fields_left_unset_mean_their_defaults(
    tmp_path: Path, offset: int, values: tuple[float, ...]
) -> None:
    path = patch(make(tmp_path / "ct.nii", scene()), offset, f"<{len(values)}f", *values)
    volume = nifti.read(path)
    assert np.array_equal(volume.hu, scene()[::-1, ::-1, :])
    nifti.write(volume, tmp_path / "back.nii")
    assert content(tmp_path / "back.nii") == content(path)


def test_the_content_decides_whether_it_is_packed(tmp_path: Path) -> None:
    path = make(tmp_path / "ct.nii", scene())
    expected = nifti.read(path).hu
    packed = squeezed(path)
    assert np.array_equal(nifti.read(packed.rename(tmp_path / "packed.nii")).hu, expected)


def test_extensions_and_a_fourth_axis_of_one_come_back(tmp_path: Path) -> None:
    image = nib.Nifti1Image(scene()[..., None], place())
    image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"from the scanner"))
    nib.save(image, tmp_path / "ct.nii.gz")
    volume = nifti.read(tmp_path / "ct.nii.gz")
    assert volume.shape == SHAPE
    nifti.write(volume, tmp_path / "back.nii.gz")
    assert content(tmp_path / "back.nii.gz") == content(tmp_path / "ct.nii.gz")


@pytest.mark.parametrize("dtype", ["<i2", "<u2", ">i2", "<i4", "<i8", "<u8", "<f4"])
def test_only_what_changed_is_encoded_anew(tmp_path: Path, dtype: str) -> None:
    raw = np.full(SHAPE, 100, dtype)
    volume = nifti.read(make(tmp_path / "ct.nii", raw, place("LPS"), 2, -1000))
    hu = volume.hu.copy()
    hu[0, 0, 0], hu[1, 0, 0], hu[2, 0, 0] = -792.8, 1e30, -1e30  # RAS corner: file's last x, y
    nifti.write(volume.with_hu(hu), tmp_path / "back.nii")
    back = nib.load(tmp_path / "back.nii").dataobj.get_unscaled()
    expected = raw.copy()
    if dtype == "<f4":
        expected[2, 3, 0], expected[1, 3, 0], expected[0, 3, 0] = 103.6, 5e29, -5e29
        np.testing.assert_allclose(back, expected, rtol=1e-6)
        return
    info = np.iinfo(dtype)
    top = info.max if info.bits < 64 else int(np.nextafter(float(info.max), 0))
    expected[2, 3, 0] = 104  # 103.6
    # HU of +-1e30 leave the range of every integer type.
    expected[1, 3, 0], expected[0, 3, 0] = top, info.min
    assert np.array_equal(back, expected)
    assert back.dtype == np.dtype(dtype)


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_a_volume_that_never_was_a_file(tmp_path: Path, suffix: str) -> None:
    hu = scene("f4") + 0.4
    hu[0, 0, 0], hu[0, 0, 1] = 40000, -40000
    nifti.write(Volume(hu, place("RAS")), tmp_path / f"new{suffix}")
    image = nib.load(tmp_path / f"new{suffix}")
    expected = scene()
    expected[0, 0, 0], expected[0, 0, 1] = 32767, -32768
    assert image.get_data_dtype() == np.int16
    assert np.array_equal(image.get_fdata(), expected)
    assert np.array_equal(image.affine, place("RAS"))
    assert (image.header["sform_code"], image.header["qform_code"]) == (1, 1)
    assert image.header.get_xyzt_units()[0] == "mm"
    assert (image.dataobj.slope, image.dataobj.inter) == (1, 0)
    np.testing.assert_allclose(image.header.get_qform(), place("RAS"), atol=1e-4)
    assert nifti.read(tmp_path / f"new{suffix}").shape == SHAPE


def test_equal_volumes_make_equal_files(tmp_path: Path) -> None:
    for name in ("a.nii.gz", "b.nii.gz"):
        nifti.write(Volume(scene("f4"), np.eye(4)), tmp_path / name)
    assert (tmp_path / "a.nii.gz").read_bytes() == (tmp_path / "b.nii.gz").read_bytes()
    assert (tmp_path / "a.nii.gz").read_bytes()[4:8] == bytes(4)  # no time inside


def test_another_grid_is_not_written_as_the_source(tmp_path: Path) -> None:
    volume = nifti.read(make(tmp_path / "ct.nii", scene()))
    for other in (
        Volume(volume.hu[:, :, 1:], volume.affine, volume.source),
        Volume(volume.hu, volume.affine @ np.diag([1, 1, 2, 1]), volume.source),
    ):
        with pytest.raises(ValueError, match="no longer that of"):
            nifti.write(other, tmp_path / "back.nii")
    assert os.listdir(tmp_path) == ["ct.nii"]


@pytest.mark.parametrize("name", ["limb_STS-003_ct.nii.gz", "abdomen_TSexample_sm_ct.nii.gz"])
def test_real_ct_comes_back_identical(tmp_path: Path, name: str) -> None:
    if not (DATA / name).exists():
        pytest.skip(f"{DATA / name} is not there (set DENOVOX_TEST_DATA)")
    volume = nifti.read(DATA / name)
    nifti.write(volume, tmp_path / "back.nii")
    assert content(tmp_path / "back.nii") == content(DATA / name)
    expected = nib.as_closest_canonical(nib.load(DATA / name))
    assert np.array_equal(volume.hu, expected.get_fdata())
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-9)


def test_real_labels_lie_on_their_ct() -> None:
    ct, seg = (DATA / f"abdomen_TSexample_sm_{kind}.nii.gz" for kind in ("ct", "seg"))
    if not seg.exists():
        pytest.skip(f"{seg} is not there (set DENOVOX_TEST_DATA)")
    image = nib.as_closest_canonical(nib.load(seg))
    assert np.array_equal(label_maps.read_labels(seg, nifti.read(ct)), image.get_fdata())


# ---- refused ------------------------------------------------------------------------------------


def squeezed(path: Path) -> Path:
    packed = path.with_suffix(".nii.gz")
    packed.write_bytes(gzip.compress(path.read_bytes()))
    path.unlink()
    return packed


def flipped(path: Path, at: int) -> Path:
    packed = squeezed(path)
    data = bytearray(packed.read_bytes())
    data[at] ^= 0xFF
    packed.write_bytes(data)
    return packed


def cut(path: Path, keep: int) -> Path:
    path.write_bytes(path.read_bytes()[:keep])
    return path


def spoiled(*values: float) -> np.ndarray:
    raw = scene("<f4")
    raw[0, 0, : len(values)] = values
    return raw


def colours() -> np.ndarray:
    return np.zeros(SHAPE, [("R", "u1"), ("G", "u1"), ("B", "u1")])


def unplaced(path: Path) -> Path:
    return patch(make(path, scene()), 252, "<hh", 0, 0)  # qform_code and sform_code


def flat(path: Path) -> Path:
    # Bytes 280 to 327 of NIfTI-1: the sform; here with a z axis of no length.
    return patch(make(path, scene()), 280, "<12f", 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0)


def endless(path: Path) -> Path:
    # Bytes 400 to 495 of NIfTI-2: the sform, in double precision.
    path = make(path, scene(), kind=nib.Nifti2Image)
    return patch(path, 400, "<12d", 1e300, 0, 0, 0, 0, 1e300, 0, 0, 0, 0, 1e300, 0)


BAD: dict[str, tuple[Callable[[Path], Path], str]] = {
    "missing": (lambda p: p, "does not exist"),
    "directory": (lambda p: p.mkdir() or p, "is a directory"),
    "under a file": (lambda p: make(p, scene()) / "ct.nii", "cannot be read"),
    "empty": (lambda p: p.touch() or p, "is empty"),
    "text": (lambda p: p.write_text("no image " * 99) and p, "is not a NIfTI file"),
    "a few bytes": (lambda p: cut(make(p, scene()), 100), "is not a NIfTI file"),
    "magic": (lambda p: patch(make(p, scene()), 344, "4s", b"nope"), "is not a valid NIfTI"),
    "pair": (lambda p: patch(make(p, scene()), 344, "4s", b"ni1\0"), "half of a .hdr/.img pair"),
    "data type": (lambda p: patch(make(p, scene()), 70, "<h", 999), "is not a valid NIfTI"),
    "intercept": (lambda p: patch(make(p, scene()), 116, "<f", np.inf), "is not a valid NIfTI"),
    "offset": (lambda p: patch(make(p, scene()), 108, "<f", np.nan), "is not a valid NIfTI"),
    "endless offset": (lambda p: patch(make(p, scene()), 108, "<f", np.inf), "not a valid NIfTI"),
    "quaternion": (lambda p: patch(unplaced(p), 252, "<hhff", 1, 0, 1, 1), "not a valid NIfTI"),
    "no voxels": (lambda p: patch(make(p, scene()), 44, "<h", 0), "no voxels"),
    "no axes": (lambda p: patch(make(p, scene()), 40, "<h", 0), ""),
    "cut data": (lambda p: cut(make(p, scene()), 471), "471 of 472 bytes"),
    "cut gzip": (lambda p: cut(squeezed(make(p, scene())), 120), "damaged gzip"),
    "gzip checksum": (lambda p: flipped(make(p, scene()), -6), "damaged gzip"),
    "gzip stream": (lambda p: flipped(make(p, scene()), 10), "damaged gzip"),
    "gzip of nothing": (lambda p: p.write_bytes(gzip.compress(b"")) and p, "is not a NIfTI"),
    "2D": (lambda p: make(p, scene()[..., 0]), "2D slice"),
    "one slice": (lambda p: make(p, scene()[..., :1]), "2D slice"),
    "4D": (lambda p: make(p, np.stack([scene()] * 6, -1)), "6 volumes"),
    "5D vectors": (lambda p: make(p, np.stack([scene()] * 3, -1)[..., None, :]), "3 volumes"),
    "colours": (lambda p: make(p, colours()), "colours"),
    "complex": (lambda p: make(p, scene("<c8")), "complex"),
    "NaN": (lambda p: make(p, spoiled(np.nan, np.inf, -np.inf)), "3 voxels that are NaN"),
    "flat geometry": (flat, "cannot be inverted"),
    "NaN geometry": (lambda p: patch(make(p, scene()), 280, "<f", np.nan), "cannot be inverted"),
    "endless geometry": (endless, "cannot be inverted"),
    "no geometry": (unplaced, "its position in space"),
    "metres": (lambda p: make(p, scene(), xyzt_units=1), "metres"),
}


@pytest.mark.parametrize("name", BAD)
def test_bad_input_is_refused_in_one_sentence(
    tmp_path: Path, name: str, capfd: pytest.CaptureFixture[str]
) -> None:
    build, what = BAD[name]
    path = build(tmp_path / "ct.nii")
    with pytest.raises(InputError) as caught:
        nifti.read(path)
    message = str(caught.value)
    assert message.startswith(str(path))
    assert what in message
    assert "\n" not in message
    assert not message.endswith(".")
    assert capfd.readouterr() == ("", "")


def test_values_are_not_judged_here(tmp_path: Path) -> None:
    assert nifti.read(make(tmp_path / "mr.nii", scene() + 1024)).hu.min() == 24


@pytest.mark.parametrize("padding", [-1024, -2000, -3024, -200])
def test_padding_and_air_are_hu(tmp_path: Path, padding: int) -> None:
    raw = scene() * 0 + 50
    raw[0] = padding
    assert nifti.read(make(tmp_path / "ct.nii", raw)).hu.min() == padding


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    whole = make(tmp_path / "ct.nii", scene()).read_bytes()
    for data, step in ((whole, 5), (gzip.compress(whole), 1)):
        for keep in range(0, len(data), step):
            (tmp_path / "cut").write_bytes(data[:keep])
            with pytest.raises(InputError):
                nifti.read(tmp_path / "cut")


@pytest.mark.slow
@pytest.mark.parametrize("kind", [nib.Nifti1Image, nib.Nifti2Image])
def test_a_damaged_header_is_read_or_refused(tmp_path: Path, kind: type) -> None:
    codes = {"qform_code": 1, "sform_code": 0}
    whole = make(tmp_path / "ct.nii", scene(), oblique(), kind=kind, **codes).read_bytes()
    outcomes = set()
    for at in range(len(whole) - 120):
        data = bytearray(whole)
        data[at] ^= (0xFF, 0x80, 0x01)[at % 3]  # all three meet every byte of a field somewhere
        (tmp_path / "bad.nii").write_bytes(data)
        try:
            nifti.write(nifti.read(tmp_path / "bad.nii"), tmp_path / "back.nii", force=True)
        except InputError:
            outcomes.add("refused")
        else:
            # A smaller shape leaves bytes over, which are nobody's.
            assert data.startswith((tmp_path / "back.nii").read_bytes())
            outcomes.add("read")
    assert outcomes == {"read", "refused"}


# ---- label maps ---------------------------------------------------------------------------------


def organs(dtype: str = "<u1") -> np.ndarray:
    return (np.arange(60).reshape(SHAPE) * 2).astype(dtype)


@pytest.mark.parametrize("axes", ["LPS", "RAS", "LPI", "RAI"])
@pytest.mark.parametrize("dtype", ["<u1", "<i2", "<f4", ">f8", "<i8"])
def test_labels_come_to_the_grid_of_their_ct(tmp_path: Path, axes: str, dtype: str) -> None:
    like = nifti.read(make(tmp_path / "ct.nii", scene(), place("LPS")))
    here = nib.Nifti1Image(organs(), place("LPS"))
    ornt = nib.orientations.ornt_transform(axcodes2ornt("LPS"), axcodes2ornt(axes))
    turned = here.as_reoriented(ornt)
    path = make(tmp_path / "seg.nii.gz", np.asarray(turned.dataobj).astype(dtype), turned.affine)
    found = label_maps.read_labels(path, like)
    assert found.dtype == np.uint8
    assert np.array_equal(found, organs()[::-1, ::-1, :])
    alone, affine = label_maps.vocabulary(path)
    assert np.array_equal(alone, found)
    np.testing.assert_allclose(affine, like.affine, atol=1e-4)


def test_labels_with_a_slope_that_is_not_quite_one(tmp_path: Path) -> None:
    path = make(tmp_path / "seg.nii", organs("<i2") * 255, slope=np.float32(1 / 255))
    assert np.array_equal(label_maps.vocabulary(path)[0], organs()[::-1, ::-1, :])


def shifted(mm: float) -> np.ndarray:
    affine = place("LPS")
    affine[2, 3] += mm
    return affine


@pytest.mark.parametrize(
    ("raw", "affine", "what"),
    [
        # Twice as fine, so that all corners agree.
        (np.repeat(organs(), 2, 2)[..., :9], place("LPS", (0.5, 0.5, 2.5)), "3 x 4 x 9 voxels"),
        (organs(), shifted(0.05), "not on the grid"),
        (organs(), place("LPS", (0.5, 0.5, 5.01)), "not on the grid"),
        (organs(), place("PLS"), "not on the grid"),
        (organs("<f4") + 0.5, place("LPS"), "60 of its voxels are not integers"),
        (organs("<f4") * np.nan, place("LPS"), "NaN"),
    ],
)
def test_bad_labels_are_refused(
    tmp_path: Path, raw: np.ndarray, affine: np.ndarray, what: str
) -> None:
    like = nifti.read(make(tmp_path / "ct.nii", scene(), place("LPS")))
    with pytest.raises(InputError) as caught:
        label_maps.read_labels(make(tmp_path / "seg.nii", raw, affine), like)
    assert str(caught.value).startswith(str(tmp_path / "seg.nii"))
    assert what in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(("change", "what"), [(20, "130, 132"), (-2, "-2")])
def test_values_outside_the_vocabulary_are_refused(tmp_path: Path, change: int, what: str) -> None:
    path = make(tmp_path / "seg.nii", organs("<i2") + change, place("LPS"))
    with pytest.raises(InputError, match=what):
        label_maps.vocabulary(path)


def test_another_grid_is_told_with_both_geometries(tmp_path: Path) -> None:
    like = nifti.read(make(tmp_path / "ct.nii", scene(), place("RAS")))
    path = make(tmp_path / "seg.nii", organs(), shifted(0.05) @ np.diag([-1, -1, 1, 1]))
    with pytest.raises(InputError) as caught:
        label_maps.read_labels(path, like)
    assert "to (-119.50, 34.75, 720.05) mm" in str(caught.value)
    assert "to (-119.50, 34.75, 720.00) mm" in str(caught.value)


def test_labels_written_are_labels_read(tmp_path: Path) -> None:
    ids = organs("i8")
    ids[0, 0, 1] = labels.OUTSIDE
    nifti.write_labels(ids, place("RAS"), tmp_path / "seg.nii.gz")
    assert nib.load(tmp_path / "seg.nii.gz").get_data_dtype() == np.uint8
    found, affine = label_maps.vocabulary(tmp_path / "seg.nii.gz")
    assert np.array_equal(found, ids)
    np.testing.assert_allclose(affine, place("RAS"))
    with pytest.raises(InputError, match="already exists"):
        nifti.write_labels(ids, place("RAS"), tmp_path / "seg.nii.gz")
    with pytest.raises(InputError, match="999"):
        nifti.write_labels(ids * 0 + 999, place("RAS"), tmp_path / "other.nii.gz")
    assert os.listdir(tmp_path) == ["seg.nii.gz"]


# ---- never half-written -------------------------------------------------------------------------


def refused(path: Path, what: str, force: bool = False) -> None:
    """Both the early question and the writing itself say no, in one line."""
    for ask in (
        lambda: nifti.check_writable(path, force),
        lambda: nifti.write(Volume(scene("f4"), np.eye(4)), path, force),
    ):
        with pytest.raises(InputError) as caught:
            ask()
        assert str(caught.value).startswith(str(path))
        assert what in str(caught.value)
        assert "\n" not in str(caught.value)


def test_targets_that_cannot_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    refused(tmp_path / "ct.dcm", "must end in .nii or .nii.gz")
    refused(tmp_path / "missing" / "ct.nii", "create it first")
    (tmp_path / "folder.nii").mkdir()
    refused(tmp_path / "folder.nii", "is a directory", force=True)
    refused(make(tmp_path / "ct.nii", scene()) / "ct.nii", "not a folder")
    before = content(tmp_path / "ct.nii")
    refused(tmp_path / "ct.nii", "already exists")
    assert content(tmp_path / "ct.nii") == before
    # Root may write anywhere, so the system's answer is replaced, not the folder's mode.
    monkeypatch.setattr(os, "access", lambda *_: False)
    refused(tmp_path / "new.nii", "no permission")
    assert sorted(os.listdir(tmp_path)) == ["ct.nii", "folder.nii"]


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
def test_force_replaces(tmp_path: Path, suffix: str) -> None:
    path = make(tmp_path / f"ct{suffix}", scene())
    (tmp_path / f"link{suffix}").symlink_to(path)
    volume = nifti.read(path)
    nifti.write(volume.with_hu(volume.hu + 1), tmp_path / f"link{suffix}", force=True)
    assert np.array_equal(nifti.read(path).hu, volume.hu + 1)
    assert (tmp_path / f"link{suffix}").is_symlink()
    assert len(os.listdir(tmp_path)) == 2


def test_a_new_file_has_the_usual_permissions(tmp_path: Path) -> None:
    (tmp_path / "usual").touch()
    nifti.write(Volume(scene("f4"), np.eye(4)), tmp_path / "ct.nii")
    assert (tmp_path / "ct.nii").stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("suffix", [".nii", ".nii.gz"])
@pytest.mark.parametrize("exists", [False, True])
@pytest.mark.parametrize(
    ("fault", "seen"),
    [
        (OSError(28, "No space left on device"), InputError),
        (KeyboardInterrupt(), KeyboardInterrupt),
    ],
)
@pytest.mark.parametrize("at", ["a plane", "fsync", "replace"])
def test_a_failed_write_leaves_everything_as_it_was(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    suffix: str,
    exists: bool,
    fault: BaseException,
    seen: type[BaseException],
    at: str,
) -> None:
    path = tmp_path / f"ct{suffix}"
    if exists:
        make(path, scene())
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    beside = []
    encode, calls = nifti_bytes._encode, iter(range(99))

    def fail(*args: object) -> np.ndarray:
        if at == "a plane" and next(calls) < 2:
            return encode(*args)
        beside.extend(file.name for file in tmp_path.iterdir() if file.name not in before)
        raise fault

    if at == "a plane":
        monkeypatch.setattr(nifti_bytes, "_encode", fail)
    else:
        monkeypatch.setattr(os, at, fail)
    with pytest.raises(seen) as caught:
        nifti.write(Volume(scene("f4"), np.eye(4)), path, force=True)
    monkeypatch.undo()
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before
    assert len(beside) == 1  # it did fail midway
    assert beside[0].endswith(".part")  # no reader takes it for an image
    if seen is InputError:
        assert str(caught.value).startswith(f"{path} could not be written (No space left")


def test_hu_that_are_not_finite_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="3 voxels of the result are NaN"):
        nifti.write(Volume(spoiled(np.nan, np.inf, -np.inf), np.eye(4)), tmp_path / "ct.nii")
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("behind", [bytes(513), b"trailing garbage", bytes(3) + b"\x1f\x8bno"])
def test_bytes_behind_a_gzip_are_ignored_with_a_note(tmp_path: Path, behind: bytes) -> None:
    """Zeros of a tape block, or whatever a download appended; the members before count in full."""
    path = make(tmp_path / "ct.nii", scene())
    whole = path.read_bytes()
    packed = path.with_suffix(".nii.gz")
    members = gzip.compress(whole[:400]) + bytes(7) + gzip.compress(whole[400:])
    for content in (gzip.compress(whole), members):
        packed.write_bytes(content + behind)
        volume = nifti.read(packed)
        assert np.array_equal(volume.hu, nifti.read(path).hu)
        assert volume.source.notes[-1] == f"{len(behind)} bytes after the voxels were ignored"
        packed.write_bytes(content[:-9] + behind)
        with pytest.raises(InputError, match="damaged gzip"):
            nifti.read(packed)


@pytest.mark.parametrize("sizes", [[], [0], [1], [700_001] * 5, [3, 2**20, 2**21 - 3]])
def test_gzip_is_one_member_whatever_the_parts_and_threads(
    sizes: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    parts = [rng.integers(0, 4, size, np.uint8).tobytes() for size in sizes]
    files = []
    for threads in (1, 4):
        monkeypatch.setattr(gzip_stream, "MOST_THREADS", threads)
        with open(tmp_path / "packed.gz", "wb") as file:
            gzip_stream.write_packed(file, iter(parts))
        files.append((tmp_path / "packed.gz").read_bytes())
    assert files[0] == files[1]
    machine = zlib.decompressobj(31)
    assert machine.decompress(files[0]) == b"".join(parts)
    assert machine.eof
    assert not machine.unused_data
    assert files[0][3:10] == bytes(6) + b"\xff"  # no name, no time
    assert len(files[0]) < 0.4 * sum(sizes) + 40


@pytest.mark.parametrize("dtype", ["<i2", ">i2", "<u2", "u1", "i1", "<i4"])
def test_values_that_are_stored_as_hu_are_the_same_bits(tmp_path: Path, dtype: str) -> None:
    """With slope 1 and intercept 0, nothing but rounding and clipping is done."""
    limits = np.iinfo(dtype)
    raw = np.random.default_rng(0).integers(
        limits.min, limits.max, (5, 6, 37), np.dtype(dtype).type
    )
    raw[0, 0, :2] = limits.min, limits.max
    image = nib.Nifti1Image(raw.astype(dtype), np.diag([2.0, 2, 3, 1]))
    image.header.set_data_dtype(dtype)
    nib.save(image, tmp_path / "a.nii")
    volume = nifti.read(tmp_path / "a.nii")
    assert np.array_equal(volume.hu, raw.astype(np.float64).astype(np.float32))
    hu = volume.hu.copy()
    hu[1] += np.float32(0.5)
    hu[2] = 1e6
    nifti.write(volume.with_hu(hu), tmp_path / "b.nii")
    wanted = np.clip(np.rint(hu.astype(np.float64)), limits.min, limits.max).astype(raw.dtype)
    same = hu == volume.hu
    wanted[same] = raw[same]
    assert np.array_equal(np.asarray(nib.load(tmp_path / "b.nii").dataobj), wanted)
