"""Geometry of DICOM slices: order, tilt, gaps; and resampling to an upright, even stack.

Millimetres in patient LPS axes, as in DICOM (PS3.3 C.7.6.2.1.1). No file access here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from ...core.errors import InputError, listed

SAME_MM = 0.01  # slices closer than this share a position
EVEN = 0.01  # how far a slice may be from its place on an even grid, as a fraction of the step ...
EVEN_MM = 0.02  # ... or in mm: positions are often written with two decimals
TILT_DEGREES, DRIFT_MM = 0.1, 0.1  # a tilt exceeds both; less is rounding of the directions
MOST_TILT = 45.0  # degrees; gantries reach 30
ASIDE_MM = 0.1  # how far a slice may be off the line through the others
PIXEL = 1e-4  # fractions of a pixel, or of a gap, that count as rounding
WILD = 4  # factor by which straightening may increase the number of voxels
AIR_HU = -1024.0


@dataclass(frozen=True, eq=False)
class Stack:
    """Positions of parallel slices along their normal, in order.

    members: for each position, the indices of the slices there. along_mm: position along the
    normal, from the first. aside_mm: in-plane offset along rows and columns, from the first. first:
    position of the first slice's first pixel. row, column: directions in which the column index and
    the row index increase. spacing_mm: between columns, between rows. size: columns, rows.
    """

    members: tuple[tuple[int, ...], ...]
    along_mm: Float[np.ndarray, " n"]
    aside_mm: Float[np.ndarray, "n 2"]
    first: Float[np.ndarray, " 3"]
    row: Float[np.ndarray, " 3"]
    column: Float[np.ndarray, " 3"]
    spacing_mm: tuple[float, float]
    size: tuple[int, int]

    @property
    def normal(self) -> Float[np.ndarray, " 3"]:
        """Direction in which slices are numbered."""
        return np.cross(self.row, self.column)

    @cached_property
    def gaps_mm(self) -> Float[np.ndarray, " m"]:
        """Distances between neighbours, along the normal."""
        return np.diff(self.along_mm)

    @property
    def median_mm(self) -> float:
        """The median distance between slices."""
        return float(np.median(self.gaps_mm))

    @property
    def slope(self) -> Float[np.ndarray, " 2"]:
        """In-plane shift along rows and columns, mm per mm along the normal."""
        return self.aside_mm[-1] / self.along_mm[-1]

    @property
    def tilt_degrees(self) -> float:
        """Angle between the normal and the line through the slice corners."""
        return float(np.degrees(np.arctan(np.linalg.norm(self.slope))))

    @property
    def tilted(self) -> bool:
        """Whether the tilt is more than rounding."""
        drift = float(np.linalg.norm(self.aside_mm[-1]))
        return self.tilt_degrees > TILT_DEGREES and drift > DRIFT_MM

    @property
    def uneven(self) -> bool:
        """Whether a slice is off its place on the even grid from the first to the last."""
        even = np.linspace(0, self.along_mm[-1], len(self.along_mm))
        step = self.along_mm[-1] / (len(self.along_mm) - 1)
        return bool(np.abs(self.along_mm - even).max() > max(EVEN * step, EVEN_MM))

    @property
    def jump_mm(self) -> float:
        """The largest distance of a slice from the line from the first to the last."""
        beside = self.aside_mm - self.along_mm[:, None] * self.slope
        return float(np.linalg.norm(beside, axis=1).max())

    def distinct_gaps(self) -> tuple[tuple[float, int], ...]:
        """Each distinct gap (mm, to a hundredth) and its count, in order of first occurrence."""
        counts: dict[float, int] = {}
        for gap in self.gaps_mm:
            known = next((k for k in counts if abs(k - gap) <= EVEN_MM), round(float(gap), 2))
            counts[known] = counts.get(known, 0) + 1
        return tuple(counts.items())

    def missing(self) -> list[Float[np.ndarray, " 3"]]:
        """Where slices seem to be missing: in gaps of two, three, ... times the median."""
        places: list[np.ndarray] = []
        for k, gap in enumerate(self.gaps_mm):
            times = float(gap) / self.median_mm
            lost = round(times) - 1
            if abs(times - round(times)) > 0.1 or lost > 1000:
                continue
            start, end = self._place(k), self._place(k + 1)
            places += [start + (end - start) * i / (lost + 1) for i in range(1, lost + 1)]
        return places

    def _place(self, k: int) -> Float[np.ndarray, " 3"]:
        across = self.aside_mm[k, 0] * self.row + self.aside_mm[k, 1] * self.column
        return self.first + across + self.along_mm[k] * self.normal

    def affine_lps(self) -> Float[np.ndarray, "4 4"]:
        """(column, row, slice) -> mm in LPS, for an upright, even stack.

        The slice step is taken from the positions, so it includes any residual tilt within
        rounding.
        """
        affine = np.eye(4)
        affine[:3, 0] = self.row * self.spacing_mm[0]
        affine[:3, 1] = self.column * self.spacing_mm[1]
        affine[:3, 2] = (self._place(-1) - self.first) / (len(self.along_mm) - 1)
        affine[:3, 3] = self.first
        return affine


def stack(
    places: Float[np.ndarray, "s 3"],
    row: Float[np.ndarray, " 3"],
    column: Float[np.ndarray, " 3"],
    spacing_mm: tuple[float, float],
    size: tuple[int, int],
) -> Stack:
    """Sort slices (positions of their first pixels, in any order) along their normal."""
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row  # files round directions; make them orthogonal
    column = column / np.linalg.norm(column)
    along = places @ np.cross(row, column)
    order = np.argsort(along, kind="stable")
    members: list[list[int]] = []
    for index in order:
        if members and along[index] - along[members[-1][0]] <= SAME_MM:
            members[-1].append(int(index))
        else:
            members.append([int(index)])
    heads = [group[0] for group in members]
    apart = places[heads] - places[heads[0]]
    return Stack(
        tuple(map(tuple, members)),
        along[heads] - along[heads[0]],
        np.stack([apart @ row, apart @ column], 1),
        places[heads[0]],
        row,
        column,
        spacing_mm,
        size,
    )


def words(gaps: Sequence[tuple[float, int]]) -> str:
    """Gaps in words, for a message."""
    return listed((f"{mm:g} mm x {count}" for mm, count in gaps), 8)


def fault(stack: Stack) -> str:
    """Why a stack is not a regular grid, with figures; empty if it is."""
    found = []
    if stack.tilted:
        found.append(f"tilted against the stack axis by {stack.tilt_degrees:.1f} degrees (gantry)")
    if stack.jump_mm > ASIDE_MM:
        found.append(f"shifted sideways against each other by up to {stack.jump_mm:.2f} mm")
    if stack.uneven:
        found.append(f"unevenly spaced (gaps of {words(stack.distinct_gaps())})")
        if lost := stack.missing():
            axis = int(np.argmax(np.abs(stack.normal)))
            where = listed((f"{place[axis]:.2f}" for place in lost), 5)
            found[-1] += f", as if slices were missing at {'xyz'[axis]} = {where} mm"
    return " and ".join(found)


def straightened(
    hu: Float[np.ndarray, "i j n"], stack: Stack
) -> tuple[Float[np.ndarray, "u v m"], Float[np.ndarray, "4 4"]]:
    """Resample a stack onto an upright, even grid; also that grid's affine (LPS).

    The slice planes are kept: each is shifted in-plane until all are aligned, then neighbouring
    planes are interpolated; both linearly, so that linear functions of position are preserved. The
    step is the median gap, adjusted to divide the whole length: most slices keep their thickness,
    and a single short gap does not multiply the slices. The plane grows to hold every slice; what
    no slice covers is air. `InputError` if the figures are implausible.
    """
    length = float(stack.along_mm[-1])
    steps = max(1, round(length / stack.median_mm))
    step = length / steps
    pixel = np.array(stack.spacing_mm)
    aside = stack.aside_mm / pixel  # in pixels
    low = np.floor(aside.min(0) + PIXEL).astype(int)
    high = np.ceil(aside.max(0) - PIXEL).astype(int)
    size = (np.array(stack.size) + high - low).tolist()
    wild = stack.tilt_degrees > MOST_TILT or steps + 1 > WILD * len(stack.along_mm)
    if wild or np.prod(size) > WILD * np.prod(stack.size):
        raise InputError(
            f"has slices {fault(stack)}, too far off to be straightened; export it again"
        )
    out = np.empty((*size, steps + 1), np.float32)
    near: dict[int, np.ndarray] = {}
    last = len(stack.gaps_mm) - 1
    for m in range(steps + 1):
        at = m * step
        k = int(np.clip(np.searchsorted(stack.along_mm, at, "right") - 1, 0, last))
        w = (at - stack.along_mm[k]) / stack.gaps_mm[k]
        wanted = [(k, 1 - w), (k + 1, w)]
        wanted = [(slice_, weight) for slice_, weight in wanted if weight > PIXEL]
        near = {
            s: near[s] if s in near else _moved(hu[..., s], aside[s] - low, size) for s, _ in wanted
        }
        total = sum(weight for _, weight in wanted)
        plane = sum(near[s] * np.float32(weight / total) for s, weight in wanted)
        out[..., m] = np.where(np.isnan(plane), AIR_HU, plane)
    affine = np.eye(4)
    affine[:3, 0] = stack.row * pixel[0]
    affine[:3, 1] = stack.column * pixel[1]
    affine[:3, 2] = stack.normal * step
    affine[:3, 3] = stack.first + stack.row * low[0] * pixel[0] + stack.column * low[1] * pixel[1]
    return out, affine


def _moved(
    plane: Float[np.ndarray, "i j"], by: Float[np.ndarray, " 2"], size: list[int]
) -> Float[np.ndarray, "u v"]:
    """Place a plane on a larger one, pixel 0 at `by` (not negative); NaN outside it."""
    for axis in (0, 1):
        whole = int(np.floor(by[axis] + PIXEL))
        part = max(0.0, float(by[axis]) - whole)
        values = np.moveaxis(plane, axis, 0)
        if part > PIXEL:  # the larger the shift, the more weight has the pixel before
            values = values[1:] * np.float32(1 - part) + values[:-1] * np.float32(part)
            whole += 1
        moved = np.full((size[axis], values.shape[1]), np.nan, np.float32)
        moved[whole : whole + len(values)] = values
        plane = np.moveaxis(moved, 0, axis)
    return plane
