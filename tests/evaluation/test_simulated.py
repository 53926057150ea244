"""Simulated protocols, whole: a phantom in, figures out; and sentences for bad input."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import command_line
import nibabel
import numpy as np
import pytest
import torch
from command_line import refuses

from denovox.core.errors import InputError
from denovox.core.labels import OUTSIDE
from denovox.core.volume import Volume
from denovox.evaluation import simulated, simulated_tasks
from denovox.evaluation.inputs import sha256
from denovox.evaluation.simulated import evaluate_simulated
from denovox.evaluation.simulated_tasks import SimulatedConfig, own_dose
from denovox.inference.anomaly.calibration import AnomalyMethod, empty
from denovox.inference.model import (
    Model,
    load,
)
from denovox.inference.options import RunOptions
from denovox.model.weights import describe
from denovox.scan import anatomy
from denovox.scan.body_regions import RegionSpan
from denovox.simulate import phantom
from denovox.simulate.dose import LowDoseConfig, simulate_low_dose
from denovox.simulate.planted_lesions import Lesions

SHAPE = (64, 48, 9)


def body(seed: int = 0, noise_hu: float = 5.0) -> Volume:
    return phantom.add_noise(phantom.chest(SHAPE, 5.0, seed).ct, noise_hu, seed)


def write(volume: Volume, path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(np.rint(volume.hu).astype(np.int16), volume.affine).to_filename(path)
    return path


@pytest.fixture
def scans(tmp_path):
    """Two patients' scans in a folder."""
    for seed, name in enumerate(("ann", "bob")):
        write(body(seed), tmp_path / "d" / f"{name}.nii.gz")
    return tmp_path / "d"


run = partial(command_line.run, "evaluate", "simulated")


def told(folder: Path) -> dict:
    return json.loads((folder / "figures.json").read_text())


def values(told: dict) -> dict[tuple[str, str], float]:
    return {(f["method"], f["name"]): f["value"] for f in told["figures"]}


def smoothing(x, sigma, told):
    """The mean over 3 x 3 voxels of a slice, whatever the noise."""
    return torch.nn.functional.avg_pool3d(x, (3, 3, 1), 1, (1, 1, 0), count_include_pad=False)


@pytest.fixture
def model(tiny):
    """The weights' file of a tiny network, and a denoiser that is known."""
    return replace(load(tiny, "cpu"), denoiser=smoothing)


@pytest.mark.slow
def test_dose_whole(scans, tiny, tmp_path):
    out, kept = tmp_path / "out", tmp_path / "kept"
    given = ["--region", "chest", "--weights", tiny, "--seed", 3, "--save", kept, "--dose", 0.5]
    result = run("dose", scans, "--out", out, *given)
    assert result.exit_code == 0, result.output
    found = told(out)
    assert found["weights"] == describe(tiny)[2] == sha256(tiny)
    assert found["settings"]["low_dose"]["dose"] == 0.5
    assert (found["settings"]["region"], found["settings"]["seed"]) == ("chest", 3)
    of = {f["name"]: (f["patients"], f["scans"]) for f in found["figures"]}
    assert of["chest psnr"] == (2, 2)
    assert of["chest bias muscle and organs"] == (1, 1)  # bob has too little of it
    files = {one["patient"]: one for one in found["files"]}
    content = (scans / "ann.nii.gz").read_bytes()
    assert files["ann"]["sha256"] == hashlib.sha256(content).hexdigest()
    assert 5 < files["ann"]["noise_hu"] < 16  # edges of voxels this coarse count for noise
    assert "| denovox | chest psnr (dB) |" in result.stdout
    assert (out / "figures.md").read_text() in result.stdout
    # The saved scans: the same noise simulated by hand, and figures computed from the files.
    truth = nibabel.load(scans / "ann.nii.gz").get_fdata(dtype=np.float32)
    config = LowDoseConfig(dose=0.5, seed=3, photons=files["ann"]["photons"], electronic=0)
    low = simulate_low_dose(Volume(truth, body().affine), config).hu
    np.testing.assert_allclose(
        nibabel.load(kept / "input/ann.nii.gz").get_fdata(), low, atol=1e-3, rtol=0
    )
    psnr = []
    for name in ("ann", "bob"):
        clean, test = (
            nibabel.load(kept / what / f"{name}.nii.gz").get_fdata()
            for what in ("reference", "test")
        )  # fmt: skip
        inside = anatomy.coarse(Volume(clean, body().affine)) != OUTSIDE
        error = np.clip(test, -1400, 400) - np.clip(clean, -1400, 400)
        psnr.append(20 * np.log10(1800 / np.sqrt(np.mean(error[inside] ** 2))))
    assert values(found)["denovox", "chest psnr"] == pytest.approx(np.mean(psnr), abs=1e-3)
    arguments = ["mayo16-founddiff", kept, "--out", tmp_path / "pairs", "--weights", tiny]
    pairs = command_line.run("evaluate", "pairs", *arguments)
    assert pairs.exit_code == 0, pairs.output
    assert told(tmp_path / "pairs")["weights"] == describe(tiny)[2]


