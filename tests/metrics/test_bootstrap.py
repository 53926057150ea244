"""The bootstrap against closed forms, and that it draws patients and nothing else."""

from __future__ import annotations

import math

import numpy as np
import pytest

from denovox.metrics.bootstrap import Interval, bootstrap

NAMES = [f"p{number:02d}" for number in range(40)]
VALUES = np.random.default_rng(5).normal(10, 2, 40)


def mean_of(values: np.ndarray):
    return lambda drawn: float(values[drawn].mean())


def test_mean_of_many_has_the_normal_interval() -> None:
    found = bootstrap(NAMES, mean_of(VALUES), resamples=4000)
    half = 1.96 * VALUES.std() / math.sqrt(40)  # SD of a mean of 40 drawn with replacement
    assert found.low == pytest.approx(VALUES.mean() - half, abs=0.08 * half)
    assert found.high == pytest.approx(VALUES.mean() + half, abs=0.08 * half)
    assert (found.level, found.resamples) == (0.95, 4000)
    narrow = bootstrap(NAMES, mean_of(VALUES), resamples=4000, level=0.5)
    assert narrow.high - narrow.low == pytest.approx(2 * half * 0.6745 / 1.96, rel=0.08)


def test_the_seed_decides() -> None:
    one, same, other = (bootstrap(NAMES, mean_of(VALUES), seed=s) for s in (3, 3, 4))
    assert one == same
    assert one != other


def test_scans_of_a_patient_are_drawn_together() -> None:
    alone = bootstrap(NAMES, mean_of(VALUES))
    thrice = bootstrap(NAMES * 3, mean_of(np.tile(VALUES, 3)))
    # Ten scans of each say no more than one: the interval must not shrink.
    assert thrice.low == pytest.approx(alone.low, abs=1e-9)
    assert thrice.high == pytest.approx(alone.high, abs=1e-9)
    asked: list[tuple[int, ...]] = []
    bootstrap(["b", "a", "a"], lambda drawn: asked.append(tuple(drawn)) or 0.0, resamples=50)
    assert set(asked) == {(1, 2, 1, 2), (0, 0), (0, 1, 2), (1, 2, 0)}


def test_one_patient_has_no_interval() -> None:
    assert bootstrap(["a", "a"], mean_of(VALUES[:2])) == Interval(None, None)


def test_draws_without_a_value_are_left_out() -> None:
    def figure(drawn: np.ndarray) -> float:
        return math.nan if 0 not in drawn else 1.0

    found = bootstrap(["a", "b"], figure, resamples=1000)
    assert found.low == found.high == 1
    assert 700 < found.resamples < 800  # three draws in four hold patient 0
    assert bootstrap(["a", "b"], lambda drawn: math.nan) == Interval(None, None)


def test_infinite_figures_stay_so() -> None:
    found = bootstrap(["a", "b"], mean_of(np.array([30.0, math.inf])))
    assert (found.low, found.high) == (30, math.inf)


def test_the_level_lies_between() -> None:
    with pytest.raises(ValueError, match="level"):
        bootstrap(NAMES, mean_of(VALUES), level=95)
