"""denovox.io.formats: one door for every format, each told apart by its content.

nibabel says what is right for NRRD and MetaImage; damaged files of every kind are read right or
refused in one sentence, without a hang, a surprise or more memory than they have.
"""

from __future__ import annotations

import gzip
import os
import resource
import shutil
import signal
import subprocess
import sys
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import dicom_cases as cases
import nibabel as nib
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.io import formats, nifti
from denovox.scan import gate

SHAPE = (7, 6, 5)


def affine_of(seed: int) -> np.ndarray:
    """An oblique grid, RAS."""
    rng = np.random.default_rng(seed)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3] = np.c_[turn * rng.uniform(0.5, 3, 3), rng.uniform(-99, 99, 3)]
    return affine


def image_of(values: np.ndarray, affine: np.ndarray) -> sitk.Image:
    """ITK's image of a RAS grid: LPS."""
    image = sitk.GetImageFromArray(np.ascontiguousarray(values.T))
    lps = np.diag([-1, -1, 1, 1]) @ affine
    spacing = np.linalg.norm(lps[:3, :3], axis=0)
    image.SetSpacing(spacing.tolist())
    image.SetDirection((lps[:3, :3] / spacing).ravel().tolist())
    image.SetOrigin(lps[:3, 3].tolist())
    return image


def refused(path: Path, *parts: str, **how: object) -> None:
    """One sentence that names the path and says all of `parts`."""
    with pytest.raises(InputError) as caught:
        formats.read(path, **how)
    said = str(caught.value)
    assert str(path) in said
    assert "\n" not in said
    for part in parts:
        assert part in said, said


@pytest.mark.parametrize("packed", [False, True])
@pytest.mark.parametrize("ending", ["nrrd", "nhdr", "mha", "mhd"])
@pytest.mark.parametrize("seed", range(4))
def test_nrrd_and_metaimage_agree_with_nibabel(
    tmp_path: Path, seed: int, ending: str, packed: bool
) -> None:
    dtype = ["i2", "f4", "f8", "i4"][seed]
    values, affine = cases.phantom(SHAPE, seed).astype(dtype), affine_of(seed)
    nib.save(nib.Nifti1Image(values, affine, dtype=values.dtype), tmp_path / "ct.nii.gz")
    sitk.WriteImage(image_of(values, affine), str(tmp_path / f"ct.{ending}"), useCompression=packed)
    expected, volume = formats.read(tmp_path / "ct.nii.gz"), formats.read(tmp_path / f"ct.{ending}")
    canonical = nib.as_closest_canonical(nib.load(tmp_path / "ct.nii.gz"))
    assert np.array_equal(volume.hu, canonical.get_fdata())
    assert volume.hu.dtype == expected.hu.dtype
    assert volume.hu.flags.c_contiguous
    np.testing.assert_allclose(volume.affine, canonical.affine, atol=1e-4)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)
    nifti.write(volume, tmp_path / "back.nii")
    assert nifti.read(tmp_path / "back.nii").source.raw.dtype == np.int16


def nrrd(path: Path, data: bytes | None = None, **fields: str) -> Path:
    """A NRRD of 7 x 6 x 5 int16 in LPS; `fields` are added or replaced, or left out if empty."""
    said = {
        "type": "int16",
        "dimension": "3",
        "space": "left-posterior-superior",
        "sizes": "7 6 5",
        "space directions": "(1,0,0) (0,2,0) (0,0,3)",
        "endian": "little",
        "encoding": "raw",
        "space origin": "(4,5,6)",
    } | {key.replace("_", " "): value for key, value in fields.items()}
    head = "NRRD0004\n" + "".join(f"{k}: {v}\n" for k, v in said.items() if v) + "\n"
    path.write_bytes(head.encode() + (cases.phantom().T.tobytes() if data is None else data))
    return path


