"""Lesion studies on phantoms: methods whose lesions are right, or that do nothing."""

from __future__ import annotations

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.core.volume import Volume
from denovox.datasets import store
from denovox.datasets.manifest import CaseFacts
from denovox.datasets.store import Case
from denovox.evaluation.lesions import hosts, study
from denovox.evaluation.lesions.hosts import (
    LesionStudyConfig,
    cases_of,
    cut_out,
    entry_of,
    read,
    trained_segmenter,
)
from denovox.evaluation.lesions.results import StudyRows
from denovox.evaluation.lesions.study import evaluate_lesions, folds_of
from denovox.inference.options import RunOptions
from denovox.metrics.results import as_json, as_markdown
from denovox.model.segmenter import Segmenter, SegmenterConfig
from denovox.simulate import phantom

HU, MM = 40.0, 3.0
QUICK = LesionStudyConfig(
    folds=1, seeds=1, steps=4, batch=2, lesions=2, net=SegmenterConfig(channels=(4, 8))
)


def paint(volume: Volume, numbers: np.ndarray, seed: int) -> Volume:
    """Lesions of the HU that real ones have here."""
    return volume.with_hu(np.where(numbers > 0, np.float32(HU), volume.hu))


def nothing(volume: Volume, numbers: np.ndarray, seed: int) -> Volume:
    return volume


def fill(volume: Volume, hole: np.ndarray, seed: int) -> Volume:
    """Lung where the hole is."""
    return volume.with_hu(np.where(hole, np.float32(-850), volume.hu))


def add(root, name: str, patient: str, seed: int, radii=(9.0, 12.0)) -> None:
    """A chest with balls of HU 40 in its lungs, one each side."""
    body = phantom.chest((96, 64, 40), MM, seed)
    ct = phantom.add_noise(body.ct, 10, seed)
    grid = np.indices(ct.shape)
    lesion = np.zeros(ct.shape, bool)
    for radius, x in zip(radii, (24, 72), strict=False):
        away = np.sqrt(sum((g - c) ** 2 for g, c in zip(grid, (x, 28, 22), strict=True))) * MM
        lesion |= away <= radius
    hu = np.where(lesion, HU, ct.hu)
    facts = CaseFacts(
        id=name,
        patient=patient,
        region="chest",
        spacing_mm=(MM,) * 3,
        affine=tuple(ct.affine.ravel()),
        sha256=f"{seed:064d}",
    )
    store.add(root, facts, np.rint(hu).astype(np.int16), body.labels, lesion.astype(np.uint8))


@pytest.fixture(scope="module")
def sick(tmp_path_factory):
    """Two patients with lesions, one without, and a scan with planted ones."""
    root = tmp_path_factory.mktemp("store")
    for seed, name in enumerate(("ann", "bob")):
        add(root, name, name, seed)
    add(root, "cyd", "cyd", 2, ())
    add(root, "bob_planted", "bob", 3)
    store.index(root)
    return root


@pytest.fixture(scope="module")
def healthy():
    """The bodies of all patients here, without lesions or noise."""
    return [phantom.chest((96, 64, 40), MM, seed).ct.hu for seed in range(4)]


@pytest.fixture
def oracle(monkeypatch, healthy):
    """A segmenter that knows the bodies and outlines what is soft where they are air.

    The fixture is a list of what each one is trained on.
    """
    trained, net = [], Segmenter(QUICK.net)

    def outline(net, volume, region):
        body = min(healthy, key=lambda hu: float(np.abs(hu - volume.hu).mean()))
        return (volume.hu > 0) & (body < -500)

    def trained_segmenter(cases, number, context, name):
        trained.append((name, number, sorted(entry_of(case) for case in cases)))
        context.tick()
        return net

    monkeypatch.setattr(study, "trained_segmenter", trained_segmenter)
    monkeypatch.setattr(study, "outline", outline)
    return trained


def told(results) -> dict[tuple[str, str], float]:
    return {(one.method, one.name): one.value for one in results.figures}


# ---- the whole, with a segmenter that is right --------------------------------------------------


