"""`denovox plan`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .commands import Command, option
from .options import FILE

if TYPE_CHECKING:
    from ..train.cost.estimate import Name


@click.command(cls=Command)
@click.argument("recipe", type=FILE)
@option(
    "--gpu",
    default="cpu",
    show_default=True,
    type=click.Choice(["h200", "a100-80", "rtx3090", "cpu"]),
    help="GPU to train on, or the CPU of this machine, which is timed for some seconds.",
)
@option("--gpus", default=1, show_default=True, type=click.IntRange(1), help="Number of GPUs.")
def plan(recipe: Path, gpu: Name, gpus: int) -> None:
    """Estimate the cost of training: FLOPs, memory, samples per second, hours.

    RECIPE is TOML (docs/reference/recipes.md). FLOPs and memory are counted on its network, forward
    and backward, without running it; if memory does not suffice, the last line says what to change.
    Times on a CPU are those of one real step; those on GPUs are estimated from data sheets and were
    never checked on one. Drawing samples and validation are not counted.
    """
    from ..train.config import read_recipe
    from ..train.cost.estimate import summary

    for line in summary(read_recipe(recipe), gpu, gpus):
        click.echo(line)