@pytest.mark.slow
def test_a_denoiser_gains_and_the_same_seed_gives_the_same(scans, model):
    scan = scans / "ann.nii.gz"
    config = SimulatedConfig(region="chest", method="mean of 3 x 3", dose=LowDoseConfig(views=90))
    kept = {}
    found = evaluate_simulated(
        "simulated-dose", scan, model, config, save=lambda *k: kept.update({k[0]: k[2]})
    )
    # The result depends on the degraded scan alone.
    assert not np.allclose(kept["input"].hu, kept["reference"].hu, atol=1)
    again = model.denoise(kept["input"], "chest")
    np.testing.assert_array_equal(kept["test"].hu, again.hu)
    by = {(f.method, f.name): f for f in found.figures}
    gain = by["mean of 3 x 3", "chest psnr gain over low dose"]
    both = [by[who, "chest psnr"].value for who in ("mean of 3 x 3", "low dose")]
    assert gain.value == pytest.approx(both[0] - both[1])
    assert by["low dose", "chest bias muscle and organs"].value == pytest.approx(0, abs=2)
    assert evaluate_simulated("simulated-dose", scan, model, config).figures == found.figures
    other = SimulatedConfig(region="chest", dose=LowDoseConfig(views=90, seed=1))
    assert (
        evaluate_simulated("simulated-dose", scan, model, other).figures[0].value
        != found.figures[0].value
    )


def test_a_quarter_dose_is_one_of_the_scans_own():
    volume = body()
    labels = anatomy.coarse(volume)
    config, facts = own_dose(volume, labels, LowDoseConfig(), lambda line: None)
    assert facts["photons"] == config.photons
    soft = (volume.hu > -100) & (volume.hu < 200)
    added = (simulate_low_dose(volume, config).hu - volume.hu)[soft]
    assert added.std() == pytest.approx(np.sqrt(3) * facts["noise_hu"], rel=0.15)
    said: list[str] = []
    air = Volume(np.full(SHAPE, -1000, np.float32), volume.affine)
    config, facts = own_dose(air, anatomy.coarse(air), LowDoseConfig(), said.append)
    assert (config, facts["noise_hu"]) == (LowDoseConfig(), None)
    assert "noise is not known" in said[0]


def test_slab_whole(scans, tiny, tmp_path):
    out, kept = tmp_path / "out", tmp_path / "kept"
    given = ["--region", "chest", "--weights", tiny, "--factor", 3, "--save", kept]
    result = run("slab", scans / "ann.nii.gz", "--out", out, *given)
    assert result.exit_code == 0, result.output
    found = values(told(out))
    assert {method for method, _ in found} == {"linear", "cubic", "Lanczos-3", "denovox"}
    assert found["denovox", "chest averaged back, most"] < 0.1
    assert found["linear", "chest averaged back, most"] > 10
    gain = found["denovox", "chest psnr"] - found["cubic", "chest psnr"]
    assert found["denovox", "chest psnr gain over cubic"] == pytest.approx(gain)
    thick = nibabel.load(kept / "input/ann.nii.gz").get_fdata()
    truth = nibabel.load(kept / "reference/ann.nii.gz").get_fdata()
    np.testing.assert_allclose(truth.reshape(*thick.shape, 3).mean(-1), thick, atol=1e-3)
    assert told(out)["settings"]["factor"] == 3


def test_slab_leaves_out_slices_that_make_no_slab(tmp_path, model):
    volume = body()
    cut = Volume(volume.hu[..., :7], volume.affine)
    path = write(cut, tmp_path / "cut.nii.gz")
    seen = {}
    config = SimulatedConfig(factor=2, region="chest")
    evaluate_simulated(
        "simulated-slab", path, model, config, save=lambda *k: seen.update({k[0]: k[2]})
    )
    np.testing.assert_array_equal(seen["reference"].hu, np.rint(volume.hu[..., :6]))
    assert [seen[what].shape[2] for what in ("reference", "input", "test")] == [6, 3, 6]
    np.testing.assert_allclose(seen["test"].affine, seen["reference"].affine, atol=1e-4)


