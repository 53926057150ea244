"""denovox.io.dicom.derived: the same HU at the same millimetre, whoever reads it back.

The oracles are pydicom alone (what the source files state), highdicom, SimpleITK, and, where they
are installed, dciodvfy (dicom3tools), dcm2niix, plastimatch and dcmtk.
"""

from __future__ import annotations

import errno
import hashlib
import shutil
import subprocess
import warnings
import zipfile
from pathlib import Path

import dicom_cases as cases
import highdicom
import nibabel
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from dicom_cases import refused
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from pydicom.uid import JPEGLSNearLossless, RLELossless

from denovox.core.volume import Volume
from denovox.io import dicom, nifti
from denovox.io.dicom import derived
from denovox.io.dicom.derived import Processing
from denovox.io.dicom.derived.slices import rescale

DENOISE = Processing("denoise", "noise 20 HU; seed 0", "5e" * 32)
SIGNED = [s * axis for axis in np.eye(3) for s in (1.0, -1.0)]
KINDS = ("unsigned", "signed", "half", "mixed", "enhanced", "monochrome1", "compressed")


def tool(name: str, package: str) -> str:
    """The path of a program; the test is skipped where it is not installed."""
    return shutil.which(name) or pytest.skip(f"{name} is not installed (Debian: {package})")


def images_in(folder: Path) -> list[Dataset]:
    """The images of a series in the order of InstanceNumber, by pydicom alone."""
    found = [pydicom.dcmread(path) for path in folder.iterdir()]
    return sorted(found, key=lambda one: int(one.InstanceNumber))


def hu_of(image: Dataset) -> np.ndarray:
    return image.pixel_array * float(image.RescaleSlope) + float(image.RescaleIntercept)


def snapshot(folder: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def flat(image: Dataset, frame: int) -> Dataset:
    """Position, directions, spacing and HU of a frame, in the terms of a single image."""
    own = image.PerFrameFunctionalGroupsSequence[frame]
    shared = image.SharedFunctionalGroupsSequence[0]
    one = Dataset()
    one.ImagePositionPatient = own.PlanePositionSequence[0].ImagePositionPatient
    one.ImageOrientationPatient = shared.PlaneOrientationSequence[0].ImageOrientationPatient
    one.PixelSpacing = shared.PixelMeasuresSequence[0].PixelSpacing
    one.Rows, one.Columns = image.Rows, image.Columns
    scale = own.PixelValueTransformationSequence[0]
    values = np.frombuffer(image.PixelData, f"<{'ui'[image.PixelRepresentation]}2")
    plane = values.reshape(-1, image.Rows, image.Columns)[frame]
    one.hu = plane * float(scale.RescaleSlope) + float(scale.RescaleIntercept)
    return one


def make(folder: Path, seed: int) -> list[Dataset]:
    """A random series; returns its images as the files state them, by InstanceNumber."""
    rng = np.random.default_rng(seed)
    kind = KINDS[seed % len(KINDS)]
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    row, column = turn[:2]
    if rng.random() < 0.5:  # axial, coronal, sagittal, in any flip
        row = SIGNED[rng.integers(6)]
        column = [way for way in SIGNED if way @ row == 0][rng.integers(4)]
    shape = (*rng.integers(3, 9, 2), rng.integers(3, 6))
    spacing = tuple(rng.uniform(0.3, 4, 3).round(4))
    step = spacing[2] * np.cross(row, column) * rng.choice([-1, 1])  # also from the far end
    tags = {"PatientName": "Müller^Ann", "SpecificCharacterSet": "ISO_IR 100"}
    if kind == "half":
        tags |= {"RescaleSlope": 0.5, "RescaleIntercept": -1000.25}
    if kind == "monochrome1":
        tags |= {"PhotometricInterpretation": "MONOCHROME1", "PresentationLUTShape": "INVERSE"}
    made = cases.images(
        cases.phantom(shape, seed),
        rng.uniform(-500, 500, 3),
        (row, column),
        spacing,
        tags,
        [k * step for k in range(shape[2])],
    )
    for k, one in enumerate(made):
        if kind == "signed":
            one.PixelRepresentation, one.RescaleIntercept = 1, 0
            one.PixelData = (one.pixel_array.astype(int) - 1024).astype("<i2").tobytes()
        if kind == "mixed":
            one.RescaleSlope, one.RescaleIntercept = 1 + 0.25 * k, -1000 - k
    if kind == "enhanced":
        whole = cases.enhanced(made)
        cases.save(folder, [whole])
        return [flat(whole, k) for k in range(len(made))]
    for one in made:
        one.hu = hu_of(one)
        if kind == "compressed":
            one.compress(RLELossless)
    cases.save(folder, made, seed)
    return made


def round_trip(folder: Path, seed: int) -> None:
    """A result on its own grid has every slice where, and as, its source has it."""
    source = make(folder / "in", seed)
    before = snapshot(folder / "in")
    volume = dicom.read(folder / "in")
    series = derived.write_series(volume, folder / "out", DENOISE)
    assert snapshot(folder / "in") == before
    written = images_in(folder / "out")
    assert [one.InstanceNumber for one in written] == list(range(1, len(source) + 1))
    assert {one.SeriesInstanceUID for one in written} == {series}
    assert len({one.SOPInstanceUID for one in written}) == len(source)
    span = volume.hu.max() - volume.hu.min()
    within = span / 131068 + 1e-3 if KINDS[seed % len(KINDS)] == "mixed" else 1e-6
    for ours, theirs in zip(written, source, strict=True):
        for keyword in "ImagePositionPatient ImageOrientationPatient PixelSpacing".split():
            np.testing.assert_allclose(ours[keyword].value, theirs[keyword].value, atol=1e-9)
        assert (ours.Rows, ours.Columns) == (theirs.Rows, theirs.Columns)
        np.testing.assert_allclose(hu_of(ours), theirs.hu, atol=within)
        assert ours.PhotometricInterpretation == "MONOCHROME2"
        low, high = ours.pixel_array.min(), ours.pixel_array.max()
        assert (ours.SmallestImagePixelValue, ours.LargestImagePixelValue) == (low, high)
    again = dicom.read(folder / "out")
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-9)
    np.testing.assert_allclose(again.hu, volume.hu, atol=within)


