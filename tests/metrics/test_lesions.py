"""Figures of lesions against balls, ramps and distributions whose answers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from denovox.core.errors import InputError
from denovox.metrics import lesions
from denovox.metrics.lesions import (
    MIN_CONTRAST_HU,
    Appearance,
    appearances,
    by_lesion,
    by_patient,
    dice,
    distance,
    realism_figures,
    segmentation_scores,
)

MM = (1.0, 1.0, 1.0)
SHAPE = (60, 40, 40)


def away(at: tuple[float, ...], mm: tuple[float, ...] = MM, shape=SHAPE) -> np.ndarray:
    """Distance in mm of each voxel from a point in mm."""
    axes = (np.arange(n) * step - o for n, step, o in zip(shape, mm, at, strict=True))
    return np.sqrt(sum(each**2 for each in np.meshgrid(*axes, indexing="ij")))


def ball(at: tuple[float, ...], radius: float) -> np.ndarray:
    return away(at) <= radius


def of(values) -> dict[str, float]:
    return {value.name: value.value for value in values}


# ---- outlines -----------------------------------------------------------------------------------


def test_dice_by_hand() -> None:
    one, other = np.zeros((2, 2, 2), bool), np.zeros((2, 2, 2), bool)
    assert math.isnan(dice(one, other))
    one[0], other[:, 0] = True, True  # 4 voxels each, 2 in both
    assert dice(one, other) == 0.5
    assert dice(one, one) == 1
    assert dice(one, ~one) == 0


def test_outlines_of_two_lesions() -> None:
    numbers = np.zeros(SHAPE, np.uint8)
    first, second = ball((15, 20, 20), 5), ball((45, 20, 20), 6)
    numbers[first], numbers[second] = 1, 2
    half = first & (np.indices(SHAPE)[1] >= 20)
    stray = ball((30, 5, 5), 2)  # farther than 10 mm from both
    stray2 = ball((30, 35, 35), 2)
    got = of(segmentation_scores(half | stray | stray2, numbers, MM))
    of_first = 2 * half.sum() / (half.sum() + first.sum())
    assert got["lesion Dice"] == pytest.approx(of_first / 2)
    both = half.sum() + 2 * stray.sum()
    assert got["scan Dice"] == pytest.approx(2 * half.sum() / (both + (numbers > 0).sum()))
    assert got["sensitivity"] == 0.5
    assert got["pieces elsewhere"] == 2
    perfect = of(segmentation_scores(numbers > 0, numbers, MM))
    assert perfect == {
        "lesion Dice": 1,
        "scan Dice": 1,
        "sensitivity": 1,
        "pieces elsewhere": 0,
    }
    nothing = of(segmentation_scores(numbers > 9, numbers, MM))
    assert nothing["scan Dice"] == nothing["lesion Dice"] == nothing["sensitivity"] == 0


def test_what_is_near_a_lesion_and_wrong_costs_it() -> None:
    numbers = ball((20, 20, 20), 5).astype(np.uint8)
    near, far = ball((20, 20, 33), 1), ball((50, 20, 20), 1)  # 8 mm, 25 mm from the surface
    whole = numbers > 0
    expected = 2 * whole.sum() / (2 * whole.sum() + near.sum())
    assert of(segmentation_scores(whole | near | far, numbers, MM))["lesion Dice"] == pytest.approx(
        expected
    )


def test_a_tenth_of_a_lesion_finds_it() -> None:
    numbers = np.zeros(SHAPE, np.uint8)
    numbers[10:20, 10:20, 10] = 1  # 100 voxels
    found = np.zeros(SHAPE, bool)
    found[10, 10:20, 10] = True
    assert of(segmentation_scores(found, numbers, MM))["sensitivity"] == 1
    found[10, 10, 10] = False
    assert of(segmentation_scores(found, numbers, MM))["sensitivity"] == 0


def test_zones_are_in_mm_and_belong_to_the_nearer_lesion() -> None:
    mm = (1.0, 1.0, 5.0)
    numbers = np.zeros((40, 20, 9), np.uint8)
    numbers[10, 10, 4], numbers[20, 10, 4] = 1, 2
    found = numbers > 0
    found[14, 10, 4] = True  # 4 mm from the first, 6 from the second
    found[10, 10, 6] = True  # 10 mm above the first
    found[20, 10, 7] = True  # 15 mm above the second: nobody's
    got = of(segmentation_scores(found, numbers, mm))
    assert got["lesion Dice"] == pytest.approx((2 / 4 + 1) / 2)
    assert got["pieces elsewhere"] == 3


def test_lesions_that_are_not_asked_for_take_what_is_theirs() -> None:
    numbers = ball((20, 20, 20), 5).astype(np.uint8)
    others = ball((34, 20, 20), 4)  # 5 mm between the two
    found = (numbers > 0) | ball((34, 20, 20), 5)
    got = of(segmentation_scores(found, numbers, MM, others))
    assert got == {"lesion Dice": 1, "scan Dice": 1, "sensitivity": 1, "pieces elsewhere": 0}
    without = of(segmentation_scores(found, numbers, MM))
    assert without["lesion Dice"] < 1
    assert without["scan Dice"] < 1
    assert without["pieces elsewhere"] == 1


def test_no_lesion_is_no_question() -> None:
    with pytest.raises(InputError, match="no lesion"):
        segmentation_scores(np.ones(SHAPE, bool), np.zeros(SHAPE, np.uint8), MM)


# ---- looks --------------------------------------------------------------------------------------


def test_a_ball_of_known_hu() -> None:
    far = away((20, 20, 20))
    numbers = (far <= 8).astype(np.uint8)
    hu = np.where(far <= 8, 40.0, -800.0)
    hu[far <= 2] = 140.0  # a core does not move a median
    hu[far > 15] = 999.0  # beyond the ring
    hu[(far > 8) & (far <= 10)] = 500.0  # before the ring
    hu[(np.indices(SHAPE)[1] < 14) & (far > 8)] = 700.0  # a wall, in less than half of the ring
    (one,) = appearances(hu, numbers, MM, "p")
    assert (one.patient, one.contrast_hu) == ("p", 840.0)
    share = (far <= 2).sum() / numbers.sum()
    assert (one.hu == 140).mean() == pytest.approx(share, abs=0.01)
    assert set(one.hu) == {40.0, 140.0}


@pytest.mark.parametrize("sign", [-1, 1])
@pytest.mark.parametrize("width", [6.0, 8.0])
@pytest.mark.parametrize("mm", [MM, (0.8, 0.8, 1.5)])
def test_a_ramp_is_as_sharp_as_it_is(sign: int, width: float, mm: tuple) -> None:
    shape = tuple(round(40 / step) for step in mm)
    far = away((20, 20, 20), mm, shape)
    numbers = (far <= 12).astype(np.uint8)
    contrast = 300.0 * sign
    hu = 50 + contrast * np.clip(0.5 - (far - 12) / width, 0, 1)
    (one,) = appearances(hu, numbers, mm, "p")
    # All of the shell of 2 mm lies on the ramp, and so does what its differences reach.
    assert one.sharpness * one.contrast_hu == pytest.approx(contrast / width, rel=0.03)
    assert one.sharpness > 0


def test_a_step_is_as_sharp_as_its_shell_is_wide() -> None:
    (fine,), (coarse,) = (
        appearances(np.where(far <= 12, 100.0, 0.0), (far <= 12).astype(np.uint8), mm, "p")
        for mm in ((0.7,) * 3, (1.5,) * 3)
        for far in [away((20, 20, 20), mm, (round(40 / mm[0]),) * 3)]
    )
    assert fine.contrast_hu == coarse.contrast_hu == 100
    # The whole step within the shell: 1 over its 4 mm, and what voxels add or miss.
    assert fine.sharpness == pytest.approx(1 / 4, rel=0.15)
    assert coarse.sharpness == pytest.approx(1 / 4, rel=0.25)


def test_noise_averages_out_of_sharpness() -> None:
    far = away((20, 20, 20))
    numbers = (far <= 10).astype(np.uint8)
    clean = 200 * np.clip(0.5 - (far - 10) / 6, 0, 1)
    noise = np.random.default_rng(0).normal(0, 40, SHAPE)
    (one,), (other,) = (appearances(hu, numbers, MM, "p") for hu in (clean, clean + noise))
    assert other.sharpness == pytest.approx(one.sharpness, rel=0.1)
    assert np.std(other.hu) > np.std(one.hu) + 10


def test_other_lesions_are_no_surroundings() -> None:
    far = away((20, 20, 20))
    own = far <= 10
    other = (far > 11) & (np.indices(SHAPE)[0] > 17)  # most of what is around
    numbers = np.where(own, 1, np.where(other, 3, 0)).astype(np.uint8)  # no 2
    ramp = 160 * np.clip(0.5 - (far - 10) / 6, 0, 1) - 100
    hu = np.where(other, 400.0, ramp)
    first, third = appearances(hu, numbers, MM, "p")
    (told,) = appearances(hu, own.astype(np.uint8), MM, "p", other)
    (wrong,) = appearances(hu, own.astype(np.uint8), MM, "p")
    (bare,) = appearances(ramp, own.astype(np.uint8), MM, "p")
    assert first.contrast_hu == told.contrast_hu == pytest.approx(bare.contrast_hu)
    assert first.sharpness == told.sharpness == pytest.approx(bare.sharpness, rel=0.05)
    assert wrong.contrast_hu < -300
    assert third.contrast_hu > 400


def test_without_contrast_or_ring_nothing_is_made_up() -> None:
    numbers = ball((20, 20, 20), 6).astype(np.uint8)
    faint = np.where(numbers > 0, MIN_CONTRAST_HU - 1, 0.0)
    (one,) = appearances(faint, numbers, MM, "p")
    assert one.contrast_hu == MIN_CONTRAST_HU - 1
    assert math.isnan(one.sharpness)
    (all_of_it,) = appearances(np.ones((5, 5, 5)), np.ones((5, 5, 5), np.uint8), MM, "p")
    assert math.isnan(all_of_it.contrast_hu)
    assert math.isnan(all_of_it.sharpness)


def test_a_scan_of_one_slice() -> None:
    far = away((20, 20), (1.0, 1.0), (40, 40))
    hu = np.where(far <= 8, 50.0, 0.0)[..., None]
    (one,) = appearances(hu, (far <= 8).astype(np.uint8)[..., None], MM, "p")
    assert one.contrast_hu == 50
    assert one.sharpness > 0.1


# ---- distances ----------------------------------------------------------------------------------


def test_distance_is_that_of_known_distributions() -> None:
    rng = np.random.default_rng(0)
    one = [rng.normal(0, 20, 500) for _ in range(8)]
    assert distance(one, [v + 30 for v in one]) == pytest.approx(30)
    # Of two Gaussians of one mean: the gap of their SDs times E|n|.
    wide = [3 * v for v in one]
    pooled = np.concatenate(one)
    assert distance(one, wide) == pytest.approx(2 * np.abs(pooled).mean(), rel=0.02)
    other = [rng.normal(5, 30, 200) for _ in range(3)]
    grid = np.linspace(-300, 300, 60001)  # the area between the distribution functions
    steps = [
        np.searchsorted(np.sort(np.concatenate(v)), grid, "right") / sum(map(len, v))
        for v in (one, other)
    ]
    area = np.abs(steps[0] - steps[1]).sum() * (grid[1] - grid[0])
    assert distance(one, other) == pytest.approx(area, rel=1e-3)


def test_what_is_not_defined_is_left_out() -> None:
    nan = np.array([np.nan])
    assert distance([nan, np.array([1.0])], [np.array([3.0])]) == 2
    assert math.isnan(distance([nan], [np.array([3.0])]))
    assert math.isnan(distance([], [np.array([3.0])]))


def test_floors() -> None:
    values = [np.array([float(v)]) for v in (0, 0, 10, 40)]
    patients = ["a", "a", "b", "c"]
    apart = [
        np.mean([10, 40]),  # a against b and c
        stats.wasserstein_distance([10], [0, 0, 40]),
        stats.wasserstein_distance([40], [0, 0, 10]),
    ]
    assert by_patient(values, patients) == pytest.approx(np.mean(apart))
    assert math.isnan(by_patient(values[:2], ["a", "a"]))
    assert math.isnan(by_lesion(values[:1], 0))
    assert by_lesion([values[0], values[2]], 0) == 10
    assert by_lesion(values, 3) == by_lesion(values, 3)
    splits = [stats.wasserstein_distance(*s) for s in (([0, 0], [10, 40]), ([0, 10], [0, 40]))]
    # Of four lesions a half with the other 0 is twice as likely.
    assert by_lesion(values, 0) == pytest.approx(splits[0] / 3 + splits[1] * 2 / 3, rel=0.1)


def look(
    patient: str, centre: float, contrast: float = 100.0, sharpness: float = 0.2
) -> Appearance:
    return Appearance(patient, centre + np.linspace(-5, 5, lesions.QUANTILES), contrast, sharpness)


def test_the_table_has_each_distance_beside_its_floors() -> None:
    real = [look("a", 0), look("a", 2), look("b", 20, 130), look("b", 22, 130, math.nan)]
    made = [look("a", 51, 300, 0.1), look("b", 171, 330, 0.1)]
    rows = realism_figures(real, made, "chest", "ours", 1)
    got = {(row.name, row.method): row for row in rows}
    assert len(got) == 9
    hu = "chest HU distance"
    assert got[hu, "ours"].value == pytest.approx(100)
    assert got[hu, "real, by patient"].value == pytest.approx(20)
    # The bootstrap draws patients: one alone is off by 50, the other by 150.
    assert got[hu, "ours"].interval.low == pytest.approx(50)
    assert got[hu, "ours"].interval.high == pytest.approx(150)
    assert 1 < got[hu, "real, by lesion"].value < 20
    assert got["chest contrast distance", "ours"].value == pytest.approx(200)
    assert got["chest sharpness distance", "ours"].value == pytest.approx(0.1)
    assert got["chest sharpness distance", "real, by patient"].value == 0
    assert {row.better for row in rows} == {"lower"}
    assert (got[hu, "ours"].patients, got[hu, "ours"].scans) == (2, 6)
    assert (got[hu, "real, by lesion"].patients, got[hu, "real, by lesion"].scans) == (2, 4)
    same = realism_figures(real, real, "chest", "ours", 1)
    assert [row.value for row in same if row.method == "ours"] == [0, 0, 0]


def test_nothing_to_compare() -> None:
    with pytest.raises(InputError, match="synthetic lesions"):
        realism_figures([look("a", 0)], [], "chest", "ours")
