"""Before a run: what it would cost."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .options import FILE

if TYPE_CHECKING:
    from ..train.hardware import Name


@click.command()
@click.argument("recipe", type=FILE)
@click.option(
    "--gpu",
    default="cpu",
    show_default=True,
    type=click.Choice(["h200", "a100-80", "rtx3090", "cpu"]),
    help="What it would run on; cpu is this machine's, tried for some seconds.",
)
@click.option(
    "--gpus", default=1, show_default=True, type=click.IntRange(1), help="How many of them."
)
def plan(recipe: Path, gpu: Name, gpus: int) -> None:
    """What training by RECIPE (TOML) would cost: FLOPs, memory, samples a second, hours.

    Counted on the recipe's own network, forward and backward, without running it; where memory
    does not suffice, the last line says what to change. GPUs are taken by their data sheets and
    were never checked by us; so are their hours. Drawing samples and validation are not counted.
    """
    from ..train.config import read_recipe
    from ..train.cost import summary

    for line in summary(read_recipe(recipe), gpu, gpus):
        click.echo(line)
