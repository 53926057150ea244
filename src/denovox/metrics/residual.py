"""What a restoration took away, before - after: is it noise, or is structure left in it?

Three questions, each with one number that an honest denoiser keeps small, and none of which needs a
reference. They are one-sided. The posterior mean takes less at edges than elsewhere, and less of
the low frequencies than the noise has, so its residual errs on the other side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy import ndimage

from ..core.operators.coloured_noise import Spectrum, filtered
from ..scan.noise import SlabNoise

LAGS = 4  # voxels, in the slices; between slices one
EDGE_SMOOTH = 1.5  # voxels: gradients of the restored image are not to be those of its noise
EDGES, FLAT = 0.95, 0.5  # quantiles of the gradient in a slice: edges are above, flat is below
AROUND = 41  # voxels: where flat voxels tell the local level of the residual
FINE, COARSE = 1.0, 3.0  # voxels: detail of the restored image lies between these blurs
LEAST = 500  # voxels
FLOOR = 0.1  # of a spectrum's mean: what has less power is not amplified to be white

Lags = Float[np.ndarray, " lags"]
Plane = Float[np.ndarray, "x y"]


@dataclass(frozen=True)
class Residual:
    """What the removed part is like, within the body, where anything was removed at all.

    voxels: how many those are; with fewer than 500, everything else is None.
    rms_hu: its RMS. mean_hu: its mean. of_noise: its RMS in units of the noise's SD, as given.
    edge_ratio: its RMS at the strongest edges of the restored image over that of flat places
        nearby; 1 for stationary noise, more where edges were taken along.
    structure: correlation, at those edges, with the detail of the restored image; 0 for noise, more
        where the detail was smoothed, less where it was exaggerated.
    autocorrelation: at lags of 1 to 4 voxels along x, along y, and 1 along z; in the slices after
        a filter that makes noise of the given spectrum white.
    expected: the same of the noise as it was given: 0, but along z, and where the spectrum has too
        little power to be made white. None where no noise was given.
    excess: the most that autocorrelation is above expected; None with it.
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
    noise: Sequence[SlabNoise] = (),
    level: Float[np.ndarray, "x y z"] | None = None,
) -> Residual:
    """The numbers of before - after (HU) within a mask.

    noise: as it was taken to be, slab by slab. level: its relative SD at each voxel. Both SDs are
    divided out first; the RMS and the mean are of HU all the same.
    """
    taken = before.astype(np.float32) - after
    where = inside & (taken != 0)  # what is far outside the window comes back untouched
    count = int(np.count_nonzero(where))
    if count < LEAST:
        return Residual(count)
    values = taken[where].astype(np.float64)
    rms, mean = float(np.sqrt(np.mean(values**2))), float(values.mean())
    if level is not None:
        taken = taken / np.maximum(level.astype(np.float32), np.float32(1e-3))
    of_noise = None
    if noise:
        taken = taken / sd_along(noise, taken.shape[2]).astype(np.float32)
        of_noise = float(np.sqrt(np.mean(np.square(taken[where], dtype=np.float64))))
    taken = np.where(where, taken - taken[where].mean(dtype=np.float64).astype(np.float32), 0)
    ratio, structure = _at_edges(taken, after, where)
    found = autocorrelation(whitened(taken, noise, spacing_mm), where)
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


def sd_along(noise: Sequence[SlabNoise], slices: int) -> Float[np.ndarray, " z"]:
    """SD of the noise in each slice, HU; beyond the slabs it is that of the nearest."""
    borders = [each.stop for each in noise[:-1]]
    sds = np.array([each.sd_hu for each in noise], np.float64)
    return sds[np.searchsorted(borders, np.arange(slices), side="right")]


