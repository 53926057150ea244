"""Detection figures against numbers by hand, MONAI, and slow loops over every threshold."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from scipy import ndimage

from denovox.core.errors import InputError
from denovox.metrics.detection import area, auroc, average_precision, curve, pro, stepped

SICK = np.array([False, False, True, True])
SCORE = np.array([0.1, 0.4, 0.35, 0.8])


def draws(seed: int, n: int = 60) -> tuple[np.ndarray, np.ndarray]:
    """Labels and scores with many ties."""
    rng = np.random.default_rng(seed)
    sick = rng.random(n) < 0.3
    return sick, np.round(rng.normal(0, 1, n) + sick, 1)


def images(seed: int = 0, shape: tuple[int, ...] = (14, 12)) -> tuple[list, list]:
    """Three masks, of two lesions, one, and none, and noisy maps that know a little of them."""
    rng = np.random.default_rng(seed)
    masks = [np.zeros(shape, bool) for _ in range(3)]
    masks[0][1:3, 1:3] = True
    masks[0][6:12, 5:11] = True
    masks[1][4:7, 2:9] = True
    return masks, [rng.normal(0, 1, shape) + 1.2 * mask for mask in masks]


def slow_pro(masks: list, maps: list, limit: float, steps: np.ndarray | None = None) -> float:
    """Overlap and FPR at each threshold by counting; trapezoids; straight line to the limit."""
    every = np.concatenate([found.ravel() for found in maps])
    points = [(0.0, 0.0)]
    thresholds = np.unique(every)[::-1] if steps is None else steps[::-1]
    for threshold in thresholds:
        shares, wrong, normal = [], 0, 0
        for mask, found in zip(masks, maps, strict=True):
            hit = found >= threshold if steps is None else found > threshold
            parts, count = ndimage.label(mask, np.ones((3,) * mask.ndim))
            shares += [hit[parts == part].mean() for part in range(1, count + 1)]
            wrong, normal = wrong + np.sum(hit & ~mask), normal + np.sum(~mask)
        points.append((wrong / normal, float(np.mean(shares))))
    fpr, overlap = np.array(points).T
    total = 0.0
    for (x0, y0), (x1, y1) in itertools.pairwise(points):
        if x0 >= limit:
            break
        if x1 > limit:
            y1 = y0 + (y1 - y0) * (limit - x0) / (x1 - x0)
            x1 = limit
        total += (x1 - x0) * (y0 + y1) / 2
    assert fpr[-1] >= limit or overlap[-1] == 1
    return total / limit


def test_numbers_by_hand() -> None:
    assert auroc(SICK, SCORE) == 0.75  # of four pairs, only (.35, .4) is the wrong way round
    assert average_precision(SICK, SCORE) == pytest.approx(0.5 * 1 + 0.5 * 2 / 3)
    assert auroc(SICK, -SCORE) == 0.25
    assert auroc(SICK, SICK.astype(float)) == average_precision(SICK, SICK.astype(float)) == 1


def test_ties_count_half_and_make_one_point() -> None:
    assert auroc(SICK, np.zeros(4)) == 0.5
    assert average_precision(SICK, np.zeros(4)) == 0.5  # the prevalence
    flipped = np.array([True, False]), np.array([False, True])
    assert [auroc(sick, np.zeros(2)) for sick in flipped] == [0.5, 0.5]


@pytest.mark.parametrize("seed", range(4))
def test_as_every_pair_and_every_threshold_say(seed: int) -> None:
    sick, score = draws(seed)
    pairs = np.sign(score[sick][:, None] - score[~sick]) / 2 + 0.5
    assert auroc(sick, score) == pytest.approx(pairs.mean(), abs=1e-12)
    total, recall = 0.0, 0.0
    for threshold in np.unique(score)[::-1]:
        hit = score >= threshold
        gained = np.mean(hit[sick]) - recall
        total, recall = total + gained * sick[hit].mean(), recall + gained
    assert average_precision(sick, score) == pytest.approx(total, abs=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_as_monai_says(seed: int) -> None:
    from monai.metrics import compute_average_precision, compute_roc_auc

    sick, score = draws(seed)
    score = score + 1e-3 * np.arange(len(score))  # MONAI's average precision does not merge ties
    given = torch.tensor(score), torch.tensor(sick.astype(int))
    assert auroc(sick, score) == pytest.approx(compute_roc_auc(*given), abs=1e-9)
    assert average_precision(sick, score) == pytest.approx(
        compute_average_precision(*given), abs=1e-6
    )


@pytest.mark.parametrize("limit", [0.05, 0.3, 1.0])
@pytest.mark.parametrize("shape", [(14, 12), (14, 12, 3)])
def test_pro_as_counting_says(limit: float, shape: tuple[int, ...]) -> None:
    masks, maps = images(1, shape)
    assert pro(masks, maps, limit) == pytest.approx(slow_pro(masks, maps, limit), abs=1e-12)
    coarse = [np.round(found, 0) for found in maps]
    assert pro(masks, coarse, limit) == pytest.approx(slow_pro(masks, coarse, limit), abs=1e-12)


def test_pro_at_200_thresholds_as_counting_says() -> None:
    masks, maps = images(2)
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    steps = low + (high - low) * np.arange(200) / 200
    expected = slow_pro(masks, maps, 0.3, steps)
    assert pro(masks, maps, 0.3, 200) == pytest.approx(expected, abs=1e-12)
    assert pro(masks, maps, 0.3, 4) != pytest.approx(pro(masks, maps, 0.3), abs=1e-3)


def test_a_small_lesion_weighs_as_much_as_a_large_one() -> None:
    mask = np.zeros((20, 20), bool)
    mask[0, 0] = True
    mask[5:15, 5:15] = True
    large, small = (mask.astype(float) for _ in range(2))
    large[0, 0] = -1  # missed to the last
    small[5:15, 5:15] = -1
    # Half of the lesions is found at once; to FPR 0.3 no more, since all else ranks as normal.
    found = [pro([mask], [one], 0.3) for one in (large, small)]
    assert found[0] == pytest.approx(found[1])
    assert found[0] == pytest.approx(0.5)
    assert pro([mask], [mask.astype(float)]) == 1


def test_lesions_touching_at_a_corner_are_one_and_images_are_apart() -> None:
    corner = np.zeros((6, 6), bool)
    corner[0, 0] = corner[1, 1] = True
    seen = np.zeros((6, 6))
    seen[0, 0] = 1
    half = np.zeros((6, 6), bool)
    half[5, :] = True
    hidden = -half.astype(float)
    # (1/2 of the one lesion + 0 of the other) / 2; as three lesions it would be 1/3.
    assert pro([corner, half], [seen - (corner & (seen == 0)), hidden], 0.3) == pytest.approx(0.25)


def test_the_curve_is_cut_by_a_straight_line() -> None:
    found = curve(np.array([2.0, 1.0]), np.array([1.0, 1.0]), np.array([0.0, 2.0]))
    assert np.array_equal(found.fpr, [0, 0, 1])
    assert np.array_equal(found.tpr, [0, 0.5, 1])
    assert area(found) == 0.75
    assert area(found, 0.5) == pytest.approx((0.5 + 0.75) / 2)
    with pytest.raises(ValueError, match="limit"):
        area(found, 0)


def test_stepped_counts_thresholds_below() -> None:
    assert np.array_equal(stepped(np.array([0.0, 0.5, 1.0, 2.0]), 4), [0, 1, 2, 4])
    assert np.array_equal(stepped(np.full(3, 7.0), 4), np.zeros(3))


def test_what_cannot_be_scored() -> None:
    with pytest.raises(InputError, match="nothing among 4 scores is abnormal"):
        auroc(np.zeros(4, bool), SCORE)
    with pytest.raises(InputError, match="is normal"):
        auroc(np.ones(4, bool), SCORE)
    with pytest.raises(InputError, match="1 scores are NaN"):
        auroc(SICK, np.array([1, np.nan, 2, 3]))
    with pytest.raises(InputError, match="4 labels for 3 scores"):
        auroc(SICK, SCORE[:3])
    masks, maps = images()
    with pytest.raises(InputError, match="2 masks for 3"):
        pro(masks[:2], maps)
    with pytest.raises(InputError, match="mask 0 is"):
        pro([masks[0].T, *masks[1:]], maps)
