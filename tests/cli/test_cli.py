"""The commands as a user meets them: files in, files out, one sentence when it cannot be."""

import hashlib
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import nibabel
import numpy as np
import pytest
import torch
from command_line import refuses, run
from safetensors.torch import load_file
from tiny_store import RECIPE, make_store

from denovox.model import weights
from denovox.model.presets import PRESETS

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scan(tmp_path):
    """An int16 scan in LPS with a body, air around it, and anisotropic voxels."""
    rng = np.random.default_rng(0)
    shape = (30, 26, 11)
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7, 50, -1000) + 25 * rng.standard_normal(shape)
    path = tmp_path / "scan.nii.gz"
    image = nibabel.Nifti1Image(hu.round().astype(np.int16), np.diag([-3.0, -3.0, 5.0, 1.0]))
    image.header["descrip"] = b"as the scanner said"
    image.to_filename(path)
    return path


def test_denoise_keeps_everything_but_the_noise(tmp_path, scan, tiny):
    out = tmp_path / "out.nii.gz"
    result = run("denoise", scan, out, "--region", "abdomen", "--noise-hu", 25, "--weights", tiny)
    assert result.exit_code == 0, result.output
    before, after = nibabel.load(scan), nibabel.load(out)
    assert np.array_equal(before.affine, after.affine)
    assert after.get_data_dtype() == np.int16
    assert after.header["descrip"] == before.header["descrip"]
    a, b = np.asarray(before.dataobj), np.asarray(after.dataobj)
    assert np.array_equal(a[a < -300], b[a < -300])
    assert not np.array_equal(a, b)


@pytest.mark.slow
def test_same_command_same_bits(tmp_path, scan, tiny):
    outs = [tmp_path / f"{i}.nii" for i in range(2)]
    for out in outs:
        run("denoise", scan, out, "--samples", 2, "--seed", 3, "--weights", tiny)
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_synthesize_by_shape_is_slices_rows_columns(tmp_path, tiny):
    out = tmp_path / "made.nii.gz"
    result = run("synthesize", out, "--region", "chest", "--shape", "8x16x24", "--spacing", "4x2x2",
                 "--steps", 2, "--weights", tiny)  # fmt: skip
    assert result.exit_code == 0, result.output
    made = nibabel.load(out)
    assert made.shape == (24, 16, 8)
    assert made.header.get_zooms() == pytest.approx((2, 2, 4))


def test_synthesize_on_the_anatomys_own_grid(tmp_path, tiny):
    labels = tmp_path / "labels.nii.gz"
    affine = np.array([[0, 0, 3.0, 7], [-2.0, 0, 0, 5], [0, 2.5, 0, -9], [0, 0, 0, 1]])
    nibabel.Nifti1Image(np.full((16, 8, 24), 5, np.uint8), affine).to_filename(labels)
    out = tmp_path / "made.nii.gz"
    arguments = ("--region", "abdomen", "--anatomy", labels, "--steps", 2, "--weights", tiny)
    result = run("synthesize", out, *arguments)
    assert result.exit_code == 0, result.output
    made = nibabel.as_closest_canonical(nibabel.load(out))
    told = nibabel.as_closest_canonical(nibabel.load(labels))
    assert made.shape == told.shape
    assert np.allclose(made.affine, told.affine)
    refuses(run("synthesize", out, *arguments), "already exists")
    refuses(run("synthesize", out, *arguments, "--force", "--shape", "8x8x8"), "its own grid")


@pytest.mark.parametrize(
    ("shape", "spacing", "says"),
    [("8x8", "2", "--shape"), ("8x8x0", "2", "--shape"), ("8x8x8", "two", "--spacing"),
     ("8x8x8", "inf", "--spacing"), ("8x8x8", "0.01", "mm that the model supports")],
)  # fmt: skip
def test_synthesize_refuses_bad_grids(tmp_path, tiny, shape, spacing, says):
    arguments = ("--region", "chest", "--shape", shape, "--spacing", spacing, "--weights", tiny)
    refuses(run("synthesize", tmp_path / "out.nii", *arguments), says)
    assert not (tmp_path / "out.nii").exists()


def test_synthesize_needs_a_grid(tmp_path):
    refuses(run("synthesize", tmp_path / "o.nii", "--region", "chest"), "--shape and --spacing")


def write(path, array, affine=None):
    nibabel.Nifti1Image(array, np.eye(4) if affine is None else affine).to_filename(path)


