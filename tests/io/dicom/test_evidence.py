"""denovox.io.dicom.evidence: maps, components and findings that any reader puts in the same place.

The oracles are pydicom alone, highdicom's readers, and, where they are installed, dciodvfy
(dicom3tools) and dcmtk.
"""

from __future__ import annotations

import errno
import multiprocessing
import shutil
import subprocess
import sys
import zipfile
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from io import BufferedReader
from pathlib import Path

import dicom_cases as cases
import highdicom as hd
import numpy as np
import pydicom
import pydicom.sr._concepts_dict as known
import pytest
from dicom_cases import refused
from pydicom.dataset import Dataset
from pydicom.sr.codedict import codes
from writing_memory import grown

from denovox.core.volume import Volume
from denovox.io import dicom, nifti
from denovox.io.dicom import derived
from denovox.io.dicom.derived import Processing
from denovox.io.dicom.evidence import SD, Z_SCORE, Finding, Findings, maps, seg, write_findings
from denovox.io.dicom.evidence import findings as of
from denovox.io.dicom.evidence.report import SITES
from denovox.io.dicom.values import quiet

DETECT = Processing("detect", "seed 0", "5e" * 32)
SAGITTAL = ((0.0, 1.0, 0.0), (0.0, 0.0, -1.0))
FLIPPED = ((-1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
FOUND = (
    Finding(1.234567, 5.1, 7.9, 42.3, "chest", "lung"),
    Finding(0.5, -5.2, -7.5, -42.3, "abdomen", "body"),
)
NAMES = ["components.dcm", "findings.dcm", "z-scores.dcm"]


def oblique() -> tuple[np.ndarray, np.ndarray]:
    turn, _ = np.linalg.qr(np.random.default_rng(4).normal(size=(3, 3)))
    return turn[0], turn[1]


def scan_in(folder: Path, **how: object) -> Volume:
    cases.series(folder, cases.phantom((16, 12, 6)), **how)
    return dicom.read(folder)


def detected(volume: Volume, found: tuple[Finding, ...] = FOUND) -> Findings:
    z = np.random.default_rng(0).normal(0, 3, volume.shape).astype(np.float32)
    numbers = np.zeros(volume.shape, np.uint16)
    for number in range(1, len(found) + 1):
        numbers[2 * number : 2 * number + 2, 1:3, number : number + 2] = number
    lines = [f"component {number}" for number in range(1, len(found) + 1)]
    return Findings(volume.with_hu(z), numbers, found, lines, 6.7)


def frames_of(path: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(values, RAS mm of each) of the frames of a map, by what PS3.3 C.7.6.2.1.1 says of them."""
    found = pydicom.dcmread(path)
    shape = (int(found.NumberOfFrames), found.Rows, found.Columns)
    values = np.frombuffer(found.FloatPixelData, "<f4").reshape(shape)
    shared = found.SharedFunctionalGroupsSequence[0]
    ways = np.array(shared.PlaneOrientationSequence[0].ImageOrientationPatient, float)
    down, across = map(float, shared.PixelMeasuresSequence[0].PixelSpacing)
    row, column = np.indices(shape[1:])
    out = []
    for plane, own in zip(values, found.PerFrameFunctionalGroupsSequence, strict=True):
        place = np.array(own.PlanePositionSequence[0].ImagePositionPatient, float)
        lps = place + across * column[..., None] * ways[:3] + down * row[..., None] * ways[3:]
        out.append((plane, lps * [-1, -1, 1]))
    return out


# ---- maps ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "directions", [cases.UPRIGHT, FLIPPED, SAGITTAL, oblique()], ids=["up", "flip", "sag", "ob"]
)
def test_every_value_of_a_map_is_at_its_millimetre(tmp_path, directions):
    volume = scan_in(tmp_path / "ct", directions=directions)
    z = detected(volume).z
    maps.write(tmp_path / "z.dcm", z, Z_SCORE, DETECT)
    frames = frames_of(tmp_path / "z.dcm")
    places = np.concatenate([each.reshape(-1, 3) for _, each in frames])
    values = np.concatenate([each.ravel() for each, _ in frames])
    index = (places - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T
    assert np.abs(index - np.rint(index)).max() < 1e-4
    assert np.array_equal(z.hu[tuple(np.rint(index).astype(int).T)], values)
    assert values.size == z.hu.size
    back = hd.pm.ParametricMap.from_file(tmp_path / "z.dcm").get_volume()
    ras = np.diag([-1, -1, 1, 1]) @ back.affine
    there = np.moveaxis(np.indices(back.shape), 0, -1) @ ras[:3, :3].T + ras[:3, 3]
    index = np.rint((there - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T)
    np.testing.assert_allclose(back.array, z.hu[tuple(np.moveaxis(index.astype(int), -1, 0))])


def test_a_map_states_what_its_values_are_and_what_they_were_made_from(tmp_path):
    volume = scan_in(tmp_path / "ct")
    images = {float(one.ImagePositionPatient[2]): one for one in map(pydicom.dcmread, (
        tmp_path / "ct").iterdir())}  # fmt: skip
    maps.write(tmp_path / "z.dcm", detected(volume).z, Z_SCORE, DETECT)
    maps.write(tmp_path / "sd.dcm", volume.with_hu(np.abs(volume.hu)), SD, Processing("denoise"))
    wanted = {
        "z.dcm": ("ANOMALY_Z", codes.cid7180.ZScore, codes.UCUM.NoUnits),
        "sd.dcm": ("POSTERIOR_SD", codes.DCM.StandardDeviationOfAttenuationCoefficient,
                   codes.UCUM.HounsfieldUnit),
    }  # fmt: skip
    for name, (label, meaning, unit) in wanted.items():
        found = pydicom.dcmread(tmp_path / name)
        (mapped,) = found.SharedFunctionalGroupsSequence[0].RealWorldValueMappingSequence
        (quantity,) = mapped.QuantityDefinitionSequence
        assert found.ContentLabel == mapped.LUTLabel == label
        assert code(quantity.ConceptCodeSequence[0]) == meaning
        assert code(mapped.MeasurementUnitsCodeSequence[0]) == unit
        assert (mapped.RealWorldValueSlope, mapped.RealWorldValueIntercept) == (1, 0)
        values = np.frombuffer(found.FloatPixelData, "<f4")
        span = (mapped.DoubleFloatRealWorldValueFirstValueMapped,
                mapped.DoubleFloatRealWorldValueLastValueMapped)  # fmt: skip
        assert span == (values.min(), values.max())
        assert (found.PatientID, str(found.PatientName)) == ("P7", "Doe^Jane")
        assert found.StudyInstanceUID == f"{cases.ROOT}.2"
        assert found.FrameOfReferenceUID == f"{cases.ROOT}.3"
        assert found.ContentQualification == "RESEARCH"
        for frame in found.PerFrameFunctionalGroupsSequence:
            (derivation,) = frame.DerivationImageSequence
            (image,) = derivation.SourceImageSequence
            z_mm = float(frame.PlanePositionSequence[0].ImagePositionPatient[2])
            assert image.ReferencedSOPInstanceUID == images[z_mm].SOPInstanceUID
            assert "by a 3D diffusion model" in derivation.DerivationDescription


def code(item: Dataset) -> pydicom.sr.coding.Code:
    return pydicom.sr.coding.Code(item.CodeValue, item.CodingSchemeDesignator, item.CodeMeaning)


def test_the_stream_of_a_map_is_its_bytes_however_it_is_read():
    values = np.random.default_rng(0).random((5, 3, 40), np.float32)
    whole, stream = values.T.tobytes(), BufferedReader(maps.Stream(values))
    rng = np.random.default_rng(1)
    for _ in range(50):
        at, size = (int(n) for n in rng.integers(0, len(whole) + 9, 2))
        assert stream.seek(at) == at
        assert stream.read(size) == whole[at : at + size]
    stream.seek(0)
    assert stream.read() == whole
    assert (stream.seek(0, 2), stream.read(5)) == (len(whole), b"")


def test_a_map_with_values_that_are_not_finite_is_refused(tmp_path):
    volume = scan_in(tmp_path / "ct")
    hu = volume.hu.copy()
    hu[0, 0, 0] = np.nan
    out = tmp_path / "z.dcm"
    refused(lambda: maps.write(out, volume.with_hu(hu), SD, DETECT), str(out), "NaN or infinite")
    assert not out.exists()


# ---- findings -----------------------------------------------------------------------------------


def test_findings_refer_to_their_segments_and_to_the_source_series(tmp_path):
    volume = scan_in(tmp_path / "ct")
    results = detected(volume)
    write_findings(tmp_path / "out", results, DETECT)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == NAMES
    segments = hd.seg.segread(tmp_path / "out/components.dcm")
    back = segments.get_volume(combine_segments=True)
    assert np.bincount(back.array.ravel())[1:].tolist() == [8, 8]
    text = hd.sr.srread(tmp_path / "out/findings.dcm")
    assert (text.CompletionFlag, text.VerificationFlag) == ("COMPLETE", "UNVERIFIED")
    (scan,) = text.content.get_image_measurement_groups()
    assert [each.value for each in scan.get_measurements()] == [6.7]
    groups = text.content.get_volumetric_roi_measurement_groups()
    assert len(groups) == len(FOUND)
    for number, (group, one) in enumerate(zip(groups, FOUND, strict=True), 1):
        described = segments.get_segment_description(number)
        assert group.tracking_uid == described.tracking_uid
        assert group.tracking_identifier == described.tracking_id == f"denovox component {number}"
        segment = group.referenced_segment
        assert segment.referenced_sop_instance_uid == segments.SOPInstanceUID
        assert segment.referenced_segment_numbers == [number]
        assert segment.source_series_for_segmentation.value == cases.SERIES
        (site,) = group.finding_sites
        assert site.value == (codes.SCT.Lung if number == 1 else SITES["abdomen"])
        volume_ml, mean_z, peak_z, hu = group.get_measurements()
        most = codes.SCT.Maximum if one.peak_z > 0 else codes.SCT.Minimum
        assert (volume_ml.name, volume_ml.unit) == (codes.SCT.Volume, ML)
        assert volume_ml.value == pytest.approx(one.volume_ml, rel=1e-5)
        assert (mean_z.value, mean_z.derivation) == (one.mean_z, codes.SCT.Mean)
        assert (peak_z.value, peak_z.derivation) == (one.peak_z, most)
        assert (hu.value, hu.unit) == (one.mean_hu, codes.UCUM.HounsfieldUnit)
    (study,) = text.CurrentRequestedProcedureEvidenceSequence
    listed = {
        each.ReferencedSOPInstanceUID
        for one in study.ReferencedSeriesSequence
        for each in one.ReferencedSOPSequence
    }
    sources = {pydicom.dcmread(path).SOPInstanceUID for path in (tmp_path / "ct").iterdir()}
    made = {pydicom.dcmread(tmp_path / "out" / name).SOPInstanceUID for name in NAMES[::2]}
    assert listed == sources | made


ML = pydicom.sr.coding.Code("ml", "UCUM", "milliliter")


def test_without_a_component_there_is_a_score_and_no_seg(tmp_path):
    volume = scan_in(tmp_path / "ct")
    write_findings(tmp_path / "out", detected(volume, ()), DETECT)
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == NAMES[1:]
    content = hd.sr.srread(tmp_path / "out/findings.dcm").content
    assert not content.get_volumetric_roi_measurement_groups()
    assert len(content.get_image_measurement_groups()) == 1


def test_codes_are_those_of_the_standard():
    every = [*SITES.values(), seg.ABNORMAL]
    for content in (seg.LESIONS, seg.COMPONENTS, seg.REPLACED):
        every += [content.category, content.kind]
    for quantity in (Z_SCORE, SD):
        every += [quantity.meaning, quantity.unit]
    for one in every:
        listed = known.concepts[one.scheme_designator].values()
        assert one.meaning in {each[one.value][0] for each in listed if one.value in each}, one


def test_the_same_call_writes_the_same_bytes_and_any_other_has_other_uids(tmp_path):
    volume = scan_in(tmp_path / "ct", tags={"StudyDate": "20200102", "StudyTime": "101112"})
    results = detected(volume)
    other = replace(results, z=volume.with_hu(results.z.hu + 1))
    for name, found, how in (
        ("a", results, DETECT),
        ("b", results, DETECT),
        ("c.zip", results, DETECT),
        ("d", results, Processing("detect", "seed 1", "5e" * 32)),
        ("e", other, DETECT),
    ):
        write_findings(tmp_path / name, found, how)
    bytes_of = {name: [(tmp_path / name / each).read_bytes() for each in NAMES] for name in "abde"}
    assert bytes_of["a"] == bytes_of["b"]
    with zipfile.ZipFile(tmp_path / "c.zip") as archive:
        assert sorted(archive.namelist()) == NAMES
        assert [archive.read(each) for each in NAMES] == bytes_of["a"]
    uids = {
        name: [pydicom.dcmread(tmp_path / name / each).SOPInstanceUID for each in NAMES]
        for name in "ade"
    }
    assert not set(uids["a"]) & set(uids["d"])
    assert uids["a"][0] == uids["e"][0]  # of the components, which are the same
    assert not set(uids["a"][1:]) & set(uids["e"])
    for each in NAMES:
        found = pydicom.dcmread(tmp_path / "a" / each)
        assert (found.ContentDate, found.ContentTime) == ("20200102", "101112")
        assert not [key for key in ("InstanceCreationDate", "SeriesDate") if key in found]


def test_nothing_private_and_nothing_of_the_device_is_passed_on(tmp_path):
    tags = {"SpecificCharacterSet": "ISO_IR 100", "PatientName": "Müller^Ann", "StationName": "CT1",
            "InstitutionName": "Clinic", "OperatorsName": "Op^One"}  # fmt: skip
    made = cases.images(cases.phantom((16, 12, 6)), tags=tags)
    for one in made:
        one.private_block(0x0019, "MAKER", create=True).add_new(0x10, "LO", "secret")
    cases.save(tmp_path / "ct", made)
    write_findings(tmp_path / "out", detected(dicom.read(tmp_path / "ct")), DETECT)
    for name in NAMES:
        found = pydicom.dcmread(tmp_path / "out" / name)
        assert str(found.PatientName) == "Müller^Ann"
        assert not [element.tag for element in found.iterall() if element.tag.is_private]
        assert not [key for key in ("StationName", "InstitutionName", "OperatorsName")
                    if key in found]  # fmt: skip


@pytest.mark.parametrize("kind", ["classic", "enhanced", "bare"])
def test_dciodvfy_and_dcmtk_find_no_error(tmp_path, kind):
    for name in ("dciodvfy", "dcmdump", "dsrdump"):
        if shutil.which(name) is None:
            pytest.skip(f"{name} is not installed (Debian: dicom3tools, dcmtk)")
    bare = dict.fromkeys(("StudyInstanceUID", "FrameOfReferenceUID", "PatientName"))
    made = cases.images(cases.phantom((16, 12, 6)), tags=bare if kind == "bare" else {})
    cases.save(tmp_path / "ct", [cases.enhanced(made)] if kind == "enhanced" else made)
    volume = dicom.read(tmp_path / "ct")
    results = detected(volume)
    write_findings(tmp_path / "out", results, DETECT)
    maps.write(tmp_path / "out/sd.dcm", volume, SD, Processing("denoise"))
    hole = results.numbers > 0
    how = seg.How(Processing("inpaint"), ("Replaced region",), seg.REPLACED)
    seg.write(tmp_path / "out/mask.dcm", seg.layered(hole, results.numbers > 1), volume, how)
    for path in sorted((tmp_path / "out").iterdir()):
        done = subprocess.run(["dciodvfy", path], capture_output=True, text=True)
        assert not [line for line in done.stderr.splitlines() if line.startswith("Error")], path
        assert subprocess.run(["dcmdump", "+E", path], capture_output=True).returncode == 0
    text = subprocess.run(
        ["dsrdump", tmp_path / "out/findings.dcm"], capture_output=True, text=True, check=True
    ).stdout
    assert text.count('"Measurement Group"') == 1 + len(FOUND)


# ---- the series that they are about -------------------------------------------------------------


def test_nifti_takes_patient_and_study_from_a_series_on_its_grid(tmp_path):
    volume = scan_in(tmp_path / "ct")
    nifti.write(Volume(volume.hu, volume.affine), tmp_path / "ct.nii")
    scan, like = nifti.read(tmp_path / "ct.nii"), derived.like_series(tmp_path / "ct")
    out = tmp_path / "out"
    refused(lambda: write_findings(out, detected(scan), DETECT), str(out), "is not DICOM")
    moved = Volume(scan.hu, scan.affine + np.eye(4, k=3))
    for write in (
        lambda: write_findings(out, detected(moved), DETECT, like=like),
        lambda: of.check(out, moved, like=like),
        lambda: maps.check(tmp_path / "sd.dcm", moved, like=like),
        lambda: seg.check(tmp_path / "m.dcm", moved, like=like),
    ):
        refused(write, "16 x 12 x 6 voxels", str(tmp_path / "ct"), "resample one of them")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ct", "ct.nii"]
    of.check(out, scan, like=like)
    write_findings(out, detected(scan), DETECT, like=like)
    write_findings(tmp_path / "same", detected(volume), DETECT)
    for name in NAMES:
        assert (out / name).read_bytes() == (tmp_path / "same" / name).read_bytes()


def test_what_cannot_be_written_is_said_before(tmp_path):
    volume = scan_in(tmp_path / "ct")
    out = tmp_path / "out"
    out.mkdir()
    (out / "notes.txt").write_text("mine")
    for call in (
        lambda: of.check(out, volume),
        lambda: write_findings(out, detected(volume), DETECT),
    ):
        refused(call, f"{out} already contains files")
    refused(lambda: of.check(tmp_path / "no/out.zip", volume), "does not exist; create it first")
    write_findings(out, detected(volume), DETECT, force=True)
    assert sorted(path.name for path in out.iterdir()) == sorted([*NAMES, "notes.txt"])
    shutil.rmtree(tmp_path / "ct")
    with quiet():
        volume = scan_in(tmp_path / "ct", tags={"SeriesInstanceUID": "1.2.3.04"})
    refused(lambda: of.check(tmp_path / "x", volume), "has no valid SeriesInstanceUID")
    shutil.rmtree(tmp_path / "ct")
    refused(lambda: of.check(tmp_path / "x", volume), str(tmp_path / "ct"), "does not exist")


@pytest.mark.parametrize("name", ["out", "out.zip"])
def test_a_full_disk_half_way_leaves_nothing(tmp_path, monkeypatch, name):
    volume = scan_in(tmp_path / "ct")
    results, save, count = detected(volume), Dataset.save_as, iter(range(9))

    def full(self: Dataset, *args: object, **how: object) -> None:
        if next(count) == 2:
            raise OSError(errno.ENOSPC, "No space left on device")
        save(self, *args, **how)

    monkeypatch.setattr(Dataset, "save_as", full)
    out = tmp_path / name
    refused(lambda: write_findings(out, results, DETECT), str(out), "No space left on device")
    assert [path.name for path in tmp_path.iterdir()] == ["ct"]


# ---- memory -------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="/proc is Linux's")
def test_writing_takes_less_than_a_copy_of_the_volume(tmp_path):
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        shares = pool.submit(grown, tmp_path).result()
    assert len(shares) == 3
    assert max(shares.values()) < 1, shares
