"""The ablation on phantoms: its arms, equal compute, and a model that knows the answers."""

from __future__ import annotations

import json
import math
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from torch import Tensor

from denovox.cli.main import main
from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.datasets import store
from denovox.datasets.manifest import CaseFacts
from denovox.datasets.samples.choice import SampleConfig
from denovox.evaluation.ablation import measure as ablation_figures
from denovox.evaluation.ablation import run as ablation
from denovox.evaluation.ablation.measure import (
    Bench,
    Measures,
    boxes_of,
    errors,
    group_dice,
    inside,
    measure,
)
from denovox.evaluation.ablation.run import ARMS, Ablation, run, steps_of
from denovox.evaluation.ablation.table import Figures, Measured, as_markdown
from denovox.model.presets import PRESETS
from denovox.model.segmenter import SegmenterConfig
from denovox.model.weights import ModelConfig
from denovox.simulate import phantom
from denovox.train.config import DataConfig, Recipe, TrainConfig
from denovox.train.distributed import Group

PATCH, MM = 8, 3.0
QUICK = Measures(
    boxes=2,
    sigmas=(0.5, 2.0),
    evaluations=2,
    reference=4,
    judge=SegmenterConfig(channels=(4, 8)),
    judge_steps=2,
    judge_batch=1,
)
MODEL = ModelConfig(net=PRESETS["tiny"], patch=PATCH)
KEYS = ("patch", "embedding")


@pytest.fixture(scope="module")
def bodies(tmp_path_factory) -> Path:
    """A store of two chests; bob is held back."""
    root = tmp_path_factory.mktemp("store")
    for seed, name in enumerate(("ann", "bob")):
        body = phantom.chest((56, 48, 40), MM, seed)
        affine = tuple(body.ct.affine.ravel())
        facts = CaseFacts(
            id=name, patient=name, region="chest", spacing_mm=(MM,) * 3, affine=affine,
            sha256=f"{seed:064d}",
        )  # fmt: skip
        store.add(root, facts, np.rint(body.ct.hu).astype(np.int16), body.labels)
    store.index(root)
    return root


@pytest.fixture(scope="module")
def recipe(bodies) -> Recipe:
    return Recipe(
        name="quick",
        data=DataConfig(
            store=str(bodies), validation_patients=("bob",), sample=SampleConfig(patch=PATCH)
        ),
        model=MODEL,
        train=TrainConfig(steps=3, samples=1, batch=1, precision="float32"),
    )


@pytest.fixture(scope="module")
def bench(recipe, tmp_path_factory) -> Bench:
    training, held = store.split(store.cases(recipe.data.store), ("bob",))
    folder = tmp_path_factory.mktemp("judges")
    return ablation_figures.bench_of(training, held, PATCH, QUICK, folder)


@pytest.fixture
def two_arms(monkeypatch):
    monkeypatch.setattr(ablation, "ARMS", tuple(arm for arm in ARMS if arm.key in KEYS))


# ---- arms ---------------------------------------------------------------------------------------


def test_each_arm_differs_from_another_by_its_part_alone():
    arms = {arm.key: arm.model_dump(exclude={"key", "text", "against"}) for arm in ARMS}
    changed = {}
    for arm in ARMS:
        if arm.against:
            own, other = arms[arm.key], arms[arm.against]
            changed[arm.key] = {name for name in own if own[name] != other[name]}
    assert changed == {
        "levels": {"levels"},
        "coordinates": {"position"},
        "embedding": {"position"},
        "unshuffle2": {"stem"},
        "v-l2": {"prediction", "loss"},
        "min-snr": {"min_snr"},
        "zero-snr": {"zero_snr"},
    }


