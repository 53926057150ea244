"""A network as a denoiser: (x, sigma, condition) -> x0 (Method 2)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.condition import Condition
from ..core.schedule import Schedule

Prediction = Literal["noise", "v"]
Precision = Literal["float32", "bfloat16", "auto"]
Denoiser = Callable[[Tensor, float, Condition], Tensor]
Answer = Callable[[Tensor, Tensor, Tensor, Condition], Tensor]  # a Net: (x, sigma, t, condition)


def coefficients(prediction: Prediction, sigma: Tensor) -> tuple[Tensor, Tensor]:
    """(c_skip, c_out) of x0 = c_skip * x + c_out * net(x).

    noise: net = (x - x0) / sigma (Ho et al. 2020; as in the paper). v: net = (noise - sigma * x0) /
    sqrt(1 + sigma^2), Salimans and Ho 2022, which is Karras et al. 2022's preconditioning for data
    of variance 1.
    """
    if prediction == "noise":
        return torch.ones_like(sigma), -sigma
    return 1 / (1 + sigma**2), -sigma * torch.rsqrt(1 + sigma**2)


def answer(
    net: Answer, schedule: Schedule, x: Tensor, sigma: Float[Tensor, " b"], condition: Condition
) -> Tensor:
    """The network's raw output at each sample's own sigma."""
    return net(x, sigma, schedule.timesteps(sigma).to(sigma.dtype), condition)


def denoiser(
    net: Answer, schedule: Schedule, prediction: Prediction, bfloat16: bool = False
) -> Denoiser:
    """`net` as a function of x (b 1 x y z, model units), one sigma for all, and a condition.

    bfloat16: the network computes in it; x, sigma and the result keep their dtype.
    """

    def denoise(x: Tensor, sigma: float, condition: Condition) -> Tensor:
        sigmas = torch.full((len(x),), sigma, dtype=x.dtype, device=x.device)
        c_skip, c_out = (c.view(-1, 1, 1, 1, 1) for c in coefficients(prediction, sigmas))
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            output = answer(net, schedule, x, sigmas, condition)
        return c_skip * x + c_out * output.to(x.dtype)

    return denoise


def use_bfloat16(precision: Precision, device: str) -> bool:
    """Whether to compute in bfloat16; "auto": if the hardware supports it natively.

    Emulated, on a CPU without AVX512-BF16 or AMX, it is several times slower than float32.
    """
    if precision != "auto":
        return precision == "bfloat16"
    if device == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())
    return torch.cuda.is_bf16_supported(including_emulation=False)
