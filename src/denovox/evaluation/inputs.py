"""What a trial runs on, and where it leaves its scans: a list of CTs in, a folder of pairs out."""

from __future__ import annotations

import csv
import hashlib
import os
import re
import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..core.errors import InputError, ensure, line
from ..core.regions import REGIONS
from ..core.regions import region as region_named
from ..core.volume import Volume
from ..datasets import layouts, prepare
from ..io import formats
from ..io.new_folder import check_folder
from ..io.nifti_bytes import save_new

Say = Callable[[str], None]
Keep = Callable[[str, str, Volume], None]  # (folder, name of the scan, what is left there)
_ENDS = re.compile(r"\.(?:nii(?:\.gz)?|nrrd|nhdr|mha|mhd|zip|dcm)$", re.IGNORECASE)


@dataclass(frozen=True)
class Scan:
    """A CT on disk. id: unique, and safe as a file's name. region: None is found along z."""

    id: str
    patient: str
    path: Path
    region: str | None = None
    series: str | None = None

    def read(self, say: Say = lambda text: None) -> Volume:
        """Its HU; `InputError` names the file."""
        return formats.read(self.path, series=self.series, say=say)


def scans_of(data: Path, region: str | None = None, say: Say = lambda text: None) -> list[Scan]:
    """The scans of a CSV (patient, scan, maybe region), of a folder, or the one in a file.

    A folder is looked through as `denovox prepare` does: by its index.json, else for every CT file
    and DICOM series; a file's name is then its patient's, or its first folder's. region: of all.
    `InputError` where there is none, or a line is not whole.
    """
    region = None if region in (None, "auto") else region_named(str(region)).name
    if data.suffix.lower() == ".csv":
        return _of_csv(data, region)
    if not data.is_dir():
        ensure(data.exists(), f"{data} does not exist; give a scan, a folder of scans, or a CSV")
        stem = _ENDS.sub("", data.name)
        return [Scan(stem, stem, data, region)]
    layout = "index" if (data / "index.json").is_file() else "folder"
    found = layouts.survey(data, layout)
    for note in found.notes():
        say(note)
    scans = []
    for entry in found.entries:
        one = entry.regions[0] if entry.regions and len(entry.regions) == 1 else None
        known = region or (one if one in REGIONS else None)
        scans.append(Scan(entry.id, entry.patient, entry.scan, known, entry.series))
    return scans


def _of_csv(data: Path, region: str | None) -> list[Scan]:
    try:
        with data.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{data} cannot be read as a CSV of scans ({line(error)})") from None
    scans: dict[str, Scan] = {}
    for number, row in enumerate(rows, 2):
        where = f"{data}, line {number}"
        lacks = [name for name in ("patient", "scan") if not row.get(name)]
        ensure(not lacks, f"{where}: no {' and no '.join(lacks)}")
        own = row.get("region") or region
        if own not in (None, "auto") and own not in REGIONS:
            raise InputError(f"{where}: region '{own}' is none of {', '.join(REGIONS)}")
        name = re.sub(r"[^\w.-]+", "_", _ENDS.sub("", row["scan"])).strip("._")
        ensure(name not in scans, f"{where}: {row['scan']} is there already; list each scan once")
        told = None if own == "auto" else own
        scans[name] = Scan(name, row["patient"], data.parent / row["scan"], told)
    ensure(scans, f"{data} has no scans; it needs a line each below 'patient,scan'")
    return list(scans.values())


def sha256(path: Path, series: str | None = None) -> str:
    """Of a file's bytes, as sha256sum has it; of a folder (DICOM), see `prepare.digest`."""
    if path.is_dir():
        return prepare.digest(path, series or "")
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@contextmanager
def keeping(folder: Path | None, force: bool = False) -> Iterator[Keep]:
    """Takes scans and, at the end of the block, makes a new folder of them, or nothing of it.

    NIfTI files of float32, `<folder>/<what>/<scan>.nii.gz`. With `force`, a folder that is there
    keeps its other files. `InputError` where it has files (without `force`) or cannot be written.
    """
    if folder is None:
        yield lambda what, name, volume: None
        return
    check_folder(folder, force)
    target = Path(os.path.realpath(folder))
    beside = target.with_name(f".{target.name}.{uuid.uuid4().hex}")

    def keep(what: str, name: str, volume: Volume) -> None:
        (beside / what).mkdir(parents=True, exist_ok=True)
        path = beside / what / f"{name}.nii.gz"
        save_new(volume.hu, volume.affine, np.dtype("<f4"), path, False)

    try:
        yield keep
        for path in sorted(beside.glob("*/*")):
            own = target / path.relative_to(beside)
            own.parent.mkdir(parents=True, exist_ok=True)
            os.replace(path, own)
    except OSError as error:
        raise InputError(f"{target} could not be written ({line(error)}); check the disk") from None
    finally:
        shutil.rmtree(beside, ignore_errors=True)
