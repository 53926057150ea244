"""The loss of a batch of samples: how far the network's answer is from the truth (METHOD 1)."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from jaxtyping import Float
from scipy.special import ndtri
from torch import Tensor

from ..core.condition import batch
from ..core.schedule import Schedule
from ..data.levels import Sample
from ..model.denoiser import Answer, answer, coefficients, use_bfloat16
from ..model.weights import ModelConfig
from .config import NoiseConfig, TrainConfig

Predict = Callable[[list[Sample]], Float[Tensor, " b"]]


def noise_level(u: float, law: NoiseConfig, schedule: Schedule) -> float:
    """The sigma at quantile u of the law."""
    if law.law == "uniform":
        return schedule.sigma(u * (schedule.steps - 1))
    inner = min(max(u, 1e-5), 1 - 1e-5)
    return math.exp(law.mean + law.deviation * float(ndtri(inner)))


def predictor(net: Answer, model: ModelConfig, config: TrainConfig, device: str = "cpu") -> Predict:
    """samples -> loss of each: L1 or L2 between the network's answer and what x0 asks of it."""
    schedule = model.noise_schedule
    bfloat16 = use_bfloat16(config.precision, device)

    def predict(samples: list[Sample]) -> Float[Tensor, " b"]:
        x0 = torch.cat([s.x0 for s in samples]).to(device)
        noise = torch.cat([s.noise for s in samples]).to(device)
        levels = [noise_level(s.u, config.noise, schedule) for s in samples]
        sigma = torch.tensor(levels, device=device)
        each = sigma.view(-1, 1, 1, 1, 1)
        begun = torch.cat([s.x0 if s.start is None else s.start for s in samples]).to(device)
        x = begun + each * noise
        c_skip, c_out = coefficients(model.prediction, each)
        told = batch([s.condition for s in samples]).to(device)
        with torch.autocast(device, torch.bfloat16, enabled=bfloat16):
            said = answer(net, schedule, x, sigma, told)
        error = said.float() - (x0 - c_skip * x) / c_out
        size = error.abs() if config.loss == "l1" else error**2
        weights = [s.weight for s in samples if s.weight is not None]
        if weights:  # all samples of a run have one, or none has
            size = size * torch.cat(weights).to(device)
        return size.mean((1, 2, 3, 4))

    return predict
