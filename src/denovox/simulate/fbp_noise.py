"""Noise with the grain of filtered back-projection, for training.

A denoiser that has only seen white noise takes correlated noise for anatomy. Here white noise
is given the spectrum of a ramp times a kernel's roll-off (Riederer, Pelc and Chesler 1978),
f exp(-f^2 / (2 p^2)), whose peak p is drawn, so that one network learns soft and sharp kernels
alike and tells them by what it sees.
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
FLOOR = (0.01, 0.2)  # power at zero and far up, of that at the peak; log-uniform
ALONG_Z = 0.4  # highest correlation of the noise of neighbouring slices
LEVEL = 0.15  # SD of the log of the level: a scan's own is never known exactly
RIM = 8  # voxels drawn around and cut off: a DFT's noise goes on at the other side


@dataclass(frozen=True)
class Grain:
    """A kernel's noise: `power` of these, times a level (SD, about 1)."""

    peak: float
    floor: float
    along_z: float
    level: float


def random_grain(rng: np.random.Generator) -> Grain:
    """A kernel drawn at random. Half of all scans have thick slices, which share no noise."""
    peak, floor = (float(np.exp(rng.uniform(*np.log(limits)))) for limits in (PEAK, FLOOR))
    along_z = float(rng.uniform(0, ALONG_Z) * rng.integers(2))
    return Grain(peak, floor, along_z, float(np.exp(LEVEL * rng.standard_normal())))


def coloured(
    grains: Sequence[Grain], seeds: Sequence[int], shape: Shape, device: str = "cpu"
) -> Float[Tensor, "b 1 x y z"]:
    """Noise of each grain, its SD about `grain.level`; stationary, radial in x and y."""
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
    """Noise power at each frequency of a real DFT, of which the mean over all frequencies is 1.

    Of a grain, peak: of the Nyquist frequency. floor: share of the peak's power that is there
    everywhere. along_z: correlation of neighbouring slices, 0 to 0.5.
    """
    told = torch.tensor([(grain.peak, grain.floor, grain.along_z) for grain in grains])
    peak, floor, along_z = told.to(device, non_blocking=True).T[:, :, None, None]
    x, y = (torch.fft.fftfreq(n, device=device) for n in shape[:2])
    f = 2 * torch.hypot(x[:, None], y) / peak
    plane = f * torch.exp((1 - f**2) / 2) + floor
    along = torch.cos(2 * torch.pi * torch.fft.rfftfreq(shape[2], device=device))
    # The mean over z is 1 whatever along_z is, as a cosine's over its period is 0.
    z = 1 + 2 * along_z * along
    return (plane / plane.mean((1, 2), keepdim=True))[..., None] * z[:, :, None]
