"""Coloured noise with a denoiser trained on white noise: use every second voxel, or add noise.

Both whiten the noise in the denoiser's input, but at different costs, so their errors differ and
their mean is better than either (docs/explain/log.md).
"""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor

from ..core.condition import Condition
from ..core.operators.coloured_noise import filtered
from .sampler import Vol

STEP = 2  # the noise of a soft kernel extends over about two voxels of a clinical grid
SHARE = 0.8


def phase(condition: Condition, i: int, j: int) -> Condition:
    """The condition for every second voxel within slices, starting at (i, j) (Zhou et al. 2020).

    Subsampling folds a spectrum onto itself: it becomes nearly flat, with the same variance. All
    four phases together lose nothing, but a phase alone shows less detail.
    """
    x, y = slice(i, None, STEP), slice(j, None, STEP)
    return replace(
        condition,
        anatomy=condition.anatomy[:, x, y],
        position_x=condition.position_x[:, x],
        position_y=condition.position_y[:, y],
        control=None if condition.control is None else condition.control[:, :, x, y],
        spacing_mm=condition.spacing_mm * torch.tensor([STEP, STEP, 1.0]).to(condition.spacing_mm),
    )


def topped_up(
    y: Vol, sigma: float, psd: Float[Tensor, "x y w"], white: Vol, share: float = SHARE
) -> tuple[Vol, float]:
    """y with noise added at frequencies that had less, and the sigma at which it is then white.

    sigma, psd: of the noise in y; psd has mean 1. share: of the root of the highest power;
    frequencies above it are left as they are, since the last bit of whiteness costs the most noise.
    """
    level = white_level(sigma, float(psd.max()), share)
    return y + filtered(white, lacking(sigma, psd, level)), level


def white_level(sigma: float, power: float, share: float = SHARE) -> float:
    """The sigma at which noise is white with `topped_up`; power: the highest of its spectrum."""
    return sigma * share * power**0.5


def lacking(sigma: float, psd: Float[Tensor, "x y w"], level: float) -> Float[Tensor, "x y w"]:
    """The gain that turns white noise into what `topped_up` adds."""
    return (level**2 - sigma**2 * psd).clamp_min(0).sqrt()
