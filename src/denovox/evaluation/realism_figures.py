"""Figures of realism: each distance with its N and its floor, and how many scans are copies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from ..metrics.bootstrap import LEVEL, Drawn, Interval
from ..metrics.results import Better, Figure, over_patients
from ..metrics.set_distance import Features, Floor, Memorised, floor, frechet, mmd

DISTANCES = {"frechet": frechet, "mmd": mmd}
BETTER: dict[str, Better] = {"frechet": "lower", "mmd": "zero"}
NOTES = (
    "floor: halves of the real patients against each other, at random; 'at the floor's N': the same"
    " halves against as many synthetic scans. Compare these two: Frechet's bias grows as N falls,"
    " so a distance of all scans cannot be compared with a floor of half of them",
    "intervals of distances are 95 % ranges over these splits (a bootstrap would count a patient"
    " drawn twice as two equal scans); share above: of the splits in which synthetic scans are"
    " further away than real ones, 0.5 where the two cannot be distinguished",
    "mmd: unbiased squared MMD, kernel (a.b / features + 1)^3; it may be negative",
)


@dataclass(frozen=True)
class View:
    """Real and synthetic scans as one kind of features: of a region, or of a plane."""

    name: str
    real: Features
    synthetic: Features


def distance_figures(
    views: Sequence[View], method: str = "denovox", seed: int = 0, average: str | None = None
) -> tuple[Figure, ...]:
    """Of each view and distance: all scans; at the floor's N; the floor; how often it is above.

    average: the name of the mean over the views, which are then of the same scans; None: no mean.
    Where there are too few real patients to halve there is no floor.
    """
    figures: list[Figure] = []
    for kind, distance in DISTANCES.items():
        wholes = [distance(view.real.values, view.synthetic.values) for view in views]
        floors = [floor(distance, view.real, view.synthetic, seed=seed) for view in views]
        rows = list(zip((view.name for view in views), wholes, floors, views, strict=True))
        known = [one for one in floors if one is not None]
        if average is not None:
            mean = _mean(known) if len(known) == len(views) else None
            rows.insert(0, (average, float(np.mean(wholes)), mean, views[0]))
        for name, whole, own, view in rows:
            figures += _rows(f"{name} {kind}".strip(), kind, whole, own, view.synthetic, method)
    return tuple(figures)


def _mean(floors: Sequence[Floor]) -> Floor:
    """Split by split: the views are of the same scans, so their splits are the same."""
    real = np.mean([one.real for one in floors], 0)
    synthetic = np.mean([one.synthetic for one in floors], 0)
    return Floor(real, synthetic, floors[0].sizes, floors[0].scans)


def _rows(
    name: str, kind: str, whole: float, own: Floor | None, synthetic: Features, method: str
) -> list[Figure]:
    better, none = BETTER[kind], Interval(None, None)
    patients, scans = len(set(synthetic.patients)), len(set(synthetic.scans))
    rows = [Figure(name, whole, none, patients, scans, method=method, better=better)]
    if own is None:
        return rows
    size, (of_real, of_synthetic) = own.sizes[1], own.scans
    for label, values, count, whose in (
        (f"{name} at the floor's N", own.synthetic, of_synthetic, method),
        (f"{name} floor", own.real, of_real, "real"),
    ):
        mean = float(values.mean())
        rows.append(Figure(label, mean, _range(values), size, count, "", whose, better))
    above = f"{name}: share above the floor"
    rows.append(Figure(above, own.above, none, size, of_synthetic, "", method, "lower"))
    return rows


def _range(values: Float64[np.ndarray, " splits"]) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = (
        np.quantile(values, tail, method="lower"),
        np.quantile(values, 1 - tail, method="higher"),
    )
    return Interval(float(low), float(high), LEVEL, len(values))


def copy_figures(
    near: Memorised,
    patients: Sequence[str],
    name: str = "",
    method: str = "denovox",
    seed: int = 0,
) -> tuple[Figure, ...]:
    """How many synthetic scans are nearer to training than new patients are, with intervals.

    patients: of the synthetic scans; the bootstrap draws these, the held-out distances stay.
    """

    def share(drawn: Drawn) -> float:
        return float(near.near[drawn].mean())

    rows = (
        ("nearer to training than 95 % of held-out scans", share),
        ("copies AUROC (0.5: as held-out scans)", near.auroc),
    )
    return tuple(
        over_patients(
            f"{name} {label}".strip(), patients, of, method=method, better="lower", seed=seed
        )
        for label, of in rows
    )
