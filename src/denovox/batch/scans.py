"""Find the scans that a batch is about: in folders, DICOM archives, files, patterns and tables.

Only names and headers are read. What is not a CT scan is listed with the reason: a batch leaves
nothing out in silence.
"""

from __future__ import annotations

import glob
import hashlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from ..core.errors import InputError, ensure, line
from ..datasets.source_scans import PAPERS, SCAN, is_mask, walk
from ..io import dicom
from ..io.dicom.files import Part
from ..io.dicom.header import header
from ..io.dicom.series import ALL, found_in
from ..io.tables import is_table, path_in, rows_of

_WILD = re.compile(r"[*?\[]")
_DETACHED = (".mhd", ".nhdr")  # headers whose voxels are in another file of the same stem
_VOXELS = (".raw", ".zraw", ".img")


@dataclass(frozen=True)
class Scan:
    """A scan, or something else that was found.

    key: tells it from all others, in every run. name: its path below the folder that was given,
    without the ending. series: of DICOM. options: of this scan alone, as text. files: what it
    consists of. study: what it arrives with. table, where: the table that names it, and its line
    there. aside: why it is not a CT scan; fault: why it cannot be processed; both are empty if all
    is well.
    """

    key: str
    name: str
    path: Path
    series: str | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    files: tuple[Path, ...] = ()
    study: str = ""
    table: Path | None = None
    where: str = ""
    aside: str = ""
    fault: str = ""


def state(files: Iterable[Path]) -> str:
    """A digest of the names, sizes and times of files: another one, and they have changed."""
    total = hashlib.sha256()
    for path in sorted(set(files)):
        try:
            status = path.stat()
            facts = f" {status.st_size} {status.st_mtime_ns}\n"
        except OSError:  # it has gone
            facts = " -\n"
        total.update(os.fsencode(path.name) + facts.encode())
    return total.hexdigest()


class Finder:
    """Finds the scans of its sources, again and again; a DICOM header is read once.

    sources: folders, files, patterns (*, ?, [...], **), and tables (.csv, .tsv, .txt). out: a
    folder to leave out.
    """

    def __init__(self, sources: Sequence[Path], out: Path) -> None:
        self.sources = sources
        self.out = Path(os.path.realpath(out))
        self._known: dict[tuple[Path, int, int], tuple[str, str, str]] = {}
        self._held: dict[tuple[Path, str], list[tuple[str, str]] | str] = {}

    def find(self) -> list[Scan]:
        """All scans, in order of their names; `InputError` for a source that is not there, and for
        a table that cannot be read."""
        found: dict[str, Scan] = {}
        files: list[Path] = []
        for source in self.sources:
            if not os.path.lexists(source) and _WILD.search(str(source)):
                root, matches = _matches(source)
                for path in matches:
                    found |= _by_key(self._at(path, root))
            elif source.is_dir():
                found |= _by_key(self._in_folder(source, ""))
            elif is_table(source):
                found |= _by_key(_in_table(source))
            else:
                ensure(source.exists(), f"{source} does not exist; check the path")
                files.append(source)
        root = _common(files) if files else Path()
        for path in files:
            found |= _by_key(self._at(path, root))
        return sorted(found.values(), key=lambda scan: (scan.name, scan.key))

    def _at(self, path: Path, root: Path) -> Iterator[Scan]:
        """The scans in a file or folder below `root`."""
        below = Path(os.path.relpath(path, root)).as_posix()
        if path.is_dir():
            yield from self._in_folder(path, below)
        elif self._is_input(path):
            yield from self._in_file(path, below)

    def _is_input(self, path: Path) -> bool:
        return self.out not in Path(os.path.realpath(path)).parents

    def _in_folder(self, folder: Path, prefix: str) -> Iterator[Scan]:
        files, series = walk(folder)
        for name in files:
            path, below = folder / name, Path(prefix, name).as_posix()
            fit = SCAN.fullmatch(name)
            if not self._is_input(path):
                continue
            if fit and is_mask(fit["stem"]):
                yield Scan(_key(path), below, path, aside="a mask, by its name")
            elif fit:
                yield from self._in_file(path, below)
            elif not PAPERS.fullmatch(name) and path.suffix.lower() not in _VOXELS:
                yield Scan(_key(path), below, path, aside="not a CT file")
        others = set(files)
        slices = [
            folder / at / name
            for at in series
            for name in sorted(os.listdir(folder / at))
            if name[0] != "." and Path(at, name).as_posix() not in others
        ]
        slices = [path for path in slices if path.is_file() and self._is_input(path)]
        yield from self._archive(folder, prefix, slices)

    def _archive(self, root: Path, prefix: str, slices: Sequence[Path]) -> Iterator[Scan]:
        """The series of DICOM files; one that is spread over folders is in what holds them all."""
        by_series: dict[str, list[Path]] = {}
        study_of: dict[str, str] = {}
        for path in slices:
            uid, study, fault = self._uids(path)
            if fault:
                below = Path(prefix, path.relative_to(root)).as_posix()
                yield Scan(_key(path), below, path, files=(path,), study=below, fault=fault)
            elif uid:
                by_series.setdefault(uid, []).append(path)
                study_of[uid] = study or uid
        by_folder: dict[Path, list[str]] = {}
        for uid, paths in by_series.items():
            folder = Path(os.path.commonpath([path.parent for path in paths]))
            by_folder.setdefault(folder, []).append(uid)
        for folder, uids in by_folder.items():
            below = Path(prefix, folder.relative_to(root)).as_posix()
            name = root.resolve().name if below == "." else below
            files = tuple(path for uid in uids for path in by_series[uid])
            one = Scan(_key(folder), name, folder, files=files, study=study_of[uids[0]])
            for scan in self._series(one):
                base = (scan.series or "").partition("#")[0]
                key = f"{_key(root)}|{scan.series}" if scan.series else scan.key
                own = tuple(by_series.get(base, files))
                study = study_of.get(base, one.study)
                yield replace(scan, key=key, files=own, study=study)

    def _in_file(self, path: Path, below: str) -> Iterator[Scan]:
        """The scan in a file; those in a ZIP."""
        one = Scan(_key(path), _stem(below), path, files=(path,), study=_key(path))
        if path.suffix.lower() in _DETACHED:
            same = [each for each in path.parent.iterdir() if each.name.startswith(f"{path.stem}.")]
            one = replace(one, files=tuple(sorted(same)))
        if path.suffix.lower() == ".zip":
            yield from self._series(one)
        else:
            yield one

    def _series(self, one: Scan) -> Iterator[Scan]:
        """A scan for each CT series in a folder or a ZIP; the others with the reason."""
        key = one.path, state(one.files)
        if key not in self._held:
            self._held[key] = _described(one)
        held = self._held[key]
        if isinstance(held, str):
            yield replace(one, fault=held)
            return
        usable = [uid for uid, aside in held if not aside]
        if not held or any(uid.partition("#")[0] == ALL for uid in usable):
            yield one  # the reader explains what is missing, or how to read such slices
            return
        for uid, aside in held:
            number = len(held if aside else usable) > 1
            name = f"{one.name}_{uid[-12:]}" if number else one.name
            yield replace(one, key=f"{one.key}|{uid}", name=name, series=uid, aside=aside)

    def _uids(self, path: Path) -> tuple[str, str, str]:
        """(series, study, why it cannot be read) of a DICOM file; without a series: a DICOMDIR."""
        try:
            status = path.stat()
        except OSError as error:
            return "", "", f"{path} cannot be read ({error.strerror or line(error)})"
        key = path, status.st_size, status.st_mtime_ns
        if key not in self._known:
            try:
                found = header(Part(str(path), status.st_size, path))
                uids = ("", "") if found is None else (found.series_uid, found.facts.study_uid)
                self._known[key] = *uids, ""
            except InputError as error:
                self._known[key] = "", "", str(error)
        return self._known[key]


