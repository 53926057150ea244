"""A data set with lesions made in it: what is where, the same again, stopped anywhere.

No network: `make` is a closed form of scan, lesions and seed.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

import nibabel
import numpy as np
import pytest
from tiny_store import tree

from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.core.volume import Volume
from denovox.datasets import nnunet, store
from denovox.datasets.augment import augment, copy_seed
from denovox.datasets.manifest import CaseFacts
from denovox.simulate import phantom
from denovox.simulate.lesion_placement import LesionRequest, place

SHAPE, MM = (44, 36, 20), 7.0
LIVER = LesionRequest(organ="liver", diameter_mm=16.0)
FIRST = copy_seed(5, "b/chest", 0)


def ask(case: store.Case) -> LesionRequest:
    return LIVER


def make(scan: Volume, numbers: np.ndarray, seed: int) -> Volume:
    """Each lesion 50 HU more than the one before, and all of the scan a few, by the seed."""
    return scan.with_hu(scan.hu + 50 * numbers.astype(np.float32) + seed % 11)


@pytest.fixture(scope="session")
def shelf(tmp_path_factory) -> Path:
    """Three cases: a and b with a liver, c with none; b has a lesion of its own."""
    folder = tmp_path_factory.mktemp("store")
    for number, name in enumerate("abc"):
        body = phantom.chest(SHAPE, MM, number)
        labels = body.labels.copy()
        if name == "c":
            labels[labels == ID["liver"]] = ID["body"]
        lesion = np.zeros(SHAPE, np.uint8)
        if name == "b":  # where copy 0 would go, if it were not there
            numbers, _ = place(body.ct.with_hu(np.rint(body.ct.hu)), labels, LIVER, FIRST)
            lesion[tuple(np.argwhere(numbers)[:3].T)] = 1
        facts = CaseFacts(
            id=name, patient=f"p{name}", region="chest", spacing_mm=(MM,) * 3,
            affine=tuple(body.ct.affine.ravel().tolist()),
        )  # fmt: skip
        ct = np.rint(body.ct.hu).astype(np.int16)
        store.add(folder, facts, ct, labels, lesion if lesion.any() else None)
    store.index(folder)
    return folder


def cases(shelf: Path, names: str = "ab") -> list[store.Case]:
    return [case for case in store.cases(shelf) if case.facts.id[0] in names]


def run(
    shelf: Path, folder: Path, names: str = "ab", per_scan: int = 2, seed: int = 5
) -> list[str]:
    return list(augment(cases(shelf, names), folder, per_scan, seed, ask, make))


def pair(folder: Path, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(HU, label, affine) of a pair."""
    image, label = (nibabel.load(path) for path in nnunet.paths(folder, name))
    assert np.array_equal(image.affine, label.affine)
    return np.asarray(image.dataobj), np.asarray(label.dataobj), image.affine


def listed(folder: Path) -> dict[str, dict]:
    return {one["case"]: one for one in json.loads((folder / "lesions.json").read_text())}


def test_every_copy_is_what_was_made_of_what_was_placed(shelf, tmp_path):
    lines = run(shelf, tmp_path, "a")
    assert nnunet.names(tmp_path) == ["a_chest_s0", "a_chest_s1"]
    assert json.loads((tmp_path / "dataset.json").read_text())["numTraining"] == 2
    (case,) = cases(shelf, "a")
    affine = np.reshape(case.facts.affine, (4, 4))
    scan = Volume(case.voxels("ct")[...].astype(np.float32), affine)
    for k in range(2):
        seed = copy_seed(5, "a/chest", k)
        numbers, placed = place(scan, case.voxels("anatomy")[...], LIVER, seed)
        hu, label, there = pair(tmp_path, f"a_chest_s{k}")
        assert np.array_equal(hu, scan.hu + 50 * numbers + seed % 11)
        assert np.array_equal(label, numbers > 0)
        assert label.any()
        np.testing.assert_allclose(there, affine, rtol=1e-6)
        told = listed(tmp_path)[f"a_chest_s{k}"]
        assert (told["id"], told["patient"], told["seed"], told["copy"]) == ("a/chest", "pa", 5, k)
        (one,) = told["lesions"]
        assert one["centre_mm"] == list(placed[0].centre_mm)
        centre = there[:3, :3] @ np.argwhere(label).mean(0) + there[:3, 3]
        np.testing.assert_allclose(one["centre_mm"], centre, atol=1e-3)
        assert one["volume_ml"] == pytest.approx(label.sum() * MM**3 / 1000)
        assert any(text.startswith(f"a_chest_s{k}: liver 16.0 mm at (") for text in lines)
    first, second = (pair(tmp_path, f"a_chest_s{k}")[1] for k in range(2))
    assert not np.array_equal(first, second)
    assert lines[-1] == f"{tmp_path}: 2 pairs of a CT and a label map"


