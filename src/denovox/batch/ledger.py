"""The manifest of a batch: a row a scan, and what is left to do after any kind of stop.

A row is `pending` from before work on its scan starts until its result has been noted. Results
appear as a whole, so a pending row whose result is there was stopped between the two, and is done.
"""

from __future__ import annotations

import hashlib
import json
import os
import unicodedata
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

from ..core.errors import InputError, ensure, shown
from ..datasets.source_scans import hashed, safe
from ..io.atomic import sweep, write_file
from ..io.space import locked
from .scans import Scan

NAME = "manifest.jsonl"
HIDDEN = ".batch"  # folder of the settings and the lock
Status = Literal["pending", "done", "refused", "failed", "skipped"]
# What a command may write beside OUTPUT, behind the name of OUTPUT.
BESIDE = ("", "_sd", "_mask", "_lesions", "_report")


@dataclass(frozen=True)
class Row:
    """A line of the manifest. output: relative to the manifest's folder; "" if there is none.

    settings_sha256: of the command, its options and its weights. state: of the input's files (see
    `scans.state`). key: of the scan. before: what was at the place of the result when work on the
    scan started.
    """

    id: str
    input: str
    series: str = ""
    status: Status = "pending"
    output: str = ""
    seconds: float | None = None
    message: str = ""
    settings_sha256: str = ""
    state: str = ""
    key: str = ""
    before: str = ""


@dataclass(frozen=True)
class Wanted:
    """A scan to be processed with these settings. options: of this scan alone."""

    scan: Scan
    options: Mapping[str, Any]
    settings: str
    state: str


@dataclass(frozen=True)
class Place:
    """Where results go. ending: of OUTPUT; "": it is a folder. last: the file of an OUTPUT that
    appears last."""

    folder: Path
    ending: str
    last: Callable[[Path], Path]

    def output(self, number: str) -> Path:
        """OUTPUT of a scan."""
        return self.folder / f"{number}{self.ending}"


class Ledger:
    """The rows of a folder of results, on disk after every change."""

    def __init__(self, place: Place, force: bool = False) -> None:
        self.place, self.force = place, force
        self.rows = {row.id: row for row in _read(place.folder / NAME)}

    def plan(self, every: Sequence[Wanted]) -> list[tuple[Row, Wanted]]:
        """Enter these scans, each with its row; those that are pending are to be processed."""
        ids = self._ids(every)
        planned = [(self._row(ids[one.scan.key], one), one) for one in every]
        self.rows |= {row.id: row for row, _ in planned}
        self.write()
        return planned

    def put(self, row: Row) -> None:
        """Enter what became of a scan."""
        self.rows[row.id] = row
        self.write()

    def write(self) -> None:
        """Replace the manifest."""
        lines = [
            json.dumps(asdict(row), ensure_ascii=False) for _, row in sorted(self.rows.items())
        ]
        write_file(self.place.folder / NAME, "".join(f"{line}\n" for line in lines))

    def sweep(self) -> None:
        """Remove what killed workers have left unfinished."""
        places = {self.place.output(number).parent for number in self.rows}
        for folder in {self.place.folder, *places}:
            sweep(folder)

    def _row(self, number: str, one: Wanted) -> Row:
        scan, old = one.scan, self.rows.get(number)
        new = Row(
            number,
            shown(scan.path),
            scan.series or "",
            settings_sha256=one.settings,
            state=one.state,
            key=_digest(scan.key),
        )
        if scan.aside:
            return replace(new, status="skipped", message=scan.aside)
        if scan.fault:
            return replace(new, status="refused", message=scan.fault)
        output = self.place.output(number)
        there = _identity(self.place.last(output))
        new = replace(new, output=f"{number}{self.place.ending}", before=there)
        taken = (
            f"{output} already exists, and this batch did not write it; choose another --out, or"
            " use --force"
        )
        foreign = old is None or old.message == taken
        if foreign and not self.force and (there or os.path.lexists(output)):
            return replace(new, status="refused", output="", message=taken)
        if old is None or (old.settings_sha256, old.state) != (one.settings, one.state):
            return new
        if old.status == "done" and output.exists():
            return replace(old, key=new.key, input=new.input)
        if old.status == "pending" and there and there != old.before:
            return replace(new, status="done", message="complete when an earlier run was stopped")
        return new

    # ---- ids ------------------------------------------------------------------------------------

    def _ids(self, every: Sequence[Wanted]) -> dict[str, str]:
        """key -> id: that of earlier runs, or the name; a hash behind it where that is taken."""
        known = {row.key: row.id for row in self.rows.values()}
        digests = {one.scan.key: _digest(one.scan.key) for one in every}
        names = _Names(not self.place.ending)
        for number in self.rows:
            names.take(number)
        ids = {key: known[digest] for key, digest in digests.items() if digest in known}
        for one in sorted(every, key=lambda each: bool(each.scan.aside)):
            key, name = one.scan.key, names.of(one.scan.name)
            if key in ids:
                continue
            old = self.rows.get(name)
            if old and old.state == one.state and old.key not in digests.values():
                ids[key] = name  # the same scan, in a folder that was moved
                continue
            ids[key] = names.free(name, digests[key])
            names.take(ids[key])
        return ids


