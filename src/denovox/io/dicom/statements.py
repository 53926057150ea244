"""What the headers of a series state twice, and differently: notes with both values.

Positions and pixel spacing are Type 1 in the standard, so they are used; the others only repeat.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from .geometry import Stack
from .planes import SAME_VALUE, Plane

CONSTANT = ("PatientID", "FrameOfReferenceUID", "KVP", "ConvolutionKernel")  # in one scan
MIRRORED = -0.7  # of the normal along z: slices seen from the head


def disagreements(planes: Sequence[Plane], stack: Stack) -> Iterator[str]:
    """One note for each tag that contradicts the positions, the pixel spacing or orientation."""
    heads = [planes[group[0]] for group in stack.members]
    step = stack.median_mm
    between = float(
        np.median(np.linalg.norm(np.diff([one.place for one in heads], axis=0), axis=1))
    )
    spacing = _median(heads, "SpacingBetweenSlices")
    if spacing and _apart(abs(spacing), step) and _apart(abs(spacing), between):
        yield (
            f"SpacingBetweenSlices is {spacing:g} mm, but the slices are {step:.4g} mm apart: their"
            " positions were used"
        )
    thickness = _median(heads, "SliceThickness")
    if thickness and thickness < step and _apart(thickness, step):
        yield (
            f"SliceThickness is {thickness:g} mm, but the slices are {step:.4g} mm apart: nothing"
            " was measured between them"
        )
    places = _numbers(heads, "SliceLocation")
    if places is not None and np.ptp(places):
        moves = np.diff(places)
        move = float(np.median(np.abs(moves)))
        if (moves > 0).any() and (moves < 0).any():
            yield "SliceLocation sorts slices differently from the positions, which were used"
        elif _apart(move, step) and _apart(move, between):
            yield (
                f"SliceLocation advances by {move:.4g} mm per slice, but the positions by"
                f" {step:.4g} mm: the positions were used"
            )
    (dx, dy), (columns, rows) = stack.spacing_mm, stack.size
    diameter = _median(heads, "ReconstructionDiameter")
    if diameter and _apart(diameter / columns, dx) and _apart(diameter / rows, dy):
        yield (
            f"ReconstructionDiameter is {diameter:g} mm, but {columns} columns of {dx:.4g} mm are"
            f" {columns * dx:.4g} mm: PixelSpacing was used (was the image cropped or resized?)"
        )
    for keyword in ("ImagerPixelSpacing", "NominalScannedPixelSpacing"):
        other = _pair(heads[0], keyword)
        if other and (_apart(other[0], dy) or _apart(other[1], dx)):
            yield (
                f"{keyword} is {other[0]:g} x {other[1]:g} mm (rows x columns), but PixelSpacing is"
                f" {dy:.4g} x {dx:.4g} mm, which was used"
            )
    ratio = _pair(heads[0], "PixelAspectRatio")
    if ratio and ratio[1] and _apart(ratio[0] / ratio[1], dy / dx):
        yield (
            f"PixelAspectRatio is {ratio[0]:g}:{ratio[1]:g}, but PixelSpacing is {dy:.4g} x"
            f" {dx:.4g} mm, which was used"
        )
    for keyword in CONSTANT:
        values = sorted({v for one in planes if (v := one.tags.get(keyword))})
        if len(values) > 1:
            yield (
                f"{keyword} changes within the series ({', '.join(values[:3])}"
                f"{', ...' * (len(values) > 3)}): check that all slices are of one scan"
            )
    position = heads[0].tags.get("PatientPosition", "")
    if position and float(stack.normal[2]) < MIRRORED:
        yield (
            f"PatientPosition is {position}, but the slices are shown from the head, mirrored"
            " (ImageOrientationPatient): check that left and right are correct"
        )


def missing_parts(planes: Sequence[Plane]) -> str:
    """Which files of a concatenation (one image in several files) are missing; empty if none."""
    parts: dict[str, set[str]] = {}
    total: dict[str, int] = {}
    for plane in planes:
        uid = plane.tags.get("ConcatenationUID")
        stated = plane.tags.get("InConcatenationTotalNumber", "")
        if uid and stated.isdigit():
            parts.setdefault(uid, set()).add(plane.tags.get("InConcatenationNumber", ""))
            total[uid] = int(stated)
    for uid, numbers in parts.items():
        if len(numbers) < total[uid]:
            return f"is only {len(numbers)} of the {total[uid]} files of a concatenation"
    return ""


def _apart(one: float, other: float) -> bool:
    return abs(one - other) > SAME_VALUE * other


def _numbers(planes: Sequence[Plane], keyword: str) -> np.ndarray | None:
    """A tag's first number in every plane; None unless all have one."""
    try:
        found = np.array([float(plane.tags[keyword].split("/")[0]) for plane in planes])
    except (KeyError, ValueError):
        return None
    return found if np.isfinite(found).all() else None


def _pair(plane: Plane, keyword: str) -> tuple[float, float] | None:
    """A tag's two numbers, rows and columns; None if it has none."""
    try:
        rows, columns = map(float, plane.tags.get(keyword, "").split("/"))
    except ValueError:
        return None
    return (rows, columns) if np.isfinite([rows, columns]).all() else None


def _median(planes: Sequence[Plane], keyword: str) -> float | None:
    found = _numbers(planes, keyword)
    return None if found is None else float(np.median(found))
