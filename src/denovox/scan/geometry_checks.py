"""Checks of a scan's grid and of its field of view: facts and findings."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, UInt8
from nibabel.orientations import aff2axcodes, inv_ornt_aff

from ..core.config import Settings
from ..core.labels import OUTSIDE
from ..core.volume import Volume, within
from ..io.nifti_bytes import NiftiSource
from .hu_checks import Finding, Severity

THICK_MM, SHORT_MM, UNEVEN = 3.0, 40.0, 4.0
TURNED_DEGREES, SHEARED_DEGREES = 0.5, 0.5
# The finest pixels of a clinical CT are about 0.1 mm (a field of view of 50 mm in 512 columns, or a
# photon-counting detector), the thickest slices 10 mm: half and twice that leave room. Micro-CT
# (0.05 mm and less) is not calibrated to patients, and no region of the model is that small.
FINEST_MM, THICKEST_MM = 0.05, 20.0
LONGEST_MM = 2500.0  # no table moves as far, and no patient is as long
WIDEST_MM = 1000.0  # in x or y: the bore of a scanner is 0.7 to 0.9 m wide
SMALLEST_MM, MATRIX = 40.0, 128  # so many columns of less than this in all are of an ear, or in cm
WHOLE_MATRIX = 400  # columns that a scanner reconstructs; its pixels are hardly ever 1 mm
RESCALE = "correct the affine, e.g. if its units are micrometres, centimetres or metres"


class Geometry(Settings):
    """A grid in figures; x y z as in memory (nearest to RAS), `file_axes` as in the file.

    oblique_degrees: the largest angle between an axis and the patient's. sheared_degrees: deviation
    of the axes from right angles, as with a tilted gantry.
    """

    shape: tuple[int, int, int]
    spacing_mm: tuple[float, float, float]
    extent_mm: tuple[float, float, float]
    file_axes: str | None
    oblique_degrees: float
    sheared_degrees: float


def check_geometry(volume: Volume) -> tuple[Geometry, tuple[Finding, ...]]:
    """The geometry of the grid, and what is unusual about it."""
    mm = np.array(volume.spacing_mm)
    axes = volume.affine[:3, :3] / mm
    oblique = float(np.degrees(np.arccos(np.clip(np.diag(axes), -1, 1))).max())
    between = np.abs((axes.T @ axes)[np.triu_indices(3, 1)]).max()
    sheared = float(np.degrees(np.arcsin(np.clip(between, 0, 1))))
    x, y, z = (float(n * step) for n, step in zip(volume.shape, mm, strict=True))
    facts = Geometry(
        shape=volume.shape,
        spacing_mm=volume.spacing_mm,
        extent_mm=(x, y, z),
        file_axes=file_axes(volume),
        oblique_degrees=oblique,
        sheared_degrees=sheared,
    )
    grid = " x ".join(map(str, volume.shape))
    stored = f", stored as {facts.file_axes}" if facts.file_axes else ""
    text = (
        f"{grid} voxels of {' x '.join(f'{a:.3g}' for a in mm)} mm,"
        f" {x:.0f} x {y:.0f} x {z:.0f} mm in total{stored}"
    )
    found = [Finding(code="grid", severity="ok", sentence=text)]

    found += _size(volume)

    def note(code: str, sentence: str, advice: str = "") -> None:
        found.append(Finding(code=code, severity="note", sentence=sentence, advice=advice))

    if oblique > TURNED_DEGREES:
        note("oblique", f"axes are rotated by up to {oblique:.1f} degrees from the patient's")
    if sheared > SHEARED_DEGREES:
        text = f"axes are {sheared:.1f} degrees off right angles (a tilted gantry?)"
        note("sheared", text, "resample to an orthogonal grid where distances matter")
    if not within(mm.max(), 0, THICK_MM):
        note("thick", f"slices are {mm.max():.3g} mm thick: smaller details are averaged out")
    if mm.max() / mm.min() > UNEVEN:
        note("uneven", f"voxels are {mm.max() / mm.min():.1f} times as long as they are wide")
    if not within(min(x, y, z), SHORT_MM):
        text = f"the scan is only {min(x, y, z):.0f} mm thick: region and anatomy are uncertain"
        note("short", text)
    return facts, tuple(found)


def _size(volume: Volume) -> Iterator[Finding]:
    """Voxels and extents that no CT has, or hardly any."""
    mm = volume.spacing_mm
    extent = tuple(n * step for n, step in zip(volume.shape, mm, strict=True))
    voxels, total = (" x ".join(f"{a:.4g}" for a in each) for each in (mm, extent))
    limits = ""
    if not all(within(step, FINEST_MM, THICKEST_MM) for step in mm):
        limits = (
            f"voxels are {voxels} mm, but those of a CT are {FINEST_MM:g} to {THICKEST_MM:g} mm"
        )
    elif not within(max(extent), 0, LONGEST_MM):
        limits = f"the scan is {total} mm in total, but no CT is over {LONGEST_MM:g} mm long"
    if limits:
        yield Finding(code="size", severity="refuse", sentence=limits, advice=RESCALE)
        return
    x, y, _ = volume.shape
    if not within(max(extent[:2]), 0, WIDEST_MM):
        text = f"the scan is {total} mm in total, wider than the bore of a scanner"
        yield Finding(code="size", severity="doubt", sentence=text, advice=RESCALE)
    elif not within(max(extent[:2]), SMALLEST_MM) and min(x, y) >= MATRIX:
        text = f"{x} x {y} voxels are only {extent[0]:.3g} x {extent[1]:.3g} mm wide"
        yield Finding(code="size", severity="doubt", sentence=text, advice=RESCALE)
    whole = min(x, y) >= WHOLE_MATRIX
    straight = np.array_equal(np.abs(volume.affine[:3, :3]), np.eye(3))
    at_origin = straight and not np.abs(volume.grid.corners).max(axis=1).min()
    if mm == (1, 1, 1) and (whole or (at_origin and min(x, y) >= MATRIX)):
        where = ", the first at the origin (an identity affine)" if at_origin else ""
        voxels = f"{x} x {y} voxels of exactly 1 x 1 x 1 mm{where}"
        text = f"{voxels}, typical of tools that lose the geometry"
        again = "convert the original CT again if these are not its voxel sizes"
        severity: Severity = "doubt" if whole else "note"
        yield Finding(code="identity", severity=severity, sentence=text, advice=again)


def file_axes(volume: Volume) -> str | None:
    """The file's axes as letters, e.g. LPS; None if the source was not a NIfTI file."""
    if not isinstance(volume.source, NiftiSource):
        return None
    back = inv_ornt_aff(volume.source.ornt, volume.shape)
    return "".join(aff2axcodes(volume.affine @ back))


