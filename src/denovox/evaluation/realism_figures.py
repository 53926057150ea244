"""Figures of realism: each distance with its N, the floor beside it, and the signs of copies."""

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
REALISM = {  # name -> its convention
    "radiomic": "37 features of grain and histogram (metrics/texture.py) of the body (anatomy"
    ".coarse) in each region's slices, in the region's window, on each scan's own grid; in SDs of"
    " the real set, from its mean",
    "fid25d-maisi": "RAS, 1 mm linear, padded with -1000 HU or cropped to 512^3, cut to [-1000,"
    " 1000] HU; of each plane the middle 40 % of the slices, min-max over them together, BGR minus"
    " (.406, .456, .485); rows are slices; mean of three planes (FACTS 5.4). The authors' network"
    " is hub:Warvito/radimagenet-models:radimagenet_resnet50",
    "fid3d-medicalnet": "what the network sees is ours: 2 mm area-weighted, middle 192^3, padded"
    " with -1000 HU, cut to [-1000, 1000] HU, mean 0 and SD 1; features: MedicalNet resnet_50_23"
    "dataset in MONAI's layout (stride 2 in layers 3 and 4, where Tencent's own has dilation)",
}
NOTES = (
    "floor: halves of the real patients against each other, at random; 'at the floor's N': the same"
    " halves against as many made scans. Compare these two: Frechet's bias grows as N falls, so"
    " a distance of all scans is no match for a floor of half of them",
    "intervals of distances are 95 % ranges over these splits (a bootstrap would count a patient"
    " drawn twice as two equal scans); share above: of the splits in which made scans are further"
    " away than real ones, 0.5 where they cannot be told apart",
    "mmd: unbiased squared MMD, kernel (a.b / features + 1)^3; it may be negative",
)


@dataclass(frozen=True)
class View:
    """Real and made scans as one kind of features: of a region, or of a plane."""

    name: str
    real: Features
    made: Features


def distance_figures(
    views: Sequence[View], method: str = "denovox", seed: int = 0, average: str | None = None
) -> tuple[Figure, ...]:
    """Of each view and distance: all scans; at the floor's N; the floor; how often it is above.

    average: the name of the mean over the views, which are then of the same scans; None: no mean.
    Where there are too few real patients to halve there is no floor.
    """
    figures: list[Figure] = []
    for kind, distance in DISTANCES.items():
        wholes = [distance(view.real.values, view.made.values) for view in views]
        floors = [floor(distance, view.real, view.made, seed=seed) for view in views]
        rows = list(zip((view.name for view in views), wholes, floors, views, strict=True))
        known = [one for one in floors if one is not None]
        if average is not None:
            mean = _mean(known) if len(known) == len(views) else None
            rows.insert(0, (average, float(np.mean(wholes)), mean, views[0]))
        for name, whole, found, view in rows:
            figures += _rows(f"{name} {kind}".strip(), kind, whole, found, view.made, method)
    return tuple(figures)


def _mean(floors: Sequence[Floor]) -> Floor:
    """Split by split: the views are of the same scans, so their splits are the same."""
    real, made = (np.mean([getattr(one, name) for one in floors], 0) for name in ("real", "made"))
    return Floor(real, made, floors[0].sizes, floors[0].scans)


def _rows(
    name: str, kind: str, whole: float, found: Floor | None, made: Features, method: str
) -> list[Figure]:
    better, none = BETTER[kind], Interval(None, None)
    patients, scans = len(set(made.patients)), len(set(made.scans))
    rows = [Figure(name, whole, none, patients, scans, method=method, better=better)]
    if found is None:
        return rows
    size, (of_real, of_made) = found.sizes[1], found.scans
    for label, values, count, whose in (
        (f"{name} at the floor's N", found.made, of_made, method),
        (f"{name} floor", found.real, of_real, "real"),
    ):
        mean = float(values.mean())
        rows.append(Figure(label, mean, _range(values), size, count, "", whose, better))
    above = f"{name}: share above the floor"
    rows.append(Figure(above, found.above, none, size, of_made, "", method, "lower"))
    return rows


def _range(values: Float64[np.ndarray, " splits"]) -> Interval:
    tail = (1 - LEVEL) / 2
    low, high = (
        np.quantile(values, tail, method="lower"),
        np.quantile(values, 1 - tail, method="higher"),
    )
    return Interval(float(low), float(high), LEVEL, len(values))


def copy_figures(
    found: Memorised,
    patients: Sequence[str],
    name: str = "",
    method: str = "denovox",
    seed: int = 0,
) -> tuple[Figure, ...]:
    """How many made scans are nearer to training than new patients are, and how sure that is.

    patients: of the made scans; the bootstrap draws these, the held-out distances stay.
    """

    def near(drawn: Drawn) -> float:
        return float(found.near[drawn].mean())

    rows = (
        ("nearer to training than 95 % of held-out scans", near),
        ("copies AUROC (0.5: as held-out scans)", found.auroc),
    )
    return tuple(
        over_patients(
            f"{name} {label}".strip(), patients, of, method=method, better="lower", seed=seed
        )
        for label, of in rows
    )
