"""The operator of coloured noise: against dense solves, and against the white one."""

from __future__ import annotations

import math

import pytest
import scipy.fft
import torch

from denovox.core.errors import InputError
from denovox.core.operators.base import Identity, Operator
from denovox.core.operators.coloured_noise import WHITE, Coloured, Spectrum, filtered, topped_up

GRID = (6, 5, 3)
SPACING = (0.8, 0.7, 2.0)
SOFT = Spectrum((0.0, 0.1, 0.2, 0.35), (0.05, 1.0, 0.4, 0.0))
RAMP = Spectrum((0.0, 0.3, 0.6, 0.9), (0.02, 0.6, 1.0, 0.3), along_z=0.3)


def volumes(count: int, batch: int = 2) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shape = (batch, 1, *GRID)
    return [torch.randn(shape, generator=generator, dtype=torch.float64) for _ in range(count)]


def dense(function) -> torch.Tensor:
    """The matrix of a linear function of volumes, column by column."""
    units = torch.eye(math.prod(GRID), dtype=torch.float64).reshape(-1, 1, *GRID)
    return function(units).reshape(len(units), -1).T


PSD = RAMP.on(GRID, SPACING)
FLAT = WHITE.on(GRID, SPACING)


@pytest.mark.parametrize("rho", [1e-3, 0.7, 40.0])
def test_prox_solves_the_dense_system(rho: float):
    x0, y = volumes(2)
    inverse = torch.linalg.inv(dense(lambda x: filtered(x, PSD)))
    right = inverse @ y.reshape(2, -1).T + rho * x0.reshape(2, -1).T
    expected = torch.linalg.solve(inverse + rho * torch.eye(len(inverse)), right).T.reshape(y.shape)
    torch.testing.assert_close(Coloured(PSD).prox(x0, y, rho), expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("rho", [0.0, 1.3])
def test_white_noise_is_the_identity(rho: float):
    x0, y = volumes(2)
    expected = Identity().prox(x0, y, rho)
    torch.testing.assert_close(Coloured(FLAT).prox(x0, y, rho), expected, rtol=1e-13, atol=1e-13)


def test_at_is_the_adjoint():
    operator = Coloured(PSD)
    assert isinstance(operator, Operator)
    x, y = volumes(2)
    assert float((operator.A(x) * y).sum()) == pytest.approx(float((x * operator.At(y)).sum()))


def test_where_there_is_no_noise_the_data_stay():
    x0, y = volumes(2)
    psd = PSD.clone()
    psd[0, 0] = 0
    x = Coloured(psd).prox(x0, y, 1e6)
    assert torch.isfinite(x).all()
    # A column's mean is frequency (0, 0).
    assert float((x - y).sum((2, 3)).abs().max()) < 1e-8


def test_the_filter_is_the_cosine_transforms():
    (x,) = volumes(1)
    for psd, axes in ((PSD, (2, 3, 4)), (PSD[..., :1], (2, 3))):
        there = scipy.fft.dctn(x.numpy(), axes=axes, norm="ortho")
        back = scipy.fft.idctn(there * psd.numpy(), axes=axes, norm="ortho")
        torch.testing.assert_close(filtered(x, psd), torch.from_numpy(back))


def test_the_filter_is_symmetric():
    x, y = volumes(2)
    left, right = (filtered(x, PSD) * y).sum(), (x * filtered(y, PSD)).sum()
    assert float(left) == pytest.approx(float(right))


def test_the_inverse_of_the_noise_is_the_noise():
    # White noise through sqrt(S) has the spectrum S on average over the volume: total power 1.
    white = torch.randn((1, 1, 96, 96, 8), generator=torch.Generator().manual_seed(1))
    psd = RAMP.on((96, 96, 8), SPACING)
    noise = filtered(white, psd.sqrt())
    assert float(noise.std()) == pytest.approx(1, rel=0.01)
    a, b = noise[..., :-1], noise[..., 1:]
    assert float((a * b).mean()) == pytest.approx(0.3, abs=0.02)


def test_a_spectrum_on_a_grid():
    psd = Spectrum((0.0, 0.5), (0.0, 1.0)).on((8, 4, 7), (0.5, 1.0, 3.0))
    assert psd.shape == (8, 4, 1)
    assert float(psd.mean()) == pytest.approx(1)
    # x: k / (2 * 8 * 0.5 mm); a straight line up to 0.5 per mm, level beyond.
    assert float(psd[0, 0, 0]) == 0
    assert float(psd[2, 0, 0] / psd[1, 0, 0]) == pytest.approx(2)
    assert float(psd[4, 0, 0] / psd[1, 0, 0]) == pytest.approx(4)  # 0.5 per mm is reached here
    assert float(psd[4, 0, 0]) == pytest.approx(float(psd[7, 3, 0]))
    assert float(psd[2, 0, 0]) == pytest.approx(float(psd[0, 2, 0]))


@pytest.mark.parametrize(
    ("per_mm", "power", "along_z"),
    [
        ((0.0, 0.0), (1.0, 1.0), 0.0),
        ((0.0,), (1.0, 1.0), 0.0),
        ((0.0, 1.0), (1.0, -1.0), 0.0),
        ((0.0, 1.0), (0.0, 0.0), 0.0),
        ((0.0, 1.0), (1.0, math.nan), 0.0),
        ((0.0, 1.0), (1.0, 1.0), 0.6),
    ],
)
def test_what_is_no_spectrum(per_mm, power, along_z):
    with pytest.raises(InputError):
        Spectrum(per_mm, power, along_z)


@pytest.mark.parametrize("share", [1.0, 0.8])
def test_topped_up_noise_is_white_up_to_its_share(share: float):
    shape = (64, 64, 24)
    psd = SOFT.on(shape, (1.5, 1.5, 2.0))
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.randn((1, 1, *shape), generator=generator) for _ in range(2))
    y, sigma = topped_up(0.3 * filtered(a, psd.sqrt()), 0.3, psd, b, share)
    assert sigma == pytest.approx(0.3 * share * float(psd.max()) ** 0.5)
    expected = torch.maximum(torch.full_like(psd, sigma**2), 0.09 * psd)
    assert float(y.var()) == pytest.approx(float(expected.mean()), rel=0.02)


def test_white_noise_needs_no_topping_up():
    y, white = torch.rand(1, 1, 4, 4, 2), torch.randn(1, 1, 4, 4, 2)
    more, sigma = topped_up(y, 0.2, torch.ones(4, 4, 1), white, share=1.0)
    torch.testing.assert_close(more, y)
    assert sigma == pytest.approx(0.2)
