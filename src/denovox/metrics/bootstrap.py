"""How much a figure would vary with other patients: a percentile bootstrap.

Patients are drawn with replacement, never scans or slices: those of one patient resemble each
other, and treating them as independent makes intervals far too narrow.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Int64

LEVEL = 0.95
RESAMPLES = 2000

Drawn = Int64[np.ndarray, " drawn"]  # indices of patients or of scans, with repeats


@dataclass(frozen=True)
class Interval:
    """A confidence interval of a figure.

    low, high: None where there are fewer than two patients to draw from, or no draw had a value.
    resamples: number of draws with a value (an AUROC has none if only healthy patients were drawn).
    """

    low: float | None
    high: float | None
    level: float = LEVEL
    resamples: int = 0


def bootstrap(
    patients: Sequence[str],
    figure: Callable[[Drawn], float],
    *,
    seed: int = 0,
    resamples: int = RESAMPLES,
    level: float = LEVEL,
) -> Interval:
    """The interval of `figure` over patients, by percentiles (Efron and Tibshirani 1993, 13.3).

    patients: the patient of each scan (or slice, or image).
    figure: indices into `patients`, of all scans of the patients drawn -> the figure; NaN where it
    is not defined for them.
    `ValueError` unless 0 < level < 1.
    """
    if not 0 < level < 1:
        raise ValueError(f"the level of an interval must be between 0 and 1, not {level}")
    scans = [np.flatnonzero(np.array(patients) == name) for name in sorted(set(patients))]
    if len(scans) < 2:
        return Interval(None, None, level)
    rng = np.random.default_rng(seed)
    values = []
    for _ in range(resamples):
        drawn = rng.integers(len(scans), size=len(scans))
        values.append(figure(np.concatenate([scans[number] for number in drawn])))
    defined = np.array(values)[~np.isnan(values)]
    if not defined.size:
        return Interval(None, None, level)
    # "lower" and "higher" do not interpolate, so figures may be infinite, as a PSNR can.
    tail = (1 - level) / 2
    low = np.quantile(defined, tail, method="lower")
    high = np.quantile(defined, 1 - tail, method="higher")
    return Interval(float(low), float(high), level, len(defined))
