"""What restoring commands write beside the scan, and `denovox superres`."""

import json

import nibabel
import numpy as np
import pytest
from command_line import run

from denovox.core.labels import OUTSIDE
from denovox.core.operators.thin_slices import thin
from denovox.io import nifti
from denovox.scan.anatomy import coarse

SHAPE = (36, 32, 8)


@pytest.fixture
def scan(tmp_path):
    """A round section of soft tissue that changes along z; 4 x 4 x 5 mm."""
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7 - 0.2 * z, 60, -1000) + 0.0
    hu += 20 * np.random.default_rng(0).standard_normal(SHAPE)
    path = tmp_path / "scan.nii.gz"
    image = nibabel.Nifti1Image(hu.round().astype(np.int16), np.diag([-4.0, -4.0, 5.0, 1.0]))
    image.to_filename(path)
    return path


def test_a_report_comes_with_the_result(scan, tmp_path, tiny):
    out, folder = tmp_path / "out.nii.gz", tmp_path / "report"
    asked = ("--weights", tiny, "--noise-hu", 20, "--region", "abdomen", "--report", folder)
    result = run("denoise", scan, out, *asked)
    assert result.exit_code == 0, result.output
    told = json.loads((folder / "report.json").read_text())
    assert told["settings"] == {
        "region": "abdomen", "noise_hu": 20, "samples": None,
        "seed": 0,
    }  # fmt: skip
    assert told["noise_hu"] == 20
    assert [(n["region"], n["start"], n["stop"]) for n in told["noise"]] == [("abdomen", 0, 8)]
    not_evaluated = {c["name"] for c in told["checks"] if c["verdict"] == "not evaluated"}
    assert not not_evaluated & {"removed_ratio", "residual_correlation"}
    assert told["spread"] is None
    assert len(told["weights"]) == 64
    assert told["summary"] in result.stderr
    page = (folder / "index.html").read_text()
    assert 'type="text/plain" id="image1"' in page
    before = out.read_bytes()
    again = run("denoise", scan, tmp_path / "more.nii.gz", *asked)
    assert again.exit_code == 2  # the report's folder is taken
    assert not (tmp_path / "more.nii.gz").exists()
    assert out.read_bytes() == before


def test_samples_give_a_mean_and_a_map_of_their_sd(scan, tmp_path, tiny):
    out, folder = tmp_path / "out.nii.gz", tmp_path / "report"
    asked = ("--weights", tiny, "--noise-hu", 20, "--region", "abdomen", "--samples", 2)
    result = run("denoise", scan, out, *asked, "--report", folder)
    assert result.exit_code == 0, result.output
    mean, sd = (nibabel.load(tmp_path / f"out{end}.nii.gz") for end in ("", "_sd"))
    assert sd.shape == mean.shape
    first, second = (nibabel.as_closest_canonical(each).affine for each in (mean, sd))
    np.testing.assert_allclose(first, second)
    inside = nibabel.as_closest_canonical(nibabel.load(scan)).get_fdata() > -100
    values = nibabel.as_closest_canonical(sd).get_fdata()
    assert values[inside].mean() > 1
    assert (values[~inside] == 0).mean() > 0.9
    told = json.loads((folder / "report.json").read_text())
    assert told["spread"]["mean_hu"] > 1
    assert told["settings"]["samples"] == 2
    out.unlink()
    again = run("denoise", scan, out, *asked)
    assert again.exit_code == 2  # the map is there already
    assert "out_sd.nii.gz" in again.stderr
    assert not out.exists()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--samples", 1), "at least 2 samples, not 1"),
    ],
)
def test_samples_are_refused_before_any_work(tmp_path, words, says):
    result = run("denoise", tmp_path / "none.nii.gz", tmp_path / "out.nii.gz", *words)
    assert result.exit_code == 2
    assert says in result.stderr


def test_superres_reports(scan, tmp_path, tiny):
    out, folder = tmp_path / "out.nii.gz", tmp_path / "report"
    asked = ("--factor", 2, "--weights", tiny, "--region", "abdomen", "--report", folder)
    result = run("superres", scan, out, *asked)
    assert result.exit_code == 0, result.output
    told = json.loads((folder / "report.json").read_text())
    checks = {check["name"]: check for check in told["checks"]}
    assert checks["data_consistency"]["verdict"] == "fine"
    assert 0 < told["data_consistency_hu"] < 0.1
    assert checks["structure"]["verdict"] == "not evaluated"
    assert told["settings"]["factor"] == 2
    volume = nifti.read(scan)
    base = thin(volume, (0.7, 6), factor=2).grid(volume)
    changed = (nifti.read(out).hu - base.hu)[coarse(base) != OUTSIDE]
    # The file's HU are rounded: an SD of .29.
    assert told["change"]["rms_hu"] == pytest.approx(np.sqrt(np.mean(changed**2)), abs=0.2)
    assert told["change"]["rms_hu"] > 1
    assert told["summary"] in result.stderr
    before = out.read_bytes()
    assert run("superres", scan, tmp_path / "more.nii.gz", *asked).exit_code == 2
    assert not (tmp_path / "more.nii.gz").exists()
    assert out.read_bytes() == before


def test_superres_gives_slices_that_average_to_the_scans(scan, tmp_path, tiny):
    out = tmp_path / "out.nii.gz"
    asked = ("--factor", 2, "--weights", tiny, "--region", "abdomen", "--tile", 32)
    result = run("superres", scan, out, *asked)
    assert result.exit_code == 0, result.output
    assert "averaged back" in result.stderr
    thick = nibabel.as_closest_canonical(nibabel.load(scan))
    thin = nibabel.as_closest_canonical(nibabel.load(out))
    assert thin.shape == (36, 32, 16)
    np.testing.assert_allclose(np.diag(thin.affine), [4, 4, 2.5, 1])
    assert thin.affine[2, 3] == pytest.approx(thick.affine[2, 3] - 1.25)
    pairs = thin.get_fdata().reshape(36, 32, 8, 2).mean(3)
    # The file's whole numbers: half a HU each, half of that in a mean at most... and rounding.
    assert np.abs(pairs - thick.get_fdata()).max() <= 0.51


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ((), "either --factor or --spacing-z"),
        (("--factor", 5, "--spacing-z", 1), "either --factor or --spacing-z"),
        (("--factor", 0.5), "0.5"),
        (("--spacing-z", 0.1), "0.7 to 6 mm"),
        (("--factor", 2, "--thickness", 1), "1 mm thick"),
    ],
)
def test_superres_refuses(scan, tmp_path, tiny, words, says):
    out = tmp_path / "out.nii.gz"
    result = run("superres", scan, out, "--weights", tiny, *words)
    assert result.exit_code == 2
    assert says in result.stderr.strip().splitlines()[-1]
    assert not out.exists()


@pytest.mark.slow
def test_the_coarse_anatomy_is_computed_once(scan, tmp_path, tiny, coarse_calls):
    thin = (*SHAPE[:2], 2 * SHAPE[2])
    commands = (
        (("denoise",), SHAPE),
        (("denoise", "--samples", 2), SHAPE),
        (("superres", "--factor", 2), thin),
    )
    for number, ((name, *more), shape) in enumerate(commands):
        for report in ((), ("--report", tmp_path / f"report{number}")):
            coarse_calls.clear()
            asked = (*more, *report, "--weights", tiny, "--tile", 32, "--force")
            result = run(name, scan, tmp_path / "out.nii.gz", *asked)
            assert result.exit_code == 0, result.output
            assert coarse_calls == [shape], (name, report)