@pytest.mark.slow
def test_right_lesions_are_found_and_look_real(sick, oracle):
    config = QUICK.model_copy(update={"folds": 2, "seeds": 2})
    shares, lines = [], []
    options = RunOptions(3, say=lines.append, progress=shares.append)
    results = evaluate_lesions("lesion-generation", sick, paint, fill, config, options, "f" * 64)
    got = told(results)
    assert got["denovox", "chest lesion Dice"] > 0.97  # noise at the border of a tiny few
    assert got["denovox", "chest sensitivity"] == 1
    assert got["real", "chest lesion Dice"] > 0.97
    assert got["untouched", "chest lesion Dice"] == 0
    assert got["untouched", "chest sensitivity"] == 0
    assert got["denovox", "chest HU distance"] < 10  # real ones have the noise of the scan
    floor = got["real, by patient", "chest HU distance"]
    assert 0 <= floor < 5
    assert got["denovox", "chest contrast distance"] < 40
    assert got["real, trained with synthetic", "chest lesion Dice gain over real"] == 0
    assert got["real, trained with synthetic", "lesion Dice gain, SD over seeds"] == 0
    # Two folds, two seeds; planted lesions and healthy scans train nothing, nor does the held out.
    assert [(name, n, *cases) for name, n, cases in oracle] == [
        ("0-0-real", 0, "bob"),
        ("0-1-real", 1, "bob"),
        ("0-0-synthetic", 0, "bob", "bob_chest_synthetic0"),
        ("0-1-synthetic", 1, "bob", "bob_chest_synthetic0"),
        ("1-0-real", 0, "ann"),
        ("1-1-real", 1, "ann"),
        ("1-0-synthetic", 0, "ann", "ann_chest_synthetic0"),
        ("1-1-synthetic", 1, "ann", "ann_chest_synthetic0"),
    ]
    assert len(shares) == 10
    assert shares == sorted(shares)
    assert shares[-1] == 1
    assert any("ann is held out" in line for line in lines)
    assert results.weights == "f" * 64
    assert results.settings["seed"] == 3
    facts = [one["trained_on"] for one in results.files if "trained_on" in one]
    assert facts == [
        {"real_scans": 1, "real_lesions": 2, "synthetic_scans": 1, "synthetic_lesions": 2}
        for _ in range(2)
    ]
    json.loads(as_json(results))
    table = as_markdown(results)
    assert "synthetic lesions in scans of the held-out patient" in table
    assert "chest, real: 4 lesions, medians 40 HU inside" in table
    by_name = {(one.method, one.name): one for one in results.figures}
    assert by_name["denovox", "chest lesion Dice"].patients == 2
    assert by_name["denovox", "chest lesion Dice"].better == "higher"
    assert by_name["untouched", "chest lesion Dice"].better == "lower"
    assert ("untouched", "chest pieces elsewhere") not in by_name


def test_no_lesions_are_not_outlined_and_look_like_lung(sick, oracle):
    got = told(evaluate_lesions("lesion-generation", sick, nothing, fill, QUICK))
    assert got["denovox", "chest lesion Dice"] == 0
    assert got["denovox", "chest scan Dice"] == 0
    assert got["real", "chest lesion Dice"] > 0.97
    assert got["denovox", "chest HU distance"] > 700
    assert got["denovox", "chest contrast distance"] > 700
    assert math.isnan(got["real, trained with synthetic", "lesion Dice gain, SD over seeds"])


def test_the_gain_is_that_of_training_with_synthetic_lesions(sick, oracle):
    scan, found = read(cases_of(sick, QUICK)[0][0]), StudyRows()
    nothing_found = np.zeros(scan.volume.shape, bool)
    study._real(scan, [nothing_found] * 2, [Segmenter(QUICK.net)] * 2, found)
    assert [row.method for row in found.measured] == ["real", "real, trained with synthetic"]
    before, after = ({v.name: v.value for v in row.values} for row in found.measured)
    assert before["lesion Dice"] == 0
    assert after["lesion Dice gain over real"] == after["lesion Dice"] > 0.97
    assert after["scan Dice gain over real"] == after["scan Dice"] > 0.97
    assert found.gains == {0: [after["lesion Dice"]], 1: [after["lesion Dice"]]}


@pytest.mark.slow
def test_lesions_synthesized_again(sick, oracle):
    config = QUICK.model_copy(update={"folds": 2})
    got = told(evaluate_lesions("lesion-inpainting", sick, paint, fill, config))
    for method in ("denovox", "real"):
        assert got[method, "chest lesion Dice"] > 0.97
        assert got[method, "chest left"] == pytest.approx(1, abs=0.05)
    assert got["denovox", "chest MAE inside"] == pytest.approx(0, abs=1e-4)
    assert got["cut out", "chest MAE inside"] > 700
    assert got["denovox", "chest MAE in the rim"] == got["cut out", "chest MAE in the rim"] > 5
    assert got["removed", "chest left"] == 0
    assert got["denovox", "chest HU distance"] == 0
    assert [cases for _, _, cases in oracle] == [["bob"], ["ann"]]


def test_what_is_not_removed_is_left(sick, oracle):
    seen = []

    def keep(volume, hole, seed):
        seen.append((volume.hu[hole].max(), seed))
        return volume.with_hu(np.where(hole, np.float32(HU), volume.hu))

    got = told(evaluate_lesions("lesion-inpainting", sick, nothing, keep, QUICK))
    assert got["removed", "chest left"] > 1.5  # the hole is larger than the lesion
    assert got["denovox", "chest lesion Dice"] < 0.1
    assert got["denovox", "chest MAE inside"] == got["cut out", "chest MAE inside"]
    assert got["denovox", "chest HU distance"] > 500
    assert seen[0][0] < HU - 15  # what was there had been cut out