@pytest.mark.parametrize("seed", range(28))
def test_an_unchanged_grid_keeps_every_slice_where_it_is(tmp_path: Path, seed: int) -> None:
    round_trip(tmp_path, seed)


def upright(folder: Path, **tags: object) -> Volume:
    """An axial series of five slices, read."""
    cases.save(folder, cases.images(cases.phantom(), tags=tags))
    return dicom.read(folder)


def places_of(volume: Volume) -> np.ndarray:
    """RAS mm of every voxel."""
    index = np.moveaxis(np.indices(volume.shape), 0, -1)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def agrees(volume: Volume, values: np.ndarray, affine: np.ndarray, mm: float = 1e-3) -> None:
    """Every voxel of the volume is at its millimetre in another array (RAS)."""
    index = (places_of(volume) - affine[:3, 3]) @ np.linalg.inv(affine[:3, :3]).T
    assert np.abs((index - np.rint(index)) @ affine[:3, :3].T).max() < mm
    there = values[tuple(np.moveaxis(np.rint(index).astype(int), -1, 0))]
    np.testing.assert_allclose(there, volume.hu, atol=1e-3)
    assert values.size == volume.hu.size


def oblique_series(folder: Path) -> Volume:
    turn, _ = np.linalg.qr(np.random.default_rng(3).normal(size=(3, 3)))
    cases.save(folder / "in", cases.images(cases.phantom(), directions=turn[:2]))
    volume = dicom.read(folder / "in")
    derived.write_series(volume, folder / "out", DENOISE)
    return volume


def test_highdicom_and_simpleitk_read_the_same(tmp_path: Path) -> None:
    volume = oblique_series(tmp_path)
    found = highdicom.get_volume_from_series(images_in(tmp_path / "out"))
    agrees(volume, found.array, np.diag([-1, -1, 1, 1]) @ found.affine)
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(tmp_path / "out")))
    image = reader.Execute()
    affine = np.eye(4)
    affine[:3, :3] = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    affine[:3, 3] = image.GetOrigin()
    agrees(volume, sitk.GetArrayFromImage(image).T, np.diag([-1, -1, 1, 1]) @ affine)


