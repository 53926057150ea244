"""The training loop, shared by pre-training and all fine-tuning."""

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
from .config import TrainConfig
from .cost.budget import Budget
from .distributed import ALONE, Group
from .loss import Predict
from .prefetch import prefetch, with_retries
from .run_state import RunState
from .step import Stepper


@dataclass(frozen=True)
class Session:
    """How long to train in this session, with which processes, and who is notified.

    net: the module behind `predict`, as returned by `distributed`. stopped: whether the user asked
    to stop; checked between steps, and one process is enough to stop all. began: when the command
    started (`time.monotonic`), from which `TrainConfig.minutes` count; 0: now.
    """

    max_minutes: float = math.inf
    stopped: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda text: None
    group: Group = ALONE
    net: nn.Module | None = None
    began: float = 0.0


@dataclass(frozen=True)
class Progress:
    """The state of a run after a step.

    loss: mean over the step's samples, NaN if it was skipped; on a GPU it lags one step, to avoid a
    synchronisation. skipped: number of skipped steps so far. steps: of the run, 0 if not fixed yet.
    seconds, waited: since this session began, and the part spent waiting for samples. validation:
    if measured at this step; best: the lowest so far, and its step. saves: whether the state is
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
        """The current averaged weights; a collective call."""
        return self.averages()


def learning_rate(step: int, config: TrainConfig, steps: int) -> float:
    """Linear warm-up, constant, then cosine decay to zero over the last `decay` of `steps`.

    steps: of the whole run, or its maximum; 0: not known yet, so no decay.
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
    """Train `parameters` in place; yields a Progress per step; resumes from `folder`.

    draw: numbers -> those samples; step k uses samples k * config.samples onwards, regardless of
    the number of processes, so a run stopped anywhere and resumed equals an uninterrupted one, bit
    for bit on a CPU. validate: evaluated with the averaged weights, by all processes together; with
    `config.patience` it can end the run early. The state is saved every `checkpoint_minutes`, at
    the end, when the session ends, and when the consumer of a single process stops early.

    A step whose loss or gradient is not finite changes nothing except the count of such steps; its
    samples are listed in `folder`/skipped.csv. Raises `InputError` after `max_skipped` in a row, if
    the store stays unavailable, or if the state cannot be written at the end.
    """
    session = session or Session()
    group, say = session.group, session.say
    if config.samples < group.count:
        raise InputError(
            f"{group.count} processes cannot share {config.samples} samples per step: start fewer,"
            " or increase train.samples"
        )
    began = saved = time.monotonic()
    state = RunState(parameters, config)
    note = state.resume(folder)
    if note and group.main:
        say(note)
    if group.count > 1 and group.broadcast(state.step) != state.step:
        raise InputError(
            f"{folder} must be the same folder for all processes, for example on a shared disk"
        )
    stepper = Stepper(predict, state, config, folder, group, session.net, say)
    budget = Budget(config, state, validate, session.began or began, group)
    drawn = prefetch(
        with_retries(draw, config.wait_minutes, say, session.stopped),
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
            problem = f"the state after step {state.step} could not be written ({line(error)})"
            if finally_:
                raise InputError(
                    f"{problem}; once that is fixed, run the same command to resume from the"
                    " last one"
                ) from None
            say(f"{problem}; the last one is kept, and writing is tried again later")

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
            # After the consumer has stored this Progress: steps saved here are not reported again.
            if saves:
                save(finally_=False)
                saved = time.monotonic()
    except (GeneratorExit, InputError):  # only between steps, when the state is consistent
        if group.count == 1:
            save(finally_=False)
        raise
    finally:
        drawn.close()
    save(finally_=True)
