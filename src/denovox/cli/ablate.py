"""The command that ablates."""

from __future__ import annotations

import os
from pathlib import Path

import click

from .options import FILE, progress, say, stoppable


@click.command()
@click.argument("recipe", type=FILE)
@click.option("--out", type=FILE, required=True, help="Folder of the runs and figures.")
@click.option(
    "--seeds", default=3, show_default=True, type=click.IntRange(1), help="Runs of each arm."
)
@click.option(
    "--max-minutes",
    type=click.FloatRange(min=0, min_open=True),
    help="Stop after this long; the same command goes on later.",
)
def ablate(recipe: Path, out: Path, seeds: int, max_minutes: float | None) -> None:
    """Train RECIPE (TOML) with and without each part of the method, and measure what it is worth.

    The arms are crops alone; + multi-level; + coordinates; + embedding, which is the paper's
    method; and changes to that: the stem unshuffle2, v-prediction with L2, min-SNR weights, zero
    terminal SNR. All get the compute (FLOPs) of the recipe's own steps. figures.md in --out is the
    table, with the range over seeds; it grows with every run.
    """
    from ..core.errors import InputError
    from ..evaluation.ablation.run import Ablation, run
    from ..train.config import read_recipe
    from ..train.distributed import joined

    plan = read_recipe(recipe)
    group = joined(os.environ.get("DENOVOX_DEVICE"))
    if group.count > 1:
        raise InputError("`denovox ablate` is one process; start it without torchrun")
    minutes = max_minutes or float("inf")
    with progress(plan.name) as done, stoppable() as stopped:
        for news in run(plan, out, Ablation(seeds=seeds), minutes, group.device):
            if isinstance(news, str):
                say(news)
                continue
            done(news)
            if stopped():
                say("stopped; the same command goes on from there")
                break
    table = out / "figures.md"
    if table.is_file():
        click.echo(table.read_text())
