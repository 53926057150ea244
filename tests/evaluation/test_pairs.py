"""`denovox evaluate pairs`: files to a table; constructed scans with known figures."""

from __future__ import annotations

import csv
import hashlib
import json
import math
from functools import partial
from pathlib import Path

import command_line
import nibabel
import numpy as np
import pytest
from command_line import refuses

SHAPE = (24, 20, 12)
AFFINE = np.diag([1.0, 1.0, 2.0, 1.0])


run = partial(command_line.run, "evaluate", "pairs")


def scan(path: Path, seed: int, add: float = 0.0, affine: np.ndarray = AFFINE) -> Path:
    """HU within [-100, 100], some air, plus a constant."""
    hu = np.random.default_rng(seed).uniform(-100, 100, SHAPE)
    hu[:3] = -1000
    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.Nifti1Image((hu + add).astype(np.float32), affine).to_filename(path)
    return path


@pytest.fixture
def folders(tmp_path):
    """Three patients; the tests are off by 4, 8 and 16 HU."""
    for i in range(3):
        scan(tmp_path / "d" / "reference" / f"p{i}.nii.gz", i)
        scan(tmp_path / "d" / "test" / f"p{i}.nii.gz", i, 4 * 2**i)
    return tmp_path / "d"


def test_figures_are_the_protocols(folders, tmp_path):
    result = run("mayo16-redcnn", folders, "--out", tmp_path / "out", "--method", "offset")
    assert result.exit_code == 0, result.output
    told = json.loads((tmp_path / "out" / "figures.json").read_text())
    by_name = {figure["name"]: figure for figure in told["figures"]}
    # A constant of c HU, off in the 21/24 of the slice that the cut of [-160, 240] leaves.
    share = 21 / 24
    expected = np.mean([10 * math.log10(400**2 / (share * c**2)) for c in (4, 8, 16)])
    assert by_name["psnr"]["value"] == pytest.approx(expected, abs=1e-3)
    rmse = np.mean([math.sqrt(share) * c for c in (4, 8, 16)])
    assert by_name["rmse"]["value"] == pytest.approx(rmse, abs=1e-3)
    assert by_name["psnr"]["patients"] == by_name["psnr"]["scans"] == 3
    assert by_name["psnr"]["method"] == "offset"
    assert by_name["psnr"]["interval"]["low"] < expected < by_name["psnr"]["interval"]["high"]
    assert "| offset | psnr (dB) |" in result.stdout
    assert (tmp_path / "out" / "figures.md").read_text() in result.stdout


def test_nan_in_the_padding_of_a_restored_file_counts_as_air(folders, tmp_path):
    """Where its reference has air: the figures are those of a file with air there."""
    told = []
    for missing, name in ((-1000, "air"), (np.nan, "nan")):
        for path in (folders / "test").iterdir():
            image = nibabel.load(path)
            hu = np.asanyarray(image.dataobj).copy()
            hu[:3] = missing
            nibabel.Nifti1Image(hu, image.affine).to_filename(path)
        result = run("mayo16-redcnn", folders, "--out", tmp_path / name)
        assert result.exit_code == 0, result.output
        told.append(json.loads((tmp_path / name / "figures.json").read_text())["figures"])
    assert told[0] == told[1]
    noted = "p0.nii.gz: 12% of the voxels are NaN and reach the border: taken as -1024"
    assert noted in result.stderr
    hu[12, 10, 5] = np.nan
    nibabel.Nifti1Image(hu, AFFINE).to_filename(folders / "test" / "p1.nii.gz")
    first = "p1.nii.gz has 1 voxels that are NaN or infinite, the first at voxel (12, 10, 5)"
    refuses(run("mayo16-redcnn", folders, "--out", tmp_path / "out"), first)


def table(path: Path, *rows: tuple[object, ...]) -> Path:
    with path.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_csv_names_the_patients(folders, tmp_path):
    rows = [
        ("A" if i < 2 else "B", f"reference/p{i}.nii.gz", f"test/p{i}.nii.gz") for i in range(3)
    ]
    pairs = table(folders / "pairs.csv", ("patient", "reference", "test"), *rows)
    assert run("mayo16-founddiff", pairs, "--out", tmp_path / "out").exit_code == 0
    told = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert {(f["patients"], f["scans"]) for f in told["figures"]} == {(2, 3)}


