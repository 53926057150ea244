"""Means over regions of a volume: its low frequencies in a lesion, without its texture."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float, Int64
from torch import Tensor

Vol = Float[Tensor, "b 1 x y z"]
Means = Float[Tensor, "b 1 n"]


@dataclass(frozen=True, eq=False)
class RegionMeans:
    """y = A x: the mean of a volume over each of n regions (Method 3).

    labels: 1 to n in the regions, each of which has a voxel; 0 elsewhere, where the prox changes
    nothing.
    """

    labels: Int64[Tensor, "x y z"]

    def A(self, x: Vol) -> Means:
        """The means."""
        sums = x.new_zeros(*x.shape[:2], len(self._count))
        sums.index_add_(2, self.labels.flatten().to(x.device), x.flatten(2))
        return sums[..., 1:] / self._count[1:].to(x)

    def At(self, y: Means) -> Vol:
        """The adjoint."""
        return self._spread(y / self._count[1:].to(y))

    def prox(self, x0: Vol, y: Means, rho: float) -> Vol:
        """x0 + (y - A x0) / (1 + rho n_k) in region k of n_k voxels: A At is diagonal, 1 / n_k."""
        return x0 + self._spread((y - self.A(x0)) / (1 + rho * self._count[1:].to(x0)))

    def _spread(self, values: Means) -> Vol:
        """The values of the regions, in their voxels; 0 elsewhere."""
        return torch.nn.functional.pad(values, (1, 0))[..., self.labels.to(values.device)]

    @cached_property
    def _count(self) -> Int64[Tensor, " n1"]:
        """Voxels of each label, of 0 first."""
        return torch.bincount(self.labels.flatten())
