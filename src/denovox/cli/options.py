"""What the commands share: options, progress on stderr, one sentence for bad input."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from ..core.condition import ControlKind
    from ..inference.model import (
        Model,
    )
    from ..inference.options import RunOptions

REGION_NAMES = ("headneck", "chest", "abdomen")
FILE = click.Path(path_type=Path)


class Quiet(click.Group):
    """A group whose bad input is one sentence on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        from ..core.errors import InputError

        try:
            return super().invoke(ctx)
        except InputError as error:
            rank = os.environ.get("RANK", "0")  # of several processes that train together
            who = "denovox" if rank == "0" else f"denovox, process {rank}"
            click.echo(f"{who}: {error}", err=True)
            ctx.exit(2)


weights_option = click.option(
    "--weights", default="base", show_default=True, help="Bundled name, file or folder."
)
window_option = click.option(
    "--window",
    default=64,
    show_default=True,
    type=click.IntRange(32),
    help="Edge of the largest window, in voxels; halve it if memory is short.",
)
force_option = click.option("--force", is_flag=True, help="Overwrite an existing output.")


def control_option(default: str) -> Callable[..., Any]:
    """`weights_option` of a command that a control can steer."""
    return click.option(
        "--weights",
        "--control",
        multiple=True,
        default=(default,),
        show_default=True,
        help="A base, a control, or both: bundled name, file or folder.",
    )


def running_options(
    command: Callable[..., Any], weights: Callable[..., Any] = weights_option
) -> Callable[..., Any]:
    """The options of every command that runs a model and writes a scan."""
    for option in (weights, window_option, force_option):
        command = option(command)
    return command


def control_options(default: str) -> Callable[..., Any]:
    """`running_options` of a command that a control can steer."""
    return lambda command: running_options(command, control_option(default))


seed_option = click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Same seed, same bits, on the same machine.",
)


def reading_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that reads a scan, which may be DICOM."""
    for option in (
        click.option(
            "--straighten", is_flag=True, help="Resample DICOM with a tilted gantry or uneven gaps."
        ),
        click.option("--series", help="Which DICOM series: its UID, or the end of it."),
    ):
        command = option(command)
    return command


@contextmanager
def progress(label: str, shown: bool = True) -> Iterator[Callable[..., None]]:
    """A bar on stderr; gives a function that is told the share of work done, and maybe a note."""
    from rich.console import Console
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
        task = bar.add_task(label, total=1.0, note="")
        yield lambda share, note="": bar.update(task, completed=share, note=note)


def say(line: str) -> None:
    """A line on stderr."""
    click.echo(line, err=True)


@contextmanager
def loaded(
    run: dict[str, Any], label: str, control: ControlKind | None = None
) -> Iterator[tuple[Model, RunOptions]]:
    """A loaded model, and how it is to run, with a progress bar. A command without --seed: 0.

    control: the kind that the command has a use for; another is an `InputError`.
    """
    from ..core.errors import InputError
    from ..inference.model import (
        load,
    )
    from ..inference.options import RunOptions

    precision: Any = os.environ.get("DENOVOX_PRECISION", "float32")
    if precision not in ("float32", "bfloat16", "auto"):
        raise InputError(f"DENOVOX_PRECISION is '{precision}': not float32, bfloat16 or auto")
    together = os.environ.get("DENOVOX_WINDOW_BATCH", "1")
    if not (together.isascii() and together.isdigit() and int(together)):
        raise InputError(f"DENOVOX_WINDOW_BATCH is '{together}': give a number from 1 on")
    names = [run["weights"]] if isinstance(run["weights"], str) else list(run["weights"])
    if len(names) > 2:
        raise InputError("--weights and --control take one base and one control at most")
    model = load(names[0], os.environ.get("DENOVOX_DEVICE"), precision, *names[1:])
    if model.control not in (None, control):
        wants = f"takes one for {control}" if control else "takes none"
        raise InputError(f"{names[-1]} is a control for {model.control}; {label} {wants}")
    with progress(label) as done:
        yield model, RunOptions(run.get("seed", 0), run["window"], int(together), say, done)


def triple(text: str, cast: Callable[[str], Any], what: str) -> tuple[Any, Any, Any]:
    """ "1x2x3", or one number for all three; `InputError` names the option `what`."""
    from ..core.errors import InputError

    parts = text.lower().split("x")
    try:
        values = [cast(part) for part in (parts * 3 if len(parts) == 1 else parts)]
        if len(values) != 3 or not all(0 < value < float("inf") for value in values):
            raise ValueError
    except ValueError:
        raise InputError(
            f"{what} '{text}' is not a positive number, or three joined by x"
        ) from None
    return values[0], values[1], values[2]


@contextmanager
def stoppable() -> Iterator[Callable[[], bool]]:
    """Within the block Ctrl-C and SIGTERM only leave a note, so that a step is never torn."""
    import signal

    told: list[int] = []
    before = {
        number: signal.signal(number, lambda got, frame: told.append(got))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield lambda: bool(told)
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def beside(output: Path, end: str) -> Path:
    """Where what goes with an OUTPUT.nii.gz is written: OUTPUT, then `end`."""
    name = output.name
    for own in (".nii.gz", ".nii"):
        name = name.removesuffix(own)
    return output.with_name(name + end)
