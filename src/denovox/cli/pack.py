"""`denovox plan` and `denovox pack`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from .commands import Command, option
from .options import FILE, force_option
from .progress import say

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


@click.command(cls=Command)
@click.argument("recipe", type=FILE)
@option(
    "--start",
    group="Input",
    help="Weights to start from, or the folder of a run to continue.  [default: RECIPE's]",
)
@option("--wheels", type=FILE, group="Input", help="Folder of wheels to use instead of downloads.")
@option("--out", type=FILE, required=True, group="Output", help="Folder of the kit.")
@option(
    "--store-mb",
    default=40.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    group="Output",
    help="Largest size of the packed store in MB.",
)
@force_option
@option(
    "--target-has",
    type=FILE,
    group="Target machine",
    help="List of the packages installed there, one per line.  [default: torch, numpy, scipy,"
    " scikit-image, Pillow]",
)
@option(
    "--python",
    default="3.12",
    show_default=True,
    group="Target machine",
    help="Its Python version.",
)
def pack(
    recipe: Path,
    out: Path,
    start: str | None,
    target_has: Path | None,
    wheels: Path | None,
    python: str,
    store_mb: float,
    force: bool,
) -> None:
    """Pack a training run for a machine without a network connection.

    The kit in --out contains RECIPE (TOML), its store and all packages. Its run.sh trains and
    collects the results; see docs/how-to/kit.md. If the store is too large, HU are rounded, and
    then cases are resampled to coarser voxels; each of these is listed on stderr. A kit contains
    patient data.
    """
    from ..kit import pack as of

    of.pack(recipe, out, of.Target(python, target_has, wheels, store_mb), start, force, say)
