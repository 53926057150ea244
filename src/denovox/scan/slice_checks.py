"""Do the slices belong to one acquisition? Evidence from the image alone, in any format.

Slices of two phases, energies or kernels that were sorted into one stack alternate. Then slices two
steps apart resemble each other more than neighbours do. In a scan of one acquisition it is the
other way round: anatomy changes with distance (ours; figures on real scans in docs/explain/log.md).
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Bool, Float

from ..core.volume import Volume
from .hu_checks import Finding

# Change over `period` slices, relative to that over one. One acquisition: 1.3 to 2.4 in 118 real
# scans, and 1 if there is nothing but noise.
ALIKE = 0.85
STEADY = 0.9  # share of slices that must alternate in the same direction
LEAST_HU, LEAST_T = 5.0, 8.0  # of an alternating offset; in real scans up to 0.75 HU, and t = 2.5
LEAST_LOG_NOISE = 0.5  # of alternating noise; linear interpolation to half steps makes 0.35
PERIODS = (2, 3, 4)
FEWEST_SLICES = 8
FEWEST_BLOCKS = 100
BLOCKS = 128  # across the field of view: averages that suppress noise
TISSUE_HU = (-200.0, 300.0)
RANGE_HU = (-1000.0, 500.0)


def check_slices(volume: Volume) -> tuple[Finding, ...]:
    """Whether slices of several acquisitions alternate, along z and along the coarsest axis."""
    for axis in dict.fromkeys((2, int(np.argmax(volume.spacing_mm)))):
        why = alternating(np.moveaxis(volume.hu, axis, 2))
        if why:
            return (
                Finding(
                    code="alternating",
                    severity="refuse",
                    sentence=f"slices along {'xyz'[axis]} alternate: {why}; two or more phases,"
                    " energies or reconstructions seem to be stacked into one volume",
                    advice="export each of them as a series of its own",
                ),
            )
    return ()


def alternating(hu: Float[np.ndarray, "x y z"]) -> str:
    """How slices along the last axis alternate, with figures; empty if they do not."""
    count = hu.shape[2]
    if count < FEWEST_SLICES:
        return ""
    blocks = _blocks(hu)
    inside = (blocks > RANGE_HU[0]) & (blocks < RANGE_HU[1])
    near = _change(blocks, inside, 1)
    for period in PERIODS:
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
    offset = _parity(_middle(blocks, (blocks > TISSUE_HU[0]) & (blocks < TISSUE_HU[1])))
    if offset > LEAST_HU:
        return f"soft tissue is {offset:.1f} HU brighter in every second slice"
    noise = _parity(_log_noise(hu))
    if noise > LEAST_LOG_NOISE:
        return f"noise is {np.exp(noise):.1f} times as strong in every second slice"
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


def _middle(
    blocks: Float[np.ndarray, "z u v"], inside: Bool[np.ndarray, "z u v"]
) -> Float[np.ndarray, " n"]:
    """Median excess of each inner slice over the mean of its neighbours, HU; NaN if unknown."""
    out = np.full(len(blocks) - 2, np.nan)
    for k in range(len(out)):
        all3 = inside[k] & inside[k + 1] & inside[k + 2]
        if np.count_nonzero(all3) >= FEWEST_BLOCKS:
            below, at, above = (blocks[k + step][all3] for step in range(3))
            out[k] = np.median(at - (below + above) / 2)
    return out


def _log_noise(hu: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, " n"]:
    """Excess of each inner slice's log noise over the mean of its neighbours'; NaN if unknown."""
    lines = np.moveaxis(hu[:: max(1, hu.shape[0] // 64)], 2, 0).copy()
    fine = np.abs(lines[..., 1:-1] - (lines[..., :-2] + lines[..., 2:]) / 2)
    tissue = (lines[..., 1:-1] > TISSUE_HU[0]) & (lines[..., 1:-1] < TISSUE_HU[1])
    log = np.full(hu.shape[2], np.nan)
    for k in range(len(log)):
        values = fine[k][tissue[k]]
        if values.size >= FEWEST_BLOCKS:
            log[k] = np.log(max(1.0, float(np.median(values))))
    excess: np.ndarray = log[1:-1] - (log[:-2] + log[2:]) / 2
    return excess


def _parity(excess: Float[np.ndarray, " n"]) -> float:
    """Size of an alternation that hardly any slice escapes; 0 if there is none."""
    signed = excess * (-1.0) ** np.arange(len(excess))
    signed = signed[np.isfinite(signed)]
    if len(signed) < FEWEST_SLICES - 2:
        return 0.0
    size, spread = float(np.median(signed)), float(signed.std() / np.sqrt(len(signed)))
    steady = float((signed * np.sign(size) > 0).mean())
    return abs(size) if steady >= STEADY and abs(signed.mean()) > LEAST_T * spread else 0.0