def mha(path: Path, data: bytes | None = None, **fields: str) -> Path:
    """The same as MetaImage."""
    said = {
        "ObjectType": "Image",
        "NDims": "3",
        "BinaryData": "True",
        "BinaryDataByteOrderMSB": "False",
        "CompressedData": "False",
        "TransformMatrix": "1 0 0 0 1 0 0 0 1",
        "Offset": "4 5 6",
        "ElementSpacing": "1 2 3",
        "DimSize": "7 6 5",
        "ElementType": "MET_SHORT",
        "ElementDataFile": "LOCAL",
    } | fields
    said["ElementDataFile"] = said.pop("ElementDataFile")  # the last one, always
    head = "".join(f"{k} = {v}\n" for k, v in said.items() if v)
    path.write_bytes(head.encode() + (cases.phantom().T.tobytes() if data is None else data))
    return path


PLAIN = [("a.nrrd", nrrd), ("a.mha", mha)]


@pytest.mark.parametrize(("name", "write"), PLAIN)
def test_hand_written_headers_are_read(
    tmp_path: Path, name: str, write: Callable[..., Path]
) -> None:
    for other in (name, "without-a-suffix", "wrong.dcm", "wrong.nii.gz"):
        volume = formats.read(write(tmp_path / other))
        assert np.array_equal(volume.hu, np.flip(cases.phantom(), (0, 1)))
        expected = np.diag([1.0, 2, 3, 1])
        expected[:3, 3] = -4 - 6, -5 - 10, 6
        np.testing.assert_allclose(volume.affine, expected)


def test_a_nrrd_in_ras_needs_no_turning(tmp_path: Path) -> None:
    volume = formats.read(nrrd(tmp_path / "a.nrrd", space="right-anterior-superior"))
    assert np.array_equal(volume.hu, cases.phantom())
    np.testing.assert_allclose(volume.affine[:3, 3], [4, 5, 6])


