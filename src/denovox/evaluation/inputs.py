"""What a protocol reads and where it leaves scans: the same lists and folders for all of them.

Lists are CSVs of any spreadsheet (io/tables.py); paths in them are relative to the CSV.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import InputError, ensure, shown
from ..core.regions import REGIONS
from ..core.regions import region as region_named
from ..core.volume import Volume
from ..datasets import layouts, prepare
from ..datasets.source_scans import LONGEST, hashed, safe
from ..io.atomic import open_folder
from ..io.nifti_bytes import save_new
from ..io.tables import Row, is_table, path_in, rows_of
from ..scan import gate

Say = Callable[[str], None]
Save = Callable[[str, str, Volume], None]  # (folder, name of the scan, what to write there)
SETS = {"real": "reference", "synthetic": "test", "training": "training"}  # set -> its folder
FOLDERS = {"map": "maps", "mask": "masks"}  # column -> its folder, where the name differs
_ENDS = re.compile(r"\.(?:nii(?:\.gz)?|nrrd|nhdr|mha|mhd|npy|png|tiff?|zip|dcm)$", re.IGNORECASE)


@dataclass(frozen=True)
class Scan:
    """A CT on disk. id: unique, and safe as a file's name. region: None is recognised along z.

    anatomy: the label map that it was generated from.
    """

    id: str
    patient: str
    path: Path
    region: str | None = None
    series: str | None = None
    anatomy: Path | None = None

    def read(self, say: Say = lambda text: None, accept_hu: bool = False) -> Volume:
        """Its HU, see `gate.read`; `InputError` names the file."""
        return gate.read(self.path, series=self.series, accept_hu=accept_hu, say=say)


@dataclass(frozen=True)
class Pair:
    """Two files to compare, and whose they are; score: of the whole image, where it was given."""

    patient: str
    first: Path
    second: Path
    score: float | None = None


# -- scans, sets and pairs ------------------------------------------------------------------------


def scans_of(data: Path, region: str | None = None, say: Say = lambda text: None) -> list[Scan]:
    """The scans of a CSV (patient, scan, optionally region), of a folder, or the one in a file.

    A folder is read as `denovox prepare` reads it: by its index.json, or else every CT file and
    DICOM series, with the name of the file or of its first folder as the patient. region: of all
    scans whose line or index names none. `InputError` where there is no scan, or a line is wrong.
    """
    region = None if region in (None, "auto") else region_named(str(region)).name
    if is_table(data) and not data.is_dir():
        return _listed(rows_of(data, ("patient", "scan")), data, region)
    if not data.is_dir():
        ensure(data.exists(), f"{data} does not exist; give a scan, a folder of scans, or a CSV")
        stem = _ENDS.sub("", data.name)
        name = stem if shown(stem) == stem and len(stem) <= LONGEST else safe(stem)
        return [Scan(name, name, data, region)]
    survey = layouts.survey(data, "index" if (data / "index.json").is_file() else "folder")
    for note in survey.notes():
        say(note)
    scans = []
    for entry in survey.entries:
        one = entry.regions[0] if entry.regions and len(entry.regions) == 1 else None
        known = region or (one if one in REGIONS else None)
        scans.append(Scan(entry.id, entry.patient, entry.scan, known, entry.series))
    return scans


def _listed(rows: Sequence[Row], data: Path, region: str | None) -> list[Scan]:
    scans: dict[str, Scan] = {}
    for row in rows:
        path, own = row.cells["scan"], row.cells.get("region") or region
        if own not in (None, "auto", *REGIONS):
            raise InputError(f"{row.where}: region '{own}' is none of {', '.join(REGIONS)}")
        file = path_in(data.parent, path)
        name = re.sub(r"[^\w.-]+", "_", _ENDS.sub("", path)).strip("._")
        if len(name) > LONGEST or (name in scans and not _one(scans[name].path, file)):
            name = hashed(name, path)
        ensure(name not in scans, f"{row.where}: there is a scan '{name}' already; list each once")
        own = None if own == "auto" else own
        labels = row.cells.get("anatomy")
        anatomy = path_in(data.parent, labels) if labels else None
        scans[name] = Scan(name, row.cells["patient"], file, own, anatomy=anatomy)
    return list(scans.values())


def _one(first: Path, second: Path) -> bool:
    """Whether two paths are one scan: the same, but for a suffix."""
    return _ENDS.sub("", os.path.normpath(first)) == _ENDS.sub("", os.path.normpath(second))


def sets_of(data: Path, region: str | None, say: Say) -> dict[str, list[Scan]]:
    """set -> its scans, from a folder or a CSV (patient, set, scan, optionally region, anatomy).

    The sets are those of `SETS`; "made" is an older name of "synthetic". `InputError` where real
    or synthetic scans are fewer than two, or as in `scans_of`.
    """
    if data.is_dir():
        sets = {
            name: scans_of(data / folder, region, say)
            for name, folder in SETS.items()
            if name != "training" or (data / folder).is_dir()
        }
    else:
        region = None if region in (None, "auto") else region_named(str(region)).name
        of_set: dict[str, list[Row]] = {}
        for row in rows_of(data, ("patient", "set", "scan")):
            given = row.cells["set"].lower()
            name = "synthetic" if given == "made" else given
            ensure(name in SETS, f"{row.where}: set '{given}' is none of {', '.join(SETS)}")
            of_set.setdefault(name, []).append(row)
        sets = {name: _listed(rows, data, region) for name, rows in of_set.items()}
    for name in ("real", "synthetic"):
        count = len(sets.get(name, ()))
        ensure(count >= 2, f"{data}: the {name} set has {count} scans and needs two or more")
    return sets


def pairs_of(data: Path, columns: tuple[str, str]) -> list[Pair]:
    """The pairs of a CSV (patient and these columns, optionally score) or of two folders, in order.

    The folders are called as the columns are, or as in `FOLDERS`; files of one name are a pair.
    `InputError` where a file has no partner, or some images have a score and others have none.
    """
    if data.is_dir():
        return _of_folders(data, columns)
    pairs: dict[tuple[Path, Path], Pair] = {}
    rows = rows_of(data, ("patient", *columns))
    scored = bool(rows[0].cells.get("score"))
    for row in rows:
        score = _score(row)
        ensure(scored == (score is not None), f"{row.where}: give a score in all lines or in none")
        first, second = (path_in(data.parent, row.cells[name]) for name in columns)
        ensure((first, second) not in pairs, f"{row.where}: this pair is there already")
        pairs[first, second] = Pair(row.cells["patient"], first, second, score)
    return list(pairs.values())


def _score(row: Row) -> float | None:
    text = row.cells.get("score")
    try:
        score = float(text) if text else None
    except ValueError:
        score = math.nan
    ensure(score is None or math.isfinite(score), f"{row.where}: score '{text}' is not a number")
    return score


def _of_folders(data: Path, columns: tuple[str, str]) -> list[Pair]:
    names = [FOLDERS.get(column, column) for column in columns]
    first, second = ({}, {})  # type: tuple[dict[str, Path], dict[str, Path]]
    for name, files in zip(names, (first, second), strict=True):
        for path in sorted((data / name).glob("[!.]*")):
            stem = _ENDS.sub("", path.name)
            ensure(stem not in files, f"{data / name} has two files called {stem}; leave one")
            files[stem] = path
        ensure(files, f"{data} needs {names[0]}/ and {names[1]}/ with files in both, or give a CSV")
    alone = sorted(set(first) ^ set(second))
    ensure(not alone, f"{data}: {', '.join(alone[:5])} has no partner of the same name")
    # BMAD's images are <patient>_<slice>; of other protocols a scan is a patient.
    return [
        Pair(stem.rpartition("_")[0] or stem if "map" in columns else stem, path, second[stem])
        for stem, path in first.items()
    ]


def sha256(path: Path, series: str | None = None) -> str:
    """Of a file's bytes, as sha256sum has it; of a folder (DICOM), see `prepare.digest`."""
    if path.is_dir():
        return prepare.digest(path, series or "")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


# -- scans that a protocol leaves -----------------------------------------------------------------


@contextmanager
def saved_scans(folder: Path | None, force: bool = False) -> Iterator[Save]:
    """Save scans in a new folder, which is complete when the block ends, or not there.

    NIfTI files of float32, `<folder>/<what>/<scan>.nii.gz`. With `force`, a folder that is there
    keeps its other files. `InputError` where it has files (without `force`) or cannot be written.
    """
    if folder is None:
        yield lambda what, name, volume: None
        return
    with open_folder(folder, force) as unfinished:

        def save(what: str, name: str, volume: Volume) -> None:
            (unfinished / what).mkdir(exist_ok=True)
            path = unfinished / what / f"{name}.nii.gz"
            save_new(volume.hu, volume.affine, np.dtype("<f4"), path, False)

        yield save
