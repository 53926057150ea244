"""Coloured noise with a denoiser trained on white noise: use every second voxel, or add noise.

Both whiten the noise in the denoiser's input, but at different costs, so their errors differ and
their mean is better than either (docs/explain/log.md).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.condition import Condition
from ..core.operators.coloured_noise import filtered
from .sampler import Denoise, Vol

STEP = 2  # the noise of a soft kernel extends over about two voxels of a clinical grid


def phase(condition: Condition, i: int, j: int) -> Condition:
    """The condition for every second voxel within slices, starting at (i, j)."""
    x, y = slice(i, None, STEP), slice(j, None, STEP)
    return replace(
        condition,
        anatomy=condition.anatomy[:, x, y],
        position_x=condition.position_x[:, x],
        position_y=condition.position_y[:, y],
        control=None if condition.control is None else condition.control[:, :, x, y],
        spacing_mm=condition.spacing_mm * torch.tensor([STEP, STEP, 1.0]).to(condition.spacing_mm),
    )


def interleaved(denoise: Callable[[int, int], Denoise]) -> Denoise:
    """Denoise the four phases of the slices separately and recombine them (Zhou et al. 2020).

    Subsampling folds a spectrum onto itself: it becomes nearly flat, with the same variance.
    Nothing is lost, but a phase alone shows less detail. denoise: (i, j) -> denoiser of the phase.
    """

    def whole(x: Vol, sigma: float) -> Vol:
        out = torch.empty_like(x)
        for i, j in itertools.product(range(STEP), repeat=2):
            part = (..., slice(i, None, STEP), slice(j, None, STEP), slice(None))
            out[part] = denoise(i, j)(x[part].contiguous(), sigma)
        return out

    return whole


def topped_up(
    y: Vol, sigma: float, psd: Float[Tensor, "x y w"], white: Vol, share: float = 0.8
) -> tuple[Vol, float]:
    """y with noise added at frequencies that had less, and the sigma at which it is then white.

    sigma, psd: of the noise in y; psd has mean 1. share: of the root of the highest power;
    frequencies above it are left as they are, since the last bit of whiteness costs the most noise.
    """
    level = sigma * share * float(psd.max()) ** 0.5
    lacking = (level**2 - sigma**2 * psd).clamp_min(0)
    return y + filtered(white, lacking.sqrt()), level
