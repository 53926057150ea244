"""What a restoration removed, before - after: is it noise, or does it contain structure?

Three measures that an honest denoiser keeps small, and that need no reference. They are one-sided:
the posterior mean removes less at edges than elsewhere, and less of the low frequencies than the
noise has, so its residual deviates in the other direction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float
from scipy import ndimage

from ..core.operators.coloured_noise import Spectrum, filtered
from ..core.tensors import tensor
from ..scan.noise import RegionNoise

LAGS = 4  # voxels, in plane; along z only one
EDGE_SMOOTH = 1.5  # voxels: gradients should not be those of the restored image's noise
EDGES, FLAT = 0.95, 0.5  # quantiles of the gradient in a slice: edges above, flat regions below
AROUND = 41  # voxels: neighbourhood whose flat voxels give the local level of the residual
FINE, COARSE = (
    1.0,
    3.0,
)  # voxels: detail is the difference between these blurs of the restored image
LEAST = 500  # voxels
FLOOR = 0.1  # of a spectrum's mean: frequencies below this are not fully whitened

Lags = Float[np.ndarray, " lags"]
Plane = Float[np.ndarray, "x y"]


@dataclass(frozen=True)
class Residual:
    """Properties of the residual within the body, in the voxels that changed.

    voxels: their number; with fewer than 500, everything else is None.
    rms_hu: its RMS. mean_hu: its mean. of_noise: its RMS in units of the given noise SD.
    edge_ratio: its RMS at the strongest edges of the restored image over that of flat regions
        nearby; 1 for stationary noise, more where edges were removed as well.
    structure: correlation, at those edges, with the detail of the restored image; 0 for noise, more
        where the detail was smoothed, less where it was exaggerated.
    autocorrelation: at lags of 1 to 4 voxels along x and y, and 1 along z; in plane, after a filter
        that whitens noise of the given spectrum.
    expected: the same for the given noise: 0, except along z, and where the spectrum has too little
        power to be whitened. None where no noise was given.
    excess: the maximum of autocorrelation - expected; None where expected is.
    """

    voxels: int
    rms_hu: float | None = None
    mean_hu: float | None = None
    of_noise: float | None = None
    edge_ratio: float | None = None
    structure: float | None = None
    autocorrelation: dict[str, list[float]] | None = None
    expected: dict[str, list[float]] | None = None
    excess: float | None = None


def residual(
    before: Float[np.ndarray, "x y z"],
    after: Float[np.ndarray, "x y z"],
    inside: Bool[np.ndarray, "x y z"],
    spacing_mm: tuple[float, float, float],
    noise: Sequence[RegionNoise] = (),
) -> Residual:
    """Properties of before - after (HU) within a mask.

    noise: the assumed noise, region by region. Its SD is divided out first, except in the RMS and
    the mean, which are in HU.
    """
    removed = before.astype(np.float32) - after
    where = inside & (removed != 0)  # voxels far outside the window are returned unchanged
    count = int(np.count_nonzero(where))
    if count < LEAST:
        return Residual(count)
    values = removed[where].astype(np.float64)
    rms, mean = float(np.sqrt(np.mean(values**2))), float(values.mean())
    del values  # 8 bytes a voxel
    of_noise = None
    if noise:
        removed = removed / sd_along(noise, removed.shape[2]).astype(np.float32)
        of_noise = float(np.sqrt(np.mean(np.square(removed[where], dtype=np.float64))))
    removed = np.where(where, removed - removed[where].mean(dtype=np.float64).astype(np.float32), 0)
    ratio, structure = _at_edges(removed, after, where)
    removed = whitened(removed, noise, spacing_mm)
    found = autocorrelation(removed, where)
    expected = _expected(noise, spacing_mm) if noise else None
    above = (
        []
        if expected is None
        else [found[axis] - expected[axis][: len(found[axis])] for axis in "xyz"]
    )
    excess = max((float(lags.max()) for lags in above if len(lags)), default=None)
    return Residual(
        count,
        rms,
        mean,
        of_noise,
        ratio,
        structure,
        {axis: [float(v) for v in values] for axis, values in found.items()},
        None
        if expected is None
        else {axis: [float(v) for v in values] for axis, values in expected.items()},
        excess,
    )


def sd_along(noise: Sequence[RegionNoise], slices: int) -> Float[np.ndarray, " z"]:
    """SD of the noise in each slice, HU; beyond the regions, that of the nearest one."""
    borders = [each.stop for each in noise[:-1]]
    sds = np.array([each.sd_hu for each in noise], np.float64)
    return sds[np.searchsorted(borders, np.arange(slices), side="right")]


def whitened(
    removed: Float[np.ndarray, "x y z"],
    noise: Sequence[RegionNoise],
    spacing_mm: tuple[float, float, float],
) -> Float[np.ndarray, "x y z"]:
    """What was removed, filtered in plane to whiten noise of its region's spectrum.

    Frequencies below `FLOOR` of the mean power are amplified no more than those at `FLOOR`.
    """
    out = removed.astype(np.float32)
    for each in noise:
        z = slice(each.start, each.stop)
        psd = replace(each.spectrum, along_z=0.0).on((*removed.shape[:2], 1), spacing_mm)
        gain = psd.clamp_min(FLOOR).rsqrt()
        out[..., z] = filtered(tensor(out[..., z]), gain)[0, 0].numpy()
    return out


def _expected(
    noise: Sequence[RegionNoise], spacing_mm: tuple[float, float, float]
) -> dict[str, Lags]:
    """Autocorrelation of the given noise after `whitened`, regions weighted by their slices."""
    each = [expected_autocorrelation(region.spectrum, spacing_mm, FLOOR) for region in noise]
    slices = [region.stop - region.start for region in noise]
    return {axis: np.average([one[axis] for one in each], 0, slices) for axis in "xyz"}


def autocorrelation(
    removed: Float[np.ndarray, "x y z"], where: Bool[np.ndarray, "x y z"]
) -> dict[str, Lags]:
    """Normalised autocorrelation of values within a mask, along each axis.

    Over pairs of voxels that are both in the mask, divided by the power of both: the estimate stays
    between -1 and 1 whatever the mask. Axes too short for a lag have fewer lags.
    """
    found = {}
    for axis, name in enumerate("xyz"):
        values = []
        for lag in range(1, (LAGS if axis < 2 else 1) + 1):
            first = tuple(slice(None, -lag) if a == axis else slice(None) for a in range(3))
            second = tuple(slice(lag, None) if a == axis else slice(None) for a in range(3))
            both = where[first] & where[second]
            a, b = (removed[part][both].astype(np.float64) for part in (first, second))
            power = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
            if power == 0:
                break
            values.append(float(np.sum(a * b)) / power)
        found[name] = np.array(values, np.float64)
    return found


def expected_autocorrelation(
    spectrum: Spectrum, spacing_mm: tuple[float, float, float], floor: float = np.inf
) -> dict[str, Lags]:
    """Autocorrelation of noise with a spectrum: its inverse transform (Wiener and Khinchin).

    floor: after a filter that whitens frequencies above this fraction of the mean power.
    """
    n = 128
    x, y = (np.fft.fftfreq(n, mm) for mm in spacing_mm[:2])
    power = np.interp(np.hypot(x[:, None], y), spectrum.per_mm, spectrum.power)
    plane = np.fft.ifft2(np.minimum(power / power.mean(), floor)).real
    plane /= plane[0, 0]
    return {
        "x": plane[1 : LAGS + 1, 0],
        "y": plane[0, 1 : LAGS + 1],
        "z": np.array([spectrum.along_z], np.float64),
    }


def _at_edges(
    removed: Float[np.ndarray, "x y z"],
    after: Float[np.ndarray, "x y z"],
    where: Bool[np.ndarray, "x y z"],
) -> tuple[float | None, float | None]:
    """(edge ratio, correlation with detail), over all slices with enough voxels."""
    relative, edges = 0.0, 0
    sums = np.zeros(5)
    for z in range(removed.shape[2]):
        mask = where[:, :, z]
        if np.count_nonzero(mask) < LEAST // 5:
            continue
        shown = after[:, :, z].astype(np.float64)
        steep = ndimage.gaussian_gradient_magnitude(shown, EDGE_SMOOTH)
        edge = mask & (steep > np.quantile(steep[mask], EDGES))
        flat = mask & (steep < np.quantile(steep[mask], FLAT))
        square = removed[:, :, z].astype(np.float64) ** 2
        share = ndimage.uniform_filter(flat.astype(np.float64), AROUND)
        near = ndimage.uniform_filter(np.where(flat, square, 0), AROUND)
        edge &= (share > 0.01) & (near > 0)
        relative += float(np.sum(square[edge] / (near[edge] / share[edge])))
        edges += int(np.count_nonzero(edge))
        detail = ndimage.gaussian_filter(shown, FINE) - ndimage.gaussian_filter(shown, COARSE)
        a, b = removed[:, :, z][edge], detail[edge]
        sums += [a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()]
    if edges < LEAST // 10:
        return None, None
    a, b, aa, bb, ab = sums / edges
    power = (aa - a * a) * (bb - b * b)
    return float(np.sqrt(relative / edges)), float((ab - a * b) / np.sqrt(power)) if power else None