def test_dcm2niix_reads_the_same(tmp_path: Path) -> None:
    program = tool("dcm2niix", "dcm2niix")
    volume = oblique_series(tmp_path)
    (tmp_path / "nii").mkdir()
    command = [program, "-f", "ct", "-o", tmp_path / "nii", tmp_path / "out"]
    subprocess.run(command, check=True, capture_output=True)
    image = nibabel.load(tmp_path / "nii" / "ct.nii")
    agrees(volume, np.asarray(image.dataobj), image.affine)


def test_plastimatch_reads_the_same(tmp_path: Path) -> None:
    program = tool("plastimatch", "plastimatch")
    volume = upright(tmp_path / "in")
    derived.write_series(volume, tmp_path / "out", DENOISE)
    command = [program, "convert", "--input", tmp_path / "out"]
    command += ["--output-img", tmp_path / "ct.nii", "--output-type", "float"]
    subprocess.run(command, check=True, capture_output=True)
    image = nibabel.load(tmp_path / "ct.nii")
    agrees(volume, np.asarray(image.dataobj), image.affine)


def test_dcmtk_reads_every_file(tmp_path: Path) -> None:
    program = tool("dcmdump", "dcmtk")
    derived.write_series(upright(tmp_path / "in"), tmp_path / "out", DENOISE)
    command = [program, "+E", *sorted((tmp_path / "out").iterdir())]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0
    assert not done.stderr


def valid(folder: Path) -> None:
    """dciodvfy finds no error in the first and the last image of a folder."""
    for path in sorted(folder.iterdir())[:: len(list(folder.iterdir())) - 1]:
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
        errors = [line for line in done.stderr.splitlines() if line.startswith("Error")]
        assert not errors, errors


def test_dciodvfy_finds_no_error(tmp_path: Path) -> None:
    tool("dciodvfy", "dicom3tools")
    volume = upright(
        tmp_path / "in", ContrastBolusVolume=50, PatientIdentityRemoved="YES", KVP=None
    )
    derived.write_series(volume, tmp_path / "denoise", DENOISE)
    thin = halved(volume)
    derived.write_series(thin, tmp_path / "thin", Processing("superres"), like=volume.source)
    made = Volume(volume.hu, volume.affine)
    derived.write_series(made, tmp_path / "made", Processing("synthesize"))
    for seed in range(len(KINDS)):
        make(tmp_path / f"in{seed}", seed)
        lesion = Processing("lesion")
        derived.write_series(dicom.read(tmp_path / f"in{seed}"), tmp_path / f"out{seed}", lesion)
    for folder in ["denoise", "thin", "made", *(f"out{seed}" for seed in range(len(KINDS)))]:
        valid(tmp_path / folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["kits-00072", "ge-head-tilted"])
def test_real_series(tmp_path: Path, data_dir: Path, name: str) -> None:
    volume = dicom.read(data_dir.parent / "dicom" / name, straighten=True)
    derived.write_series(volume, tmp_path / "out", DENOISE)
    again = dicom.read(tmp_path / "out")
    np.testing.assert_allclose(again.affine, volume.affine, atol=1e-6)
    np.testing.assert_allclose(again.hu, np.rint(volume.hu), atol=0)
    assert again.source.patient_id == volume.source.patient_id
    tool("dciodvfy", "dicom3tools")
    valid(tmp_path / "out")


# ---- the header ---------------------------------------------------------------------------------


