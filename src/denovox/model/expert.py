"""An expert in low noise: a second network of the same shape that answers below some noise level.

One network that serves all noise levels serves none of them best (Balaji et al. 2022, arXiv
2211.01324). The expert costs memory, but no time: each evaluation has one noise level.
"""

from __future__ import annotations

from torch import Tensor

from ..core.condition import Condition
from .denoiser import Denoiser

_PREFIX = "expert."  # of the names of its tensors in a file that holds both
State = dict[str, Tensor]


def joined(state: State, expert: State) -> State:
    """The tensors of both networks, as they are saved."""
    return state | {_PREFIX + name: value for name, value in expert.items()}


def parted(saved: State) -> tuple[State, State]:
    """(the network for high noise, its expert); the inverse of `joined`. Without an expert: {}."""
    expert = {name for name in saved if name.startswith(_PREFIX)}
    high = {name: value for name, value in saved.items() if name not in expert}
    return high, {name.removeprefix(_PREFIX): saved[name] for name in expert}


def by_noise(below: float, expert: Denoiser, otherwise: Denoiser) -> Denoiser:
    """A denoiser that asks the expert at sigma < below (model units)."""

    def denoise(x: Tensor, sigma: float, condition: Condition) -> Tensor:
        return (expert if sigma < below else otherwise)(x, sigma, condition)

    return denoise
