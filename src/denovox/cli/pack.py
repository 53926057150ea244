"""`denovox pack`."""

from __future__ import annotations

from pathlib import Path

import click

from .commands import Command, option
from .options import FILE, force_option
from .progress import say


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
