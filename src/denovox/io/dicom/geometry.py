"""How DICOM's slices lie to each other: order, tilt, gaps; and a stack made upright and even.

Millimetres in the patient's LPS axes, as DICOM has them (PS3.3 C.7.6.2.1.1). No files here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float

from ...core.errors import InputError

SAME_MM = 0.01  # slices nearer than this lie at one place
EVEN = 0.01  # how far a slice may lie from its place on an even grid, as a part of the step ...
EVEN_MM = 0.02  # ... or in mm: positions are often written with two decimals
TILT_DEGREES, DRIFT_MM = 0.1, 0.1  # a tilt is more than both; less is rounding of the directions
MOST_TILT = 45.0  # degrees; gantries reach 30
ASIDE_MM = 0.1  # how far a slice may lie beside the line that the others lie on
PIXEL = 1e-4  # parts of a pixel, or of a gap, that are rounding
WILD = 4  # how many times as many voxels a straightened stack may have
AIR_HU = -1024.0


@dataclass(frozen=True, eq=False)
class Stack:
    """Places along the normal of parallel slices, in order.

    members: for each place, which of the slices given lie there. along_mm: places along the
    normal, from the first. aside_mm: in the plane, along a row and along a column, from the
    first. first: of the first slice's first pixel. row, column: directions in which the index of
    the column, of the row, grows. spacing_mm: between columns, between rows. size: columns, rows.
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
        """Direction in which slices are counted."""
        normal: np.ndarray = np.cross(self.row, self.column)
        return normal

    @cached_property
    def gaps_mm(self) -> Float[np.ndarray, " m"]:
        """Distances between neighbours, along the normal."""
        gaps: np.ndarray = np.diff(self.along_mm)
        return gaps

    @property
    def median_mm(self) -> float:
        """What most slices are apart."""
        return float(np.median(self.gaps_mm))

    @property
    def slope(self) -> Float[np.ndarray, " 2"]:
        """mm that slices move along a row and a column, per mm along the normal."""
        slope: np.ndarray = self.aside_mm[-1] / self.along_mm[-1]
        return slope

    @property
    def tilt_degrees(self) -> float:
        """Angle between the normal and the line that the slices' corners lie on."""
        return float(np.degrees(np.arctan(np.linalg.norm(self.slope))))

    @property
    def tilted(self) -> bool:
        """Whether that is more than rounding."""
        drift = float(np.linalg.norm(self.aside_mm[-1]))
        return self.tilt_degrees > TILT_DEGREES and drift > DRIFT_MM

    @property
    def uneven(self) -> bool:
        """Whether a slice lies beside its place on the even grid from the first to the last."""
        even = np.linspace(0, self.along_mm[-1], len(self.along_mm))
        step = self.along_mm[-1] / (len(self.along_mm) - 1)
        return bool(np.abs(self.along_mm - even).max() > max(EVEN * step, EVEN_MM))

    @property
    def jump_mm(self) -> float:
        """How far a slice lies beside the line from the first slice to the last, at most."""
        beside = self.aside_mm - self.along_mm[:, None] * self.slope
        return float(np.linalg.norm(beside, axis=1).max())

    def distinct_gaps(self) -> tuple[tuple[float, int], ...]:
        """Each distinct gap (mm, to a hundredth) and how often it occurs, as they first occur."""
        counts: dict[float, int] = {}
        for gap in self.gaps_mm:
            known = next((k for k in counts if abs(k - gap) <= EVEN_MM), round(float(gap), 2))
            counts[known] = counts.get(known, 0) + 1
        return tuple(counts.items())

    def missing(self) -> list[Float[np.ndarray, " 3"]]:
        """Where slices seem to be lost: in gaps of two, three, ... times the median."""
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
        place: np.ndarray = self.first + across + self.along_mm[k] * self.normal
        return place

    def affine_lps(self) -> Float[np.ndarray, "4 4"]:
        """(column, row, slice) -> mm in LPS, of a stack that is upright and even.

        The last column is the step as the positions say it: what tilt is left, within rounding,
        is in it.
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
    """Slices (their first pixels' places, in any order) sorted along their normal."""
    row = row / np.linalg.norm(row)
    column = column - (column @ row) * row  # files round directions; the grid is to be upright
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
    """Gaps, as a sentence can say them."""
    shown = ", ".join(f"{mm:g} mm x {count}" for mm, count in gaps[:8])
    return shown + (f" and {len(gaps) - 8} more" if len(gaps) > 8 else "")


def fault(stack: Stack) -> str:
    """What keeps a stack from being a grid, with figures, or nothing."""
    found = []
    if stack.tilted:
        found.append(f"tilted against their stack by {stack.tilt_degrees:.1f} degrees (gantry)")
    if stack.jump_mm > ASIDE_MM:
        found.append(f"shifted sideways against each other by up to {stack.jump_mm:.2f} mm")
    if stack.uneven:
        found.append(f"unevenly spaced (gaps of {words(stack.distinct_gaps())})")
        if lost := stack.missing():
            axis = int(np.argmax(np.abs(stack.normal)))
            where = ", ".join(f"{place[axis]:.2f}" for place in lost[:5])
            more = f" and {len(lost) - 5} more" if len(lost) > 5 else ""
            found[-1] += f", as if slices were missing at {'xyz'[axis]} = {where}{more} mm"
    return " and ".join(found)


def straightened(
    hu: Float[np.ndarray, "i j n"], stack: Stack
) -> tuple[Float[np.ndarray, "u v m"], Float[np.ndarray, "4 4"]]:
    """A stack resampled onto an upright even grid, and that grid's affine (LPS).

    The planes stay as they were scanned: each is shifted within itself until all lie above each
    other, then planes are interpolated between neighbours; both linearly, so what is linear in mm
    stays what it was. The step is the median gap, made to divide the whole length: most slices
    keep their thickness, and one short gap does not multiply the slices. The plane grows to hold
    every slice; what no slice covers is air. `InputError` where the figures are wild.
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
        raise InputError(f"has slices {fault(stack)}, too much to be straightened; export it again")
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
    """A plane on a larger one, pixel 0 at `by` (not negative); NaN where it does not reach."""
    for axis in (0, 1):
        whole = int(np.floor(by[axis] + PIXEL))
        part = max(0.0, float(by[axis]) - whole)
        values = np.moveaxis(plane, axis, 0)
        if part > PIXEL:  # the pixel between two: nearer to the one before, the more it moved
            values = values[1:] * np.float32(1 - part) + values[:-1] * np.float32(part)
            whole += 1
        moved = np.full((size[axis], values.shape[1]), np.nan, np.float32)
        moved[whole : whole + len(values)] = values
        plane = np.moveaxis(moved, 0, axis)
    return plane
