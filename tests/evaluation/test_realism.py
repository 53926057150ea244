"""`denovox evaluate realism`: phantoms in, distances above a floor out; copies are named."""

from __future__ import annotations

import csv
import hashlib
import json
import re
import shutil
import warnings
from collections.abc import Callable
from functools import cache, partial
from pathlib import Path

import command_line
import nibabel
import numpy as np
import pytest
import torch
from command_line import refuses
from scipy import ndimage
from torch import nn

from denovox.core.volume import Volume
from denovox.metrics import set_distance
from denovox.simulate.phantom import add_noise, chest

SHAPE, STEP = (36, 30, 16), 8.5


run = partial(command_line.run, "evaluate", "realism")


@cache
def body(seed: int) -> Volume:
    return add_noise(chest(SHAPE, STEP, seed).ct, 20, seed)


def scan(path: Path, seed: int, change: Callable[[np.ndarray], np.ndarray] | None = None) -> Path:
    """Body number `seed` with noise of 20 HU, then changed."""
    volume = body(seed)
    hu = volume.hu if change is None else change(volume.hu)
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image(hu.astype(np.float32), volume.affine).to_filename(path)
    return path


def told(out: Path) -> dict:
    found = json.loads((out / "figures.json").read_text())
    found["by_name"] = {figure["name"]: figure for figure in found["figures"]}
    return found


def blurred(hu: np.ndarray) -> np.ndarray:
    return ndimage.gaussian_filter(hu, 0.8)


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> Path:
    """Eight real bodies, four others of the same kind, and six blurred ones of those."""
    folder = tmp_path_factory.mktemp("sets")
    for seed in range(8):
        scan(folder / "real" / f"r{seed}.nii.gz", seed)
    for seed in range(20, 26):
        scan(folder / "alike" / f"m{seed}.nii.gz", seed)
        scan(folder / "blurred" / f"m{seed}.nii.gz", seed, blurred)
    for seed in range(40, 45):
        scan(folder / "train" / f"t{seed}.nii.gz", seed)
    return folder


def arranged(sets: Path, folder: Path, made: str, training: bool = False) -> Path:
    (folder).mkdir()
    for name, of in (("reference", "real"), ("test", made), ("training", "train")):
        if name != "training" or training:
            shutil.copytree(sets / of, folder / name)
    return folder


@pytest.mark.slow
def test_blurred_scans_are_above_the_floor(sets, tmp_path):
    found = {}
    for made in ("alike", "blurred"):
        data = arranged(sets, tmp_path / made, made)
        given = ("--out", tmp_path / f"{made}_out", "--region", "chest", "--method", made)
        result = run("radiomic", data, *given)
        assert result.exit_code == 0, result.output
        found[made] = told(tmp_path / f"{made}_out")
        figures = found[made]["by_name"]
        floor, at = figures["chest frechet floor"], figures["chest frechet at the floor's N"]
        assert (floor["method"], at["method"]) == ("real", made)
        assert (floor["patients"], at["patients"], at["scans"]) == (4, 4, 4)
        assert figures["chest frechet"]["patients"] == 6
        assert figures["chest frechet"]["interval"]["low"] is None
        assert floor["interval"]["low"] <= floor["value"] <= floor["interval"]["high"]
        assert "| real | chest frechet floor |" in result.stdout
    alike, off = (found[made]["by_name"] for made in ("alike", "blurred"))
    assert off["chest frechet at the floor's N"]["value"] > 3 * off["chest frechet floor"]["value"]
    assert off["chest frechet: share above the floor"]["value"] == 1
    assert off["chest mmd: share above the floor"]["value"] == 1
    assert alike["chest frechet floor"] == off["chest frechet floor"]
    ratio = alike["chest frechet at the floor's N"]["value"] / alike["chest frechet floor"]["value"]
    assert 0.5 < ratio < 2
    notes = " ".join(found["blurred"]["notes"])
    assert "furthest from real: haar 1" in notes
    assert "convention: 37 features" in notes
    row = next(row for row in found["blurred"]["files"] if row["patient"] == "m20")
    content = (sets / "blurred" / "m20.nii.gz").read_bytes()
    assert row["sha256"] == hashlib.sha256(content).hexdigest()
    assert (row["set"], row["views"], row["spacing_mm"]) == ("synthetic", ["chest"], [STEP] * 3)
    assert found["blurred"]["settings"]["real"] == 8


