"""One step of the loop: a batch's gradients, one update, and what became of it.

On a GPU nobody waits for a step: whether its loss was finite is decided there, and is read when the
next step is already under way.
"""

from __future__ import annotations

import csv
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from ..core.errors import InputError
from ..datasets.samples.batch import Batch
from .compiling import Compiling
from .config import TrainConfig
from .distributed import Group, quiet, whole
from .loss import Predict
from .run_state import RunState

SKIPPED = "skipped.csv"


@dataclass(frozen=True)
class _Pending:
    """A step whose outcome was not read yet: (loss, 1 if not finite), and what it was made of."""

    outcome: Callable[[], list[float]]
    step: int
    cases: list[str]


class Stepper:
    """Steps of one process.

    mine: which of a step's samples are this process's; parts: the same, a batch each. loss: of the
    last step whose outcome is known, NaN where it was skipped. waited: seconds, for samples.
    """

    def __init__(
        self,
        predict: Predict,
        state: RunState,
        config: TrainConfig,
        folder: Path,
        group: Group,
        net: nn.Module | None,
        say: Callable[[str], None],
    ) -> None:
        self.predict, self.state, self.config, self.folder = predict, state, config, folder
        self.group, self.net, self.say = group, net, say
        self.mine = list(group.share(config.samples))
        # Shards are only there for all together: who has one sample less asks for its last again.
        even = self.mine + self.mine[-1:] * (-(-config.samples // group.count) - len(self.mine))
        size = min(config.batch or len(even), len(even))
        self.parts = [even[i : i + size] for i in range(0, len(even), size)]
        self.fits = size
        self.loss, self.waited, self.in_a_row = math.nan, 0.0, 0
        self._pending: _Pending | None = None
        tried = config.compile and group.count == 1  # several compile from the start (train/run.py)
        self.compiling = Compiling(net, self.settle, say) if tried and net is not None else None

    @property
    def is_tuned(self) -> bool:
        """Whether steps go as fast as they will."""
        return self.compiling is None or not self.compiling.trying

    def learn(self, drawn: Iterator[Batch], lr: float) -> None:
        """One step at that learning rate; `state.step` is one more then."""
        asked = time.monotonic()
        batches = [next(drawn) for _ in self.parts]
        self.waited += time.monotonic() - asked
        loss = self._gradients(batches)
        self.settle()  # the step before: its parameters are still there to be averaged
        parameters = self.state.parameters.values()
        total = self.group.sum(loss)
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, self.config.clip))
        not_finite = 1 - (torch.isfinite(total) & torch.isfinite(norm)).float()
        self.state.update(lr, not_finite)
        cases = [case for batch in batches for case in batch.case][: len(self.mine)]
        outcome = torch.stack([total, not_finite.to(total.dtype)])
        self._pending = _Pending(_later(outcome), self.state.step, cases)
        self.state.step += 1
        if outcome.device.type == "cpu":
            self.settle()
        if self.compiling is not None:
            self.compiling.after_step()

    def settle(self) -> None:
        """Read the outcome of the last step, and average its parameters.

        `InputError` after `max_skipped` steps in a row that were not finite.
        """
        if self._pending is None:
            return
        pending, self._pending = self._pending, None
        total, not_finite = pending.outcome()
        state = self.state
        if not not_finite:
            self.loss, self.in_a_row = total, 0
            state.ema.update(pending.step - state.skipped)
            return
        self.loss = math.nan
        state.skipped, self.in_a_row = state.skipped + 1, self.in_a_row + 1
        numbers = [pending.step * self.config.samples + i for i in self.mine]
        _note(self.folder, self.group, pending.step, numbers, pending.cases)
        if self.in_a_row >= self.config.max_skipped:
            raise InputError(
                f"{self.in_a_row} steps in a row, up to step {pending.step + 1}, had a loss or"
                f" gradient that is not finite; {self.folder / SKIPPED} names their samples. Lower"
                " train.lr, or look at the cases named there"
            )

    def _gradients(self, batches: list[Batch]) -> Tensor:
        """Gradients of a step's samples; its loss. Fewer at a time where a GPU lacks memory."""
        while True:
            try:
                return self._accumulate(batches)
            except torch.OutOfMemoryError as error:
                if self.fits == 1 or self.group.count > 1:  # others would wait for this process
                    raise InputError(
                        f"{self.fits} samples at a time do not fit into the memory of"
                        f" {self.group.device} ({str(error).split('.')[0]}); lower train.batch, or"
                        " set train.checkpointing"
                    ) from None
            except Exception as error:
                if self.compiling is None or not self.compiling.failed(error):
                    raise
                continue
            # Outside of the except block: the error's traceback holds on to what was computed.
            self.state.zero_grad()
            torch.cuda.empty_cache()
            self.fits = -(-self.fits // 2)
            self.say(f"out of memory: {self.fits} samples at a time from here on")

    def _accumulate(self, batches: list[Batch]) -> Tensor:
        self.state.zero_grad()
        device = self.group.device
        loss = torch.zeros((), dtype=torch.float64, device=device)
        done, left = 0, len(self.mine)
        pieces = [piece for batch in batches for piece in self._pieces(batch)]
        for number, (piece, count) in enumerate(pieces, 1):
            with quiet(self.net, number < len(pieces)):
                own = max(0, min(count, left - done))
                losses = self.predict(piece)[:own].sum() / self.config.samples
                # Processes share the mean of their gradients; the step's is their sum.
                torch.autograd.backward(losses * self.group.count)
            loss += losses.detach()
            done += count
        return loss

    def _pieces(self, batch: Batch) -> list[tuple[Batch, int]]:
        """A batch in as many pieces as fit, with the number of samples in each."""
        count = len(batch.case)
        if count <= self.fits:
            return [(batch, count)]
        cuts = range(0, count, self.fits)
        return [(batch.part(i, i + self.fits), min(self.fits, count - i)) for i in cuts]


def _later(values: Tensor) -> Callable[[], list[float]]:
    """Reads values; from a GPU without waiting for anything that is queued behind them."""
    if values.device.type != "cuda":
        return values.tolist
    host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
    host.copy_(values, non_blocking=True)
    there = torch.cuda.Event()  # type: ignore[no-untyped-call]
    there.record()

    def read() -> list[float]:
        there.synchronize()
        return host.tolist()

    return read


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