HUGE = "10000 10000 10000"


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"sizes": HUGE}, "is truncated: 2000000000000 bytes of voxels"),
        ({"sizes": HUGE, "encoding": "gzip"}, "is truncated"),
        ({"encoding": "gzip"}, "damaged voxels"),
        ({"sizes": "7 6 4"}, "holds 84 bytes more than 7 x 6 x 4 voxels"),
        ({"sizes": HUGE, "encoding": "ascii"}, "is truncated"),
        ({"space": ""}, "does not state its position in space"),
        ({"space directions": ""}, "does not state its position in space"),
        ({"space origin": ""}, "does not state its position in space"),
        ({"space": "scanner-xyz"}, "unsupported space scanner-xyz"),
        ({"space units": '"cm" "cm" "cm"'}, "is in cm"),
        ({"space directions": "(1,0,0) (2,0,0) (0,0,3)"}, "a.nrrd"),
        ({"space directions": "(1,0,0) (0,nan,0) (0,0,3)"}, "a.nrrd"),
        (
            {"space directions": "(1e300,0,0) (0,1,0) (0,0,3)"},
            "a geometry that is implausible for a CT",
        ),
        (
            {"space directions": "(1,0,0) (0,1e-9,0) (0,0,3)"},
            "a geometry that is implausible for a CT",
        ),
        ({"encoding": "bzip2"}, "unsupported encoding bzip2"),
        ({"sizes": "35 6 1"}, "not a 3D volume"),
        ({"dimension": "2", "sizes": "35 6", "space directions": "(1,0,0) (0,1,0)"}, "a.nrrd"),
        (
            {
                "dimension": "4",
                "sizes": "2 7 3 5",
                "space directions": "none (1,0,0) (0,2,0) (0,0,3)",
                "kinds": "vector domain domain domain",
            },
            "not a 3D volume (sizes '2 7 3 5')",
        ),
        ({"data file": "gone.raw"}, "gone.raw, which is not a file"),
        ({"data file": "/dev/zero"}, "/dev/zero, which is not a file"),
        ({"data file": "slice%03d.raw 1 5 1"}, "in several files"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_nrrd_that_is_no_ct_is_refused(tmp_path: Path, fields: dict[str, str], what: str) -> None:
    refused(nrrd(tmp_path / "a.nrrd", **fields), what)


@pytest.mark.parametrize(
    ("fields", "what"),
    [
        ({"DimSize": HUGE}, "is truncated: 2000000000000 bytes of voxels"),
        ({"DimSize": HUGE, "CompressedData": "True"}, "is truncated"),
        ({"CompressedData": "True"}, "damaged voxels"),
        ({"DimSize": "7 6 4"}, "holds 84 bytes more than 7 x 6 x 4 voxels"),
        ({"TransformMatrix": ""}, "does not state its position in space"),
        ({"Offset": ""}, "does not state its position in space"),
        ({"DistanceUnits": "cm"}, "is in cm"),
        ({"TransformMatrix": "1 0 0 0 1 0 0 1 0"}, "a.mha"),
        ({"ElementNumberOfChannels": "2", "DimSize": "7 3 5"}, "2 values per voxel"),
        ({"DimSize": "42 5 1"}, "not a 3D volume"),
        ({"ElementDataFile": "LIST"}, "in several files"),
        ({"ElementDataFile": "gone.raw"}, "gone.raw, which is not a file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, dict) else "",
)
def test_a_metaimage_that_is_no_ct_is_refused(
    tmp_path: Path, fields: dict[str, str], what: str
) -> None:
    refused(mha(tmp_path / "a.mha", **fields), what)


@pytest.mark.parametrize(("name", "write"), PLAIN)
def test_grey_levels_are_read_here_and_refused_at_the_gate(
    tmp_path: Path, name: str, write: Callable[..., Path]
) -> None:
    path = write(tmp_path / name, (cases.phantom() % 200).T.tobytes())
    cases.series(tmp_path / "d", cases.phantom() % 200)
    for one in (path, tmp_path / "d"):
        assert 0 <= formats.read(one).hu.min() < formats.read(one).hu.max() < 200
        with pytest.raises(InputError, match="not in HU"):
            gate.read(one)


@pytest.mark.parametrize("spoil", [lambda d: d[:-9], lambda d: d[:-4] + bytes(4), lambda d: d[:40]])
def test_packed_voxels_are_whole_or_refused(
    tmp_path: Path, spoil: Callable[[bytes], bytes]
) -> None:
    data = gzip.compress(cases.phantom().T.tobytes())
    formats.read(nrrd(tmp_path / "a.nrrd", data, encoding="gzip"))
    refused(nrrd(tmp_path / "a.nrrd", spoil(data), encoding="gzip"), "a.nrrd")
    formats.read(mha(tmp_path / "a.mha", data, CompressedData="True"))
    refused(mha(tmp_path / "a.mha", spoil(data), CompressedData="True"), "a.mha")
    longer = gzip.compress(cases.phantom().T.tobytes() + bytes(2))
    refused(nrrd(tmp_path / "a.nrrd", longer, encoding="gzip"), "does not unpack to the 420 bytes")


def test_not_a_number_is_refused(tmp_path: Path) -> None:
    values = cases.phantom().astype(np.float32)
    values[1, 2, 3] = np.nan
    refused(nrrd(tmp_path / "a.nrrd", values.T.tobytes(), type="float"), "1 voxels that are NaN")


def test_everything_comes_through_one_door(tmp_path: Path) -> None:
    paths = cases.series(tmp_path / "d", cases.phantom())
    with zipfile.ZipFile(tmp_path / "zip-without-suffix", "w") as archive:
        for path in paths:
            archive.write(path, path.name)
    many = cases.enhanced(cases.images(cases.phantom()))
    many.save_as(tmp_path / "many", enforce_file_format=True)
    expected = formats.read(tmp_path / "d")
    nifti.write(expected, tmp_path / "ct.nii.gz")
    shutil.copy(tmp_path / "ct.nii.gz", tmp_path / "ct")
    for name in ("zip-without-suffix", "many", "ct.nii.gz", "ct"):
        volume = formats.read(tmp_path / name)
        assert np.array_equal(volume.hu, expected.hu)
        np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-4)


def test_straighten_and_series_reach_dicom(tmp_path: Path) -> None:
    along = [[0, 0.3 * k, 2 * k] for k in range(5)]
    cases.series(tmp_path / "a", cases.phantom(), along=along)
    refused(tmp_path, "8.5 degrees", "--straighten")
    notes: list[str] = []
    how = {"series": cases.SERIES[-4:], "straighten": True, "say": notes.append}
    assert formats.read(tmp_path, **how).source.straightened
    assert notes
    refused(nrrd(tmp_path / "a.nrrd"), "not DICOM, so there is no series", series="1")


def test_what_is_no_ct_is_refused_with_what_is(tmp_path: Path) -> None:
    (tmp_path / "text.txt").write_text("hello")
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "folder").mkdir()
    (tmp_path / "volumes").mkdir()
    nifti.write(Volume(cases.phantom().astype(np.float32), np.eye(4)), tmp_path / "volumes/a.nii")
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.write(tmp_path / "volumes/a.nii", "a.nii")
    os.mkfifo(tmp_path / "pipe")
    refused(tmp_path / "text.txt", "not a CT in a supported format", "NIfTI", "NRRD", "DICOM")
    refused(tmp_path / "empty", "is empty")
    refused(tmp_path / "folder", "holds no DICOM (0 other files)")
    refused(tmp_path / "volumes", "holds no DICOM, only files such as", "a.nii")
    refused(tmp_path / "a.zip", "holds no DICOM, only files such as", "a.nii")
    refused(tmp_path / "pipe", "a device or a pipe")
    refused(tmp_path / "gone", "does not exist")
    (tmp_path / "other.gz").write_bytes(gzip.compress(b"hello"))
    refused(tmp_path / "other.gz", "is not a NIfTI file")


# ---- damage -------------------------------------------------------------------------------------


@contextmanager
def watched(seconds: int = 20, mebibytes: int = 256) -> Iterator[None]:
    """Neither hangs nor takes much memory, C libraries included."""

    def ring(*_: object) -> None:
        raise TimeoutError(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    signal.alarm(seconds)
    try:
        yield
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak < 1024 * mebibytes
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def damaged(data: bytes, rng: np.random.Generator) -> bytes:
    """Bits turned over (in the header, mostly), an end lost, zeros, or ones for a length."""
    out = bytearray(data)
    kind = rng.integers(5)
    early = min(len(out), 2500) if rng.random() < 0.8 else len(out)
    at = int(rng.integers(early))
    if kind == 0:
        return bytes(out[: int(rng.integers(len(out)))])
    if kind == 1:
        out[at : at + 4] = b"\xff" * 4
    elif kind == 2:
        out[at : at + 64] = bytes(len(out[at : at + 64]))
    else:
        for place in rng.integers(0, early, rng.integers(1, 6)):
            out[place] ^= 1 << int(rng.integers(8))
    return bytes(out)


def lied(data: bytes, rng: np.random.Generator) -> bytes:
    """A number of a text header replaced, of a kind that breaks readers."""
    end = data.find(b"\n\n") if data.startswith(b"NRRD") else data.find(b"ElementDataFile")
    words = data[:end].split(b" ")
    numbers = [i for i, word in enumerate(words) if word.strip(b"(),\n-")[:1].isdigit()]
    pool = [b"0", b"-1", b"99999999", b"1e300", b"nan", b"4294967297", b"7,7", b"1e-300", b"inf"]
    if numbers:
        words[numbers[rng.integers(len(numbers))]] = pool[rng.integers(len(pool))]
    return b" ".join(words) + data[end:]


def stands_for(folder: Path) -> np.ndarray | None:
    """All HU of a folder by pydicom alone, sorted; None where it refuses."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            found = [pydicom.dcmread(one) for one in sorted(folder.iterdir())]
            hu = [
                one.pixel_array * float(one.RescaleSlope) + float(one.RescaleIntercept)
                for one in found
                if one.Modality == "CT"
            ]
            return np.sort(np.stack(hu).astype(np.float32), axis=None)
        except Exception:  # whatever another reader does over damage
            return None


BY_ITK = """
import sys, numpy, SimpleITK
SimpleITK.ProcessObject.SetGlobalWarningDisplay(False)
for path in sys.argv[1:]:
    try:
        numpy.save(path + ".npy", SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path)))
    except RuntimeError:
        pass
