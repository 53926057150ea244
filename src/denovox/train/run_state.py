"""The state of a run, and how it is saved and restored.

On disk all tensors are full, never shards: a checkpoint of many processes, sharded or not, can be
resumed by one process, and vice versa.
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
from .distributed import Group, like, mapped, whole
from .optim.ema import Ema
from .optim.muon import Muon, is_kernel


def adamw(
    parameters: Iterable[Parameter], lr: float, weight_decay: float = 0.0
) -> torch.optim.AdamW:
    """Loshchilov and Hutter 2019; fused: the whole update in one pass over a parameter's memory.

    For the paper's 28.8 M parameters on one core this takes 24 ms instead of 108.
    """
    return torch.optim.AdamW(parameters, lr=lr, weight_decay=weight_decay, fused=True)


def optimizers(
    parameters: dict[str, Parameter], config: TrainConfig
) -> dict[str, torch.optim.Optimizer]:
    """The optimizers of all parameters, by their names in a saved state."""
    some = parameters.values()
    settings = config.lr, config.weight_decay
    if config.optimizer == "adamw":
        return {"optimizer": adamw(some, *settings)}
    rest = [p for p in some if not is_kernel(p)]
    kernels = [p for p in some if is_kernel(p)]
    return {
        **({"optimizer": adamw(rest, *settings)} if rest else {}),
        **({"muon": Muon(kernels, *settings, precision=config.precision)} if kernels else {}),
    }


def state_bytes(parameters: Iterable[Parameter], config: TrainConfig) -> int:
    """Size of a saved state: parameters, their average, and one or two moments of each."""
    muon = config.optimizer == "muon"
    return sum(4 * p.numel() * (3 if muon and is_kernel(p) else 4) for p in parameters)


class RunState:
    """Parameters (trained in place), their average, the optimizers, and the progress of the run.

    steps: of the whole run; 0 if not fixed yet (`TrainConfig.minutes`). best: the lowest validation
    loss so far and its step; skipped: number of steps that were not finite.
    """

    def __init__(self, parameters: dict[str, Parameter], config: TrainConfig) -> None:
        self.parameters = parameters
        self.ema = Ema(parameters, config.ema)
        self.optimizers = optimizers(parameters, config)
        self.step, self.skipped = 0, 0
        self.steps = 0 if config.minutes else config.steps
        self.best: tuple[float, int] = (math.inf, 0)

    def averages(self) -> dict[str, Tensor]:
        """The full averaged weights; a collective call."""
        return {name: whole(value) for name, value in self.ema.average.items()}

    def zero_grad(self) -> None:
        """Clear the gradients."""
        for optimizer in self.optimizers.values():
            optimizer.zero_grad(set_to_none=True)

    def update(self, lr: float, not_finite: Tensor) -> None:
        """One step of all optimizers; nothing changes if `not_finite` (0 or 1) is 1.

        `not_finite` stays on the parameters' device, which avoids a synchronisation.
        """
        for optimizer in self.optimizers.values():
            for group in optimizer.param_groups:
                group["lr"] = lr
            optimizer.found_inf = not_finite  # type: ignore[attr-defined]  # as GradScaler does
            optimizer.step()

    def save(self, folder: Path, group: Group) -> None:
        """Save the full state from the main process; `OSError` there if writing fails."""
        state = {
            "step": self.step,
            "steps": self.steps,
            "best": self.best,
            "skipped": self.skipped,
            "parameters": {name: whole(p) for name, p in self.parameters.items()},
            "average": self.averages(),
            **{
                name: mapped(optimizer.state_dict(), lambda value, number: whole(value))
                for name, optimizer in self.optimizers.items()
            },
        }
        if group.main:
            checkpoint.save(folder, state)

    def resume(self, folder: Path) -> str:
        """Resume from the last good state in a folder, if any; returns a log line, or "".

        Raises `InputError` if it is from another network or optimizer, or none can be read.
        """
        state, note = checkpoint.load(folder)
        if state is None:
            return note
        fits = {name: p.shape for name, p in self.parameters.items()}
        if {name: value.shape for name, value in state["parameters"].items()} != fits:
            raise InputError(
                f"{folder}: the run there trains a different network from this recipe's; choose"
                " another --out, or move it away"
            )
        if ("muon" in state) != ("muon" in self.optimizers):
            raise InputError(
                f"{folder}: the run there uses a different optimizer from this recipe's"
                " (train.optimizer); choose another --out, or start from its weights"
            )
        self._take(state)
        return note

    @torch.no_grad()
    def _take(self, state: dict[str, Any]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(like(state["parameters"][name], parameter))
            self.ema.average[name].copy_(like(state["average"][name], parameter))
        for name, optimizer in self.optimizers.items():
            own = [p for group in optimizer.param_groups for p in group["params"]]

            def laid_out(value: Tensor, number: int, own: list[Parameter] = own) -> Tensor:
                return like(value, own[number])

            for group in state[name]["param_groups"]:
                if "fused" in group:
                    group["fused"] = True  # older states of denovox did not have this
            optimizer.load_state_dict(mapped(state[name], laid_out))
        self.step, self.best = int(state["step"]), state.get("best", self.best)
        self.skipped = int(state.get("skipped", 0))
        self.steps = self.steps or int(state.get("steps", 0))
