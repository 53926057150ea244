"""`denovox batch COMMAND`: the options, and the run."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...core.errors import listed
from ..commands import Command, Group, Option
from ..options import FILE, engine
from ..progress import say
from .settings import BESIDE, FORMATS, OWN_COLUMNS, Scans, check_places, common, cores, ending
from .work import SINGLE, Task, lost, work

if TYPE_CHECKING:
    from ...batch.ledger import Ledger, Row
    from ...batch.scans import Finder, Scan
    from ...datasets.executors import Engine

NAMED = 5  # of those that were skipped, by reason
_OPTIONS = (
    Option(["--out"], type=FILE, required=True, group="Output", help="Folder for the results."),
    Option(
        ["--format", "form"],
        type=click.Choice([*FORMATS]),
        default="nii.gz",
        group="Output",
        help="Format of each result; dicom: a folder, zip: a ZIP of DICOM files.",
    ),
    Option(
        ["--force"],
        is_flag=True,
        group="Output",
        help="Overwrite existing output, and reprocess scans whose settings have changed.",
    ),
    Option(
        ["--watch"],
        is_flag=True,
        group="Input",
        help="Wait for more scans, until Ctrl-C or SIGTERM.",
    ),
    Option(
        ["--quiet-time"],
        type=click.FloatRange(0),
        default=60.0,
        metavar="SECONDS",
        group="Input",
        help="With --watch: a study is complete when it has not changed for this long.",
    ),
    Option(
        ["--workers"],
        type=click.IntRange(1),
        group="Running",
        help="Scans processed at once, which share cores and memory.  [default: 1; with Ray: one"
        " per node]",
    ),
    Option(["--engine"], **engine),
)
_HELP = """Apply `denovox {name}` to many scans.

SCANS are folders, DICOM archives with any number of studies, files, patterns in quotes, or tables
(.csv, .tsv) with the column `path` and, if needed, `id` and options of single scans. Results keep
the paths of their scans within --out, where manifest.jsonl has a row for each scan, with the reason
if it failed. If the command is interrupted in any way, run it again to complete the rest.

