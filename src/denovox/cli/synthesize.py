"""`denovox synthesize` and `denovox demo`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .commands import option
from .drawing.phantoms import pairs
from .drawing.sampling import (
    grid,
    sampling,
    sampling_options,
    shape_option,
    spacing_option,
    weaker,
)
from .options import (
    FILE,
    REGION_NAMES,
    control_options,
    loaded,
    model_options,
    page_option,
    seed_option,
    weights_option,
    write_view,
)
from .outputs import Output
from .progress import answer, say
from .results.command import Result, Tables


class Synthesis(Result):
    """`denovox synthesize`; with --phantoms it is `pairs`, which fills a folder."""

    def make_context(
        self, info_name: str | None, args: list[str], *more: Any, **settings: Any
    ) -> click.Context:
        """Of one command or the other."""
        if any(word.partition("=")[0] == "--phantoms" for word in args):
            return pairs.make_context(info_name, args, *more, **settings)
        return super().make_context(info_name, args, *more, **settings)


@click.command(cls=Synthesis)
@click.argument("output", type=FILE)
@option(
    "--region",
    type=click.Choice(["auto", *REGION_NAMES]),
    default="auto",
    help="Body region; auto: the regions that the labels of --anatomy show.",
)
@shape_option
@spacing_option
@sampling_options
@option(
    "--anatomy",
    type=FILE,
    group="Input",
    help="Label map (docs/reference/labels.md), which also sets the grid.",
)
@option(
    "--label-set",
    metavar="NAME",
    group="Input",
    help="What the values of --anatomy mean, e.g. maisi (docs/reference/datasets.md)."
    "  [default: as named in the file, or in nnU-Net's dataset.json beside its folder; otherwise"
    " those of TotalSegmentator]",
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
    label_set: str | None,
    lesions: Path | None,
    report: Path | None,
    **run: Any,
) -> None:
    """Generate a CT scan, unconditionally or from a label map.

    OUTPUT is in HU, on the grid of --anatomy, or on the one that --shape and --spacing define. It
    is written as NIfTI, or as a DICOM series if it is a folder or a .zip: a study of its own,
    without a patient. --lesions (NIfTI, NRRD or MetaImage) needs --control lesion. --report writes
    a page that shows the scan.

    `denovox synthesize --phantoms 100 --out DIR` has other options: it fills a folder with pairs of
    a scan and a label map, without a patient; see denovox synthesize --phantoms 1 --help.
    """
    import math
    from dataclasses import replace

    import numpy as np

    from ..core.errors import ensure
    from ..core.volume import Volume, spacing_of
    from ..datasets import anatomy as anatomies
    from ..inference.views import of_synthesis
    from ..io import label_maps
    from ..io.atomic import together
    from ..io.space import check_space, packed_bytes

    target = Output(output, run["force"], report=report)
    target.check({"--anatomy": anatomy, "--lesions": lesions})
    if anatomy is None:
        ensure(label_set is None, "--label-set describes --anatomy; give that as well")
        ensure(shape and spacing, "give --shape and --spacing, or --anatomy, which sets the grid")
        ensure(lesions is None, "--lesions needs an anatomy around it; give --anatomy as well")
    else:
        fixed = "--anatomy sets its own grid; leave out --shape and --spacing"
        ensure(not (shape or spacing), fixed)
    labels = affine = drawn = None
    if anatomy is not None:
        labels, affine = anatomies.read(anatomy, label_set, say)
        size, mm = labels.shape, spacing_of(affine)
        like = Volume(np.zeros(size, np.float32), affine)
        drawn = None if lesions is None else label_maps.marked(lesions, like, say)
    else:
        size, mm = grid(shape, spacing or "")
    check_space({output: packed_bytes(output, 2 * math.prod(size))})
    with loaded(run, "synthesize", "lesion") as (model, options):
        how = {**sampling(run), "guide": weaker(run), "options": options}
        result = model.synthesize(region, size, mm, labels, drawn, **how)
    result = result if affine is None else replace(result, affine=affine)
    with together():
        if report is not None:
            write_view(report, of_synthesis(result, drawn), model, {})
        target.write(result, model)


@click.command(cls=Tables)
@option("--out", type=FILE, default=Path("demo"), group="Output", help="Folder for the results.")
@option("--force", is_flag=True, group="Output", help="Overwrite an earlier demo.")
@weights_option
@model_options
@seed_option
def demo(out: Path, force: bool, **run: Any) -> None:
    """Try the model on a simulated chest: synthesis and denoising.

    Draws a chest phantom, generates a CT scan from its label map, and denoises a noisy copy of it.
    --out receives the volumes as NIfTI, index.html, a page that compares the noisy and the denoised
    scan, and sheet.png with their middle slices. File names and PSNR go to stdout.
    """
    from ..evaluation.demo import check, fill

    check(out, force)
    with loaded(run, "demo") as (model, options):
        lines = fill(out, model, options, force)
    for line in lines:
        answer(line)
