"""DICOM SEG: every marked voxel at its millimetre, and whose scan it belongs to.

The oracle is pydicom alone: bits of the frames, places and directions as the file says them.
"""

from __future__ import annotations

import zipfile
from dataclasses import replace
from pathlib import Path

import dicom_cases as cases
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk

from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.io import formats
from denovox.io.dicom.derived import Processing
from denovox.io.dicom.evidence import seg
from denovox.io.dicom.values import quiet

UPRIGHT = cases.UPRIGHT
LESION = seg.How(Processing("lesion", "seed 0"))
TWO = replace(seg.LESIONS, description="Two texts")
AXIAL_FLIPPED = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
CORONAL = ((1.0, 0.0, 0.0), (0.0, 0.0, -1.0))


def oblique(seed: int) -> tuple[np.ndarray, np.ndarray]:
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return turn[0], turn[1]


def lesions(volume: Volume, seed: int = 0, count: int = 3) -> np.ndarray:
    """Scattered voxels of each number, so that any mirror or shift shows."""
    rng = np.random.default_rng(seed)
    numbers = np.zeros(volume.shape, np.uint8)
    for number in range(1, count + 1):
        numbers.flat[rng.choice(numbers.size, 6, replace=False)] = number
    return numbers


def marked(path: Path) -> dict[int, np.ndarray]:
    """segment -> mm (RAS) of its voxels, by what PS3.3 C.7.6.2.1.1 says of each frame."""
    found = pydicom.dcmread(path)
    frames, rows, columns = int(found.NumberOfFrames), found.Rows, found.Columns
    bits = np.unpackbits(np.frombuffer(found.PixelData, np.uint8), bitorder="little")
    masks = bits[: frames * rows * columns].reshape(frames, rows, columns)
    shared = found.SharedFunctionalGroupsSequence[0]
    ways = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    spacing = np.array(shared.PixelMeasuresSequence[0].PixelSpacing, float)
    points: dict[int, list[np.ndarray]] = {}
    for mask, own in zip(masks, found.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float)
        groups = own if "SegmentIdentificationSequence" in own else shared
        number = groups.SegmentIdentificationSequence[0].ReferencedSegmentNumber
        for row, column in np.argwhere(mask):
            lps = place + column * spacing[1] * ways[:3] + row * spacing[0] * ways[3:]
            points.setdefault(number, []).append(lps * [-1, -1, 1])
    return {number: np.array(each) for number, each in points.items()}


def agrees(path: Path, numbers: np.ndarray, volume: Volume) -> None:
    """Each segment's voxels are the volume's, one for one, within 1e-3 mm."""
    found = marked(path)
    assert sorted(found) == [n for n in range(1, int(numbers.max()) + 1) if (numbers == n).any()]
    for number, points in found.items():
        own = np.argwhere(numbers == number) @ volume.affine[:3, :3].T + volume.affine[:3, 3]
        assert len(points) == len(own)
        apart = np.linalg.norm(points[:, None] - own, axis=-1)
        assert apart.min(1).max() < 1e-3
        assert apart.min(0).max() < 1e-3


@pytest.mark.slow
@pytest.mark.parametrize(
    "directions",
    [UPRIGHT, AXIAL_FLIPPED, SAGITTAL, CORONAL, *(oblique(seed) for seed in range(4))],
    ids=["upright", "flipped", "sagittal", "coronal", "ob0", "ob1", "ob2", "ob3"],
)
def test_voxels_lie_where_the_affine_says_in_any_orientation(tmp_path, directions):
    paths = cases.series(tmp_path / "ct", cases.phantom(), directions=directions)
    volume = formats.read(tmp_path / "ct")
    numbers = lesions(volume)
    seg.write(tmp_path / "s.dcm", numbers, volume, LESION)
    agrees(tmp_path / "s.dcm", numbers, volume)
    on_images(tmp_path / "s.dcm", paths)
    found = pydicom.dcmread(tmp_path / "s.dcm")
    assert (found.Rows, found.Columns) == (6, 7)  # those of the series
    measures = found.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0]
    assert [float(mm) for mm in measures.PixelSpacing] == pytest.approx([0.9, 0.7])
    assert float(measures.SpacingBetweenSlices) == pytest.approx(2)