# ---- the whole, with a segmenter that is trained ------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["lesion-generation", "lesion-inpainting"])
def test_whole_and_the_same_again(name, sick):
    one, again = (evaluate_lesions(name, sick, paint, fill, QUICK, RunOptions(1)) for _ in range(2))
    assert as_json(one) == as_json(again)
    assert all(figure.method for figure in one.figures)


@pytest.mark.slow
def test_a_segmenter_learns_what_lesions_are(sick, tmp_path):
    config = QUICK.model_copy(
        update={"steps": 40, "batch": 4, "lr": 1e-2, "net": SegmenterConfig(channels=(8, 16))}
    )
    ticks = []
    context = hosts.StudyContext(config, RunOptions(), tmp_path, lambda: ticks.append(1))
    cases, _ = cases_of(sick, config)
    net = trained_segmenter(cases[:1], 0, context, "a")
    assert len(ticks) == 1
    held = read(cases[1])
    found = hosts.outline(net, held.volume, "chest")
    lesion = held.numbers > 0
    assert found[lesion].mean() > 0.5
    assert found[~lesion & (held.volume.hu < -500)].mean() < 0.01


def test_a_segmenter_hangs_on_its_seeds(sick, tmp_path):
    cases, _ = cases_of(sick, QUICK)
    got = []
    for name, seed, number in (("a", 0, 0), ("b", 0, 0), ("c", 0, 1), ("d", 1, 0)):
        context = hosts.StudyContext(QUICK, RunOptions(seed), tmp_path, lambda: None)
        net = trained_segmenter(cases, number, context, name)
        got.append(torch.cat([p.detach().ravel() for p in net.parameters()]))
    assert torch.equal(got[0], got[1])
    assert not torch.equal(got[0], got[2])
    assert not torch.equal(got[0], got[3])


# ---- parts --------------------------------------------------------------------------------------


def test_folds_hold_a_patient_out_and_share_out_the_healthy():
    def case(name, *lesions):
        return Case("", CaseFacts(id=f"{name}/chest", patient=name[0], lesions=lesions))

    box = (0, 0, 0, 1, 1, 1)
    cases = [case("a1", box), case("a2"), case("b", box), case("c", box), case("d"), case("e")]
    folds = folds_of(cases, 2, 0)
    assert len(folds) == 2
    for fold in folds:
        test, train = ({one.facts.patient for one in each} for each in (fold.test, fold.train))
        assert fold.patient in test
        assert not test & train
        assert len(fold.test) + len(fold.train) == 6
        assert len(test & {"d", "e"}) == 1
    assert folds_of(cases, 2, 0) == folds
    chosen = {tuple(fold.patient for fold in folds_of(cases, 2, seed)) for seed in range(20)}
    assert chosen == {("a", "b"), ("a", "c"), ("b", "c")}
    assert [fold.patient for fold in folds_of(cases, 9, 0)] == ["a", "b", "c"]
    unseen = [replace(each, facts=each.facts.model_copy(update={"split": "validation"}))
              for each in cases if each.facts.patient in "bd"]  # fmt: skip
    others = [each for each in cases if each.facts.patient not in "bd"]
    (only,) = folds_of([*others, *unseen], 3, 0)
    assert only.patient == "b"
    assert {each.facts.patient for each in only.train} == {"a", "c"}


def test_copies_depend_on_the_seed_and_stay_away(sick, tmp_path):
    case = cases_of(sick, QUICK)[0][0]
    scan, copies = read(case), []
    for seed, folder in ((1, "a"), (1, "b"), (2, "c")):
        context = hosts.StudyContext(QUICK, RunOptions(seed), tmp_path / folder, lambda: None)
        (tmp_path / folder).mkdir()
        copies.append(hosts.augmented_case(scan, [10.0], 0, paint, context))
    assert np.array_equal(copies[0].numbers, copies[1].numbers)
    assert not np.array_equal(copies[0].numbers, copies[2].numbers)
    copy = copies[0]
    assert set(np.unique(copy.numbers)) == {0, 1, 2}
    lung = [ID[name] for name in ID if name.startswith("lung")]
    anatomy = case.voxels("anatomy")[...]
    assert np.isin(anatomy[copy.numbers > 0], lung).mean() > 0.9
    assert not (copy.numbers[scan.numbers > 0]).any()
    kept = read(copy.case)
    assert np.array_equal(kept.numbers > 0, (copy.numbers > 0) | (scan.numbers > 0))
    np.testing.assert_allclose(kept.volume.hu, paint(scan.volume, copy.numbers, 0).hu, atol=0.5)
    assert np.array_equal(kept.volume.affine, scan.volume.affine)
    many = QUICK.model_copy(update={"lesions": 40})
    context = hosts.StudyContext(many, RunOptions(), tmp_path, lambda: None)
    crowd = hosts.augmented_case(scan, [12.0], 0, paint, context).numbers > 0
    apart = ndimage.distance_transform_edt(scan.numbers == 0, MM)[crowd]
    assert apart.min() >= 5  # of placing.GAP_MM


