"""How well scores detect what is abnormal: AUROC, average precision, and PRO up to an FPR of 0.3.

All three are areas under one curve: the share of positives and of negatives with a score of at
least t, as t falls. PRO is an ROC in which each lesion has the same total weight, small or large.
The curve has a point at every score that occurs, so nothing depends on a choice of thresholds,
unless one is made.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped
from scipy import ndimage

from ..core.errors import InputError

PRO_LIMIT = 0.3  # Bergmann et al. 2021: the false positive rate up to which PRO is integrated

# Sizes are not in the types, so that a mismatch gives an error message in words.
Score = Num[np.ndarray, " _"]
Labels = Bool[np.ndarray, " _"]
Weight = Float[np.ndarray, " _"]
Area = Shaped[np.ndarray, "*_"]  # an image or a volume; those of one list may differ in size


@dataclass(frozen=True)
class Curve:
    """From the highest score down, (0, 0) first: the share of negatives and positives reached.

    negative, positive: the total weights behind these shares, which a precision needs.
    """

    fpr: Float[np.ndarray, " points"]
    tpr: Float[np.ndarray, " points"]
    negative: float
    positive: float


def curve(score: Score, positive: Weight, negative: Weight) -> Curve:
    """The curve of scores, each with a weight as a positive and one as a negative.

    `InputError` where there are no positives, no negatives, or a score is not finite.
    """
    if not np.isfinite(score).all():
        raise InputError(f"{np.count_nonzero(~np.isfinite(score))} scores are NaN or infinite")
    if not positive.sum() > 0 or not negative.sum() > 0:
        missing = "abnormal" if not positive.sum() > 0 else "normal"
        raise InputError(f"nothing among {score.size} scores is {missing}; both kinds are needed")
    order = np.argsort(-score.astype(np.float64), kind="stable")
    # Equal scores make one point: no threshold separates them.
    last = np.append(np.flatnonzero(np.diff(score[order])), score.size - 1)
    up, across = np.cumsum(positive[order])[last], np.cumsum(negative[order])[last]
    origin = np.zeros(1)
    return Curve(
        np.concatenate([origin, across / across[-1]]),
        np.concatenate([origin, up / up[-1]]),
        float(across[-1]),
        float(up[-1]),
    )


def auroc(positive: Labels, score: Score) -> float:
    """Area under the ROC: how often a positive scores above a negative, ties counting half.

    The Mann-Whitney statistic (Hanley and McNeil 1982). `InputError` as in `curve`.
    """
    return area(_of(positive, score))


def average_precision(positive: Labels, score: Score) -> float:
    """Sum over thresholds of (gain in recall) x precision, without interpolation, as scikit-learn.

    `InputError` as in `curve`.
    """
    found = _of(positive, score)
    right = found.tpr[1:] * found.positive
    precision = right / (right + found.fpr[1:] * found.negative)
    return float(np.sum(np.diff(found.tpr) * precision))


def _of(positive: Labels, score: Score) -> Curve:
    if positive.shape != score.shape:
        raise InputError(f"{positive.size} labels for {score.size} scores; give one for each")
    return curve(score, positive.astype(np.float64), (~positive).astype(np.float64))


def area(found: Curve, limit: float = 1.0) -> float:
    """Area under the curve up to an FPR of `limit`, over `limit`, with linear interpolation.

    `ValueError` unless 0 < limit <= 1.
    """
    if not 0 < limit <= 1:
        raise ValueError(
            f"the limit of the false positive rate must be above 0 and at most 1, not {limit}"
        )
    inside = found.fpr <= limit
    fpr, tpr = found.fpr[inside], found.tpr[inside]
    if fpr[-1] < limit:
        beyond = int(np.count_nonzero(inside))
        share = (limit - fpr[-1]) / (found.fpr[beyond] - fpr[-1])
        end = tpr[-1] + share * (found.tpr[beyond] - tpr[-1])
        fpr, tpr = np.append(fpr, limit), np.append(tpr, end)
    return float(np.trapezoid(tpr, fpr) / limit)


def lesion_weights(mask: Area) -> tuple[Float[np.ndarray, "*_"], int]:
    """The weight of each voxel in PRO, 1 / the size of its lesion, and the number of lesions.

    A lesion is a component connected by faces, edges or corners.
    """
    parts, _ = ndimage.label(mask, np.ones((3,) * mask.ndim))
    size = np.bincount(parts.ravel()).astype(np.float64)
    size[0] = np.inf
    weight: Float[np.ndarray, "*_"] = (1 / size)[parts]
    return weight, len(size) - 1


def pro(
    masks: Sequence[Area],
    maps: Sequence[Area],
    limit: float = PRO_LIMIT,
    thresholds: int | None = None,
) -> float:
    """Per-region overlap (Bergmann et al. 2021): mean share of a lesion found, over the FPR.

    masks, maps: one pair per image or volume; masks are true in lesions. Lesions are components
    within an image; all lesions and all healthy voxels make one curve. Its area up to `limit` is
    divided by `limit`, and its last point interpolated, as in anomalib's AUPRO.
    thresholds: number of them from the lowest to the highest score (BMAD: 200); None is exact.
    `InputError` as in `curve`, and where masks and maps do not match.
    """
    if len(masks) != len(maps) or not masks:
        raise InputError(f"{len(masks)} masks for {len(maps)} anomaly maps; give one for each")
    weights = []
    for number, (mask, found) in enumerate(zip(masks, maps, strict=True)):
        if mask.shape != found.shape:
            raise InputError(f"mask {number} is {mask.shape}, its anomaly map {found.shape}")
        weights.append(lesion_weights(mask)[0].ravel())
    score = np.concatenate([found.ravel() for found in maps]).astype(np.float64)
    negative = np.concatenate([~mask.astype(bool).ravel() for mask in masks]).astype(np.float64)
    if thresholds is not None:
        score = stepped(score, thresholds)
    return area(curve(score, np.concatenate(weights), negative), limit)


def stepped(score: Score, thresholds: int) -> Weight:
    """Scores quantised by that many thresholds, evenly from the lowest to the highest score.

    Each score becomes the number of thresholds below it.
    """
    low, high = float(score.min()), float(score.max())
    if low == high:
        return np.zeros(score.shape)
    steps = low + (high - low) * np.arange(thresholds) / thresholds
    return np.searchsorted(steps, score, side="left").astype(np.float64)