def test_an_arm_is_the_recipe_with_that_part_changed(recipe):
    arms = {arm.key: arm for arm in ARMS}
    patch = arms["patch"].recipe(recipe, 2)
    assert patch.data.sample.levels == (0, 0, 1)
    assert patch.model.net.position == "none"
    assert patch.train.seed == 2
    assert arms["embedding"].recipe(recipe, 2).data.sample.levels == recipe.data.sample.levels
    weighed = arms["min-snr"].recipe(recipe, 0)
    assert (weighed.train.min_snr, weighed.train.loss, weighed.model.prediction) == (5, "l2", "v")
    assert arms["zero-snr"].recipe(recipe, 0).model.noise_schedule.zero_snr
    for arm in ARMS:  # model_copy does not check, so that it is done here
        own = arm.recipe(recipe, 0)
        assert Recipe.model_validate(own.model_dump()) == own


@pytest.mark.slow
def test_steps_are_of_equal_compute(recipe, monkeypatch):
    from torch.utils.flop_counter import FlopCounterMode

    from denovox.train.loss import predictor

    long = recipe.model_copy(update={"train": recipe.train.model_copy(update={"steps": 1000})})
    few = ("embedding", "unshuffle2", "v-l2")
    monkeypatch.setattr(ablation, "ARMS", tuple(arm for arm in ARMS if arm.key in few))
    steps = steps_of(long)
    assert steps["embedding"] == steps["v-l2"] == 1000
    draw = ablation.batches(ablation.sampler(store.cases(recipe.data.store), recipe.data.sample, 0))
    costs = {}
    for arm in ARMS:
        if arm.key in few[:2]:
            own = arm.recipe(recipe, 0)
            predict = predictor(own.model.build(), own.model, own.train)
            with FlopCounterMode(display=False) as counted:
                predict(draw([0])).mean().backward()
            costs[arm.key] = counted.get_total_flops()
    # torch counts no attention on a CPU: some thousandths of the whole.
    assert steps["unshuffle2"] * costs["unshuffle2"] == pytest.approx(
        1000 * costs["embedding"], rel=0.03
    )
    assert steps["unshuffle2"] > 3000


# ---- what is measured ---------------------------------------------------------------------------


def test_boxes_are_the_same_every_time_and_of_every_level(recipe):
    held = store.cases(recipe.data.store)
    first, again = (boxes_of(held, PATCH, 4, 0) for _ in range(2))
    assert [box.level for box in first] == [0] * 4 + [1] * 4 + [2] * 4
    for a, b in zip(first, again, strict=True):
        assert torch.equal(a.x0, b.x0)
        assert torch.equal(a.noise, b.noise)
        assert int(a.condition.region) == 2  # told, never dropped
    # Two cases in turn, and the second round of them mirrored: the whole, left for right.
    assert torch.equal(first[2].x0, first[0].x0.flip(2))
    assert torch.equal(first[3].x0, first[1].x0.flip(2))
    assert not torch.equal(boxes_of(held, PATCH, 4, 1)[-1].x0, first[-1].x0)


def test_a_group_has_its_finer_classes():
    labels = torch.tensor([[[[ID["lung"], ID["lung_upper_lobe_left"], ID["rib_left_1"], 0]]]])
    assert inside(labels, "lung").flatten().tolist() == [True, True, False, False]
    assert inside(labels, "bone").flatten().tolist() == [False, False, True, False]


def test_errors_of_a_model_that_answers_zero_are_the_scans_own(bench):
    l1, l2 = errors(lambda x, sigma, told: torch.zeros_like(x), bench)
    for number, level in enumerate(("whole", "2x crop", "crop")):
        x0 = torch.cat([box.x0 for box in bench.boxes if box.level == number])
        assert l1[level] == pytest.approx(dict.fromkeys(("0.5", "2.0"), float(x0.abs().mean())))
        rms = float(x0.square().mean().sqrt())
        assert l2[level] == pytest.approx(dict.fromkeys(("0.5", "2.0"), rms))


