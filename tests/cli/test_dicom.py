"""DICOM out of every command beside the CT series: maps, masks, findings, simulated scans."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import dicom_cases as cases
import highdicom as hd
import nibabel
import numpy as np
import pydicom
import pytest
from command_line import refuses, run

from denovox.inference import posterior
from denovox.io import dicom
from denovox.io.dicom.values import quiet

SHAPE = (36, 32, 12)
STEP_MM = (4.0, 4.0, 5.0)
SPOT = (slice(22, 26), slice(13, 17), slice(5, 8))


def hu_of(seed: int, spot_hu: float = 0.0) -> np.ndarray:
    """A round body, x running to the left, y to the back."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7, 60, -1000) + 0.0
    hu += 10 * np.random.default_rng(seed).standard_normal(SHAPE)
    hu[SPOT] += spot_hu
    return np.maximum(hu, -1024).round().astype(np.int16)


def save(path: Path, values: np.ndarray) -> Path:
    image = nibabel.Nifti1Image(values, np.diag([-STEP_MM[0], -STEP_MM[1], STEP_MM[2], 1.0]))
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


@pytest.fixture
def scan(tmp_path, monkeypatch):
    """The current folder, with a series, ct; the same as scan.nii.gz; and mask.nii.gz."""
    monkeypatch.chdir(tmp_path)
    cases.series(tmp_path / "ct", hu_of(0, 150), origin=(0, 0, 0), spacing=STEP_MM)
    save(tmp_path / "scan.nii.gz", hu_of(0, 150))
    mask = np.zeros(SHAPE, np.uint8)
    mask[SPOT] = 1
    save(tmp_path / "mask.nii.gz", mask)
    return tmp_path


def done(*words: object) -> str:
    result = run(*words)
    assert result.exit_code == 0, result.stderr
    return result.stderr


def ras(path: Path) -> np.ndarray:
    """Values of a scan, a map or a mask along x, y, z of RAS, by nibabel or highdicom."""
    if path.suffix == ".gz":
        return np.asarray(nibabel.as_closest_canonical(nibabel.load(path)).dataobj)
    if pydicom.dcmread(path, stop_before_pixels=True).Modality == "SEG":
        found = hd.seg.segread(path).get_volume(combine_segments=True)
    else:
        found = hd.pm.ParametricMap.from_file(path).get_volume()
    return found.to_patient_orientation("RAH").array


# ---- detect -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_detection_in_dicom_is_that_of_the_nifti_file_and_the_report(scan, tiny):
    save(scan / "healthy.nii.gz", hu_of(1))
    options = ("--weights", tiny, "--region", "abdomen", "--tile", 32)
    done("calibrate", "healthy.nii.gz", "--out", "made", *options)
    given = ("--calibration", "made/abdomen.json", *options)
    done("detect", "ct", "map.nii.gz", *given)
    done("detect", "ct", "out", *given, "--report", "map.json")
    assert sorted(path.name for path in (scan / "out").iterdir()) == [
        "components.dcm", "findings.dcm", "z-scores.dcm",
    ]  # fmt: skip
    z = ras(scan / "map.nii.gz")
    assert np.array_equal(ras(scan / "out/z-scores.dcm"), z)
    listed = json.loads((scan / "map.json").read_text())["components"]
    report = hd.sr.srread(scan / "out/findings.dcm")
    groups = report.content.get_volumetric_roi_measurement_groups()
    numbers = ras(scan / "out/components.dcm")
    assert len(groups) == len(listed) == numbers.max() > 0
    for number, (group, one) in enumerate(zip(groups, listed, strict=True), 1):
        volume_ml, mean_z, peak_z, hu = (each.value for each in group.get_measurements())
        wanted = (one["volume_ml"], one["mean_z"], one["peak_z"], one["mean_hu"])
        assert (volume_ml, mean_z, peak_z, hu) == pytest.approx(wanted, rel=1e-5)
        assert (numbers == number).sum() * np.prod(STEP_MM) / 1000 == pytest.approx(volume_ml)


# ---- denoise, inpaint, lesion -------------------------------------------------------------------


@pytest.mark.slow
def test_the_sd_of_a_dicom_result_is_a_parametric_map(scan, tiny, monkeypatch):
    def samples(engine, context, n, options):
        volume = context.volume
        sd = volume.with_hu(np.abs(volume.hu).astype(np.float32) / 8)
        return posterior.Posterior(volume, sd, n)

    monkeypatch.setattr(posterior, "samples", samples)
    options = ("--weights", tiny, "--region", "abdomen", "--noise-hu", 15, "--samples", 2)
    done("denoise", "ct", "out", *options)
    assert not (scan / "out_sd.nii.gz").exists()
    scanned = dicom.read(scan / "ct").hu
    assert np.array_equal(ras(scan / "out_sd.dcm"), np.abs(scanned) / 8)
    assert np.array_equal(dicom.read(scan / "out").hu, scanned)
    header = pydicom.dcmread(scan / "out_sd.dcm", stop_before_pixels=True)
    assert header.ContentLabel == "POSTERIOR_SD"
    shutil.copy("out_sd.dcm", "new_sd.dcm")
    refuses(run("denoise", "ct", "new", *options), "new_sd.dcm already exists")
    assert not (scan / "new").exists()


