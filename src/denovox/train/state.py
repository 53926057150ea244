"""What a run has learnt so far, and its way to the disk and back.

On disk everything is whole, whoever wrote it: a checkpoint of many processes, or of shards, goes
on with one process, and back.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..core.errors import InputError
from . import checkpoint
from .config import TrainConfig
from .ema import Ema
from .group import Group, like, mapped, whole


def adamw(
    parameters: Iterable[Parameter], lr: float, weight_decay: float = 0.0
) -> torch.optim.AdamW:
    """Loshchilov and Hutter 2019; fused: all of it in one pass over a parameter's memory.

    For the paper's 28.8 M parameters on one core that is 24 ms in place of 108.
    """
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


class RunState:
    """Parameters (trained in place), their average, the optimizer, and where the run stands.

    best: the lowest validation so far and its step; skipped: steps that were not finite.
    """

    def __init__(self, parameters: dict[str, Parameter], config: TrainConfig) -> None:
        self.parameters = parameters
        self.ema = Ema(parameters, config.ema)
        self.optimizer = adamw(parameters.values(), config.lr, config.weight_decay)
        self.step, self.skipped = 0, 0
        self.best: tuple[float, int] = (math.inf, 0)

    def averages(self) -> dict[str, Tensor]:
        """The averaged weights, whole; all processes of a group ask together."""
        return {name: whole(value) for name, value in self.ema.average.items()}

    def save(self, folder: Path, group: Group) -> None:
        """Whole, by the main process; `OSError` there where it cannot be written."""
        optimizer = mapped(self.optimizer.state_dict(), lambda value, number: whole(value))
        state = {
            "step": self.step,
            "best": self.best,
            "skipped": self.skipped,
            "parameters": {name: whole(p) for name, p in self.parameters.items()},
            "average": self.averages(),
            "optimizer": optimizer,
        }
        if group.main:
            checkpoint.save(folder, state)

    def resume(self, folder: Path) -> str:
        """Go on from the last good state of a folder, if it has one; a line to be said, or "".

        `InputError` where the state is of another network, or none can be read.
        """
        state, said = checkpoint.load(folder)
        if state is None:
            return said
        fits = {name: p.shape for name, p in self.parameters.items()}
        if {name: value.shape for name, value in state["parameters"].items()} != fits:
            raise InputError(
                f"{folder}: the run there trains another network than this recipe's; give another"
                " --out, or move it away"
            )
        self._take(state)
        return said

    @torch.no_grad()
    def _take(self, state: dict[str, Any]) -> None:
        own = list(self.parameters.values())
        for name, parameter in self.parameters.items():
            parameter.copy_(like(state["parameters"][name], parameter))
            self.ema.average[name].copy_(like(state["average"][name], parameter))
        for group in state["optimizer"]["param_groups"]:
            group["fused"] = True  # which it was not in states of denovox before this
        self.optimizer.load_state_dict(
            mapped(state["optimizer"], lambda value, number: like(value, own[number]))
        )
        self.step, self.best = int(state["step"]), state.get("best", self.best)
        self.skipped = int(state.get("skipped", 0))
