"""How many steps a run of so many minutes has."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator

from .config import TrainConfig
from .distributed import Group
from .run_state import RunState

WARMING = 3  # steps whose time says nothing: caches fill, kernels are chosen
MEASURED_S, MEASURED_SHARE, MEASURED_STEPS = 5.0, 0.02, 5  # at least so long, all three
MARGIN = 0.97  # of the time that is left: steps are not all equally long
WRITING_S = 3.0  # the state, the weights, the log


class Budget:
    """Fixes `state.steps` of a run that has minutes, once its speed is known.

    began: when the minutes began, by `time.monotonic`. A run that goes on later has the steps that
    were fixed, whatever the time; one that was stopped before they were has its minutes again.
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
        self._from: tuple[int, float] | None = None  # where measuring began: step and time
        self._began, self._took = 0.0, 0.0  # the last step

    @property
    def most(self) -> int:
        """The number of steps; until it is fixed the most that there may be, 0: any."""
        return self.state.steps or self.config.steps

    def numbers(self, parts: list[list[int]]) -> Iterator[list[int]]:
        """The numbers of the samples of each batch, from the state's step to the run's end."""
        step = self.state.step
        while not self.most or step < self.most:
            yield from ([step * self.config.samples + i for i in part] for part in parts)
            step += 1

    def is_over(self) -> bool:
        """Whether what another step would leave of the minutes is needed to end the run."""
        self._began = time.monotonic()
        return self._began + self._took > self.ends - self.closing

    def after_step(self, settle: Callable[[], None], is_tuned: bool) -> str:
        """Measure; a line to be said when the number of steps is fixed, or "".

        settle: waits for the steps so far. is_tuned: whether steps go as fast as they will.
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
        # At the end a validation, and the sheet of samples, which takes about as long.
        self.closing += 2 * validating
        left = MARGIN * (self.ends - time.monotonic() - self.closing)
        more = left / (pace + validating / self.config.validate_every)
        fixed = self.state.step + max(1, int(more))
        self.state.steps = self.group.told(min(fixed, self.config.steps or fixed))
        return f"{pace:.3g} s a step: {self.state.steps} steps in {self.config.minutes:g} minutes"

    def _validating(self) -> float:
        """Seconds of a validation."""
        if self.validate is None:
            return 0.0
        began = time.monotonic()
        with self.state.ema.applied():
            self.validate()
        return time.monotonic() - began
