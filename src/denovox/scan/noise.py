"""SD and spectrum of a scan's noise, estimated from the scan itself.

Noise after filtered back-projection is coloured: a ramp times the kernel's roll-off (Riederer,
Pelc and Chesler 1978). It is measured in flat squares of soft tissue, whose periodograms are
averaged (Siewerdsen, Cunningham and Jaffray 2002), in two ways. At each frequency the smaller power
counts, because anatomy can only add to it:

- within slices, each square minus its best-fit plane: the only way with a single slice;
- in differences of neighbouring slices over sqrt 2: anatomy cancels where slices are thin. Noise
  that the two slices share cancels too; how much is estimated from the finest frequencies, where
  there is least anatomy. Slices thicker than `THICK_MM` are assumed to share none.

The remaining anatomy lies at the lowest frequencies. There, noise is assumed to have no more power
than predicted by a fit to the higher frequencies. On a grid so coarse that most of the noise lies
there (a soft kernel on 4 mm pixels), this finds little more than half of its SD.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped
from scipy import ndimage
from scipy.optimize import nnls

from ..core.errors import InputError
from ..core.labels import BODY
from ..core.operators.coloured_noise import WHITE, Spectrum
from ..core.volume import Volume
from .noise_level import estimate_noise_hu

THICK_MM = 3.0
SIZES = (32, 24, 16, 12)  # edge of a square in voxels; the largest with enough squares is used
ENOUGH, MOST = 24, 1500  # number of squares
FLATTEST = 0.4  # share of the squares that is used
SMOOTH_MM = 3.0  # what remains after this blur counts as anatomy
ANATOMY_PER_MM = 0.1  # below this frequency, anatomy may exceed noise
ROLL_OFFS = 41  # candidates, from none to a fall to 1/e at that frequency
FINE = 0.6  # of the Nyquist frequency; there is least anatomy above it
LOCAL_MM, WORK_MM = 25.0, 6.0  # blur of the local SD, and voxel size of the grid for it
LEAST_SHARE = 0.5  # lower bound of the local SD, relative to the SD in the squares

Plane = tuple[float, float]


@dataclass(frozen=True)
class NoiseModel:
    """The noise of a scan.

    sd_hu: median SD in soft tissue, HU, over all frequencies. spectrum: within and across slices.
    squares: how many were used, and their edge in voxels.
    """

    sd_hu: float
    spectrum: Spectrum
    squares: tuple[int, int]


@dataclass(frozen=True)
class RegionNoise:
    """The noise assumed in slices [start, stop), which belong to one region; sd_hu in HU."""

    region: str
    start: int
    stop: int
    sd_hu: float
    spectrum: Spectrum


def estimate(volume: Volume, coarse: Integer[np.ndarray, "x y z"]) -> NoiseModel:
    """The noise of a scan, or of its slices of one region.

    coarse: label map from `scan/anatomy.coarse`. With too few flat squares, the noise is assumed to
    be white and uniform, with the SD of `scan/noise_level.py`. `InputError` if there is too little
    soft tissue even for that, or no noise in it.
    """
    hu = volume.hu.astype(np.float32, copy=False)
    mm = volume.spacing_mm
    blur = ndimage.gaussian_filter(hu, [SMOOTH_MM / mm[0], SMOOTH_MM / mm[1], 0])
    soft = (coarse == BODY) & (blur > -150) & (blur < 250)
    size, corners = _squares(soft, blur)
    if not len(corners):
        return NoiseModel(estimate_noise_hu(volume, coarse), WHITE, (0, 0))
    in_slices = _power(hu, corners, size)
    shared, power = 0.0, in_slices
    neighbours = corners[corners[:, 2] + 1 < hu.shape[2]]
    if len(neighbours) >= ENOUGH:
        across = _power(hu, neighbours, size, differ=True)
        if mm[2] <= THICK_MM:
            fine = _per_voxel(size, (1.0, 1.0)) >= FINE / 2
            shared = 1 - float(across[fine].mean() / max(in_slices[fine].mean(), 1e-12))
            shared = min(max(shared, 0.0), 0.5)
        power = np.minimum(in_slices, across / (1 - shared))
    power = _below_fit(power, _per_voxel(size, mm[:2]))
    sd_hu = float(np.sqrt(power.mean()))
    if sd_hu == 0:
        raise InputError("there is no noise in the scan's soft tissue; give it with --noise-hu")
    per_mm, radial = _radial(power, size, mm[:2])
    spectrum = Spectrum(tuple(per_mm), tuple(radial / radial.max()), shared)
    sd_hu *= _body_share(hu, soft, corners, size, mm)
    return NoiseModel(sd_hu, spectrum, (len(corners), size))


def _squares(
    soft: Bool[np.ndarray, "x y z"], blur: Float[np.ndarray, "x y z"]
) -> tuple[int, Integer[np.ndarray, "n 3"]]:
    """Edge and corners of the flattest squares of soft tissue, overlapping by half, if any."""
    for size in SIZES:
        step = size // 2
        x, y = (np.arange(0, n - size + 1, step) for n in soft.shape[:2])
        if not (len(x) and len(y)):
            continue
        total = _sums(soft, x, y, size)
        found = np.argwhere(total == size * size)
        if len(found) < ENOUGH:
            continue
        mean, square = (_sums(v, x, y, size) / size**2 for v in (blur, np.square(blur)))
        rough = (square - mean**2)[tuple(found.T)]
        keep = np.argsort(rough)[: min(max(ENOUGH, int(FLATTEST * len(found))), MOST)]
        return size, found[keep] * [step, step, 1]
    return 0, np.zeros((0, 3), np.int64)


def _sums(
    values: Shaped[np.ndarray, "x y z"],
    x: Integer[np.ndarray, " a"],
    y: Integer[np.ndarray, " b"],
    size: int,
) -> Float[np.ndarray, "a b z"]:
    """Sums over squares with corners at every x and y, from a running sum of each slice."""
    out = np.empty((len(x), len(y), values.shape[2]))
    for k in range(values.shape[2]):
        run = np.pad(values[..., k].astype(np.float64).cumsum(0).cumsum(1), ((1, 0), (1, 0)))
        low, high = run[x], run[x + size]
        out[..., k] = high[:, y + size] - high[:, y] - low[:, y + size] + low[:, y]
    return out


def _power(
    hu: Float[np.ndarray, "x y z"],
    corners: Integer[np.ndarray, "n 3"],
    size: int,
    differ: bool = False,
) -> Float[np.ndarray, "s s"]:
    """Mean periodogram of squares minus their planes; its mean is the variance of the noise.

    differ: subtract the squares of the next slice, and divide by sqrt 2.

    A square with more than three times the median at a frequency counts as three times the median.
    """

    def cut(shift: int) -> Float[np.ndarray, "n s s"]:
        return np.stack([hu[a : a + size, b : b + size, c + shift] for a, b, c in corners])

    squares = ((cut(1) - cut(0)) / np.sqrt(np.float32(2)) if differ else cut(0)).astype(float)
    i = np.arange(size) - (size - 1) / 2
    basis = np.stack([np.ones((size, size)), i[:, None] + 0 * i, i + 0 * i[:, None]]).reshape(3, -1)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    flat = squares.reshape(len(squares), -1)
    squares = (flat - flat @ basis.T @ basis).reshape(squares.shape)
    taper = np.hanning(size + 2)[1:-1]
    window = taper[:, None] * taper
    found = np.abs(np.fft.fft2(squares * window)) ** 2 / np.square(window).sum()
    # Single frequencies of a periodogram are exponentially distributed, so 1 in 8 exceeds three
    # times the median; means over rings rarely do, except at edges.
    ring = _ring(size)
    means = np.stack([np.bincount(ring, p.ravel()) for p in found]) / np.bincount(ring)
    kept = np.minimum(means, 3 * np.median(means, axis=0)).mean(0)
    return kept[ring].reshape(size, size)


def _below_fit(
    power: Float[np.ndarray, "s s"], per_mm: Float[np.ndarray, "s s"]
) -> Float[np.ndarray, "s s"]:
    """Power, limited below `ANATOMY_PER_MM` to the prediction from the frequencies above it.

    They are fitted by (a + b f) exp(-c f^2), a and b not negative: white noise and a ramp, with a
    Gaussian roll-off. Errors are relative to the power, as those of a periodogram are.
    """
    step = per_mm[per_mm > 0].min()
    low = max(ANATOMY_PER_MM, 1.5 * step)
    above = per_mm >= low
    f, scale = per_mm[above], np.maximum(power[above], 0.02 * power[above].mean())
    if not scale.all():
        return power  # no noise at all
    fits = []
    for c in np.linspace(0, 1, ROLL_OFFS) / low**2:
        terms = np.stack([np.ones_like(f), f], 1) * np.exp(-c * f**2)[:, None]
        (a, b), error = nnls(terms / scale[:, None], power[above] / scale)
        fits.append((float(error), float(a), float(b), float(c)))
    _, a, b, c = min(fits)
    # The ring that contains frequency 0 is half a step wide.
    predicted = (a + b * np.maximum(per_mm, step / 2)) * np.exp(-c * per_mm**2)
    return np.where(above, power, np.minimum(power, predicted))


def _per_voxel(size: int, mm: Plane) -> Float[np.ndarray, "s s"]:
    """Radial frequency of each coefficient of a square's DFT, in cycles per unit of `mm`."""
    return np.hypot(np.fft.fftfreq(size, mm[0])[:, None], np.fft.fftfreq(size, mm[1]))


