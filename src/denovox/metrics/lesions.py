"""Metrics of lesions, synthetic or real (Method 4): how they are segmented, how they look.

Everything is measured lesion by lesion, in the box around it. Distances are in mm between voxel
centres. How close synthetic lesions come to real ones means nothing without its floor: how close
real ones come to real ones, of other patients or of the same.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8
from scipy import ndimage

from ..core.errors import ensure
from ..core.morphology import depth_mm
from .bootstrap import Drawn, Interval
from .results import Figure, Value, over_patients

ZONE_MM = 10.0  # up to this distance, a segmentation counts towards the lesion
FOUND = 0.1  # a lesion counts as found if at least this share of it is segmented
RING_MM = 3.0, 6.0  # from a lesion, where its surroundings are measured
SHELL_MM = 2.0  # on either side of a border
MIN_CONTRAST_HU = 10.0  # of contrast; below it, the sharpness of a border is not defined
QUANTILES = 100  # of the HU in a lesion, so that each lesion has the same weight
HALVINGS = 200

Mask = Bool[np.ndarray, "x y z"]
Numbers = UInt8[np.ndarray, "x y z"]
Hu = Float[np.ndarray, "x y z"]
Spacing = tuple[float, float, float]

Sample = Float[np.ndarray, " _"]  # what one lesion contributes to a distribution
Values = list[Sample]

CONVENTION = (
    f"lesion Dice: of what is segmented within {ZONE_MM:g} mm of a lesion and nearer to it than to"
    " any other, mean over lesions; scan Dice: of all voxels of a scan; sensitivity: share of"
    f" lesions of which at least {FOUND:.0%} is segmented; pieces elsewhere: segmented components"
    " that touch no lesion; HU distance: Wasserstein-1 between the HU inside lesions, all lesions"
    " having the same weight; contrast: median inside minus median of a ring"
    f" {RING_MM[0]:g} to {RING_MM[1]:g} mm around; sharpness: mean decrease of HU per mm along the"
    f" outward normal within {SHELL_MM:g} mm of the border, over the contrast; distances of"
    " contrast and sharpness: Wasserstein-1, one point per lesion"
)


# ---- how a lesion is segmented ------------------------------------------------------------------


def dice(found: Bool[np.ndarray, "*voxels"], truth: Bool[np.ndarray, "*voxels"]) -> float:
    """2 |A and B| / (|A| + |B|); NaN where both are empty."""
    of_both = int(found.sum()) + int(truth.sum())
    return 2 * int((found & truth).sum()) / of_both if of_both else float("nan")


def segmentation_scores(
    found: Mask, numbers: Numbers, spacing_mm: Spacing, others: Mask | None = None
) -> tuple[Value, ...]:
    """Dice of the lesions and of the scan, sensitivity and pieces elsewhere; see `CONVENTION`.

    found: the segmentation. numbers: lesions, numbered from 1. others: lesions to ignore: what is
    nearer to them than to one in `numbers`, within 10 mm, is not counted.
    `InputError` where there is no lesion.
    """
    ensure(numbers.any(), "there is no lesion to compare the segmentation with")
    # The others get the number after the last: they have a zone as well, and nothing else.
    known = numbers.astype(np.int64)
    last = int(known.max()) + 1
    if others is not None:
        known[others & (numbers == 0)] = last
    dices, shares, free = [], [], found.copy()
    for number, where in enumerate(ndimage.find_objects(known), 1):
        if where is None:
            continue
        box = _wide(where, known.shape, 2 * ZONE_MM, spacing_mm)  # contains whatever may be nearer
        lesion, zone = known[box] == number, _zone(known[box], number, spacing_mm)
        if number == last:
            free[box] &= ~zone
            continue
        dices.append(dice(found[box] & zone, lesion))
        shares.append(float(found[box][lesion].mean()))
    pieces, _ = ndimage.label(free | (numbers > 0))
    touching = np.unique(pieces[numbers > 0])
    return (
        Value("lesion Dice", float(np.mean(dices))),
        Value("scan Dice", dice(free, numbers > 0)),
        Value("sensitivity", float(np.mean(np.array(shares) >= FOUND))),
        Value("pieces elsewhere", float(pieces.max() - len(touching)), "", "lower"),
    )


def _zone(
    known: Int64[np.ndarray, "u v w"], number: int, spacing_mm: Spacing
) -> Bool[np.ndarray, "u v w"]:
    """Voxels within 10 mm of a lesion, and nearer to it than to any other."""
    mm, nearest = ndimage.distance_transform_edt(known == 0, spacing_mm, return_indices=True)
    near: Bool[np.ndarray, "u v w"] = mm <= ZONE_MM
    near &= known[tuple(nearest)] == number
    return near


def _wide(
    where: tuple[slice, ...], shape: tuple[int, ...], mm: float, spacing_mm: Spacing
) -> tuple[slice, ...]:
    """A box, `mm` and a voxel wider on each side, within the array."""
    more = [int(np.ceil(mm / step)) + 1 for step in spacing_mm]
    ends = zip(where, more, shape, strict=True)
    return tuple(slice(max(0, s.start - m), min(n, s.stop + m)) for s, m, n in ends)


# ---- how a lesion looks -------------------------------------------------------------------------


@dataclass(frozen=True)
class Appearance:
    """Appearance of one lesion. hu: quantiles of the HU inside it. contrast_hu: against its ring,
    NaN where it has none. sharpness: 1/mm, NaN where it is not defined."""

    patient: str
    hu: Float[np.ndarray, " quantiles"]
    contrast_hu: float
    sharpness: float


MEASURES: tuple[tuple[str, str, Callable[[Appearance], Sample]], ...] = (
    ("HU", "HU", lambda one: one.hu),
    ("contrast", "HU", lambda one: np.array([one.contrast_hu], float)),
    ("sharpness", "1/mm", lambda one: np.array([one.sharpness], float)),
)


def appearances(
    hu: Hu, numbers: Numbers, spacing_mm: Spacing, patient: str, others: Mask | None = None
) -> tuple[Appearance, ...]:
    """Appearance of each lesion of a scan. Voxels of another lesion, or of `others`, are excluded
    from its ring and its border."""
    taken = numbers > 0 if others is None else (numbers > 0) | others
    found = []
    at = (np.arange(QUANTILES) + 0.5) / QUANTILES
    for number, where in enumerate(ndimage.find_objects(numbers), 1):
        if where is None:
            continue
        box = _wide(where, numbers.shape, RING_MM[1], spacing_mm)
        lesion, other = numbers[box] == number, taken[box] & (numbers[box] != number)
        near = hu[box].astype(np.float64)
        away = ndimage.distance_transform_edt(~lesion, spacing_mm)
        ring = (away > RING_MM[0]) & (away <= RING_MM[1]) & ~other
        contrast = float(np.median(near[lesion]) - np.median(near[ring])) if ring.any() else np.nan
        sharp = np.nan
        if abs(contrast) >= MIN_CONTRAST_HU:
            sharp = _slope(near, lesion, other, spacing_mm) / contrast
        found.append(Appearance(patient, np.quantile(near[lesion], at), contrast, float(sharp)))
    return tuple(found)


def _slope(
    hu: Float[np.ndarray, "u v w"],
    lesion: Bool[np.ndarray, "u v w"],
    other: Bool[np.ndarray, "u v w"],
    spacing_mm: Spacing,
) -> float:
    """Mean decrease of HU per mm outwards, within 2 mm of the border; noise averages out."""
    half = min(spacing_mm) / 2  # the border lies between two voxels
    away = ndimage.distance_transform_edt(~lesion, spacing_mm)
    depth = depth_mm(lesion, spacing_mm, ends=True)
    signed = np.where(lesion, half - depth, away - half)
    shell = (np.abs(signed) <= SHELL_MM) & ~ndimage.binary_dilation(other)  # nor its neighbours
    # A border of voxels is a staircase: smoothed, it has a direction.
    smooth = ndimage.gaussian_filter(signed, [1 / mm for mm in spacing_mm], mode="nearest")
    normal, slope = _gradient(smooth, spacing_mm), _gradient(hu, spacing_mm)
    size = np.linalg.norm(normal, axis=0)
    outward = (normal * slope).sum(0)[shell] / np.maximum(size[shell], 1e-9)
    return -float(outward.mean())


def _gradient(
    values: Float[np.ndarray, "u v w"], spacing_mm: Spacing
) -> Float[np.ndarray, "3 u v w"]:
    """Differences per mm; 0 along an axis of one voxel."""
    return np.stack(
        [
            np.gradient(values, mm, axis=axis) if values.shape[axis] > 1 else np.zeros(values.shape)
            for axis, mm in enumerate(spacing_mm)
        ]
    )


# ---- how close synthetic ones come to real ones -------------------------------------------------


def distance(one: Sequence[Sample], other: Sequence[Sample]) -> float:
    """Wasserstein-1 between the pooled values of two lists, in their unit; undefined values are
    ignored, and where that leaves nothing it is NaN."""
    from scipy import stats  # slow to import

    a, b = (np.concatenate([np.zeros(0), *each]) for each in (one, other))
    a, b = a[np.isfinite(a)], b[np.isfinite(b)]
    return float(stats.wasserstein_distance(a, b)) if a.size and b.size else float("nan")


def by_patient(values: Sequence[Sample], patients: Sequence[str]) -> float:
    """Mean distance of each patient's lesions from all others; NaN for a single patient."""
    apart = []
    for name in sorted(set(patients)):
        theirs = [v for v, whose in zip(values, patients, strict=True) if whose == name]
        rest = [v for v, whose in zip(values, patients, strict=True) if whose != name]
        apart.append(distance(theirs, rest))
    return _mean(apart)


