"""`denovox synthesize` and `denovox demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .commands import option
from .options import (
    FILE,
    REGION_NAMES,
    control_options,
    loaded,
    model_options,
    page_option,
    seed_option,
    triple,
    weights_option,
    write_view,
)
from .outputs import Output
from .progress import answer
from .results.command import Result, Tables


@click.command(cls=Result)
@click.argument("output", type=FILE)
@option(
    "--region",
    type=click.Choice(["auto", *REGION_NAMES]),
    default="auto",
    show_default=True,
    help="Body region; auto: those that the labels of --anatomy show.",
)
@option("--shape", metavar="NxNxN", help="Number of SLICESxROWSxCOLUMNS, e.g. 128x160x160.")
@option("--spacing", metavar="MM", help="Voxel size in mm: one number, or SLICESxROWSxCOLUMNS.")
@option(
    "--steps",
    default=10,
    show_default=True,
    type=click.IntRange(2),
    help="Evaluations of the model at each level, by DPM-Solver++(2M).",
)
@option(
    "--levels",
    type=click.IntRange(1),
    help="1 generates all at once; more generate the whole on a coarse grid first and refine it."
    "  [default: 1 with --anatomy unless the volume is very large, else as many as fit]",
)
@option(
    "--guidance",
    type=float,
    metavar="WEIGHT",
    help="How far to follow region and anatomy; 1: as trained, without guidance."
    "  [default: 2, or 1 for weights that do not support it]",
)
@option(
    "--guide",
    group="Model",
    metavar="WEIGHTS",
    help="Weaker weights to guide away from, in place of --weights without region and anatomy.",
)
@option(
    "--anatomy",
    type=FILE,
    group="Input",
    help="Label map (docs/reference/labels.md), which also sets the grid.",
)
@option("--lesions", type=FILE, group="Input", help="Mask of lesions, on the grid of --anatomy.")
@page_option
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
    levels: int | None,
    guidance: float | None,
    guide: str | None,
    report: Path | None,
    **run: Any,
) -> None:
    """Generate a CT scan, unconditionally or from a label map.

    OUTPUT is in HU, on the grid of --anatomy or on one of --shape and --spacing: NIfTI, or a DICOM
    series, which is a .zip or a folder, and a study of its own without a patient. --lesions
    (NIfTI, NRRD or MetaImage) needs --control lesion. --report writes a page that shows the scan.
    """
    import math
    from dataclasses import replace

    import numpy as np

    from ..core.errors import ensure
    from ..core.volume import Volume, spacing_of
    from ..inference.model import load
    from ..inference.views import of_synthesis
    from ..io import label_maps
    from ..io.atomic import together
    from ..io.outputs import check_space, packed_bytes

    target = Output(output, run["force"], report=report)
    target.check({"--anatomy": anatomy, "--lesions": lesions})
    if anatomy is None:
        ensure(shape and spacing, "give --shape and --spacing, or --anatomy, which sets the grid")
        ensure(lesions is None, "--lesions lie in an anatomy; give --anatomy as well")
    else:
        fixed = "--anatomy sets its own grid; leave out --shape and --spacing"
        ensure(not (shape or spacing), fixed)
    labels = affine = drawn = None
    if anatomy is not None:
        labels, affine = label_maps.vocabulary(anatomy)
        size, mm = labels.shape, spacing_of(affine)
        like = Volume(np.zeros(size, np.float32), affine)
        drawn = None if lesions is None else label_maps.marked(lesions, like)
    else:
        size = triple(shape or "", int, "--shape")[::-1]
        mm = triple(spacing or "", float, "--spacing")[::-1]
    check_space({output: packed_bytes(output, 2 * math.prod(size))})
    with loaded(run, "synthesize", "lesion") as (model, options):
        weaker = None if guide is None else load(guide, run["device"], run["precision"])
        ensure(
            weaker is None or weaker.control is None,
            f"{guide} is a control; --guide takes the weights of a base",
        )
        result = model.synthesize(
            region,
            size,
            mm,
            labels,
            drawn,
            steps,
            options=options,
            guidance=guidance,
            guide=weaker,
            levels=levels,
        )
    result = result if affine is None else replace(result, affine=affine)
    with together():
        if report is not None:
            write_view(report, of_synthesis(result, drawn), model, {})
        target.write(result, model)


@click.command(cls=Tables)
@option(
    "--out",
    type=FILE,
    default=Path("demo"),
    show_default=True,
    group="Output",
    help="Folder for the results.",
)
@option("--force", is_flag=True, group="Output", help="Overwrite an earlier demo.")
@weights_option
@model_options
@seed_option
def demo(out: Path, force: bool, **run: Any) -> None:
    """Try the model on a simulated chest: synthesis and denoising.

    Draws a chest phantom, generates a CT scan from its label map, and denoises a noisy copy of it.
    --out holds the volumes as NIfTI, sheet.png with their middle slices, and index.html, a page for
    comparing the noisy and the denoised scan; file names and PSNR go to stdout.
    """
    from ..evaluation.demo import check, fill

    check(out, force)
    with loaded(run, "demo") as (model, options):
        lines = fill(out, model, options, force)
    for line in lines:
        answer(line)
