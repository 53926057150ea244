"""Averages over coarser voxels: exact against dense solves, for ratios that are not whole too."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor

from denovox.core.operators.base import Operator
from denovox.core.operators.cell_average import CellAverage, overlaps
from denovox.core.operators.slab_average import SlabAverage
from denovox.core.operators.slice_profile import slab_matrix

GRIDS = {
    "halves": ((3, 2, 4), (6, 4, 8)),
    "odd": ((3, 2, 4), (5, 3, 7)),
    "one axis is as fine": ((3, 4, 2), (5, 4, 6)),
    "one voxel": ((1, 1, 1), (2, 3, 4)),
}


def volume(shape: tuple[int, ...], seed: int = 0) -> Tensor:
    drawn = torch.Generator().manual_seed(seed)
    return torch.randn(2, 1, *shape, generator=drawn, dtype=torch.float64)


@pytest.fixture(params=GRIDS.values(), ids=list(GRIDS))
def operator(request: pytest.FixtureRequest) -> CellAverage:
    return CellAverage(*request.param)


def dense(operator: CellAverage) -> np.ndarray:
    """The whole matrix, from the definition along each axis."""
    x, y, z = (overlaps(m, n).numpy() for m, n in zip(operator.coarse, operator.fine, strict=True))
    return np.kron(np.kron(x, y), z)


def test_it_is_an_operator(operator):
    assert isinstance(operator, Operator)


@pytest.mark.parametrize(("coarse", "fine"), [(3, 6), (3, 7), (5, 5), (1, 4), (32, 52)])
def test_cells_share_what_they_overlap(coarse, fine):
    got = overlaps(coarse, fine).numpy()
    many = 1001 * coarse * fine  # both grids are whole numbers of these
    expected = np.zeros((coarse, fine))
    at = np.arange(many)
    np.add.at(expected, (at * coarse // many, at * fine // many), coarse / many)
    np.testing.assert_allclose(got, expected, atol=1e-12)
    np.testing.assert_allclose(got.sum(1), 1, atol=1e-12)


def test_of_a_whole_ratio_it_is_the_mean_of_blocks():
    x = volume((6, 4, 8))
    expected = torch.nn.functional.avg_pool3d(x, 2)
    torch.testing.assert_close(CellAverage((3, 2, 4), (6, 4, 8)).A(x), expected)


def test_along_z_alone_it_is_the_average_over_slabs():
    x, y = volume((3, 2, 12)), volume((3, 2, 4), 1)
    ours, slabs = CellAverage((3, 2, 4), (3, 2, 12)), SlabAverage(slab_matrix(12, 1.0, 3.0, 3.0))
    torch.testing.assert_close(ours.A(x), slabs.A(x))
    torch.testing.assert_close(ours.prox(x, y, 0.3), slabs.prox(x, y, 0.3))


def test_a_and_at_are_the_dense_matrix_and_its_transpose(operator):
    x, y, matrix = volume(operator.fine), volume(operator.coarse, 1), dense(operator)
    down, up = operator.A(x), operator.At(y)
    x, y = x.reshape(2, -1).numpy(), y.reshape(2, -1).numpy()
    np.testing.assert_allclose(down.reshape(2, -1).numpy(), x @ matrix.T)
    np.testing.assert_allclose(up.reshape(2, -1).numpy(), y @ matrix)


@pytest.mark.parametrize("rho", [1e-4, 0.3, 20.0])
def test_prox_solves_the_normal_equations(operator, rho):
    x0, y, m = volume(operator.fine), volume(operator.coarse, 1), dense(operator)
    right = y.reshape(2, -1).numpy() @ m + rho * x0.reshape(2, -1).numpy()
    expected = np.linalg.solve(m.T @ m + rho * np.eye(m.shape[1]), right[..., None])[..., 0]
    got = operator.prox(x0, y, rho).reshape(2, -1)
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-9)


def test_without_noise_the_means_are_exact_and_nothing_else_changes(operator):
    x0, y, m = volume(operator.fine), volume(operator.coarse, 1), dense(operator)
    got = operator.prox(x0, y, 0.0)
    torch.testing.assert_close(operator.A(got), y, atol=1e-10, rtol=0)
    blind = np.eye(m.shape[1]) - np.linalg.pinv(m) @ m  # what the means do not see
    change = (got - x0).reshape(2, -1).numpy()
    np.testing.assert_allclose(change @ blind, 0, atol=1e-10)


def test_a_finer_grid_is_not_an_average():
    with pytest.raises(ValueError, match="not coarser"):
        CellAverage((4, 4, 9), (4, 4, 8))
