"""What somebody blanked is found voxel for voxel; what a scanner measured is not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from denovox.scan.constant_fill import constant_fill

SHAPE = (30, 26, 20)
BALL = np.indices(SHAPE) - (np.array(SHAPE) - 1).reshape(3, 1, 1, 1) / 2


def body(seed: int = 0) -> np.ndarray:
    """Soft tissue and its noise; no HU comes twice in neighbours by more than chance."""
    return np.random.default_rng(seed).integers(0, 80, SHAPE).astype(np.int16)


def background() -> np.ndarray:
    return np.linalg.norm(BALL, axis=0) > 9


def flat_cut() -> np.ndarray:
    return np.broadcast_to(BALL[2] > 6, SHAPE)


def corners() -> np.ndarray:
    """What a rotation by 45 degrees about z leaves empty."""
    return np.abs(BALL[0]) + np.abs(BALL[1]) > 19


def tilted() -> np.ndarray:
    """The same by 20 degrees: four wedges, of which each is as long as an edge."""
    turn = np.deg2rad(20)
    x = BALL[0] * np.cos(turn) + BALL[1] * np.sin(turn)
    y = BALL[1] * np.cos(turn) - BALL[0] * np.sin(turn)
    return (np.abs(x) > 14.5) | (np.abs(y) > 12.5)


FILLS = {f.__name__: f() for f in (background, flat_cut, corners, tilted)}


@pytest.mark.slow
@pytest.mark.parametrize("value", [-1000, -1023, 0, 3071])
@pytest.mark.parametrize("kind", FILLS)
def test_what_was_filled_is_found_exactly(kind, value):
    fill = FILLS[kind]
    assert fill.mean() > 0.05
    hu = body() + 100
    hu[fill] = value
    assert np.array_equal(constant_fill(hu), fill)
    assert np.array_equal(constant_fill(hu.astype(np.float32)), fill)


@pytest.mark.slow
@pytest.mark.parametrize("kind", FILLS)
def test_however_it_is_turned(kind):
    hu = body() + 100
    hu[FILLS[kind]] = -1000
    for axes in itertools.permutations(range(3)):
        turned = hu.transpose(axes)[::-1]
        assert np.array_equal(constant_fill(turned), FILLS[kind].transpose(axes)[::-1])


def test_two_values_are_found_both():
    hu = body() + 100
    hu[corners()] = -1000
    hu[flat_cut()] = 0
    assert np.array_equal(constant_fill(hu), corners() | flat_cut())


def test_an_island_of_the_same_value_stays():
    hu = body() + 100
    hu[background()] = -1000
    hu[13:18, 11:16, 8:13] = -1000
    assert np.array_equal(constant_fill(hu), background())


def measured(seed: int) -> np.ndarray:
    """Air around the ball, with noise."""
    rng = np.random.default_rng(seed)
    return np.where(background(), np.round(rng.normal(-1000, 8, SHAPE)), body() + 100)


def inner() -> np.ndarray:
    """Water of one exact value that no border sees."""
    hu = measured(0)
    hu[4:26, 4:22, 4:16] = 0
    return hu


def clipped() -> np.ndarray:
    """Air that a scanner cuts off at -1000: half of it, and in patches of chance."""
    return np.maximum(measured(1), -1000)


def padded(value: int) -> np.ndarray:
    hu = measured(2)
    hu[background()] = value
    return hu


def patch() -> np.ndarray:
    """One value at the border, in 3.8 % of all."""
    hu = measured(3)
    hu[:13, :, -1] = hu[:10, :, -2] = 1500
    assert 0.03 < (hu == 1500).mean() < 0.04
    return hu


def face() -> np.ndarray:
    """The outermost voxels alone, as an interpolation leaves them; 5 % of all."""
    hu = measured(4)
    hu[..., -1] = -1000
    return hu


NOTHING = {
    "noise": measured(0),
    "padding": padded(-1024),
    "padding below": padded(-2000),
    "clipped": clipped(),
    "inner": inner(),
    "patch": patch(),
    "face": face(),
}


@pytest.mark.parametrize("kind", NOTHING)
def test_what_nobody_filled_is_not_found(kind):
    assert not constant_fill(NOTHING[kind]).any()
