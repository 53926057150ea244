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
from jaxtyping import Float, Integer, Shaped
from scipy.optimize import nnls

from ..core.errors import InputError
from ..core.operators.coloured_noise import WHITE, Spectrum
from ..core.volume import Volume, within
from .local_noise import SoftTissue, body_share
from .noise_level import estimate_noise_hu
from .noise_map import slabs

THICK_MM = 3.0
SIZES = (32, 24, 16, 12)  # edge of a square in voxels; the largest with enough squares is used
ENOUGH, MOST = 24, 1500  # number of squares
SOME = 64  # squares transformed at a time
FLATTEST = 0.4  # share of the squares that is used
ANATOMY_PER_MM = 0.1  # below this frequency, anatomy may exceed noise
ROLL_OFFS = 41  # candidates, from none to a fall to 1/e at that frequency
FINE = 0.6  # of the Nyquist frequency; there is least anatomy above it

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


def estimate(
    volume: Volume, coarse: Integer[np.ndarray, "x y z"], white_below: float = 0.0
) -> NoiseModel:
    """The noise of a scan, or of its slices of one region.

    coarse: label map from `scan/anatomy.coarse`. white_below: noise whose spectrum has a smaller
    mean square counts as white. With too few flat squares, so does any noise. The SD is then that
    of `scan/noise_level.py`, which has no uncertain low frequencies. `InputError` if there is too
    little soft tissue even for that, or no noise in it.
    """
    mm = volume.spacing_mm
    squares = _Squares(SIZES[0])
    tissue = SoftTissue.of(volume.hu, coarse, mm, squares.look)
    size, corners = (
        (0, np.zeros((0, 3), np.int64)) if tissue is None else _flattest(tissue, squares)
    )
    if tissue is None or not len(corners):
        return NoiseModel(estimate_noise_hu(volume, coarse), WHITE, (0, 0))
    hu = volume.hu
    in_slices = _power(hu, corners, size)
    shared, power = 0.0, in_slices
    neighbours = corners[corners[:, 2] + 1 < hu.shape[2]]
    if len(neighbours) >= ENOUGH:
        across = _power(hu, neighbours, size, differ=True)
        if within(mm[2], 0, THICK_MM):
            fine = _per_voxel(size, (1.0, 1.0)) >= FINE / 2
            shared = 1 - float(across[fine].mean() / max(in_slices[fine].mean(), 1e-12))
            shared = min(max(shared, 0.0), 0.5)
        power = np.minimum(in_slices, across / (1 - shared))
    power = _below_fit(power, _per_voxel(size, mm[:2]))
    sd_hu = float(np.sqrt(power.mean()))
    if sd_hu == 0:
        raise InputError("the scan's soft tissue shows no noise; set its SD with --noise-hu")
    per_mm, radial = _radial(power, size, mm[:2])
    spectrum = Spectrum(tuple(per_mm), tuple(radial / radial.max()), shared)
    if spectrum.mean_square(volume.shape, mm) < white_below:
        return NoiseModel(estimate_noise_hu(volume, coarse), WHITE, (len(corners), size))
    sd_hu *= body_share(tissue, corners, size)
    return NoiseModel(sd_hu, spectrum, (len(corners), size))


