"""The loop: exact resume, schedule, accumulation, what is saved and when."""

import itertools
import math

import numpy as np
import pytest
import torch
from torch.nn import Parameter
from toy import toy

from denovox.core.errors import InputError
from denovox.datasets.samples.batch import batches
from denovox.train import checkpoint
from denovox.train.config import TrainConfig
from denovox.train.loop import Session, learning_rate, train
from denovox.train.optim.ema import Ema


def problem():
    """Least squares on samples that are functions of their number."""
    torch.manual_seed(0)
    parameters = {"w": Parameter(torch.randn(8)), "b": Parameter(torch.zeros(1))}

    def draw(n):
        rng = np.random.default_rng([7, n])
        return toy(torch.from_numpy(rng.standard_normal(8).astype(np.float32)), f"case-{n}")

    def predict(samples):
        x = samples.x0.flatten(1)
        target = x.sum(1) + 3
        return (x @ parameters["w"] + parameters["b"] - target) ** 2

    return predict, parameters, batches(draw)


CONFIG = TrainConfig(steps=12, samples=6, batch=3, lr=0.05, warmup=3, decay=0.5, ema=4)


def finish(folder, config=CONFIG, stop_after=None, **more):
    predict, parameters, draw = problem()
    steps = train(predict, parameters, draw, config, folder, **more)
    said = list(itertools.islice(steps, stop_after))
    steps.close()
    return said, parameters


def test_resume_equals_the_run_that_was_not_stopped_bit_for_bit(tmp_path):
    whole, expected = finish(tmp_path / "whole")
    for stop in (1, 5, 4):
        finish(tmp_path / "parts", stop_after=stop)
    rest, got = finish(tmp_path / "parts")
    assert rest[0].step == 11
    assert rest[-1].loss == whole[-1].loss
    for name in expected:
        assert torch.equal(got[name], expected[name])
        assert torch.equal(rest[-1].average[name], whole[-1].average[name])


def test_a_step_torn_by_a_crash_is_done_again(tmp_path):
    _, expected = finish(tmp_path / "whole")
    predict, parameters, draw = problem()
    calls = itertools.count()

    def dies(samples):
        if next(calls) == 9:  # in the middle of step 5
            raise KeyboardInterrupt
        return predict(samples)

    config = CONFIG.model_copy(update={"checkpoint_minutes": 1e-9})
    with pytest.raises(KeyboardInterrupt):
        list(train(dies, parameters, draw, config, tmp_path / "torn"))
    _, got = finish(tmp_path / "torn", config)
    for name in expected:
        assert torch.equal(got[name], expected[name])


def test_the_fall_of_the_loss(tmp_path):
    said, _ = finish(tmp_path, CONFIG.model_copy(update={"steps": 300, "lr": 0.1}))
    assert said[-1].loss < 1e-2 * said[0].loss


def test_accumulation_is_a_larger_batch(tmp_path):
    parts, split = finish(tmp_path / "a", CONFIG)
    at_once, joined = finish(tmp_path / "b", CONFIG.model_copy(update={"batch": 6}))
    assert [p.loss for p in parts] == pytest.approx([p.loss for p in at_once], rel=1e-5)
    for name in split:
        torch.testing.assert_close(split[name], joined[name], rtol=1e-5, atol=1e-6)


def test_a_finished_run_has_nothing_left(tmp_path):
    finish(tmp_path)
    assert finish(tmp_path)[0] == []


def test_max_minutes_stops_and_saves(tmp_path):
    said, _ = finish(tmp_path, session=Session(max_minutes=1e-9))
    assert said == []
    said, _ = finish(tmp_path)
    assert len(said) == 12


def test_validation_uses_the_average_and_gives_the_weights_back(tmp_path):
    predict, parameters, draw = problem()
    seen = []
    config = CONFIG.model_copy(update={"validate_every": 5})

    def validate():
        seen.append(parameters["w"].detach().clone())
        return 0.25

    for progress in train(predict, parameters, draw, config, tmp_path, validate):
        if progress.validation is not None:
            assert torch.equal(seen[-1], progress.average["w"])
            assert not torch.equal(seen[-1], parameters["w"])
            assert progress.validation == 0.25
    assert len(seen) == 3  # steps 5, 10 and the last


