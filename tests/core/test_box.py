"""Boxes, coordinates in closed form, and tilings: every property a blend of windows rests on."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from denovox.core.box import Box, Tiling, bounding_box, coordinates
from denovox.core.box import tilings as for_volume


def test_a_box_cuts_an_array():
    array = np.arange(2 * 5 * 6 * 7).reshape(2, 5, 6, 7)
    box = Box((1, 2, 3), (2, 3, 4))
    assert box.stop == (3, 5, 7)
    assert np.array_equal(array[(..., *box.slices)], array[:, 1:3, 2:5, 3:7])
    assert np.array_equal(array[(..., *Box((0, 0, 0), (5, 6, 7)).slices)], array)


def test_a_bounding_box():
    mask = np.zeros((7, 8, 9), bool)
    mask[2, 3:5, 8] = mask[4, 4, 6] = True
    assert bounding_box(mask) == Box((2, 3, 6), (3, 2, 3))
    assert mask[bounding_box(mask).slices].sum() == mask.sum()
    # The margin ends where the array does.
    assert bounding_box(mask, (1, 4, 2)) == Box((1, 0, 4), (5, 8, 5))
    assert bounding_box(np.zeros_like(mask), (1, 0, 2)) == Box((0, 0, 0), mask.shape)


# Coordinates ----------------------------------------------------------------------------------


@given(st.integers(1, 200))
def test_coordinates_of_the_whole(n):
    expected = (2 * np.arange(n) + 1) / n - 1
    np.testing.assert_allclose(coordinates(0, n, n, n), expected, atol=1e-6)


@given(st.integers(1, 60), st.integers(0, 59), st.integers(1, 60))
def test_coordinates_of_a_crop_are_the_crop_of_the_wholes(n, a, size):
    got = coordinates(a, size, max(n, a + size), size)
    everything = coordinates(0, max(n, a + size), max(n, a + size), max(n, a + size))
    np.testing.assert_allclose(got, everything[a : a + size], atol=1e-6)


def test_coordinates_of_a_coarser_grid_are_means():
    fine, coarse = coordinates(6, 12, 40, 12), coordinates(6, 12, 40, 4)
    np.testing.assert_allclose(coarse, fine.reshape(4, 3).mean(1), atol=1e-7)
    assert coarse.dtype == np.float32


# Tilings --------------------------------------------------------------------------------------


@st.composite
def tilings(draw):
    multiple = draw(st.sampled_from([1, 2, 4, 8]))
    overlap = draw(st.integers(0, 6 * multiple))
    least = overlap // multiple + 1
    pieces = draw(st.integers(least, least + 11))
    return Tiling(size=pieces * multiple, overlap=overlap, multiple=multiple)


lengths, shifts = st.integers(1, 400), st.floats(-1, 1)


def summed(tiling: Tiling, length: int, shift: float) -> np.ndarray:
    tiles = tiling.tiles(length, shift)
    total = np.zeros(tiles[-1].stop)
    for tile in tiles:
        total[tile.start : tile.stop] += tile.weight
    return total


@given(tilings(), lengths, shifts)
@example(Tiling(24, 16, 8), 100, 0.0)  # windows so small that three meet: --window 24
def test_weights_sum_to_one_at_every_voxel(tiling, length, shift):
    np.testing.assert_allclose(summed(tiling, length, shift), 1, atol=1e-6)
    assert all((tile.weight > 0).all() for tile in tiling.tiles(length, shift))


@given(tilings(), lengths, shifts)
@example(Tiling(size=96), 336, 0.0)  # cut without regard to overlap, this gave 104
def test_windows_are_multiples_and_no_larger_than_allowed(tiling, length, shift):
    for tile in tiling.tiles(length, shift):
        assert 0 < tile.stop - tile.start <= tiling.size
        assert (tile.stop - tile.start) % tiling.multiple == 0
        assert len(tile.weight) == tile.stop - tile.start


@given(tilings(), lengths, shifts)
def test_windows_cover_the_volume_and_hardly_more(tiling, length, shift):
    tiles = tiling.tiles(length, shift)
    assert tiles[0].start == 0
    assert 0 <= tiles[-1].stop - length < tiling.multiple
    assert all(tile.start >= 0 for tile in tiles)
    for one, following in itertools.pairwise(tiles):
        assert one.start < following.start
        assert one.stop - following.start == tiling.overlap


@given(tilings(), lengths, shifts)
def test_there_are_as_few_windows_as_can_be_and_shifting_adds_no_voxels(tiling, length, shift):
    tiles = tiling.tiles(length, shift)
    end = tiles[-1].stop
    # k windows cover at most size + (k - 1)(size - overlap).
    if len(tiles) > 1:
        assert tiling.size + (len(tiles) - 2) * (tiling.size - tiling.overlap) < end
    total = sum(tile.stop - tile.start for tile in tiles)
    assert total == end + (len(tiles) - 1) * tiling.overlap


def test_seams_move_to_and_fro_with_the_shift():
    tiling = Tiling(size=96)

    def first_seam(shift: float) -> int:
        return tiling.tiles(300, shift)[1].start

    assert first_seam(-1) < first_seam(0) < first_seam(1)
    assert first_seam(0) - first_seam(-1) == first_seam(1) - first_seam(0)


def test_a_small_volume_is_one_window_with_full_weight():
    (tile,) = Tiling().tiles(50, 0.7)
    assert (tile.start, tile.stop) == (0, 56)
    assert (tile.weight == 1).all()


def test_the_blend_is_a_raised_cosine():
    one, other = Tiling(size=32, overlap=16, multiple=8).tiles(48)
    assert (one.start, one.stop, other.start, other.stop) == (0, 32, 16, 48)
    ramp = [math.sin(math.pi / 2 * (i + 0.5) / 16) ** 2 for i in range(16)]
    np.testing.assert_allclose(other.weight, [*ramp, *[1] * 16], atol=1e-6)
    np.testing.assert_allclose(one.weight, [*[1] * 16, *ramp[::-1]], atol=1e-6)


@given(
    st.tuples(*[st.integers(1, 600)] * 3),
    st.sampled_from([24, 32, 64, 96]),
    st.sampled_from([0, 4, 8, 16]),
)
@example((259, 196, 49), 64, 4)
def test_tiles_of_a_volume_fit_into_a_cube_and_are_no_more_voxels_than_cubes(shape, edge, overlap):
    chosen = for_volume(shape, edge, overlap, 8)
    assert math.prod(each.size for each in chosen) <= edge**3
    assert all(each.size <= 2 * edge for each in chosen)
    cubes = math.prod(Tiling(edge, overlap, 8).total(n) for n in shape)
    assert math.prod(each.total(n) for each, n in zip(chosen, shape, strict=True)) <= cubes
    for each, n in zip(chosen, shape, strict=True):
        tiles = each.tiles(n)
        assert len(tiles) == each.count(n)
        assert sum(tile.stop - tile.start for tile in tiles) == each.total(n)


@given(st.tuples(*[st.integers(1, 150)] * 3), st.sampled_from([0, 4, 8]))
@settings(max_examples=20)
def test_no_other_sizes_of_tiles_have_fewer_voxels(shape, overlap):
    edge, sizes = 32, range(8 * (overlap // 8 + 1), 65, 8)
    chosen = for_volume(shape, edge, overlap, 8)
    fewest = min(
        math.prod(Tiling(size, overlap, 8).total(n) for size, n in zip(each, shape, strict=True))
        for each in itertools.product(sizes, repeat=3)
        if math.prod(each) <= edge**3
    )
    assert math.prod(each.total(n) for each, n in zip(chosen, shape, strict=True)) == fewest


@pytest.mark.parametrize(
    ("size", "overlap", "multiple"),
    [(12, 0, 8), (16, 16, 8), (16, 32, 8)],
)
def test_what_cannot_be_tiled_is_refused(size, overlap, multiple):
    with pytest.raises(ValueError, match="must be"):
        Tiling(size, overlap, multiple)
