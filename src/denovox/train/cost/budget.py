"""How many steps a run with a given number of minutes has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from ..config import TrainConfig
from ..distributed import Group
from ..run_state import RunState

WARMING = 3  # warm-up steps that are not timed: caches fill, kernels are chosen
MEASURED_S, MEASURED_SHARE, MEASURED_STEPS = 5.0, 0.02, 5  # minimum measurement, all three
MARGIN = 0.97  # of the remaining time: step times vary
WRITING_S = 3.0  # checkpoint, weights, log


class Budget:
    """Fixes `state.steps` of a run given in minutes, once its speed is known.

    began: when the clock started, by `time.monotonic`. A resumed run keeps the number of steps that
    was fixed, whatever the time; one stopped before that gets its full minutes again.
    """

    def __init__(
        self,
        config: TrainConfig,
        state: RunState,
        validate: Callable[[], float] | None,
        began: float,
        group: Group,
    ) -> None:
        self.config, self.state, self.validate, self.group = config, state, validate, group
        self.ends = math.inf if state.steps else began + 60 * config.minutes
        self.closing = WRITING_S
        self._warm = state.step + WARMING
        self._from: tuple[int, float] | None = None  # where timing began: step and time
        self._began, self._took = 0.0, 0.0  # the last step

    @property
    def most(self) -> int:
        """The number of steps; until that is fixed, the maximum (0: none)."""
        return self.state.steps or self.config.steps

    def numbers(self, parts: list[list[int]]) -> Iterator[list[int]]:
        """The sample numbers of each batch, from the current step to the end of the run."""
        step = self.state.step
        while not self.most or step < self.most:
            yield from ([step * self.config.samples + i for i in part] for part in parts)
            step += 1

    def is_over(self) -> bool:
        """Whether another step would leave too little time to finish the run."""
        self._began = time.monotonic()
        return self._began + self._took > self.ends - self.closing

    def after_step(self, settle: Callable[[], None], is_tuned: bool) -> str:
        """Time a step; returns a log line once the number of steps is fixed, or "".

        settle: waits for pending steps. is_tuned: whether steps have reached their final speed.
        """
        self._took = time.monotonic() - self._began
        if self.state.steps or not is_tuned or self.state.step < self._warm:
            return ""
        if self._from is None:
            settle()
            self._from = self.state.step, time.monotonic()
            return ""
        step, since = self._from
        count, seconds = self.state.step - step, time.monotonic() - since
        enough = max(MEASURED_S, MEASURED_SHARE * 60 * self.config.minutes)
        if self.group.any(count < MEASURED_STEPS or seconds < enough):
            return ""
        settle()
        pace = (time.monotonic() - since) / count
        validating = self._validating()
        # The final validation, and the sample sheet, which takes about as long.
        self.closing += 2 * validating
        left = MARGIN * (self.ends - time.monotonic() - self.closing)
        more = left / (pace + validating / self.config.validate_every)
        fixed = self.state.step + max(1, int(more))
        self.state.steps = self.group.broadcast(min(fixed, self.config.steps or fixed))
        return f"{pace:.3g} s per step: {self.state.steps} steps in {self.config.minutes:g} minutes"

    def _validating(self) -> float:
        """Seconds one validation takes."""
        if self.validate is None:
            return 0.0
        began = time.monotonic()
        with self.state.ema.applied():
            self.validate()
        return time.monotonic() - began
