"""What a file states twice about its geometry: does it say the same?

The format's standard decides which statement is used. Another that differs becomes a note with both
values; one that would mirror or turn the patient, or change millimetres by more than 1 %, is an
`InputError`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float
from nibabel.orientations import aff2axcodes

from ..core.errors import InputError, ensure, line
from ..core.volume import spacing_of

REFUSED = 0.01  # of a length
NOTED = 2e-4  # of a length: a tenth of a voxel over 512 voxels
TURNED_DEGREES = 45.0  # beyond, an axis is nearer to another direction of the patient
NOTED_DEGREES = 0.1  # quaternions of float32 are off by up to 0.05 degrees
NOTED_MM = 0.05  # between two positions of the first voxel
ONE = "export it again from the original, or correct its header"


@dataclass(frozen=True, eq=False)
class Statement:
    """Part of a geometry as a file states it, in the file's axes. name: of its field.

    mm: voxel sizes, NaN where not stated. axes: unit vectors in RAS, one per column. origin: of the
    first voxel, RAS mm.
    """

    name: str
    mm: Float[np.ndarray, " 3"] | None = None
    axes: Float[np.ndarray, "3 3"] | None = None
    origin: Float[np.ndarray, " 3"] | None = None

    @classmethod
    def of(cls, name: str, affine: Float[np.ndarray, "4 4"]) -> Statement:
        """All that an affine states."""
        mm = np.array(spacing_of(affine))
        return cls(name, mm, affine[:3, :3] / mm, affine[:3, 3])


def compare(path: Path, used: Statement, others: Sequence[Statement]) -> tuple[str, ...]:
    """Notes on statements that differ from the one that is used; `InputError` as above."""
    notes: list[str] = []
    for other in others:
        notes += _axes(path, used, other)
        notes += _lengths(path, used, other)
        if used.origin is not None and other.origin is not None:
            apart = float(np.linalg.norm(used.origin - other.origin))
            if apart > NOTED_MM:
                notes.append(
                    f"the first voxel is at {_place(used.origin)} mm by its {used.name} (used),"
                    f" and at {_place(other.origin)} mm by its {other.name}"
                )
    return tuple(notes)


def _lengths(path: Path, used: Statement, other: Statement) -> list[str]:
    if used.mm is None or other.mm is None:
        return []
    off = _off(used.mm, other.mm)
    # Of a sheared voxel, some tools state the edges, and some the distances between its faces.
    if off > REFUSED and used.axes is not None and _shear_degrees(used.axes) > NOTED_DEGREES:
        between = used.mm * abs(np.linalg.det(used.axes)) / _faces(used.axes)
        off = min(off, max(_off(between, other.mm), 2 * NOTED))
    if off <= NOTED:
        return []
    here, there = (f"{_sizes(mm)} mm by its" for mm in (used.mm, other.mm))
    two = f"{path} states two voxel sizes, {here} {used.name} and {there} {other.name}"
    ensure(off <= REFUSED, f"{two}; {ONE}")
    return [f"voxels are {here} {used.name} (used) and {there} {other.name}"]


def _axes(path: Path, used: Statement, other: Statement) -> list[str]:
    if used.axes is None or other.axes is None:
        return []
    both = f"its axes point to {letters_of(used.axes)} by its {used.name}"
    there = f"to {letters_of(other.axes)} by its {other.name}"
    mirrored = np.linalg.det(used.axes) * np.linalg.det(other.axes) < 0
    apart = float(np.degrees(_angle(_square(used.axes), _square(other.axes))))
    if mirrored or apart > TURNED_DEGREES:
        what = "mirrors" if mirrored else "turns"
        sentence = f"{path} states two orientations, and one {what} the patient: {both}, {there}"
        raise InputError(f"{sentence}; {ONE}")
    allowed = NOTED_DEGREES + _shear_degrees(used.axes)  # shears have no one nearest rotation
    if apart <= allowed:
        return []
    turned = f"its axes are turned by {apart:.2g} degrees by its {other.name}"
    return [f"{turned}, compared with its {used.name} (used)"]


def _off(one: Float[np.ndarray, " 3"], other: Float[np.ndarray, " 3"]) -> float:
    """The largest difference, relative to `one`, of what both state."""
    return float(np.nan_to_num(np.abs(other / one - 1), nan=0).max())


def letters_of(axes: Float[np.ndarray, "3 3"]) -> str:
    """Where each axis points to, nearest: R or L, A or P, S or I."""
    affine = np.eye(4)
    affine[:3, :3] = axes
    return "".join(code or "?" for code in aff2axcodes(affine))


def _square(axes: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, "3 3"]:
    """The nearest perpendicular axes."""
    u, _, vt = np.linalg.svd(axes)
    return u @ vt


def _angle(one: Float[np.ndarray, "3 3"], other: Float[np.ndarray, "3 3"]) -> float:
    """The largest angle between an axis and its counterpart; accurate for small ones, too."""
    half = np.linalg.norm(one - other, axis=0).max() / 2
    return float(2 * np.arcsin(min(half, 1)))


def _shear_degrees(axes: Float[np.ndarray, "3 3"]) -> float:
    """How far the axes are from right angles to each other."""
    between = np.abs((axes.T @ axes)[np.triu_indices(3, 1)]).max()
    return float(np.degrees(np.arcsin(np.clip(between, 0, 1))))


def _faces(axes: Float[np.ndarray, "3 3"]) -> Float[np.ndarray, " 3"]:
    """Areas of the faces of the parallelepiped of unit vectors."""
    x, y, z = axes.T
    return np.array([np.linalg.norm(np.cross(a, b)) for a, b in ((y, z), (z, x), (x, y))])


def _sizes(mm: Float[np.ndarray, " 3"]) -> str:
    return " x ".join("?" if np.isnan(step) else f"{step:.6g}" for step in mm)


def _place(mm: Float[np.ndarray, " 3"]) -> str:
    return f"({', '.join(f'{step:.2f}' for step in mm)})"


def once(path: Path, key: str, known: str | None, value: str) -> None:
    """`InputError` if a field was given before with another value."""
    same = known is None or known == value
    ensure(same, f"{path} states {line(key)} twice, as {line(known)} and {line(value)}; {ONE}")
