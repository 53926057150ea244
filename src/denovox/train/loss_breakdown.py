"""Where the loss comes from: by level of METHOD 1, and by how much noise there was."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from ..datasets.samples.batch import Batch
from .loss import Predict

LEVELS = ("whole", "double", "crop")  # of METHOD 1, by Batch.level
BANDS = (0.1, 0.5, 2.0)  # sigma, in model units: the edges between
BAND_NAMES = ("sigma<.1", "sigma .1-.5", "sigma .5-2", "sigma>2")


class Ledger:
    """Sums of this process's losses since it was last asked."""

    def __init__(self, sigma: Callable[[float], float]) -> None:
        """sigma: u of a sample -> its noise level (`loss.noise_level`)."""
        self._sigma = sigma
        self._entries: list[tuple[tuple[int, ...], np.ndarray, Tensor]] = []

    def watched(self, predict: Predict) -> Predict:
        """The same, with every loss that is trained on noted; what validation asks is not."""

        def noted(samples: Batch) -> Tensor:
            losses = predict(samples)
            if torch.is_grad_enabled():
                self._entries.append((samples.level, samples.u, losses.detach()))
            return losses

        return noted

    def close(self) -> dict[str, float]:
        """The mean of each level and band that had a sample; the ledger is empty then."""
        sums: dict[str, list[float]] = {}
        # One transfer for all: a GPU is not waited for once a sample.
        losses = torch.cat([loss for _, _, loss in self._entries]).tolist() if self._entries else []
        levels = [level for of, _, _ in self._entries for level in of]
        us = [u for _, of, _ in self._entries for u in of.tolist()]
        for level, u, loss in zip(levels, us, losses, strict=True):
            band = BAND_NAMES[sum(self._sigma(u) >= edge for edge in BANDS)]
            for name in (LEVELS[level], band):
                sums.setdefault(name, []).append(loss)
        self._entries.clear()
        return {
            name: sum(sums[name]) / len(sums[name])
            for name in (*LEVELS, *BAND_NAMES)
            if name in sums
        }