@pytest.fixture
def oracle(monkeypatch):
    """Detection that finds what was added, since it knows the original scans."""
    known = {}

    def detect(model, volume, **options):
        name = float(volume.hu[0].sum())  # air, where no lesion is
        z = volume.with_hu((known.setdefault(name, volume.hu) - volume.hu) / 10)
        return SimpleNamespace(z=z, score=float(np.abs(z.hu).max()))

    monkeypatch.setattr(Model, "detect", detect)
    return known


CALIBRATION = empty("chest", AnomalyMethod(), "tiny.safetensors")
SMALL = Lesions(diameter_mm=(14.0, 24.0), edge_mm=1.0, texture=0.0)


@pytest.mark.slow
def test_planted_whole(scans, model, oracle):
    kept = {}
    said: list[str] = []
    config = SimulatedConfig(region="chest", lesions=SMALL)
    found = evaluate_simulated("planted-lesions", scans, model, config, [CALIBRATION],
    RunOptions(say=said.append),
                  lambda *k: kept.update({k[:2]: k[2]}))  # fmt: skip
    by = {f.name: f for f in found.figures}
    assert by["chest lung voxel AUROC"].value > 0.99
    assert (by["scan AUROC"].value, by["detected"].value) == (1, 1)
    planted = [name for what, name in kept if what == "masks" and kept[what, name].hu.any()]
    assert by["scan AUROC"].scans == len(planted) >= 2
    assert by["scan AUROC"].patients == 2
    facts = [one for file in found.files for one in file["lesions"]]
    assert len(facts) == len(planted)
    assert len({one["contrast_hu"] for one in facts}) == len(facts), "one lesion, over and over"
    assert found.settings["calibrations"]["chest"]["scans"] == 1
    for name in planted:
        scan = name.rpartition("_")[0]
        changed = kept["input", name].hu != kept["input", f"{scan}_healthy"].hu
        assert changed[kept["masks", name].hu > 0].all()
        np.testing.assert_array_equal(kept["maps", name].hu > 0, changed)
    again = evaluate_simulated("planted-lesions", scans, model, config, [CALIBRATION])
    assert again.figures == found.figures


def test_regions_are_measured_apart(tmp_path, model, oracle, monkeypatch):
    path = write(body(), tmp_path / "ann.nii.gz")
    slabs = (RegionSpan("abdomen", 0, 4, "told"), RegionSpan("chest", 4, 9, "told"))
    monkeypatch.setattr(simulated_tasks, "spans_in", lambda *_: slabs)
    kept = {}

    def keep(what: str, name: str, volume: Volume) -> None:
        kept[what, name] = volume

    config = SimulatedConfig(dose=LowDoseConfig(views=90), lesions=SMALL)
    dose = evaluate_simulated("simulated-dose", path, model, config, save=keep)
    by = values({"figures": [asdict(figure) for figure in dose.figures]})
    clean, low = (kept[what, "ann"].hu for what in ("reference", "input"))
    inside = anatomy.coarse(kept["reference", "ann"]) != OUTSIDE
    for slab, (bottom, top) in zip(slabs, ((-120, 240), (-1400, 400)), strict=True):
        z = slice(slab.start, slab.stop)
        error = (np.clip(low, bottom, top) - np.clip(clean, bottom, top))[..., z][inside[..., z]]
        expected = 20 * np.log10((top - bottom) / np.sqrt(np.mean(error.astype(float) ** 2)))
        assert by["low dose", f"{slab.region} psnr"] == pytest.approx(expected, abs=1e-3)
    found = evaluate_simulated("planted-lesions", path, model, config, [CALIBRATION], save=keep)
    (fact,) = [one for one in found.files[0]["lesions"] if one["tissue"] == "lung"]
    lesion = np.argwhere(kept["masks", "ann_lung"].hu)
    assert lesion[:, 2].min() >= 4, "planted where no calibration is"
    affine = body().affine
    np.testing.assert_allclose(
        fact["centre_mm"], affine[:3, :3] @ lesion.mean(0) + affine[:3, 3], atol=1e-3
    )