def test_files_are_recorded_by_content(folders, tiny, tmp_path):
    given = ("mayo16-redcnn", folders, "--force", "--out", tmp_path / "out")
    assert run(*given).exit_code == 0
    told = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert told["weights"] is None, "files may come from any method"
    one = next(file for file in told["files"] if file["patient"] == "p1")
    for name in ("reference", "test"):
        content = (folders / name / "p1.nii.gz").read_bytes()
        assert one[f"{name}_sha256"] == hashlib.sha256(content).hexdigest()
        assert one[name] == str(folders / name / "p1.nii.gz")
    result = run(*given, "--weights", tiny)
    told = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert told["weights"] == hashlib.sha256(tiny.read_bytes()).hexdigest()
    assert f"sha256 {told['weights']}" in result.stdout
    assert "is stated by the user" in told["notes"][-1]


def test_rplhr_takes_its_own_units(tmp_path):
    reference = np.random.default_rng(0).uniform(0.1, 0.9, (9, 8, 12))
    for name, add in (("reference", 0.0), ("test", 0.01)):
        (tmp_path / "d" / name).mkdir(parents=True)
        image = nibabel.Nifti1Image((reference + add).astype(np.float32), AFFINE)
        image.to_filename(tmp_path / "d" / name / "a.nii.gz")
    assert run("rplhr", tmp_path / "d", "--out", tmp_path / "out").exit_code == 0
    told = json.loads((tmp_path / "out" / "figures.json").read_text())
    assert told["figures"][0]["value"] == pytest.approx(40, abs=1e-3)  # 20 log10(1 / .01)


@pytest.mark.slow
def test_bmad_pairs_maps_and_masks(tmp_path):
    rng = np.random.default_rng(1)
    for i in range(8):
        mask = np.zeros((16, 16), np.uint8)
        if i % 2:
            mask[4:9, 4:9] = 1
        for name, values in (("maps", mask + 0.3 * rng.random(mask.shape)), ("masks", mask)):
            (tmp_path / "d" / name).mkdir(parents=True, exist_ok=True)
            np.save(tmp_path / "d" / name / f"q{i // 4}_{i}.npy", values)
    assert run("bmad-liver", tmp_path / "d", "--out", tmp_path / "out").exit_code == 0
    told = json.loads((tmp_path / "out" / "figures.json").read_text())
    values = {figure["name"]: figure["value"] for figure in told["figures"]}
    assert values == {"image AUROC": 1, "pixel AUROC": 1, "PRO at FPR 0.3": pytest.approx(1)}
    assert {(f["patients"], f["scans"]) for f in told["figures"]} == {(2, 8)}


def test_scores_of_images_count_instead_of_their_maps(tmp_path):
    rows = [("patient", "map", "mask", "score")]
    for i in range(4):
        mask = np.zeros((8, 8), np.uint8)
        mask[2:4, 2:4] = i % 2
        for name in ("maps", "masks"):
            (tmp_path / name).mkdir(exist_ok=True)
            np.save(tmp_path / name / f"{i}.npy", mask)
        rows.append((f"p{i}", f"maps/{i}.npy", f"masks/{i}.npy", 1 - i % 2))
    data = table(tmp_path / "scores.csv", *rows)
    assert run("bmad-liver", data, "--out", tmp_path / "out").exit_code == 0
    told = json.loads((tmp_path / "out" / "figures.json").read_text())
    values = {figure["name"]: figure["value"] for figure in told["figures"]}
    assert (values["image AUROC"], values["pixel AUROC"]) == (0, 1)


def test_bad_input_is_one_sentence(folders, tmp_path):
    out = tmp_path / "out"
    refuses(run("mayo", folders, "--out", out), "'mayo' is not known", "mayo16-redcnn")
    refuses(run("rplhr", folders, "--out", out), "[0, 1]")
    refuses(run("mayo16-redcnn", tmp_path / "no.csv", "--out", out), "no.csv cannot be read")
    refuses(run("rplhr", folders, "--out", out, "--weights", "no"), "weights 'no'")
    lame = table(folders / "lame.csv", ("patient", "reference"), ("A", "reference/p0.nii.gz"))
    refuses(run("mayo16-redcnn", lame, "--out", out), "line 1: no column 'test'")
    scan(folders / "test" / "alone.nii.gz", 9)
    refuses(run("mayo16-redcnn", folders, "--out", out), "alone has no partner")
    (folders / "test" / "alone.nii.gz").unlink()
    scan(folders / "test" / "p1.nii.gz", 1, affine=np.diag([1.0, 1.0, 3.0, 1.0]))
    refuses(run("mayo16-redcnn", folders, "--out", out), "not on the grid")
    assert not out.exists()


