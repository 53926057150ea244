"""The demo's plumbing, with a toy for a model; what it looks like is for eyes."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from click.testing import CliRunner

from denovox.cli.main import main
from denovox.evaluation import demo
from denovox.inference import model
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig


@pytest.fixture
def small(monkeypatch):
    """A quick demo: few voxels, few steps, a denoiser that shrinks towards grey."""
    config = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 9.0))
    toy = model.Model(lambda x, s, told: 0.9 * x / (1 + s), config, Path("none"), "cpu")
    monkeypatch.setattr(model, "load", lambda *given: toy)
    monkeypatch.setattr(demo, "SHAPE", (48, 40, 24))
    monkeypatch.setattr(demo, "SPACING_MM", 8.0)
    monkeypatch.setattr(demo, "STEPS", 3)


def test_everything_is_there_and_fits_together(small, tmp_path):
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "demo"), "--seed", "2"])
    assert result.exit_code == 0, result.output
    assert sorted(p.name for p in (tmp_path / "demo").iterdir()) == sorted(demo.FILES)
    images = {p.name: nibabel.load(p) for p in (tmp_path / "demo").glob("*.nii.gz")}
    for image in images.values():
        assert image.shape == (48, 40, 24)
        assert np.array_equal(image.affine, images["phantom.nii.gz"].affine)
    noisy, truth = (images[f"{n}.nii.gz"].get_fdata() for n in ("low_dose", "phantom"))
    assert (noisy - truth).std() == pytest.approx(demo.NOISE_HU, rel=0.02)
    assert "PSNR" in result.output
    assert "window:chest" in result.output


def test_an_earlier_demo_is_not_overwritten_unasked(small, tmp_path):
    (tmp_path / "phantom.nii.gz").write_bytes(b"mine")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "--force" in result.stderr
    assert (tmp_path / "phantom.nii.gz").read_bytes() == b"mine"


def test_a_folder_that_cannot_be_created(small, tmp_path):
    (tmp_path / "file").write_bytes(b"")
    result = CliRunner().invoke(main, ["demo", "--out", str(tmp_path / "file" / "demo")])
    assert result.exit_code == 2
    assert "file is a file, not a folder; choose another place" in result.stderr
