"""A scan minus its surroundings: the local mean of the same organ, without a model.

Everything is computed for a few slices at a time; means, for whole volumes, on a coarse grid.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8
from scipy import ndimage

from ...core.labels import AIRWAY, BONE, LUNG, OUTSIDE
from ...core.morphology import dilate_mm, erode_mm
from ...core.resample import resize
from ..memory import slabs

LUNG_MM = 12.0  # the surroundings of what the lung encloses, up to twice as wide, are the lung
AIRY_MM = 3.0  # of the grid on which that is decided
WORK_MM = 5.0  # of the grid on which local means are computed
LEAST_SHARE = 1e-3
GROUPS = AIRY, BONY, REST = 1, 2, 3

Labels = UInt8[np.ndarray, "x y z"]
Spacing = tuple[float, float, float]


@dataclass(frozen=True)
class Surroundings:
    """What a voxel is compared with: lung and what it encloses (`AIRY`), bone (`BONY`), or the rest
    of the body (`REST`); 0 outside it. airy: the first of them on a grid of every `step` voxels."""

    coarse: Labels
    airy: Bool[np.ndarray, "u v w"]
    step: tuple[int, int, int]

    @classmethod
    def of(cls, coarse: Labels, spacing_mm: Spacing) -> Surroundings:
        """From the label map of a volume."""
        i, j, k = (max(1, round(AIRY_MM / mm)) for mm in spacing_mm)
        small = coarse[::i, ::j, ::k]
        airy = (small == LUNG) | (small == AIRWAY)
        if airy.any():
            x, y, z = (s * n for s, n in zip(spacing_mm, (i, j, k), strict=True))
            near = dilate_mm(airy, LUNG_MM, (x, y, z))
            if not near.all():
                airy |= erode_mm(near, LUNG_MM, (x, y, z))
        return cls(coarse, airy, (i, j, k))

    def at(self, box: tuple[slice, slice, slice]) -> Labels:
        """The groups in a box."""
        picks = (
            np.arange(part.start, part.stop) // step
            for part, step in zip(box, self.step, strict=True)
        )
        airy, labels = self.airy[np.ix_(*picks)], self.coarse[box]
        group = np.full(labels.shape, REST, np.uint8)
        group[labels == OUTSIDE] = 0
        group[airy & (group > 0)] = AIRY
        group[(labels == LUNG) | (labels == AIRWAY)] = AIRY
        group[labels == BONE] = BONY
        return group


@dataclass(frozen=True)
class LocalMeans:
    """Means around each voxel over its own group, on a coarse grid; shape: of the volume."""

    shape: tuple[int, int, int]
    means: dict[int, Float[np.ndarray, "u v w"]]

    @classmethod
    def of(
        cls,
        hu: Callable[[slice], Float[np.ndarray, "x y n"]],
        groups: Callable[[slice], Labels],
        shape: tuple[int, int, int],
        spacing_mm: Spacing,
        reach_mm: float,
    ) -> LocalMeans:
        """From functions of a few slices. reach_mm: SD of a Gaussian.

        Normalised convolution, with a Gaussian that is wide enough for a coarse grid to suffice.
        """
        work_mm = min(WORK_MM, reach_mm / 3)
        grid = [max(1, round(n * mm / work_mm)) for n, mm in zip(shape, spacing_mm, strict=True)]
        grid = [min(n, m) for n, m in zip(grid, shape, strict=True)]
        sums = np.zeros((len(GROUPS), 2, *grid[:2], shape[2]), np.float32)
        for z in slabs(shape[2]):
            here, group = hu(z), groups(z)
            for number, each in enumerate(GROUPS):
                share = (group == each).astype(np.float32)
                if share.any():
                    for k, values in enumerate((here * share, share)):
                        sums[number, k, ..., z] = resize(values, (*grid[:2], z.stop - z.start))
        along = zip(shape, grid, spacing_mm, strict=True)
        steps = [reach_mm * m / (n * mm) for n, m, mm in along]
        means = {}
        for number, each in enumerate(GROUPS):
            if sums[number, 1].any():
                total, weight = (
                    ndimage.gaussian_filter(resize(one, grid), steps, mode="nearest")
                    for one in sums[number]
                )
                means[each] = total / np.maximum(weight, LEAST_SHARE)
        return cls(shape, means)

    def contrast(
        self, hu: Float[np.ndarray, "x y n"], groups: Labels, z: slice, clip_hu: float
    ) -> Float[np.ndarray, "x y n"]:
        """HU minus these means in slices z, clipped; 0 in group 0.

        Clipped because a vessel in the lung, small but of a thousand HU, would outweigh any lesion.
        """
        difference = np.zeros(hu.shape, np.float32)
        for group, means in self.means.items():
            inside = groups == group
            if inside.any():
                pace, count = means.shape[2] / self.shape[2], z.stop - z.start
                size = (*means.shape[:2], count * pace)
                some = resize(means, (*means.shape[:2], count), (0, 0, z.start * pace), size)
                mean = resize(some, (*self.shape[:2], count))
                difference[inside] = np.clip(hu - mean, -clip_hu, clip_hu)[inside]
        return difference
