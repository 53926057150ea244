"""Commands that make a scan that never was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..terminal import FILE, REGION_NAMES, loaded, progress, running_options, seed_option, triple


@click.command()
@click.argument("output", type=FILE)
@click.option("--region", type=click.Choice(REGION_NAMES), required=True)
@click.option("--shape", help="SLICESxROWSxCOLUMNS, e.g. 128x160x160.")
@click.option("--spacing", help="Voxel size in mm: one number, or SLICESxROWSxCOLUMNS.")
@click.option("--anatomy", type=FILE, help="NIfTI of labels (docs/labels.md); gives the grid.")
@click.option(
    "--steps",
    default=20,
    show_default=True,
    type=click.IntRange(2),
    help="Evaluations of DPM-Solver++(2M).",
)
@running_options
@seed_option
def synthesize(
    output: Path,
    region: str,
    shape: str | None,
    spacing: str | None,
    anatomy: Path | None,
    steps: int,
    **run: Any,
) -> None:
    """Make a CT that never was, from noise, and from an anatomy if one is given."""
    from dataclasses import replace

    from ...core.errors import InputError
    from ...core.volume import spacing_of
    from ...data import nifti

    nifti.check_writable(output, run["force"])
    if anatomy is not None and (shape or spacing):
        raise InputError("--anatomy brings its own grid; leave --shape and --spacing out")
    if anatomy is None and not (shape and spacing):
        raise InputError("give --shape and --spacing, or an --anatomy, whose grid is then used")
    labels = affine = None
    if anatomy is not None:
        labels, affine = nifti.read_label_map(anatomy)
        size, mm = labels.shape, spacing_of(affine)
    else:
        size = triple(shape or "", int, "--shape")[::-1]
        mm = triple(spacing or "", float, "--spacing")[::-1]
    with loaded(run, "synthesize") as (model, running):
        result = model.synthesize(region, size, mm, labels, steps, running=running)
    nifti.write(result if affine is None else replace(result, affine=affine), output, run["force"])


@click.command()
@click.option("--out", type=FILE, default=Path("demo"), show_default=True, help="Folder to fill.")
@click.option(
    "--seed",
    default=0,
    show_default=True,
    type=click.IntRange(0),
    help="Another body, another noise.",
)
@click.option("--force", is_flag=True, help="Overwrite an earlier demo.")
def demo(out: Path, seed: int, force: bool) -> None:
    """A procedural chest: synthesise a CT from its anatomy, and denoise its low-dose scan."""
    from ..demo import run

    with progress("demo") as done:
        written = run(out, seed, force, done)
    for line in written:
        click.echo(line)
