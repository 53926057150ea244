"""Thick slices as a measurement of thin ones: the operator of super-resolution along z."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

_LEAST = 1e-10  # eigenvalues below this share of the largest count as zero: redundant slices
_RIDGE = 1e-9  # keeps the system of a column without a free voxel solvable; its solution is zero
_HELD = 1 << 22  # elements of the columns' systems that are in memory at a time


@dataclass(frozen=True, eq=False)
class SlabAverage:
    """Each thick slice k is sum_z matrix[k, z] x[z], separately in every column (Method 3).

    matrix: any weights, so slices may overlap, leave gaps or have a soft profile. The systems
    along z have as many unknowns as there are thick slices and are solved once for all columns.
    """

    matrix: Float[np.ndarray, "thick fine"]

    def A(self, x: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b 1 x y z2"]:
        """Thick slices from thin ones."""
        return x @ self._like(self.matrix.T, x)

    def At(self, y: Float[Tensor, "b 1 x y z2"]) -> Float[Tensor, "b 1 x y z"]:
        """The adjoint."""
        return y @ self._like(self.matrix, y)

    def prox(
        self, x0: Float[Tensor, "b 1 x y z"], y: Float[Tensor, "b 1 x y z2"], rho: float
    ) -> Float[Tensor, "b 1 x y z"]:
        """x0 + Mt (M Mt + rho)^-1 (y - M x0), exact: the normal equations, by Woodbury's identity.

        rho 0 is the limit: the volume closest to x0 whose slices are y or, where redundant slices
        contradict each other, fit y best.
        """
        values, vectors = self._eigen
        gain = np.zeros_like(values)
        used = values > _LEAST * values.max()
        gain[used] = 1 / (values[used] + rho)
        back = (vectors * gain) @ vectors.T @ self.matrix
        return x0 + (y - self.A(x0)) @ self._like(back, x0)

    def null_space_part(
        self, change: Float[Tensor, "b 1 x y z"], free: Bool[Tensor, "b 1 x y z"]
    ) -> Float[Tensor, "b 1 x y z"]:
        """The closest change that affects no thick slice and no voxel other than the free ones.

        change - W Mt (M W Mt)^-1 M W change, with W = 1 where free: a small system, in float64,
        for each column that has voxels of both kinds.
        """
        out = torch.where(free, change, 0)
        entire = free.all(-1) | ~free.any(-1)
        nothing = torch.zeros_like(self.A(out))
        out = torch.where(entire[..., None] & free, self.prox(out, nothing, 0.0), out)
        matrix = torch.from_numpy(self.matrix).to(change.device, torch.float64)
        # Most pairs of thick slices share no thin one: only the products of the others are summed.
        one, other = (matrix @ matrix.T).nonzero(as_tuple=True)
        products = (matrix[one] * matrix[other]).T
        flat, allowed = out.view(-1, out.shape[-1]), free.reshape(-1, out.shape[-1])
        columns = (~entire).view(-1).nonzero()[:, 0]
        step = max(1, _HELD // (len(matrix) ** 2 + out.shape[-1]))
        for first in range(0, len(columns), step):
            these = columns[first : first + step]
            w, d = allowed[these].double(), flat[these].double()
            system = _RIDGE * torch.eye(len(matrix)).to(matrix).repeat(len(these), 1, 1)
            system[:, one, other] += w @ products
            rest = torch.cholesky_solve((d @ matrix.T)[..., None], torch.linalg.cholesky(system))
            flat[these] = (d - w * (rest[..., 0] @ matrix)).to(flat)
        return out

    @cached_property
    def _eigen(self) -> tuple[Float[np.ndarray, " thick"], Float[np.ndarray, "thick thick"]]:
        """Eigenvalues and eigenvectors of M Mt."""
        values, vectors = np.linalg.eigh(self.matrix.astype(np.float64) @ self.matrix.T)
        return values, vectors

    @staticmethod
    def _like(matrix: Float[np.ndarray, "m n"], x: Tensor) -> Float[Tensor, "m n"]:
        return torch.from_numpy(np.ascontiguousarray(matrix)).to(x)


def interpolation(
    matrix: Float[np.ndarray, "thick fine"], centres: Float[np.ndarray, " fine"]
) -> Float[np.ndarray, "thick fine"]:
    """Thick slices @ this = thin ones: cubic along z, then made consistent with the thick ones.

    matrix: as in `SlabAverage`. centres: of the thin slices, in units of thick ones (0 is the
    centre of the first). Both steps are linear along z, so together they form one matrix.
    """
    count = len(matrix)
    basis = torch.eye(count, dtype=torch.float64)[None, None, None]
    cubic = torch.from_numpy(_cubic(count, centres))[None, None, None]
    return SlabAverage(matrix).prox(cubic, basis, 0.0)[0, 0, 0].numpy()


def _cubic(count: int, at: Float[np.ndarray, " fine"]) -> Float[np.ndarray, "thick fine"]:
    """Interpolation matrix: row k is the response at `at` to a 1 at slice k; ends extend flat."""
    from scipy.interpolate import make_interp_spline

    beyond = 4  # repeated slices, as if the patient continued unchanged
    knots = np.arange(-beyond, count + beyond)
    ones = np.eye(count)[np.clip(knots, 0, count - 1)]
    spline = make_interp_spline(knots, ones, 3)
    return np.ascontiguousarray(spline(np.clip(at, -beyond, count - 1 + beyond)).T)
