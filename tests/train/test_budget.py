"""Minutes: how many steps they become, by a clock that goes on only when somebody computes."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from pydantic import ValidationError
from torch import Tensor
from torch.nn import Parameter
from toy import toy

from denovox.datasets.samples.batch import Batch, batches
from denovox.train import checkpoint, loop, step
from denovox.train.config import TrainConfig
from denovox.train.cost import budget
from denovox.train.loop import Progress, Session, learning_rate, train

CONFIG = TrainConfig(
    minutes=2, samples=2, batch=2, lr=0.5, decay=0.25, ema=3, validate_every=50, workers=1
)


@dataclass
class Clock:
    """Seconds since it was made."""

    now: float = 0.0

    def monotonic(self) -> float:
        return self.now


@pytest.fixture
def clock(monkeypatch) -> Clock:
    mine = Clock(1000.0)
    for module in (budget, loop, step):
        monkeypatch.setattr(module, "time", SimpleNamespace(monotonic=mine.monotonic))
    return mine


@dataclass
class Run:
    """What a run has said, and its only parameter."""

    said: list[Progress]
    heard: list[str]
    w: Tensor
    took: float


def go(
    folder: Path,
    clock: Clock,
    pace: Callable[[int], float] = lambda step: 0.25,
    config: TrainConfig = CONFIG,
    validating: float = 0.0,
    stop_after: int | None = None,
    late: float = 0.0,
) -> Run:
    """A run whose step n (from 1) takes pace(n) seconds; `late` seconds after its command began."""
    parameters = {"w": Parameter(torch.zeros(()))}
    began = clock.now - late

    def predict(samples: Batch) -> Tensor:
        clock.now += pace(int(samples.case[1]) // 2 + 1)
        return (parameters["w"] - samples.x0.mean((1, 2, 3, 4))) ** 2

    def validate() -> float:
        clock.now += validating
        return 1.0

    draw = batches(lambda n: toy(torch.tensor([float(n % 7)]), str(n)))
    heard: list[str] = []
    steps = train(
        predict, parameters, draw, config, folder, validate if validating else None,
        Session(say=heard.append, began=began),
    )  # fmt: skip
    said = list(itertools.islice(steps, stop_after))
    steps.close()
    return Run(said, heard, parameters["w"].detach(), clock.now - began)


def expected(pace: float, config: TrainConfig = CONFIG, validating: float = 0.0, late: float = 0.0):
    """(steps, of them measured or before), by hand."""
    measured = max(5, math.ceil(max(5.0, 0.02 * 60 * config.minutes) / pace))
    first = 3 + measured
    left = 60 * config.minutes - late - first * pace - validating  # it is measured, too
    closing = 3 + 2 * validating
    more = int(0.97 * (left - closing) / (pace + validating / config.validate_every))
    return first + more, first


CASES = [
    # minutes, seconds a step, of a validation, before the run; and which of the three bounds holds
    (2, 0.25, 0.0, 0.0),  # five seconds
    (2, 0.25, 1.0, 0.0),
    (2, 0.25, 0.0, 30.0),
    (10, 0.5, 4.0, 7.0),  # a fiftieth
    (2, 4.0, 0.0, 0.0),  # five steps
]


@pytest.mark.slow
@pytest.mark.parametrize(("minutes", "pace", "validating", "late"), CASES)
def test_the_steps_are_those_that_there_is_time_for(
    tmp_path, clock, minutes, pace, validating, late
):
    config = CONFIG.model_copy(update={"minutes": minutes})
    steps, first = expected(pace, config, validating, late)
    run = go(tmp_path, clock, lambda _: pace, config, validating, late=late)
    assert run.said[-1].step == steps
    assert [p.steps for p in run.said] == [0] * (first - 1) + [steps] * (steps - first + 1)
    assert run.heard == [f"{pace:.3g} s per step: {steps} steps in {minutes} minutes"]
    assert checkpoint.load(tmp_path)[0]["steps"] == steps
    assert (run.said[-1].validation is None) is (validating == 0)
    # In time, and what is left is no more than is kept back: for writing, a sheet, uneven steps.
    least = 3 + validating
    assert least <= 60 * minutes - run.took < least + 0.03 * 60 * minutes + pace + 2 * validating


def test_the_learning_rate_ends_at_zero_with_the_last_step(tmp_path, clock):
    steps, first = expected(0.25)
    run = go(tmp_path, clock)
    tail = CONFIG.decay * steps
    for p in run.said:
        left = steps - (p.step - 1)
        fall = 0.5 * (1 - math.cos(math.pi * left / tail)) if left < tail else 1.0
        assert p.lr == pytest.approx(CONFIG.lr * fall, rel=1e-12)
    assert run.said[first].lr == CONFIG.lr
    assert run.said[-1].lr < 1e-3 * CONFIG.lr
    assert learning_rate(steps, CONFIG, steps) == 0


def test_a_run_that_goes_on_has_the_steps_that_were_fixed_whatever_the_time(tmp_path, clock):
    steps, first = expected(0.25)
    whole = go(tmp_path / "whole", clock)
    go(tmp_path / "parts", clock, stop_after=first + 20)
    clock.now += 1e5
    slow = go(tmp_path / "parts", clock, lambda _: 20.0, stop_after=100)
    assert slow.heard == []
    rest = go(tmp_path / "parts", clock, lambda _: 0.01)
    assert rest.said[-1].step == steps
    assert [(p.loss, p.lr) for p in rest.said] == [
        (p.loss, p.lr) for p in whole.said[first + 120 :]
    ]
    assert torch.equal(rest.w, whole.w)
    assert go(tmp_path / "parts", clock).said == []


def test_what_was_stopped_before_they_were_fixed_has_its_minutes_again(tmp_path, clock):
    go(tmp_path, clock, stop_after=10)
    assert checkpoint.load(tmp_path)[0]["steps"] == 0
    clock.now += 1e5
    steps, first = expected(0.5)  # it is measured anew
    run = go(tmp_path, clock, lambda _: 0.5)
    assert [p.steps for p in run.said] == [0] * (first - 1) + [10 + steps] * (steps - first + 1)
    assert run.said[-1].step == 10 + steps


@pytest.mark.parametrize("most", [100, 10, 1])
def test_steps_are_the_most_that_there_are(tmp_path, clock, most):
    """Also where the run has had them before its speed is known."""
    config = CONFIG.model_copy(update={"steps": most})
    run = go(tmp_path, clock, config=config, validating=1.0)
    by_steps = go(tmp_path / "b", clock, config=config.model_copy(update={"minutes": 0}))
    assert [(p.step, p.lr, p.loss) for p in run.said] == [
        (p.step, p.lr, p.loss) for p in by_steps.said
    ]
    assert len(run.said) == most
    assert run.said[-1].validation == 1.0
    assert go(tmp_path, clock, config=config).said == []


def test_more_steps_than_there_is_time_for_are_not_taken(tmp_path, clock):
    config = CONFIG.model_copy(update={"steps": 10**4})
    assert go(tmp_path, clock, config=config).said[-1].step == expected(0.25)[0]
    go(tmp_path / "parts", clock, config=config, stop_after=40)
    assert go(tmp_path / "parts", clock, config=config).said[-1].step == expected(0.25)[0]


@pytest.mark.parametrize("validating", [0.0, 2.0])
def test_steps_that_get_slow_end_the_run_before_its_minutes_do(tmp_path, clock, validating):
    run = go(tmp_path, clock, lambda n: 0.25 if n < 100 else 7.0, validating=validating)
    steps = expected(0.25, validating=validating)[0]
    assert 100 < run.said[-1].step < steps
    left = 120 - run.took
    assert 3 + 2 * validating <= left < 3 + 2 * validating + 7
    state = checkpoint.load(tmp_path)[0]
    assert (state["step"], state["steps"]) == (run.said[-1].step, steps)
    assert go(tmp_path, clock).said[-1].step == steps  # and it can be ended another time


def test_one_slow_step_ends_nothing(tmp_path, clock):
    run = go(tmp_path, clock, lambda n: 1.0 if n == 400 else 0.25)
    assert run.said[-1].step == expected(0.25)[0]


def test_a_run_needs_an_end():
    with pytest.raises(ValidationError, match="give steps or minutes") as told:
        TrainConfig()
    assert len(told.value.errors()) == 1