@pytest.mark.slow
def test_a_copied_training_scan_is_named(sets, tmp_path):
    data = arranged(sets, tmp_path / "d", "alike", training=True)
    copied = scan(data / "test" / "m22.nii.gz", 43, lambda hu: hu + 0.01)
    assert copied.read_bytes() != (data / "training" / "t43.nii.gz").read_bytes()
    shutil.copy(data / "training" / "t41.nii.gz", data / "test" / "m25.nii.gz")
    result = run("radiomic", data, "--out", tmp_path / "out", "--region", "chest")
    assert result.exit_code == 0, result.output
    found = told(tmp_path / "out")
    near = found["by_name"]["chest nearer to training than 95 % of held-out scans"]
    assert near["value"] >= 2 / 6
    assert near["interval"]["low"] <= near["value"] <= near["interval"]["high"]
    area = found["by_name"]["chest copies AUROC (0.5: as held-out scans)"]["value"]
    assert 2 / 6 <= area < 1, "two copies of six are nearer than all that is held out"
    notes = " ".join(found["notes"])
    assert "closest synthetic and training scans: m25 and t41 (0), m22 and t43 (" in notes
    assert "m25.nii.gz (synthetic) is" in notes
    assert "t41.nii.gz (training)" in notes


def table(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("patient", "set", "scan", "region"), *rows])
    return path


def test_a_csv_names_the_set_of_each_scan(sets, tmp_path):
    rows = [(f"P{i // 2}", "real", f"real/r{i}.nii.gz", "chest") for i in range(8)]
    rows += [(f"m{i}", "synthetic", f"alike/m{i}.nii.gz", "chest") for i in range(20, 24)]
    data = table(sets / "sets.csv", *rows)
    assert run("radiomic", data, "--out", tmp_path / "out").exit_code == 0
    found = told(tmp_path / "out")
    floor = found["by_name"]["chest frechet floor"]
    assert (floor["patients"], floor["scans"]) == (2, 4)
    # One real patient: no halves, no floor, but a distance.
    alone = table(
        sets / "alone.csv", *[("P", *row[1:]) if row[1] == "real" else row for row in rows]
    )
    assert run("radiomic", alone, "--out", tmp_path / "alone").exit_code == 0
    figures = list(told(tmp_path / "alone")["by_name"])
    assert figures[:2] == ["chest frechet", "chest mmd"]
    assert not [name for name in figures if "floor" in name or "seam" in name]
    assert (
        told(tmp_path / "alone")["by_name"]["chest frechet"]["value"]
        == (found["by_name"]["chest frechet"]["value"])
    )


