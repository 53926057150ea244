"""Commands that make a scan that never was."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import (
    FILE,
    REGION_NAMES,
    control_options,
    loaded,
    progress,
    seed_option,
    triple,
)


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
@click.option("--lesions", type=FILE, help="On that grid: where lesions are to be (not 0).")
@control_options("base")
@seed_option
def synthesize(
    output: Path,
    region: str,
    shape: str | None,
    spacing: str | None,
    anatomy: Path | None,
    lesions: Path | None,
    steps: int,
    **run: Any,
) -> None:
    """Make a CT that never was, from noise, and from an anatomy if one is given.

    With --lesions it has lesions where that mask says: give --control lesion, too.
    """
    from dataclasses import replace

    import numpy as np

    from ..core.errors import InputError
    from ..core.volume import Volume, spacing_of
    from ..io import label_maps, nifti

    nifti.check_writable(output, run["force"])
    if anatomy is not None and (shape or spacing):
        raise InputError("--anatomy brings its own grid; leave --shape and --spacing out")
    if anatomy is None and not (shape and spacing):
        raise InputError("give --shape and --spacing, or an --anatomy, whose grid is then used")
    if lesions is not None and anatomy is None:
        raise InputError("--lesions lie in an anatomy: give --anatomy, too")
    labels = affine = sick = None
    if anatomy is not None:
        labels, affine = nifti.read_label_map(anatomy)
        size, mm = labels.shape, spacing_of(affine)
        like = Volume(np.zeros(size, np.float32), affine)
        sick = None if lesions is None else label_maps.marked(lesions, like)
    else:
        size = triple(shape or "", int, "--shape")[::-1]
        mm = triple(spacing or "", float, "--spacing")[::-1]
    with loaded(run, "synthesize", "lesion") as (model, options):
        result = model.synthesize(region, size, mm, labels, steps, options=options, lesion=sick)
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
    from .demo import run

    with progress("demo") as done:
        written = run(out, seed, force, done)
    for line in written:
        click.echo(line)
