"""Noise schedules in terms of sigma = sqrt((1 - alpha_bar) / alpha_bar), as in Method 2."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

Spacing = Literal["uniform", "karras", "logsnr"]
# Stands in for the infinite sigma at a signal-to-noise ratio of 0; float32 resolves x0 to .006.
MAX_SIGMA = 1e5


@dataclass(frozen=True)
class Schedule:
    """A variance-preserving schedule of T steps, expressed through its sigmas.

    zero_snr: end at pure noise (Lin et al. 2024, algorithm 1), with sigma `MAX_SIGMA`. It is useful
    with v-prediction, since the noise carries no information about x0 there. The cosine schedule
    nearly ends there anyway (sigma 2e4, SNR 2.4e-9, despite capped betas), the linear one at 157
    (SNR 4e-5).
    """

    name: Literal["cosine", "linear"] = "cosine"
    steps: int = 1000
    zero_snr: bool = False

    @cached_property
    def betas(self) -> Float[np.ndarray, " T"]:
        """Cosine: Nichol and Dhariwal 2021, eq. 17, capped at .999; linear: Ho et al. 2020. Before
        `zero_snr` is applied."""
        if self.name == "linear":
            return np.linspace(1e-4, 0.02, self.steps)
        phase = (np.arange(self.steps + 1) / self.steps + 0.008) / 1.008 * math.pi / 2
        alpha_bar = np.cos(phase) ** 2
        return np.minimum(1 - alpha_bar[1:] / alpha_bar[:-1], 0.999)

    @cached_property
    def sigmas(self) -> Float[np.ndarray, " T"]:
        """sigma at timesteps 0 .. T-1, increasing."""
        alpha_bar = np.cumprod(1 - self.betas)
        if not self.zero_snr:
            return np.sqrt((1 - alpha_bar) / alpha_bar)
        signal = np.sqrt(alpha_bar)  # shifted so the last is 0, scaled so the first is unchanged
        signal = (signal - signal[-1]) * (signal[0] / (signal[0] - signal[-1]))
        return np.append(np.sqrt(1 / signal[:-1] ** 2 - 1), MAX_SIGMA)

    def sigma(self, t: float) -> float:
        """sigma at a timestep, which may be fractional (linear in log sigma)."""
        return float(np.exp(np.interp(t, np.arange(self.steps), np.log(self.sigmas))))

    def timestep(self, sigma: float) -> float:
        """The inverse of `sigma`, clamped to [0, T-1]."""
        return float(np.interp(np.log(sigma), np.log(self.sigmas), np.arange(self.steps)))

    def timesteps(self, sigmas: Float[Tensor, " b"]) -> Float[Tensor, " b"]:
        """`timestep` for many sigmas, on their device."""
        table = _log_sigmas(self, sigmas.device)
        x = sigmas.double().log().clamp(table[0], table[-1])
        i = torch.searchsorted(table, x, right=True).clamp(1, len(table) - 1) - 1
        return i + (x - table[i]) * (1 / (table[i + 1] - table[i]))

    def descend(
        self, count: int, spacing: Spacing = "logsnr", start: float = 80.0, stop: float = 0.02
    ) -> list[float]:
        """`count` sigmas from `start` down to `stop`, followed by 0: `count` evaluations.

        uniform: evenly spaced in timestep (as in the paper); karras: Karras et al. 2022, eq. 5,
        rho = 7; logsnr: evenly spaced in log sigma.
        """
        if count < 1:
            raise ValueError("at least one evaluation is needed")
        u = np.linspace(0, 1, count)
        if spacing == "uniform":
            ends = self.timestep(start), self.timestep(stop)
            path = np.array([self.sigma(t) for t in ends[0] + u * (ends[1] - ends[0])])
        elif spacing == "karras":
            path = (start ** (1 / 7) + u * (stop ** (1 / 7) - start ** (1 / 7))) ** 7
        else:
            path = np.exp(np.log(start) + u * (np.log(stop) - np.log(start)))
        return [*map(float, path), 0.0]

    def from_noise(self, count: int) -> list[float]:
        """The `count` sigmas by which a scan is drawn from pure noise, followed by 0.

        From 80 at once to 8, above which the conditions say nearly all, and from .2 at once to the
        end, as the answer hardly changes any more; as `descend` between. Five are as good as ten
        evenly spaced in log sigma from 80 to .02 (docs/explain/log.md).
        """
        start = self.descend(1)
        return start if count == 1 else [start[0], *self.descend(count - 1, start=8.0, stop=0.2)]


@lru_cache
def _log_sigmas(schedule: Schedule, device: torch.device) -> Float[Tensor, " T"]:
    """float64, on the given device; copied there once."""
    with torch.inference_mode(False):  # or training could not use a table cached by a sampler
        return torch.from_numpy(np.log(schedule.sigmas)).to(device)
