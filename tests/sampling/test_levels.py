"""The grids of a pyramid, and what its levels may cost."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from denovox.core.box import Tiling
from denovox.core.errors import InputError
from denovox.core.schedule import Schedule
from denovox.sampling.guidance import Guidance
from denovox.sampling.levels import FEW, TILES, affordable, borders, plan, pyramid


def test_the_whole_at_the_patchs_size_then_octaves():
    assert pyramid((512, 512, 512), 32) == [(n,) * 3 for n in (32, 64, 128, 256, 512)]
    assert pyramid((104, 80, 80), 32) == [(32, 32, 32), (52, 40, 40), (104, 80, 80)]
    assert pyramid((32, 20, 8), 32) == [(32, 20, 8)]
    assert pyramid((33, 32, 32), 32) == [(32, 32, 32), (33, 32, 32)]


def test_a_short_axis_stays_whole_as_in_training():
    assert pyramid((128, 128, 20), 32) == [(32, 32, 20), (64, 64, 20), (128, 128, 20)]


def test_of_fewer_levels_the_coarsest_and_the_finest_remain():
    assert pyramid((512, 512, 512), 32, 3) == [(32,) * 3, (256,) * 3, (512,) * 3]
    assert pyramid((512, 512, 512), 32, 2) == [(32,) * 3, (512,) * 3]
    assert pyramid((512, 512, 512), 32, 1) == [(512,) * 3]


@given(st.tuples(*[st.integers(1, 700)] * 3), st.sampled_from([16, 32, 64]))
def test_each_level_is_coarser_than_the_next(shape, patch):
    grids = pyramid(shape, patch)
    assert grids[-1] == shape
    assert grids[0] == tuple(min(patch, n) for n in shape)
    for coarse, fine in pairwise(grids):
        assert all(m <= n <= 4 * m + 3 or m == patch for m, n in zip(coarse, fine, strict=True))
        assert coarse != fine


def test_more_levels_than_the_volume_has_are_refused():
    with pytest.raises(InputError, match="104 x 80 x 80 voxels has 3 levels at most"):
        pyramid((104, 80, 80), 32, 4)
    with pytest.raises(InputError, match="has 1 level at most"):
        pyramid((8, 8, 8), 32, 2)


@pytest.mark.parametrize("weight", [1.0, 2.0])
def test_512_cubed_is_within_2000_tiles_of_64(weight):
    levels = plan(
        pyramid((512, 512, 512), 32),
        10,
        Schedule(),
        Guidance(weight),
        lambda grid, blend: math.prod(math.ceil(n / 64) for n in grid),
    )
    assert sum(one.tiles for one in levels) <= TILES == 2000
    assert [one.grid for one in levels] == pyramid((512, 512, 512), 32)
    steps = [one.steps for one in levels]
    assert steps == sorted(steps, reverse=True)
    assert steps[-1] >= 2
    assert steps[0] >= 8


def test_levels_of_distilled_weights_share_their_sigmas_and_give_up_overlap_first():
    def tiles(grid, blend):
        return math.prod(math.ceil(n / (48 if blend else 64)) for n in grid)

    for shape, overlap in (((128,) * 3, True), ((512,) * 3, False)):
        levels = plan(pyramid(shape, 32), 4, Schedule(), Guidance(1.0), tiles, distilled=True)
        known = Schedule().from_noise(4)
        assert levels[0].sigmas == known
        assert all(one.sigmas == known[2:] for one in levels[1:])  # 1.3 is nearest to 3
        assert {one.blend for one in levels[1:]} == {overlap}
        assert sum(one.tiles for one in levels) <= TILES


def test_the_finest_level_gets_the_fewest_evaluations_and_none_gets_none():
    costs = [lambda n: n, lambda n: 8 * n, lambda n: 64 * n]
    assert affordable(10, costs, 10_000) == [10, 10, 10]
    counts = affordable(10, costs, 400)
    assert counts == sorted(counts, reverse=True)
    assert sum(cost(n) for cost, n in zip(costs, counts, strict=True)) <= 400
    assert affordable(10, costs, 0) == [1, 1, 1]


def test_guided_evaluations_count_twice():
    def tiles(grid, blend):
        return 3

    (level,) = plan([(8, 8, 8)], 10, Schedule(), Guidance(2.0, 0.2, 20.0), tiles)
    guided = sum(0.2 <= sigma <= 20 for sigma in Schedule().from_noise(10)[:-1])
    assert level.tiles == 3 * (10 + guided)
    assert level.sigmas == Schedule().from_noise(10)


def test_borders_are_where_one_tile_ends_and_in_the_middle_of_what_two_share():
    apart, shared = Tiling(16, 0, 8).tiles(40), Tiling(16, 4, 4).tiles(40)
    assert borders([apart, shared, Tiling(16, 0, 8).tiles(9)]) == (
        tuple(tile.stop - 1 for tile in apart[:-1]),
        tuple(tile.stop - 3 for tile in shared[:-1]),
        (),
    )
    assert len(shared) == 3


def test_the_finest_level_gives_up_guidance_first_and_then_overlap():
    """To keep two evaluations. Overlapping tiles cost a third more; 64^3 voxels are one tile."""

    def tiles(grid, blend):
        return math.ceil(math.prod(grid) / 64**3 * (4 / 3 if blend else 1))

    def levels(edge, weight):
        planned = plan(pyramid((edge,) * 3, 32), 10, Schedule(), Guidance(weight), tiles)
        assert sum(one.tiles for one in planned) <= TILES
        assert planned[-1].steps >= 2
        return [one.blend for one in planned], [one.guided for one in planned]

    assert levels(256, 2.0) == ([True] * 4, [True] * 4)
    assert levels(512, 1.0)[0] == [True] * 5
    assert levels(512, 2.0) == ([True] * 5, [True] * 4 + [False])
    blends, guided = levels(550, 2.0)
    assert blends == [True] + [False] * (len(blends) - 1)
    assert not guided[-1]
    (alone,) = plan([(512,) * 3], 10, Schedule(), Guidance(1.0), tiles)
    assert alone.blend
    assert alone.steps == 10


def test_few_evaluations_begin_later_and_end_earlier():
    """Two from 3 to .02 would leave the second nothing to do."""

    def tiles(grid, blend):
        return math.ceil(math.prod(grid) / 64**3)

    for edge, expected in ((128, (3.0, 0.02)), (512, (1.0, 0.15))):
        finest = plan(pyramid((edge,) * 3, 32), 10, Schedule(), Guidance(2.0), tiles)[-1]
        assert (finest.sigmas[0], finest.sigmas[-2]) == pytest.approx(expected)
        assert (finest.steps < FEW) == (edge == 512)
