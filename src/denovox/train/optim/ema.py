"""An exponential moving average of parameters."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor
from torch.nn import Parameter


class Ema:
    """Averaged copies of named parameters. half_life: in updates; shorter at first."""

    def __init__(self, parameters: dict[str, Parameter], half_life: float) -> None:
        self.parameters = parameters
        self.decay = 0.5 ** (1 / half_life)
        self.average = {name: p.detach().clone() for name, p in parameters.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Move towards the parameters, by at least 10/(10+step) after `step` updates."""
        share = max(1 - self.decay, 10 / (10 + step)) if step else 1.0
        own = [parameter.detach() for parameter in self.parameters.values()]
        torch._foreach_lerp_(list(self.average.values()), own, share)

    @contextmanager
    def applied(self) -> Iterator[None]:
        """Within the block the parameters hold the average; their values are restored after."""
        own: dict[str, Tensor] = {n: p.detach().clone() for n, p in self.parameters.items()}
        try:
            self._copy(self.average)
            yield
        finally:
            self._copy(own)

    @torch.no_grad()
    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])
