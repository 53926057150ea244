"""The loss of a batch of samples: how far the network's answer is from the truth (Method 1).

And where a run's loss comes from: by level of Method 1, and by how much noise there was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Literal

import torch
from jaxtyping import Float
from scipy.special import ndtr, ndtri
from torch import Tensor

from ..core.schedule import Schedule
from ..datasets.samples.batch import Batch
from ..model.denoiser import Answer, Prediction, answer, coefficients, use_bfloat16
from ..model.weights import ModelConfig
from .config import NoiseConfig, TrainConfig
from .distill import Teacher

Predict = Callable[[Batch], Float[Tensor, " b"]]
NoiseLevels = Callable[[Batch], list[float]]  # samples -> the sigma that each is trained at

LEVELS = ("whole", "double", "crop")  # of Method 1, by Batch.level
BANDS = (0.1, 0.5, 2.0)  # sigma, in model units: the edges between
BAND_NAMES = ("sigma<.1", "sigma .1-.5", "sigma .5-2", "sigma>2")


def noise_level(u: float, law: NoiseConfig, schedule: Schedule, floor: float = 0.0) -> float:
    """The sigma at quantile u of the law, or of the part of it above `floor`."""
    if floor:
        below = share_below(floor, law, schedule)
        u = below + (1 - below) * u
    if law.law == "uniform":
        return schedule.sigma(u * (schedule.steps - 1))
    inner = min(max(u, 1e-5), 1 - 1e-5)
    return math.exp(law.mean + law.deviation * float(ndtri(inner)))


def share_below(sigma: float, law: NoiseConfig, schedule: Schedule) -> float:
    """The share of the law's noise levels that lie below sigma: the inverse of `noise_level`."""
    if law.law == "uniform":
        return schedule.timestep(sigma) / (schedule.steps - 1)
    return float(ndtr((math.log(sigma) - law.mean) / law.deviation))


def noise_levels(model: ModelConfig, config: TrainConfig, teacher: Teacher | None) -> NoiseLevels:
    """The noise levels of a run: a teacher's, or those of `config.noise` above samples' floors."""
    law, schedule = config.noise, model.noise_schedule

    def levels(samples: Batch) -> list[float]:
        us = samples.u.tolist()
        if teacher is not None:
            return [teacher.sigma(u) for u in us]
        each = zip(us, samples.noise_floor, strict=True)
        return [noise_level(u, law, schedule, floor) for u, floor in each]

    return levels


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


def predictor(
    net: Answer,
    model: ModelConfig,
    config: TrainConfig,
    device: str = "cpu",
    teacher: Teacher | None = None,
) -> Predict:
    """samples -> loss of each: L1 or L2 between the network's answer and what x0 asks of it.

    teacher: whose targets take the place of x0, at its own noise levels.
    """
    schedule = model.noise_schedule
    levels = noise_levels(model, config, teacher)
    bfloat16 = use_bfloat16(config.precision, device)

    def predict(samples: Batch) -> Float[Tensor, " b"]:
        x0, noise = (of.to(device, non_blocking=True) for of in (samples.x0, samples.noise))
        sigma = torch.tensor(levels(samples))
        sigma = sigma.to(device, non_blocking=True)
        each = sigma.view(-1, 1, 1, 1, 1)
        begun = x0 if samples.start is None else samples.start.to(device, non_blocking=True)
        x = begun + each * noise
        c_skip, c_out = coefficients(model.prediction, each)
        condition = samples.condition.to(device)
        if teacher is not None:
            x0 = teacher.targets(x, samples.u, condition)
        with torch.autocast(x.device.type, torch.bfloat16, enabled=bfloat16):
            output = answer(net, schedule, x, sigma, condition)
        error = output.float() - (x0 - c_skip * x) / c_out
        size = error.abs() if config.loss == "l1" else error**2
        loss = size.mean((1, 2, 3, 4))
        if samples.weight is not None:  # a weighted mean: a crop within a lesion is one crop
            weight = samples.weight.to(device, non_blocking=True)
            loss = (size * weight).mean((1, 2, 3, 4)) / weight.mean((1, 2, 3, 4))
        if config.min_snr:
            loss = loss * min_snr_weight(model.prediction, sigma, config.min_snr)
        return loss

    return predict


class Ledger:
    """This process's losses since `close` was last called, by level and by noise."""

    def __init__(self, noise_levels: NoiseLevels) -> None:
        """noise_levels: as the function `noise_levels` returns them."""
        self._noise_levels = noise_levels
        self._entries: list[tuple[tuple[int, ...], list[float], Tensor]] = []

    def watched(self, predict: Predict) -> Predict:
        """`predict`, with every loss that is trained on recorded, and those of validation not."""

        def recorded(samples: Batch) -> Tensor:
            losses = predict(samples)
            if torch.is_grad_enabled():
                entry = (samples.level, self._noise_levels(samples), losses.detach())
                self._entries.append(entry)
            return losses

        return recorded

    def close(self) -> dict[str, float]:
        """The mean of each level and band that had a sample; empties the ledger."""
        sums: dict[str, list[float]] = {}
        # One transfer for all: a GPU is not waited for once a sample.
        losses = torch.cat([loss for _, _, loss in self._entries]).tolist() if self._entries else []
        levels = [level for of, _, _ in self._entries for level in of]
        sigmas = [sigma for _, of, _ in self._entries for sigma in of]
        for level, sigma, loss in zip(levels, sigmas, losses, strict=True):
            band = BAND_NAMES[sum(sigma >= edge for edge in BANDS)]
            for name in (LEVELS[level], band):
                sums.setdefault(name, []).append(loss)
        self._entries.clear()
        return {
            name: sum(sums[name]) / len(sums[name])
            for name in (*LEVELS, *BAND_NAMES)
            if name in sums
        }
