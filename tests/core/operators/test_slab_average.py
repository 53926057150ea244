"""The slab operator: exact against dense solves, overlap and gaps between slices too."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denovox.core.operators.base import Operator
from denovox.core.operators.slab_average import SlabAverage
from denovox.core.operators.slice_profile import slab_matrix

SHAPE = (2, 1, 3, 2, 12)
MATRICES = {
    "means of 3": slab_matrix(12, 1.0, 3.0, 3.0),
    "overlap": slab_matrix(12, 1.0, 4.0, 2.0),
    "gaps": slab_matrix(12, 1.0, 2.0, 5.0),
    "faces within voxels": slab_matrix(12, 1.0, 2.5, 2.5),
    "gaussian": slab_matrix(12, 1.0, 3.0, 3.0, "gaussian"),
}


def volume(seed: int, shape: tuple[int, ...] = SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


@pytest.fixture(params=MATRICES.values(), ids=list(MATRICES))
def operator(request: pytest.FixtureRequest) -> SlabAverage:
    return SlabAverage(request.param)


def test_it_is_an_operator(operator):
    assert isinstance(operator, Operator)


def test_each_slice_is_its_row_in_every_column(operator):
    x = volume(0)
    expected = np.einsum("tz,bcxyz->bcxyt", operator.matrix, x.numpy())
    np.testing.assert_allclose(operator.A(x).numpy(), expected, atol=1e-14)


def test_at_is_the_adjoint(operator):
    x, y = volume(0), operator.A(volume(1))
    assert float((operator.A(x) * y).sum()) == pytest.approx(float((x * operator.At(y)).sum()))


@pytest.mark.parametrize("rho", [1e-4, 0.3, 20.0])
def test_prox_solves_the_normal_equations(operator, rho):
    x0, y = volume(0), operator.A(volume(1))
    m = operator.matrix
    right = y.numpy() @ m + rho * x0.numpy()
    expected = np.linalg.solve(m.T @ m + rho * np.eye(12), right[..., None])[..., 0]
    np.testing.assert_allclose(operator.prox(x0, y, rho).numpy(), expected, atol=1e-9)


@pytest.mark.parametrize("rho", [0.0, 0.3, 20.0])
def test_prox_of_means_is_method_3s_closed_form(rho):
    operator, s = SlabAverage(MATRICES["means of 3"]), 3
    x0, y = volume(0), volume(1, (*SHAPE[:-1], 4))
    mean = x0.unflatten(-1, (4, s)).mean(-1)
    expected = x0 + (y - mean).repeat_interleave(s, -1) / (1 + s * rho)
    torch.testing.assert_close(operator.prox(x0, y, rho), expected)


def test_at_rho_0_the_data_hold_and_no_closer_volume_has_them(operator):
    x0, y = volume(0), operator.A(volume(1))
    x = operator.prox(x0, y, 0.0)
    torch.testing.assert_close(operator.A(x), y)
    expected = x0.numpy() + (y - operator.A(x0)).numpy() @ np.linalg.pinv(operator.matrix).T
    np.testing.assert_allclose(x.numpy(), expected, atol=1e-9)


def test_slices_that_repeat_each_other_are_fitted_best():
    matrix = np.full((2, 4), 0.25)
    x = SlabAverage(matrix).prox(torch.zeros(1, 1, 1, 1, 4), torch.tensor([[[[[1.0, 3]]]]]), 0.0)
    torch.testing.assert_close(x, torch.full((1, 1, 1, 1, 4), 2.0))


@pytest.mark.parametrize("share", [0.0, 0.3, 0.7, 1.0])
def test_an_unseen_change_is_the_closest_one_on_free_voxels(operator, share):
    change = volume(0)
    free = torch.rand(SHAPE, generator=torch.Generator().manual_seed(2)) < share
    got = operator.null_space_part(change, free).numpy()
    for at in np.ndindex(*SHAPE[:-1]):
        w = np.diag(free[at].double().numpy())
        seen = operator.matrix @ w
        expected = w @ change[at].numpy()
        expected = expected - np.linalg.pinv(seen) @ (seen @ expected)
        # Tails of a gaussian alone leave systems that have many answers, but for rounding.
        if _condition(seen) < 30:
            np.testing.assert_allclose(got[at], expected, atol=1e-5)
        assert not got[at][~free[at]].any()
    np.testing.assert_allclose(got @ operator.matrix.T, 0, atol=1e-5)


def _condition(seen: np.ndarray) -> float:
    """Largest over smallest singular value, zeros left out."""
    values = np.linalg.svd(seen, compute_uv=False)
    values = values[values > 1e-12]
    return float(values.max() / values.min()) if len(values) else 1.0
