"""Where the loss comes from: by level of METHOD 1, and by how much noise there was."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from ..data.levels import Sample
from .loss import Predict

LEVELS = ("whole", "double", "crop")  # of METHOD 1, by Sample.level
BANDS = (0.1, 0.5, 2.0)  # sigma, in model units: the edges between
BAND_NAMES = ("sigma<.1", "sigma .1-.5", "sigma .5-2", "sigma>2")


class Ledger:
    """Sums of this process's losses since it was last asked."""

    def __init__(self, sigma: Callable[[float], float]) -> None:
        """sigma: u of a sample -> its noise level (`loss.noise_level`)."""
        self._sigma = sigma
        self._entries: list[tuple[int, float, Tensor]] = []

    def watched(self, predict: Predict) -> Predict:
        """The same, with every loss that is trained on noted; what validation asks is not."""

        def noted(samples: list[Sample]) -> Tensor:
            losses = predict(samples)
            if torch.is_grad_enabled():
                for sample, loss in zip(samples, losses.detach(), strict=True):
                    self._entries.append((sample.level, self._sigma(sample.u), loss))
            return losses

        return noted

    def close(self) -> dict[str, float]:
        """The mean of each level and band that had a sample; the ledger is empty then."""
        sums: dict[str, list[float]] = {}
        for level, sigma, loss in self._entries:
            band = BAND_NAMES[sum(sigma >= edge for edge in BANDS)]
            for name in (LEVELS[level], band):
                sums.setdefault(name, []).append(float(loss))
        self._entries.clear()
        return {
            name: sum(sums[name]) / len(sums[name])
            for name in (*LEVELS, *BAND_NAMES)
            if name in sums
        }
