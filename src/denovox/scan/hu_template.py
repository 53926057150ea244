"""How well values fit the histogram that every CT in HU has, and which transform fits better.

The template is a mixture of air, lung, fat, soft tissue, contrast and bone in usual shares. A
transform (a lost intercept, a lost slope) is undone and the mean log-likelihood per voxel is
compared with that of the values as they are. A histogram says less about a small crop than about a
scan, and the difference shows it: a crop that is equally likely as air or as shifted soft tissue is
left undecided (ours; landmarks: Hounsfield 1980).
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float, Int

BIN_HU, LOW_HU, HIGH_HU = 4, -3000, 5000
NOISE_HU = (5.0, 30.0, 100.0)  # the best of these is taken
NOWHERE = 1e-6  # per HU, for values that no tissue has
SHIFTS = (1024.0, 1000.0, -1024.0, -1000.0, 32768.0, 31744.0)  # common offsets in files, HU
SCALES = (0.5, 2.0, 4.0, 10.0)
GAP = 0.1  # of the range of all other values: what lies beyond such a gap is not part of the scan
FEW = 0.001  # share of voxels that are outliers rather than contents


@dataclass(frozen=True)
class Transform:
    """Stored value = scale * HU + shift."""

    scale: float = 1.0
    shift: float = 0.0


COMMON = (*(Transform(1, shift) for shift in SHIFTS), *(Transform(scale) for scale in SCALES))


@dataclass(frozen=True)
class Histogram:
    """Distinct values in ascending order, and the number of voxels that have them."""

    values: Float[np.ndarray, " n"]
    counts: Int[np.ndarray, " n"]

    @classmethod
    def of(cls, hu: Float[np.ndarray, "*n"]) -> Histogram:
        """The histogram of an array."""
        values, counts = np.unique(hu, return_counts=True)
        return cls(values.astype(np.float64), counts)

    def share(self, low: float, high: float) -> float:
        """Share of the voxels in [low, high]."""
        inside = (self.values >= low) & (self.values <= high)
        return float(self.counts[inside].sum() / self.counts.sum())

    def quantile(self, share: float) -> float:
        """The value that this share of the voxels does not exceed."""
        total = np.cumsum(self.counts)
        return float(self.values[np.searchsorted(total, share * total[-1])])

    def without_padding(self) -> Histogram:
        """Without single values, and few voxels, that a gap separates from all others.

        Padding has one value; whether it was added before or after a faulty conversion says nothing
        about the scan.
        """
        one = self
        while len(one.values) > 100:  # with few distinct values, gaps say nothing
            low, high = one._outliers(), len(one.values) - one._flipped()._outliers()
            if (low, high) == (0, len(one.values)):
                break
            one = Histogram(one.values[low:high], one.counts[low:high])
        return one

    def _flipped(self) -> Histogram:
        return Histogram(-self.values[::-1], self.counts[::-1])

    def _outliers(self) -> int:
        """How many of the lowest values are padding or outliers."""
        few = int(np.searchsorted(np.cumsum(self.counts), FEW * self.counts.sum(), "right"))
        first = self.values[: max(1, few) + 1]
        beyond = self.quantile(1 - FEW) - first[1:]  # the range of the rest
        apart = np.flatnonzero((np.diff(first) > GAP * beyond) & (beyond > 0))
        return int(apart[-1]) + 1 if apart.size else 0

    def has_air(self, of: Transform) -> bool:
        """Whether air is among the values, if `of` was applied to a CT in HU."""
        low, high = (of.scale * hu + of.shift for hu in (-1100, -600))
        return self.share(low, high) > FEW

    def log_likelihood(self, of: Transform = Transform()) -> float:
        """Mean per voxel, nats, of the values if `of` was applied to a CT in HU."""
        hu = (self.values - of.shift) / of.scale
        place = np.floor((hu - LOW_HU) / BIN_HU)
        inside = (place >= 0) & (place < (HIGH_HU - LOW_HU) / BIN_HU)
        at = np.where(inside, place, 0).astype(int)
        logs = [np.where(inside, one[at], np.log(NOWHERE)) for one in _templates()]
        best = max(float(self.counts @ each) for each in logs)
        return best / float(self.counts.sum()) - float(np.log(of.scale))


@cache
def _templates() -> tuple[Float[np.ndarray, " bins"], ...]:
    """Log density per HU for each noise level."""
    hu = np.arange(LOW_HU, HIGH_HU, BIN_HU) + BIN_HU / 2

    def peak(at: float, sd: float) -> Float[np.ndarray, " bins"]:
        return np.exp(-0.5 * ((hu - at) / sd) ** 2) / (sd * np.sqrt(2 * np.pi))

    def tail(start: float, decay: float) -> Float[np.ndarray, " bins"]:
        return np.where(hu >= start, np.exp(-np.maximum(hu - start, 0) / decay) / decay, 0)

    between = ((hu >= -1000) & (hu < -150)) / 850
    return tuple(
        np.log(
            0.30 * peak(-1000, np.hypot(12, noise))
            + 0.12 * peak(-860, np.hypot(50, noise))
            + 0.06 * between
            + 0.15 * peak(-100, np.hypot(18, noise))
            + 0.27 * peak(45, np.hypot(30, noise))
            + 0.06 * tail(70, 120)
            + 0.03 * tail(150, 500)
            + NOWHERE
        )
        for noise in NOISE_HU
    )
