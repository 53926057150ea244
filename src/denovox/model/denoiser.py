"""A network made into a denoiser: (x, sigma, condition) -> x0 (METHOD 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.condition import Condition
from ..core.schedule import Schedule
from .net import Net

Prediction = Literal["noise", "v"]
Denoiser = Callable[[Tensor, float, Condition], Tensor]


def coefficients(prediction: Prediction, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(c_skip, c_out) of x0 = c_skip * x + c_out * net(x).

    noise: net = (x - x0) / sigma (Ho et al. 2020; the paper's). v: net = (noise - sigma * x0) /
    sqrt(1 + sigma^2), Salimans and Ho 2022, which is Karras et al. 2022's preconditioning for data
    of variance 1.
    """
    if prediction == "noise":
        return torch.ones_like(sigma), -sigma
    return 1 / (1 + sigma**2), -sigma * torch.rsqrt(1 + sigma**2)


def answer(
    net: Net, schedule: Schedule, x: Tensor, sigma: Float[Tensor, " b"], condition: Condition
) -> Tensor:
    """The network's raw answer at each sample's own sigma."""
    t = torch.tensor([schedule.timestep(s) for s in sigma.tolist()], device=x.device)
    return net(x, sigma, t.to(sigma.dtype), condition)


def denoiser(net: Net, schedule: Schedule, prediction: Prediction) -> Denoiser:
    """`net` as a function of x (b 1 x y z, model units), one sigma for all, and a condition."""

    def denoise(x: Tensor, sigma: float, condition: Condition) -> Tensor:
        sigmas = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
        c_skip, c_out = (c.view(-1, 1, 1, 1, 1) for c in coefficients(prediction, sigmas))
        return c_skip * x + c_out * answer(net, schedule, x, sigmas, condition)

    return denoise