def test_what_is_kept_what_is_new_and_what_is_gone(tmp_path: Path) -> None:
    tags = {
        "XRayTubeCurrent": 97,
        "StudyDate": "20200102",
        "AcquisitionTime": "090952.7",
        "ContentDate": "20200102",
        "StationName": "CT1",
        "SeriesNumber": 4,
        "BurnedInAnnotation": "YES",
        "WindowCenter": [30, 300],
        "WindowWidth": [350, 1500],
        "LossyImageCompression": "01",
        "LossyImageCompressionRatio": 8,
        "LossyImageCompressionMethod": "ISO_10918_1",
        "PixelPaddingValue": 65535,
        "ImageType": ["ORIGINAL", "PRIMARY", "REFORMATTED", "AVERAGE"],
        "DerivationDescription": "averaged",
        "ImageComments": "motion",
    }
    made = cases.images(cases.phantom(), tags=tags)
    for one in made:
        block = one.private_block(0x0019, "MAKER", create=True)
        block.add_new(0x10, "LO", "secret")
        one.add_new(0x60000010, "US", 6)
        one.add_new(0x60003000, "OW", bytes(16))
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = one.SOPClassUID, "1.2.3"
        item.private_block(0x0019, "MAKER", create=True).add_new(0x10, "LO", "secret")
        one.ReferencedImageSequence = [item]
    cases.save(tmp_path / "in", made)
    derived.write_series(dicom.read(tmp_path / "in"), tmp_path / "out", DENOISE)
    for ours, theirs in zip(images_in(tmp_path / "out"), made, strict=True):
        kept = (
            "PatientID PatientName StudyInstanceUID StudyDate FrameOfReferenceUID KVP"
            " XRayTubeCurrent ConvolutionKernel Manufacturer StationName AcquisitionTime"
            " SliceThickness BurnedInAnnotation WindowCenter WindowWidth LossyImageCompression"
            " LossyImageCompressionRatio LossyImageCompressionMethod"
        ).split()
        for keyword in kept:
            assert ours[keyword].value == theirs[keyword].value, keyword
        assert ours.file_meta.TransferSyntaxUID.name == "Explicit VR Little Endian"
        assert ours.file_meta.ImplementationClassUID.startswith("2.25.")
        assert ours.SOPInstanceUID != theirs.SOPInstanceUID
        assert ours.SOPInstanceUID.is_valid
        assert list(ours.ImageType) == ["DERIVED", "SECONDARY", "REFORMATTED"]
        assert ours.SeriesDescription == "denovox denoise Thorax"
        assert ours.SeriesNumber == 1004
        assert "noise 20 HU; seed 0" in ours.DerivationDescription
        assert ours.DerivationDescription.endswith("before: averaged")
        (image,) = ours.SourceImageSequence
        assert image.ReferencedSOPInstanceUID == theirs.SOPInstanceUID
        assert code(image.PurposeOfReferenceCodeSequence[0]) == (
            codes.cid7202.SourceImageForImageProcessingOperation
        )
        (equipment,) = ours.ContributingEquipmentSequence
        purpose = code(equipment.PurposeOfReferenceCodeSequence[0])
        assert purpose == codes.cid7005.ProcessingEquipment
        assert code(ours.DerivationCodeSequence[0]) == codes.cid7203.Smoothing
        assert ours["SmallestImagePixelValue"].VR == "SS"
        gone = "PixelPaddingValue ContentDate SeriesDate InstanceCreationDate ImageComments"
        assert not [keyword for keyword in gone.split() if keyword in ours]
        assert ours.ReferencedImageSequence[0].ReferencedSOPInstanceUID == "1.2.3"
        private = [e.tag for e in ours.iterall() if e.tag.is_private or e.tag.group >= 0x5000]
        assert private == [0x7FE00010]


def code(item: Dataset) -> pydicom.sr.coding.Code:
    return pydicom.sr.coding.Code(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)


@pytest.mark.parametrize(
    ("command", "known"),
    [
        ("denoise", codes.cid7203.Smoothing),
        ("superres", codes.cid7203.SpatialResampling),
        ("lesion", codes.cid7203.VolumeEditing),
        ("inpaint", codes.cid7203.VolumeEditing),
    ],
)
def test_codes_are_those_of_the_standard(tmp_path: Path, command: str, known: object) -> None:
    volume = upright(tmp_path / "in")
    derived.write_series(volume, tmp_path / "out", Processing(command))
    first = images_in(tmp_path / "out")[0]
    assert code(first.DerivationCodeSequence[0]) == known
    assert ("SYNTHETIC" in first.ImageType) == (command in ("lesion", "inpaint"))


def test_the_same_call_writes_the_same_bytes_and_any_other_has_other_uids(tmp_path: Path) -> None:
    volume = upright(tmp_path / "in")
    other = volume.hu.copy()
    other[0, 0, 0] += 1
    uids = [
        derived.write_series(volume, tmp_path / "a", DENOISE),
        derived.write_series(volume.with_hu(other), tmp_path / "c", DENOISE),
        derived.write_series(volume, tmp_path / "d", Processing("denoise", "seed 1", "5e" * 32)),
        derived.write_series(volume, tmp_path / "e", Processing("denoise", "noise 20 HU; seed 0")),
    ]
    assert len(set(uids)) == 4
    assert derived.write_series(volume, tmp_path / "b", DENOISE) == uids[0]
    assert snapshot(tmp_path / "a") == snapshot(tmp_path / "b")
    derived.write_series(volume, tmp_path / "a.zip", DENOISE)
    with zipfile.ZipFile(tmp_path / "a.zip") as archive:
        held = {n: hashlib.sha256(archive.read(n)).hexdigest() for n in archive.namelist()}
    assert held == snapshot(tmp_path / "a")
    assert np.array_equal(dicom.read(tmp_path / "a.zip").hu, volume.hu)