class _Names:
    """Names of results that do not get into each other's way, on any file system.

    folders: a result is a folder, and none may be inside another.
    """

    def __init__(self, folders: bool) -> None:
        self.folders = folders
        self._taken: set[str] = set()
        self._above: set[str] = set()

    def of(self, name: str) -> str:
        """The name of a result, after that of its scan."""
        parts = [safe(part) for part in name.split("/") if part]
        if self.folders:  # a dot would begin an ending
            parts = [part.replace(".", "-") for part in parts]
        return "/".join(parts) or "scan"

    def free(self, name: str, key: str) -> str:
        """The name, or one that is not taken; key: of the scan, for a hash."""
        wanted = name
        while self._is_taken(name):
            above, _, last = wanted.replace("/", "_" if self.folders else "/").rpartition("/")
            name = f"{above}/{hashed(last, key + name)}".lstrip("/")
        return name

    def take(self, name: str) -> None:
        """Take a name."""
        self._taken |= self._own(name)
        self._above |= self._parents(name)

    def _own(self, name: str) -> set[str]:
        folded = unicodedata.normalize("NFC", name).casefold()
        return {folded + end for end in BESIDE}

    def _parents(self, name: str) -> set[str]:
        parts = unicodedata.normalize("NFC", name).casefold().split("/")
        return {"/".join(parts[:n]) for n in range(1, len(parts))}

    def _is_taken(self, name: str) -> bool:
        own = self._own(name)
        nested = self.folders and (own & self._above or self._parents(name) & self._taken)
        return bool(own & self._taken or nested)


# ---- on disk ------------------------------------------------------------------------------------


def alone(folder: Path) -> AbstractContextManager[None]:
    """Ensure that only one batch writes to a folder."""
    return locked(folder / HIDDEN, f"another `denovox batch` is writing to {folder}; wait for it")


def is_batch(folder: Path) -> bool:
    """Whether a folder holds the results of a batch."""
    return (folder / HIDDEN / "settings.json").is_file()


def keep_settings(folder: Path, settings: Mapping[str, Any], force: bool) -> None:
    """Note the settings of a batch; `InputError` if its results have others, unless `force`."""
    path = folder / HIDDEN / "settings.json"
    new = json.loads(json.dumps(settings))
    if path.is_file() and not force:
        old = json.loads(path.read_text("utf-8"))
        changes = [
            f"{name} {shown(old.get(name))}, now {shown(new.get(name))}"
            for name in sorted({*old, *new})
            if old.get(name) != new.get(name)
        ]
        ensure(
            not changes,
            f"{folder} holds results with other settings ({'; '.join(changes[:5])}); choose another"
            " --out, or use --force to process its scans again",
        )
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, json.dumps(new, indent=1) + "\n")


def sha256(value: Any) -> str:
    """Of settings, whatever their order."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def _read(path: Path) -> list[Row]:
    rows = []
    text = path.read_text("utf-8") if path.is_file() else ""
    for number, line in enumerate(text.rstrip("\n").split("\n") if text else [], 1):
        try:
            rows.append(Row(**json.loads(line)))
        except (ValueError, TypeError):
            raise InputError(
                f"{path}, line {number}: not a row of a batch; restore the file, or choose another"
                " --out"
            ) from None
    return rows


def _identity(path: Path) -> str:
    """What is at a path; another text once it has been replaced; "" where there is nothing."""
    try:
        status = path.stat()
    except OSError:
        return ""
    return f"{status.st_ino} {status.st_mtime_ns}"


def _digest(key: str) -> str:
    return hashlib.sha256(os.fsencode(key)).hexdigest()[:16]
