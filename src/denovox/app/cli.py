"""The command line. torch and everything slow are imported inside the commands."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .. import __version__

if TYPE_CHECKING:
    from .api import Model, Running

REGION_NAMES = ("headneck", "chest", "abdomen")
_path = click.Path(path_type=Path)


class _Quiet(click.Group):
    """A group whose bad input is one sentence on stderr and exit code 2."""

    def invoke(self, ctx: click.Context) -> Any:
        from ..core.errors import InputError

        try:
            return super().invoke(ctx)
        except InputError as error:
            click.echo(f"denovox: {error}", err=True)
            ctx.exit(2)


@click.group(cls=_Quiet, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="denovox")
def main() -> None:
    """A diffusion foundation model for CT, from head to abdomen.

    For research; not a medical device.
    """


def _running_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of every command that runs a model."""
    for option in (
        click.option(
            "--weights", default="base", show_default=True, help="Bundled name, file or folder."
        ),
        click.option(
            "--window-batch",
            default=1,
            show_default=True,
            type=click.IntRange(1),
            help="Windows evaluated at once.",
        ),
        click.option(
            "--window",
            default=64,
            show_default=True,
            type=click.IntRange(32),
            help="Edge of the largest window, in voxels; halve it if memory is short.",
        ),
        click.option("--force", is_flag=True, help="Overwrite an existing output."),
        click.option(
            "--seed",
            default=0,
            show_default=True,
            type=click.IntRange(0),
            help="Same seed, same bits, on the same machine.",
        ),
    ):
        command = option(command)
    return command


@contextmanager
def _progress(label: str) -> Iterator[Callable[[float], None]]:
    """A bar on stderr; gives a function that is told the share of work done."""
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
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(label, total=1.0)
        yield lambda share: bar.update(task, completed=share)


def _say(line: str) -> None:
    click.echo(line, err=True)


@contextmanager
def _model(run: dict[str, Any], label: str) -> Iterator[tuple[Model, Running]]:
    """A loaded model, and how it is to run, with a progress bar."""
    from ..core.errors import InputError
    from .api import Running, load

    precision: Any = os.environ.get("DENOVOX_PRECISION", "float32")
    if precision not in ("float32", "bfloat16", "auto"):
        raise InputError(f"DENOVOX_PRECISION is '{precision}': not float32, bfloat16 or auto")
    model = load(run["weights"], os.environ.get("DENOVOX_DEVICE"), precision)
    with _progress(label) as done:
        yield model, Running(run["seed"], run["window"], run["window_batch"], _say, done)


@main.command()
@click.argument("input", type=_path)
@click.argument("output", type=_path)
@click.option("--region", type=click.Choice(REGION_NAMES), help="Guessed if not given.")
@click.option("--noise-hu", type=float, help="SD of the noise in HU; estimated if not given.")
@click.option(
    "--method",
    type=click.Choice(["mean", "diffpir"]),
    default="mean",
    show_default=True,
    help="Posterior mean, one evaluation; or DiffPIR, ten.",
)
@_running_options
def denoise(
    input: Path, output: Path, region: str | None, noise_hu: float | None, method: Any, **run: Any
) -> None:
    """Remove noise from a CT (NIfTI in HU), on the scan's own grid."""
    from ..data import nifti

    nifti.check_writable(output, run["force"])
    volume = nifti.read(input)
    with _model(run, "denoise") as (model, running):
        result = model.denoise(volume, region, noise_hu, method, running)
    nifti.write(result, output, run["force"])


def _triple(text: str, cast: Callable[[str], Any], what: str) -> tuple[Any, Any, Any]:
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


@main.command()
@click.argument("output", type=_path)
@click.option("--region", type=click.Choice(REGION_NAMES), required=True)
@click.option("--shape", help="SLICESxROWSxCOLUMNS, e.g. 128x160x160.")
@click.option("--spacing", help="Voxel size in mm: one number, or SLICESxROWSxCOLUMNS.")
@click.option("--anatomy", type=_path, help="NIfTI of labels (docs/labels.md); gives the grid.")
@click.option(
    "--steps",
    default=20,
    show_default=True,
    type=click.IntRange(2),
    help="Evaluations of DPM-Solver++(2M).",
)
@_running_options
def synthesize(
    output: Path,
    region: str,
    shape: str | None,
    spacing: str | None,
    anatomy: Path | None,
    steps: int,
    **run: Any,
) -> None:
    """Make a CT that never was, from noise, and from an anatomy if one is given."""
    from dataclasses import replace

    from ..core.errors import InputError
    from ..core.volume import spacing_of
    from ..data import nifti

    nifti.check_writable(output, run["force"])
    if anatomy is not None and (shape or spacing):
        raise InputError("--anatomy brings its own grid; leave --shape and --spacing out")
    if anatomy is None and not (shape and spacing):
        raise InputError("give --shape and --spacing, or an --anatomy, whose grid is then used")
    labels = affine = None
    if anatomy is not None:
        labels, affine = nifti.read_label_map(anatomy)
        size, mm = labels.shape, spacing_of(affine)
    else:
        size = _triple(shape or "", int, "--shape")[::-1]
        mm = _triple(spacing or "", float, "--spacing")[::-1]
    with _model(run, "synthesize") as (model, running):
        result = model.synthesize(region, size, mm, labels, steps, running=running)
    nifti.write(result if affine is None else replace(result, affine=affine), output, run["force"])


@main.command()
@click.argument("recipe", type=_path)
@click.option("--out", type=_path, help="Folder of the run; runs/<name> if not given.")
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after this long; the same command goes on later.",
)
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and stop.")
def pretrain(recipe: Path, out: Path | None, max_minutes: float | None, dry_run: bool) -> None:
    """Train a base model as RECIPE (TOML) says, or go on where an earlier run stopped."""
    from ..train.config import read_recipe

    plan = read_recipe(recipe)
    if dry_run:
        click.echo(plan.model_dump_json(indent=1))
        return
    from .pretrain import run

    device = os.environ.get("DENOVOX_DEVICE", "cpu")
    folder = out or Path("runs") / plan.name
    with _progress(plan.name) as done, _stoppable() as stopped:
        for news in run(plan, folder, max_minutes or float("inf"), device):
            if isinstance(news, str):
                _say(news)
                continue
            done(news.step / plan.train.steps)
            if news.validation is not None:
                _say(f"step {news.step}: loss {news.loss:.4f}, validation {news.validation:.4f}")
            if stopped():
                _say(f"stopped after step {news.step}; the same command goes on from there")
                break


@contextmanager
def _stoppable() -> Iterator[Callable[[], bool]]:
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


@main.command()
@click.option("--json", "as_json", is_flag=True, help="For programs.")
def info(as_json: bool) -> None:
    """Version, devices, and the bundled weights with their card."""
    import json

    from .about import facts, prose

    told = facts()
    click.echo(json.dumps(told, indent=1) if as_json else prose(told))


@main.command()
@click.option("--out", type=_path, default=Path("demo"), show_default=True, help="Folder to fill.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Another body, another noise.",
)
@click.option("--force", is_flag=True, help="Overwrite an earlier demo.")
def demo(out: Path, seed: int, force: bool) -> None:
    """A procedural chest: synthesise a CT from its anatomy, and denoise its low-dose scan."""
    from .demo import run

    with _progress("demo") as done:
        written = run(out, seed, force, done)
    for line in written:
        click.echo(line)