def _described(one: Scan) -> list[tuple[str, str]] | str:
    """(UID, why it is not a CT scan) of each series in a folder or a ZIP, or why there are none."""
    try:
        if one.path.is_file():
            every = dicom.series_in(one.path)
        else:
            every = found_in([Part(str(p), p.stat().st_size, p) for p in sorted(one.files)])
    except InputError as error:
        return str(error)
    except OSError as error:  # a file has gone since
        return f"{one.path} cannot be read ({error.strerror or line(error)})"
    return [(each.uid, each.aside) for each in every]


def _in_table(table: Path) -> Iterator[Scan]:
    """A scan for each line; columns besides path and id are options of this scan."""
    rows = rows_of(table, ("path",))
    paths = [path_in(table.parent, row.cells["path"]) for row in rows]
    root = _common(paths)
    for row, path in zip(rows, paths, strict=True):
        given = {name: text for name, text in row.cells.items() if text}
        number, series = given.get("id", ""), given.get("series")
        below = Path(os.path.relpath(path, root)).as_posix()
        key = f"id {number}" if number else f"{_key(path)}|{series or ''}"
        files = tuple(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else (path,)
        options = {n: text for n, text in given.items() if n not in ("path", "id", "series")}
        there = path.exists()
        yield Scan(
            key,
            number or _stem(below),
            path,
            series,
            options,
            files,
            key,
            table,
            row.where,
            fault="" if there else f"{row.where}: {path} does not exist; check the path",
        )


def _by_key(scans: Iterable[Scan]) -> dict[str, Scan]:
    """Scans by key; `InputError` if two lines of a table are the same scan."""
    found: dict[str, Scan] = {}
    for scan in scans:
        if scan.where and scan.key in found:
            what = scan.key if scan.key.startswith("id ") else f"the scan {scan.path}"
            raise InputError(
                f"{scan.where}: {what} is in {found[scan.key].where} as well; give each line an id"
                " of its own"
            )
        found[scan.key] = scan
    return found


def _matches(pattern: Path) -> tuple[Path, list[Path]]:
    """(the folder above the first wildcard, what matches a pattern)."""
    parts = pattern.parts
    first = next(i for i, part in enumerate(parts) if _WILD.search(part))
    return Path(*parts[:first]), sorted(map(Path, glob.glob(str(pattern), recursive=True)))


def _key(path: Path) -> str:
    return os.path.abspath(path)


def _stem(below: str) -> str:
    fit = SCAN.fullmatch(below)
    return fit["stem"] if fit else below


def _common(paths: Sequence[Path]) -> Path:
    """The folder that holds all of them."""
    return Path(os.path.commonpath([os.path.dirname(_key(path)) for path in paths]))
