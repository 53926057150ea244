"""x0 from the network's answer, for each thing a network may predict."""

import math

import pytest
import torch

from denovox.core.condition import condition
from denovox.core.schedule import Schedule
from denovox.model.denoiser import coefficients, denoiser

SHAPE = (4, 4, 4)


@pytest.mark.parametrize("sigma", [0.05, 1.0, 30.0])
@pytest.mark.parametrize("prediction", ["noise", "v"])
def test_a_perfect_answer_gives_x0(prediction, sigma):
    x0, noise = torch.randn(2, 1, 1, *SHAPE, dtype=torch.float64)
    x = x0 + sigma * noise
    # v in VP coordinates: sqrt(abar) * noise - sqrt(1 - abar) * x0 (Salimans and Ho 2022).
    abar = 1 / (1 + sigma**2)
    perfect = noise if prediction == "noise" else abar**0.5 * noise - (1 - abar) ** 0.5 * x0

    def net(seen, sigmas, t, told):
        return perfect

    got = denoiser(net, Schedule(), prediction)(x, sigma, condition(SHAPE, (1, 1, 1)))
    torch.testing.assert_close(got, x0, rtol=1e-9, atol=1e-9 * sigma)


def test_the_network_is_told_sigma_and_its_timestep():
    told = {}

    def net(seen, sigmas, t, condition):
        told.update(sigma=sigmas, t=t)
        return torch.zeros_like(seen)

    schedule = Schedule()
    x = torch.zeros(3, 1, *SHAPE)
    denoiser(net, schedule, "noise")(x, float(schedule.sigmas[400]), condition(SHAPE, (1, 1, 1)))
    assert told["t"].tolist() == pytest.approx([400] * 3, abs=1e-3)
    assert told["sigma"].tolist() == pytest.approx([float(schedule.sigmas[400])] * 3)


def test_v_is_the_preconditioning_of_unit_variance():
    sigma = torch.tensor([0.3], dtype=torch.float64)
    c_skip, c_out = coefficients("v", sigma)
    assert float(c_skip) == pytest.approx(1 / (1 + 0.09))  # Karras et al. 2022, table 1
    assert abs(float(c_out)) == pytest.approx(0.3 / math.sqrt(1.09))


def test_bfloat16_rounds_and_no_more():
    from denovox.model.presets import PRESETS
    from denovox.model.weights import ModelConfig

    torch.manual_seed(0)
    net = ModelConfig(net=PRESETS["tiny"]).build().eval().requires_grad_(False)
    for parameter in net.parameters():
        if not parameter.any():
            parameter.normal_(std=0.05)
    x, told = torch.randn(1, 1, 8, 8, 8), condition((8, 8, 8), (1.0, 1.0, 1.0), 1)
    full, half = (denoiser(net, Schedule(), "noise", b)(x, 0.5, told) for b in (False, True))
    assert half.dtype == torch.float32
    assert 0 < (full - half).abs().max() < 0.05 * (full - x).abs().max()