def _ring(size: int) -> Integer[np.ndarray, " t"]:
    """Ring number of each coefficient; rings are one coefficient wide."""
    return np.rint(_per_voxel(size, (1.0, 1.0)) * size).astype(int).ravel()


def _radial(
    power: Float[np.ndarray, "s s"], size: int, mm: Plane
) -> tuple[Float[np.ndarray, " k"], Float[np.ndarray, " k"]]:
    """Frequency in cycles per mm and power of each ring."""
    ring = _ring(size)
    count = np.bincount(ring)
    per_mm = np.bincount(ring, _per_voxel(size, mm).ravel()) / count
    return per_mm, np.bincount(ring, power.ravel()) / count


def _body_share(
    hu: Float[np.ndarray, "x y z"],
    soft: Bool[np.ndarray, "x y z"],
    corners: Integer[np.ndarray, "n 3"],
    size: int,
    mm: tuple[float, float, float],
) -> float:
    """Median SD of the noise in soft tissue relative to its SD in the squares, `LEAST_SHARE` to 1.

    Flat squares lie deep in the body, where there is more noise than in most of it. Texture only
    adds to the local SD, so a ratio above 1 is not due to noise.

    The local SD, up to a factor, is the mean absolute diagonal difference in soft tissue, blurred
    over `LOCAL_MM`: the spectrum is the same everywhere, so any fixed filter measures it. With two
    or more slices, differences of slices are used; because of edges, each voxel counts as 4 medians
    at most. Where there is no soft tissue nearby, the local SD is the mean.
    """
    some = range(0, hu.shape[2], max(1, hu.shape[2] // 8))
    sizes = [np.abs(detail[inside]) for detail, inside in (_detail(hu, soft, k) for k in some)]
    most = 4 * float(np.median(np.concatenate(sizes))) if any(map(len, sizes)) else np.inf
    factor = [min(max(1, round(WORK_MM / step)), n) for step, n in zip(mm, hu.shape, strict=True)]
    shape = [-(-n // f) for n, f in zip(hu.shape, factor, strict=True)]
    weight, sums = np.zeros(shape), np.zeros(shape)
    for k in range(hu.shape[2]):
        detail, inside = _detail(hu, soft, k)
        plane = k // factor[2]
        weight[..., plane] += _blocks(inside, factor, shape)
        counted = np.where(inside, np.minimum(np.abs(detail), most), 0)
        sums[..., plane] += _blocks(counted, factor, shape)
    wide = [LOCAL_MM / (step * f) for step, f in zip(mm, factor, strict=True)]
    weight, sums = (ndimage.gaussian_filter(v, wide, mode="reflect") for v in (weight, sums))
    mean = sums.sum() / max(weight.sum(), 1e-9)
    little = 0.02 * np.prod(factor)
    local = ((sums + little * mean) / (weight + little)).astype(np.float32)
    for axis, (n, f) in enumerate(zip(hu.shape, factor, strict=True)):
        local = _along(local, (np.arange(n) + 0.5) / f - 0.5, axis)
    used = np.concatenate([local[a : a + size, b : b + size, c].ravel() for a, b, c in corners])
    rms = np.sqrt(np.square(used).mean())
    if not rms:
        return 1.0
    return min(1.0, float(np.median(np.maximum(local[soft] / rms, LEAST_SHARE))))


def _detail(
    hu: Float[np.ndarray, "x y z"], soft: Bool[np.ndarray, "x y z"], k: int
) -> tuple[Float[np.ndarray, "u v"], Bool[np.ndarray, "u v"]]:
    """Diagonal differences of slice k minus its neighbour, and where they lie in soft tissue."""
    near = k + 1 if k + 1 < hu.shape[2] else max(k - 1, 0)
    plane = hu[..., k] - hu[..., near] if near != k else hu[..., k]
    both = soft[..., k] & soft[..., near]
    detail = plane[:-1, :-1] - plane[1:, :-1] - plane[:-1, 1:] + plane[1:, 1:]
    return detail, both[:-1, :-1] & both[1:, :-1] & both[:-1, 1:] & both[1:, 1:]


def _blocks(
    plane: Shaped[np.ndarray, "x y"], factor: list[int], shape: list[int]
) -> Float[np.ndarray, "u v"]:
    """Sums over blocks of `factor` voxels; missing voxels at the ends count as 0."""
    (u, v), (a, b) = shape[:2], factor[:2]
    pads = [(0, u * a - plane.shape[0]), (0, v * b - plane.shape[1])]
    return np.pad(plane.astype(np.float64), pads).reshape(u, a, v, b).sum((1, 3))


def _along(
    values: Float[np.ndarray, "x y z"], where: Float[np.ndarray, " n"], axis: int
) -> Float[np.ndarray, "u v w"]:
    """Linear interpolation along an axis, constant beyond its ends."""
    last = values.shape[axis] - 1
    where = np.clip(where, 0, last)
    low = np.minimum(where.astype(int), max(last - 1, 0))
    shape = [-1 if n == axis else 1 for n in range(3)]
    share = (where - low).astype(np.float32).reshape(shape)
    below, above = values.take(low, axis), values.take(np.minimum(low + 1, last), axis)
    return below + share * (above - below)
