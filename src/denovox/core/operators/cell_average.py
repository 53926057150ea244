"""Averages over coarser voxels as a measurement: what a coarse level holds of a fine one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Float
from torch import Tensor

from ..box import Shape

Coarse = Float[Tensor, "b 1 u v w"]
Fine = Float[Tensor, "b 1 x y z"]


def overlaps(coarse: int, fine: int) -> Float[Tensor, "coarse fine"]:
    """How much each of `fine` equal cells of a line contributes to each of `coarse` ones.

    Float64; rows sum to one. The ratio of the two need not be whole.
    """
    ends = torch.arange(coarse, dtype=torch.float64)[:, None] * (fine / coarse)
    start = torch.arange(fine, dtype=torch.float64)
    shared = torch.minimum(ends + fine / coarse, start + 1) - torch.maximum(ends, start)
    return shared.clamp_min(0) * (coarse / fine)


@dataclass(frozen=True, eq=False)
class CellAverage:
    """y = A x: means of a volume over the voxels of a coarser grid of the same extent (Method 3).

    coarse, fine: the grids. A is a product of one matrix per axis, so its prox is exact: small
    symmetric systems along each axis, solved once. `ValueError` where `coarse` is finer.
    """

    coarse: Shape
    fine: Shape

    def __post_init__(self) -> None:
        if any(m > n for m, n in zip(self.coarse, self.fine, strict=True)):
            raise ValueError(f"{self.coarse} is not coarser than {self.fine} along every axis")

    def A(self, x: Fine) -> Coarse:
        """The means."""
        return _along(x, [matrix for matrix, _, _ in self._axes])

    def At(self, y: Coarse) -> Fine:
        """The adjoint."""
        return _along(y, [matrix.T for matrix, _, _ in self._axes])

    def prox(self, x0: Fine, y: Coarse, rho: float) -> Fine:
        """x0 + At (A At + rho)^-1 (y - A x0), in the eigenvectors of A At, a Kronecker product.

        rho 0 is the limit: the volume closest to x0 whose means are y.
        """
        rest = _along(y - self.A(x0), [vectors.T for _, _, vectors in self._axes])
        u, v, w = (values.to(rest) for _, values, _ in self._axes)
        rest = rest / (u[:, None, None] * v[:, None] * w + rho)
        return x0 + _along(rest, [matrix.T @ vectors for matrix, _, vectors in self._axes])

    @cached_property
    def _axes(self) -> list[tuple[Tensor, Tensor, Tensor]]:
        """For each axis its matrix M, and the eigenvalues and eigenvectors of M Mt."""
        matrices = [overlaps(m, n) for m, n in zip(self.coarse, self.fine, strict=True)]
        return [(each, *torch.linalg.eigh(each @ each.T)) for each in matrices]


def _along(
    x: Float[Tensor, "b 1 x y z"], matrices: list[Float[Tensor, "_ _"]]
) -> Float[Tensor, "b 1 u v w"]:
    """One matrix along each of the last three axes."""
    a, b, c = (matrix.to(x) for matrix in matrices)
    # The axis that shrinks most goes first, which leaves less work for the others.
    steps = sorted(((0, a), (1, b), (2, c)), key=lambda step: step[1].shape[0] / step[1].shape[1])
    for axis, matrix in steps:
        if axis == 2:
            x = x @ matrix.T
        elif axis == 1:
            x = matrix @ x
        else:
            flat = x.reshape(*x.shape[:3], -1)
            x = (matrix @ flat).view(*x.shape[:2], len(matrix), *x.shape[3:])
    return x
