"""`denovox adapt`: base and adapted weights, mixed by a held-out patient's loss."""

from __future__ import annotations

from functools import partial

import command_line
import numpy as np
import pytest
import torch
from command_line import refuses

import denovox
from denovox.datasets import store
from denovox.model import weights
from denovox.model.expert import joined
from denovox.simulate import phantom
from denovox.train.adaptation import adapt as adapting
from denovox.train.loop import Progress, Session

run = partial(command_line.run, "adapt")


@pytest.fixture
def scans(tmp_path):
    """A folder with a scan of each of two patients."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for seed, patient in enumerate(("ann", "bob")):
        scan = phantom.add_noise(phantom.chest((64, 56, 36), 4.0, seed).ct, 10, seed)
        denovox.write(scan, folder / f"{patient}.nii.gz")
    return folder


@pytest.fixture
def six_steps(monkeypatch):
    """Runs of six steps instead of minutes, which a busy machine spends on anything."""
    real = adapting.recipe_for

    def recipe_for(*given):
        recipe = real(*given)
        few = {"steps": 6, "minutes": 0.0, "validate_every": 3, "samples": 2, "batch": 2}
        return recipe.model_copy(update={"train": recipe.train.model_copy(update=few)})

    monkeypatch.setattr(adapting, "recipe_for", recipe_for)


@pytest.mark.slow
def test_adapted_weights_are_a_mixture_that_the_held_out_patient_prefers(
    scans, tiny, tmp_path, six_steps
):
    out = tmp_path / "out"
    given = [scans, "--out", out, "--weights", tiny]
    result = run(*given)
    assert result.exit_code == 0, result.output
    path = out / "adapted.safetensors"
    config, card, digest = weights.describe(path)
    gains = {float(share): gain for share, gain in card["gain_db_by_share"].items()}
    assert set(gains) == set(adapting.SHARES)
    share = card["share_of_adapted"]
    assert gains[share] == max(gains.values()) >= gains[0.0] == 0
    assert card["history"][-1]["sha256"] == weights.sha256(tiny)
    assert card["training_patients"] == 1  # bob, the last, is held out
    assert {case.facts.split for case in store.cases(out / "store")} == {"train"}
    if share:  # a few steps from random weights: any is better
        before, after = (weights.state_for(each, config) for each in (tiny, path))
        assert any(not torch.equal(before[name], after[name]) for name in before)
    denovox.load(path, "cpu")
    again = run(*given)  # not mixed twice
    assert again.exit_code == 0, again.output
    assert "complete" in again.stderr
    assert weights.describe(path)[2] == digest


@pytest.mark.slow
def test_a_single_patient_gets_half_and_a_stopped_run_is_not_mixed(
    scans, tiny, tmp_path, six_steps
):
    (scans / "bob.nii.gz").unlink()
    out = tmp_path / "out"
    given = [scans, "--out", out, "--weights", tiny]
    steps = iter(range(99))
    stopped = adapting.Wanted(scans, str(tiny), 1)
    for _ in adapting.adapt(stopped, out, Session(stopped=lambda: next(steps) > 1)):
        pass
    path = out / "adapted.safetensors"
    assert "share_of_adapted" not in weights.describe(path)[1]
    result = run(*given)
    assert result.exit_code == 0, result.output
    assert "half base, half adapted" in result.stderr
    assert weights.describe(path)[1]["share_of_adapted"] == 0.5


@pytest.mark.slow
def test_a_run_that_ends_in_time_before_its_last_step_is_mixed(
    scans, tiny, tmp_path, six_steps, monkeypatch
):
    real = adapting.run

    def slower(recipe, folder, session):
        for news in (steps := real(recipe, folder, session)):
            yield news
            if isinstance(news, Progress) and news.step == 3:
                steps.close()
                return

    monkeypatch.setattr(adapting, "run", slower)
    out = tmp_path / "out"
    list(adapting.adapt(adapting.Wanted(scans, str(tiny), 1), out, Session()))
    assert "share_of_adapted" in weights.describe(out / "adapted.safetensors")[1]


@pytest.mark.slow
def test_of_weights_with_an_expert_it_alone_is_adapted(
    scans, tiny, tmp_path, six_steps, monkeypatch
):
    monkeypatch.setattr(adapting, "_gains", lambda *given: {0.0: 0.0, 0.5: 0.3, 1.0: 0.1})
    both, out = tmp_path / "both" / "both.safetensors", tmp_path / "out"
    config = weights.describe(tiny)[0]
    high = weights.state_for(tiny, config)
    low = {name: 1.1 * value for name, value in high.items()}
    config = config.model_copy(update={"expert_below": 0.3})
    weights.save(both, joined(high, low), config, {})
    result = run(scans, "--out", out, "--weights", both)
    assert result.exit_code == 0, result.output
    path = out / "adapted.safetensors"
    found, card, _ = weights.describe(path)
    assert found.expert_below == 0.3
    assert card["share_of_adapted"] == 0.5
    assert "50% adapted weights, which denoise bob, held out, 0.30 dB better" in result.stderr
    for expert, same in ((False, True), (True, False)):
        states = [weights.state_for(each, config, expert) for each in (both, path)]
        assert all(torch.equal(a, states[1][n]) for n, a in states[0].items()) == same


def test_what_denoises_better_gains_more_the_more_there_is_of_it(tmp_path, tiny):
    """Towards a network whose answers are shifted, and away from it."""
    scan = phantom.chest((64, 56, 36), 4.0, 0)
    known = {"id": "a", "patient": "a", "region": "chest", "spacing_mm": (4.0, 4.0, 4.0)}
    store.add(tmp_path, store.CaseFacts(**known), scan.ct.hu.round().astype(np.int16), scan.labels)
    store.index(tmp_path)
    config = weights.describe(tiny)[0]
    good = weights.state_for(tiny, config)
    (last,) = (name for name in good if name.endswith("out.2.conv.bias"))
    bad = good | {last: good[last] + 2}
    for first, second, sign in ((bad, good, 1), (good, bad, -1)):
        gains = adapting._gains(first, second, store.cases(tmp_path), config, tiny)
        assert list(gains) == list(adapting.SHARES)
        assert gains[0.0] == 0
        assert (sign * np.diff(list(gains.values())) > 0).all()


def test_the_mixture_is_linear_and_its_ends_are_exact():
    before, after = ({"w": torch.randn(3, 4)} for _ in range(2))
    for share in adapting.SHARES:
        expected = (1 - share) * before["w"] + share * after["w"]
        torch.testing.assert_close(adapting.mixture(before, after, share)["w"], expected)
    assert torch.equal(adapting.mixture(before, after, 0.0)["w"], before["w"])
    assert torch.equal(adapting.mixture(before, after, 1.0)["w"], after["w"])


def test_someone_has_to_be_left(scans, tiny, tmp_path):
    given = [scans, "--out", tmp_path / "out", "--weights", tiny]
    refuses(run(*given, "--hold", "ann", "--hold", "bob"), "every patient is held out")
    refuses(run(*given, "--hold", "eve"), "eve")
