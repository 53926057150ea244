"""Published data sets and your own folders on disk -> cases: scan, masks, patient, region.

A layout is one or more rows of `label_sets.toml` (path patterns; no class per data set). Three
layouts are not rows: "index" (a folder with an index.json), "nnunet" (nnU-Net's raw folders, see
`nnunet_raw`) and "folder" (your own scans). Only paths are inspected; no voxels are read. Files
that a layout does not recognise are listed in `Survey.left_out`; files whose names begin with a dot
are ignored.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from posixpath import normpath

from ..core.config import Settings
from ..core.errors import InputError, ensure, listed
from ..io.tables import rows_of
from . import label_sets, nnunet_raw
from .source_scans import PAPERS, Entry, LeftOut, Mask, indexed, named, own, safe, walk

__all__ = ["LAYOUTS", "LOOKS", "Entry", "Mask", "Survey", "find", "survey"]


@dataclass(frozen=True)
class Survey:
    """The contents of a folder: its layout, the cases, and (path, reason) for anything else."""

    layout: str
    entries: tuple[Entry, ...]
    left_out: tuple[LeftOut, ...]

    def notes(self, most: int = 5) -> Iterator[str]:
        """One line per reason, with the first `most` names: what was left out or is missing."""
        reasons: dict[str, list[str]] = {}
        for name, why in self.left_out:
            reasons.setdefault(f"left out, {why}", []).append(name)
        for entry in self.entries:
            for note in entry.notes:
                reasons.setdefault(note, []).append(entry.id)
        for why, found in reasons.items():
            yield f"{len(found)} {why}: {listed(found, most)}"


class MaskRow(Settings):
    """The path of a mask and its bridge; or, with a `*` in the path, a table of `organs`."""

    path: str
    bridge: str = ""
    organs: str = ""


class SkipRow(Settings):
    """Known paths that are not cases, and the reason."""

    scan: str
    why: str


class Row(Settings):
    """One file layout; see the comment above the rows in `label_sets.toml`."""

    look: str
    scan: str
    id: str
    patient: str = ""
    masks: tuple[MaskRow, ...] = ()
    partner: tuple[str, ...] = ()
    skip: tuple[SkipRow, ...] = ()
    regions: tuple[str, ...] | None = None
    dicom: bool = False
    refuse: str = ""
    source: str
    licence: str


LAYOUTS: dict[str, tuple[Row, ...]] = {
    name: tuple(Row(**row) for row in rows) for name, rows in label_sets.tables()["layout"].items()
}
LOOKS = {  # layout -> the files it expects
    **{name: rows[0].look for name, rows in LAYOUTS.items()},
    "index": "index.json, a list of cases",
    nnunet_raw.NAME: nnunet_raw.LOOK,
    "folder": "any CT (NIfTI, or a folder with a DICOM series); only used if requested",
}


def find(source: Path, layout: str | None = None) -> list[Entry]:
    """The cases in a folder, in order of id; see `survey`."""
    return list(survey(source, layout).entries)


def survey(source: Path, layout: str | None = None, patients: Path | None = None) -> Survey:
    """The cases in a folder, and everything else; if None, `layout` is recognised from file names.

    patients: a table with the columns case and patient, which replaces the patients of the layout.
    Raises `InputError` if the folder or the layout does not exist, if no layout or several match,
    if two scans would be the same case, if the data set cannot be used at all, or if the table
    lacks a case.
    """
    source = Path(source)
    if not source.is_dir():
        raise InputError(f"{source} is not a folder; give the folder of a data set")
    if layout is not None and layout not in LOOKS:
        raise InputError(f"layout '{layout}' is not known; choose one of {', '.join(LOOKS)}")
    files, series = walk(source)
    layout = layout or _recognised(source, files, series)
    left: list[LeftOut] = []
    if layout == "index":
        found = indexed(source)
    elif layout == "folder":
        found, left = own(source, files, series)
    elif layout == nnunet_raw.NAME:
        found, left = nnunet_raw.cases(source, files)
    else:
        found, left = _published(source, LAYOUTS[layout], files, series)
    if not found:
        raise InputError(f"{source} has no cases of layout '{layout}': expected {LOOKS[layout]}")
    entries = named(found)
    if patients is not None:
        entries = _of_patients(entries, patients)
    tests = {one.patient for one in entries.values() if one.split == "test"}
    for name, one in entries.items():
        if one.patient in tests:  # whatever else there is of the patient
            entries[name] = replace(one, split="test")
    return Survey(layout, tuple(entries[name] for name in sorted(entries)), tuple(sorted(left)))


def _recognised(source: Path, files: list[str], series: dict[str, int]) -> str:
    fits = [name for name, rows in LAYOUTS.items() if any(_scans(r, files, series) for r in rows)]
    if "index.json" in files:
        fits.insert(0, "index")
    if len(fits) == 1:
        return fits[0]
    if not fits and nnunet_raw.roots(files):  # published sets in this layout have rows of their own
        return nnunet_raw.NAME
    what = f"several layouts match ({', '.join(fits)})" if fits else "no known layout matches"
    looks = "".join(f"\n  {name}: {look}" for name, look in LOOKS.items())
    raise InputError(
        f"{source}: {what}; choose one with --layout (folder for your own scans). Expected:{looks}"
    )


def _of_patients(entries: dict[str, Entry], table: Path) -> dict[str, Entry]:
    """The cases with the patients of a table; `InputError` if it lacks one, or names two."""
    of: dict[str, str] = {}
    for row in rows_of(table, ("case", "patient")):
        case, patient = row.cells["case"], row.cells["patient"]
        same = of.setdefault(case, patient) == patient
        ensure(same, f"{row.where}: case '{case}' has another patient, {of[case]}, further up")
    lacks = [name for name in entries if name not in of]
    ensure(
        not lacks,
        f"{table} has no patient for case {listed(lacks, 5)}; `denovox prepare --dry-run` lists the"
        " cases",
    )
    return {name: replace(one, patient=safe(of[name])) for name, one in entries.items()}


def _scans(row: Row, files: list[str], series: dict[str, int]) -> dict[str, Mapping[str, str]]:
    """Path of every scan that matches the row's pattern -> its named groups."""
    fits = ((name, _pattern(row.scan).fullmatch(name)) for name in (series if row.dicom else files))
    return {name: fit.groupdict(default="") for name, fit in fits if fit}


