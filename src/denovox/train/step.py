"""One step of the loop: the gradients of its batches, one update, and its outcome.

On a GPU there is no synchronisation: whether the loss was finite is decided on the device, and read
when the next step is already running.
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
    """A step whose outcome, (loss, 1 if not finite), has not been read yet, and its cases."""

    outcome: Callable[[], list[float]]
    step: int
    cases: list[str]


class Stepper:
    """Steps of one process.

    mine: the samples of a step that belong to this process; parts: the same, split into batches.
    loss: of the last step whose outcome is known, NaN if it was skipped. waited: seconds waiting
    for samples.
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
        # Sharded calls are collective: a process with one sample less repeats its last one.
        even = self.mine + self.mine[-1:] * (-(-config.samples // group.count) - len(self.mine))
        size = min(config.batch or len(even), len(even))
        self.parts = [even[i : i + size] for i in range(0, len(even), size)]
        self.fits = size
        self.loss, self.waited, self.in_a_row = math.nan, 0.0, 0
        self._pending: _Pending | None = None
        tried = config.compile and group.count == 1  # groups compile at the start (train/run.py)
        self.compiling = Compiling(net, self.settle, say) if tried and net is not None else None

    @property
    def is_tuned(self) -> bool:
        """Whether steps have reached their final speed."""
        return self.compiling is None or not self.compiling.trying

    def learn(self, drawn: Iterator[Batch], lr: float) -> None:
        """Take one step at this learning rate; increments `state.step`."""
        began = time.monotonic()
        batches = [next(drawn) for _ in self.parts]
        self.waited += time.monotonic() - began
        loss = self._gradients(batches)
        self.settle()  # the previous step: its parameters can still be averaged
        parameters = self.state.parameters.values()
        total = self.group.sum(loss)
        norm = whole(torch.nn.utils.clip_grad_norm_(parameters, self.config.clip))
        not_finite = 1 - (torch.isfinite(total) & torch.isfinite(norm)).float()
        self.state.update(lr, not_finite)
        cases = [case for batch in batches for case in batch.case][: len(self.mine)]
        outcome = torch.stack([total, not_finite.to(total.dtype)])
        self._pending = _Pending(_deferred(outcome), self.state.step, cases)
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
        _list_skipped(self.folder, self.group, pending.step, numbers, pending.cases)
        if self.in_a_row >= self.config.max_skipped:
            raise InputError(
                f"{self.in_a_row} steps in a row, up to step {pending.step + 1}, had a non-finite"
                " loss or gradient; lower train.lr, or inspect the cases listed in"
                f" {self.folder / SKIPPED}"
            )

    def _gradients(self, batches: list[Batch]) -> Tensor:
        """Compute the gradients and loss of a step; fewer samples at a time if memory runs out."""
        while True:
            try:
                return self._accumulate(batches)
            except torch.OutOfMemoryError as error:
                if self.fits == 1 or self.group.count > 1:  # other processes would hang
                    raise InputError(
                        f"{self.fits} samples at a time do not fit into the memory of"
                        f" {self.group.device} ({str(error).split('.')[0]}); lower train.batch, or"
                        " set train.checkpointing"
                    ) from None
            except Exception as error:
                if self.compiling is None or not self.compiling.failed(error):
                    raise
                continue
            # Outside the except block: the error's traceback keeps tensors alive.
            self.state.zero_grad()
            torch.cuda.empty_cache()
            self.fits = -(-self.fits // 2)
            self.say(f"out of memory: {self.fits} samples at a time from now on")

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
                # Gradients are averaged over processes, but a step needs their sum.
                torch.autograd.backward(losses * self.group.count)
            loss += losses.detach()
            done += count
        return loss

    def _pieces(self, batch: Batch) -> list[tuple[Batch, int]]:
        """Split a batch into pieces that fit, with the number of samples in each."""
        count = len(batch.case)
        if count <= self.fits:
            return [(batch, count)]
        cuts = range(0, count, self.fits)
        return [(batch.part(i, i + self.fits), min(self.fits, count - i)) for i in cuts]


def _deferred(values: Tensor) -> Callable[[], list[float]]:
    """A function that reads values; from a GPU, without waiting for work queued after them."""
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


def _list_skipped(
    folder: Path, group: Group, step: int, numbers: list[int], cases: list[str]
) -> None:
    """List the samples of the step after `step`; each process lists its own."""
    path = folder / (SKIPPED if group.main else f"{group.rank}-{SKIPPED}")
    folder.mkdir(parents=True, exist_ok=True)
    new = not path.exists()
    with path.open("a", newline="") as file:
        rows = csv.writer(file)
        if new:
            rows.writerow(["step", "sample", "case"])
        rows.writerows([step + 1, n, case] for n, case in zip(numbers, cases, strict=True))
