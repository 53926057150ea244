"""The one training loop: pre-training and every tuning go through it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import Parameter

from ..data.levels import Sample
from . import checkpoint
from .config import TrainConfig
from .ema import Ema
from .loss import Predict

Draw = Callable[[int], Sample]


@dataclass(frozen=True)
class Progress:
    """Where a run stands. loss: mean of the step; validation: when this step measured it; best:
    the lowest so far, and its step."""

    step: int
    loss: float
    lr: float
    seconds: float
    validation: float | None
    average: dict[str, Tensor]
    best: tuple[float, int] = (math.inf, 0)


def learning_rate(step: int, config: TrainConfig) -> float:
    """Linear warm-up, constant, then a cosine down to zero over the last `decay` of the steps."""
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    tail = config.decay * config.steps
    left = config.steps - step
    fall = 0.5 * (1 - math.cos(math.pi * left / tail)) if left < tail else 1.0
    return config.lr * rise * fall


def train(
    predict: Predict,
    parameters: dict[str, Parameter],
    draw: Draw,
    config: TrainConfig,
    folder: Path,
    validate: Callable[[], float] | None = None,
    max_minutes: float = math.inf,
) -> Generator[Progress, None, None]:
    """Train `parameters` in place; one Progress a step; continues where `folder` left off.

    draw: n -> sample n; step k uses samples k*batch*accumulate onwards, so a run that was stopped
    anywhere and resumed equals one that was not, bit for bit on a CPU. validate: measured with the
    averaged weights; with `config.patience` it ends the run early. The state is saved every
    `checkpoint_minutes`, at the end, and when the consumer stops early.
    """
    ema = Ema(parameters, config.ema)
    optimizer = torch.optim.AdamW(
        parameters.values(), lr=config.lr, weight_decay=config.weight_decay
    )
    first, best = _resume(folder, parameters, ema, optimizer)
    started = saved = time.monotonic()
    step = first

    def save() -> None:
        _save(folder, step, best, parameters, ema, optimizer)

    def ended() -> bool:
        waited = (step - best[1]) // config.validate_every if validate else 0
        return step >= config.steps or 0 < config.patience <= waited

    try:
        while not ended() and time.monotonic() - started < 60 * max_minutes:
            rate = learning_rate(step, config)
            for group in optimizer.param_groups:
                group["lr"] = rate
            optimizer.zero_grad(set_to_none=True)
            total = 0.0
            for part in range(config.accumulate):
                begin = (step * config.accumulate + part) * config.batch
                losses = predict([draw(begin + i) for i in range(config.batch)])
                loss = losses.mean() / config.accumulate
                torch.autograd.backward(loss)
                total += float(loss.detach())
            torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
            optimizer.step()
            ema.update(step)
            step += 1
            measured = None
            if validate and (step % config.validate_every == 0 or step == config.steps):
                with ema.applied():
                    measured = validate()
                best = min(best, (measured, step))
            passed = time.monotonic() - started
            yield Progress(step, total, rate, passed, measured, ema.average, best)
            # After the consumer has kept what it was told: what is saved here is not told again.
            if time.monotonic() - saved > 60 * config.checkpoint_minutes:
                save()
                saved = time.monotonic()
    except GeneratorExit:  # only ever raised between steps, where the state is whole
        save()
        raise
    if step > first:
        save()


def _save(
    folder: Path,
    step: int,
    best: tuple[float, int],
    parameters: dict[str, Parameter],
    ema: Ema,
    optimizer: torch.optim.Optimizer,
) -> None:
    state = {
        "step": step,
        "best": best,
        "parameters": {name: p.detach() for name, p in parameters.items()},
        "average": ema.average,
        "optimizer": optimizer.state_dict(),
    }
    checkpoint.save(folder, state)


def _resume(
    folder: Path,
    parameters: dict[str, Parameter],
    ema: Ema,
    optimizer: torch.optim.Optimizer,
) -> tuple[int, tuple[float, int]]:
    state = checkpoint.load(folder)
    if state is None:
        return 0, (math.inf, 0)
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(state["parameters"][name])
            ema.average[name].copy_(state["average"][name])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), state.get("best", (math.inf, 0))