def test_what_a_model_says_beyond_the_window_is_clipped(bench):
    beyond, at = (
        errors(lambda x, sigma, told, v=v: torch.full_like(x, v), bench) for v in (7.0, 1.0)
    )
    assert beyond == at


def test_the_noise_is_fixed_and_of_its_level(bench):
    asked = []

    def denoise(x: Tensor, sigma: float, told) -> Tensor:
        asked.append((sigma, x))
        return x

    errors(denoise, bench)
    x0 = torch.cat([box.x0 for box in bench.boxes])
    for sigma in QUICK.sigmas:
        noise = torch.cat([x for s, x in asked if s == sigma]) - x0
        assert float(noise.std()) == pytest.approx(sigma, rel=0.05)


def test_a_model_that_knows_the_scans_gets_the_scans_own_figures(bench):
    def denoise(x: Tensor, sigma: float, told) -> Tensor:
        answers = []
        for n in range(len(x)):
            fits = [
                box.x0 for box in bench.boxes
                if torch.equal(box.condition.anatomy[0], told.anatomy[n])
                and all(
                    torch.equal(a[0], b[n])
                    for a, b in zip(box.condition.position, told.position, strict=True)
                )
            ]  # fmt: skip
            answers.append(fits[0])
        return torch.cat(answers)

    figures = measure((denoise, MODEL), bench)
    assert all(value == 0 for of in figures.l1.values() for value in of.values())
    assert figures.realism == pytest.approx(bench.real.realism, rel=1e-6)
    assert figures.dice == bench.real.dice
    nothing = measure((lambda x, sigma, told: torch.zeros_like(x), MODEL), bench)
    assert nothing.realism > 2 * figures.realism


@pytest.mark.parametrize(("zero_snr", "start"), [(False, 80.0), (True, 1e5)])
def test_with_zero_terminal_snr_sampling_begins_at_the_end(bench, zero_snr, start):
    asked = []

    def denoise(x: Tensor, sigma: float, told) -> Tensor:
        asked.append((sigma, float(x.std())))
        return torch.zeros_like(x)

    config = MODEL.model_copy(update={"zero_snr": zero_snr})
    made = ablation_figures.samples(denoise, config, bench)
    assert made.shape == (6, 1, PATCH, PATCH, PATCH)
    assert asked[0] == (pytest.approx(start), pytest.approx(start, rel=0.1))
    assert [sigma for sigma, _ in asked[:2]] == [pytest.approx(start), pytest.approx(0.02)]


class Fixed(torch.nn.Module):
    """A segmenter that finds what is bright."""

    def forward(self, x0: Tensor, region: Tensor) -> Tensor:
        return x0


def test_dice_is_of_all_voxels_together(bench):
    bones = [inside(box.condition.anatomy, "bone")[:, None] for box in bench.boxes]
    right = torch.cat(bones).float() * 2 - 1
    assert group_dice(Fixed(), "bone", right, bench.boxes) == 1
    assert group_dice(Fixed(), "bone", -right, bench.boxes) == 0
    count = float(torch.cat(bones).sum())
    everywhere = group_dice(Fixed(), "bone", torch.ones_like(right), bench.boxes)
    assert everywhere == pytest.approx(2 * count / (count + right.numel()))


