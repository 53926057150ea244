"""`denovox pretrain`, `denovox finetune` and `denovox ablate`."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import InputError, ensure
from .commands import Command, option
from .options import FILE, all_of, training_device_option, weights_option
from .progress import progress, say, stoppable

if TYPE_CHECKING:
    from ..train.config import Recipe
    from ..train.loop import Progress, Session

max_minutes_option = option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    group="Running",
    help="Stop after this many minutes; the same command continues the run later.",
)


_run_options = all_of(
    click.argument("recipe", type=FILE),
    option(
        "--minutes",
        type=click.FloatRange(min=0, min_open=True),
        help="Length of the whole run, in which the learning rate falls to zero; replaces the"
        " recipe's number of steps.",
    ),
    option(
        "--dry-run",
        is_flag=True,
        help="Print the resolved recipe (stdout) and its cost on this machine (stderr), and stop.",
    ),
    option("--out", type=FILE, group="Output", help="Folder of the run.  [default: runs/NAME]"),
    max_minutes_option,
    training_device_option,
)


@click.command(cls=Command)
@_run_options
def pretrain(recipe: Path, minutes: float | None, **session: Any) -> None:
    """Train a base model.

    RECIPE is TOML (docs/reference/recipes.md). --out receives NAME.safetensors, which --weights
    accepts, the log, and the state of the run: run the same command again to continue a run that
    was stopped.
    """
    plan = _plan(recipe, minutes)
    if plan.data.sample.control is not None:
        raise InputError(f"{recipe} trains a control; use `denovox finetune {recipe}`")
    _run(plan, **session)


@click.command(cls=Command)
@_run_options
def finetune(recipe: Path, minutes: float | None, **session: Any) -> None:
    """Train a control (a ControlNet) for a base model.

    RECIPE is TOML (docs/reference/recipes.md); data.sample.control.kind is "lesion" or
    "low-resolution". The base stays unchanged. --out receives NAME.safetensors, a small file that
    refers to the base by sha256 and that --control accepts, the log, and the state of the run: run
    the same command again to continue a run that was stopped.
    """
    plan = _plan(recipe, minutes)
    if plan.data.sample.control is None:
        raise InputError(
            f"{recipe} has no [data.sample.control]; to train a base, use `denovox pretrain"
            f" {recipe}`"
        )
    _run(plan, **session)


def _plan(recipe: Path, minutes: float | None) -> Recipe:
    from ..train.config import read_recipe

    plan = read_recipe(recipe)
    if minutes is None:
        return plan
    train = plan.train.model_copy(update={"minutes": minutes, "steps": 0})
    return plan.model_copy(update={"train": train})


def _run(
    plan: Recipe, out: Path | None, max_minutes: float | None, dry_run: bool, device: str | None
) -> None:
    if dry_run:
        from ..train.cost.estimate import summary

        click.echo(plan.model_dump_json(indent=1))
        for line in summary(plan, "cpu"):
            say(line)
        return
    from ..train.run import run

    folder = out or Path("runs") / plan.name
    _follow(
        lambda session: run(plan, folder, session),
        folder,
        (plan.name, plan.train.samples),
        (max_minutes, device),
    )


def _follow(
    train: Callable[[Session], Iterator[str | Progress]],
    folder: Path,
    run: tuple[str, int],
    limits: tuple[float | None, str | None],
) -> None:
    """Show how a run proceeds. run: name, samples per step. limits: minutes, device."""
    from ..io.atomic import check_folder
    from ..train.distributed import joined
    from ..train.loop import Session

    (name, samples), (max_minutes, device) = run, limits
    group = joined(device)
    check_folder(folder, force=True, parents=True)
    tell: Callable[[str], None] = say if group.main else (lambda text: None)
    began = time.monotonic()
    with progress(name, group.main) as done, stoppable() as stopped:
        session = Session(max_minutes or float("inf"), stopped, tell, group, began=began)
        last, first = None, 0
        for news in train(session):
            if isinstance(news, str):
                tell(news)
                continue
            first = news.step - 1 if last is None else first
            last = news
            share = news.step / news.steps if news.steps else 0.0
            done(share, _note(news, first, samples))
            if news.validation is not None:
                tell(f"step {news.step}: loss {news.loss:.4f}, validation {news.validation:.4f}")
        if last is not None and stopped() and last.step != last.steps:
            tell(f"stopped after step {last.step}; run the same command again to continue")


def _note(news: Progress, first: int, samples: int) -> str:
    """Loss, speed and memory, for the end of the progress bar."""
    from ..train.run_log import memory_mb

    speed = (news.step - first) * samples / max(news.seconds, 1e-9)
    skipped = f", {news.skipped} skipped" if news.skipped else ""
    return f"loss {news.loss:.4f}, {speed:.2f} samples/s, {memory_mb() / 1000:.1f} GB{skipped}"


@click.command(cls=Command)
@click.argument("scans", type=FILE)
@option("--out", type=FILE, required=True, group="Output", help="Folder of the run.")
@option(
    "--minutes",
    type=click.FloatRange(min=0, min_open=True),
    default=10,
    help="Length of the run, in minutes.",
)
@option(
    "--hold",
    multiple=True,
    metavar="PATIENT",
    group="Input",
    help="Patient to validate on; repeat the option for more.  [default: the last by name]",
)
@weights_option
@max_minutes_option
@training_device_option
def adapt(
    scans: Path,
    out: Path,
    minutes: float,
    hold: tuple[str, ...],
    weights: str,
    max_minutes: float | None,
    device: str | None,
) -> None:
    """Adapt a base model to a few scans of one scanner.

    SCANS is a folder of scans, or a store written by `denovox prepare` (which can also label the
    scans), with two patients or more: one is held out. --out receives adapted.safetensors, which
    --weights accepts: the mixture of base and adapted weights that best denoises the held-out
    patient, which may be the base alone. Anomaly maps need a new calibration (`denovox calibrate`);
    controls work only with the base they were trained for.
    """
    from ..train.adaptation.adapt import NAME, SAMPLES, Wanted
    from ..train.adaptation.adapt import adapt as run

    wanted = Wanted(scans, weights, minutes, hold)
    limits = (max_minutes, device)
    _follow(lambda session: run(wanted, out, session), out, (NAME, SAMPLES), limits)


@click.command(cls=Command)
@click.argument("recipe", type=FILE)
@option("--seeds", default=3, type=click.IntRange(1), help="Runs per arm.")
@option("--out", type=FILE, required=True, group="Output", help="Folder of the runs and tables.")
@max_minutes_option
@training_device_option
def ablate(
    recipe: Path, out: Path, seeds: int, max_minutes: float | None, device: str | None
) -> None:
    """Train with and without each part of the method, and measure the difference.

    RECIPE is TOML (docs/reference/recipes.md). The arms are crops only; + multi-level sampling;
    + coordinates; + embedding, which is the paper's method; and variations of it: the stem
    unshuffle2, v-prediction with an L2 loss, min-SNR weights, and zero terminal SNR. Each has the
    compute (FLOPs) of the recipe's own steps. The table, with the range over seeds, is written to
    figures.md in --out after every run, and to stdout.
    """
    from ..evaluation.ablation.run import Ablation, run
    from ..io.atomic import check_folder
    from ..train.config import read_recipe
    from ..train.distributed import joined

    plan = read_recipe(recipe)
    group = joined(device)
    ensure(group.count == 1, "`denovox ablate` is a single process; start it without torchrun")
    check_folder(out, force=True, parents=True)
    minutes = max_minutes or float("inf")
    with progress(plan.name) as done, stoppable() as stopped:
        for news in run(plan, out, Ablation(seeds=seeds), minutes, group.device):
            if isinstance(news, str):
                say(news)
                continue
            done(news)
            if stopped():
                say("stopped; run the same command again to continue")
                break
    table = out / "figures.md"
    if table.is_file():
        click.echo(table.read_text())