def test_lesions_json_has_a_pair_a_line(shelf, tmp_path):
    run(shelf, tmp_path)
    first, *lines, last = (tmp_path / "lesions.json").read_text().splitlines()
    assert (first, last) == ("[", "]")
    assert [json.loads(text.rstrip(","))["case"] for text in lines] == nnunet.names(tmp_path)


def test_folds_hold_out_patients_and_never_their_copies(shelf, tmp_path):
    run(shelf, tmp_path)
    rows = json.loads((tmp_path / "lesions.json").read_text())
    of = {row["case"]: row["patient"] for row in rows}
    folds = json.loads((tmp_path / "splits_final.json").read_text())
    assert len(folds) == 2
    for fold in folds:
        assert sorted(fold["train"] + fold["val"]) == sorted(of)
        assert fold["val"]
        assert not {of[c] for c in fold["train"]} & {of[c] for c in fold["val"]}
    assert sorted(folds[0]["val"] + folds[1]["val"]) == sorted(of)
    run(shelf, tmp_path / "one", "a")
    assert not (tmp_path / "one" / "splits_final.json").exists()


def test_a_copy_depends_on_seed_case_and_number_alone(shelf, tmp_path):
    run(shelf, tmp_path / "few", "a", per_scan=1)
    run(shelf, tmp_path / "more", "ab", per_scan=3)
    backwards = cases(shelf)[::-1]
    list(augment(backwards, tmp_path / "turned", 2, 5, ask, make))
    few, more, turned = (tree(tmp_path / name) for name in ("few", "more", "turned"))
    own = {name for name in few if "a_chest_s0" in name}
    assert len(own) == 3  # image, label, what was put where
    for name in own:
        assert few[name] == more[name] == turned[name]
    run(shelf, tmp_path / "other", "a", per_scan=1, seed=6)
    assert not any(tree(tmp_path / "other")[name] == few[name] for name in own)
    seeds = {copy_seed(s, i, k) for s in range(4) for i in ("a/x", "b/x") for k in range(4)}
    assert len(seeds) == 32


def test_own_lesions_are_kept_and_kept_clear_of(shelf, tmp_path):
    run(shelf, tmp_path, "b")
    assert nnunet.names(tmp_path) == ["b_chest_real", "b_chest_s0", "b_chest_s1"]
    (case,) = cases(shelf, "b")
    real = case.voxels("lesion")[...] > 0
    hu, label, _ = pair(tmp_path, "b_chest_real")
    assert np.array_equal(hu, case.voxels("ct")[...])
    assert np.array_equal(label, real)
    assert listed(tmp_path)["b_chest_real"]["real_ml"] == pytest.approx(3 * MM**3 / 1000)
    scan = Volume(case.voxels("ct")[...].astype(np.float32), np.reshape(case.facts.affine, (4, 4)))
    for k in range(2):
        _, label, _ = pair(tmp_path, f"b_chest_s{k}")
        seed = copy_seed(5, "b/chest", k)
        numbers, _ = place(scan, case.voxels("anatomy")[...], LIVER, seed, real)
        assert not ((numbers > 0) & real).any()
        assert np.array_equal(label, (numbers > 0) | real)


def test_a_case_without_the_organ_is_named_and_left_out(shelf, tmp_path):
    lines = run(shelf, tmp_path, "ac")
    assert nnunet.names(tmp_path) == ["a_chest_s0", "a_chest_s1"]
    (said,) = [text for text in lines if text.startswith("c_chest")]  # once, not for each copy
    assert said.startswith("c_chest: left out, ")
    assert "liver" in said


def test_its_own_pair_is_written_even_where_the_organ_is_not_shown(shelf, tmp_path):
    def heart(case: store.Case) -> LesionRequest:
        return LesionRequest(organ="brain")

    lines = list(augment(cases(shelf, "b"), tmp_path, 2, 0, heart, make))
    assert nnunet.names(tmp_path) == ["b_chest_real"]
    assert any("left out" in text for text in lines)


def test_nothing_at_all_is_an_error_that_says_why(shelf, tmp_path):
    with pytest.raises(InputError, match=r"no pair could be generated from 1 cases: .*liver"):
        run(shelf, tmp_path, "c")
    assert not (tmp_path / "dataset.json").exists()
    for wrong, why in (
        (lambda: augment([], tmp_path, 1, 0, ask, make), "from 0 cases: there are none"),
        (lambda: augment(cases(shelf), tmp_path, 0, 0, ask, make), "at least one copy"),
        (lambda: augment(cases(shelf) * 2, tmp_path, 1, 0, ask, make), "each case once"),
    ):
        with pytest.raises(InputError, match=why):
            list(wrong())


