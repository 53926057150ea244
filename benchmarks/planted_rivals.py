"""What `planted.py` compares with, the local mean and PCA, and what they are given: a `Case`."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy import ndimage

from denovox.core.box import Box
from denovox.core.regions import region
from denovox.core.resample import resize
from denovox.core.volume import Volume
from denovox.inference.anomaly.maps import Evidence, around
from denovox.io import nifti

BASES_MM, BASES_EDGE, BASES = 4.0, 12, 64  # PCA: patches of 48 mm, 64 components


@dataclass(frozen=True)
class Group:
    """A region: the patient to test, those to calibrate on, and the tissues planted into."""

    region: str
    test: str
    training: tuple[str, ...]
    tissues: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """A box of a scan; lesion: where it is, None: healthy."""

    volume: Volume
    coarse: np.ndarray
    roi: np.ndarray
    lesion: np.ndarray | None


Map = Callable[[Case, str], Evidence]


def alone(map_hu: np.ndarray) -> np.ndarray:
    """A map and one that says nothing: what a calibration of two takes as one."""
    return np.stack([map_hu, np.zeros_like(map_hu)], -1)


def local_mean(reach_mm: float, smooth_mm: float) -> Map:
    """HU - local mean of the organ, within the window."""

    def run(case: Case, name: str) -> Evidence:
        unit, box = cut(case, name)
        body = case.roi[box.slices].astype(np.float32)
        steps = [reach_mm / each for each in case.volume.spacing_mm]
        weight = ndimage.gaussian_filter(body, steps, mode="nearest")
        mean = ndimage.gaussian_filter(unit * body, steps, mode="nearest") / (weight + 1e-6)
        return finished(unit, mean, case, name, box, smooth_mm)

    return run


def pca(basis: tuple[np.ndarray, np.ndarray], smooth_mm: float) -> Map:
    """HU - its projection on principal components of healthy patches, averaged over overlaps.

    On a grid of 4 mm, and the residual with it: what 4 mm cannot show is no finding.
    """
    mean, vectors = basis

    def run(case: Case, name: str) -> Evidence:
        unit, box = cut(case, name)
        small = coarsened(unit, case.volume.spacing_mm)
        padded = np.pad(small, [(0, max(0, BASES_EDGE - n)) for n in small.shape], mode="edge")
        out, weight = np.zeros_like(padded), np.zeros_like(padded)
        for at in corners(padded.shape, 4):
            here = tuple(slice(a, a + BASES_EDGE) for a in at)
            back = mean + vectors @ (vectors.T @ (padded[here].ravel() - mean))
            out[here] += back.reshape((BASES_EDGE,) * 3)
            weight[here] += 1
        back = (out / weight)[tuple(slice(0, n) for n in small.shape)]
        fine, healthy_ = (resize(each, unit.shape) for each in (small, back))
        return finished(fine, healthy_, case, name, box, smooth_mm)

    return run


def coarsened(unit: np.ndarray, spacing_mm: tuple[float, ...]) -> np.ndarray:
    grid = [round(n * mm / BASES_MM) for n, mm in zip(unit.shape, spacing_mm, strict=True)]
    return resize(unit.astype(np.float32), grid)


def corners(shape: tuple[int, ...], step: int) -> Iterator[tuple[int, ...]]:
    axes = [sorted({*range(0, n - BASES_EDGE, step), n - BASES_EDGE}) for n in shape]
    return ((int(x), int(y), int(z)) for x in axes[0] for y in axes[1] for z in axes[2])


def bases(data: Path, group: Group, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and principal components of patches of the training patients."""
    rng, found = np.random.default_rng(5), []
    window = region(group.region).window
    for file in group.training:
        volume = nifti.read(data / f"{file}_ct.nii.gz")
        small = coarsened(np.clip(window.unit(volume.hu), -1, 1), volume.spacing_mm)
        if min(small.shape) < BASES_EDGE:
            continue
        inside = np.argwhere(small > -0.9)
        for at in inside[rng.integers(len(inside), size=count)]:
            first = np.clip(at - BASES_EDGE // 2, 0, np.array(small.shape) - BASES_EDGE)
            found.append(small[tuple(slice(a, a + BASES_EDGE) for a in first)].ravel())
    patches = np.array(found)
    mean = patches.mean(0)
    _, vectors = np.linalg.eigh(np.cov((patches - mean).T))
    return mean, vectors[:, ::-1][:, :BASES].astype(np.float32)


def cut(case: Case, name: str) -> tuple[np.ndarray, Box]:
    box = around(case.roi, case.volume.spacing_mm)
    return np.clip(region(name).window.unit(case.volume.hu[box.slices]), -1, 1), box


def finished(
    unit: np.ndarray, back: np.ndarray, case: Case, name: str, box: Box, smooth_mm: float
) -> Evidence:
    window = region(name).window
    steps = [smooth_mm / mm for mm in case.volume.spacing_mm]
    left = (unit - back) * case.roi[box.slices] * window.width_hu / 2  # as ours: 0 outside
    left = ndimage.gaussian_filter(left.astype(np.float32), steps, mode="nearest")
    estimate = Volume(window.hu(back).astype(np.float32), case.volume.affine)
    return Evidence(alone(left), estimate, box)
