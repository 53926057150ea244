"""`denovox phantom`, and `denovox synthesize --phantoms`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..commands import option
from ..options import FILE, REGION_NAMES, force_option, loaded, running_options, seed_option
from ..progress import say
from ..results.command import Cases, Result
from ..results.run import check_extras, note
from .sampling import (
    grid,
    sampling,
    sampling_options,
    shape_option,
    spacing_of_phantoms,
    weaker,
)

if TYPE_CHECKING:
    from ...core.volume import Volume
    from ...simulate.phantom import Phantom


@click.command("synthesize", cls=Cases)
@option("--phantoms", type=click.IntRange(1), required=True, help="Number of pairs.")
@option(
    "--region",
    type=click.Choice(["all", *REGION_NAMES]),
    default="all",
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
    group="Output",
    help="Layout of the folder; nnunet: imagesTr, labelsTr and dataset.json.",
)
@running_options
@seed_option
def pairs(
    phantoms: int,
    region: str,
    shape: str | None,
    spacing: str,
    out: Path,
    layout: str,
    **run: Any,
) -> None:
    """Generate pairs of a CT scan and its label map, without a patient.

    The label maps are those of `denovox phantom` with --seed, --seed + 1, ...; the model generates
    a scan for each. dataset.json names the labels; manifest.jsonl has a row for each pair. If the
    command is stopped, run it again to complete the data set; a larger number adds pairs.
    """
    from dataclasses import replace

    from ...batch import phantoms as work
    from ...core.errors import ensure
    from ...core.volume import within
    from ...inference.synthesize import Sampling, resolved
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
        ensure(all(within(one, low, high) for one in mm), allowed)
        how, weak = sampling(run), weaker(run)
        asked = Sampling(how["steps"], guidance=how["guidance"], guide=weak)
        how["steps"] = resolved(model, asked)[0]

        def make(pair: work.Pair, phantom: Phantom, number: int, count: int) -> Volume:
            return model.synthesize(
                pair.region,
                phantom.ct.shape,
                mm,
                phantom.labels,
                options=replace(options.part(number, count), seed=pair.seed),
                guide=weak,
                **how,
            )

        settings = {
            **{"shape": shape, "spacing": spacing, "region": region, "seed": first, **how},
            "weights": describe(model.path)[2],
            "guide": None if weak is None else describe(weak.path)[2],
        }
        for line in work.fill(out, wanted, make, settings, run["force"]):
            say(line)


@click.command(cls=Result)
@click.argument("region", type=click.Choice(REGION_NAMES), metavar="REGION")
@click.argument("output", type=FILE)
@shape_option
@spacing_of_phantoms
@option("--image", type=FILE, group="Output", help="NIfTI file for a schematic CT of this body.")
@force_option
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
    size and position of organs vary as they do among people. OUTPUT (NIfTI) has the values of
    docs/reference/labels.md. The grid is centred on the region; without --shape it covers all of
    it.
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