# ---- the whole ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_an_ablation_goes_on_where_it_was_stopped(recipe, tmp_path, two_arms, monkeypatch):
    monkeypatch.setattr(ablation, "steps_of", lambda recipe: dict(zip(KEYS, (2, 3), strict=True)))
    config = Ablation(seeds=1, measures=QUICK)
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    said = list(run(recipe, whole, config))
    assert said[-1] == f"{whole / 'figures.md'}: all 2 runs"
    shares = [each for each in said if isinstance(each, float)]
    assert shares == sorted(shares)
    assert shares[-1] == 1

    for news in run(recipe, parts, config):
        if isinstance(news, float):
            break  # after the first step
    assert not (parts / "patch-0" / "weights.safetensors").exists()
    assert "stopped in patch-0" in list(run(recipe, parts, config, max_minutes=0))[-1]
    done, replace = parts / "patch-0" / "figures.json", os.replace

    def stopped(temp, target):
        if Path(target) == done:
            raise KeyboardInterrupt
        replace(temp, target)

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", stopped)
        with pytest.raises(KeyboardInterrupt):
            list(run(recipe, parts, config))
    assert not done.exists()  # half of it would count as done
    list(run(recipe, parts, config))
    told = [json.loads((folder / "figures.json").read_text()) for folder in (whole, parts)]
    assert told[0] == told[1]
    assert set(told[0]["arms"]) == set(KEYS)
    assert (whole / "figures.md").read_text() == (parts / "figures.md").read_text()

    def never(*told):
        raise AssertionError("a run that is done is not run again")

    monkeypatch.setattr(ablation, "_train", never)
    assert "all 2 runs" in list(run(recipe, whole, config))[-1]
    other = recipe.model_copy(update={"train": recipe.train.model_copy(update={"lr": 1e-2})})
    with pytest.raises(InputError, match="another recipe"):
        list(run(other, whole, config))


def test_an_ablation_needs_patients_held_back_and_trains_from_nothing(recipe, tmp_path):
    started = recipe.model_copy(update={"start": "base"})
    with pytest.raises(InputError, match="leave out start"):
        list(run(started, tmp_path))
    data = recipe.data.model_copy(update={"validation_patients": ("ann", "bob")})
    with pytest.raises(InputError, match="leave some to train on"):
        list(run(recipe.model_copy(update={"data": data}), tmp_path))


def test_the_table_has_the_mean_and_the_range_over_seeds():
    def of(value: float) -> Figures:
        levels = ("whole", "2x crop", "crop")
        both = {level: {"0.5": value, "2.0": 3 * value} for level in levels}
        return Figures(l1=both, l2=both, realism=10 * value, dice={"lung": value})

    arm = Measured("patch", "patch only", None, 7, {0: of(0.1), 1: of(0.2)})
    table = as_markdown([arm], Figures(realism=1.0, dice={"lung": 0.9})).splitlines()
    errors = "0.3000 (0.2000 to 0.4000)"
    want = ["patch only", "", "2", "7", errors, errors, errors, "1.50 (1.00 to 2.00)"]
    want.append("0.150 (0.100 to 0.200)")
    assert [cell.strip() for cell in table[2].strip("|").split("|")] == want
    ours = [cell.strip() for cell in table[3].strip("|").split("|")]
    assert ours == ["the scans themselves", *[""] * 6, "1.00", "0.900"]
    assert math.prod(row.count("|") == 10 for row in table[:4])


def test_the_recipes_are_valid_and_bad_ones_are_one_sentence(tmp_path):
    from denovox.train.config import read_recipe

    for name in ("ablation-cpu", "ablation-gpu"):
        told = read_recipe(Path(__file__).parents[3] / f"recipes/{name}.toml")
        assert told.data.sample.patch == told.model.patch
        # The stem of one arm wants twice what the others do.
        assert told.model.patch % (2 * told.model.net.multiple) == 0
    ran = CliRunner().invoke(main, ["ablate", str(tmp_path / "no.toml"), "--out", str(tmp_path)])
    assert ran.exit_code == 2
    assert "no such recipe" in ran.output


def test_several_processes_do_not_ablate_into_one_folder(tmp_path, monkeypatch):
    recipe = Path(__file__).parents[3] / "recipes/ablation-cpu.toml"
    monkeypatch.setattr("denovox.train.distributed.joined", lambda device: Group(0, 2))
    ran = CliRunner().invoke(main, ["ablate", str(recipe), "--out", str(tmp_path / "out")])
    assert ran.exit_code == 2
    assert "is a single process" in ran.output
    assert not (tmp_path / "out").exists()
