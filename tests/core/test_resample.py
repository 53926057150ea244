"""Change of grid: what must be exact, what torch's own filters give, and what becomes of noise."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from denovox.core.resample import nearest, noise_gain, resize

small = st.tuples(*[st.integers(1, 9)] * 3)


def values(shape: tuple[int, ...], seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def weights(old: int, new: int, start: float = 0, size: float | None = None) -> np.ndarray:
    """The matrix (new, old) by which `resize` acts along an axis, from its answers to impulses."""
    eye = np.eye(old, dtype=np.float32)[:, :, None]
    return resize(eye, (new, old, 1), (start, 0, 0), (size or old, old, 1))[:, :, 0]


@given(small)
def test_same_grid_is_a_copy(shape):
    array = values(shape)
    assert np.array_equal(resize(array, shape), array)
    assert np.array_equal(nearest(array, shape), array)


def test_a_box_of_whole_voxels_is_a_copy():
    array = values((9, 8, 7))
    got = resize(array, (3, 4, 5), start=(2, 3, 1), size=(3, 4, 5))
    assert np.array_equal(got, array[2:5, 3:7, 1:6])
    assert np.array_equal(nearest(array, (3, 4, 5), (2, 3, 1), (3, 4, 5)), array[2:5, 3:7, 1:6])


@given(small, small)
def test_a_constant_stays(old, new):
    got = resize(np.full(old, -1000, np.float32), new)
    assert got.shape == new
    assert got.dtype == np.float32
    np.testing.assert_allclose(got, -1000, rtol=1e-6)


@pytest.mark.parametrize(
    ("old", "new", "start", "size"),
    [(20, 37, 0, 20), (24, 8, 0, 24), (30, 7, 0, 30), (20, 33, 2.5, 11.3), (40, 9, 3.25, 30.5)],
)
@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_straight_line_stays_straight_inside(old, new, start, size, axis):
    line = np.moveaxis(np.broadcast_to(np.arange(old) + 0.5, (2, 3, old)), -1, axis)
    shape, starts, sizes = list(line.shape), [0.0] * 3, list(map(float, line.shape))
    shape[axis], starts[axis], sizes[axis] = new, start, size
    got = np.moveaxis(resize(line.astype(np.float32), shape, starts, sizes), axis, -1)
    cell = size / new
    centres = start + (np.arange(new) + 0.5) * cell
    reach = max(cell, 1) + 0.5
    inside = (centres > reach) & (centres < old - reach)
    assert inside.sum() >= 3
    # Voxels under a triangle wider than two of them sum to one only about: to the first order
    # in 1/cell^2, and exactly where a cell is a whole number of voxels.
    exact = cell <= 1 or cell == int(cell)
    np.testing.assert_allclose(
        got[..., inside],
        np.broadcast_to(centres[inside], got[..., inside].shape),
        atol=1e-5 if exact else 0.05,
    )


@pytest.mark.parametrize("factor", [2, 3, 4])
def test_integer_downsampling_keeps_the_mean_inside(factor):
    columns = weights(12 * factor, 12).sum(0)
    # Every voxel away from the ends gives itself away once, in shares of 1/factor.
    np.testing.assert_allclose(columns[2 * factor : -2 * factor], 1 / factor, atol=1e-6)


@pytest.mark.parametrize("new", [(11, 13), (32, 20), (5, 4), (9, 30), (16, 10)])
def test_it_is_torchs_antialiased_linear_filter(new):
    array = values((16, 10, 2))
    got = resize(array, (*new, 2))
    image = torch.from_numpy(array).permute(2, 0, 1)[None].double()
    expected = F.interpolate(image, new, mode="bilinear", antialias=True, align_corners=False)
    np.testing.assert_allclose(got, expected[0].permute(1, 2, 0), atol=2e-6)


def test_upwards_it_is_torchs_trilinear():
    array = values((5, 6, 7))
    expected = F.interpolate(
        torch.from_numpy(array)[None, None], (9, 12, 20), mode="trilinear", align_corners=False
    )[0, 0]
    np.testing.assert_allclose(resize(array, (9, 12, 20)), expected, atol=2e-6)


def test_a_box_is_the_box_of_the_whole_resized():
    array = values((24, 12, 12))
    everything = resize(array, (48, 12, 12))
    part = resize(array, (20, 12, 12), start=(4, 0, 0), size=(10, 12, 12))
    np.testing.assert_allclose(part, everything[8:28], atol=1e-6)


def test_past_the_ends_the_edge_goes_on():
    array = values((4, 1, 1))
    got = resize(array, (8, 1, 1), start=(-2, 0, 0), size=(8, 1, 1))[:, 0, 0]
    np.testing.assert_array_equal(got, array[[0, 0, 0, 1, 2, 3, 3, 3], 0, 0])


def test_nearest_takes_the_voxel_at_each_centre():
    row = np.arange(6, dtype=np.uint8)[:, None, None]
    assert nearest(row, (12, 1, 1))[:, 0, 0].tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5]
    assert nearest(row, (2, 1, 1))[:, 0, 0].tolist() == [1, 4]
    assert nearest(row, (2, 1, 1), (1, 0, 0), (2, 1, 1))[:, 0, 0].tolist() == [1, 2]
    assert nearest(row, (3, 1, 1), (4, 0, 0), (6, 1, 1))[:, 0, 0].tolist() == [5, 5, 5]
    assert nearest(row, (4, 1, 1)).dtype == np.uint8


@given(small, small)
def test_nearest_only_gives_what_was_there(old, new):
    labels = np.random.default_rng(0).integers(0, 118, old).astype(np.uint8)
    got = nearest(labels, new)
    assert got.shape == new
    assert set(got.flat) <= set(labels.flat)


@pytest.mark.parametrize("new", [(40, 40, 40), (20, 40, 40), (13, 20, 57), (80, 33, 10)], ids=str)
def test_noise_gain_is_the_sd_of_resized_white_noise(new):
    old = (40, 40, 40)
    variances = [(weights(a, b) ** 2).sum(1) for a, b in zip(old, new, strict=True)]
    exact = np.sqrt(np.prod([v.mean() for v in variances]))
    assert noise_gain(old, new) == pytest.approx(exact, rel=1e-6)
    got = np.sqrt(np.mean([resize(values(old, seed), new).var() for seed in range(2)]))
    # Neighbours share voxels: about prod(min(old, new)) independent numbers in each draw.
    independent = 2 * np.prod(np.minimum(old, new))
    assert noise_gain(old, new) == pytest.approx(got, rel=4 / np.sqrt(independent))


def test_noise_gain_in_numbers():
    assert noise_gain((7, 8, 9), (7, 8, 9)) == 1
    # Half the voxels: 1/8, 3/8, 3/8, 1/8 of four neighbours, but for the two ends.
    inner = np.sqrt((1 + 9 + 9 + 1) / 64)
    assert noise_gain((2000, 1, 1), (1000, 1, 1)) == pytest.approx(inner, rel=1e-3)