def on_images(path: Path, paths: list[Path], within_mm: float = 1e-6) -> None:
    """Every frame names the one image whose plane it is."""
    place_of = {}
    for one in map(pydicom.dcmread, paths):
        place_of[one.SOPInstanceUID] = np.array(one.ImagePositionPatient, float)
    found = pydicom.dcmread(path)
    for frame in found.PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        own = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        there = place_of[image.ReferencedSOPInstanceUID]
        assert np.linalg.norm(own - there) <= within_mm
        assert "ReferencedFrameNumber" not in image
    (listed,) = found.ReferencedSeriesSequence
    assert listed.SeriesInstanceUID == cases.SERIES
    named = {one.ReferencedSOPInstanceUID for one in listed.ReferencedInstanceSequence}
    assert named == set(place_of)


def test_slices_that_are_nearly_even_keep_their_images(tmp_path):
    """Positions rounded by the scanner: the grid is the volume's, the references the files'."""
    along = [(0, 0, z) for z in (0, 2.013, 3.99, 6.012, 8)]
    paths = cases.series(tmp_path / "ct", cases.phantom(), along=along)
    volume = formats.read(tmp_path / "ct")
    seg.write(tmp_path / "s.dcm", lesions(volume), volume, LESION)
    agrees(tmp_path / "s.dcm", lesions(volume), volume)
    on_images(tmp_path / "s.dcm", paths, within_mm=0.0131)


def test_enhanced_ct_is_referred_to_by_frame(tmp_path):
    made = cases.images(cases.phantom())
    cases.save(tmp_path / "ct", [cases.enhanced(made[::-1])])
    volume = formats.read(tmp_path / "ct")
    seg.write(tmp_path / "s.dcm", lesions(volume), volume, LESION)
    agrees(tmp_path / "s.dcm", lesions(volume), volume)
    places = [np.array(one.ImagePositionPatient, float) for one in made[::-1]]
    for frame in pydicom.dcmread(tmp_path / "s.dcm").PerFrameFunctionalGroupsSequence:
        (image,) = frame.DerivationImageSequence[0].SourceImageSequence
        own = np.array(frame.PlanePositionSequence[0].ImagePositionPatient, float)
        np.testing.assert_allclose(own, places[image.ReferencedFrameNumber - 1], atol=1e-6)


def test_a_straightened_series_keeps_its_grid_and_claims_no_image_as_its_plane(tmp_path):
    along = [(0, -0.5 * k, 2 * k) for k in range(5)]  # a gantry tilted by 14 degrees
    cases.series(tmp_path / "ct", cases.phantom(), along=along)
    volume = formats.read(tmp_path / "ct", straighten=True)
    assert volume.source.straightened
    seg.write(tmp_path / "s.dcm", lesions(volume), volume, LESION)
    agrees(tmp_path / "s.dcm", lesions(volume), volume)
    found = pydicom.dcmread(tmp_path / "s.dcm")
    assert all(
        not frame.DerivationImageSequence for frame in found.PerFrameFunctionalGroupsSequence
    )
    assert len(found.ReferencedSeriesSequence[0].ReferencedInstanceSequence) == 5


@pytest.mark.slow
@pytest.mark.parametrize("case", ["kits-00072", "ge-head-tilted"])
def test_real_series(tmp_path, data_dir, case):
    folder = data_dir.parent / "dicom" / case
    volume = formats.read(folder, straighten=True)
    numbers = lesions(volume, count=4)
    seg.write(tmp_path / "s.dcm", numbers, volume, LESION)
    agrees(tmp_path / "s.dcm", numbers, volume)
    found = pydicom.dcmread(tmp_path / "s.dcm")
    source = pydicom.dcmread(next(folder.glob("*.dcm")))
    for keyword in ("PatientID", "PatientName", "StudyInstanceUID", "FrameOfReferenceUID"):
        assert found[keyword].value == source[keyword].value
    assert found.SeriesInstanceUID != source.SeriesInstanceUID
    if case == "kits-00072":
        for frame in found.PerFrameFunctionalGroupsSequence:
            assert len(frame.DerivationImageSequence[0].SourceImageSequence) == 1


