"""Commands that train."""

from __future__ import annotations

import os
from pathlib import Path

import click

from ..terminal import FILE, progress, say, stoppable


@click.command()
@click.argument("recipe", type=FILE)
@click.option("--out", type=FILE, help="Folder of the run; runs/<name> if not given.")
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after this long; the same command goes on later.",
)
@click.option("--dry-run", is_flag=True, help="Print the resolved recipe and stop.")
def pretrain(recipe: Path, out: Path | None, max_minutes: float | None, dry_run: bool) -> None:
    """Train a base model as RECIPE (TOML) says, or go on where an earlier run stopped."""
    from ...train.config import read_recipe

    plan = read_recipe(recipe)
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