def test_once_lossy_always_lossy(tmp_path: Path) -> None:
    made = cases.images(cases.phantom((32, 32, 3)))
    for one in made:
        one.compress(JPEGLSNearLossless, jls_error=2)
        for keyword in ("LossyImageCompression", "LossyImageCompressionRatio"):
            one.pop(keyword, None)
    cases.save(tmp_path / "in", made)
    derived.write_series(dicom.read(tmp_path / "in"), tmp_path / "out", DENOISE)
    for one in images_in(tmp_path / "out"):
        assert (one.LossyImageCompression, one.LossyImageCompressionMethod) == ("01", "ISO_14495_1")
        assert 1 <= one.LossyImageCompressionRatio < 3


def test_names_in_any_encoding_and_values_that_are_not_valid(tmp_path: Path) -> None:
    tags = {
        "SpecificCharacterSet": ["", "ISO 2022 IR 87"],
        "PatientName": "Yamada^Tarou=山田^太郎",
        "StudyDate": "2020-01-02",
        "BodyPartExamined": "Chest",
        "PatientAge": "36",
        "PatientID": None,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        volume = upright(tmp_path / "in", **tags)
    derived.write_series(volume, tmp_path / "out", DENOISE)
    first = images_in(tmp_path / "out")[0]
    assert str(first.PatientName) == tags["PatientName"]
    assert (first.StudyDate, first.PatientID, first.BodyPartExamined) == ("", "", "CHEST")
    assert "PatientAge" not in first


def test_missing_uids_are_made_once_and_said(tmp_path: Path) -> None:
    volume = upright(tmp_path / "in", StudyInstanceUID=None, FrameOfReferenceUID=None)
    notes: list[str] = []
    derived.write_series(volume, tmp_path / "a", DENOISE, say=notes.append)
    derived.write_series(volume, tmp_path / "b", Processing("lesion"))
    assert ["StudyInstanceUID" in notes[0], "FrameOfReferenceUID" in notes[1]] == [True, True]
    found = [*images_in(tmp_path / "a"), *images_in(tmp_path / "b")]
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        (only,) = {one[keyword].value for one in found}
        assert only.is_valid


def test_what_an_enhanced_ct_states_in_its_groups(tmp_path: Path) -> None:
    made = cases.images(cases.phantom())
    whole = cases.enhanced(made)
    exposure, details = Dataset(), Dataset()
    exposure.XRayTubeCurrentInmA, exposure.ExposureTimeInms = 97.4, 600.0
    details.KVP, details.ConvolutionKernel = 120, "B30f"
    groups = whole.SharedFunctionalGroupsSequence[0]
    groups.CTExposureSequence, groups.CTXRayDetailsSequence = [exposure], [details]
    cases.save(tmp_path / "in", [whole])
    derived.write_series(dicom.read(tmp_path / "in"), tmp_path / "out", DENOISE)
    for k, one in enumerate(images_in(tmp_path / "out")):
        facts = (one.XRayTubeCurrent, one.ExposureTime, one.KVP, one.ConvolutionKernel)
        assert facts == (97, 600, 120, "B30f")
        assert list(one.ImageType) == ["DERIVED", "SECONDARY", "AXIAL"]
        (image,) = one.SourceImageSequence
        assert (image.ReferencedFrameNumber, image.SpatialLocationsPreserved) == (k + 1, "YES")
        assert image.ReferencedSOPClassUID == cases.ENHANCED
        assert "SharedFunctionalGroupsSequence" not in one


# ---- other grids --------------------------------------------------------------------------------


def halved(volume: Volume) -> Volume:
    """Slices half as far apart over the same field of view."""
    affine = volume.affine.copy()
    affine[:3, 3] -= affine[:3, 2] / 4
    affine[:3, 2] /= 2
    return Volume(np.repeat(volume.hu, 2, axis=2), affine)


def test_thinner_slices_have_places_of_their_own(tmp_path: Path) -> None:
    volume = upright(tmp_path / "in", SliceLocation=7, SpacingBetweenSlices=2)
    thin = halved(volume)
    derived.write_series(thin, tmp_path / "out", Processing("superres"), like=volume.source)
    found, thick = images_in(tmp_path / "out"), images_in(tmp_path / "in")
    z = [float(one.ImagePositionPatient[2]) for one in found]
    np.testing.assert_allclose(z, -40.5 + np.arange(10))  # the lower face at -41, 1 mm apart
    for one in found:
        assert (one.SliceThickness, one.SpacingBetweenSlices) == (1, 1)
        assert "SliceLocation" not in one
        assert one.FrameOfReferenceUID == thick[0].FrameOfReferenceUID
        assert {image.SpatialLocationsPreserved for image in one.SourceImageSequence} == {"NO"}
    between = [image.ReferencedSOPInstanceUID for image in found[2].SourceImageSequence]
    assert between == [thick[0].SOPInstanceUID, thick[1].SOPInstanceUID]  # at -38.5 mm
    again = dicom.read(tmp_path / "out")
    np.testing.assert_allclose(again.affine, thin.affine, atol=1e-9)
    assert np.array_equal(again.hu, thin.hu)


def test_nifti_takes_patient_and_study_from_another_series(tmp_path: Path) -> None:
    volume = upright(tmp_path / "in")
    nifti.write(Volume(volume.hu, volume.affine), tmp_path / "ct.nii")
    scan = nifti.read(tmp_path / "ct.nii")
    out, like = tmp_path / "out", derived.like_series(tmp_path / "in")
    refused(lambda: derived.write_series(scan, out, DENOISE), str(out), "--like")
    moved = Volume(scan.hu, scan.affine + np.eye(4, k=3))
    check = derived.check_writable
    for write in (derived.write_series, check):
        refused(lambda w=write: w(moved, out, DENOISE, like=like), "7 x 6 x 5 voxels", "20.00, -30")
        few = Volume(scan.hu[..., 1:], scan.affine)
        refused(lambda w=write, v=few: w(v, out, DENOISE, like=like), "7 x 6 x 4", "7 x 6 x 5")
    far = Volume(scan.hu, scan.affine + 30 * np.eye(4, k=3))
    superres = Processing("superres")
    refused(lambda: derived.write_series(halved(far), out, superres, like=like), "7 x 6 x 10")
    check(scan, out, DENOISE, like=like)
    assert not out.exists()
    derived.write_series(scan, out, DENOISE, like=like)
    for ours, theirs in zip(images_in(out), images_in(tmp_path / "in"), strict=True):
        assert ours.PatientID == theirs.PatientID
        assert ours.ImagePositionPatient == theirs.ImagePositionPatient
        assert np.array_equal(hu_of(ours), hu_of(theirs))


def test_a_synthesised_scan_is_a_study_without_a_patient(tmp_path: Path) -> None:
    affine = np.diag([2.0, 2.0, 3.0, 1.0])
    affine[:3, 3] = 5, 6, 7
    made = Volume(cases.phantom().astype(np.float32), affine)
    how = Processing("synthesize", "chest, seed 0")
    derived.write_series(made, tmp_path / "out", how)
    again = dicom.read(tmp_path / "out")
    np.testing.assert_allclose(again.affine, affine, atol=1e-9)
    assert np.array_equal(again.hu, made.hu)
    for one in images_in(tmp_path / "out"):
        assert list(one.ImageType) == ["DERIVED", "SECONDARY", "AXIAL", "SYNTHETIC"]
        assert (one.PatientID, str(one.PatientName), one.KVP) == ("", "", None)
        assert (one.ContentQualification, one.BurnedInAnnotation) == ("RESEARCH", "NO")
        assert one.Manufacturer == "denovox"
        (equipment,) = one.ContributingEquipmentSequence
        purpose = code(equipment.PurposeOfReferenceCodeSequence[0])
        assert purpose == codes.cid7005.SynthesizingEquipment
        assert "SourceImageSequence" not in one
        assert "SYNTHETIC" in one.SeriesDescription
    second = made.with_hu(made.hu + 1)
    derived.write_series(second, tmp_path / "b", how)
    studies = {images_in(tmp_path / name)[0].StudyInstanceUID for name in ("out", "b")}
    assert len(studies) == 2


def test_a_sheared_grid_has_no_place_in_dicom(tmp_path: Path) -> None:
    affine = np.diag([1.0, 1.0, 2.0, 1.0])
    affine[0, 2] = 1
    made = Volume(cases.phantom().astype(np.float32), affine)
    how = Processing("synthesize")
    refused(lambda: derived.write_series(made, tmp_path / "out", how), "26.6 degrees", ".nii.gz")


# ---- values -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("low", "high", "scale", "slope"),
    [
        (-1024, 3071, (1.0, -1024.0), 1),
        (-1024, 3071.4, (1.0, -1024.0), 1),
        (-1024, 60000, (1.0, 0.0), 1),
        (-3000.0, 30000, (0.5, -1024.25), None),
        (-1024.25, 3071.25, (0.5, -1024.25), 0.5),
        (-1024.25, 3071.25, (-0.5, -1024.25), 0.5),
        (-1024.0, 3071.25, None, None),
        (7.25, 7.25, None, 1),
        (-30000, 30000.5, (0.125, 0.0), None),
    ],
)
def test_no_value_is_clipped(low, high, scale, slope) -> None:
    hu = np.linspace(low, high, 64).reshape(4, 4, 4)
    found = rescale(hu, scale)
    assert slope is None or found.slope == slope
    assert 0 < found.slope <= 1
    stored = found.stored(hu)
    assert stored.dtype == np.int16
    np.testing.assert_allclose(
        stored * found.slope + found.inter, hu, atol=found.slope / 2 + 1e-9, rtol=0
    )


