"""Training samples, and batches of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Float64
from torch import Tensor

from ...core.condition import Condition
from ...core.condition import batch as batch_of


@dataclass(frozen=True)
class Sample:
    """x0: 1 1 x y z, model units, clipped to [-1, 1]. noise: same shape, SD about 1.

    u: a uniform number from which the loss picks a noise level. weight: of each voxel in the loss;
    None: uniform. start: what noise is added to, if not x0. case: id of its case. noise_floor: the
    lowest noise level (sigma, model units) to train it at.
    """

    x0: Float[Tensor, "1 1 x y z"]
    noise: Float[Tensor, "1 1 x y z"]
    u: float
    condition: Condition
    level: int
    weight: Float[Tensor, "1 1 x y z"] | None = None
    start: Float[Tensor, "1 1 x y z"] | None = None
    case: str = ""
    noise_floor: float = 0.0


@dataclass(frozen=True)
class Batch:
    """Several samples stacked: the fields of `Sample`, with b in place of 1."""

    x0: Float[Tensor, "b 1 x y z"]
    noise: Float[Tensor, "b 1 x y z"]
    u: Float64[np.ndarray, " b"]
    condition: Condition
    level: tuple[int, ...]
    weight: Float[Tensor, "b 1 x y z"] | None = None
    start: Float[Tensor, "b 1 x y z"] | None = None
    case: tuple[str, ...] = ()
    noise_floor: tuple[float, ...] = ()

    def part(self, first: int, stop: int) -> Batch:
        """Samples [first, stop) of the batch."""

        def cut(of: Tensor | None) -> Tensor | None:
            return None if of is None else of[first:stop]

        return replace(
            self,
            x0=self.x0[first:stop],
            noise=self.noise[first:stop],
            u=self.u[first:stop],
            condition=self.condition.rows(slice(first, stop)),
            level=self.level[first:stop],
            weight=cut(self.weight),
            start=cut(self.start),
            case=self.case[first:stop],
            noise_floor=self.noise_floor[first:stop],
        )


Draw = Callable[[Sequence[int]], Batch]  # sample numbers -> batch


def collate(samples: Sequence[Sample]) -> Batch:
    """Stack samples of one shape into a batch.

    All or none have a weight; if some have a start, those without one start at x0.
    """
    weights = [s.weight for s in samples if s.weight is not None]
    starts = [s.x0 if s.start is None else s.start for s in samples]
    return Batch(
        torch.cat([s.x0 for s in samples]),
        torch.cat([s.noise for s in samples]),
        np.array([s.u for s in samples], np.float64),
        batch_of([s.condition for s in samples]),
        tuple(s.level for s in samples),
        torch.cat(weights) if weights else None,
        torch.cat(starts) if any(s.start is not None for s in samples) else None,
        tuple(s.case for s in samples),
        tuple(s.noise_floor for s in samples),
    )


def batches(draw: Callable[[int], Sample]) -> Draw:
    """Turn a function that draws one sample into one that draws batches."""
    return lambda numbers: collate([draw(n) for n in numbers])