BAD = {
    "2d": lambda p: write(p, np.zeros((9, 9), np.int16)),
    "4d": lambda p: write(p, np.zeros((9, 9, 9, 2), np.int16)),
    "nan": lambda p: write(p, np.full((9, 9, 9), np.nan, np.float32)),
    "inf": lambda p: write(p, np.full((9, 9, 9), -np.inf, np.float32)),
    "grey": lambda p: write(p, np.arange(729).reshape(9, 9, 9).astype(np.uint8)),
    "rgb": lambda p: write(p, np.zeros((9, 9, 9), [(c, "u1") for c in "RGB"])),
    "empty": lambda p: p.write_bytes(b""),
    "corrupt": lambda p: p.write_bytes(b"\x1f\x8b" + bytes(range(200))),
    "missing": lambda p: None,
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_input_is_one_sentence_and_leaves_nothing(tmp_path, kind, tiny):
    bad = tmp_path / "bad.nii.gz"
    BAD[kind](bad)
    there = sorted(tmp_path.rglob("*"))
    refuses(run("denoise", bad, tmp_path / "out.nii.gz", "--weights", tiny), "bad.nii.gz")
    assert sorted(tmp_path.rglob("*")) == there


def test_truncated_file(tmp_path, scan):
    whole = scan.read_bytes()
    scan.write_bytes(whole[: len(whole) // 2])
    refuses(run("denoise", scan, tmp_path / "out.nii.gz"), "scan.nii.gz")


def test_outputs_are_checked_before_the_work(tmp_path, scan, tiny):
    there = tmp_path / "there.nii.gz"
    there.write_bytes(b"precious")
    refuses(run("denoise", scan, there), "already exists")
    assert there.read_bytes() == b"precious"
    refuses(run("denoise", scan, tmp_path / "no" / "out.nii.gz"), "does not exist; create it")
    refuses(run("denoise", scan, tmp_path / "out.png"), ".nii")
    result = run("denoise", scan, there, "--force", "--weights", tiny)
    assert result.exit_code == 0, result.output
    assert there.read_bytes() != b"precious"


def test_other_bad_arguments(tmp_path, scan, tiny):
    out = tmp_path / "out.nii"
    refuses(run("denoise", scan, out, "--weights", "nowhere"), "neither a file nor bundled")
    refuses(run("denoise", scan, out, "--noise-hu", 0, "--weights", tiny), "cannot be removed")
    assert run("denoise", scan, out, "--region", "knee").exit_code == 2
    refuses(run("pretrain", tmp_path / "none.toml"), "no such recipe")


def test_info_for_people_and_programs():
    told = json.loads(run("info", "--json").stdout)
    assert {"version", "devices", "weights"} <= told.keys()
    said = run("info").stdout
    assert f"denovox {told['version']}" in said
    for one in told["weights"]:
        assert one["sha256"][:12] in said
        assert one["card"]["sources"]


def test_info_shows_the_weights_that_are_named(tiny, tmp_path):
    other = tmp_path / "mine.safetensors"
    other.write_bytes(tiny.read_bytes())
    found = json.loads(run("info", other, "base", "--json").stdout)["weights"]
    assert [(one["name"], one["path"]) for one in found] == [
        ("mine", str(other)),
        ("base", str(weights.locate("base"))),
    ]
    assert found[0]["sha256"] == hashlib.sha256(other.read_bytes()).hexdigest()
    said = run("info", other).stdout
    assert found[0]["sha256"][:12] in said
    assert "weights 'base'" not in said
    refuses(run("info", "base", "nowhere"), "neither a file nor bundled")
    other.write_text("none")
    refuses(run("info", other), "mine.safetensors")


MORE = "samples = 2\nbatch = 2\nvalidate_every = 2\n"


@pytest.mark.slow
def test_pretrain_from_store_to_weights(tmp_path):
    make_store(tmp_path / "store")
    recipe = tmp_path / "mine.toml"
    recipe.write_text((RECIPE + MORE).format(store=tmp_path / "store", steps=4))
    assert json.loads(run("pretrain", recipe, "--dry-run").stdout)["train"]["steps"] == 4
    out = tmp_path / "run"
    result = run("pretrain", recipe, "--out", out)
    assert result.exit_code == 0, result.output
    config, card, _ = weights.describe(out / "mine.safetensors")
    assert config.net == PRESETS["tiny"]
    assert card["steps"] == 4
    assert card["text"] == "a test"
    assert card["training_patients"] == 2
    assert np.isfinite(card["validation_loss"])
    assert "nothing left" in run("pretrain", recipe, "--out", out).stderr


@pytest.mark.slow
def test_a_noise_floor_that_was_not_measured_is_told(tmp_path):
    make_store(tmp_path / "store")
    recipe = tmp_path / "mine.toml"
    told = (RECIPE + MORE).format(store=tmp_path / "store", steps=1)
    recipe.write_text(told.replace("patch = 16", "patch = 16, noise_floor = true"))
    result = run("pretrain", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    assert "the noise of 2 of 2 training cases was not measured" in result.stderr


@pytest.mark.slow
def test_a_disk_that_is_full_for_a_while_costs_no_run(tmp_path, monkeypatch):
    make_store(tmp_path / "store")
    recipe, out = tmp_path / "mine.toml", tmp_path / "run"
    recipe.write_text((RECIPE + MORE).format(store=tmp_path / "store", steps=4))
    real, asked = weights.save, itertools.count()

    def full(*given):
        if next(asked) in failing:
            raise OSError("no space left on device")
        real(*given)

    monkeypatch.setattr(weights, "save", full)
    failing = {0}  # at the first validation
    result = run("pretrain", recipe, "--out", out)
    assert result.exit_code == 0, result.output
    assert "no space left on device); check the disk; the run continues" in result.stderr
    assert weights.describe(out / "mine.safetensors")[1]["steps"] == 4
    asked, failing = itertools.count(), set(range(9))
    recipe.write_text((RECIPE + MORE).format(store=tmp_path / "store", steps=5))
    refuses(run("pretrain", recipe, "--out", out), "could not be written (no space left")
    assert weights.describe(out / "mine.safetensors")[1]["steps"] == 4  # the last good one


@pytest.mark.slow
def test_training_goes_on_from_weights(tmp_path, tiny):
    make_store(tmp_path / "store")
    recipe = tmp_path / "mine.toml"
    text = (RECIPE + MORE).format(store=tmp_path / "store", steps=1) + "lr = 1e-9\nema = 0.01\n"
    # The network is that of the weights it starts from.
    own = text.replace('[model]\nnet = "tiny"\n', "")
    recipe.write_text(f'start = "{tiny}"\n' + own)
    result = run("pretrain", recipe, "--out", tmp_path / "run")
    assert result.exit_code == 0, result.output
    before, after = load_file(tiny), load_file(tmp_path / "run" / "mine.safetensors")
    for name in before:  # a step of 1e-9 does not show in half precision
        torch.testing.assert_close(after[name], before[name], rtol=1e-3, atol=1e-6)
    first = tmp_path / "run" / "mine.safetensors"
    _, card, digest = weights.describe(first)
    assert [told["sha256"] for told in card["history"]] == [weights.sha256(tiny)]
    recipe.write_text(f'start = "{first}"\n' + own)  # its card keeps both that were before it
    assert run("pretrain", recipe, "--out", tmp_path / "again").exit_code == 0
    history = weights.describe(tmp_path / "again" / "mine.safetensors")[1]["history"]
    assert [told["sha256"] for told in history] == [weights.sha256(tiny), digest]
    assert (history[1]["steps"], history[1]["recipe"]) == (1, card["recipe"])
    recipe.write_text(f'start = "{tiny}"\n' + text)
    refuses(run("pretrain", recipe, "--out", tmp_path / "other"), "a different network")


@pytest.mark.slow
def test_a_killed_pretraining_goes_on_as_if_nothing_had_happened(tmp_path):
    make_store(tmp_path / "store")
    recipe = tmp_path / "mine.toml"
    recipe.write_text((RECIPE + MORE).format(store=tmp_path / "store", steps=12))
    command = [
        sys.executable,
        "-c",
        "from denovox.cli.main import main; main()",
        "pretrain",
        recipe,
    ]
    told = os.environ | {"OMP_NUM_THREADS": "1"}  # two are slower on so small a network

    def finish(name):
        where = ["--out", tmp_path / name]
        subprocess.run([*command, *where], check=True, capture_output=True, env=told)

    finish("whole")
    broken = subprocess.Popen(
        [*command, "--out", tmp_path / "broken"], stderr=subprocess.PIPE, text=True, env=told
    )
    while not (tmp_path / "broken" / "mine.safetensors").exists():
        assert broken.poll() is None
        time.sleep(0.05)
    os.kill(broken.pid, signal.SIGTERM)
    _, said = broken.communicate(timeout=60)
    assert broken.returncode == 0, said
    finish("broken")
    a, b = (tmp_path / name / "mine.safetensors" for name in ("whole", "broken"))
    assert weights.describe(a)[:2] == weights.describe(b)[:2]
    numbers, again = load_file(a), load_file(b)
    assert numbers.keys() == again.keys()
    assert all(torch.equal(numbers[name], again[name]) for name in numbers)


def test_import_is_light():
    code = (
        "import sys, denovox, denovox.cli.main;"
        "print([m for m in ('torch', 'monai', 'numpy', 'nibabel', 'pydantic') if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"
