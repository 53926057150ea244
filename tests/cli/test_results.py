"""Where results go: DICOM series, pages, and `denovox view`."""

from __future__ import annotations

import re
import webbrowser
from pathlib import Path

import nibabel
import numpy as np
import pydicom
import pytest
from command_line import refuses, run
from round_body import SHAPE, scans

from denovox.scan.gate import read


@pytest.fixture
def scan(tmp_path):
    """A round body as a DICOM series, ct; the same as scan.nii.gz; and mask.nii.gz."""
    return scans(tmp_path)


def denoise(folder, source, output, tiny, *more):
    words = ("--noise-hu", 15, "--region", "abdomen", "--weights", tiny, "--tile", 32, *more)
    return run("denoise", folder / source, folder / output, *words)


@pytest.mark.slow
@pytest.mark.parametrize("output", ["out", "out.zip"])
def test_a_dicom_result_holds_the_hu_of_the_nifti_result(scan, tiny, output):
    for name in (output, "out.nii.gz"):
        result = denoise(scan, "ct", name, tiny)
        assert result.exit_code == 0, result.stderr
    series, nifti = read(scan / output), read(scan / "out.nii.gz")
    assert np.array_equal(series.hu, np.rint(nifti.hu))
    assert np.allclose(series.affine, nifti.affine, atol=1e-6)
    assert series.source.patient_id == read(scan / "ct").source.patient_id


@pytest.mark.slow
def test_the_header_states_the_command_and_its_settings(scan, tiny, tiny_lesion):
    assert denoise(scan, "ct", "out", tiny, "--seed", 7).exit_code == 0
    header = pydicom.dcmread(next((scan / "out").iterdir()), stop_before_pixels=True)
    assert header.ImageType[:2] == ["DERIVED", "SECONDARY"]
    assert header.SeriesDescription.startswith("denovox denoise")
    for words in ("noise_hu 15.0", "region abdomen", "seed 7", "tile 32"):
        assert words in header.DerivationDescription
    assert re.search("weights sha256 [0-9a-f]{64}", header.DerivationDescription)
    words = ("--mask", scan / "mask.nii.gz", "--weights", tiny_lesion)
    assert run("inpaint", scan / "ct", scan / "new", *words).exit_code == 0
    header = pydicom.dcmread(next((scan / "new").iterdir()), stop_before_pixels=True)
    assert "mask mask.nii.gz" in header.DerivationDescription
    assert str(scan) not in header.to_json()


@pytest.mark.slow
def test_the_same_run_gives_the_same_files(scan, tiny):
    for name in ("a", "b"):
        assert denoise(scan, "ct", name, tiny).exit_code == 0
    first, second = ({p.name: p.read_bytes() for p in (scan / n).iterdir()} for n in "ab")
    assert first == second


@pytest.mark.slow
def test_nifti_becomes_dicom_like_a_series(scan, tiny, idle, monkeypatch):
    refuses(denoise(scan, "scan.nii.gz", "out", tiny), "give a series with --like")
    refuses(denoise(scan, "ct", "out.nii.gz", tiny, "--like", scan / "ct"), "a folder or a .zip")
    refuses(denoise(scan, "ct", "ct", tiny), "OUTPUT is INPUT itself")
    assert sorted(p.name for p in scan.iterdir()) == ["ct", "mask.nii.gz", "scan.nii.gz", "weights"]
    monkeypatch.undo()
    result = denoise(scan, "scan.nii.gz", "out", tiny, "--like", scan / "ct")
    assert result.exit_code == 0, result.stderr
    assert read(scan / "out").source.patient_id == read(scan / "ct").source.patient_id


@pytest.mark.slow
def test_thin_slices_as_dicom(scan, tiny):
    words = ("--factor", 2, "--region", "abdomen", "--weights", tiny)
    result = run("superres", scan / "ct", scan / "thin", *words)
    assert result.exit_code == 0, result.stderr
    thin = read(scan / "thin")
    assert thin.shape == (*SHAPE[:2], 2 * SHAPE[2])
    assert thin.spacing_mm == pytest.approx((4, 4, 2.5))


def test_a_report_accepts_what_the_command_accepts(scan, tiny):
    image = nibabel.load(scan / "scan.nii.gz")
    shifted = np.asarray(image.dataobj) + np.int16(1024)
    nibabel.Nifti1Image(shifted, image.affine, image.header).to_filename(scan / "lost.nii.gz")
    words = ("--factor", 2, "--region", "abdomen", "--weights", tiny, "--report", scan / "page")
    refuses(run("superres", scan / "lost.nii.gz", scan / "out.nii.gz", *words), "--accept-hu")
    result = run("superres", scan / "lost.nii.gz", scan / "out.nii.gz", *words, "--accept-hu")
    assert result.exit_code == 0, result.stderr
    assert names(scan / "page")[1][:2] == ["result", "change"]