@pytest.mark.slow
def test_a_size_without_room_gets_smaller_then_fewer(sick, tmp_path):
    scan = read(cases_of(sick, QUICK)[0][0])
    context = hosts.StudyContext(
        QUICK.model_copy(update={"largest_mm": 500.0}), RunOptions(), tmp_path, lambda: None
    )
    with pytest.raises(InputError, match="does not fit"):
        hosts.augmented_case(scan, [400.0], 0, paint, context)
    copy = hosts.augmented_case(scan, [60.0], 0, paint, context)
    assert 25 < hosts.diameters_mm(copy.numbers, (MM,) * 3)[0] < 60
    crowd = context.config.model_copy(update={"lesions": 16, "largest_mm": 90.0})
    context = hosts.StudyContext(crowd, RunOptions(), tmp_path, lambda: None)
    copy = hosts.augmented_case(scan, [90.0], 1, paint, context)
    assert copy.numbers.max() in (8, 4, 2, 1)


def test_sizes_are_those_of_the_balls(sick):
    scan = read(cases_of(sick, QUICK)[0][0])
    assert sorted(scan.diameters_mm) == pytest.approx([18, 24], rel=0.1)


def test_a_hole_takes_what_is_nearest():
    hu = np.zeros((9, 5, 5), np.float32)
    hu[:4], hu[4], hu[5:] = -800, 40, 100
    hole = np.zeros(hu.shape, bool)
    hole[3:5] = True
    cut = cut_out(Volume(hu, np.eye(4)), hole).hu
    assert (cut[:4] == -800).all()
    assert (cut[4:] == 100).all()


@pytest.mark.slow
def test_healthy_scans_get_lesions_where_asked(sick, oracle):
    config = QUICK.model_copy(update={"hosts": "all", "folds": 2})
    results = evaluate_lesions("lesion-generation", sick, paint, fill, config)
    synthetic = {one["scan"]: one for one in results.files if one.get("what") == "synthetic"}
    assert set(synthetic) == {"ann/chest", "bob/chest", "cyd/chest"}
    mm = [each["diameter_mm"] for each in synthetic["cyd/chest"]["lesions"]]  # as the others' are
    assert mm == pytest.approx([18.8] * 2, rel=0.1) or mm == pytest.approx([24.5] * 2, rel=0.1)
    by_name = {(one.method, one.name): one for one in results.figures}
    assert by_name["denovox", "chest lesion Dice"].patients == 3
    assert by_name["denovox", "chest lesion Dice"].value > 0.97
    assert by_name["real", "chest lesion Dice"].patients == 2


# ---- what cannot be worked on -------------------------------------------------------------------


def test_too_few_patients(tmp_path, sick):
    add(tmp_path, "ann", "ann", 0)
    add(tmp_path, "bob_planted", "bob", 1)
    store.index(tmp_path)
    with pytest.raises(InputError, match=r"1 patients have lesions.*SCAN_lesion\.nii\.gz"):
        evaluate_lesions("lesion-generation", tmp_path, paint, fill, QUICK)
    config = QUICK.model_copy(update={"planted": ""})  # they count
    assert len(cases_of(tmp_path, config)[0]) == 2
    with pytest.raises(InputError, match="choose one of generation, inpainting"):
        evaluate_lesions("lesions", sick, paint, fill, QUICK)


def test_a_method_that_returns_something_else(sick, oracle):
    def halved(volume, numbers, seed):
        return Volume(volume.hu[::2], volume.affine)

    def broken(volume, numbers, seed):
        return volume.with_hu(volume.hu * np.float32(np.nan))

    for make in (halved, broken):
        with pytest.raises(InputError, match="another grid"):
            evaluate_lesions("lesion-inpainting", sick, make, fill, QUICK)


def test_no_room_anywhere(sick, oracle):
    lines = []
    config = QUICK.model_copy(update={"organs": {"chest": "liver_vessel"}})
    with pytest.raises(InputError, match="no scan has room"):
        evaluate_lesions(
            "lesion-generation", sick, paint, fill, config, RunOptions(say=lines.append)
        )
    assert any("copy 0 is left out" in line for line in lines)