@pytest.mark.parametrize("protocol", ["mayo16-redcnn", "rplhr", "bmad-liver"])
def test_another_place_is_refused_with_both_geometries(tmp_path, protocol):
    names = ("maps", "masks") if protocol == "bmad-liver" else ("reference", "test")
    hu = np.random.default_rng(0).uniform(0.1, 0.9, SHAPE).astype(np.float32)
    if protocol == "mayo16-redcnn":  # whose files are in HU
        hu = np.round(200 * hu - 100)
        hu[:3] = -1000
    aside = AFFINE + 0.5 * np.eye(4, k=3)  # a quarter of a slice: np.allclose let millimetres pass
    for name, affine in zip(names, (AFFINE, aside), strict=True):
        (tmp_path / "d" / name).mkdir(parents=True)
        nibabel.Nifti1Image(hu, affine).to_filename(tmp_path / "d" / name / "p_1.nii.gz")
    refuses(run(protocol, tmp_path / "d", "--out", tmp_path / "out"),
            f"{names[1]}/p_1.nii.gz is not on the grid of", f"{names[0]}/p_1.nii.gz",
            "from (0.00, 0.00, 0.00)", "from (0.50, 0.00, 0.00)")  # fmt: skip


def test_voxels_a_little_longer_are_another_grid_at_the_far_end(tmp_path):
    """1 x 1 x 2.008 mm: 0.09 mm off after 12 slices, which a tolerance of the affine overlooks."""
    scan(tmp_path / "d" / "reference" / "a.nii.gz", 0)
    scan(tmp_path / "d" / "test" / "a.nii.gz", 0, affine=np.diag([1, 1, 2.008, 1]))
    refuses(run("mayo16-redcnn", tmp_path / "d", "--out", tmp_path / "out"), "22.00) mm", "22.09")


def test_earlier_figures_are_not_lost(folders, tmp_path):
    assert run("mayo16-corediff", folders, "--out", tmp_path / "out").exit_code == 0
    refuses(run("mayo16-corediff", folders, "--out", tmp_path / "out"), "--force")
    assert run("mayo16-corediff", folders, "--out", tmp_path / "out", "--force").exit_code == 0


@pytest.mark.parametrize(
    ("protocol", "low", "high"),
    [
        ("mayo16-redcnn", -160, 240),
        ("mayo16-corediff", -1000, 1000),
        ("mayo16-founddiff", -1000, 2000),
        ("mayo16-redcnn", -1024, 3071),
    ],
)
def test_a_result_that_is_already_cut_has_the_figures_of_the_uncut_one(
    protocol, low, high, tmp_path
):
    """Both files, or the result alone; cut to the window of the protocol, or to 12 bits."""
    rng = np.random.default_rng(0)
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 36, 12)), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7, np.where(x < 0, 50.0, -100.0), -1000.0)
    hu[18:22, 16:20] = 2600  # metal, which each window cuts
    reference = (hu + 20 * rng.standard_normal(hu.shape)).round()
    test = reference + 10 * rng.standard_normal(hu.shape)
    figures = []
    for cut in ((), ("test",), ("reference", "test")):
        data = tmp_path / f"cut{len(cut)}"
        for name, values in (("reference", reference), ("test", test)):
            (data / name).mkdir(parents=True)
            kept = np.clip(values, low, high) if name in cut else values
            image = nibabel.Nifti1Image(kept.astype(np.float32), AFFINE)
            image.to_filename(data / name / "p.nii.gz")
        result = run(protocol, data, "--out", tmp_path / f"out{len(cut)}")
        assert result.exit_code == 0, result.output
        told = json.loads((tmp_path / f"out{len(cut)}" / "figures.json").read_text())
        figures.append([figure["value"] for figure in told["figures"]])
    assert figures[1] == pytest.approx(figures[0], rel=1e-6)
    assert figures[2] == pytest.approx(figures[0], rel=1e-6)


def test_a_result_cut_elsewhere_is_refused(folders, tmp_path):
    for path in (folders / "test").iterdir():
        values = np.clip(np.asarray(nibabel.load(path).dataobj), -40, 80)
        nibabel.Nifti1Image(values.astype(np.float32), AFFINE).to_filename(path)
    refuses(run("mayo16-redcnn", folders, "--out", tmp_path / "out"), "is not in HU")
