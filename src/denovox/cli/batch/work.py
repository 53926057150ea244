"""What a worker of `denovox batch` does: the single command, with a model that it keeps."""

from __future__ import annotations

import errno
import io
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...core.errors import InputError, line
from ...io.atomic import scratch_folder
from .. import detect, edit, restore
from ..commands import system_sentence
from ..options import loading_by

if TYPE_CHECKING:
    from ...batch.ledger import Row, Status
    from ...inference.model import Model

SINGLE: dict[str, click.Command] = {
    str(command.name): command
    for command in (restore.denoise, restore.superres, detect.detect, edit.lesion, edit.inpaint)
}
# Lines that are not worth a place in the manifest: progress; series with rows of their own.
_PASSING = re.compile(r"\d+ %|.*: left out: (series .*|\d+ more series)|")


@dataclass(frozen=True)
class Task:
    """A scan for a worker. params: of the command, with the paths of INPUT and OUTPUT."""

    row: Row
    command: str
    params: dict[str, Any]


def work(task: Task) -> Row:
    """Process a scan; its row, with what became of it. Whatever goes wrong is in the row."""
    began = time.monotonic()
    said = io.StringIO()
    status: Status = "done"
    message = ""
    try:
        with redirect_stderr(said), loading_by(_kept), _output(Path(task.params["output"])):
            _run(SINGLE[task.command], task.params)
    except Exception as error:
        status, message = _failure(error)
    notes = [text for text in said.getvalue().splitlines() if not _PASSING.fullmatch(text)]
    seconds = round(time.monotonic() - began, 1)
    row = replace(task.row, status=status, seconds=seconds, message=message or "; ".join(notes))
    return row if status == "done" else replace(row, output="")


def lost(task: Task) -> Row:
    """The row of a scan whose worker died, and died again when it had the machine to itself."""
    why = (
        "its worker died twice, most likely because memory ran out; use a smaller --tile, fewer"
        " --workers, or a machine with more memory"
    )
    return replace(task.row, status="failed", output="", message=why)


def _run(command: click.Command, params: dict[str, Any]) -> None:
    with click.Context(command, info_name=command.name) as ctx:
        ctx.params = dict(params)
        command.invoke(ctx)


def _failure(error: Exception) -> tuple[Status, str]:
    if isinstance(error, InputError):
        return "refused", str(error)
    if isinstance(error, OSError) and error.errno not in (None, errno.EPIPE):
        return "failed", system_sentence(error)
    return (
        "failed",
        f"an error in denovox ({type(error).__name__}: {line(error)}); please report it",
    )


@contextmanager
def _output(output: Path) -> Iterator[None]:
    """The folder of OUTPUT exists, and an OUTPUT that is a folder is new; the old one comes back if
    the block fails."""
    output.parent.mkdir(parents=True, exist_ok=True)
    if not output.is_dir():
        yield
        return
    with scratch_folder(output.parent) as spare:
        output.rename(spare / "old")
        try:
            yield
        except BaseException:
            (spare / "old").rename(output)
            raise


def _kept(name: str, device: str | None, precision: str, *control: str) -> Model:
    """The model of these files, loaded once by each worker."""
    from ...model import weights

    base, other = weights.resolve([name, *control])
    digests = tuple(weights.sha256(path) for path in (base, other) if path is not None)
    return _load((name, device, precision, *control), digests)


@lru_cache(maxsize=1)
def _load(given: tuple[Any, ...], digests: tuple[str, ...]) -> Model:
    from ...inference.model import load

    return load(*given)