@pytest.mark.slow
def test_what_was_replaced_is_a_seg(scan, tiny_lesion, monkeypatch):
    monkeypatch.setattr("denovox.inference.inpaint.edit", lambda engine, context, edit, options: (
        context.volume))  # fmt: skip
    small = np.zeros(SHAPE, np.uint8)
    small[SPOT[0], SPOT[1], 6] = 1
    save(scan / "small.nii.gz", small)
    options = ("--mask", "mask.nii.gz", "--weights", tiny_lesion)
    done("inpaint", "ct", "out", *options, "--with-lesion", "small.nii.gz")
    assert np.bincount(ras(scan / "out_mask.dcm").ravel())[1:].tolist() == [32, 16]
    header = pydicom.dcmread(scan / "out_mask.dcm", stop_before_pixels=True)
    assert [one.SegmentLabel for one in header.SegmentSequence] == [
        "Replaced region", "Synthetic lesion",
    ]  # fmt: skip
    done("inpaint", "scan.nii.gz", "like.zip", *options, "--like", "ct")
    assert np.bincount(ras(scan / "like_mask.dcm").ravel())[1:].tolist() == [48]


# ---- simulate -----------------------------------------------------------------------------------


@pytest.mark.slow
def test_a_simulated_lower_dose_is_a_derived_series(scan):
    options = ("--views", 90, "--seed", 3)
    done("simulate", "low-dose", "ct", "out", *options)
    done("simulate", "low-dose", "ct", "out.nii.gz", *options)
    again = dicom.read(scan / "out")
    assert np.abs(again.hu - ras(scan / "out.nii.gz")).max() <= 0.5
    header = pydicom.dcmread(next((scan / "out").iterdir()), stop_before_pixels=True)
    assert header.SeriesDescription == "denovox simulate low-dose Thorax"
    assert header.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert header.ImageType[3] == "SYNTHETIC"
    for words in ("noise of a lower dose", "dose 0.25", "seed 3"):
        assert words in header.DerivationDescription
    assert "diffusion" not in header.DerivationDescription
    assert (header.PatientID, header.StudyInstanceUID) == ("P7", f"{cases.ROOT}.2")


@pytest.mark.parametrize("source", ["ct", "scan.nii.gz"])
def test_simulated_thick_slices_state_their_thickness_and_their_sources(scan, source):
    given = ("--thickness", 15, "--spacing", 20)
    done("simulate", "thick-slices", source, "out", *given,
         *(() if source == "ct" else ("--like", "ct")))  # fmt: skip
    done("simulate", "thick-slices", source, "out.nii.gz", *given)
    again = dicom.read(scan / "out")
    wanted = nibabel.as_closest_canonical(nibabel.load(scan / "out.nii.gz"))
    np.testing.assert_allclose(again.affine, wanted.affine, atol=1e-4)
    assert np.abs(again.hu - ras(scan / "out.nii.gz")).max() <= 0.501
    place = {one.SOPInstanceUID: float(one.ImagePositionPatient[2])
             for one in map(pydicom.dcmread, (scan / "ct").iterdir())}  # fmt: skip
    for path in (scan / "out").iterdir():
        one = pydicom.dcmread(path)
        assert (one.SliceThickness, one.SpacingBetweenSlices) == (15, 20)
        z = float(one.ImagePositionPatient[2])
        made_of = sorted(place[each.ReferencedSOPInstanceUID] for each in one.SourceImageSequence)
        assert made_of == [z - 5, z, z + 5]
        assert {each.SpatialLocationsPreserved for each in one.SourceImageSequence} == {"NO"}


# ---- what is refused ----------------------------------------------------------------------------

COMMANDS = ("denoise SCAN OUT --samples 2", "detect SCAN OUT", "simulate low-dose SCAN OUT")


def incomplete(folder: Path) -> str:
    next(path for path in sorted(folder.iterdir())
         if 2 < pydicom.dcmread(path).InstanceNumber < 10).unlink()  # fmt: skip
    return "slices were missing"


def two_studies(folder: Path) -> str:
    path = next(folder.iterdir())
    found = pydicom.dcmread(path)
    found.StudyInstanceUID = "1.2.3"
    found.save_as(path)
    return "slices of 2 studies"


def moved(folder: Path) -> str:
    """Another grid: only for --like."""
    for path in folder.iterdir():
        found = pydicom.dcmread(path)
        found.ImagePositionPatient[0] += 8
        found.save_as(path)
    return "36 x 32 x 12 voxels of 4 x 4 x 5 mm"


def left(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


@pytest.mark.parametrize("fault", [incomplete, two_studies])
@pytest.mark.parametrize("command", COMMANDS)
def test_a_series_that_cannot_be_continued_is_refused_before_the_work(scan, idle, command, fault):
    words = fault(scan / "ct")
    before = left(scan)
    refuses(run(*command.replace("SCAN", "ct").replace("OUT", "out.zip").split()), "ct", words)
    assert left(scan) == before


@pytest.mark.parametrize("fault", [incomplete, two_studies, moved])
@pytest.mark.parametrize("command", COMMANDS[:2])
def test_a_series_for_like_that_does_not_fit_is_refused(scan, idle, command, fault):
    words = fault(scan / "ct")
    before = left(scan)
    asked = command.replace("SCAN", "scan.nii.gz").replace("OUT", "out").split()
    refuses(run(*asked, "--like", "ct"), words)
    assert left(scan) == before


@pytest.mark.parametrize("command", COMMANDS)
def test_a_folder_with_files_is_left_as_it_is(scan, idle, command):
    (scan / "out").mkdir()
    (scan / "out/notes.txt").write_text("mine")
    asked = command.replace("SCAN", "ct").replace("OUT", "out").split()
    refuses(run(*asked), "out already contains files; choose another, or use --force")
    assert (scan / "out/notes.txt").read_text() == "mine"


def test_findings_need_a_series_with_a_valid_uid(scan, idle):
    for path in (scan / "ct").iterdir():
        found = pydicom.dcmread(path)
        with quiet():
            found.SeriesInstanceUID = "1.2.3.04"
            found.save_as(path)
    before = left(scan)
    refuses(run("detect", "ct", "out"), "has no valid SeriesInstanceUID")
    assert left(scan) == before
