"""Coloured noise for a denoiser that knows only white noise: every other voxel, or more noise.

Both make white what the denoiser is shown, at another cost, and so their errors differ: their mean
is better than either (docs/log.md).
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

STEP = 2  # noise of a soft kernel spans about two voxels of a clinical grid


def phase(condition: Condition, i: int, j: int) -> Condition:
    """What belongs to every second voxel in the slices, from (i, j) on."""
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
    """The four phases of the slices denoised apart and put together (Zhou et al. 2020).

    Coarser sampling folds a spectrum onto itself: it comes out nearly flat, with its variance as it
    was. Nothing is lost, but a phase alone shows less detail. denoise: (i, j) -> of that phase.
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
    """y with noise added at the frequencies that had less, and the sigma at which it is white.

    sigma, psd: of y's noise; psd of mean 1. share: of the highest power's root; frequencies above
    stay as they are, for the last of whiteness costs the most noise.
    """
    level = sigma * share * float(psd.max()) ** 0.5
    lacking = (level**2 - sigma**2 * psd).clamp_min(0)
    return y + filtered(white, lacking.sqrt()), level