def by_lesion(values: Sequence[Sample], seed: int) -> float:
    """Mean distance between two random halves of the lesions, 200 times; NaN for a single lesion.

    Halves are smaller than the whole, so this overestimates where there are few lesions.
    """
    rng, half = np.random.default_rng(seed), len(values) // 2
    apart = []
    for _ in range(HALVINGS if half else 0):
        order = rng.permutation(len(values))
        apart.append(distance([values[n] for n in order[:half]], [values[n] for n in order[half:]]))
    return _mean(apart)


def realism_figures(
    real: Sequence[Appearance],
    synthetic: Sequence[Appearance],
    region: str,
    method: str,
    seed: int = 0,
) -> tuple[Figure, ...]:
    """How far synthetic lesions are from real ones, and real ones from real ones for comparison.

    A scan is a lesion here; the patient of a synthetic one is that of the scan it was added to.
    Figures over halves have no interval. `InputError` where either kind of lesion is missing.
    """
    ensure(real and synthetic, "realism needs real and synthetic lesions")
    every = [*real, *synthetic]
    patients, count = [one.patient for one in every], len(real)
    owners = patients[:count]
    rows = []
    for name, unit, of in MEASURES:
        values = [of(one) for one in every]

        def apart(drawn: Drawn, values: Values = values) -> float:
            return distance(
                [values[n] for n in drawn if n < count], [values[n] for n in drawn if n >= count]
            )

        def floor(drawn: Drawn, values: Values = values) -> float:
            return by_patient([values[n] for n in drawn], [owners[n] for n in drawn])

        label = f"{region} {name} distance"
        for whose, figure, by in ((patients, apart, method), (owners, floor, "real, by patient")):
            rows.append(
                over_patients(
                    label,
                    whose,
                    _cached(figure),
                    unit=unit,
                    method=by,
                    better="lower",
                    seed=seed,
                )
            )
        halves = by_lesion(values[:count], seed)
        none = Interval(None, None)
        rows.append(
            Figure(label, halves, none, len(set(owners)), count, unit, "real, by lesion", "lower")
        )
    return tuple(rows)


def _cached(figure: Callable[[Drawn], float]) -> Callable[[Drawn], float]:
    """The same figure, computed once per distinct draw: few patients make few distinct draws."""
    known: dict[bytes, float] = {}

    def found(drawn: Drawn) -> float:
        key = np.sort(drawn).tobytes()
        if key not in known:
            known[key] = figure(drawn)
        return known[key]

    return found


def _mean(values: Sequence[float]) -> float:
    """Mean of the defined values; NaN where there are none."""
    known = [value for value in values if np.isfinite(value)]
    return float(np.mean(known)) if known else float("nan")
