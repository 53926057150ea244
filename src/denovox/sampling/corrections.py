"""Corrections of x0, (x0, sigma) -> x0, through which data enter a sampler (Method 3)."""

from __future__ import annotations

import torch
from jaxtyping import Bool
from torch import Tensor

from ..core.operators.base import Operator
from .sampler import Correct, Vol


def clip(x0: Vol, sigma: float) -> Vol:
    """Clip to the window: after blending tiles, never before (Method 2)."""
    return x0.clamp(-1, 1)


def prox(operator: Operator, y: Vol, sigma_noise: float, strength: float = 1.0) -> Correct:
    """Consistency with a measurement y with noise sigma_noise (model units).

    rho = lambda s_n^2 / s^2.

    strength: lambda, in the convention of Method 3 (DiffPIR's published value is 4 times ours).
    """
    return lambda x0, sigma: operator.prox(x0, y, strength * (sigma_noise / sigma) ** 2)


def paste(known: Bool[Tensor, "b 1 x y z"], truth: Vol) -> Correct:
    """Replace the known voxels by their true values."""
    return lambda x0, sigma: torch.where(known, truth, x0)


def then(*corrections: Correct) -> Correct:
    """Apply several corrections, one after another."""

    def correct(x0: Vol, sigma: float) -> Vol:
        for each in corrections:
            x0 = each(x0, sigma)
        return x0

    return correct
