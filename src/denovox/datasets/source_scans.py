"""Cases on disk, and cases outside published sets: an index.json, or any folder of CTs.

Only paths are inspected; no voxels are read. `layouts.py` handles the published sets.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ..core.errors import InputError, shown
from ..core.labels import ID, UNKNOWN
from ..io import dicom
from ..io.dicom.files import SNIFFED, is_dicom
from ..io.tables import path_in, text_of
from . import label_sets
from .label_sets import Bridge
from .manifest import Split

# The use of a case in an index.json -> its part of the split; "evaluate" is never trained on.
USES: dict[str, Split] = {"train": "train", "validate": "validation", "evaluate": "test"}
LeftOut = tuple[str, str]  # (path below SOURCE or id, why)
LONGEST = 120  # characters of an id, which becomes part of file names
_RESERVED = re.compile(r"(?:con|prn|aux|nul|com\d|lpt\d)(?:\..*)?", re.IGNORECASE)  # by Windows
SPANNING = ("torso", "whole body")  # not regions of the model: scans that show several
SCAN = re.compile(r"(?P<stem>.+)\.(?:nii(?:\.gz)?|nrrd|nhdr|mha|mhd|zip)", re.I | re.S)
_MASK_ENDS = ("_seg", "_labels", ".seg")
LESION_ENDS = ("_lesion", "_lesions", "_lesion.seg", "_lesions.seg")
PAPERS = re.compile(  # files that accompany scans
    r"(?:.*/)?(?:[^/]+\.(?:json|csv|tsv|xlsx?|md|txt|pdf|html|py|toml|ya?ml|pkl)"
    r"|(?:LICEN[CS]E|README|DICOMDIR)[^/]*)",
    re.I | re.S,
)


@dataclass(frozen=True)
class Mask:
    """A label map of a scan, and what its values mean. A one-organ mask maps only 1."""

    path: Path
    bridge: Bridge


@dataclass(frozen=True)
class Entry:
    """A case on disk.

    id: unique in its set, safe as a file name. patient: the unit of the data split. scan: a file,
    or the folder of a DICOM series. masks: all on the scan's grid. regions: names from
    core/regions; None: determined from the image. series: which one, if a DICOM folder holds
    several. partner: the measured scan of the same acquisition (quarter dose, thick slices). notes:
    what is missing, if anything. split: defined by the set; None: by a hash of the patient.
    """

    id: str
    patient: str
    scan: Path
    masks: tuple[Mask, ...] = ()
    regions: tuple[str, ...] | None = None
    source: str = ""
    licence: str = ""
    series: str | None = None
    partner: Path | None = None
    notes: tuple[str, ...] = ()
    split: Split | None = None


def indexed(source: Path) -> list[Entry]:
    """The cases in an index.json: `id`, `file`, `patient`, and optionally `region`, `masks` (file
    stem -> bridge name, or {value: class}), `source`, `licence`, `use` (train, validate or
    evaluate; the same for all scans of a patient)."""
    index = source / "index.json"
    try:
        rows = json.loads(text_of(index))
    except ValueError as error:
        raise InputError(f"{index} cannot be read as JSON ({error}); check it") from error
    entries: list[Entry] = []
    use_of: dict[str, str | None] = {}
    for number, row in enumerate(rows if isinstance(rows, list) else [None]):
        if not isinstance(row, dict) or not {"id", "file", "patient"} <= set(row):
            raise InputError(f"{index}: entry {number} lacks one of 'id', 'file' and 'patient'")
        region = row.get("region")
        regions = (region,) if region and region not in SPANNING else None
        masks = tuple(
            Mask(path_in(source, f"{stem}.nii.gz"), _index_bridge(table, f"{index}, {stem}"))
            for stem, table in row.get("masks", {}).items()
        )
        paths = (path_in(source, row["file"]), *(mask.path for mask in masks))
        if gone := [path for path in paths if not path.exists()]:
            raise InputError(f"{index}: {gone[0]} of case '{row['id']}' does not exist")
        texts = shown(row.get("source", "")), shown(row.get("licence", ""))
        who, use = (str(row["id"]), str(row["patient"])), row.get("use")
        if use is not None and use not in USES:
            raise InputError(
                f"{index}: use '{use}' of case '{who[0]}' is not one of {', '.join(USES)}"
            )
        if use_of.setdefault(who[1], use) != use:
            raise InputError(f"{index}: the scans of patient '{who[1]}' have different uses")
        split = None if use is None else USES[use]
        entries.append(Entry(*who, paths[0], masks, regions, *texts, split=split))
    return entries


def _index_bridge(table: Any, where: str) -> Bridge:
    """A label table from an index; classes outside the vocabulary deliberately stay unknown, and
    those that name disease are lesions."""
    if isinstance(table, str):
        if table != "TotalSegmentator v2 total ids":
            return label_sets.bridge(table)
        own = label_sets.bridge("totalsegmentator_v2")
        # One published map contains 118, which TotalSegmentator's final list does not use.
        return replace(own, values={**own.values, 118: UNKNOWN})
    of_values = {v: of if of in ID else "unknown" for v, of in table.items()}
    lesions = tuple(int(v) for v, of in table.items() if label_sets.NAMES_LESION.search(str(of)))
    return replace(label_sets.from_table(of_values, where), lesions=lesions)


def own(
    source: Path, files: list[str], series: dict[str, int]
) -> tuple[list[Entry], list[LeftOut]]:
    """Every CT file and DICOM series as a case. A mask uses the values of the vocabulary and is
    named <stem>_seg or <stem>_labels next to the scan, or has the scan's name in a labels/ folder
    next to it, or its path in labels/ at the top. <stem>_lesion marks lesions with values above 0.
    """
    stems = {name: fit["stem"] for name in files if (fit := SCAN.fullmatch(name))}
    masks = {stem: name for name, stem in stems.items() if is_mask(stem)}
    left = [(n, "not a CT file") for n in files if n not in stems and not PAPERS.fullmatch(n)]
    entries, used = [], set()
    for name in sorted([n for n in stems if n not in masks.values()] + [*series]):
        stem = stems.get(name, name) if name != "." else source.resolve().name
        folder, _, last = stem.rpartition("/")
        short = [last, re.sub(r"(?i)_(?:ct|0000)$", "", last)]

        def beside(ends: tuple[str, ...], last: list[str] = short, at: str = folder) -> list[str]:
            return [f"{at}/{s}{end}".lstrip("/") for s in last for end in ends]

        within = [f"{folder}/labels/{s}".lstrip("/") for s in short] + [f"labels/{stem}"]
        own: tuple[Mask, ...] = ()
        for places, bridge in (
            (beside(_MASK_ENDS) + within, label_sets.bridge("denovox")),
            (beside(LESION_ENDS), label_sets.LESION),
        ):
            mask = next((masks[stem] for stem in places if stem in masks), None)
            used.add(mask)
            own += (Mask(source / mask, bridge),) if mask else ()
        patient = stem.split("/")[0] if "/" in stem else short[1]
        whole = Entry(stem, patient, source / name, own, None, "own data")
        several = _several(source / name) if name in series else []
        entries += [
            replace(whole, id=f"{stem}_{one.uid[-12:]}", patient=who or patient, series=one.uid)
            for one in several
            for who in [one.facts.patient_id]
        ] or [whole]
    left += [(n, "a mask without its scan") for n in masks.values() if n not in used]
    return entries, left


def _several(folder: Path) -> list[dicom.Series]:
    """The CT series in a folder, if there is more than one: each is a case, assigned to a patient
    by its PatientID, since a folder that mixes series may mix patients."""
    try:
        found = [one for one in dicom.series_in(folder) if not one.aside]
    except InputError:  # reading it later reports why
        return []
    return found if len(found) > 1 else []


def named(found: Iterable[Entry]) -> dict[str, Entry]:
    """The cases by id, with ids and patients made `safe`.

    Where different names would become one id, those that had to be changed get a hash. `InputError`
    if two scans have the same name.
    """
    every = list(found)
    ids = [safe(entry.id) for entry in every]
    uses = Counter(ids)
    entries: dict[str, Entry] = {}
    for name, entry in zip(ids, every, strict=True):
        if uses[name] > 1 and name != entry.id:
            name = hashed(name, entry.id)
        if name in entries:
            both = f"{entries[name].scan} and {entry.scan}"
            raise InputError(f"{both} would both be case '{name}'; leave one of them out")
        entries[name] = replace(entry, id=name, patient=safe(entry.patient))
    return entries


def safe(text: str) -> str:
    """A name that is valid as a file name on every system, and not hidden.

    Characters outside ASCII, long names and those that Windows reserves are replaced, with a hash
    of the name behind: different names stay different, in any order and in every run.
    """
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", text.replace("/", "_")).strip("-.") or "case"
    plain = text.isascii() and len(name) <= LONGEST and not _RESERVED.fullmatch(name)
    return name if plain else hashed(name, text)


def hashed(name: str, text: str) -> str:
    """A name with a hash of the text that it stands for."""
    whole = unicodedata.normalize("NFC", text).encode("utf-8", "surrogatepass")
    return f"{name[: LONGEST - 9]}-{hashlib.sha256(whole).hexdigest()[:8]}"


def is_mask(stem: str) -> bool:
    return "labels" in stem.split("/")[:-1] or stem.endswith((*_MASK_ENDS, *LESION_ENDS))


def walk(source: Path) -> tuple[list[str], dict[str, int]]:
    """Under a folder, in order: files, and folders with a DICOM series -> their number of files."""
    files: list[str] = []
    series: dict[str, int] = {}
    visited = {os.path.realpath(source)}
    for at, folders, names in os.walk(source, followlinks=True):
        # Links are followed, but not into a folder already visited: there may be loops.
        real = {name: os.path.realpath(os.path.join(at, name)) for name in sorted(folders)}
        folders[:] = [name for name in real if name[0] != "." and real[name] not in visited]
        visited |= {real[name] for name in folders}
        below = Path(at).relative_to(source)
        dicom = [n for n in sorted(names) if n[0] != "." and _is_dicom(Path(at, n))]
        if dicom:
            series[below.as_posix()] = len(dicom)
        if {"settings.json", ".lock"} <= set(names):  # a store of `denovox prepare`
            folders.clear()
            continue
        files += [(below / n).as_posix() for n in sorted(set(names) - set(dicom)) if n[0] != "."]
    return files, series


def _is_dicom(path: Path) -> bool:
    """By its suffix or, for a file without one, by the magic number after 128 bytes."""
    suffix = path.suffix.lower()
    if suffix in (".dcm", ".ima"):
        return True
    if suffix and not suffix[1:].isdigit():  # a UID ends in digits
        return False
    try:
        if not path.is_file():  # a pipe would block
            return False
        with path.open("rb") as file:
            return is_dicom(file.read(SNIFFED))
    except OSError:
        return False