def whitened(
    taken: Float[np.ndarray, "x y z"],
    noise: Sequence[SlabNoise],
    spacing_mm: tuple[float, float, float],
) -> Float[np.ndarray, "x y z"]:
    """What was removed, filtered in the slices so that noise of its slab's spectrum is white.

    Frequencies with less than `FLOOR` of the mean power are amplified no more than those at it.
    """
    out = taken.astype(np.float32)
    for each in noise:
        part = np.ascontiguousarray(out[..., each.start : each.stop])
        psd = replace(each.spectrum, along_z=0.0).on((*taken.shape[:2], 1), spacing_mm)
        x = torch.from_numpy(part)[None, None]
        out[..., each.start : each.stop] = filtered(x, psd.clamp_min(FLOOR).rsqrt())[0, 0].numpy()
    return out


def _expected(
    noise: Sequence[SlabNoise], spacing_mm: tuple[float, float, float]
) -> dict[str, Lags]:
    """Autocorrelation of the given noise after `whitened`, each slab counting by its slices."""
    each = [expected_autocorrelation(slab.spectrum, spacing_mm, FLOOR) for slab in noise]
    slices = [slab.stop - slab.start for slab in noise]
    return {axis: np.average([one[axis] for one in each], 0, slices) for axis in "xyz"}


def autocorrelation(
    taken: Float[np.ndarray, "x y z"], where: Bool[np.ndarray, "x y z"]
) -> dict[str, Lags]:
    """Normalised autocorrelation of what is within a mask, along each axis.

    At a lag, pairs of voxels of which both are within, over the power of both: an estimate that a
    mask of any shape leaves between -1 and 1. Axes too short for a lag have fewer lags.
    """
    found = {}
    for axis, name in enumerate("xyz"):
        values = []
        for lag in range(1, (LAGS if axis < 2 else 1) + 1):
            first = tuple(slice(None, -lag) if a == axis else slice(None) for a in range(3))
            second = tuple(slice(lag, None) if a == axis else slice(None) for a in range(3))
            both = where[first] & where[second]
            a, b = (taken[part][both].astype(np.float64) for part in (first, second))
            power = float(np.sqrt(np.sum(a * a) * np.sum(b * b)))
            if power == 0:
                break
            values.append(float(np.sum(a * b)) / power)
        found[name] = np.array(values, np.float64)
    return found


def expected_autocorrelation(
    spectrum: Spectrum, spacing_mm: tuple[float, float, float], floor: float = np.inf
) -> dict[str, Lags]:
    """That of noise of a spectrum: the inverse transform of its power (Wiener and Khinchin).

    floor: after a filter that makes white what has more than this share of the mean power.
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
    taken: Float[np.ndarray, "x y z"],
    after: Float[np.ndarray, "x y z"],
    where: Bool[np.ndarray, "x y z"],
) -> tuple[float | None, float | None]:
    """(edge ratio, correlation with detail), from all slices that hold enough voxels."""
    relative, edges = 0.0, 0
    sums = np.zeros(5)
    for z in range(taken.shape[2]):
        mask = where[:, :, z]
        if np.count_nonzero(mask) < LEAST // 5:
            continue
        shown = after[:, :, z].astype(np.float64)
        steep = ndimage.gaussian_gradient_magnitude(shown, EDGE_SMOOTH)
        edge = mask & (steep > np.quantile(steep[mask], EDGES))
        flat = mask & (steep < np.quantile(steep[mask], FLAT))
        square = taken[:, :, z].astype(np.float64) ** 2
        share = ndimage.uniform_filter(flat.astype(np.float64), AROUND)
        near = ndimage.uniform_filter(np.where(flat, square, 0), AROUND)
        edge &= (share > 0.01) & (near > 0)
        relative += float(np.sum(square[edge] / (near[edge] / share[edge])))
        edges += int(np.count_nonzero(edge))
        detail = ndimage.gaussian_filter(shown, FINE) - ndimage.gaussian_filter(shown, COARSE)
        a, b = taken[:, :, z][edge], detail[edge]
        sums += [a.sum(), b.sum(), (a * a).sum(), (b * b).sum(), (a * b).sum()]
    if edges < LEAST // 10:
        return None, None
    a, b, aa, bb, ab = sums / edges
    power = (aa - a * a) * (bb - b * b)
    return float(np.sqrt(relative / edges)), float((ab - a * b) / np.sqrt(power)) if power else None
