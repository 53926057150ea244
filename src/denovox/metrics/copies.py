"""Copied anatomy, patch by patch: how much nearer one training scan is than the others.

A distance alone says little: smooth patches are near to everything. A patch is therefore compared
with each training scan, and its nearest one with the others, as in Carlini et al. 2023 (section
4.2, arXiv 2301.13188): near 1 where all are about as far away, 0 for a copy.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Float32

from ..core.resample import resize
from ..core.volume import Window

MM, EDGE = 6.0, 8  # voxels of a patch, and how many along each axis: 48 mm
STRIDE = EDGE // 2
INSIDE = 0.5  # share of a patch that is body
EDGES = 0.1  # least SD of a patch, model units: without any edge, it could be of anybody
LOWEST = 0.05  # quantile over patches: what a twentieth of a scan copies counts
LEAST = 3  # training scans

Patches = Float32[np.ndarray, "_ voxels"]


def patches(
    hu: Float[np.ndarray, "x y z"],
    spacing_mm: Sequence[float],
    window: Window,
    body: Bool[np.ndarray, "x y z"],
) -> Patches:
    """Patches of 48 mm at every 24 mm, in voxels of 6 mm, of body with edges; model units."""
    grid = [max(1, round(n * mm / MM)) for n, mm in zip(hu.shape, spacing_mm, strict=True)]
    if min(grid) < EDGE:
        return np.zeros((0, EDGE**3), np.float32)
    unit = resize(np.clip(window.unit(hu.astype(np.float32)), -1, 1), grid)
    inside = resize(body.astype(np.float32), grid)

    def cut(values: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "a b c e e e"]:
        windows = np.lib.stride_tricks.sliding_window_view(values, (EDGE,) * 3)
        return windows[::STRIDE, ::STRIDE, ::STRIDE]

    found = cut(unit)[cut(inside).mean((3, 4, 5)) >= INSIDE].reshape(-1, EDGE**3)
    return found[found.std(1) >= EDGES].astype(np.float32)


@dataclass(frozen=True)
class Nearness:
    """A scan against training: ratio: from 0, a copy, to about 1; nearest: number of the training
    scan to which most of the patches that decide are nearest."""

    ratio: float
    nearest: int


def nearness(scan: Patches, training: Sequence[Patches]) -> Nearness | None:
    """The `LOWEST` quantile over patches of the distance to the nearest training scan over the
    median distance to all. None where the scan has no patch or training has fewer than 3 scans."""
    others = [number for number, one in enumerate(training) if len(one)]
    if not len(scan) or len(others) < LEAST:
        return None
    apart = np.stack([_nearest(scan, training[number]) for number in others], 1)
    median = np.median(apart, 1)
    ratio = np.divide(apart.min(1), median, out=np.ones(len(scan)), where=median > 0)
    limit = np.quantile(ratio, LOWEST, method="lower")
    deciding = apart[ratio <= limit].argmin(1)
    return Nearness(float(limit), others[int(np.bincount(deciding).argmax())])


def _nearest(scan: Patches, among: Patches) -> Float[np.ndarray, " n"]:
    """RMS difference to the nearest of the other patches, each in float64 from the difference."""
    squares = (among.astype(np.float64) ** 2).sum(1)
    found = (squares - 2 * (scan @ among.T)).argmin(1)  # the same for each row without |scan|^2
    return np.sqrt(((scan.astype(np.float64) - among[found]) ** 2).mean(1))
