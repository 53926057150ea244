"""`denovox phantom`, and `denovox synthesize --phantoms`."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from command_line import refuses, run

from denovox.core.labels import ID
from denovox.datasets.anatomy import read
from denovox.simulate.phantom import draw

SMALL = ("--steps", 2, "--levels", 1, "--spacing", 6, "--shape", "16x16x24")


def test_a_phantom_is_drawn_with_its_image(tmp_path: Path) -> None:
    out, image = tmp_path / "labels.nii.gz", tmp_path / "ct.nii.gz"
    asked = ("abdomen", out, "--seed", 4, "--spacing", "9x10x12", "--image", image)
    result = run("phantom", *asked)
    assert result.exit_code == 0, result.output
    expected = draw("abdomen", None, (12.0, 10.0, 9.0), 4)
    ids, affine = read(out)
    assert np.array_equal(ids, expected.labels)
    assert np.array_equal(affine, expected.ct.affine)
    np.testing.assert_allclose(nibabel.load(image).get_fdata(), expected.ct.hu, atol=0.51)
    manifest = json.loads((tmp_path / "labels.nii.gz.json").read_text())
    assert manifest["seed"] == 4
    assert manifest["settings"]["region"] == "abdomen"
    # The same person where files are LPS: the liver is on the patient's right.
    flipped = nibabel.load(out).as_reoriented([[0, -1], [1, -1], [2, 1]])
    assert nibabel.aff2axcodes(flipped.affine) == ("L", "P", "S")
    flipped.to_filename(tmp_path / "lps.nii.gz")
    assert np.array_equal(read(tmp_path / "lps.nii.gz")[0], ids)
    where = np.argwhere(np.asarray(flipped.dataobj) == ID["liver"]).mean(0)
    assert (flipped.affine @ [*where, 1])[0] > 20
    refuses(run("phantom", *asked), "already exists", "--force")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("knee", "a.nii.gz"), "'knee' is not one of"),
        (("chest", "a.png"), "must end in .nii"),
        (("chest", "a.nii.gz", "--spacing", "0"), "--spacing '0' is neither"),
        (("chest", "a.nii.gz", "--shape", "4x4"), "--shape '4x4' is neither"),
        (("chest", "a.nii.gz", "--image", "a.nii.gz"), "conflicts with"),
    ],
)
def test_phantoms_that_are_refused(words, says, tmp_path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    refuses(run("phantom", *words), says)
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_a_scan_from_the_phantom_of_each_region(tmp_path, tiny) -> None:
    folder = tmp_path / "pairs"
    asked = ("synthesize", "--phantoms", 3, "--out", folder, "--weights", tiny, *SMALL)
    result = run(*asked)
    assert result.exit_code == 0, result.output
    names = sorted(path.name for path in (folder / "imagesTr").iterdir())
    regions = ("abdomen_0001", "chest_0000", "headneck_0002")
    assert names == [f"{name}_0000.nii.gz" for name in regions]
    for name in regions:
        image = nibabel.load(folder / "imagesTr" / f"{name}_0000.nii.gz")
        label = nibabel.load(folder / "labelsTr" / f"{name}.nii.gz")
        assert image.shape == label.shape == (24, 16, 16)
        assert np.asarray(image.dataobj).std() > 10
    assert json.loads((folder.with_name("pairs.json")).read_text())["command"] == "synthesize"
    before = {path: path.read_bytes() for path in folder.glob("*Tr/*")}
    again = run(*asked)
    assert again.exit_code == 0, again.output
    assert "3 of 3 pairs already exist" in again.stderr
    assert {path: path.read_bytes() for path in folder.glob("*Tr/*")} == before


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--phantoms", 0, "--out", "d"), "'--phantoms'"),
        (("--phantoms", 2), "missing option '--out'"),
        (("--phantoms", 2, "--out", "d", "a.nii.gz"), "unexpected extra argument"),
        (("--phantoms", 2, "--out", "d", "--anatomy", "a.nii.gz"), "no such option"),
        (("--phantoms", 2, "--out", "d", "--layout", "decathlon"), "'decathlon'"),
        (("--phantoms", 2, "--out", "d", "--spacing", 60), "the model supports spacings"),
        (("--phantoms", 2, "--out", "d", "--guidance", 3), "dropped conditions"),
        (("a.nii.gz", "--region", "chest", "--label-set", "maisi"), "--label-set"),
    ],
)
def test_pairs_that_are_refused_before_any_work(words, says, tmp_path, tiny, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    refuses(run("synthesize", *words, "--weights", tiny), says)
    assert sorted(tmp_path.rglob("*")) == before


def test_an_anatomy_of_another_label_set(tmp_path, tiny) -> None:
    labels = np.full((16, 8, 24), 1, np.uint8)  # MAISI's liver, TotalSegmentator's spleen
    nibabel.Nifti1Image(labels, np.diag([4, 4, 4, 1])).to_filename(tmp_path / "labels.nii.gz")
    asked = ("--anatomy", tmp_path / "labels.nii.gz", "--steps", 2, "--weights", tiny)
    for number, more in enumerate(((), ("--label-set", "maisi"), ("--label-set", "btcv"))):
        out = tmp_path / f"{number}.nii.gz"
        result = run("synthesize", out, "--region", "abdomen", *asked, *more)
        assert result.exit_code == 0, result.output
    spleen, liver, btcv = (nibabel.load(tmp_path / f"{n}.nii.gz").get_fdata() for n in range(3))
    assert np.array_equal(spleen, btcv)  # whose 1 is the spleen, too
    assert not np.array_equal(spleen, liver)
