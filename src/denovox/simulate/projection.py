"""Parallel-beam projections of a slice, and filtered back-projection.

Slices are x y arrays, sinograms are (detector, view). View j has the angle pi j / views; the ray
through a point meets the detector at y cos - x sin, as in scikit-image.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Float32
from scipy.fft import irfft, next_fast_len, rfft
from scipy.ndimage import map_coordinates
from scipy.sparse import coo_array
from skimage.transform import radon

from ..core.resample import resize

Kernel = Literal["soft", "sharp"]

# Where a kernel's Hann window ends, cycles/mm. Half of that is near the 50 % point of the MTF:
# 0.35 for body kernels (B30), 0.6 to 0.8 cycles/mm for lung and bone kernels (B60, B70).
CUTOFF: dict[Kernel, float] = {"soft": 0.7, "sharp": 1.4}

_CELL_MM = 2.0  # line integrals only determine how many photons arrive and need no detail
_VIEWS = 180
_FINER = 8  # samples of a filtered view per pixel; the nearest is then as good as interpolation


def detectors(shape: tuple[int, int]) -> int:
    """How many pixel-wide detectors cover a slice from every angle; odd, so one is central."""
    return 2 * (int(np.ceil(np.hypot(*shape) / 2)) + 1) + 1


def line_integrals(
    mu: Float[np.ndarray, "x y"], pixel_mm: float, views: int
) -> Float[np.ndarray, "detector views"]:
    """Attenuation (1/mm) integrated along every ray, dimensionless; zero outside the grid.

    On cells of 2 mm and views 1 degree apart, interpolated linearly (`skimage.transform.radon`).
    """
    cell = max(_CELL_MM / pixel_mm, 1.0)  # in pixels
    # Odd grids: the rotation axis is then the centre both of the slice and of the middle cell.
    across = [2 * int(np.ceil((n / cell - 1) / 2)) + 1 for n in mu.shape]
    start = [(n - count * cell) / 2 for n, count in zip(mu.shape, across, strict=True)]
    size = [count * cell for count in across]
    coarse = resize(mu[:, :, None], (*across, 1), (*start, 0), (*size, 1))[:, :, 0]
    margin = [(max(across) - count) // 2 for count in across]
    coarse = np.pad(coarse, [(m, m) for m in margin])
    angles = np.linspace(0, 180, min(views, _VIEWS) + 1)
    seen = radon(coarse, angles, circle=False, preserve_range=True) * (cell * pixel_mm)
    count = detectors((mu.shape[0], mu.shape[1]))
    at_detector = (np.arange(count) - count // 2) / cell + len(seen) // 2
    at_view = np.arange(views) * ((len(angles) - 1) / views)
    grid = np.meshgrid(at_detector, at_view, indexing="ij")
    result: np.ndarray = map_coordinates(seen, grid, order=1, mode="constant")
    return np.maximum(result, 0)


def ray_matrix(shape: tuple[int, int], pixel: float, views: int, count: int) -> Any:
    """Pixels of a slice -> line integrals, in detector bins, as a sparse matrix; for iterative
    reconstruction: its adjoint is its transpose.

    pixel: their edge in detector bins, 1/2 or less for the line integrals of pixels that are
    squares; each is shared by the two bins next to its centre. count: of the detector's bins, as
    from `detectors`. Rows are those of a flat (detector, view) array, columns of (x, y).
    """
    x, y = (pixel * (np.arange(n) - (n - 1) / 2) for n in shape)
    turn, view = np.pi * np.arange(views)[:, None, None] / views, np.arange(views)[:, None]
    at = (y * np.cos(turn) - x[:, None] * np.sin(turn)).reshape(views, -1) + count // 2
    low, share = at.astype(int), at % 1
    rows = np.ravel([low * views + view, (low + 1) * views + view])
    columns = np.broadcast_to(np.arange(at.shape[1]), (2, *at.shape)).ravel()
    entries = pixel**2 * np.ravel([1 - share, share]), (rows, columns)
    return coo_array(entries, (count * views, at.shape[1])).tocsr()


def response(count: int, pixel_mm: float, kernel: Kernel) -> Float[np.ndarray, " frequencies"]:
    """Ramp times the kernel's Hann window at the frequencies of an `rfft` of length `count`, 1/mm.

    The ramp is the transform of its samples in space, so that its mean is correct (Kak and Slaney
    1988, eq. 3.61); the frequency of entry k is k / (count pixel_mm).
    """
    taps = np.zeros(count)
    taps[0] = 1 / 4
    odd = np.arange(1, count // 2 + 1, 2)
    taps[odd] = taps[-odd] = -1 / (np.pi * odd) ** 2
    share = np.arange(count // 2 + 1) / (count * pixel_mm * CUTOFF[kernel])
    window = np.where(share < 1, np.cos(np.pi / 2 * share) ** 2, 0)
    return rfft(taps).real * window / pixel_mm


def back_project(
    sinogram: Float[np.ndarray, "detector views"],
    shape: tuple[int, int],
    pixel_mm: float,
    kernel: Kernel,
) -> Float32[np.ndarray, "x y"]:
    """Filtered back-projection: line integrals -> attenuation, 1/mm (Kak and Slaney 1988, ch. 3).

    Each filtered view is sampled 8 times per pixel by its Fourier series. By contrast,
    `skimage.transform.iradon` interpolates linearly between pixels, which halves a ramp's noise
    everywhere except on the rotation axis.
    """
    count, views = sinogram.shape
    length = next_fast_len(2 * count, real=True)
    length += length % 2
    spectrum = rfft(sinogram.T.astype(np.float32), length)
    spectrum *= response(length, pixel_mm, kernel).astype(np.float32)
    filtered = irfft(spectrum, _FINER * length)[:, : _FINER * count] * np.float32(_FINER)
    total = np.zeros(shape, np.float32)
    x, y = (_FINER * (np.arange(n) - (n - 1) / 2) for n in shape)
    middle = _FINER * (count // 2) + 0.5  # half a sample, as casting truncates
    for angle, view in zip(np.pi * np.arange(views) / views, filtered, strict=True):
        along_x = (middle - x * np.sin(angle)).astype(np.float32)
        along_y = (y * np.cos(angle)).astype(np.float32)
        total += view[(along_x[:, None] + along_y).astype(np.intp)]
    return total * np.float32(np.pi / views)
