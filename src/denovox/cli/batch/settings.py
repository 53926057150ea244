"""The settings of a batch: those of all its scans, and those of one."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..commands import as_sentence
from ..progress import say
from ..results.arguments import paths_in
from .work import Task

if TYPE_CHECKING:
    from ...batch.ledger import Row, Wanted
    from ...batch.scans import Scan

FORMATS = {"nii.gz": ".nii.gz", "nii": ".nii", "dicom": "", "zip": ".zip"}  # -> ending of OUTPUT
OWN_COLUMNS = ("series", "mask", "with_lesion", "roi", "like")  # options that fit one scan alone
BESIDE = {  # options that take a path, and are flags of a batch -> what follows OUTPUT's name, help
    "report": ("_report", "Write a report on each scan to the folder OUTPUT_report."),
    "png": (".png", "Write a picture of each result, OUTPUT.png."),
}
# Options of no influence on the results.
_APART = {"scans", "out", "force", "watch", "quiet_time", "workers", "engine"} | {
    "device", "batch", "memory"
}  # fmt: skip


def ending(given: dict[str, Any]) -> str:
    """Of every OUTPUT; "": it is a folder."""
    return FORMATS[given["form"]]


def cores() -> int:
    """Threads for all workers together: OMP_NUM_THREADS, or the cores of this process."""
    from ...core.process import cpus

    text = os.environ.get("OMP_NUM_THREADS", "")
    return int(text) if text.isdigit() and int(text) else cpus()


def check_places(scans: Iterable[Path], out: Path) -> None:
    """`InputError` if the results would be among the scans, or around them."""
    from ...core.errors import InputError
    from ...io.outputs import check_apart

    for path in scans:
        check_apart({"--out": out}, {"SCANS": path})
        if Path(os.path.realpath(out)) in Path(os.path.realpath(path)).parents and path.is_dir():
            raise InputError(f"SCANS ({path}) are inside --out ({out}); choose another --out")


def common(single: click.Command, given: dict[str, Any]) -> dict[str, Any]:
    """The settings of all scans, ready for JSON; files count by their content."""
    from ...core.version import __version__
    from ...model import weights

    names = given["weights"]
    names = [names] if isinstance(names, str) else names
    files = [path for path in weights.resolve(names) if path is not None]
    settings = {name: _plain(value) for name, value in given.items() if name not in _APART}
    return {
        **settings,
        "command": single.name,
        "version": __version__,
        "weights": [weights.sha256(path) for path in files],
    }


def _plain(value: Any) -> Any:
    if isinstance(value, Path):
        from ...model.weights import sha256

        return sha256(value) if value.is_file() else str(value)
    return [_plain(each) for each in value] if isinstance(value, tuple | list) else value


class Scans:
    """How scans become tasks of a command. settings: of `common`. given: the options."""

    def __init__(
        self, single: click.Command, settings: dict[str, Any], given: dict[str, Any]
    ) -> None:
        self.single, self.settings, self.given = single, settings, given
        self._columns: dict[str, click.Parameter] = {}
        for param in single.params:
            output = getattr(param, "group", "") == "Output" and param.name != "like"
            if isinstance(param, click.Option) and not output:
                for name in (str(param.name), *param.opts):
                    self._columns[_column(name)] = param
        self._noted: set[str] = set()
        self._memory = _share(given.get("memory"), given["workers"] or 1)

    def check_columns(self, scans: Iterable[Scan]) -> None:
        """Note the columns of a table that are not options; `InputError` if one is misspelt."""
        from ...core.errors import did_you_mean, ensure

        unknown = {
            name for scan in scans for name in scan.options if _column(name) not in self._columns
        }
        for name in sorted(unknown - self._noted):
            hint = did_you_mean(_column(name), [*self._columns])
            what = f"column '{name}' is not an option of denovox {self.single.name}"
            ensure(not hint, f"{what}{hint}; rename it")
            say(f"{what} and is not used")
        self._noted |= unknown

    def wanted(self, scan: Scan) -> Wanted:
        """The scan with its options; with a fault where they are wrong."""
        from ...batch import ledger
        from ...batch.scans import state

        own: dict[str, Any] = {}
        try:
            own = self._own(scan)
        except click.UsageError as error:
            sentence = as_sentence(error, str(self.single.name))
            scan = replace(scan, fault=scan.fault or f"{scan.where}: {sentence}")
        required = [p for p in self._columns.values() if p.required and p.name not in own]
        if required and not (scan.fault or scan.aside):
            lacks = f"{required[0].opts[0]} is not given; add a column '{required[0].name}'"
            where = scan.where or f"{scan.path}"
            scan = replace(scan, fault=f"{where}: {lacks} to a table of the scans")
        names = {name: str(value) for name, value in own.items()}
        files = [path for value in own.values() for path in paths_in(value)]
        settings = ledger.sha256({**self.settings, **names})
        return ledger.Wanted(scan, own, settings, state([*scan.files, *files]))

    def _own(self, scan: Scan) -> dict[str, Any]:
        from ...io.tables import path_in

        ctx = click.Context(self.single, info_name=self.single.name)
        own: dict[str, Any] = {}
        for name, text in scan.options.items():
            param = self._columns.get(_column(name))
            if param is None:
                continue
            value: Any = text
            if isinstance(param.type, click.Path) and scan.table is not None:
                value = str(path_in(scan.table.parent, text))
            own[str(param.name)] = param.process_value(ctx, [value] if param.multiple else value)
        return own

    def task(self, row: Row, wanted: Wanted, output: Path) -> Task:
        """What a worker has to do for a scan."""
        from ...reports.manifest import beside

        stem = beside(output).name.removesuffix(".json").removesuffix(ending(self.given))
        params: dict[str, Any] = {}
        for param in self.single.params:
            name = str(param.name)
            if name in BESIDE:
                place = output.with_name(f"{stem}{BESIDE[name][0]}")
                params[name] = place if self.given[name] else None
            else:
                params[name] = self.given.get(name)
        params |= wanted.options
        scan = wanted.scan
        params |= {"input": scan.path, "output": output, "series": scan.series, "force": True}
        fixed = {"as_json": False, "progress": "plain"}
        params |= {name: value for name, value in fixed.items() if name in params}
        if self.given["engine"] == "ray":  # whose workers are elsewhere
            params = {name: _absolute(value) for name, value in params.items()}
        elif "memory" in params:
            params["memory"] = self._memory
        return Task(row, str(self.single.name), params)


def _share(memory: str | None, workers: int) -> str | None:
    """What each of several workers may take of the memory for all, or of half of what is free."""
    from ...core.process import free_mb, megabytes

    whole = free_mb() / 2 if memory is None else megabytes(memory)
    return f"{whole / workers:.0f}MB" if workers > 1 and whole else memory


def _column(name: str) -> str:
    return name.strip("-").lower().replace("-", "_").replace(" ", "_")


def _absolute(value: Any) -> Any:
    if isinstance(value, tuple | list):
        return tuple(_absolute(each) for each in value)
    is_path = isinstance(value, Path) or (isinstance(value, str) and os.path.exists(value))
    return type(value)(os.path.abspath(value)) if is_path else value
