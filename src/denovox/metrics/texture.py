"""The texture of a CT in 37 numbers that need no network: histogram, GLCM, Haar.

Computed from the windowed values of the whole body: co-occurrence after Haralick et al. 1973,
wavelet after Mallat 1989. They detect what a mean hides: too little noise, noise that is too white,
steps between slices. They depend on the grid, so both sets must have the same spacing. They are not
IBSI features, which are defined on resampled tumours.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float, Float64, Int64
from scipy import ndimage

from ..core.errors import ensure
from ..core.volume import Window

AXES = ("x", "y", "z")
LEVELS, OCTAVES = 16, 3  # of grey in the co-occurrence matrix; of the wavelet
LEAST = 2**OCTAVES  # voxels along each axis
QUIET = 1e-6  # added to an energy before its logarithm: an SD of 1/1000 of half the window
HISTOGRAM = ("mean", "sd", "skewness", "kurtosis", "entropy", "p10", "p50", "p90", "floor", "top")
MATRIX = ("contrast", "homogeneity", "energy", "correlation", "entropy")
BANDS = (*AXES, "mixed")
NAMES = (
    *(f"histogram {name}" for name in HISTOGRAM),
    *(f"glcm {axis} {name}" for axis in AXES for name in MATRIX),
    *(f"haar {octave + 1} {band}" for octave in range(OCTAVES) for band in BANDS),
)

Values = Float[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]


def texture(hu: Values, window: Window, body: Mask | None = None) -> Float64[np.ndarray, " f"]:
    """The features of `NAMES`, in model units of the window (energies: log10 of units squared).

    hu: x y z, HU. body: voxels to use; None: above -300 HU, with holes in each slice filled.
    `InputError` where an axis has fewer than 8 voxels, or no 8 x 8 x 8 voxels are all body.
    """
    ensure(min(hu.shape) >= LEAST, f"{hu.shape} voxels are too few; give at least {LEAST} per axis")
    if body is None:
        body = _inside(hu > -300)
    unit = np.clip(window.unit(hu.astype(np.float32)), -1, 1)
    found = [_histogram(unit[body]), _matrices(unit, body), _wavelet(unit, body)]
    return np.concatenate(found)


def _inside(dense: Mask) -> Mask:
    return ndimage.binary_fill_holes(dense, np.pad([[[1]], [[1]], [[1]]], ((0, 0), (1, 1), (0, 0))))


def _histogram(inside: Float[np.ndarray, " n"]) -> Float64[np.ndarray, " f"]:
    """Moments, entropy of 32 bins in bits, percentiles, shares at the two ends of the window."""
    ensure(inside.size, "no voxel is above -300 HU; give a CT that shows a body")
    values = inside.astype(np.float64)
    mean, sd = values.mean(), values.std()
    z = (values - mean) / sd if sd > 1e-6 else np.zeros_like(values)  # constant, up to float32
    bins = np.bincount(np.minimum((values + 1) * 16, 31).astype(int), minlength=32) / len(values)
    ends = (values <= -1).mean(), (values >= 1).mean()
    tenths = np.percentile(values, [10, 50, 90])
    return np.array([mean, sd, (z**3).mean(), (z**4).mean(), _entropy(bins), *tenths, *ends])


def _entropy(p: Float[np.ndarray, "*_"]) -> float:
    return float(-(p[p > 0] * np.log2(p[p > 0])).sum())


def _matrices(unit: Values, body: Mask) -> Float64[np.ndarray, " f"]:
    grey = np.minimum((unit + 1) * (LEVELS / 2), LEVELS - 1).astype(np.int64)
    return np.concatenate([haralick(cooccurrence(grey, body, axis)) for axis in range(3)])


def cooccurrence(
    grey: Int64[np.ndarray, "x y z"], body: Mask, axis: int, levels: int = LEVELS
) -> Float64[np.ndarray, "levels levels"]:
    """Frequency of each pair of grey levels in neighbours along an axis, both in the body.

    Each pair counts in both orders; the sum is 1, or 0 where there is no pair.
    """
    near, far = ((slice(None),) * axis + (slice(a, b),) for a, b in ((None, -1), (1, None)))
    both = body[near] & body[far]
    pairs = grey[near][both] * levels + grey[far][both]
    counts = np.bincount(pairs, minlength=levels * levels).reshape(levels, levels)
    counts = counts + counts.T
    return counts / max(counts.sum(), 1)


def haralick(p: Float64[np.ndarray, "g g"]) -> Float64[np.ndarray, " f"]:
    """`MATRIX` features of a symmetric matrix of sum 1; the correlation of a constant is 1."""
    i, j = np.indices(p.shape)
    apart = (i - j) ** 2
    mean = (p * i).sum()
    variance = (p * (i - mean) ** 2).sum()
    shared = (p * (i - mean) * (j - mean)).sum()
    correlation = shared / variance if variance > 0 else 1.0
    features = (p * apart).sum(), (p / (1 + apart)).sum(), (p**2).sum(), correlation, _entropy(p)
    return np.array(features)


def _wavelet(unit: Values, body: Mask) -> Float64[np.ndarray, " f"]:
    """log10 energies of the Haar bands per octave: detail along single axes, then along several."""
    found, low, inside = [], unit, body
    for _ in range(OCTAVES):
        bands, inside = haar(low), _whole(inside)
        ensure(
            inside.any(), f"no {LEAST} x {LEAST} x {LEAST} voxels are all body; give larger scans"
        )
        low = bands[0, 0, 0]
        single = [bands[1, 0, 0], bands[0, 1, 0], bands[0, 0, 1]]
        mixed = [bands[1, 1, 0], bands[1, 0, 1], bands[0, 1, 1], bands[1, 1, 1]]
        energies = [float(np.mean(band[inside].astype(np.float64) ** 2)) for band in single + mixed]
        found += [*energies[:3], float(np.mean(energies[3:]))]
    return np.log10(np.array(found) + QUIET)


def haar(values: Values) -> dict[tuple[int, int, int], Float[np.ndarray, "x2 y2 z2"]]:
    """One octave of the orthonormal 3D Haar wavelet: (detail along x, y, z or not) -> band.

    White noise keeps its variance in every band. An odd last voxel along an axis is dropped.
    """
    bands: dict[tuple[int, ...], Values] = {(): values}
    for axis in range(3):
        halved: dict[tuple[int, ...], Values] = {}
        for name, band in bands.items():
            even, odd = _pairs(band, axis)
            halved[(*name, 0)] = (even + odd) / np.float32(np.sqrt(2))
            halved[(*name, 1)] = (even - odd) / np.float32(np.sqrt(2))
        bands = halved
    return {(a, b, c): band for (a, b, c), band in bands.items()}


def _pairs(values: np.ndarray, axis: int) -> tuple[np.ndarray, np.ndarray]:
    stop = values.shape[axis] // 2 * 2
    even, odd = ((slice(None),) * axis + (slice(start, stop, 2),) for start in (0, 1))
    return values[even], values[odd]


def _whole(inside: Mask) -> Bool[np.ndarray, "x2 y2 z2"]:
    """Cells of 2 x 2 x 2 voxels that are all inside."""
    for axis in range(3):
        even, odd = _pairs(inside, axis)
        inside = even & odd
    return inside