class View(Settings):
    """What the field of view contains. Slices are axial."""

    body_share: float  # of all voxels
    cut_slices: int  # in which the body touches a side of the array or of a round field of view
    slices: int
    table: bool
    round_mm: float | None  # diameter of a round field of view


def check_view(
    volume: Volume, coarse: UInt8[np.ndarray, "x y z"]
) -> tuple[View, tuple[Finding, ...]]:
    """Whether the field of view contains the whole body; coarse: from `scan/anatomy.coarse`."""
    body = coarse != OUTSIDE
    share, slices = float(body.mean()), volume.shape[2]
    if not share:
        view = View(body_share=0, cut_slices=0, slices=slices, table=False, round_mm=None)
        text, advice = "no body was found", "look at the image"
        return view, (Finding(code="body", severity="doubt", sentence=text, advice=advice),)
    sides = [body[0], body[-1], body[:, 0], body[:, -1]]
    cut = np.any([side.sum(0) >= 3 for side in sides], axis=0)
    circle = _circle(volume)
    if circle is not None:
        x_mm, y_mm, _ = volume.spacing_mm
        beyond = _distance(volume, circle) > circle[2] - 2 * max(x_mm, y_mm)
        cut |= body[beyond].sum(0) >= 3
    table = _table(volume, coarse)
    diameter = None if circle is None else 2 * circle[2]
    view = View(
        body_share=share, cut_slices=int(cut.sum()), slices=slices, table=table, round_mm=diameter
    )
    found = []
    text = f"the body fills {share:.0%} of the volume, {'with' if table else 'without'} a table"
    found.append(Finding(code="body", severity="ok", sentence=text))
    if diameter is not None:
        text = f"the field of view is round, {diameter:.0f} mm across"
        found.append(Finding(code="round", severity="note", sentence=text))
    if cut.any():
        text = f"the field of view cuts the body in {view.cut_slices} of {slices} slices"
        found.append(Finding(code="cut", severity="note", sentence=text))
    return view, tuple(found)


def _circle(volume: Volume) -> tuple[float, float, float] | None:
    """(x, y, radius) in mm from voxel (0, 0) of a round field of view, padded to a square."""
    few = volume.hu[..., :: max(1, volume.shape[2] // 16)]
    padding = few[0, 0, 0]
    corners = few[[0, 0, -1, -1], [0, -1, 0, -1]]
    seen = (few != padding).any(2)
    if not (corners == padding).all() or not seen.any():
        return None
    mm = volume.spacing_mm
    ends = [
        (float(where[0]) * step, float(where[-1]) * step)
        for where, step in ((np.flatnonzero(seen.any(1 - a)), mm[a]) for a in (0, 1))
    ]
    circle = (
        (sum(ends[0]) / 2),
        (sum(ends[1]) / 2),
        (max(b - a for a, b in ends) + max(mm[:2])) / 2,
    )
    disc = _distance(volume, circle) <= circle[2]
    alike = (disc & seen).sum() / (disc | seen).sum()
    return circle if alike > 0.96 else None


def _distance(volume: Volume, circle: tuple[float, float, float]) -> Float[np.ndarray, "x y"]:
    """Distance in mm from each voxel of a slice to the centre of a circle."""
    x, y = (np.arange(n) * mm for n, mm in zip(volume.shape[:2], volume.spacing_mm, strict=False))
    return np.hypot(x[:, None] - circle[0], y - circle[1])


def _table(volume: Volume, coarse: UInt8[np.ndarray, "x y z"]) -> bool:
    """Whether something wide and dense lies behind the body, outside it, in most slices."""
    body: Bool[np.ndarray, "y z"] = np.zeros(coarse.shape[1:], bool)
    for plane in coarse:  # plane by plane: no masks of the whole scan
        body |= plane != OUTSIDE
    middle = (np.arange(len(body)) @ body) / np.maximum(body.sum(0), 1)
    back = np.arange(len(body))[:, None] < middle
    wide = np.zeros(coarse.shape[2])
    for plane, hu in zip(coarse, volume.hu, strict=True):
        wide += ((plane == OUTSIDE) & (hu > -600) & back).any(0)
    wide *= volume.spacing_mm[0]
    return bool((wide > 120).mean() > 0.5)