@cache
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text)


def _published(
    source: Path, rows: tuple[Row, ...], files: list[str], series: dict[str, int]
) -> tuple[list[Entry], list[LeftOut]]:
    scans = [_scans(row, files, series) for row in rows]
    every = {name for found in scans for name in found}
    entries: list[Entry] = []
    left: list[LeftOut] = []
    known: set[str] = set()
    for row, found in zip(rows, scans, strict=True):
        if row.refuse and found:
            raise InputError(f"{source}: {row.refuse}")
        taken: set[str] = set()
        for name in sorted(found, key=lambda name: (-series.get(name, 0), name)):
            number = row.id.format_map(found[name])
            if name in known:  # taken by an earlier row
                continue
            known.add(name)
            if row.dicom and number in taken:  # a segmentation or scout next to the CT
                left.append((name, "a smaller series of the same case"))
                continue
            taken.add(number)
            masks, strange = _masks(source, row, found[name], every)
            partner = _first(source, row.partner, found[name])
            lacks = ["mask"] * bool(row.masks and not masks)
            lacks += ["partner"] * bool(row.partner and not partner)
            entries.append(
                Entry(
                    id=number,
                    patient=row.patient.format_map(found[name]) or number,
                    scan=source / name,
                    masks=tuple(Mask(source / path, by) for path, by in masks.items()),
                    regions=row.regions,
                    source=row.source,
                    licence=row.licence,
                    partner=source / partner if partner else None,
                    notes=tuple(f"without a {what}" for what in lacks),
                )
            )
            known |= {*masks, *strange, partner or name}
            left += [(path, "not the name of an organ in this set") for path in strange]
    reasons = [skip for row in rows for skip in row.skip]
    for name in sorted({*files, *series} - known):
        why = next((s.why for s in reasons if _pattern(s.scan).fullmatch(name)), "")
        if why or not PAPERS.fullmatch(name):
            left.append((name, why or "not part of this layout"))
    return entries, left


def _first(source: Path, templates: tuple[str, ...], groups: Mapping[str, str]) -> str | None:
    """The first of these paths that exists, relative to the source."""
    paths = (normpath(text.format_map(groups)) for text in templates)
    return next((path for path in paths if (source / path).exists()), None)


def _masks(
    source: Path, row: Row, groups: Mapping[str, str], scans: set[str]
) -> tuple[dict[str, label_sets.Bridge], list[str]]:
    """(path -> bridge for a scan's masks, paths of unknown organs)."""
    for mask in row.masks:
        if not mask.organs:
            if path := _first(source, (mask.path,), groups):
                return {path: label_sets.bridge(mask.bridge)}, []
            continue
        start, end = normpath(mask.path.format_map(groups)).split("*")
        folder = os.path.dirname(start)
        there = sorted(os.listdir(source / folder)) if (source / folder).is_dir() else []
        paths = [normpath(f"{folder}/{name}") for name in there if name[0] != "."]
        fits = [p for p in paths if p.startswith(start) and p.endswith(end) and p not in scans]
        by = label_sets.organs(mask.organs)
        stems = {path: path[len(start) : len(path) - len(end)] for path in fits}
        if good := {path: by[stem] for path, stem in stems.items() if stem in by}:
            return good, [path for path in fits if path not in good]
    return {}, []
