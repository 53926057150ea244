"""What a command writes on stderr while it runs, and how it is stopped."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click

from ..core.errors import printable
from .results.run import current_run


def say(line: str) -> None:
    """Write a line on stderr, with every name in it `shown`; the manifest has it, too."""
    if (run := current_run()) is not None:
        run.notes.append(printable(line))
    click.echo(printable(line), err=True)


def answer(line: str) -> None:
    """Write a line of a result on stdout, or on stderr where the manifest takes stdout."""
    run = current_run()
    click.echo(line, err=run is not None and run.as_json)


@contextmanager
def progress(label: str, shown: bool = True) -> Iterator[Callable[..., None]]:
    """A progress bar, or lines, on stderr; yields its update, called with the share done and a
    note."""
    if (run := current_run()) is not None and run.plain:
        run.share(0.0)
        yield run.share
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import (
        BarColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
        TextColumn("{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(stderr=True), disable=not shown) as bar:
        task = bar.add_task(escape(printable(label)), total=1.0, note="")
        yield lambda share, note="": bar.update(task, completed=share, note=note)


@contextmanager
def terminable() -> Iterator[None]:
    """Within the block SIGTERM and SIGHUP end the program as an exception does, so that nothing
    unfinished is left on disk; exit code 128 + the signal's number."""
    import signal
    import threading

    def end(number: int, frame: object) -> None:
        raise SystemExit(128 + number)

    every = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]
    own = threading.current_thread() is threading.main_thread()  # others may not set handlers
    ours = [number for number in every if own and signal.getsignal(number) == signal.SIG_DFL]
    for number in ours:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number in ours:
            signal.signal(number, signal.SIG_DFL)


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C and SIGTERM are only noted, so that no step is cut short.

    Yields a function: whether one of them has arrived.
    """
    import signal

    received: list[int] = []
    before = {
        number: signal.signal(number, lambda signum, frame: received.append(signum))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(received)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
