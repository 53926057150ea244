"""Do the slices belong to one acquisition? Evidence from the image alone, in any format.

Slices of two phases, energies or kernels that were sorted into one stack alternate. Then slices two
steps apart resemble each other more than neighbours do. In a scan of one acquisition it is the
other way round: anatomy changes with distance (ours; figures on real scans in docs/explain/log.md).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float
from scipy import special

from ..core.volume import Volume
from .hu_checks import Finding

PERIODS = (2, 3, 4, 5, 6)
FAR = (2, 3, 4)  # steps over which a change is compared with that over one
# Change over `period` slices, relative to that over one. One acquisition: 1.3 to 2.4 in 118 real
# scans, and 1 if there is nothing but noise.
ALIKE = 0.85
STEADY = 0.5  # share of the variation between slices that repeats; in real scans up to 0.1
CHANCE, TINY = 1e-6, 1e-9  # probability of that without a period; of a series without noise
LEAST_HU = 3.0  # between slices that repeat; less comes from the rows of a detector
CLIP_HU = 100.0  # of a change from slice to slice; more is an edge that moved
LEAST_LOG_NOISE = 0.38  # linear interpolation of a scan leads to 0.35
TIE = 0.05  # of that share: the shorter period is as good
FEWEST_SLICES = 8
FEWEST_CYCLES = 3
FEWEST_BLOCKS = 100
BLOCKS = 128  # across the field of view: averages that suppress noise
TISSUE_HU = (-200.0, 300.0)
RANGE_HU = (-1000.0, 500.0)


def check_slices(volume: Volume) -> tuple[Finding, ...]:
    """Whether slices of several acquisitions alternate, along z and along the coarsest axis."""
    for axis in dict.fromkeys((2, int(np.argmax(volume.spacing_mm)))):
        why = alternating(np.moveaxis(volume.hu, axis, 2))
        if why:
            text = (
                f"slices along {'xyz'[axis]} alternate: {why}; two or more phases, energies or"
                " reconstructions seem to be stacked into one volume"
            )
            own = "export each of them as a series of its own"
            return (Finding(code="alternating", severity="refuse", sentence=text, advice=own),)
    return ()


def alternating(hu: Float[np.ndarray, "x y z"]) -> str:
    """How slices along the last axis alternate, with figures; empty if they do not."""
    count = hu.shape[2]
    if count < FEWEST_SLICES:
        return ""
    blocks = _blocks(hu)
    period, offset = _repeating(np.cumsum(_steps(blocks)))
    if offset > LEAST_HU:
        if period == 2:
            return f"soft tissue is {offset:.1f} HU brighter in every second slice"
        return f"soft tissue differs by up to {offset:.1f} HU, and repeats every {period} slices"
    period, noise = _repeating(_log_noise(hu))
    if noise > LEAST_LOG_NOISE:
        if period == 2:
            return f"noise is {np.exp(noise):.1f} times as strong in every second slice"
        return (
            f"noise differs by a factor of {np.exp(noise):.1f}, and repeats every {period} slices"
        )
    inside = (blocks > RANGE_HU[0]) & (blocks < RANGE_HU[1])
    near = _change(blocks, inside, 1)
    for period in FAR:
        far = _change(blocks, inside, period)
        if len(far) < FEWEST_SLICES - 2 or not np.isfinite(far).any():
            continue
        around = np.mean([near[k : k + len(far)] for k in range(period)], axis=0)
        with np.errstate(divide="ignore", invalid="ignore"):
            ratio = far / around
        typical = float(np.median(ratio[np.isfinite(ratio)])) if np.isfinite(ratio).any() else 1.0
        if typical < ALIKE:
            return (
                f"slices {period} steps apart differ by {np.nanmedian(far):.1f} HU, but neighbours"
                f" by {np.nanmedian(around):.1f} HU"
            )
    return ""


def _blocks(hu: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "z u v"]:
    """In-plane averages of square blocks, of HU clipped to what tissue has; slices first."""
    edge = max(1, round(max(hu.shape[:2]) / BLOCKS))
    across, down = hu.shape[0] // edge, hu.shape[1] // edge
    out = np.empty((hu.shape[2], across, down), np.float32)
    for u in range(across):  # row by row: no second copy of the scan
        slab = np.clip(hu[u * edge : (u + 1) * edge, : down * edge], -1024, 500)
        out[:, u] = slab.reshape(edge, down, edge, -1).mean((0, 2)).T
    return out


def _change(
    blocks: Float[np.ndarray, "z u v"], inside: Bool[np.ndarray, "z u v"], step: int
) -> Float[np.ndarray, " n"]:
    """Mean absolute difference of slices `step` apart; NaN where there is too little tissue."""
    out = np.full(len(blocks) - step, np.nan)
    for k in range(len(out)):
        both = inside[k] & inside[k + step]
        if np.count_nonzero(both) >= FEWEST_BLOCKS:
            out[k] = np.abs(blocks[k + step] - blocks[k])[both].mean()
    return out


def _steps(blocks: Float[np.ndarray, "z u v"]) -> Float[np.ndarray, " z"]:
    """Mean change of soft tissue from the slice before, HU; 0 where there is too little of it."""
    soft = (blocks > TISSUE_HU[0]) & (blocks < TISSUE_HU[1])
    out = np.zeros(len(blocks))
    for k in range(1, len(out)):
        both = soft[k] & soft[k - 1]
        if np.count_nonzero(both) >= FEWEST_BLOCKS:
            step = (blocks[k] - blocks[k - 1])[both]
            out[k] = np.clip(step, -CLIP_HU, CLIP_HU).mean()
    return out


def _log_noise(hu: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, " z"]:
    """Log of each slice's noise; that of the slice before where there is too little tissue."""
    lines = np.moveaxis(hu[:: max(1, hu.shape[0] // 64)], 2, 0).copy()
    fine = np.abs(lines[..., 1:-1] - (lines[..., :-2] + lines[..., 2:]) / 2)
    tissue = (lines[..., 1:-1] > TISSUE_HU[0]) & (lines[..., 1:-1] < TISSUE_HU[1])
    log = np.zeros(hu.shape[2])
    for k in range(len(log)):
        values = fine[k][tissue[k]]
        enough = values.size >= FEWEST_BLOCKS
        log[k] = np.log(max(1.0, float(np.median(values)))) if enough else log[max(0, k - 1)]
    return log


def _repeating(series: Float[np.ndarray, " z"]) -> tuple[int, float]:
    """(period, range over a period) of what repeats in a value of each slice; (0, 0) if nothing.

    From each value the mean of the period around it is subtracted. A period counts if the means of
    every `period`-th value account for the variation (analysis of variance: F and adjusted R^2),
    the shortest that does.
    """
    found = []
    for period in PERIODS:
        weights = np.full(period + 1 - period % 2, 1.0)
        if period % 2 == 0:
            weights[[0, -1]] = 0.5  # as many slices of each kind
        half = len(weights) // 2
        excess = series[half : len(series) - half]
        excess = excess - np.convolve(series, weights / period, "valid")[: len(excess)]
        if len(excess) < max(FEWEST_SLICES - 2, FEWEST_CYCLES * period):
            continue
        means = np.array([excess[start::period].mean() for start in range(period)])
        rest = excess - means[np.arange(len(excess)) % period]
        free = len(excess) - period
        total, left = float(excess @ excess), float(rest @ rest) + TINY
        ratio = (total - left) / (period - 1) / (left / free)
        if special.fdtrc(period - 1, free, ratio) < CHANCE:
            share = 1 - left / free / (total / (len(excess) - 1))
            found.append((share, period, float(np.ptp(means))))
    best = max(found, default=(-1.0, 0, 0.0))[0]
    if best < STEADY:
        return 0, 0.0
    return next((period, size) for share, period, size in found if share > best - TIE)
