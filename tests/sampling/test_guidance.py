"""Guidance against closed forms: a mixture of Gaussians, and two Gaussians of different widths."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from denovox.core.condition import Condition, condition
from denovox.core.errors import InputError
from denovox.core.labels import BODY, OUTSIDE
from denovox.core.regions import UNKNOWN_REGION
from denovox.core.schedule import Schedule
from denovox.sampling.guidance import Guidance, dropped, guided
from denovox.sampling.sampler import ddim, sample

MEANS, SD = (-0.6, 0.1, 0.5), 0.2  # of the classes, which are regions 1, 2, 3
ALWAYS = (0.0, math.inf)
CHEST = condition((1, 1, 9), (1.0, 1.0, 1.0), 2, torch.full((1, 1, 9), 5, dtype=torch.uint8))


def normal(mean: float, sd: float, sigma: float) -> torch.distributions.Normal:
    """The class at a noise level."""
    both = torch.tensor([mean, math.hypot(sd, sigma)], dtype=torch.float64)
    return torch.distributions.Normal(both[0], both[1])


def score(log_density, x: Tensor) -> Tensor:
    x = x.clone().requires_grad_()
    return torch.autograd.grad(log_density(x).sum(), x)[0]


def mixture(x: Tensor, sigma: float) -> Tensor:
    logs = torch.stack([normal(mean, SD, sigma).log_prob(x) for mean in MEANS])
    return logs.logsumexp(0) - math.log(len(MEANS))


def denoise(x: Tensor, sigma: float, told: Condition) -> Tensor:
    """E[x0 | x] of a class, or of the mixture where the region is dropped (Tweedie)."""
    out = []
    for one, region in zip(x, told.region.tolist(), strict=True):
        gain = SD**2 / (SD**2 + sigma**2)
        means = [mean + gain * (one - mean) for mean in MEANS]
        if region:
            out.append(means[region - 1])
            continue
        weights = torch.stack([normal(m, SD, sigma).log_prob(one) for m in MEANS]).softmax(0)
        out.append((weights * torch.stack(means)).sum(0))
    return torch.stack(out)


@pytest.mark.parametrize("weight", [0.0, 0.5, 1.0, 2.0, 4.0])
@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_on_a_mixture_the_score_is_that_of_the_tilted_law(weight, sigma):
    """w grad log p(x | c) + (1 - w) grad log p(x), by autograd from the densities themselves."""
    x = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 1, 1, 9)

    def log_density(x: Tensor) -> Tensor:
        own = normal(MEANS[1], SD, sigma).log_prob(x)
        return weight * own + (1 - weight) * mixture(x, sigma)

    x0 = guided(denoise, Guidance(weight, *ALWAYS))(x, sigma, CHEST)
    torch.testing.assert_close((x0 - x) / sigma**2, score(log_density, x))


@pytest.mark.parametrize("sigma", [0.05, 0.4, 3.0])
def test_by_a_weaker_model_of_the_mixture_it_is_the_tilted_law_of_both(sigma):
    """The guide knows the same means with a larger SD; densities by autograd."""
    weight, wide = 2.5, 0.5

    def law(x: Tensor, sd: float) -> Tensor:
        return torch.stack([normal(mean, sd, sigma).log_prob(x) for mean in MEANS]).logsumexp(0)

    def weaker(x: Tensor, sigma: float, told: Condition) -> Tensor:
        gain = wide**2 / (wide**2 + sigma**2)
        shares = torch.stack([normal(m, wide, sigma).log_prob(x) for m in MEANS]).softmax(0)
        means = torch.stack([m + gain * (x - m) for m in MEANS])
        return (shares * means).sum(0)

    x = torch.linspace(-2, 2, 9, dtype=torch.float64).view(1, 1, 1, 1, 9)
    x0 = guided(denoise, Guidance(weight, *ALWAYS), weaker)(x, sigma, dropped(CHEST))
    expected = score(lambda x: weight * law(x, SD) + (1 - weight) * law(x, wide), x)
    torch.testing.assert_close((x0 - x) / sigma**2, expected)


def test_by_a_wider_guide_samples_are_as_narrow_as_the_closed_form_says():
    """The ODE's solution: x - m grows as (s^2 + sigma^2)^(w/2) (g^2 + sigma^2)^((1-w)/2)."""
    weight, narrow, wide, mean = 1.7, 0.2, 0.5, 0.3

    def of(sd: float):
        return lambda x, sigma, told: mean + sd**2 / (sd**2 + sigma**2) * (x - mean)

    def scale(sigma: float) -> float:
        return math.hypot(narrow, sigma) ** weight * math.hypot(wide, sigma) ** (1 - weight)

    run = guided(of(narrow), Guidance(weight, *ALWAYS), of(wide))
    sigmas = Schedule().descend(2000, start=80.0, stop=1e-3)
    x = torch.full((1, 1, 1, 1, 9), mean + 80.0, dtype=torch.float64)
    got = sample(lambda x, s: run(x, s, CHEST), x, sigmas, fresh=ddim, order=2, noise=lambda k: x)
    got = got.mean()
    assert float(got) - mean == pytest.approx(80 * scale(0) / scale(80), rel=2e-3)
    assert float(got) - mean < narrow  # narrower than without guidance


