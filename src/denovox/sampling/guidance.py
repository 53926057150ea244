"""Guidance: what the conditions change in an estimate, made larger (Method 6).

x0 = g + w (c - g), where c is the model's estimate and g that of a guide: the same model without
region and anatomy (classifier-free, Ho and Salimans 2022), or a weaker model with the same
conditions (autoguidance, Karras et al. 2024, arXiv 2406.02507). Both pull towards what the model
knows better than its guide. At high noise this shifts HU and costs variety, at low noise it only
costs time, so it is limited to an interval of sigmas (Kynkäänniemi et al. 2024, arXiv 2404.07724).
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from ..core.condition import Condition
from ..core.condition import batch as collate
from ..core.errors import ensure
from ..core.labels import OUTSIDE, UNKNOWN
from ..core.regions import UNKNOWN_REGION
from .windowed import PatchDenoise


@dataclass(frozen=True)
class Guidance:
    """weight: w; 1 is no guidance. low, high: sigmas, model units, between which it is applied
    (chosen on phantoms and training patients: benchmarks/results/2026-11-28-synthesis.md).

    `InputError` for a weight that is negative or not finite, and for an empty interval.
    """

    weight: float = 2.0
    low: float = 0.2
    high: float = 20.0

    def __post_init__(self) -> None:
        ensure(
            0 <= self.weight < float("inf"),
            f"a guidance weight of {self.weight:g} is not possible; give 1 (none) or more",
        )
        ensure(
            0 <= self.low < self.high,
            f"guidance between the sigmas {self.low:g} and {self.high:g} is an empty interval",
        )

    def covers(self, sigma: float) -> bool:
        """Whether an evaluation at this sigma is guided, and so needs two answers."""
        return self.weight != 1 and self.low <= sigma <= self.high


def dropped(condition: Condition) -> Condition:
    """The condition without region and anatomy, as training drops them; position, voxel size and
    control remain."""
    return replace(
        condition,
        region=torch.full_like(condition.region, UNKNOWN_REGION),
        anatomy=torch.full_like(condition.anatomy, UNKNOWN),
    )


def guided(
    denoise: PatchDenoise, guidance: Guidance, guide: PatchDenoise | None = None
) -> PatchDenoise:
    """`denoise` with guidance. guide: a weaker model; None: the same one with `dropped` conditions,
    in one batch of two per tile."""

    def both(x: Tensor, sigma: float, condition: Condition) -> tuple[Tensor, Tensor]:
        if guide is not None:
            return denoise(x, sigma, condition), guide(x, sigma, condition)
        pair = collate([condition, dropped(condition)])
        estimate, without = denoise(torch.cat([x, x]), sigma, pair).chunk(2)
        return estimate, without

    def guided_denoise(x: Tensor, sigma: float, condition: Condition) -> Tensor:
        if not guidance.covers(sigma):
            return denoise(x, sigma, condition)
        estimate, without = both(x, sigma, condition)
        # Nothing is uncertain about the air around a body, and guidance would brighten it.
        outside = (condition.anatomy == OUTSIDE)[:, None]
        return torch.where(outside, estimate, without + guidance.weight * (estimate - without))

    return guided_denoise