def test_stopped_before_any_file_and_repeated_gives_the_same_files(shelf, tmp_path, monkeypatch):
    run(shelf, tmp_path / "whole", "b", per_scan=1)
    whole = tree(tmp_path / "whole")
    moments = 2 * 3 + 2  # two pairs of three files, lesions.json, dataset.json
    assert len(whole) == moments
    real = os.replace
    for moment in range(moments):
        folder, seen = tmp_path / str(moment), []

        def replace(*args, seen=seen, moment=moment) -> None:
            seen.append(args)
            if len(seen) > moment:
                raise KeyboardInterrupt
            real(*args)

        monkeypatch.setattr(os, "replace", replace)
        with pytest.raises(KeyboardInterrupt):
            run(shelf, folder, "b", per_scan=1)
        monkeypatch.undo()
        there = tree(folder)
        assert len(there) == moment
        assert there.items() <= whole.items()
        images, labels = (
            {name.split("/")[1][:10] for name in there if name.startswith(kind)}
            for kind in ("images", "labels")
        )
        assert images <= labels
        run(shelf, folder, "b", per_scan=1)
        assert tree(folder) == whole


def test_what_a_kill_left_half_written_is_gone_afterwards(shelf, tmp_path):
    run(shelf, tmp_path, "a")
    whole = tree(tmp_path)
    for place_ in ("imagesTr", "lesions", "."):
        (tmp_path / place_ / f".{'0b' * 16}.part").write_bytes(b"half")
    run(shelf, tmp_path, "a")
    assert tree(tmp_path) == whole


def test_what_is_there_is_not_made_again(shelf, tmp_path):
    run(shelf, tmp_path)
    before = tree(tmp_path)
    nnunet.paths(tmp_path, "a_chest_s1")[0].unlink()
    made = []

    def counting(scan: Volume, numbers: np.ndarray, seed: int) -> Volume:
        made.append(seed)
        return make(scan, numbers, seed)

    lines = list(augment(cases(shelf), tmp_path, 2, 5, ask, counting))
    assert made == [copy_seed(5, "a/chest", 1)]
    assert tree(tmp_path) == before
    assert lines[0] == "a_chest: 1 of 2 already exist"
    assert "b_chest: 3 of 3 already exist" in lines


@pytest.mark.parametrize(
    ("how", "key"),
    [
        ({"seed": 6}, "seed"),
        ({"wanted": lambda case: LesionRequest(organ="liver", diameter_mm=12.0)}, "wanted"),
        ({"about": {"weights": "other"}}, "about"),
    ],
)
def test_pairs_made_otherwise_are_not_mixed_in(shelf, tmp_path, how, key):
    said = {"per_scan": 1, "seed": 5, "wanted": ask, "make": make, "about": {"weights": "these"}}
    list(augment(cases(shelf, "a"), tmp_path, **said))
    before = tree(tmp_path)
    with pytest.raises(InputError, match=rf"a_chest_s0, generated with a different .*\b{key}\b"):
        list(augment(cases(shelf, "a"), tmp_path, **said | how))
    assert tree(tmp_path) == before
    (tmp_path / "lesions" / "a_chest_s0.json").unlink()
    with pytest.raises(InputError, match="does not record how a_chest_s0 was generated"):
        list(augment(cases(shelf, "a"), tmp_path, **said))


def test_cases_that_were_in_the_folder_before_stay_and_count(shelf, tmp_path):
    nnunet.start(tmp_path)
    old = Volume(np.zeros((3, 3, 3), np.float32), np.eye(4))
    nnunet.write_case(tmp_path, "old", old, np.ones((3, 3, 3), np.uint8))
    before = [path.read_bytes() for path in nnunet.paths(tmp_path, "old")]
    run(shelf, tmp_path, "a")
    assert json.loads((tmp_path / "dataset.json").read_text())["numTraining"] == 3
    assert [path.read_bytes() for path in nnunet.paths(tmp_path, "old")] == before
    assert "old" not in listed(tmp_path)


def test_a_maker_that_changes_the_grid_is_caught(shelf, tmp_path):
    def cut(scan: Volume, numbers: np.ndarray, seed: int) -> Volume:
        return Volume(scan.hu[1:], scan.affine)

    with pytest.raises(ValueError, match="does not match the grid's"):
        list(augment(cases(shelf, "a"), tmp_path, 1, 5, ask, cut))
    assert nnunet.names(tmp_path) == []