def test_learning_rate_rises_stays_and_falls_to_zero():
    config = TrainConfig(steps=100, lr=2.0, warmup=10, decay=0.2)
    rates = [learning_rate(step, config, 100) for step in range(101)]
    assert rates[0] == pytest.approx(0.2)
    assert rates[9] == rates[10] == rates[80] == 2.0
    assert rates[90] == pytest.approx(1.0)
    assert rates[100] == 0.0
    assert all(b < a for a, b in itertools.pairwise(rates[80:]))


def test_ema_halves_in_its_half_life():
    parameter = Parameter(torch.zeros(1))
    ema = Ema({"p": parameter}, half_life=50)
    for step in range(2000):
        ema.update(step)
    with torch.no_grad():
        parameter.fill_(1.0)
    for step in range(2000, 2050):
        ema.update(step)
    assert float(ema.average["p"]) == pytest.approx(0.5, abs=1e-3)


def test_a_checkpoint_is_whole_or_the_old_one(tmp_path, monkeypatch):
    checkpoint.save(tmp_path, {"step": 1})

    def torn(state, file):
        file.write(b"half")
        raise OSError("no space left on device")

    monkeypatch.setattr(torch, "save", torn)
    with pytest.raises(OSError, match="no space"):
        checkpoint.save(tmp_path, {"step": 2})
    assert checkpoint.load(tmp_path) == ({"step": 1}, "")
    assert [p.name for p in tmp_path.iterdir()] == [checkpoint.NAME]


def test_an_unreadable_checkpoint_is_named(tmp_path):
    (tmp_path / checkpoint.NAME).write_bytes(b"not a checkpoint")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path)
    assert checkpoint.load(tmp_path / "nothing") == (None, "")


def test_progress_tells_the_time_and_the_rate(tmp_path):
    said, _ = finish(tmp_path)
    assert [p.step for p in said] == list(range(1, 13))
    assert all(math.isfinite(p.loss) for p in said)
    assert said[0].lr == pytest.approx(0.05 / 3)


# Early stopping -----------------------------------------------------------------------------------

LOSSES = [3.0, 2.0, 2.5, 1.5, 1.6, 1.7, 1.8, 0.1]  # of the validations: the last is never seen


def patient(folder, stop_after=None, patience=3):
    """Validations every 2 steps that say LOSSES, by the step they are asked at."""
    config = CONFIG.model_copy(update={"steps": 16, "validate_every": 2, "patience": patience})
    predict, parameters, draw = problem()
    at = iter(range(100))
    first, _ = checkpoint.load(folder)
    done = 0 if first is None else first["step"] // 2
    losses = (LOSSES[done + n] for n in at)
    steps = train(predict, parameters, draw, config, folder, lambda: next(losses))
    said = list(itertools.islice(steps, stop_after))
    steps.close()
    return said


def test_patience_ends_a_run_that_gets_no_better(tmp_path):
    said = patient(tmp_path)
    assert said[-1].step == 14  # the best was at step 8, and three validations followed
    assert said[-1].best == (1.5, 8)
    assert [p.step for p in said if p.validation is not None and p.best[1] == p.step] == [2, 4, 8]
    assert patient(tmp_path) == []  # it stays ended


def test_patience_counts_on_after_a_stop(tmp_path):
    for stop in (3, 6):
        patient(tmp_path, stop_after=stop)
    said = patient(tmp_path)
    assert said[-1].step == 14
    assert said[-1].best == (1.5, 8)


def test_without_patience_the_best_is_known_and_changes_nothing(tmp_path):
    said = patient(tmp_path, patience=0)
    assert said[-1].step == 16
    assert said[-1].best == (0.1, 16)


def test_patience_without_validation_ends_nothing(tmp_path):
    config = CONFIG.model_copy(update={"validate_every": 1, "patience": 2})
    assert len(finish(tmp_path, config)[0]) == 12