def test_a_generated_scan_as_dicom_has_no_patient(scan, tiny):
    words = ("--region", "abdomen", "--shape", "8x32x32", "--spacing", 4, "--steps", 2)
    result = run("synthesize", scan / "new.zip", *words, "--weights", tiny)
    assert result.exit_code == 0, result.stderr
    made = read(scan / "new.zip", accept_hu=True)
    assert made.shape == (32, 32, 8)
    assert made.source.patient_id == ""


# ---- pages --------------------------------------------------------------------------------------


def names(folder: Path) -> list[list[str]]:
    """The names of the images and overlays of a page."""
    import json

    (content,) = re.findall(r'id="view">(.*?)</script>', (folder / "index.html").read_text())
    return [[layer["name"] for layer in image] for image in json.loads(content)["images"]]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("lesion ct out.nii.gz --mask mask.nii.gz", [["before", "mask"], ["after", "mask"]]),
        ("inpaint ct out.nii.gz --mask mask.nii.gz", [["before", "mask"], ["after", "mask"]]),
        (
            "synthesize out.nii.gz --region abdomen --shape 8x32x32 --spacing 4 --steps 2",
            [["scan"]],
        ),
    ],
)
def test_every_command_has_a_page(scan, tiny_lesion, monkeypatch, words, shown):
    monkeypatch.chdir(scan)
    result = run(*words.split(), "--weights", tiny_lesion, "--tile", 32, "--report", "page")
    assert result.exit_code == 0, result.stderr
    assert names(scan / "page") == shown
    text = (scan / "page" / "index.html").read_text()
    assert f"denovox {words.split()[0]}" in text
    assert "&quot;steps&quot;: 2" in text or "synthesize" not in words
    again = run(*words.split(), "--weights", tiny_lesion, "--force", "--report", "page/index.html")
    refuses(again, "index.html")  # a file, where a folder is wanted


@pytest.mark.slow
def test_a_page_of_a_lesion_lists_it(scan, tiny_lesion):
    words = ("--mask", scan / "mask.nii.gz", "--weights", tiny_lesion, "--report", scan / "page")
    assert run("lesion", scan / "ct", scan / "out.nii.gz", *words).exit_code == 0
    text = (scan / "page" / "index.html").read_text()
    ((x, y, z),) = re.findall(r'data-mm="\[([-\d.]+), ([-\d.]+), ([-\d.]+)\]"', text)
    centre = np.diag([-4.0, -4.0, 5.0]) @ [19.5, 19.5, 5.5]  # of the mask, mm
    assert np.allclose([float(x), float(y), float(z)], centre, atol=0.1)


def test_view_compares_two_files(scan, monkeypatch):
    result = run("view", scan / "ct", scan / "scan.nii.gz", "--mask", scan / "mask.nii.gz",
                 "--out", scan / "page.html")  # fmt: skip
    assert result.exit_code == 0, result.stderr
    assert "interpolated" not in result.stderr
    (scan / "page.html").rename(scan / "index.html")
    assert names(scan) == [["before", "mask"], ["after", "mask"]]
    refuses(run("view", scan / "ct", "--out", scan / "page.txt"), ".html")
    refuses(run("view", scan / "ct", "--out", scan / "index.html"), "--force")


def test_view_opens_a_browser(scan, monkeypatch):
    opened: list[str] = []
    monkeypatch.setattr(webbrowser, "open", lambda url: not opened.append(url))
    assert run("view", scan / "ct").exit_code == 0
    (url,) = opened
    assert Path(url.removeprefix("file://")).read_text().startswith("<!doctype html>")
    monkeypatch.setattr(webbrowser, "open", lambda url: False)
    refuses(run("view", scan / "ct"), "no browser could be started", "--out")


def test_view_puts_the_scan_on_the_grid_of_the_result(scan):
    image = nibabel.load(scan / "scan.nii.gz")
    fine = nibabel.Nifti1Image(
        np.repeat(np.asarray(image.dataobj), 2, axis=2),
        image.affine @ np.array([[1, 0, 0, 0], [0, 1, 0, 0], [0, 0, 0.5, -0.25], [0, 0, 0, 1]]),
    )
    fine.header.set_xyzt_units("mm")
    fine.to_filename(scan / "fine.nii.gz")
    result = run("view", scan / "ct", scan / "fine.nii.gz", "--out", scan / "index.html")
    assert result.exit_code == 0, result.stderr
    assert "interpolated onto the grid" in result.stderr
    moved = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine + 9999 * np.eye(4, k=3))
    moved.header.set_xyzt_units("mm")
    moved.to_filename(scan / "far.nii.gz")
    refuses(run("view", scan / "ct", scan / "far.nii.gz", "--out", scan / "b.html"), "overlap")
