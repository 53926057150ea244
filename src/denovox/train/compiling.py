"""Try torch.compile during a run; keep it if it works and is faster."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import nn

from ..core.errors import line

WARMING, TIMED = 3, 5  # steps before, and in, each measurement
PAYS = 1.03  # minimum speed-up


class Compiling:
    """Times some steps without, then with compilation; the faster is kept.

    settle: waits for pending steps. `trying` is true until that is decided.
    """

    def __init__(
        self, net: nn.Module, settle: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self.net, self.settle, self.say = net, settle, say
        self.trying = True
        self._compiled, self._steps, self._since, self._plain = False, 0, 0.0, 0.0

    def after_step(self) -> None:
        """Count a step, and move on to the next stage when due."""
        if not self.trying:
            return
        self._steps += 1
        if self._steps == WARMING:
            self.settle()
            self._since = time.monotonic()
        if self._steps < WARMING + TIMED:
            return
        self.settle()
        took = (time.monotonic() - self._since) / TIMED
        if not self._compiled:
            self._plain, self._steps, self._compiled = took, 0, True
            self.net.compile()
            return
        self.trying = False
        if took * PAYS > self._plain:
            self._drop(
                f"torch.compile is no faster ({self._plain:.3g} s per step, {took:.3g} with)"
            )
        else:
            self.say(f"compiled: {took:.3g} s per step, {self._plain:.3g} before")

    def failed(self, error: Exception) -> bool:
        """Whether an error may come from compilation, which is undone if so."""
        if not (self.trying and self._compiled):
            return False
        self.trying = False
        self._drop(f"torch.compile failed ({line(error)[:200]})")
        return True

    def _drop(self, why: str) -> None:
        self.net._compiled_call_impl = None  # what nn.Module.compile sets
        self.say(f"{why}: continuing without it")
