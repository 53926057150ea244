"""torch.compile, tried while a run trains: kept where it works and pays."""

from __future__ import annotations

import time
from collections.abc import Callable

from torch import nn

from ..core.errors import line

WARMING, TIMED = 3, 5  # steps before each measurement, and of it
PAYS = 1.03  # times as fast, at least


class Compiling:
    """Some steps as the network is, then some compiled; the faster stays.

    settle: waits for the steps so far. `trying` ends when it is decided.
    """

    def __init__(
        self, net: nn.Module, settle: Callable[[], None], say: Callable[[str], None]
    ) -> None:
        self.net, self.settle, self.say = net, settle, say
        self.trying = True
        self._compiled, self._steps, self._since, self._plain = False, 0, 0.0, 0.0

    def after_step(self) -> None:
        """Count a step, and go on to what is next."""
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
            self._drop(f"torch.compile does not pay ({self._plain:.3g} s a step, {took:.3g} with)")
        else:
            self.say(f"compiled: {took:.3g} s a step, {self._plain:.3g} before")

    def failed(self, error: Exception) -> bool:
        """Whether an error may be the compiler's; the network is as it was then."""
        if not (self.trying and self._compiled):
            return False
        self.trying = False
        self._drop(f"torch.compile fails here ({line(error)[:200]})")
        return True

    def _drop(self, why: str) -> None:
        self.net._compiled_call_impl = None  # what nn.Module.compile sets
        self.say(f"{why}: going on without it")
