"""Commands that train."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...core.errors import InputError
from ..terminal import FILE, progress, say, stoppable

if TYPE_CHECKING:
    from ...train.config import Recipe


def _run_options(command: Callable[..., Any]) -> Callable[..., Any]:
    for option in (
        click.option("--dry-run", is_flag=True, help="Print the resolved recipe and stop."),
        click.option(
            "--max-minutes",
            type=click.FloatRange(min=0, min_open=True),
            help="Stop after this long; the same command goes on later.",
        ),
        click.option("--out", type=FILE, help="Folder of the run; runs/<name> if not given."),
        click.argument("recipe", type=FILE),
    ):
        command = option(command)
    return command


@click.command()
@_run_options
def pretrain(recipe: Path, out: Path | None, max_minutes: float | None, dry_run: bool) -> None:
    """Train a base model as RECIPE (TOML) says, or go on where an earlier run stopped."""
    plan = _plan(recipe)
    if plan.data.sample.control is not None:
        raise InputError(f"{recipe} tunes a control; that is `denovox finetune {recipe}`")
    _run(plan, out, max_minutes, dry_run)


@click.command()
@_run_options
def finetune(recipe: Path, out: Path | None, max_minutes: float | None, dry_run: bool) -> None:
    """Tune a control for a base as RECIPE (TOML) says, or go on where an earlier run stopped.

    data.sample.control.kind is "lesion" or "low-resolution". The base stays as it is; the control
    is a small file that names it by its sha256 and goes to --control.
    """
    plan = _plan(recipe)
    if plan.data.sample.control is None:
        raise InputError(
            f"{recipe} has no [data.sample.control]; a base is trained by `denovox pretrain"
            f" {recipe}`"
        )
    _run(plan, out, max_minutes, dry_run)


def _plan(recipe: Path) -> Recipe:
    from ...train.config import read_recipe

    return read_recipe(recipe)


def _run(plan: Recipe, out: Path | None, max_minutes: float | None, dry_run: bool) -> None:
    if dry_run:
        click.echo(plan.model_dump_json(indent=1))
        return
    from ..pretrain import run

    device = os.environ.get("DENOVOX_DEVICE", "cpu")
    folder = out or Path("runs") / plan.name
    with progress(plan.name) as done, stoppable() as stopped:
        for news in run(plan, folder, max_minutes or float("inf"), device):
            if isinstance(news, str):
                say(news)
                continue
            done(news.step / plan.train.steps)
            if news.validation is not None:
                say(f"step {news.step}: loss {news.loss:.4f}, validation {news.validation:.4f}")
            if stopped():
                say(f"stopped after step {news.step}; the same command goes on from there")
                break
