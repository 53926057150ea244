"""The one training loop: pre-training and every tuning go through it."""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Generator
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import Parameter

from ..core.errors import InputError, line
from ..data.levels import Sample
from .ahead import ahead, patiently
from .config import TrainConfig
from .group import ALONE, Group, quiet, whole
from .loss import Predict
from .state import RunState

Draw = Callable[[int], Sample]
SKIPPED = "skipped.csv"


@dataclass(frozen=True)
class Session:
    """How long a run goes on now, with whom, and who is told.

    net: what `predict` asks, as `group.distributed` gave it. stopped: whether the user has had
    enough; looked at between steps, and one process's word counts for all.
    """

    max_minutes: float = math.inf
    stopped: Callable[[], bool] = lambda: False
    say: Callable[[str], None] = lambda text: None
    group: Group = ALONE
    net: nn.Module | None = None


@dataclass(frozen=True)
class Progress:
    """Where a run stands after a step.

    loss: mean of the step's samples, NaN where it was skipped; skipped: how many were, so far.
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

    @property
    def average(self) -> dict[str, Tensor]:
        """The averaged weights as they are now; all processes of a group ask together."""
        return self.averages()


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
    session: Session | None = None,
) -> Generator[Progress, None, None]:
    """Train `parameters` in place; one Progress a step; continues where `folder` left off.

    draw: n -> sample n; step k learns from samples k * config.samples onwards, whatever the number
    of processes, so a run that was stopped anywhere and resumed equals one that was not, bit for
    bit on a CPU. validate: measured with the averaged weights, by all processes together; with
    `config.patience` it ends the run early. The state is saved every `checkpoint_minutes`, at the
    end, when the session ends, and when the consumer of a process alone stops early.

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
    state = RunState(parameters, config)
    said = state.resume(folder)
    if said and group.main:
        say(said)
    if group.count > 1 and group.told(state.step) != state.step:
        raise InputError(f"{folder} must be one folder for all processes, as on a shared disk")
    mine = list(group.share(config.samples))
    # Shards are only there for all together: who has one sample less asks for its last again.
    even = mine + mine[-1:] * (math.ceil(config.samples / group.count) - len(mine))
    parts = [even[i : i + config.batch] for i in range(0, len(even), config.batch)]
    drawn = ahead(
        patiently(draw, config.wait_minutes, say, session.stopped),
        (
            [step * config.samples + i for i in part]
            for step in range(state.step, config.steps)
            for part in parts
        ),
        config.workers,
    )
    began = saved = time.monotonic()
    kept, waited, in_a_row = state.step, 0.0, 0  # kept: the step of the state on disk

    def ended() -> bool:
        late = time.monotonic() - began >= 60 * session.max_minutes
        behind = (state.step - state.best[1]) // config.validate_every if validate else 0
        over = state.step >= config.steps or 0 < config.patience <= behind
        return group.any(over or late or session.stopped())

    def learn(rate: float) -> tuple[float, bool]:
        """One step: (its loss, whether it was finite; nothing is learnt where not)."""
        nonlocal waited, in_a_row
        for of in state.optimizer.param_groups:
            of["lr"] = rate
        state.optimizer.zero_grad(set_to_none=True)
        loss, cases = group.number(0), list[str]()
        for number in range(1, len(parts) + 1):
            asked = time.monotonic()
            samples = next(drawn)
            waited += time.monotonic() - asked
            own = len(mine) - (number - 1) * config.batch
            with quiet(session.net, number < len(parts)):
                losses = predict(samples)[:own].sum() / config.samples
                # Processes share the mean of their gradients; the step's is their sum.
                torch.autograd.backward(losses * group.count)
            loss += losses.detach()
            cases += [sample.case for sample in samples[:own]]
        total = float(group.sum(loss))
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), config.clip)
        if math.isfinite(total) and math.isfinite(float(whole(norm))):
            state.optimizer.step()
            state.ema.update(state.step - state.skipped)
            in_a_row = 0
            return total, True
        state.skipped, in_a_row = state.skipped + 1, in_a_row + 1
        _note(folder, group, state.step, [state.step * config.samples + i for i in mine], cases)
        if in_a_row >= config.max_skipped:
            raise InputError(
                f"{in_a_row} steps in a row, up to step {state.step + 1}, had a loss or gradient"
                f" that is not finite; {folder / SKIPPED} names their samples. Lower train.lr, or"
                " look at the cases named there"
            )
        return total, False

    def save(finally_: bool) -> None:
        nonlocal kept
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
            rate = learning_rate(state.step, config)
            total, finite = learn(rate)
            state.step += 1
            measured = None
            if validate and (state.step % config.validate_every == 0 or state.step == config.steps):
                with state.ema.applied():
                    measured = validate()
                state.best = min(state.best, (measured, state.step))
            due = time.monotonic() - saved > 60 * config.checkpoint_minutes
            saves = group.any(group.main and due)
            yield Progress(
                state.step,
                total if finite else math.nan,
                rate,
                time.monotonic() - began,
                measured,
                state.averages,
                state.best,
                waited,
                state.skipped,
                saves,
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


def _note(folder: Path, group: Group, step: int, numbers: list[int], cases: list[str]) -> None:
    """Write down what the step after `step` was made of; each process its own samples."""
    path = folder / (SKIPPED if group.main else f"{group.rank}-{SKIPPED}")
    folder.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow(["step", "sample", "case"])
        rows.writerows([step + 1, n, case] for n, case in zip(numbers, cases, strict=True))