Exit code 2 if a scan was refused, 1 if one failed for another reason. See docs/how-to/batch.md and
denovox {name} --help.
"""


@click.group(cls=Group)
def batch() -> None:
    """Apply a command to many scans in parallel, and resume after an interruption."""


def _of(single: click.Command) -> click.Command:
    """The batch command of a command for one scan: its options, but for those of one scan."""
    own: list[click.Parameter] = [
        click.Argument(["scans"], nargs=-1, required=True, type=FILE),
        *_OPTIONS,
    ]
    taken = {param.name for param in own} | {"input", "output", "as_json", "progress"}
    kept = [p for p in single.params if p.name not in taken | {*OWN_COLUMNS, *BESIDE}]
    names = {str(param.name) for param in single.params}
    flags = [
        Option([f"--{name}"], is_flag=True, group="Output", help=text)
        for name, (_, text) in BESIDE.items()
        if name in names
    ]
    return Command(
        str(single.name),
        params=[own[0], *kept, *flags, *own[1:]],
        callback=partial(_run, single),
        help=_HELP.format(name=single.name),
        short_help=single.get_short_help_str(100),
    )


def _run(single: click.Command, **given: Any) -> None:
    from ...batch import ledger as ledgers
    from ...batch.scans import Finder
    from ...core.errors import InputError
    from ...io.atomic import check_folder

    out, force, watch = given["out"], given["force"], given["watch"]
    check_places(given["scans"], out)
    check_folder(out, force or ledgers.is_batch(out), parents=True)
    settings = common(single, given)
    finder = Finder(given["scans"], out)
    first = [] if watch else finder.find()
    if not watch and all(scan.aside for scan in first):
        only = f", only {first[0].path} ({first[0].aside})" if first else ""
        raise InputError(f"no CT scan was found in SCANS{only}; check the path")
    with ledgers.alone(out):
        ledgers.keep_settings(out, settings, force)
        place = ledgers.Place(out, ending(given), partial(_last, single, given))
        run = Run(Scans(single, settings, given), finder, ledgers.Ledger(place, force))
        run.ledger.sweep()
        try:
            with closing(_engine(given)(work, run.tasks(first), lost)) as results:
                for row in results:
                    run.finished(row)
        except (KeyboardInterrupt, SystemExit):
            if not watch:
                say(f"stopped; the same command continues with the {run.left} scans that are left")
                raise
        finally:
            run.ledger.sweep()
    code = run.summary()
    if code:
        raise SystemExit(code)


def _last(single: click.Command, given: dict[str, Any], output: Path) -> Path:
    """The file of an OUTPUT that appears last: its manifest, if it has one."""
    from ...reports.manifest import beside

    names = {param.name for param in single.params}
    return beside(output) if "no_manifest" in names and not given["no_manifest"] else output


def _engine(given: dict[str, Any]) -> Engine:
    from ...datasets.executors import processes, ray_cluster

    if given["engine"] == "ray":
        gpus = given.get("device") in (None, "cuda")
        return ray_cluster(workers=given["workers"], threads=None, gpus=gpus)
    workers = given["workers"] or 1
    return processes(workers, max(1, cores() // workers))


class Run:
    """A run of a batch: what was found, what is in progress, and what became of it."""

    def __init__(self, scans: Scans, finder: Finder, ledger: Ledger) -> None:
        self.scans, self.finder, self.ledger = scans, finder, ledger
        self.seen: dict[str, str] = {}  # key of a scan -> its state
        self.in_progress: dict[str, str] = {}  # id -> key
        self.ids: set[str] = set()
        self.total = self.count = 0

    @property
    def left(self) -> int:
        """How many scans are still to be processed."""
        return self.total - self.count

    def tasks(self, first: Sequence[Scan]) -> Iterator[Task | None]:
        """What there is to do; with --watch without an end, and None for nothing at the moment."""
        from ...batch.quiet import Quiet

        if not self.scans.given["watch"]:
            yield from self._planned(first)
            return
        quiet = Quiet(self.scans.given["quiet_time"])
        while True:
            began = time.monotonic()
            yield from self._planned(quiet.complete(self.finder.find()))
            time.sleep(max(1.0, time.monotonic() - began))
            yield None

    def _planned(self, found: Sequence[Scan]) -> list[Task]:
        busy = set(self.in_progress.values())
        wanted = [self.scans.wanted(scan) for scan in found if scan.key not in busy]
        new = [one for one in wanted if self.seen.get(one.scan.key) != one.state]
        if not new:
            return []
        self.scans.check_columns(one.scan for one in new)
        ids = self.ledger.plan(new)
        todo = [(row, one) for row, one in ids if row.status == "pending"]
        self.seen |= {one.scan.key: one.state for one in new}
        self.in_progress |= {row.id: one.scan.key for row, one in todo}
        self.ids |= {row.id for row, _ in ids}
        self.total += len(todo)
        self._describe([row for row, _ in ids], len(todo))
        return [self.scans.task(row, one, self.ledger.place.output(row.id)) for row, one in todo]

    def _describe(self, rows: Sequence[Row], todo: int) -> None:
        done = sum(row.status == "done" for row in rows)
        scans = sum(row.status != "skipped" for row in rows)
        if scans:
            say(f"{_many(scans)}: {todo} to process, {done} already done")
        reasons: dict[str, list[str]] = {}
        for row in rows:
            if row.status == "skipped":
                reasons.setdefault(row.message, []).append(row.id)
            if row.status == "refused":
                say(f"{row.id}: refused: {row.message}")
        for why, names in reasons.items():
            say(f"{len(names)} skipped ({why}): {listed(names, NAMED)}")

    def finished(self, row: Row) -> None:
        """Note what became of a scan."""
        self.ledger.put(row)
        self.in_progress.pop(row.id, None)
        self.count += 1
        message = f": {row.message}" if row.message else ""
        of = "" if self.scans.given["watch"] else f"/{self.total}"
        say(f"{self.count}{of} {row.id}: {row.status}{_took(row)}{message}")

    def summary(self) -> int:
        """Say how many scans ended how; the exit code."""
        counts = Counter(self.ledger.rows[number].status for number in self.ids)
        each = ", ".join(f"{counts[status]} {status}" for status in sorted(counts))
        say(f"{each or 'no scans'}; see {self.ledger.place.folder / 'manifest.jsonl'}")
        return 2 if counts["refused"] else 1 if counts["failed"] else 0


def _many(count: int) -> str:
    return f"{count} scan{'s' * (count != 1)}"


def _took(row: Row) -> str:
    return "" if row.seconds is None else f" after {row.seconds:g} s"


for _single in SINGLE.values():
    batch.add_command(_of(_single))
