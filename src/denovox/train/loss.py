"""The loss of a batch of samples: how far the network's answer is from the truth (METHOD 1)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from scipy.special import ndtri
from torch import Tensor

from ..core.condition import batch
from ..core.schedule import Schedule
from ..data.levels import Sample
from ..model.denoiser import Answer, Prediction, answer, coefficients, use_bfloat16
from ..model.weights import ModelConfig
from .config import NoiseConfig, TrainConfig

Predict = Callable[[list[Sample]], Float[Tensor, " b"]]


def noise_level(u: float, law: NoiseConfig, schedule: Schedule) -> float:
    """The sigma at quantile u of the law."""
    if law.law == "uniform":
        return schedule.sigma(u * (schedule.steps - 1))
    inner = min(max(u, 1e-5), 1 - 1e-5)
    return math.exp(law.mean + law.deviation * float(ndtri(inner)))


def sigmas_of(samples: list[Sample], law: NoiseConfig, schedule: Schedule) -> Float[Tensor, " b"]:
    """The noise level that each sample is trained at: of the losses of `predictor`, in order."""
    return torch.tensor([noise_level(s.u, law, schedule) for s in samples])


def min_snr_weight(
    prediction: Prediction | Literal["x0"], sigma: Float[Tensor, " *b"], gamma: float
) -> Float[Tensor, " *b"]:
    """Weight of the squared error of an answer (Hang et al. 2023, section 3.4); SNR = 1/sigma^2.

    Whatever is predicted, the squared error of x0 is weighted by min(SNR, gamma): an answer that is
    c_out times as wrong as x0 takes that times c_out^2, which is 1/SNR for noise and 1/(SNR + 1)
    for v.
    """
    snr = sigma**-2
    part = {"x0": torch.ones_like(snr), "noise": snr, "v": snr + 1}[prediction]
    return snr.clamp(max=gamma) / part


def predictor(net: Answer, model: ModelConfig, config: TrainConfig, device: str = "cpu") -> Predict:
    """samples -> loss of each: L1 or L2 between the network's answer and what x0 asks of it."""
    schedule = model.noise_schedule
    bfloat16 = use_bfloat16(config.precision, device)

    def predict(samples: list[Sample]) -> Float[Tensor, " b"]:
        x0 = torch.cat([s.x0 for s in samples]).to(device)
        noise = torch.cat([s.noise for s in samples]).to(device)
        sigma = sigmas_of(samples, config.noise, schedule).to(device)
        each = sigma.view(-1, 1, 1, 1, 1)
        begun = torch.cat([s.x0 if s.start is None else s.start for s in samples]).to(device)
        x = begun + each * noise
        c_skip, c_out = coefficients(model.prediction, each)
        told = batch([s.condition for s in samples]).to(device)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            said = answer(net, schedule, x, sigma, told)
        error = said.float() - (x0 - c_skip * x) / c_out
        size = error.abs() if config.loss == "l1" else error**2
        weights = [s.weight for s in samples if s.weight is not None]
        if weights:  # all samples of a run have one, or none has
            size = size * torch.cat(weights).to(device)
        loss = size.mean((1, 2, 3, 4))
        if config.min_snr:
            loss = loss * min_snr_weight(model.prediction, sigma, config.min_snr)
        return loss

    return predict
