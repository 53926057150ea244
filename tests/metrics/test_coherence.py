"""Seams, bodies, spines and sides: closed forms, and phantoms that are broken on purpose."""

from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from denovox.core.labels import BODY, LUNG, OUTSIDE
from denovox.core.volume import Volume
from denovox.metrics.coherence import (
    NAMES,
    coherence,
    followed,
    mirrored,
    reached,
    seam,
    share_in,
    steps,
)
from denovox.scan import anatomy

SHAPE = (40, 32, 24)
BORDERS = ([19], [9, 22], [11])


def ramp(*slopes: float, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    return sum(g * x for g, x in zip(slopes, np.ogrid[tuple(map(slice, shape))], strict=True))


@settings(max_examples=25, deadline=None)
@given(st.tuples(*[st.floats(-50, 50)] * 3).filter(any), st.lists(st.integers(0, 22), min_size=1))
def test_a_slope_has_no_seam_wherever_the_borders_are(slopes, planes):
    values = ramp(*slopes).astype(np.float64)
    ratio = seam(steps(values), (planes, planes, planes))
    # Where all neighbours are borders, too, nothing is left to compare.
    assert math.isnan(ratio) or ratio == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("k", [1.0, 7.0])
def test_a_step_of_k_in_a_slope_of_g_is_g_plus_k_over_g(axis, k):
    g = 2.0
    values = ramp(g, g, g)
    after = (slice(None),) * axis + (slice(12, None),)
    values[after] += k
    borders: list[list[int]] = [[], [], []]
    borders[axis] = [11]
    assert seam(steps(values), borders) == pytest.approx((g + k) / g)
    borders[axis] = [11, 18]  # half of the borders have none, and its neighbours are not the step
    assert seam(steps(values), borders) == pytest.approx((g + k / 2) / g)
    borders[axis] = [10]  # beside the step: a neighbour of it is not compared
    assert seam(steps(values), borders) == pytest.approx(1)


def test_a_border_is_not_compared_with_another_border():
    values = ramp(2.0, 2.0, 2.0)
    values[12:] += 6
    values[15:] += 6
    assert seam(steps(values), ([11, 14], [], [])) == pytest.approx((2 + 6) / 2)


@pytest.mark.parametrize("k", [0.0, 10.0, 40.0])
def test_in_noise_it_is_the_ratio_of_folded_normals(k):
    """E|N(k, 2 s^2)| / E|N(0, 2 s^2)|."""
    s = 20.0
    values = np.random.default_rng(0).normal(0, s, (64, 96, 96))
    values[32:] += k
    width = math.sqrt(2) * s
    folded = width * math.sqrt(2 / math.pi) * math.exp(-(k**2) / (2 * width**2))
    folded += k * math.erf(k / (width * math.sqrt(2)))
    expected = folded / (width * math.sqrt(2 / math.pi))
    assert seam(steps(values), ([31], [], [])) == pytest.approx(expected, abs=0.03)


def test_only_voxels_inside_count():
    values, inside = ramp(1.0, 1.0, 1.0), np.zeros(SHAPE, bool)
    inside[:, 4:20] = True
    values[20:, ~inside[0, :, 0]] += 100  # a step outside the body
    assert seam(steps(values, inside), ([19], [], [])) == pytest.approx(1)
    assert seam(steps(values), ([19], [], [])) > 10
    assert math.isnan(seam(steps(values, inside & False), ([19], [], [])))


def test_without_a_border_there_is_nothing_to_compare():
    assert math.isnan(seam(steps(ramp(1.0, 1.0, 1.0)), ([], [], [])))
    assert math.isnan(seam(steps(ramp(1.0, 1.0, 1.0)), ([39, 100], [], [])))  # past the end


def test_shares_of_the_largest_parts():
    mask = np.zeros((20, 8, 8), bool)
    for start, size in ((0, 5), (7, 3), (12, 2)):
        mask[start : start + size] = True
    assert share_in(mask) == 0.5
    assert share_in(mask, 2) == 0.8
    assert share_in(mask, 3) == 1
    assert math.isnan(share_in(mask & False))


def test_a_broken_column_reaches_its_longer_part():
    column = np.zeros((5, 5, 50), bool)
    column[2, 2] = True
    assert reached(column, column) == 1
    column[..., 30:34] = False
    assert reached(column, column) == 30 / 46
    assert reached(column, np.ones_like(column)) == 1  # joined
    assert math.isnan(reached(column & False, column))


def test_a_mirror_image_is_about_the_masks_own_centre():
    mask = np.zeros((30, 6, 6), bool)
    mask[3:13] = True
    assert mirrored(mask) == 1
    mask[3:8, :3] = False  # a quarter is gone: the centre is at 8.5 now, the image one voxel on
    slices = {(x, y) for x, y in product(range(3, 13), range(6)) if mask[x, y, 0]}
    other = round(2 * sum(x for x, _ in slices) / len(slices))
    shared = sum((other - x, y) in slices for x, y in slices)
    assert mirrored(mask) == pytest.approx(shared / len(slices))
    assert mirrored(mask) < 0.8
    assert math.isnan(mirrored(mask & False))


# -- bodies ---------------------------------------------------------------------------------------

MM = 6.0


def trunk() -> np.ndarray:
    """An elliptic body of soft tissue with two lungs and a spine, in air; HU."""
    x, y, _ = np.ogrid[-30:30, -22:22, 0:40]
    hu = np.full((60, 44, 40), -1000.0)

    def draw(value: float, x0: float, y0: float, a: float, b: float) -> None:
        inside = ((x - x0 + 0.5) / a) ** 2 + ((y - y0 + 0.5) / b) ** 2 <= 1
        hu[np.broadcast_to(inside, hu.shape)] = value

    draw(40, 0, 0, 26, 18)
    for side in (-12, 12):
        draw(-850, side, 0, 7, 11)
    draw(800, 0, -12, 3, 3)
    return hu.astype(np.float32)


def of(hu: np.ndarray) -> dict[str, float]:
    volume = Volume(hu, np.diag([MM, MM, MM, 1.0]))
    return coherence(volume, anatomy.coarse(volume))


def test_a_body_holds_together():
    assert of(trunk()) == dict.fromkeys(NAMES, 1.0)


def test_a_second_body_is_noticed_and_a_table_is_not():
    hu = trunk()
    assert of(np.concatenate([hu, hu]))["voxels in one body"] == pytest.approx(0.5, abs=0.01)
    hu[4:-4, 1:3] = 100  # 12 mm thick
    assert of(hu)["voxels in one body"] == 1


def test_a_gap_in_the_spine_is_noticed():
    hu = trunk()
    hu[20:40, :16, 15] = 40  # between two vertebrae
    assert of(hu)["slices in one spine"] > 0.95
    part = hu[20:40, :16, 16:24]
    part[part > 40] = 40
    hu[28:32, 35:38, 16:24] = 800  # a sternum, which is not part of it
    assert of(hu)["slices in one spine"] == pytest.approx(16 / 40, abs=0.05)


def test_lung_in_pieces_is_noticed():
    hu = trunk()
    for z in (12, 25):
        plate = hu[:, :, z : z + 3]
        plate[plate == -850] = 40
    assert of(hu)["lung in two parts"] == pytest.approx(1 / 3, abs=0.1)


def test_where_air_is_cut_off_no_end_of_a_body_is_seen():
    assert all(math.isnan(value) for value in of(np.maximum(trunk(), -120)).values())


def test_a_dice_coefficient_counts_what_is_inside_the_body_alone():
    ids = np.full((10, 10, 10), OUTSIDE, np.uint8)
    ids[2:8] = BODY
    ids[2:5] = LUNG
    hu = np.where(ids == OUTSIDE, -1000.0, 0.0)
    hu[3:6] = -800
    found = followed(hu, ids)
    assert found["lung"] == pytest.approx(2 / 3)
    assert math.isnan(found["bone"])
