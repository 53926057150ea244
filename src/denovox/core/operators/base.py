"""Measurement operators, and the proximal step that takes a measurement into account."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Operator(Protocol):
    """A linear measurement y = A x + noise of a volume x (b 1 x y z, model units)."""

    def A(self, x: Tensor) -> Tensor:
        """The measurement of x."""

    def At(self, y: Tensor) -> Tensor:
        """The adjoint: <A x, y> = <x, At y>."""

    def prox(self, x0: Tensor, y: Tensor, rho: float) -> Tensor:
        """argmin over x of |y - A x|^2 + rho |x - x0|^2 (Method 3)."""


@dataclass(frozen=True)
class Identity:
    """The measurement is the scan itself, with white noise (Method 3)."""

    def A(self, x: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b 1 x y z"]:
        """x."""
        return x

    def At(self, y: Float[Tensor, "b 1 x y z"]) -> Float[Tensor, "b 1 x y z"]:
        """y."""
        return y

    def prox(
        self, x0: Float[Tensor, "b 1 x y z"], y: Float[Tensor, "b 1 x y z"], rho: float
    ) -> Float[Tensor, "b 1 x y z"]:
        """(y + rho x0) / (1 + rho)."""
        return (y + rho * x0) / (1 + rho)