def test_highdicom_reads_the_same_voxels_and_what_they_are(tmp_path):
    import highdicom as hd

    cases.series(tmp_path / "ct", cases.phantom(), directions=oblique(5))
    volume = formats.read(tmp_path / "ct")
    numbers = lesions(volume)
    seg.write(
        tmp_path / "s.dcm", numbers, volume, replace(LESION, labels=["Liver, 12 mm"], content=TWO)
    )
    found = hd.seg.segread(tmp_path / "s.dcm")
    back = found.get_volume(combine_segments=True)
    ras = np.diag([-1, -1, 1, 1]) @ back.affine
    index = np.argwhere(back.array)
    there = np.linalg.solve(volume.affine, ras @ np.c_[index, np.ones(len(index))].T)[:3].T
    assert np.abs(there - np.rint(there)).max() < 1e-4
    assert np.array_equal(numbers[tuple(np.rint(there).astype(int).T)], back.array[back.array > 0])
    assert np.count_nonzero(numbers) == len(index)
    assert found.segmentation_type.value == "BINARY"
    assert [found.get_segment_description(n).segment_label for n in (1, 2, 3)] == [
        "Liver, 12 mm", "Lesion 2", "Lesion 3",
    ]  # fmt: skip
    for number in (1, 2, 3):
        one = found.get_segment_description(number)
        kind, what = one.segmented_property_category, one.segmented_property_type
        assert (kind.value, kind.scheme_designator) == ("49755003", "SCT")
        assert (what.value, what.scheme_designator) == ("52988006", "SCT")
        assert one.algorithm_type.value == "AUTOMATIC"
        assert one.algorithm_identification.name == "denovox"
    assert found.SeriesDescription == found.ContentDescription == "Two texts"
    assert (found.Modality, found.ContentQualification) == ("SEG", "RESEARCH")