"""


def agrees_with_itk(volumes: dict[Path, Volume], checked: np.ndarray | None) -> int:
    """How many SimpleITK read, too, and these alike. In a process of its own: it may crash.

    checked: the values of data that have a checksum; ITK passes over it and makes up the rest.
    """
    names = [str(path) for path in volumes]
    subprocess.run([sys.executable, "-c", BY_ITK, *names], check=False, capture_output=True)
    agreed = 0
    for path, volume in volumes.items():
        saved = path.with_name(path.name + ".npy")
        if saved.exists():
            ours, theirs = np.sort(volume.hu, axis=None), np.sort(np.load(saved), axis=None)
            known = checked is not None and np.array_equal(ours, np.sort(checked, axis=None))
            assert known or np.array_equal(ours, theirs)
            agreed += 1
    return agreed


def result(path: Path, notes: list[str]) -> Volume | None:
    """What became of a file; fails unless it is a volume or one clear sentence (None)."""
    said = ""
    with watched():
        try:
            volume = formats.read(path, say=notes.append)
        except InputError as error:
            said = str(error)
    if said:
        assert str(path) in said, said
        assert said.isprintable(), said
        assert len(said) < 6 * len(str(path)) + 700, said
        return None
    assert np.isfinite(volume.hu).all()
    assert np.isfinite(volume.affine).all()
    assert abs(np.linalg.det(volume.affine[:3, :3])) > 0
    return volume


def outcome(path: Path) -> str:
    """The same of a DICOM folder, compared with pydicom."""
    notes: list[str] = []
    volume = result(path, notes)
    if volume is None:
        return "refused"
    expected = stands_for(path)
    if expected is None or expected.size != volume.hu.size:
        assert notes or expected is None, "fewer slices, and not a word"
        return "read, though not by others"
    np.testing.assert_allclose(np.sort(volume.hu, axis=None), expected, rtol=1e-6)
    return "read"


@pytest.mark.slow
@pytest.mark.parametrize("part", range(8))
def test_a_damaged_slice_is_read_right_or_refused(tmp_path: Path, part: int) -> None:
    syntaxes = [None, "1.2.840.10008.1.2.5", "1.2.840.10008.1.2.4.80", "1.2.840.10008.1.2.4.90"]
    syntax = syntaxes[part % 4]
    made = cases.images(cases.phantom((40, 36, 4)))
    for one in made if syntax else []:
        one.compress(syntax, generate_instance_uid=False)
    paths = cases.save(tmp_path / "whole", made)
    if part >= 6:
        paths = [tmp_path / "whole" / "many.dcm"]
        cases.enhanced(cases.images(cases.phantom())).save_as(paths[0], enforce_file_format=True)
    outcomes = []
    for number in range(20):
        rng = np.random.default_rng([part, number])
        folder = tmp_path / f"{part}-{number}"
        shutil.copytree(tmp_path / "whole", folder)
        if part >= 6:
            for path in folder.glob("0*.dcm"):
                path.unlink()
        path = folder / paths[rng.integers(len(paths))].name
        path.write_bytes(damaged(path.read_bytes(), rng))
        outcomes.append(outcome(folder))
    assert outcomes.count("refused") >= 3, outcomes
    # Pixels packed as JPEG-LS survive none of these.
    assert part == 2 or any(one.startswith("read") for one in outcomes)


@pytest.mark.slow
@pytest.mark.parametrize("part", range(6))
def test_a_damaged_nrrd_or_metaimage_is_read_right_or_refused(tmp_path: Path, part: int) -> None:
    ending = ["nrrd", "mha"][part % 2]
    whole = tmp_path / f"whole.{ending}"
    values = cases.phantom((20, 18, 4))
    sitk.WriteImage(image_of(values, affine_of(part)), str(whole), useCompression=part > 3)
    read = {}
    for number in range(25):
        rng = np.random.default_rng([9, part, number])
        path = tmp_path / f"{part}-{number}.{ending}"
        path.write_bytes([damaged, lied][number % 2](whole.read_bytes(), rng))
        volume = result(path, [])
        if volume is not None:
            read[path] = volume
    assert len(read) <= 20
    assert agrees_with_itk(read, values if part > 3 else None) >= (2 if part < 4 else 0)


def test_a_damaged_zip_is_read_right_or_refused(tmp_path: Path) -> None:
    paths = cases.series(tmp_path / "d", cases.phantom((40, 36, 4)))
    whole = tmp_path / "whole.zip"
    with zipfile.ZipFile(whole, "w", zipfile.ZIP_DEFLATED) as archive:
        for path in paths:
            # ZipInfo's own date: the archive, and so what the damage hits, is the same each run
            entry = zipfile.ZipInfo(path.name)
            archive.writestr(entry, path.read_bytes(), zipfile.ZIP_DEFLATED)
    expected = formats.read(tmp_path / "d").hu
    outcomes = []
    for number in range(40):
        rng = np.random.default_rng([8, number])
        data = bytearray(whole.read_bytes())
        for at in rng.integers(0, len(data), rng.integers(1, 4)):
            at = at if number % 2 else len(data) - 1 - at % 500  # the directory, at its end
            data[at] ^= 1 << int(rng.integers(8))
        path = tmp_path / f"{number}.zip"
        path.write_bytes(data[: int(rng.integers(len(data)))] if number % 10 == 0 else data)
        volume = result(path, [])
        if volume is not None:
            assert np.array_equal(volume.hu, expected)  # a ZIP has checksums
        outcomes.append("refused" if volume is None else "read")
    assert outcomes.count("refused") >= 10
    assert outcomes.count("read") >= 1


@pytest.mark.parametrize("kind", ["NIfTI", "NRRD"])
def test_nan_at_the_sides_is_padding_if_the_reader_wants_it(kind: str, tmp_path: Path) -> None:
    """Corners of a field of view, and a slice that is missing as a whole; nothing else changes."""
    hu = np.random.default_rng(0).normal(0, 20, (9, 8, 6)).astype(np.float32)
    missing = np.zeros(hu.shape, bool)
    missing[:2, :2], missing[-1, -1, :], missing[..., 5] = True, True, True

    def saved(values: np.ndarray) -> Path:
        if kind == "NRRD":
            return nrrd(tmp_path / "a.nrrd", values.T.tobytes(), type="float", sizes="9 8 6")
        image = nib.Nifti1Image(values, np.diag([-1.0, -1, 1, 1]))
        image.header.set_xyzt_units("mm")
        nib.save(image, tmp_path / "a.nii.gz")
        return tmp_path / "a.nii.gz"

    path, said = saved(np.where(missing, np.float32(np.nan), hu)), []
    refused(path, f"{missing.sum()} voxels that are NaN or infinite, the first at voxel (")
    got = formats.read(path, padding=-1024, say=said.append).hu[::-1, ::-1]  # both files: LPS
    assert np.array_equal(got, np.where(missing, -1024, hu))
    share = f"{missing.mean():.0%}"
    assert said == [f"{path}: {share} of the voxels are NaN and reach the border: taken as -1024"]
    for place, value in (((4, 4, 2), np.nan), ((4, 4, 0), np.nan), ((0, 0, 0), np.inf)):
        spoiled = np.where(missing, np.float32(np.nan), hu)
        spoiled[place] = value
        at = f"({8 - place[0]}, {7 - place[1]}, {place[2]})"
        refused(saved(spoiled), f"1 voxels that are NaN or infinite, the first at voxel {at}",
                padding=-1024)  # fmt: skip
    refused(saved(np.full_like(hu, np.nan)), "has no values: all voxels are NaN", padding=-1024)
