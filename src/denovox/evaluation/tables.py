"""The table of a protocol: its figures over all scans, and their intervals over patients."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from jaxtyping import Float, Int64, Shaped

from ..core.errors import InputError
from ..metrics.bootstrap import Drawn
from ..metrics.detection import PRO_LIMIT, area, curve, lesion_weights
from ..metrics.results import Figure, Measured, Value, over_patients
from .published import SliceScores, VolumeScore, bmad_liver
from .simulated_metrics import Scored

BINS = 1024  # of scores, for the interval alone: half a bin is far less than a patient


def slice_figures(
    scores: Sequence[SliceScores], patients: Sequence[str], method: str = "denovox", seed: int = 0
) -> tuple[Figure, ...]:
    """PSNR, SSIM and RMSE: the mean over all slices of all scans, as the mayo16 protocols have it.

    scores, patients: of each scan. `InputError` where their numbers differ or are 0.
    """
    _one_each(len(scores), patients)
    columns = (
        ("psnr", "dB", True, [one.psnr_db for one in scores]),
        ("ssim", "", True, [one.ssim for one in scores]),
        ("rmse", "HU", False, [one.rmse_hu for one in scores]),
    )
    return tuple(
        over_patients(
            name,
            patients,
            _pooled(values),
            unit=unit,
            method=method,
            better="higher" if higher else "lower",
            seed=seed,
        )
        for name, unit, higher, values in columns
    )


def volume_figures(
    scores: Sequence[VolumeScore], patients: Sequence[str], method: str = "denovox", seed: int = 0
) -> tuple[Figure, ...]:
    """PSNR and SSIM: the mean over scans, as rplhr has it. `InputError` as in `slice_figures`."""
    _one_each(len(scores), patients)
    columns = (
        ("psnr", "dB", [np.array([one.psnr_db]) for one in scores]),
        ("ssim", "", [np.array([one.ssim]) for one in scores]),
    )
    return tuple(
        over_patients(
            name,
            patients,
            _pooled(values),
            unit=unit,
            method=method,
            seed=seed,
        )
        for name, unit, values in columns
    )


def detection_figures(
    maps: Sequence[Shaped[np.ndarray, "*_"]],
    masks: Sequence[Shaped[np.ndarray, "*_"]],
    patients: Sequence[str],
    method: str = "denovox",
    seed: int = 0,
    scores: Sequence[float] | None = None,
) -> tuple[Figure, ...]:
    """Image AUROC, pixel AUROC and PRO, as `bmad_liver` has them, with intervals over patients.

    The figures are exact. Their intervals draw from histograms of each image's scores, in 1024 bins
    that hold equally many pixels: sorting all pixels for each of 2000 draws would take days.
    """
    _one_each(len(maps), patients)
    exact = bmad_liver(maps, masks, scores)
    lesions = [mask != 0 for mask in masks]
    best = [float(each.max()) for each in maps] if scores is None else list(scores)
    image = _bins([np.array([score]) for score in best])
    ill = [np.array([float(mask.any())]) for mask in lesions]
    pixel = _bins([each.ravel() for each in maps])
    normal = _summed(pixel, [(~mask).ravel().astype(np.float64) for mask in lesions])
    rows = (
        (
            "image AUROC",
            exact.image_auroc,
            1.0,
            _summed(image, ill),
            _summed(image, [1 - i for i in ill]),
        ),
        (
            "pixel AUROC",
            exact.pixel_auroc,
            1.0,
            _summed(pixel, [mask.ravel().astype(np.float64) for mask in lesions]),
            normal,
        ),
        (
            "PRO at FPR 0.3",
            exact.pro,
            PRO_LIMIT,
            _summed(pixel, [lesion_weights(mask)[0].ravel() for mask in lesions]),
            normal,
        ),
    )
    return tuple(
        over_patients(
            name,
            patients,
            _drawn_area(up, across, limit),
            method=method,
            seed=seed,
            value=value,
        )
        for name, value, limit, up, across in rows
    )


def measured_figures(rows: Sequence[Measured], seed: int = 0) -> tuple[Figure, ...]:
    """Of each region, value and method: the mean over all parts that have it, in order of rows.

    `InputError` where there is no row.
    """
    if not rows:
        raise InputError("there is no scan to measure; check the list of scans")
    columns: dict[tuple[str, str, str], list[tuple[str, Value]]] = {}
    for row in rows:
        for value in row.values:
            kind = (row.region, value.name, row.method)
            columns.setdefault(kind, []).append((row.patient, value))
    return tuple(
        over_patients(
            f"{region} {name}",
            [patient for patient, _ in column],
            _pooled([np.array([value.value]) for _, value in column]),
            unit=column[0][1].unit,
            method=method,
            better=column[0][1].better,
            seed=seed,
        )
        for (region, name, method), column in columns.items()
    )


def scan_figures(
    rows: Sequence[Scored], method: str = "denovox", seed: int = 0
) -> tuple[Figure, ...]:
    """Scan AUROC, with a lesion against the original, and how often a lesion raises the score.

    An original counts once, however many lesions were added to it, one at a time: the rows of one
    scan share one healthy score. `InputError` where there is no row.
    """
    patients = [row.patient for row in rows]
    healthy, planted = (np.array([getattr(r, n) for r in rows]) for n in ("healthy", "planted"))
    # Weights, not copies dropped: draws of the bootstrap repeat rows.
    share = np.array([1 / sum(other.scan == row.scan for other in rows) for row in rows])

    def area_of(drawn: Drawn) -> float:
        scores = np.concatenate([planted[drawn], healthy[drawn]])
        sick, well = np.ones(len(drawn)), share[drawn]
        none = np.zeros(len(drawn))
        both = np.concatenate([sick, none]), np.concatenate([none, well])
        return area(curve(scores, *both))

    raised = (planted > healthy) + (planted == healthy) / 2
    values = [np.array([value]) for value in raised]
    return (
        over_patients("scan AUROC", patients, area_of, method=method, seed=seed),
        over_patients("detected", patients, _pooled(values), method=method, seed=seed),
    )


def _pooled(values: Sequence[Float[np.ndarray, " _"]]) -> Callable[[Drawn], float]:
    """Indices of scans -> the mean of all their values together."""

    def mean(drawn: Drawn) -> float:
        return float(np.concatenate([values[scan] for scan in drawn]).mean())

    return mean


def _bins(scores: Sequence[Shaped[np.ndarray, " _"]]) -> list[Int64[np.ndarray, " _"]]:
    """Each score's bin, 0 for the lowest; the bins hold equally many of all scores."""
    pooled = np.concatenate(list(scores)).astype(np.float64)
    edges = np.unique(np.quantile(pooled, np.linspace(0, 1, BINS + 1), method="lower"))
    return [np.searchsorted(edges, one, side="right") for one in scores]


def _summed(
    bins: Sequence[Int64[np.ndarray, " _"]], weights: Sequence[Float[np.ndarray, " _"]]
) -> Float[np.ndarray, "scans bins"]:
    """The sum of the weights in each bin, a row a scan."""
    return np.stack(
        [np.bincount(b, w, minlength=BINS + 2) for b, w in zip(bins, weights, strict=True)]
    )


def _drawn_area(
    sick: Float[np.ndarray, "scans bins"], healthy: Float[np.ndarray, "scans bins"], limit: float
) -> Callable[[Drawn], float]:
    """Indices of scans -> the area up to `limit` of their histograms together; NaN if undefined."""

    def area_of(drawn: Drawn) -> float:
        up, across = sick[drawn].sum(0), healthy[drawn].sum(0)
        if not up.any() or not across.any():
            return math.nan
        return area(curve(np.arange(len(up)), up, across), limit)

    return area_of


def _one_each(count: int, patients: Sequence[str]) -> None:
    if count != len(patients):
        raise InputError(f"{len(patients)} patients' names for {count} scans; give one for each")
