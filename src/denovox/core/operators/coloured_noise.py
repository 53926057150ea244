"""Scans whose noise is coloured rather than white (Method 3).

The measurement is the scan itself, y = x + noise. It differs from `Identity` in the noise, and thus
in the distance |W^-1/2 (y - x)|^2 that the prox weighs against rho |x - x0|^2. The covariance W is
relative, with a mean power of 1, because the SD of the noise enters through rho, as in `Identity`.

A volume is extended at its ends by its mirror image: an even spectrum is then diagonal in the
cosine transform (DCT-II), the prox exact and the filter symmetric, without padding. Real noise does
not continue as its mirror image, so the weights are approximate within a correlation length of the
border.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from ..box import Shape
from ..errors import InputError

Vol = Float[Tensor, "b 1 x y z"]
Psd = Float[Tensor, "x y w"]  # per DCT-II coefficient; w: slices, or 1 if they are all the same


@dataclass(frozen=True)
class Spectrum:
    """The shape of a CT's noise power spectrum: radial within slices, without its SD.

    per_mm: spatial frequencies in cycles per mm, ascending. power: at those frequencies, not
    negative; constant beyond the ends. along_z: correlation of the noise in neighbouring slices,
    -0.5 to 0.5; slices farther apart are independent. `InputError` for anything else.
    """

    per_mm: tuple[float, ...]
    power: tuple[float, ...]
    along_z: float = 0.0

    def __post_init__(self) -> None:
        if len(self.per_mm) != len(self.power) or sorted(set(self.per_mm)) != list(self.per_mm):
            raise InputError("a noise spectrum needs ascending frequencies and a power for each")
        if not all(0 <= p < math.inf for p in self.power) or not any(self.power):
            raise InputError("the powers of a noise spectrum must be 0 or more, and not all 0")
        if not abs(self.along_z) <= 0.5:
            raise InputError(f"a correlation of {self.along_z:g} along z is outside -0.5 to 0.5")

    def on(self, shape: Shape, spacing_mm: tuple[float, float, float]) -> Psd:
        """Power of each DCT-II coefficient on a grid, mean 1, float64; w = 1 if white along z."""
        plane, along = self._factors(shape, spacing_mm)
        psd = plane * along if self.along_z else plane
        return psd / psd.mean()

    def factors(
        self, shape: Shape, spacing_mm: tuple[float, float, float]
    ) -> tuple[Float[Tensor, "x y 1"], Float[Tensor, "1 1 w"]]:
        """Two factors of `on`, each with a mean of 1: in the plane and along z."""
        plane, along = self._factors(shape, spacing_mm)
        return plane / plane.mean(), along / along.mean()

    def _factors(
        self, shape: Shape, spacing_mm: tuple[float, float, float]
    ) -> tuple[Float[Tensor, "x y 1"], Float[Tensor, "1 1 w"]]:
        x, y = (
            torch.arange(n) / (2 * n * mm) for n, mm in zip(shape[:2], spacing_mm, strict=False)
        )
        plane = _interpolated(torch.hypot(x[:, None].double(), y.double()), self)
        if not plane.any():
            raise InputError("the noise spectrum has no power at any frequency of this grid")
        slices = shape[2] if self.along_z else 1
        turn = torch.arange(slices, dtype=torch.float64) * (math.pi / slices)
        return plane[..., None], (1 + 2 * self.along_z * torch.cos(turn))[None, None]

    def mean_square(self, shape: Shape, spacing_mm: tuple[float, float, float]) -> float:
        """Mean square of `on`: 1 if white. Without `on`, which takes 8 bytes per voxel."""
        plane, along = self.factors(shape, spacing_mm)
        return float(plane.square().mean() * along.square().mean())


WHITE = Spectrum((0.0,), (1.0,))


def _interpolated(at: Float[Tensor, "x y"], spectrum: Spectrum) -> Float[Tensor, "x y"]:
    per_mm, power = (torch.tensor(v, dtype=at.dtype) for v in (spectrum.per_mm, spectrum.power))
    if len(per_mm) == 1:
        return torch.full_like(at, spectrum.power[0])
    right = torch.searchsorted(per_mm, at.contiguous()).clamp(1, len(per_mm) - 1)
    share = ((at - per_mm[right - 1]) / (per_mm[right] - per_mm[right - 1])).clamp(0, 1)
    return power[right - 1] + share * (power[right] - power[right - 1])


SHARE = 0.8


def topped_up(
    y: Vol, sigma: float, psd: Psd, white: Vol, share: float = SHARE
) -> tuple[Vol, float]:
    """y with noise added at frequencies that had less, and the sigma at which it is then white.

    sigma, psd: of the noise in y; psd has mean 1. share: of the root of the highest power;
    frequencies above it are left as they are, since the last bit of whiteness costs the most noise.
    """
    level = sigma * share * float(psd.max()) ** 0.5
    return y + filtered(white, (level**2 - sigma**2 * psd).clamp_min(0).sqrt()), level


def filtered(x: Vol, gain: Psd) -> Vol:
    """x with each of its DCT-II coefficients multiplied by `gain`; sqrt(psd) turns white noise into
    noise with that spectrum. Symmetric: <filtered(x), y> = <x, filtered(y)>."""
    axes = _axes(gain)
    return dct(dct(x, axes) * gain.to(x), axes, back=True)


@dataclass(frozen=True)
class Coloured:
    """Stationary noise with a known spectrum. psd: mean 1, not negative, as from `Spectrum.on`."""

    psd: Psd

    def A(self, x: Vol) -> Vol:
        """x."""
        return x

    def At(self, y: Vol) -> Vol:
        """y."""
        return y

    def prox(self, x0: Vol, y: Vol, rho: float) -> Vol:
        """argmin |S^-1/2 (y - x)|^2 + rho |x - x0|^2: (y + rho S x0) / (1 + rho S), by frequency.

        At frequencies without noise (S = 0), the result is y.
        """
        weight = rho * self.psd
        return y + filtered(x0 - y, weight / (1 + weight))


def _axes(psd: Psd) -> tuple[int, ...]:
    """The axes of a volume along which the spectrum is not flat."""
    return (2, 3) if psd.shape[2] == 1 else (2, 3, 4)


def dct(x: Vol, axes: tuple[int, ...], back: bool = False) -> Vol:
    """Orthonormal DCT-II along some axes, or its inverse, by matrix products, without complex
    numbers or mirrored copies."""
    for axis in axes:
        matrix = _matrix(x.shape[axis], x)
        x = (x.movedim(axis, -1) @ (matrix if back else matrix.T)).movedim(-1, axis)
    return x


def _matrix(n: int, like: Tensor) -> Float[Tensor, "n n"]:
    """Row k: sqrt(2/n) cos(pi k (2 i + 1) / (2 n)); row 0 is divided by sqrt 2."""
    k = torch.arange(n, dtype=torch.float64)
    rows = math.sqrt(2 / n) * torch.cos(math.pi / (2 * n) * k[:, None] * (2 * k + 1))
    rows[0] /= math.sqrt(2)
    return rows.to(like)