def test_bad_input_is_one_sentence_and_leaves_nothing(scans, tiny, tmp_path):
    out, kept = tmp_path / "out", tmp_path / "kept"
    given = ("--out", out, "--save", kept, "--weights", tiny)
    (tmp_path / "empty").mkdir()
    refuses(run("dose", tmp_path / "empty", *given), "empty", "any CT")
    refuses(run("dose", tmp_path / "no.nii.gz", *given), "no.nii.gz does not exist")
    (scans / "torn.nii.gz").write_bytes((scans / "ann.nii.gz").read_bytes()[:5000])
    refuses(run("dose", scans, *given), "torn.nii.gz")
    (scans / "torn.nii.gz").unlink()
    refuses(run("slab", scans, *given, "--factor", 6), "9 slices", "18 or more")
    refuses(run("simulated", scans, *given), "'simulated' is not known", "dose, slab")
    refuses(run("slab", scans, *given, "--dose", 0.5), "does not use --dose")
    refuses(run("dose", scans, "--out", out, "--weights", "no"), "weights 'no'")
    narrow = Volume(body().hu[:9], body().affine)
    path = write(narrow, tmp_path / "narrow.nii.gz")
    refuses(run("dose", path, *given), "narrow.nii.gz", "9 x 48", "11 x 11")
    thick = Volume(body().hu, body().affine @ np.diag([1, 1, 1.5, 1]))
    path = write(thick, tmp_path / "thick.nii.gz")
    late = run("slab", path, *given, "--factor", 2)
    refuses(late, "slices 7.5 mm apart", "0.7 to 6")
    assert "1 of 1" not in late.stderr, "reported only after the work"
    kept.mkdir()
    (kept / "mine.txt").write_text("mine")
    refuses(run("dose", scans, *given), "kept", "--force")
    assert [p.name for p in kept.iterdir()] == ["mine.txt"]
    assert sorted(p.name for p in tmp_path.iterdir()) == [
        "d", "empty", "kept", "narrow.nii.gz", "thick.nii.gz", "weights",
    ]  # fmt: skip


def test_where_no_lesion_fits_there_are_no_figures(tmp_path, model, oracle, monkeypatch):
    shallow = Volume(body().hu[..., :2], body().affine)
    path = write(shallow, tmp_path / "shallow.nii.gz")
    config = SimulatedConfig(region="chest", lesions=SMALL)
    with pytest.raises(InputError, match="no lesion could be added"):
        evaluate_simulated("planted-lesions", path, model, config, [CALIBRATION])
    other = lambda without="": (CALIBRATION,)  # noqa: E731  # of other weights, by sha256
    monkeypatch.setattr(simulated, "bundled", other)
    with pytest.raises(InputError, match="no calibration of the weights tiny"):
        evaluate_simulated("planted-lesions", path, model, config)


def test_a_scan_is_scored_with_the_calibrations_of_other_patients(
    tmp_path, model, tiny, monkeypatch
):
    path = write(body(), tmp_path / "ann.nii.gz")
    mine = CALIBRATION.model_copy(update={"weights": describe(tiny)[2]})
    monkeypatch.setattr(
        simulated, "bundled", lambda without="": (mine.model_copy(update={"patient": without}),)
    )
    used = []

    def detect(model, volume, calibrations, **options):
        used.append(calibrations)
        return SimpleNamespace(z=volume, score=float(volume.hu.max()))

    monkeypatch.setattr(Model, "detect", detect)
    config = SimulatedConfig(region="chest", lesions=SMALL)
    found = evaluate_simulated("planted-lesions", path, model, config)
    assert len(used) >= 2
    assert {one.patient for each in used for one in each} == {found.files[0]["patient"]} == {"ann"}


def test_a_scan_that_fails_half_way_leaves_nothing(scans, tiny, tmp_path, monkeypatch):
    real, calls = Model.denoise, []

    def fails(self, volume, *arguments, **named):
        calls.append(volume)
        if len(calls) == 2:
            raise InputError("it is too late")
        return real(self, volume, *arguments, **named)

    monkeypatch.setattr(Model, "denoise", fails)
    monkeypatch.setattr(simulated_tasks, "simulate_low_dose", lambda volume, config: volume)
    given = ("--out", tmp_path / "out", "--save", tmp_path / "kept", "--weights", tiny)
    refuses(run("dose", scans, *given, "--region", "chest"), "bob.nii.gz: it is too late")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["d", "weights"]
