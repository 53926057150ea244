"""Noise with the grain of filtered back-projection, for training.

A denoiser that has only seen white noise takes correlated noise for anatomy. Here white noise
is given the spectrum of a ramp times a kernel's roll-off (Riederer, Pelc and Chesler 1978),
f exp(-f^2 / (2 p^2)), whose peak p is drawn, so that one network learns soft and sharp kernels
alike and tells them by what it sees.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Float32

PEAK = (0.15, 0.9)  # of the Nyquist frequency; log-uniform
FLOOR = (0.01, 0.2)  # power at zero and far up, of that at the peak; log-uniform
ALONG_Z = 0.4  # highest correlation of the noise of neighbouring slices
LEVEL = 0.15  # SD of the log of the level: a scan's own is never known exactly
RIM = 8  # voxels drawn around and cut off: a DFT's noise goes on at the other side


def grain(shape: tuple[int, int, int], rng: np.random.Generator) -> Float32[np.ndarray, "x y z"]:
    """Noise of SD near 1 on a grid, of a random kernel; stationary, radial in x and y."""
    peak, floor = (np.exp(rng.uniform(*np.log(limits))) for limits in (PEAK, FLOOR))
    # Half of all scans have thick slices, which share no noise.
    along_z = rng.uniform(0, ALONG_Z) * rng.integers(2)
    level = np.exp(LEVEL * rng.standard_normal())
    big = [n + 2 * RIM for n in shape]
    white = rng.standard_normal(big, np.float32)
    gain = np.sqrt(power(big, peak, floor, along_z)).astype(np.float32)
    noise = np.fft.irfftn(np.fft.rfftn(white) * gain, big, axes=(0, 1, 2))
    x, y, z = (slice(RIM, RIM + n) for n in shape)
    return np.ascontiguousarray(level * noise[x, y, z], np.float32)


def power(
    shape: list[int], peak: float, floor: float, along_z: float
) -> Float[np.ndarray, "x y w"]:
    """Noise power at each frequency of a real DFT, of which the mean over all frequencies is 1.

    peak: of the Nyquist frequency. floor: share of the peak's power that is there everywhere.
    along_z: correlation of neighbouring slices, 0 to 0.5.
    """
    f = 2 * np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1])) / peak
    plane = f * np.exp((1 - f**2) / 2) + floor
    z = 1 + 2 * along_z * np.cos(2 * np.pi * np.fft.rfftfreq(shape[2]))
    # The mean over z is 1 whatever along_z is, as a cosine's over its period is 0.
    return (plane / plane.mean())[..., None] * z
