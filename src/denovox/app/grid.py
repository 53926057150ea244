"""The grid that a model works on: the scan's own, where it knows such voxels."""

from __future__ import annotations

import numpy as np

from ..core.box import Shape
from ..core.volume import Volume


def working_grid(volume: Volume, limits_mm: tuple[float, float]) -> Shape:
    """The scan's own grid where the model knows its spacing; else the nearest one it knows.

    Finer axes are coarsened to the smallest spacing, coarser ones refined to the largest.
    """
    low, high = limits_mm
    x, y, z = (
        max(1, round(n * mm / float(np.clip(mm, low, high))))
        for n, mm in zip(volume.shape, volume.spacing_mm, strict=True)
    )
    return x, y, z


def spacing_on(grid: Shape, volume: Volume) -> tuple[float, float, float]:
    """Voxel size in mm of a working grid over a volume."""
    x, y, z = (mm * n / m for mm, n, m in zip(volume.spacing_mm, volume.shape, grid, strict=True))
    return x, y, z
