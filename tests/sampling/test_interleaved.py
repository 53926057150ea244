"""White from coloured: the condition of a phase, and topping up fills the spectrum."""

from __future__ import annotations

import pytest
import torch

from denovox.core.condition import condition
from denovox.core.operators.coloured_noise import Spectrum, filtered
from denovox.sampling.interleaved import phase, topped_up

SOFT = Spectrum((0.0, 0.1, 0.2, 0.35), (0.05, 1.0, 0.4, 0.0))


def test_the_condition_of_a_phase():
    anatomy = torch.arange(7 * 6 * 3, dtype=torch.uint8).reshape(7, 6, 3)
    told = condition((7, 6, 3), (0.8, 0.9, 3.0), 2, anatomy)
    part = phase(told, 1, 0)
    torch.testing.assert_close(part.spacing_mm, torch.tensor([[1.6, 1.8, 3.0]]))
    assert torch.equal(part.anatomy[0], anatomy[1::2, 0::2])
    assert torch.equal(part.position_x, told.position_x[:, 1::2])
    assert torch.equal(part.position_y, told.position_y[:, 0::2])
    assert torch.equal(part.position_z, told.position_z)


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