def test_both_are_asked_in_one_batch_of_two_and_only_within_the_interval():
    asked = []

    def watch(x: Tensor, sigma: float, told: Condition) -> Tensor:
        asked.append((len(x), sigma, told.region.tolist(), told.anatomy.flatten(1).sum(1).tolist()))
        return denoise(x, sigma, told)

    run, x = guided(watch, Guidance(2.0, 0.2, 20.0)), torch.ones(1, 1, 1, 1, 9)
    for sigma in (30.0, 20.0, 1.0, 0.2, 0.1):
        run(x, sigma, CHEST)
    assert asked == [
        (1, 30.0, [2], [45]),
        (2, 20.0, [2, 0], [45, 0]),
        (2, 1.0, [2, 0], [45, 0]),
        (2, 0.2, [2, 0], [45, 0]),
        (1, 0.1, [2], [45]),
    ]


def test_a_weight_of_1_changes_nothing_and_costs_nothing():
    calls = []

    def watch(x: Tensor, sigma: float, told: Condition) -> Tensor:
        calls.append(len(x))
        return denoise(x, sigma, told)

    x = torch.randn(3, 1, 1, 1, 9)
    told = Condition(
        CHEST.region.repeat(3),
        CHEST.anatomy.repeat(3, 1, 1, 1),
        *(each.repeat(3, 1) for each in CHEST.position),
        CHEST.spacing_mm.repeat(3, 1),
    )
    assert torch.equal(guided(watch, Guidance(1.0))(x, 1.0, told), denoise(x, 1.0, told))
    assert calls == [3]
    two = guided(denoise, Guidance(2.0))(x, 1.0, told)  # tiles in batches: the halves match
    for k in range(3):
        one = guided(denoise, Guidance(2.0))(x[k : k + 1], 1.0, CHEST)
        torch.testing.assert_close(two[k : k + 1], one)


def test_position_spacing_and_control_are_not_dropped():
    control = torch.ones(1, 1, 1, 1, 9)
    told = dropped(
        Condition(CHEST.region, CHEST.anatomy, *CHEST.position, CHEST.spacing_mm, control)
    )
    assert told.region.tolist() == [0]
    assert not told.anatomy.any()
    assert told.position_z is CHEST.position_z
    assert told.spacing_mm is CHEST.spacing_mm
    assert told.control is control


@pytest.mark.parametrize("bad", [(-1.0,), (math.inf,), (math.nan,), (2.0, 3.0, 1.0)])
def test_impossible_guidance_is_refused(bad):
    with pytest.raises(InputError, match=r"not possible|empty interval"):
        Guidance(*bad)


def test_the_air_around_a_body_is_not_guided() -> None:
    anatomy = torch.full((4, 4, 4), BODY, dtype=torch.uint8)
    anatomy[:2] = OUTSIDE
    told = condition((4, 4, 4), (1.0, 1.0, 1.0), 2, anatomy)

    def denoise(x: torch.Tensor, sigma: float, condition: Condition) -> torch.Tensor:
        return x * (condition.region != UNKNOWN_REGION).float().view(-1, 1, 1, 1, 1)

    x = torch.rand(1, 1, 4, 4, 4)
    x0 = guided(denoise, Guidance(3.0, *ALWAYS))(x, 1.0, told)
    torch.testing.assert_close(x0[:, :, :2], x[:, :, :2])
    torch.testing.assert_close(x0[:, :, 2:], 3 * x[:, :, 2:])