class _Squares:
    """Squares of one size, overlapping by half: which lie in soft tissue, and their roughness."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.whole = np.zeros((0, 0, 0), bool)
        self.rough = np.zeros((0, 0, 0))

    def look(self, tissue: SoftTissue, planes: slice, blur: Float[np.ndarray, "k u v"]) -> None:
        """Look at some slices, as `SoftTissue.of` finds them; blur: overwritten."""
        if self.found(tissue, planes):
            self.measure(tissue, planes, blur)

    def found(self, tissue: SoftTissue, planes: slice) -> bool:
        """Whether slices have squares in soft tissue."""
        x, y = self.corners(tissue)
        if not (len(x) and len(y)):
            return False
        if not self.whole.size:
            self.whole = np.zeros((len(x), len(y), len(tissue.soft)), bool)
            self.rough = np.zeros(self.whole.shape)
        inside = _sums(tissue.soft[planes], x, y, self.size, np.int32)
        self.whole[..., planes] = inside == self.size**2
        return bool(self.whole[..., planes].any())

    def measure(self, tissue: SoftTissue, planes: slice, blur: Float[np.ndarray, "k u v"]) -> None:
        """Variance of the blurred slices within each square."""
        (x, y), size = self.corners(tissue), self.size
        mean = _sums(blur, x, y, size) / size**2
        self.rough[..., planes] = _sums(np.square(blur, out=blur), x, y, size) / size**2
        self.rough[..., planes] -= mean**2

    def corners(self, tissue: SoftTissue) -> tuple[Integer[np.ndarray, " a"], ...]:
        """Of the squares that fit, along x and along y."""
        step = self.size // 2
        return tuple(
            np.arange(-first % step, n - self.size + 1, step)
            for first, n in zip(tissue.start, tissue.soft.shape[1:], strict=True)
        )


def _flattest(tissue: SoftTissue, largest: _Squares) -> tuple[int, Integer[np.ndarray, "n 3"]]:
    """Edge and corners of the flattest squares, of the largest size with enough of them, if any.

    largest: squares of the largest size, which have been looked at.
    """
    for size in SIZES:
        squares = largest if size == largest.size else _Squares(size)
        if squares is not largest:
            for planes in slabs(len(tissue.soft)):
                if squares.found(tissue, planes):
                    squares.measure(tissue, planes, tissue.blur(planes))
        found = np.argwhere(squares.whole)
        if len(found) < ENOUGH:
            continue
        x, y = squares.corners(tissue)
        rough = squares.rough[squares.whole]
        keep = np.argsort(rough)[: min(max(ENOUGH, int(FLATTEST * len(found))), MOST)]
        u, v, k = found[keep].T
        return size, np.stack([x[u] + tissue.start[0], y[v] + tissue.start[1], k], axis=1)
    return 0, np.zeros((0, 3), np.int64)


def _sums(
    planes: Shaped[np.ndarray, "z x y"],
    x: Integer[np.ndarray, " a"],
    y: Integer[np.ndarray, " b"],
    size: int,
    dtype: type = np.float64,
) -> Shaped[np.ndarray, "a b z"]:
    """Sums over squares with corners at every x and y, from a running sum of each plane."""
    run = np.zeros((len(planes), planes.shape[2] + 1), dtype)
    rows = {}
    needed = {*x.tolist(), *(x + size).tolist()}
    for i in range(int(x[-1]) + size + 1):
        if i in needed:
            along = run.copy()
            along[:, 1:].cumsum(1, out=along[:, 1:])
            rows[i] = along[:, y + size], along[:, y]
        if i < planes.shape[1]:
            run[:, 1:] += planes[:, i]
    out: np.ndarray = np.empty((len(x), len(y), len(planes)), dtype)
    for k, first in enumerate(x.tolist()):
        (high_far, high_near), (low_far, low_near) = rows[first + size], rows[first]
        out[k] = (high_far - high_near - low_far + low_near).T
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
        found = np.stack([hu[a : a + size, b : b + size, c + shift] for a, b, c in corners])
        return found.astype(np.float32, copy=False)

    squares = ((cut(1) - cut(0)) / np.sqrt(np.float32(2)) if differ else cut(0)).astype(float)
    i = np.arange(size) - (size - 1) / 2
    basis = np.stack([np.ones((size, size)), i[:, None] + 0 * i, i + 0 * i[:, None]]).reshape(3, -1)
    basis /= np.linalg.norm(basis, axis=1, keepdims=True)
    flat = squares.reshape(len(squares), -1)
    squares = (flat - flat @ basis.T @ basis).reshape(squares.shape)
    taper = np.hanning(size + 2)[1:-1]
    window = taper[:, None] * taper
    # Single frequencies of a periodogram are exponentially distributed, so 1 in 8 exceeds three
    # times the median; means over rings rarely do, except at edges.
    ring = _ring(size)
    count = int(ring.max()) + 1
    means = np.empty((len(squares), count))
    for first in range(0, len(squares), SOME):  # all at once would take more time for its memory
        some = squares[first : first + SOME]
        power = np.square(np.abs(np.fft.fft2(some * window))) / np.square(window).sum()
        at = np.arange(len(some))[:, None] * count + ring
        means[first : first + SOME] = np.bincount(at.ravel(), power.ravel()).reshape(-1, count)
    means /= np.bincount(ring)
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
