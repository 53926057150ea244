"""The commands that bring data in: prepare, doctor, and DICOM wherever a scan is read."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time

import nibabel
import numpy as np
import pytest
from command_line import refuses, run
from tiny_store import tree

from denovox.datasets import manifest, store

AFFINE = np.diag([-4.0, -4.0, 5.0, 1.0])
ROOT = "1.2.826.0.1.3680043.8.498"


def body(seed: int, shape: tuple[int, int, int] = (40, 36, 12)) -> np.ndarray:
    """HU of a round section of soft tissue in air, with noise."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7, 50.0, -1000.0)
    hu += 25 * np.random.default_rng(seed).standard_normal(shape)
    return np.maximum(hu, -1024).round().astype(np.int16)  # as scanners do


@pytest.fixture
def scans(tmp_path):
    """A folder of own scans: six patients, one of them with a mask, and a stray file."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for i in range(6):
        nibabel.Nifti1Image(body(i), AFFINE).to_filename(folder / f"p{i}.nii.gz")
    mask = np.zeros((40, 36, 12), np.uint8)
    mask[15:25, 15:25] = 5
    nibabel.Nifti1Image(mask, AFFINE).to_filename(folder / "p2_seg.nii.gz")
    (folder / "notes.bin").write_text("?")
    return folder


# ---- prepare ------------------------------------------------------------------------------------


@pytest.mark.slow
def test_prepare_gives_the_same_store_on_any_number_of_workers(scans, tmp_path):
    for workers in (1, 2):
        out = tmp_path / f"store{workers}"
        result = run("prepare", scans, "--out", out, "--layout", "folder", "--workers", workers)
        assert result.exit_code == 0, result.output
        assert "notes.bin" in result.stderr  # what is no scan is named
    assert tree(tmp_path / "store1") == tree(tmp_path / "store2")
    found = store.cases(tmp_path / "store1")
    assert [case.facts.patient for case in found] == [f"p{i}" for i in range(6)]
    assert "liver" in found[2].facts.covers
    assert found[2].facts.labelled == pytest.approx(100 / (40 * 36), abs=1e-6)


@pytest.mark.slow
def test_prepare_survives_kills_at_any_moment(scans, tmp_path):
    out = tmp_path / "store"
    command = [sys.executable, "-c", "from denovox.cli.main import main; main()", "prepare"]
    command += [str(scans), "--out", str(out), "--layout", "folder", "--workers", "2"]
    chance = random.Random(0)
    seen: dict[str, int] = {}
    for _ in range(4):
        process = subprocess.Popen(command, stderr=subprocess.PIPE, start_new_session=True)
        time.sleep(chance.uniform(2.5, 6))
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        for path in out.glob("*/entry.json"):
            # A case that is there is whole, and is not made again.
            assert seen.setdefault(path.parent.name, path.stat().st_mtime_ns) == (
                path.stat().st_mtime_ns
            )
            for row in json.loads(path.read_text()):
                case = store.Case(str(out), manifest.CaseFacts(**row))
                assert case.voxels()[...].shape == case.facts.shape
    assert run("prepare", scans, "--out", out, "--layout", "folder").exit_code == 0
    for name, time_ns in seen.items():
        assert (out / name / "entry.json").stat().st_mtime_ns == time_ns
    whole = tmp_path / "whole"
    assert run("prepare", scans, "--out", whole, "--layout", "folder").exit_code == 0
    assert tree(out) == tree(whole)


def test_prepare_dry_run_lists_and_writes_nothing(scans, tmp_path):
    result = run("prepare", scans, "--out", tmp_path / "s", "--layout", "folder", "--dry-run")
    assert result.exit_code == 0
    assert "p2: patient p2, 1 masks" in result.stdout
    assert not (tmp_path / "s").exists()


def test_prepare_refuses(scans, tmp_path):
    out = tmp_path / "store"
    refuses(run("prepare", tmp_path / "no", "--out", out), "is not a folder")
    refuses(run("prepare", scans, "--out", out, "--layout", "x"), "layout 'x' is not known")
    refuses(run("prepare", scans, "--out", out, "--spacing", "0"), "0 mm")
    assert not out.exists()


@pytest.mark.slow
def test_pretrain_brings_its_source_into_its_store(scans, tmp_path):
    recipe = tmp_path / "mine.toml"
    recipe.write_text(f"""
