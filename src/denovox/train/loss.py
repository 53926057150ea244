"""The loss of a batch of samples: how far the network's answer is from the truth (Method 1).

And where a run's loss comes from: by level of Method 1, and by how much noise there was.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from scipy.special import ndtri
from torch import Tensor

from ..core.schedule import Schedule
from ..datasets.samples.batch import Batch
from ..model.denoiser import Answer, Prediction, answer, coefficients, use_bfloat16
from ..model.weights import ModelConfig
from .config import NoiseConfig, TrainConfig
from .distill import Teacher

Predict = Callable[[Batch], Float[Tensor, " b"]]

LEVELS = ("whole", "double", "crop")  # of Method 1, by Batch.level
BANDS = (0.1, 0.5, 2.0)  # sigma, in model units: the edges between
BAND_NAMES = ("sigma<.1", "sigma .1-.5", "sigma .5-2", "sigma>2")


def noise_level(u: float, law: NoiseConfig, schedule: Schedule) -> float:
    """The sigma at quantile u of the law."""
    if law.law == "uniform":
        return schedule.sigma(u * (schedule.steps - 1))
    inner = min(max(u, 1e-5), 1 - 1e-5)
    return math.exp(law.mean + law.deviation * float(ndtri(inner)))


def level_of(
    model: ModelConfig, config: TrainConfig, teacher: Teacher | None
) -> Callable[[float], float]:
    """The uniform number of a sample -> the sigma that it is trained at."""
    if teacher is not None:
        return teacher.sigma
    return partial(noise_level, law=config.noise, schedule=model.noise_schedule)


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
    level = level_of(model, config, teacher)
    bfloat16 = use_bfloat16(config.precision, device)

    def predict(samples: Batch) -> Float[Tensor, " b"]:
        x0, noise = (of.to(device, non_blocking=True) for of in (samples.x0, samples.noise))
        sigma = torch.tensor([level(u) for u in samples.u.tolist()])
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

    def __init__(self, sigma: Callable[[float], float]) -> None:
        """sigma: as `level_of` returns it."""
        self._sigma = sigma
        self._entries: list[tuple[tuple[int, ...], np.ndarray, Tensor]] = []

    def watched(self, predict: Predict) -> Predict:
        """`predict`, with every loss that is trained on recorded, and those of validation not."""

        def recorded(samples: Batch) -> Tensor:
            losses = predict(samples)
            if torch.is_grad_enabled():
                self._entries.append((samples.level, samples.u, losses.detach()))
            return losses

        return recorded

    def close(self) -> dict[str, float]:
        """The mean of each level and band that had a sample; empties the ledger."""
        sums: dict[str, list[float]] = {}
        # One transfer for all: a GPU is not waited for once a sample.
        losses = torch.cat([loss for _, _, loss in self._entries]).tolist() if self._entries else []
        levels = [level for of, _, _ in self._entries for level in of]
        us = [u for _, of, _ in self._entries for u in of.tolist()]
        for level, u, loss in zip(levels, us, losses, strict=True):
            band = BAND_NAMES[sum(self._sigma(u) >= edge for edge in BANDS)]
            for name in (LEVELS[level], band):
                sums.setdefault(name, []).append(loss)
        self._entries.clear()
        return {
            name: sum(sums[name]) / len(sums[name])
            for name in (*LEVELS, *BAND_NAMES)
            if name in sums
        }