class Grain(nn.Module):
    """Features of an image of any dimensions: mean absolute steps along its last axis, and mean."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        flat = x[:, 0].flatten(1)
        return torch.stack([flat.diff(dim=1).abs().mean(1), flat.mean(1)], 1)


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("net") / "grain.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(Grain()), str(path))
    return path


def rows_of(name: str, folder: Path) -> np.ndarray:
    """The network's features of a folder's scans, scan after scan, by hand."""
    from denovox.io import nifti
    from denovox.metrics import medicalnet, slices25d

    def network(batch: np.ndarray) -> np.ndarray:
        return Grain()(torch.from_numpy(batch)).double().numpy()

    scans = [nifti.read(path) for path in sorted(folder.iterdir())]
    if name == "fid25d-maisi":
        return np.concatenate([slices25d.features(scan, network, 40)["yz"] for scan in scans])
    return np.concatenate([network(medicalnet.prepare(scan, 40)[None]) for scan in scans])


@pytest.mark.parametrize(("name", "view"), [("fid25d-maisi", "yz "), ("fid3d-medicalnet", "")])
def test_features_of_a_network(name, view, sets, network, tmp_path, monkeypatch):
    from denovox.metrics import medicalnet, slices25d

    monkeypatch.setattr(slices25d, "SIZE", 40)  # 512 is for a long night
    monkeypatch.setattr(medicalnet, "SIZE", 40)
    data = arranged(sets, tmp_path / "d", "blurred", training=name == "fid25d-maisi")
    result = run(name, data, "--out", tmp_path / "out", "--weights", network)
    assert result.exit_code == 0, result.output
    found = told(tmp_path / "out")
    assert found["weights"] == hashlib.sha256(network.read_bytes()).hexdigest()
    figures = found["by_name"]
    real, made = (rows_of(name, data / folder) for folder in ("reference", "test"))
    for kind, distance in (("frechet", set_distance.frechet), ("mmd", set_distance.mmd)):
        value = figures[f"{view}{kind}"]["value"]
        assert value == pytest.approx(distance(real, made), rel=1e-5, abs=1e-12)
    assert figures["frechet"]["scans"] == 6
    assert figures["frechet floor"]["scans"] == 4
    if name == "fid25d-maisi":
        for end in ("frechet", "mmd floor"):
            planes = [figures[f"{plane} {end}"]["value"] for plane in ("xy", "yz", "zx")]
            assert figures[end]["value"] == pytest.approx(np.mean(planes))
        assert figures["copies AUROC (0.5: as held-out scans)"]["patients"] == 6
    else:
        assert "xy frechet" not in figures
        assert not [name for name in figures if "copies" in name]


def test_bad_input_is_one_sentence(sets, network, tmp_path):
    data, out = arranged(sets, tmp_path / "d", "alike"), tmp_path / "out"
    refuses(run("fid25d-maisi", data, "--out", out), "needs --weights", "hub:")
    refuses(run("fid3d-medicalnet", data, "--out", out), "needs --weights", "MedicalNet")
    refuses(run("radiomic", data, "--out", out, "--weights", network), "does not use --weights")
    region = ("--region", "chest")
    refuses(run("fid25d-maisi", data, "--out", out, *region), "does not use --region")
    refuses(run("radiomic", data, "--out", out, "--save", out), "--save")
    for path in sorted((data / "test").iterdir())[1:]:
        path.unlink()
    refuses(run("radiomic", data, "--out", out, *region), "the synthetic set has 1 scans")
    shutil.rmtree(data / "test")
    refuses(run("radiomic", data, "--out", out, *region), "d/test does not exist")
    refuses(run("radiomic", tmp_path / "no.csv", "--out", out), "cannot be read")
    assert not out.exists()


def test_a_held_out_scan_is_no_training_scan(sets, tmp_path):
    data = arranged(sets, tmp_path / "d", "alike", training=True)
    shutil.copy(data / "reference" / "r3.nii.gz", data / "training" / "other.nii.gz")
    out = tmp_path / "out"
    refuses(run("radiomic", data, "--out", out, "--region", "chest"), "r3", "is in training too")
    (data / "training" / "other.nii.gz").unlink()
    scan(data / "training" / "r3.nii.gz", 60)
    refuses(run("radiomic", data, "--out", out, "--region", "chest"), "r3 is in training and")


def test_a_region_with_one_scan_is_left_out_and_noted(sets, tmp_path):
    rows = [(f"r{i}", "real", f"real/r{i}.nii.gz", "chest" if i else "abdomen") for i in range(8)]
    rows += [(f"m{i}", "made", f"alike/m{i}.nii.gz", "chest") for i in range(20, 24)]
    data = table(sets / "regions.csv", *rows)
    assert run("radiomic", data, "--out", tmp_path / "out").exit_code == 0
    found = told(tmp_path / "out")
    assert "abdomen: 1 real and 0 synthetic scans, not compared" in found["notes"]
    assert found["by_name"]["chest frechet"]["value"] > 0


@pytest.mark.slow
def test_seams_label_maps_and_copied_patches(sets, tmp_path):
    """Steps of 150 HU at a border that a manifest states; a fifth of one scan is copied."""
    plane = 17
    labels = chest(SHAPE, STEP, 30).labels
    nibabel.Nifti1Image(labels, body(30).affine).to_filename(tmp_path / "labels.nii.gz")

    def stepped(hu: np.ndarray) -> np.ndarray:
        hu = hu.copy()
        hu[plane + 1 :][hu[plane + 1 :] > -950] += 150
        return hu

    def partly(hu: np.ndarray) -> np.ndarray:
        hu = hu.copy()
        hu[:14] = body(41).hu[:14]
        return hu

    scan(tmp_path / "stepped.nii.gz", 30, stepped)
    scan(tmp_path / "copied.nii.gz", 31, partly)
    found = {}
    for known in (False, True):
        if known:
            borders = {"decisions": [{"tile_borders": [[plane], [], []]}]}
            (tmp_path / "stepped.nii.gz.json").write_text(json.dumps(borders))
            (tmp_path / "copied.nii.gz.json").write_text("[1]")  # not a manifest
        rows = [(f"r{i}", "real", sets / f"real/r{i}.nii.gz", "") for i in range(4)]
        rows += [(f"t{i}", "training", sets / f"train/t{i}.nii.gz", "") for i in range(40, 45)]
        rows += [("a", "synthetic", "stepped.nii.gz", "labels.nii.gz")]
        rows += [("b", "synthetic", "copied.nii.gz", "")]
        with (tmp_path / "sets.csv").open("w", newline="") as file:
            csv.writer(file).writerows([("patient", "set", "scan", "anatomy"), *rows])
        out = tmp_path / f"out{known}"
        result = run("radiomic", tmp_path / "sets.csv", "--out", out, "--region", "chest")
        assert result.exit_code == 0, result.output
        found[known] = told(out)
    figures = found[True]["by_name"]
    assert "seam" not in found[False]["by_name"]
    assert figures["seam"]["value"] > 1.5
    assert (figures["seam"]["scans"], figures["seam"]["better"]) == (1, "lower")
    assert figures["voxels in one body"]["value"] == 1
    assert figures["voxels in one body, real scans"]["scans"] == 4
    assert figures["lung: Dice"]["value"] > 0.9
    assert figures["lung: Dice"]["scans"] == 1
    near = figures["chest patches nearer to training than 95 % of held-out scans"]
    assert near["value"] >= 0.5
    notes = " ".join(found[True]["notes"])
    assert "chest patches, distance to the nearest training scan" in notes
    assert re.search(r"copied and \S*t41 \(0\), stepped and", notes)


def test_a_label_map_of_another_grid_is_refused(sets, tmp_path):
    ids = np.ones((4, 4, 4), np.uint8)
    nibabel.Nifti1Image(ids, np.eye(4)).to_filename(tmp_path / "labels.nii.gz")
    rows = [(f"r{i}", "real", sets / f"real/r{i}.nii.gz", "") for i in range(2)]
    rows += [(f"m{i}", "synthetic", sets / f"alike/m{i}.nii.gz", "labels.nii.gz") for i in (20, 21)]
    with (tmp_path / "sets.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("patient", "set", "scan", "anatomy"), *rows])
    result = run("radiomic", tmp_path / "sets.csv", "--out", tmp_path / "out")
    refuses(result, "labels.nii.gz is not on the grid", "4 x 4 x 4 voxels")
