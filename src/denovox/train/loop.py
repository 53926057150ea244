"""The one training loop: pre-training and every tuning go through it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

from torch import Tensor, nn
from torch.nn import Parameter

from ..core.errors import InputError, line
from ..datasets.samples.batch import Draw
from .budget import Budget
from .config import TrainConfig
from .distributed import ALONE, Group
from .loss import Predict
from .prefetch import ahead, patiently
from .run_state import RunState
from .step import Stepper


@dataclass(frozen=True)
class Session:
    """How long a run goes on now, with whom, and who is told.

    net: what `predict` asks, as `group.distributed` gave it. stopped: whether the user has had
    enough; looked at between steps, and one process's word counts for all. began: when the command
    did (`time.monotonic`), from which a run of `TrainConfig.minutes` counts; 0: now.
    """

    max_minutes: float = math.inf
    stopped: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda text: None
    group: Group = ALONE
    net: nn.Module | None = None
    began: float = 0.0


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step.

    loss: mean of the step's samples, NaN where it was skipped; on a GPU of the step before, as
    nobody waits for this one. skipped: how many were, so far. steps: of the run, 0 if not fixed.
    seconds, waited: since this session began, and of them spent waiting for samples. validation:
    when this step measured it; best: the lowest so far, and its step. saves: whether the state is
    saved as soon as the consumer asks for the next step.
    """

    step: int
    loss: float
    lr: float
    seconds: float
    validation: float | None
    averages: Callable[[], dict[str, Tensor]] = field(repr=False)
    best: tuple[float, int] = (math.inf, 0)
    waited: float = 0.0
    skipped: int = 0
    saves: bool = False
    steps: int = 0

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights as they are now; all processes of a group ask together."""
        return self.averages()


def learning_rate(step: int, config: TrainConfig, steps: int) -> float:
    """Linear warm-up, constant, then a cosine down to zero over the last `decay` of `steps`.

    steps: of the whole run, or the most that it may have; 0: not known, and the fall is not near.
    """
    rise = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    tail, left = config.decay * steps, steps - step
    fall = 0.5 * (1 - math.cos(math.pi * left / tail)) if steps and left < tail else 1.0
    return config.lr * rise * fall


def train(
    predict: Predict,
    parameters: dict[str, Parameter],
    draw: Draw,
    config: TrainConfig,
    folder: Path,
    validate: Callable[[], float] | None = None,
    session: Session | None = None,
) -> Generator[Progress, None, None]:
    """Train `parameters` in place; one Progress a step; continues where `folder` left off.

    draw: numbers -> those samples; step k learns from samples k * config.samples onwards, whatever
    the number of processes, so a run that was stopped anywhere and resumed equals one that was not,
    bit for bit on a CPU. validate: measured with the averaged weights, by all processes together;
    with `config.patience` it ends the run early. The state is saved every `checkpoint_minutes`, at
    the end, when the session ends, and when the consumer of a process alone stops early.

    A step whose loss or gradient is not finite changes nothing but the count of such steps; its
    samples are written to `folder`/skipped.csv. `InputError` after `max_skipped` in a row, where
    the store stays away, or where the state cannot be written at the end.
    """
    session = session or Session()
    group, say = session.group, session.say
    if config.samples < group.count:
        raise InputError(
            f"{group.count} processes cannot share {config.samples} samples a step: start fewer,"
            " or raise train.samples"
        )
    began = saved = time.monotonic()
    state = RunState(parameters, config)
    said = state.resume(folder)
    if said and group.main:
        say(said)
    if group.count > 1 and group.told(state.step) != state.step:
        raise InputError(f"{folder} must be one folder for all processes, as on a shared disk")
    stepper = Stepper(predict, state, config, folder, group, session.net, say)
    budget = Budget(config, state, validate, session.began or began, group)
    drawn = ahead(
        patiently(draw, config.wait_minutes, say, session.stopped),
        budget.numbers(stepper.parts),
        config.workers,
    )
    kept = state.step  # the step of the state on disk

    def ended() -> bool:
        late = time.monotonic() - began >= 60 * session.max_minutes or budget.is_over()
        behind = (state.step - state.best[1]) // config.validate_every if validate else 0
        over = state.step >= (budget.most or math.inf) or 0 < config.patience <= behind
        return group.any(over or late or session.stopped())

    def save(finally_: bool) -> None:
        nonlocal kept
        stepper.settle()
        if kept == state.step:
            return
        try:
            state.save(folder, group)
            kept = state.step
        except OSError as error:
            told = f"the state after step {state.step} could not be written ({line(error)})"
            if finally_:
                raise InputError(
                    f"{told}; make room and run the same command: it goes on from the last one"
                ) from None
            say(f"{told}; the last one stays, and the next try is in a while")

    try:
        while not ended():
            rate = learning_rate(state.step, config, budget.most)
            stepper.learn(drawn, rate)
            if fixed := budget.after_step(stepper.settle, stepper.is_tuned):
                say(fixed)
            measured = None
            last = state.step == budget.most
            if last or (validate and state.step % config.validate_every == 0):
                stepper.settle()
            if validate and (last or state.step % config.validate_every == 0):
                with state.ema.applied():
                    measured = validate()
                state.best = min(state.best, (measured, state.step))
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            saves = group.any(group.main and due)
            yield Progress(
                state.step,
                stepper.loss,
                rate,
                time.monotonic() - began,
                measured,
                state.averages,
                state.best,
                stepper.waited,
                state.skipped,
                saves,
                state.steps,
            )
            # After the consumer has kept what it was told: what is saved here is not told again.
            if saves:
                save(finally_=False)
                saved = time.monotonic()
    except (GeneratorExit, InputError):  # only between steps, where the state is whole
        if group.count == 1:
            save(finally_=False)
        raise
    finally:
        drawn.close()
    save(finally_=True)
