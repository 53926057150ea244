"""Sort DICOM objects into series and describe each series, without decoding pixels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from .files import Part
from .geometry import Stack, fault, stack
from .header import Facts, Header, header
from .passes import even, passes
from .planes import NO_SLOPE, Plane
from .statements import disagreements, missing_parts

FEWEST = 3  # slices of a volume; two localiser views do not make one
_SAME_GRID = 1e-4  # rounding tolerance within a series: mm of spacing, or direction cosines
_OTHER_WAY = np.cos(np.radians(10))  # slices turned by more are a localiser, not damaged
TILT_AGREES = 0.5  # degrees
ALL = "all"  # the name of the stack of slices that have a SeriesInstanceUID each


@dataclass(frozen=True, eq=False)
class Series:
    """A series as described by its headers.

    uid: SeriesInstanceUID; of interleaved passes of one series, followed by #1, #2, ...; or `ALL`.
    label: what distinguishes such a pass. count: slice positions. repeated: slices that share a
    position with another, compared when reading. aside: why it is not a CT volume; fault: why it
    cannot be read as it is, and whether it `straightens`; both texts are empty if all is well.
    notes: what was left out or taken on trust. stack: None if its slices have no order.
    """

    uid: str
    facts: Facts
    count: int
    label: str = ""
    repeated: int = 0
    aside: str = ""
    fault: str = ""
    straightens: bool = False
    notes: tuple[str, ...] = ()
    planes: tuple[Plane, ...] = field(default=(), repr=False)
    stack: Stack | None = field(default=None, repr=False)

    @property
    def spacing_mm(self) -> tuple[float, float, float] | None:
        """Between columns, rows and slices."""
        return (*self.stack.spacing_mm, self.stack.median_mm) if self.stack else None

    @property
    def shape(self) -> tuple[int, int, int] | None:
        """Columns, rows, slices."""
        return (*self.stack.size, self.count) if self.stack else None

    @property
    def tilt_degrees(self) -> float:
        """Angle between the slices' normal and the line they are stacked along."""
        return self.stack.tilt_degrees if self.stack else 0.0

    @property
    def gaps_mm(self) -> tuple[tuple[float, int], ...]:
        """Each distinct gap between slices, in mm, and its count."""
        return self.stack.distinct_gaps() if self.stack else ()

    @property
    def base(self) -> str:
        """The SeriesInstanceUID, without the number of a pass."""
        return self.uid.partition("#")[0]

    def matches(self, wanted: str) -> bool:
        """Whether `wanted` is its UID or the end of it, with or without the number of a pass."""
        return bool(wanted) and (self.uid if "#" in wanted else self.base).endswith(wanted)

    def span(self) -> str:
        """How many slices, where, and what distinguishes them, in words."""
        heads = [self.planes[group[0]].place for group in self.stack.members] if self.stack else []
        where = ""
        if self.stack and heads:
            axis = int(np.argmax(np.abs(self.stack.normal)))
            ends = sorted(float(place[axis]) for place in (heads[0], heads[-1]))
            where = f" at {'xyz'[axis]} = {ends[0]:g} to {ends[1]:g} mm"
        return f"{self.count} with {self.label}{where}"

    def words(self) -> str:
        """The series in words, for a list to choose from."""
        words = [f"{self.uid} ({self.facts.description or 'no description'}"]
        words += [self.label] if self.label else []
        if self.shape and self.spacing_mm:
            columns, rows, slices = self.shape
            spacing = " x ".join(f"{mm:.3g}" for mm in self.spacing_mm)
            words.append(f"{slices} slices of {columns} x {rows}, {spacing} mm")
        else:
            words.append(f"{self.count} slice" + "s" * (self.count != 1))
        if self.facts.thickness_mm is not None:
            words.append(f"{self.facts.thickness_mm:g} mm thick")
        return ", ".join(words) + ")"


def found_in(dicom: Sequence[Part]) -> tuple[Series, ...]:
    """The series in these files; `InputError` if a file does not state which it belongs to."""
    headers: dict[str, list[Header]] = {}
    for part in dicom:
        found = header(part)
        if found is not None:
            headers.setdefault(found.series_uid, []).append(found)
    series = [one for uid, members in headers.items() for one in _series(uid, members)]
    if all(one.aside for one in series):
        series += _joined([one for members in headers.values() for one in members])
    return tuple(series)


def _joined(headers: list[Header]) -> list[Series]:
    """The stack formed by slices that have a SeriesInstanceUID each; none if they form none."""
    fine = [one for one in headers if not one.aside and not one.fault and one.planes]
    groups = _alike([plane for one in fine for plane in one.planes])
    if not groups or len({one.series_uid for one in fine}) < FEWEST:
        return []
    parts = {plane.part for plane in groups[0]}
    found = _series(ALL, [one for one in fine if one.part in parts])
    stacked = [one.stack and not one.aside and even(one.stack.along_mm) for one in found]
    return found if all(stacked) else []


