"""The DICOM series that a derived series is made from: what it shares, and its slices by position.

Headers only; no pixel is decoded.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from itertools import pairwise
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydicom import Dataset
from pydicom.tag import Tag
from pydicom.uid import UID

from ....core.errors import InputError
from ....core.volume import Grid, Volume
from ..files import Part, parts
from ..geometry import ASIDE_MM, EVEN, EVEN_MM, Stack
from ..planes import Plane
from ..reader import DicomSource, choose, left
from ..series import Series, found_in
from ..values import tags_of, text
from . import inherited
from .slices import Slices, grid_of, slices_of

# One value in all files of a series, and what it is when there are several.
SHARED = {
    "StudyInstanceUID": "studies",
    "FrameOfReferenceUID": "frames of reference",
    "PatientID": "patients",
}
_KNOWN: dict[str, Callable[[str], object]] = {  # which values count
    "StudyInstanceUID": lambda uid: UID(uid, validation_mode=0).is_valid,
    "FrameOfReferenceUID": lambda uid: UID(uid, validation_mode=0).is_valid,
    "PatientID": bool,
}
_IMAGE = ("SOPClassUID", "SOPInstanceUID")
_TAGS = [Tag(keyword) for keyword in (*SHARED, *_IMAGE, "SpecificCharacterSet")]
_SAME_GRID = 1e-4  # mm of spacing, or direction cosines, as in `series.py`


@dataclass(frozen=True, eq=False)
class Near:
    """The slices of the source that a new slice is on, or between.

    origin: the series. header: of the closest, cleaned. planes: one if it is on a slice, else its
    neighbours. same: the one that it covers pixel by pixel, or None.
    """

    origin: Origin
    header: Dataset
    planes: tuple[Plane, ...]
    same: Plane | None


@dataclass(frozen=True, eq=False)
class Origin:
    """A series. shared: the values of `SHARED`, empty where missing. images: SOP class and instance
    of each file."""

    source: DicomSource
    series: Series
    stack: Stack
    shared: dict[str, str]
    images: dict[Part, tuple[str, str]]
    _last: dict[Part, Dataset] = field(default_factory=dict, repr=False)

    @cached_property
    def scale(self) -> tuple[float, float] | None:
        """Slope and intercept of its slices; None if they differ."""
        scales = {(plane.slope, plane.inter) for plane in self.series.planes}
        return scales.pop() if len(scales) == 1 else None

    @cached_property
    def way(self) -> int:
        """1 if InstanceNumber (or the frame number) increases along the normal of the slices, else
        -1."""
        keys = []
        for members in self.stack.members:
            plane = self.series.planes[members[0]]
            said = plane.tags.get("InstanceNumber", "")
            keys.append((int(said) if said.lstrip("+-").isdecimal() else 0, plane.frame))
        rising = sum((b > a) - (b < a) for a, b in pairwise(keys))
        return -1 if rising < 0 else 1

    def slices(self, volume: Volume) -> Slices:
        """The volume in the directions and the order of this series."""
        ways = np.stack([self.stack.row, self.stack.column, self.stack.normal * self.way])
        return slices_of(volume, ways)

    @cached_property
    def affine(self) -> Float[np.ndarray, "4 4"]:
        """(column, row, slice) -> mm in LPS, slices in the order of `slices`."""
        affine = self.stack.affine_lps()
        if self.way < 0:
            affine[:3, 3] += affine[:3, 2] * (len(self.stack.members) - 1)
            affine[:3, 2] *= -1
        return affine + 0.0

    @property
    def grid(self) -> Grid:
        """Its grid, axes in the order of `slices`."""
        return grid_of((*self.stack.size, len(self.stack.members)), self.affine)

    def covers(self, slices: Slices) -> bool:
        """Whether slices are parallel to these, and no centre of a voxel is outside them."""
        shape = np.array(self.grid.shape)
        to_index = np.linalg.inv(self.affine) @ slices.affine
        drift = (to_index[:3, :3] - np.diag(np.diag(to_index)[:3])) @ slices.hu.shape
        centres = np.array([[0.0] * 3, np.array(slices.hu.shape) - 1.0]) @ to_index[:3, :3].T
        centres += to_index[:3, 3]
        inside = bool((centres > -0.501).all() and (centres < shape - 0.499).all())
        return inside and float(np.abs(drift).max()) < 0.1

    def same_plane(self, slices: Slices) -> bool:
        """Whether slices have the directions, pixels and size of those of this series."""
        theirs = np.array([*self.stack.row, *self.stack.column, *self.stack.spacing_mm])
        ours = np.array([*slices.ways[:2].ravel(), *slices.spacing_mm[:2]])
        near = bool(np.abs(theirs - ours).max() <= _SAME_GRID)
        return near and self.stack.size == slices.size

    @cached_property
    def _along(self) -> Float[np.ndarray, " n"]:
        """Where each position is, along the normal, in mm from the origin."""
        return self.stack.along_mm + self.stack.first @ self.stack.normal

    def near(self, slices: Slices, k: int, thickness_mm: float | None = None) -> Near:
        """What slice k of a volume is made from.

        thickness_mm: of slices that are averages; None: each is on a slice, or between two.
        """
        place, normal = slices.place(k), self.stack.normal
        apart = np.abs(self._along - place @ normal)
        order = np.argsort(apart, kind="stable")
        on = apart[order[0]] <= max(EVEN_MM, EVEN * self.stack.median_mm) + 1e-9
        reach = float(self.stack.gaps_mm.max())
        wanted = order[:1] if on else [i for i in order[:2] if apart[i] < reach] or order[:1]
        if thickness_mm is not None:
            wanted = np.flatnonzero(apart < thickness_mm / 2)
        planes = tuple(self.series.planes[self.stack.members[i][0]] for i in sorted(wanted))
        closest = self.series.planes[self.stack.members[order[0]][0]]
        same = closest if on and not self.source.straightened and thickness_mm is None else None
        if same is not None and not (
            self.same_plane(slices) and np.linalg.norm(same.place - place) <= ASIDE_MM
        ):
            same = None
        return Near(self, self._header(closest), planes, same)

    def _header(self, plane: Plane) -> Dataset:
        if plane.part not in self._last:
            self._last.clear()
            self._last[plane.part] = inherited.read(plane.part)
        return inherited.inherited(plane.part, self._last[plane.part], plane.frame)


def like_series(path: str | Path) -> DicomSource:
    """A DICOM series to inherit from, for `--like`; its pixels are not decoded.

    `InputError` if there is not exactly one CT series.
    """
    path = Path(path)
    with parts(path) as (dicom, others):
        if not dicom:
            raise InputError(
                f"{path} holds no DICOM ({len(others)} other files); give the folder of a CT series"
            )
        found = found_in(dicom)
        chosen = choose(path, found, None)
    tilt, gaps, notes = chosen.tilt_degrees, chosen.gaps_mm, left(found, chosen, others)
    notes += chosen.notes
    return DicomSource(
        path, chosen.uid, chosen.facts, chosen.count, tilt, gaps, False, tuple(notes)
    )


@contextmanager
def opened(source: DicomSource) -> Iterator[Origin]:
    """The series of a source, from its files; `InputError` if it is not there as it was, or is not
    of one patient, one study and one frame of reference."""
    with parts(source.path) as (dicom, _):
        series = next((one for one in found_in(dicom) if one.uid == source.series_uid), None)
        if series is None or series.stack is None or not series.planes:
            raise InputError(f"{source.path} has changed since it was read; try again")
        images, values = {}, {keyword: set[str]() for keyword in SHARED}
        for part in dict.fromkeys(plane.part for plane in series.planes):
            found = tags_of(part, _TAGS)
            images[part] = (text(found, _IMAGE[0]), text(found, _IMAGE[1]))
            for keyword in SHARED:
                values[keyword].add(text(found, keyword))
        shared = {}
        for keyword, what in SHARED.items():
            several = sorted(filter(_KNOWN[keyword], values[keyword]))
            if len(several) > 1:
                raise InputError(
                    f"{source.path}: series {series.words()} has slices of {len(several)} {what}"
                    f" ({keyword} {', '.join(several[:3])}); export one of them alone"
                )
            shared[keyword] = several[0] if several else ""
        yield Origin(source, series, series.stack, shared, images)
