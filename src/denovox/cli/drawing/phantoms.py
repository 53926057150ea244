"""`denovox phantom`, and `denovox synthesize --phantoms`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..commands import option
from ..options import FILE, REGION_NAMES, loaded, running_options, seed_option
from ..progress import say
from ..results.command import Cases, Result
from ..results.run import check_extras, note
from .sampling import grid, sampling_options, shape_option, spacing_of_phantoms, weaker

if TYPE_CHECKING:
    from ...core.volume import Volume
    from ...simulate.phantom import Phantom


@click.command("synthesize", cls=Cases)
@option("--phantoms", type=click.IntRange(1), required=True, help="Number of pairs.")
@option(
    "--region",
    type=click.Choice(["all", *REGION_NAMES]),
    default="all",
    show_default=True,
    help="Body region; all: each in turn.",
)
@shape_option
@spacing_of_phantoms
@sampling_options
@option("--out", type=FILE, required=True, group="Output", help="Folder of the data set.")
@option(
    "--layout",
    type=click.Choice(["nnunet"]),
    default="nnunet",
    show_default=True,
    group="Output",
    help="Of the folder: imagesTr, labelsTr and dataset.json of nnU-Net.",
)
@running_options
@seed_option
def pairs(
    phantoms: int,
    region: str,
    shape: str | None,
    spacing: str,
    steps: int,
    levels: int | None,
    guidance: float | None,
    guide: str | None,
    out: Path,
    layout: str,
    **run: Any,
) -> None:
    """Generate pairs of a CT scan and its label map, without a patient.

    Label maps are phantoms as of `denovox phantom`, of persons --seed, --seed + 1, ...; the model
    draws a scan for each. dataset.json names the labels; manifest.jsonl has a row for each pair. If
    the command is stopped, run it again to complete the data set; a larger number adds pairs.
    """
    from dataclasses import replace

    from ...batch import phantoms as work
    from ...core.errors import ensure
    from ...inference.synthesize import Sampling, guidance_of
    from ...io.atomic import check_folder
    from ...model.weights import describe

    check_folder(out, force=True, parents=True)
    size, mm = grid(shape, spacing)
    regions = work.ALL if region == "all" else (region,)
    first = run["seed"]
    wanted = [
        work.Pair(regions[number % len(regions)], first + number, size, mm)
        for number in range(phantoms)
    ]
    with loaded(run, "synthesize") as (model, options):
        low, high = model.config.spacing_mm
        allowed = f"the model supports spacings from {low:g} to {high:g} mm; change --spacing"
        ensure(all(low <= one <= high for one in mm), allowed)
        weak = weaker(guide, run)
        guidance_of(model, Sampling(steps=steps, levels=levels, guidance=guidance, guide=weak))

        def make(pair: work.Pair, phantom: Phantom, number: int, count: int) -> Volume:
            return model.synthesize(
                pair.region,
                phantom.ct.shape,
                mm,
                phantom.labels,
                steps=steps,
                options=replace(options.part(number, count), seed=pair.seed),
                guidance=guidance,
                guide=weak,
                levels=levels,
            )

        settings: dict[str, Any] = {
            "shape": shape,
            "spacing": spacing,
            "region": region,
            "steps": steps,
        }
        settings |= {"levels": levels, "guidance": guidance, "seed": first}
        settings |= {"weights": describe(model.path)[2]}
        settings |= {"guide": None if weak is None else describe(weak.path)[2]}
        for line in work.fill(out, wanted, make, settings, run["force"]):
            say(line)


@click.command(cls=Result)
@click.argument("region", type=click.Choice(REGION_NAMES), metavar="REGION")
@click.argument("output", type=FILE)
@shape_option
@spacing_of_phantoms
@option("--image", type=FILE, group="Output", help="NIfTI for a schematic CT of the same body.")
@option("--force", is_flag=True, group="Output", help="Overwrite existing output.")
@seed_option
def phantom(
    region: str,
    output: Path,
    shape: str | None,
    spacing: str,
    image: Path | None,
    force: bool,
    seed: int,
) -> None:
    """Draw the label map of a procedural body, for `denovox synthesize --anatomy`.

    REGION is headneck, chest or abdomen. Each --seed is another person: body size, posture, and the
    size and place of organs vary as in people. OUTPUT (NIfTI) has the values of
    docs/reference/labels.md. --shape is as much as the region takes unless it is given; the grid is
    centred on the region.
    """
    import math

    from ...io import nifti
    from ...io.atomic import together
    from ...io.outputs import check_apart
    from ...io.space import check_space, packed_bytes
    from ...simulate.phantom import draw, view

    check_apart({"OUTPUT": output, "--image": image}, {})
    paths = [path for path in (output, image) if path is not None]
    for path in paths:
        nifti.check_writable(path, force)
    size, mm = grid(shape, spacing)
    size = size or view(region, mm)
    check_space({path: packed_bytes(path, math.prod(size)) for path in paths})
    check_extras()
    body = draw(region, size, mm, seed)
    note(output, body.ct)
    with together():
        if image is not None:
            nifti.write(body.ct, image, force)
        nifti.write_labels(body.labels, body.ct.affine, output, force)