def _series(uid: str, headers: list[Header]) -> list[Series]:
    """One series: set aside what is not part of the volume and stack the rest."""
    kept = [one for one in headers if not one.aside]
    start = Series(uid, (kept or headers)[0].facts, len(headers))
    if not kept:
        return [replace(start, aside=headers[0].aside)]
    asides = Counter(one.aside for one in headers if one.aside)
    notes = [f"left out of the series: {count} x {why}" for why, count in asides.items()]
    notes += dict.fromkeys(remark for one in kept for remark in one.remarks)
    start = replace(start, count=sum(max(1, len(one.planes)) for one in kept), notes=tuple(notes))
    if broken := next((one for one in kept if one.fault), None):
        fault_found = f"{broken.part.name} {broken.fault}"
        lone = len(kept) < FEWEST and not any(one.many for one in kept)  # often a dose report page
        return [replace(start, aside=fault_found) if lone else replace(start, fault=fault_found)]
    planes = [plane for one in kept for plane in one.planes]
    without = sum(one.remarks.count(NO_SLOPE) for one in kept)
    if 0 < without < len(planes):
        return [replace(start, fault=f"has no RescaleSlope in {without} of {len(planes)} slices")]
    if lacking := missing_parts(planes):
        return [replace(start, fault=lacking)]
    whole = _stacked(start, planes)
    if whole.stack is None or len(whole.planes) < 2 * FEWEST:
        return [whole]
    along = np.stack([plane.place for plane in whole.planes]) @ whole.stack.normal
    return [
        replace(
            _stacked(replace(start, count=len(members)), [whole.planes[i] for i in members]),
            uid=f"{uid}#{number}",
            label=label,
        )
        for number, (label, members) in enumerate(passes(whole.planes, along).items(), 1)
    ] or [whole]


def _stacked(start: Series, planes: list[Plane]) -> Series:
    """A series with its planes in order, or with the reason why they have none."""
    notes = list(start.notes)
    groups = _alike(planes)
    main = groups[0] if groups else []
    for group in groups[1:]:
        turned = abs(float(_normal(group[0]) @ _normal(main[0]))) < _OTHER_WAY
        if len(group) >= FEWEST or not turned:
            shown = ", ".join(f"{len(some)} of {_grid_words(some[0])}" for some in groups[:4])
            return replace(start, fault=f"mixes slices on {len(groups)} grids: {shown}")
        which = f"{len(group)} slice{'s' * (len(group) > 1)} in another orientation"
        notes.append(f"left out of the series: {which}")
    if len(main) < FEWEST:
        return replace(start, aside=f"only {len(main)} slice" + "s" * (len(main) != 1))
    head = main[0]
    places = np.stack([plane.place for plane in main])
    ordered = stack(places, head.row, head.column, head.spacing_mm, head.size)
    count = len(ordered.members)
    if count < FEWEST:
        return replace(start, aside=f"{len(main)} images at only {count} positions")
    stated = start.facts.gantry_degrees
    if stated is not None and abs(abs(stated) - ordered.tilt_degrees) > TILT_AGREES:
        notes.append(
            f"GantryDetectorTilt is {stated:g} degrees, but slice positions give"
            f" {ordered.tilt_degrees:.1f}: the positions were used"
        )
    notes += disagreements(main, ordered)
    crooked = fault(ordered)
    return replace(
        start,
        count=count,
        repeated=len(main) - count,
        fault=f"has slices {crooked}" if crooked else "",
        straightens=bool(crooked),
        notes=tuple(notes),
        planes=tuple(main),
        stack=ordered,
    )


def _alike(planes: list[Plane]) -> list[list[Plane]]:
    """Planes grouped by size, spacing and direction; the largest group first."""
    groups: list[list[Plane]] = []
    for plane in planes:
        for group in groups:
            head = group[0]
            ours, theirs = (
                np.array([*one.spacing_mm, *one.row, *one.column]) for one in (plane, head)
            )
            if plane.size == head.size and np.abs(ours - theirs).max() <= _SAME_GRID:
                group.append(plane)
                break
        else:
            groups.append([plane])
    return sorted(groups, key=len, reverse=True)


def _normal(plane: Plane) -> np.ndarray:
    return np.cross(plane.row, plane.column)


def _grid_words(plane: Plane) -> str:
    """A plane's grid in words, for a message."""
    directions = "/".join(f"{value:.4g}" for value in (*plane.row, *plane.column))
    (columns, rows), (dx, dy) = plane.size, plane.spacing_mm
    return f"{columns} x {rows} pixels of {dx:.4g} x {dy:.4g} mm along {directions}"