def test_values_that_16_bits_do_not_hold(tmp_path: Path) -> None:
    volume = upright(tmp_path / "in")
    for value, word in ((70000, "from -1000 to 70000 HU"), (np.nan, "NaN"), (np.inf, "infinite")):
        hu = volume.hu.copy()
        hu[0, 0, 0] = value
        result, out = volume.with_hu(hu), tmp_path / "out"
        refused(lambda v=result, o=out: derived.write_series(v, o, DENOISE), word, str(out))
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


# ---- files --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keyword", "words"),
    [
        ("StudyInstanceUID", "2 studies"),
        ("FrameOfReferenceUID", "2 frames of reference"),
        ("PatientID", "2 patients"),
    ],
)
def test_slices_of_several_studies_are_refused(tmp_path: Path, keyword: str, words: str) -> None:
    made = cases.images(cases.phantom())
    setattr(made[2], keyword, "1.2.3")
    cases.save(tmp_path / "in", made)
    volume, out = dicom.read(tmp_path / "in"), tmp_path / "out"
    refused(lambda: derived.check_writable(volume, out, DENOISE), words, str(tmp_path / "in"))
    refused(lambda: derived.write_series(volume, out, DENOISE), words)
    assert not out.exists()


def test_an_output_that_is_taken_or_is_the_source(tmp_path: Path) -> None:
    volume, out = upright(tmp_path / "in"), tmp_path / "out"
    before = snapshot(tmp_path / "in")
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for write in (derived.write_series, derived.check_writable):
        refused(lambda w=write: w(volume, out, DENOISE), "already contains files")
        again = (volume, tmp_path / "in", DENOISE)
        refused(lambda w=write, a=again: w(*a, force=True), "source series itself")
    derived.write_series(volume, out, DENOISE, force=True)
    assert (out / "notes.txt").read_text() == "mine"
    assert np.array_equal(dicom.read(out).hu, volume.hu)
    assert snapshot(tmp_path / "in") == before


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_a_full_disk_half_way_leaves_nothing(tmp_path: Path, monkeypatch, name: str) -> None:
    volume = upright(tmp_path / "in")
    save, count = Dataset.save_as, iter(range(9))

    def full(self: Dataset, *args: object, **how: object) -> None:
        if next(count) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, *args, **how)

    monkeypatch.setattr(Dataset, "save_as", full)
    out = tmp_path / name
    refused(lambda: derived.write_series(volume, out, DENOISE), str(out), "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


def test_a_source_that_has_changed_is_noticed(tmp_path: Path) -> None:
    volume = upright(tmp_path / "in")
    shutil.rmtree(tmp_path / "in")
    cases.save(tmp_path / "in", cases.images(cases.phantom(), tags={"SeriesInstanceUID": "1.2.9"}))
    refused(lambda: derived.write_series(volume, tmp_path / "out", DENOISE), "has changed")
    assert not (tmp_path / "out").exists()
