"""Noise with the grain of filtered back-projection, for training.

A denoiser trained only on white noise takes correlated noise for anatomy. Here, white noise is
given the spectrum of a ramp times a kernel's roll-off (Riederer, Pelc and Chesler 1978),
f exp(-f^2 / (2 p^2)), with a random peak p, so that one network learns both soft and sharp kernels
and recognises them from the image.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ..core.box import Shape
from ..core.random_field import normals

PEAK = (0.15, 0.9)  # of the Nyquist frequency; log-uniform
FLOOR = (0.01, 0.2)  # power at zero and at high frequencies, relative to the peak; log-uniform
ALONG_Z = 0.4  # highest correlation of the noise in neighbouring slices
LEVEL = 0.15  # SD of the log of the level, since a scan's own is never known exactly
RIM = 8  # extra voxels that are cut off, because noise from a DFT is periodic


@dataclass(frozen=True)
class Grain:
    """Noise of one kernel: the parameters of `power`, and a level (its SD, about 1)."""

    peak: float
    floor: float
    along_z: float
    level: float


def random_grain(rng: np.random.Generator) -> Grain:
    """A random kernel. Half of all scans have thick slices, which share no noise."""
    peak, floor = (float(np.exp(rng.uniform(*np.log(limits)))) for limits in (PEAK, FLOOR))
    along_z = float(rng.uniform(0, ALONG_Z) * rng.integers(2))
    return Grain(peak, floor, along_z, float(np.exp(LEVEL * rng.standard_normal())))


def coloured(
    grains: Sequence[Grain], seeds: Sequence[int], shape: Shape, device: str = "cpu"
) -> Float[Tensor, "b 1 x y z"]:
    """Noise of each grain, with SD of about `grain.level`; stationary, radial in x and y."""
    x, y, z = (n + 2 * RIM for n in shape)
    white = normals(seeds, (x, y, z), device)[:, 0]
    gain = power([x, y, z], grains, device).sqrt()
    noise = torch.fft.irfftn(torch.fft.rfftn(white, dim=(1, 2, 3)) * gain, (x, y, z), (1, 2, 3))
    level = torch.tensor([grain.level for grain in grains]).to(device, non_blocking=True)
    x, y, z = shape
    inner = noise[:, None, RIM : RIM + x, RIM : RIM + y, RIM : RIM + z]
    return level.view(-1, 1, 1, 1, 1) * inner


def power(
    shape: Sequence[int], grains: Sequence[Grain], device: str = "cpu"
) -> Float[Tensor, "b x y w"]:
    """Noise power at each frequency of a real DFT; its mean over all frequencies is 1.

    Fields of a grain, peak: share of the Nyquist frequency. floor: share of the peak's power that
    is present everywhere. along_z: correlation of neighbouring slices, 0 to 0.5.
    """
    values = torch.tensor([(grain.peak, grain.floor, grain.along_z) for grain in grains])
    peak, floor, along_z = values.to(device, non_blocking=True).T[:, :, None, None]
    x, y = (torch.fft.fftfreq(n, device=device) for n in shape[:2])
    f = 2 * torch.hypot(x[:, None], y) / peak
    plane = f * torch.exp((1 - f**2) / 2) + floor
    along = torch.cos(2 * torch.pi * torch.fft.rfftfreq(shape[2], device=device))
    # The mean over z is 1 for any along_z, because a cosine's mean over its period is 0.
    z = 1 + 2 * along_z * along
    return (plane / plane.mean((1, 2), keepdim=True))[..., None] * z[:, :, None]
