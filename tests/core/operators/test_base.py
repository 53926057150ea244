"""Operators: the adjoint is one, and the prox is where its objective is flat."""

from __future__ import annotations

import pytest
import torch

from denovox.core.operators.base import Identity, Operator
from denovox.core.operators.region_means import RegionMeans

SHAPE = (2, 1, 3, 4, 5)
LABELS = torch.arange(60).reshape(SHAPE[2:]) % 7 % 4  # three regions, and voxels of none
OPERATORS = [Identity(), RegionMeans(LABELS)]


def volumes(count: int) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return [torch.randn(SHAPE, generator=generator, dtype=torch.float64) for _ in range(count)]


@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_at_is_the_adjoint(operator: Operator):
    x, other = volumes(2)
    y = operator.A(other)
    assert float((operator.A(x) * y).sum()) == pytest.approx(float((x * operator.At(y)).sum()))


@pytest.mark.parametrize("rho", [1e-3, 0.7, 1.0, 50.0])
@pytest.mark.parametrize("operator", OPERATORS, ids=lambda o: type(o).__name__)
def test_prox_is_the_minimum(operator: Operator, rho: float):
    x0, other = volumes(2)
    y = operator.A(other)
    x = operator.prox(x0, y, rho).requires_grad_()
    objective = ((y - operator.A(x)) ** 2).sum() + rho * ((x - x0) ** 2).sum()
    (gradient,) = torch.autograd.grad(objective, x)
    assert float(gradient.abs().max()) < 1e-12 * (1 + rho)


def test_prox_of_the_identity_in_numbers():
    x0, y = torch.full((1, 1, 1, 1, 1), 3.0), torch.full((1, 1, 1, 1, 1), 1.0)
    assert float(Identity().prox(x0, y, 0)) == 1
    assert float(Identity().prox(x0, y, 1)) == 2
    assert float(Identity().prox(x0, y, 3)) == 2.5
    assert float(Identity().prox(x0, y, 1e12)) == pytest.approx(3)


def test_region_means_are_held_exactly_and_nothing_else_changes():
    x0, other = volumes(2)
    operator = RegionMeans(LABELS)
    y = operator.A(other)
    for number in (1, 2, 3):
        torch.testing.assert_close(y[0, 0, number - 1], other[0, 0][number == LABELS].mean())
    change = operator.prox(x0, y, 0.0) - x0
    torch.testing.assert_close(operator.A(x0 + change), y, rtol=0, atol=1e-14)
    assert not change[..., LABELS == 0].any()
    for number in (1, 2, 3):  # a constant: the texture remains
        assert float(change[..., number == LABELS].std(-1).max()) < 1e-14
    everywhere = RegionMeans(torch.ones_like(LABELS))  # no label 0 at all
    held = everywhere.prox(x0, torch.full((2, 1, 1), 3.0, dtype=x0.dtype), 0.0)
    assert held.mean((1, 2, 3, 4)).tolist() == pytest.approx([3, 3])
