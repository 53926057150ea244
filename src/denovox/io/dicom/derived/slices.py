"""A volume as the slices of a DICOM series: the order of its axes, and its values as int16.

Positions are millimetres in LPS, as in DICOM. No file access here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Float, Int16, Shaped
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation
from pydicom.valuerep import format_number_as_ds

from ....core.errors import InputError, ensure
from ....core.volume import Grid, Volume
from ..geometry import fault, stack

_LPS = np.diag([-1.0, -1.0, 1.0, 1.0])  # to RAS, and back
UPRIGHT = np.eye(3)  # rows to the left, columns to the back, slices to the head
TOGETHER = 16  # slices converted in one go: as many as a line of the cache holds
_LEAST, _MOST = -32768, 32767


def on_axes(
    values: Shaped[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    axes: Float[np.ndarray, "3 3"],
) -> tuple[Shaped[np.ndarray, "a b c"], Float[np.ndarray, "4 4"]]:
    """A view of an array along other axes, and its affine; nothing is resampled.

    affine: index -> mm in RAS. axes: the directions (LPS, in rows) that the new axes are closest
    to. The affine returned leads to mm in LPS.
    """
    lps = _LPS @ affine
    turned = np.eye(4)
    turned[:3, :3] = axes @ lps[:3, :3]
    ornt = io_orientation(turned)
    return apply_orientation(values, ornt), lps @ inv_ornt_aff(ornt, values.shape)


def blocks(
    values: Shaped[np.ndarray, "columns rows slices"],
) -> Iterator[Shaped[np.ndarray, "columns rows some"]]:
    """A few slices at a time, in order: views, to be converted in one go."""
    for start in range(0, values.shape[2], TOGETHER):
        yield values[..., start : start + TOGETHER]


def grid_of(shape: tuple[int, ...], affine: Float[np.ndarray, "4 4"]) -> Grid:
    """A grid from its affine to mm in LPS."""
    return Grid(shape, _LPS @ affine)


@dataclass(frozen=True)
class Rescale:
    """HU = stored * slope + inter, as PS3.3 C.11.1.1.2 has it; stored is int16."""

    slope: float
    inter: float

    def stored(self, hu: Float[np.ndarray, "*s"]) -> Int16[np.ndarray, "*s"]:
        """HU as stored values, rounded."""
        values = hu.astype(np.float64)
        values -= self.inter  # in place: there may be many
        values /= self.slope
        return np.rint(values, out=values).astype("<i2")


def rescale(
    hu: Float[np.ndarray, "x y z"], scale: tuple[float, float] | None = (1.0, 0.0)
) -> Rescale:
    """A rescale that clips no value, and is as fine as that of the source.

    scale: slope and intercept of the source; None if its slices differ in them. The slope is 1
    where all values are integers, or the source has nothing finer; otherwise that of the source.
    Where 16 bits do not hold the range at this slope, the intercept moves first, then the slope
    grows, to 1 at the most. `InputError` if that is not enough, or values are not finite.
    """
    low, high = float(hu.min()), float(hu.max())
    ensure(np.isfinite(low) and np.isfinite(high), "some of its voxels are NaN or infinite")
    whole = scale is not None and all(float(one).is_integer() for one in scale)
    if whole or all(np.array_equal(plane, np.rint(plane)) for plane in hu):
        scale = (1.0, 0.0)
    slope, inter = (abs(scale[0]), scale[1]) if scale is not None else (0.0, 0.0)
    steps = _MOST - _LEAST - 1  # one less, for the rounding of the decimal text
    if not slope or high - low > steps * slope:
        ensure(
            high - low <= steps,
            f"its values, from {low:g} to {high:g} HU, do not fit into 16 bits at 1 HU",
        )
        slope, inter = (high - low) / steps or 1.0, (low + high) / 2
    first, last = np.rint((np.array([low, high]) - inter) / slope)
    if first < _LEAST or last > _MOST:
        inter += slope * float(np.rint((first + last) / 2))
    return Rescale(float(format_number_as_ds(slope)), float(format_number_as_ds(inter)))


@dataclass(frozen=True, eq=False)
class Slices:
    """hu: a view of a volume. affine: (column, row, slice) -> mm in LPS."""

    hu: Float[np.ndarray, "columns rows slices"]
    affine: Float[np.ndarray, "4 4"]

    @property
    def size(self) -> tuple[int, int]:
        """Columns, rows."""
        return self.hu.shape[0], self.hu.shape[1]

    @property
    def count(self) -> int:
        """The number of slices."""
        return self.hu.shape[2]

    @property
    def ways(self) -> Float[np.ndarray, "3 3"]:
        """Unit vectors, in rows: along a row, down a column, from slice to slice."""
        return (self.affine[:3, :3] / np.linalg.norm(self.affine[:3, :3], axis=0)).T

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Between columns, rows and slices; the last one perpendicular to them."""
        row, column, _ = self.ways
        between = abs(float(np.cross(row, column) @ self.affine[:3, 2]))
        across = np.linalg.norm(self.affine[:3, :2], axis=0)
        return float(across[0]), float(across[1]), between

    @property
    def grid(self) -> Grid:
        """The grid, for messages and comparisons."""
        return grid_of(self.hu.shape, self.affine)

    def place(self, k: int) -> Float[np.ndarray, " 3"]:
        """Position of the first pixel of a slice."""
        return self.affine[:3, 3] + k * self.affine[:3, 2]

    def stored(self, scale: Rescale) -> Iterator[Int16[np.ndarray, "rows columns"]]:
        """The stored values of each slice, in order; a few slices are in memory at a time."""
        for block in blocks(self.hu):
            yield from np.ascontiguousarray(scale.stored(block).T)

    def fault(self) -> str:
        """Why DICOM has no place for this grid, with figures; empty if it has one."""
        row, column, _ = self.ways
        if abs(row @ column) > 1e-4:
            degrees = np.degrees(np.arccos(abs(row @ column)))
            return f"its rows and columns meet at {degrees:.2f} degrees instead of 90"
        if max(self.size) > 65535:
            return f"its slices have {self.size[0]} x {self.size[1]} pixels, more than 65535 a side"
        if self.count < 2:
            return ""
        places = np.stack([self.place(k) for k in range(self.count)])
        crooked = fault(stack(places, row, column, self.spacing_mm[:2], self.size))
        return f"its slices are {crooked}" if crooked else ""


def slices_of(volume: Volume, axes: Float[np.ndarray, "3 3"] = UPRIGHT) -> Slices:
    """The slices of a volume along the axes closest to these; `InputError` if it is sheared."""
    found = Slices(*on_axes(volume.hu, volume.affine.astype(np.float64), axes))
    if wrong := found.fault():
        raise InputError(wrong)
    return replace(found, affine=found.affine + 0.0)  # without a negative zero
