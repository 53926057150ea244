"""A box of a scan as the network sees it, and the way back.

Every task works the same way: take a box of the scan, resample it to a grid whose voxel size the
model supports, window it, condition the network on its position, and map the output back. A `Frame`
is that box. Tasks differ in which box they take and what they do with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Shaped, UInt8
from torch import Tensor

from ..core.box import Box, Shape
from ..core.condition import Condition, condition
from ..core.random_field import normal
from ..core.regions import Region
from ..core.resample import nearest, resize
from ..core.tensors import tensor
from ..core.volume import Volume, within

Spacing = tuple[float, float, float]


def working_grid(volume: Volume, limits_mm: tuple[float, float]) -> Shape:
    """The scan's own grid if the model supports its spacing; else the nearest supported one.

    Finer axes are coarsened to the smallest spacing, coarser ones refined to the largest.
    """
    low, high = limits_mm
    x, y, z = (
        n if within(mm, low, high) else max(1, round(n * mm / float(np.clip(mm, low, high))))
        for n, mm in zip(volume.shape, volume.spacing_mm, strict=True)
    )
    return x, y, z


@dataclass(frozen=True)
class Frame:
    """A box of a scan's working grid, in one region.

    shape, scan_mm: voxels and voxel size of the scan. grid: its working grid; box: in that grid.
    span: slices [first, last) of the grid that count as the whole region: the positions that
    condition the network run from -1 to 1 across them.
    """

    region: Region
    shape: Shape
    scan_mm: Spacing
    grid: Shape
    box: Box
    span: tuple[int, int]

    @classmethod
    def of_slices(cls, volume: Volume, grid: Shape, region: Region, z: slice) -> Frame:
        """All of slices z, treated as a volume of their own."""
        x, y, _ = volume.shape
        return cls.of_box(volume, grid, region, Box((0, 0, z.start), (x, y, z.stop - z.start)), z)

    @classmethod
    def of_box(
        cls, volume: Volume, grid: Shape, region: Region, box: Box, z: slice | None = None
    ) -> Frame:
        """A box of the scan; slices z form its region, the whole scan if None."""
        z = z or slice(0, volume.shape[2])
        ends = zip(
            (*box.start, z.start),
            (*box.stop, z.stop),
            (*volume.shape, volume.shape[2]),
            (*grid, grid[2]),
            strict=True,
        )
        # The smallest box of the grid that contains the scan's box.
        (x, u), (y, v), (w, q), span = ((a * m // n, -(-b * m // n)) for a, b, n, m in ends)
        on_grid = Box((x, y, w), (u - x, v - y, q - w))
        return cls(region, volume.shape, volume.spacing_mm, grid, on_grid, span)

    @property
    def spacing_mm(self) -> Spacing:
        """Voxel size of the working grid."""
        x, y, z = (mm * n / m for mm, n, m in zip(self.scan_mm, self.shape, self.grid, strict=True))
        return x, y, z

    @property
    def own_grid(self) -> bool:
        """Whether the scan is processed on its own grid."""
        return self.grid == self.shape

    @property
    def reach(self) -> tuple[list[float], list[float]]:
        """(start, size) of the box in voxels of the scan."""
        pace = [n / g for n, g in zip(self.shape, self.grid, strict=True)]
        start = [a * p for a, p in zip(self.box.start, pace, strict=True)]
        return start, [n * p for n, p in zip(self.box.size, pace, strict=True)]

    def to_grid(self, values: Float[np.ndarray, "x y z"]) -> Float[np.ndarray, "u v w"]:
        """The scan's values, resampled to the box."""
        start, size = self.reach
        near = [
            slice(max(0, int(a) - 2), int(np.ceil(a + n)) + 2)
            for a, n in zip(start, size, strict=True)
        ]
        inside = [a - s.start for a, s in zip(start, near, strict=True)]
        return resize(values[tuple(near)], self.box.size, inside, size)

    def labels(self, ids: Shaped[np.ndarray, "x y z"]) -> Shaped[np.ndarray, "u v w"]:
        """The same for label ids, or for a mask."""
        return nearest(ids, self.box.size, *self.reach)

    def from_grid(
        self, values: Float[np.ndarray, "u v w"], voxels: tuple[slice, slice, slice] | slice
    ) -> Float[np.ndarray, "x2 y2 z2"]:
        """The way back: values of the box at the scan's `voxels` within it, or at whole slices."""
        if isinstance(voxels, slice):
            voxels = (slice(0, self.shape[0]), slice(0, self.shape[1]), voxels)
        pace = [g / n for n, g in zip(self.shape, self.grid, strict=True)]
        at = zip(voxels, self.box.start, pace, strict=True)
        start = [s.start * p - a for s, a, p in at]
        count = [s.stop - s.start for s in voxels]
        return resize(values, count, start, [n * p for n, p in zip(count, pace, strict=True)])

    def condition(
        self,
        ids: UInt8[np.ndarray, "x y z"] | None = None,
        control: Float[np.ndarray, "u v w"] | None = None,
    ) -> Condition:
        """What the network is conditioned on; ids: on the scan's grid; control: in the box."""
        (x, y, z), (first, last) = self.box.start, self.span
        whole = condition((*self.grid[:2], last - first), self.spacing_mm, self.region.id)
        crop = whole.crop(Box((x, y, z - first), self.box.size))
        if ids is not None:
            crop = replace(crop, anatomy=torch.from_numpy(self.labels(ids))[None])
        return crop if control is None else replace(crop, control=tensor(control))

    def noise(self, seed: int, device: str) -> Callable[[int], Float[Tensor, "1 1 u v w"]]:
        """stream -> the working grid's noise within the box."""
        return lambda stream: normal(seed, stream, self.grid, self.box, device)