name = "mine"
[data]
source = "{scans}"
layout = "folder"
store = "{tmp_path / "store"}"
validation_patients = ["p5"]
prepare = {{ spacing_mm = 5 }}
sample = {{ patch = 16 }}
[model]
net = "tiny"
[train]
steps = 1
samples = 1
batch = 1
precision = "float32"
""")
    result = run("pretrain", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert (tmp_path / "run" / "mine.safetensors").is_file()
    assert store.cases(tmp_path / "store")[0].facts.spacing_mm == (5, pytest.approx(144 / 29), 5)


# ---- DICOM in -----------------------------------------------------------------------------------


@pytest.fixture
def series(tmp_path):
    """A DICOM series of the body, LPS, 4 x 4 x 5 mm, in a folder."""
    import dicom_cases

    folder = tmp_path / "series"
    hu = body(0)
    dicom_cases.series(folder, hu, spacing=(4.0, 4.0, 5.0), origin=(-20, 30, -40))
    return folder, hu


def test_denoise_takes_a_dicom_folder(series, tmp_path, tiny):
    folder, hu = series
    out = tmp_path / "out.nii.gz"
    asked = ("--weights", tiny, "--noise-hu", 25, "--region", "abdomen")
    result = run("denoise", folder, out, *asked)
    assert result.exit_code == 0, result.output
    # The same scan as NIfTI. LPS: its first voxel, at (-20, 30, -40), is at (20, -30, -40) in RAS.
    affine = np.diag([-4.0, -4.0, 5.0, 1.0])
    affine[:3, 3] = (20, -30, -40)
    nibabel.Nifti1Image(hu, affine).to_filename(tmp_path / "same.nii.gz")
    assert run("denoise", tmp_path / "same.nii.gz", tmp_path / "twin.nii.gz", *asked).exit_code == 0
    got, twin = (
        nibabel.as_closest_canonical(nibabel.load(path)) for path in (out, tmp_path / "twin.nii.gz")
    )
    np.testing.assert_allclose(got.affine, twin.affine, atol=1e-5)
    assert np.array_equal(got.get_fdata(), twin.get_fdata())
    assert not np.array_equal(got.get_fdata(), hu[::-1, ::-1])  # something was done


def test_a_series_that_is_not_there_is_named(series, tmp_path, tiny):
    folder, _ = series
    out = tmp_path / "out.nii.gz"
    refuses(run("denoise", folder, out, "--weights", tiny, "--series", "9.9.9"), "9.9.9")
    assert not out.exists()


# ---- doctor -------------------------------------------------------------------------------------


@pytest.mark.slow
def test_doctor_tells_of_good_and_bad(scans, tmp_path):
    bad = tmp_path / "bad.nii.gz"
    nibabel.Nifti1Image(np.full((40, 36, 12), 7, np.int16), AFFINE).to_filename(bad)
    result = run("doctor", scans / "p0.nii.gz", bad)
    assert result.exit_code == 2
    for word in ("p0.nii.gz", "bad.nii.gz: REFUSED", "region", "cost"):
        assert word in result.stdout
    assert run("doctor", scans / "p0.nii.gz").exit_code == 0


@pytest.mark.slow
def test_doctor_speaks_json(scans):
    result = run("doctor", scans / "p1.nii.gz", "--json")
    (report,) = json.loads(result.stdout)
    assert report["verdict"] != "refuse"
    assert report["regions"][0]["region"] in ("headneck", "chest", "abdomen")
    assert {cost["command"] for cost in report["costs"]} >= {"denoise", "detect"}
    assert all(isinstance(cost["seconds"], int | float) for cost in report["costs"])


@pytest.mark.slow
def test_doctor_reports_a_file_that_is_not_there(tmp_path):
    result = run("doctor", tmp_path / "none.nii.gz")
    assert result.exit_code == 2
    assert "does not exist" in result.stdout