@pytest.mark.parametrize("directions", [UPRIGHT, SAGITTAL, oblique(6)])
def test_simpleitk_finds_the_voxels_of_a_lesion_at_the_same_places(tmp_path, directions):
    """It knows neither segments, empty slices nor frames of odd bits: one lesion, everywhere."""
    cases.series(tmp_path / "ct", cases.phantom((8, 16, 5)), directions=directions)
    volume = formats.read(tmp_path / "ct")
    numbers = (np.random.default_rng(1).random(volume.shape) < 0.3).astype(np.uint8)
    seg.write(tmp_path / "s.dcm", numbers, volume, LESION)
    image = sitk.ReadImage(str(tmp_path / "s.dcm"))
    index = np.argwhere(sitk.GetArrayFromImage(image).T)
    direction = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    ras = (index @ direction.T + image.GetOrigin()) * [-1, -1, 1]
    there = (ras - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T
    assert np.abs(there - np.rint(there)).max() < 1e-4
    found = np.zeros_like(numbers)
    found[tuple(np.rint(there).astype(int).T)] = 1
    assert np.array_equal(found, numbers)


def test_a_number_without_voxels_keeps_the_numbers_after_it(tmp_path):
    cases.series(tmp_path / "ct", cases.phantom())
    volume = formats.read(tmp_path / "ct")
    numbers = np.where(lesions(volume) == 2, 0, lesions(volume)).astype(np.uint8)
    seg.write(tmp_path / "s.dcm", numbers, volume, LESION)
    agrees(tmp_path / "s.dcm", numbers, volume)
    assert len(pydicom.dcmread(tmp_path / "s.dcm").SegmentSequence) == 3


def test_one_lesion_in_one_slice(tmp_path):
    cases.series(tmp_path / "ct", cases.phantom())
    volume = formats.read(tmp_path / "ct")
    numbers = np.zeros(volume.shape, np.uint8)
    numbers[2, 3, 4] = 1
    seg.write(tmp_path / "s.dcm", numbers, volume, LESION)
    agrees(tmp_path / "s.dcm", numbers, volume)


@pytest.mark.parametrize(
    ("charset", "name"), [("ISO_IR 100", "Müller^Jörg"), ("ISO_IR 192", "山田^太郎"), (None, "A^B")]
)
def test_patient_and_study_are_the_series_own_whatever_they_are_written_in(tmp_path, charset, name):
    tags = {"SpecificCharacterSet": charset, "PatientName": name, "PatientBirthDate": "19600101",
            "PatientSex": "F", "StudyDate": "20200102", "StudyTime": "101112", "StudyID": "S1",
            "AccessionNumber": "A1", "ReferringPhysicianName": "Dr^No"}  # fmt: skip
    cases.series(tmp_path / "ct", cases.phantom(), tags=tags)
    volume = formats.read(tmp_path / "ct")
    seg.write(tmp_path / "s.dcm", lesions(volume), volume, LESION)
    found = pydicom.dcmread(tmp_path / "s.dcm")
    assert str(found.PatientName) == name
    own = {"PatientID": "P7", "StudyInstanceUID": f"{cases.ROOT}.2"}
    own |= {"FrameOfReferenceUID": f"{cases.ROOT}.3"}
    own |= {key: tags[key] for key in tags if key not in ("SpecificCharacterSet", "PatientName")}
    assert {key: str(found[key].value) for key in own} == own


def test_what_anonymising_left_behind_is_no_obstacle(tmp_path):
    tags = {"PatientBirthDate": "anon", "PatientSex": "woman", "StudyDate": "2020-1-2",
            "StudyTime": "99", "PatientName": None, "PatientID": None,
            "AccessionNumber": "longer than sixteen", "StudyID": "also longer than 16",
            "ReferringPhysicianName": "x" * 70}  # fmt: skip
    with quiet():  # pydicom's own doubts
        cases.series(tmp_path / "ct", cases.phantom(), tags=tags)
    volume = formats.read(tmp_path / "ct")
    seg.check(tmp_path / "s.dcm", volume)
    seg.write(tmp_path / "s.dcm", lesions(volume), volume, LESION)
    agrees(tmp_path / "s.dcm", lesions(volume), volume)
    found = pydicom.dcmread(tmp_path / "s.dcm")
    assert not any((found.PatientBirthDate, found.PatientSex, found.StudyDate, found.StudyTime))


@pytest.mark.parametrize("keyword", ["FrameOfReferenceUID", "StudyInstanceUID"])
@pytest.mark.parametrize("value", [None, "", "anonymous", "1.2.3.04"])
def test_a_uid_that_is_missing_or_not_valid_is_derived_from_the_series(tmp_path, keyword, value):
    with quiet():
        paths = cases.series(tmp_path / "ct", cases.phantom(), tags={keyword: value})
    volume, said = formats.read(tmp_path / "ct"), []
    seg.check(tmp_path / "s.dcm", volume, say=said.append)
    (note,) = said
    assert note.startswith(f"{tmp_path / 'ct'}: there is no valid {keyword}")
    for name in ("s.dcm", "t.dcm"):
        seg.write(tmp_path / name, lesions(volume), volume, LESION)
    agrees(tmp_path / "s.dcm", lesions(volume), volume)
    on_images(tmp_path / "s.dcm", paths)
    uids = [pydicom.dcmread(tmp_path / name)[keyword].value for name in ("s.dcm", "t.dcm")]
    assert uids[0] == uids[1]
    assert uids[0].is_valid
    assert uids[0] in note


def test_images_without_a_uid_of_their_own_are_not_referenced(tmp_path):
    images = cases.images(cases.phantom())
    cases.save(tmp_path / "ct", images)
    volume = formats.read(tmp_path / "ct")
    for number, path in enumerate(sorted((tmp_path / "ct").iterdir())):
        found = pydicom.dcmread(path)
        uid = ["", "1.2.3", "1.2.3"][number] if number < 3 else found.SOPInstanceUID
        found.SOPInstanceUID = found.file_meta.MediaStorageSOPInstanceUID = uid
        found.save_as(path)
    said = []
    seg.check(tmp_path / "s.dcm", volume, say=said.append)
    assert "3 of 5 files have no valid UID of their own" in said[0]
    numbers = np.ones(volume.shape, np.uint8)
    seg.write(tmp_path / "s.dcm", numbers, volume, LESION)
    agrees(tmp_path / "s.dcm", numbers, volume)
    found = pydicom.dcmread(tmp_path / "s.dcm")
    (listed,) = found.ReferencedSeriesSequence
    assert len(listed.ReferencedInstanceSequence) == len(found.SourceImageSequence) == 2
    frames = found.PerFrameFunctionalGroupsSequence
    assert sum(len(frame.DerivationImageSequence) for frame in frames) == 2


def test_a_zip_and_one_series_of_two(tmp_path):
    cases.series(tmp_path / "ct", cases.phantom())
    second = {"SeriesInstanceUID": f"{cases.ROOT}.77", "FrameOfReferenceUID": f"{cases.ROOT}.78"}
    others = cases.images(cases.phantom(seed=1), origin=(5, 6, 7), tags=second)
    cases.save(tmp_path / "ct", others, prefix="b")
    with zipfile.ZipFile(tmp_path / "both.zip", "w") as archive:
        for path in sorted((tmp_path / "ct").glob("*.dcm")):
            archive.write(path, path.name)
    volume = formats.read(tmp_path / "both.zip", series=".77")
    seg.write(tmp_path / "s.dcm", lesions(volume), volume, LESION)
    agrees(tmp_path / "s.dcm", lesions(volume), volume)
    found = pydicom.dcmread(tmp_path / "s.dcm")
    assert found.FrameOfReferenceUID == f"{cases.ROOT}.78"
    assert found.ReferencedSeriesSequence[0].SeriesInstanceUID == f"{cases.ROOT}.77"


def test_what_cannot_be_written_is_said_before(tmp_path):
    cases.series(tmp_path / "ct", cases.phantom())
    volume = formats.read(tmp_path / "ct")
    numbers = lesions(volume)
    for name, why in (
        ("s.nii", "must end in .dcm"),
        ("no/s.dcm", "no does not exist; create it first"),
    ):
        with pytest.raises(InputError, match=why):
            seg.write(tmp_path / name, numbers, volume, LESION)
    with pytest.raises(InputError, match="no voxel is marked"):
        seg.write(tmp_path / "s.dcm", np.zeros_like(numbers), volume, LESION)
    with pytest.raises(InputError, match="this scan is not DICOM"):
        seg.write(tmp_path / "s.dcm", numbers, Volume(volume.hu, volume.affine), LESION)
    with pytest.raises(ValueError, match="on a grid of"):
        seg.write(tmp_path / "s.dcm", numbers[1:], volume, LESION)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct"]
    (tmp_path / "s.dcm").write_bytes(b"before")
    with pytest.raises(InputError, match="already exists; choose another name, or use --force"):
        seg.write(tmp_path / "s.dcm", numbers, volume, LESION)
    assert (tmp_path / "s.dcm").read_bytes() == b"before"
    seg.write(tmp_path / "s.dcm", numbers, volume, replace(LESION, force=True))
    agrees(tmp_path / "s.dcm", numbers, volume)
    for path in (tmp_path / "ct").iterdir():
        path.unlink()
    with pytest.raises(InputError, match="has changed since it was read"):
        seg.write(tmp_path / "t.dcm", numbers, volume, LESION)


def test_a_full_disk_leaves_the_file_that_was_there(tmp_path, monkeypatch):
    cases.series(tmp_path / "ct", cases.phantom())
    volume = formats.read(tmp_path / "ct")
    (tmp_path / "s.dcm").write_bytes(b"before")

    def full(self, *args, **kwargs):
        args[0].write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(pydicom.Dataset, "save_as", full)
    with pytest.raises(InputError, match="No space left"):
        seg.write(tmp_path / "s.dcm", lesions(volume), volume, replace(LESION, force=True))
    assert (tmp_path / "s.dcm").read_bytes() == b"before"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "s.dcm"]
