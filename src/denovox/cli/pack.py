"""The command that packs a run for a machine without a network."""

from __future__ import annotations

from pathlib import Path

import click

from .options import FILE, force_option, say


@click.command()
@click.argument("recipe", type=FILE)
@click.option("--out", type=FILE, required=True, help="The kit: a folder.")
@click.option(
    "--start", help="Weights to begin from, or the folder of a run; RECIPE's if not given."
)
@click.option(
    "--target-has",
    type=FILE,
    help="List of the packages there, one a line; if not given: torch, numpy, scipy, scikit-image.",
)
@click.option("--wheels", type=FILE, help="A folder of wheels to look in before any download.")
@click.option("--python", default="3.12", show_default=True, help="The target's version.")
@click.option(
    "--store-mb",
    default=40.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="What the packed store may take.",
)
@force_option
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
    """Pack RECIPE (TOML), its store and all packages into a folder that trains without a network.

    The folder holds run.sh, which trains and collects the results; see docs/kit.md. Where the store
    is too large, HU are rounded and then voxels made coarser; it is listed which.
    """
    from ..kit import pack as of

    of.pack(recipe, out, of.Target(python, target_has, wheels, store_mb), start, force, say)
