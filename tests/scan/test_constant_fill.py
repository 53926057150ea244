"""What somebody blanked is found voxel for voxel; what a scanner measured is not."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from denovox.scan.constant_fill import (
    as_air,
    constant_fill,
    fill_sentence,
    outside_fill,
    without_fill,
)

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


# ---- what counts as outside the scan ------------------------------------------------------------


def side() -> np.ndarray:
    """Three planes of voxels on one side: 10 %."""
    return np.broadcast_to(np.arange(SHAPE[0])[:, None, None] < 3, SHAPE)


def frame() -> np.ndarray:
    filled = np.ones(SHAPE, bool)
    filled[4:-4, 4:-4] = False
    return filled


def top() -> np.ndarray:
    """Whole slices."""
    return np.broadcast_to(np.arange(SHAPE[2]) > 15, SHAPE)


def small() -> np.ndarray:
    """Three wedges' worth at one corner: under 2 %."""
    filled = np.zeros(SHAPE, bool)
    filled[:5, :3] = True
    assert filled.mean() < 0.02
    return filled


OUTSIDE_FILLS = {f.__name__: f() for f in (side, frame, top, small, corners, tilted)}


@pytest.mark.parametrize("value", [0, 50, -300, 150])
@pytest.mark.parametrize("kind", OUTSIDE_FILLS)
def test_a_fill_with_a_value_of_tissue_is_outside_however_small(kind, value):
    fill = OUTSIDE_FILLS[kind]
    hu = measured(5)
    hu[fill] = value
    # A voxel of noise next to the fill may have its value.
    touching = outside_fill(hu) & ~fill
    assert touching.sum() <= 0.002 * fill.size
    hu[touching] += 1
    assert np.array_equal(outside_fill(hu), fill)
    assert np.array_equal(outside_fill(np.asfortranarray(hu)[:, ::-1]), fill[:, ::-1])
    assert np.array_equal(without_fill(hu), np.where(fill, -1024, hu))


def test_two_fills_are_both_outside():
    hu = measured(6)
    hu[corners()], hu[top()] = 3, 0
    filled = outside_fill(hu)
    assert filled[corners() | top()].all()
    assert fill_sentence(hu, filled) == (
        f"{(filled & (hu == 0)).mean():.0%} of the voxels are exactly 0 HU and"
        f" {(filled & (hu == 3)).mean():.0%} of the voxels are exactly 3 HU and reach the border:"
        " treated as outside the scan"
    )


def test_a_fill_with_air_is_outside_and_keeps_its_value():
    hu = measured(7)
    hu[corners()] = -1000
    filled = outside_fill(hu)
    assert filled[corners()].all()
    assert np.array_equal(as_air(hu, filled), hu)


def windowed() -> np.ndarray:
    return np.clip(measured(1), -160, 240)


def window_and_padding() -> np.ndarray:
    hu = windowed()
    hu[corners()] = -2000
    return hu


def all_clipped() -> np.ndarray:
    """Air all cut off at -1000."""
    hu = measured(8)
    hu[background()] = -1000
    return hu


def metal() -> np.ndarray:
    """The highest value, in a few slices' worth at the border."""
    hu = measured(9)
    hu[:4, 6:14, :4] = 3071
    return hu


def noiseless() -> np.ndarray:
    """A phantom without noise, cut off by the field of view."""
    hu = np.full(SHAPE, -1000.0)
    hu[:20], hu[5:10, 5:10, 5:10] = 40, 300
    return hu


def at_an_end() -> np.ndarray:
    """Water that ends with the first and last slice, as a phantom does, but not at the sides."""
    hu = measured(10)
    hu[8:20, 8:20] = 0
    return hu


MEASURED = {
    f.__name__: f()
    for f in (clipped, all_clipped, windowed, window_and_padding, metal, noiseless, at_an_end)
}


@pytest.mark.parametrize("kind", [*MEASURED, *NOTHING])
def test_what_was_measured_or_clipped_stays_what_it_was(kind):
    hu = {**MEASURED, **NOTHING}[kind]
    assert outside_fill(hu) is None
    assert without_fill(hu) is hu
