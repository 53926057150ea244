"""Commands that train."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import InputError
from .options import FILE, progress, say, stoppable

if TYPE_CHECKING:
    from ..train.config import Recipe
    from ..train.loop import Progress


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option(
            "--dry-run",
            is_flag=True,
            help="Print the resolved recipe (stdout) and what it would cost here (stderr); stop.",
        ),
        click.option(
            "--max-minutes",
            type=click.FloatRange(min=0, min_open=True),
            help="Stop after this long; the same command goes on later.",
        ),
        click.option(
            "--minutes",
            type=click.FloatRange(min=0, min_open=True),
            help="Make it a run of this long, whose learning rate falls to zero in time.",
        ),
        click.option("--out", type=FILE, help="Folder of the run; runs/<name> if not given."),
        click.argument("recipe", type=FILE),
    ):
        command = option(command)
    return command


@click.command()
@_run_options
def pretrain(recipe: Path, minutes: float | None, **session: Any) -> None:
    """Train a base model as RECIPE (TOML) says, or go on where an earlier run stopped."""
    plan = _plan(recipe, minutes)
    if plan.data.sample.control is not None:
        raise InputError(f"{recipe} tunes a control; that is `denovox finetune {recipe}`")
    _run(plan, **session)


@click.command()
@_run_options
def finetune(recipe: Path, minutes: float | None, **session: Any) -> None:
    """Tune a control for a base as RECIPE (TOML) says, or go on where an earlier run stopped.

    data.sample.control.kind is "lesion" or "low-resolution". The base stays as it is; the control
    is a small file that names it by its sha256 and goes to --control.
    """
    plan = _plan(recipe, minutes)
    if plan.data.sample.control is None:
        raise InputError(
            f"{recipe} has no [data.sample.control]; a base is trained by `denovox pretrain"
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


def _run(plan: Recipe, out: Path | None, max_minutes: float | None, dry_run: bool) -> None:
    if dry_run:
        from ..train.cost import summary

        click.echo(plan.model_dump_json(indent=1))
        for line in summary(plan, "cpu"):
            say(line)
        return
    from ..train.distributed import joined
    from ..train.loop import Session
    from ..train.run import run

    group = joined(os.environ.get("DENOVOX_DEVICE"))
    folder = out or Path("runs") / plan.name
    tell: Callable[[str], None] = say if group.main else (lambda text: None)
    began = time.monotonic()
    with progress(plan.name, group.main) as done, stoppable() as stopped:
        session = Session(max_minutes or float("inf"), stopped, tell, group, began=began)
        last, first = None, 0
        for news in run(plan, folder, session):
            if isinstance(news, str):
                tell(news)
                continue
            first = news.step - 1 if last is None else first
            last = news
            share = news.step / news.steps if news.steps else 0.0
            done(share, _note(news, first, plan))
            if news.validation is not None:
                tell(f"step {news.step}: loss {news.loss:.4f}, validation {news.validation:.4f}")
        if last is not None and stopped() and last.step != last.steps:
            tell(f"stopped after step {last.step}; the same command goes on from there")


def _note(news: Progress, first: int, plan: Recipe) -> str:
    """What a step was like, for the end of the bar."""
    from ..train.run_log import memory_mb

    speed = (news.step - first) * plan.train.samples / max(news.seconds, 1e-9)
    skipped = f", {news.skipped} skipped" if news.skipped else ""
    return f"loss {news.loss:.4f}, {speed:.2f} samples/s, {memory_mb() / 1000:.1f} GB{skipped}"
