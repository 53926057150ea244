"""Commands that put lesions into scans, and take them out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import (
    FILE,
    beside,
    control_option,
    control_options,
    loaded,
    reading_options,
    say,
    seed_option,
    window_option,
)


@click.command()
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@click.option("--mask", type=FILE, help="Where lesions are to be: not 0, on the scan's grid.")
@click.option("--organ", help="Or: a class of docs/labels.md, or a mask file named as one.")
@click.option("--diameter", help="Of the ball of a lesion's volume, e.g. 12mm; drawn if not given.")
@click.option("--count", type=click.IntRange(1, 255), help="How many lesions.  [default: 1]")
@reading_options
@control_options("lesion")
@seed_option
def lesion(
    input: Path,
    output: Path,
    mask: Path | None,
    organ: str | None,
    diameter: str | None,
    count: int | None,
    series: str | None,
    straighten: bool,
    **run: Any,
) -> None:
    """Put lesions into a CT: for training what is to find them, not for reading.

    Either where --mask says, or in an --organ: shapes and places are then drawn from the seed, away
    from its border and from vessels. How bright they are is left to the model. OUTPUT is NIfTI:
    more than 4 mm around the lesions it is the scan, bit for bit. Beside it go OUTPUT_mask.nii.gz,
    the lesions' numbers; OUTPUT_lesions.json, what was put where; and of DICOM OUTPUT_mask.dcm, a
    DICOM SEG.
    """
    from ..core.errors import ensure
    from ..inference import lesions
    from ..inference.anomaly import findings
    from ..inference.inpaint import Edit, around, edit
    from ..io import formats, nifti
    from ..io.dicom import seg
    from ..io.dicom.reader import DicomSource

    ensure((mask is None) != (organ is None), "give either a --mask or an --organ, and not both")
    known = "--diameter and --count go with --organ; a mask says these by itself"
    ensure(organ is not None or (diameter is None and count is None), known)
    masked, listed = beside(output, "_mask.nii.gz"), beside(output, "_lesions.json")
    for path in (output, masked):
        nifti.check_writable(path, run["force"])
    findings.check_json(listed, run["force"])
    volume = formats.read(input, series=series, straighten=straighten, say=say)
    sent = beside(output, "_mask.dcm") if isinstance(volume.source, DicomSource) else None
    if sent is not None:
        seg.check_writable(sent, run["force"])
    if mask is not None:
        plan = lesions.by_mask(volume, mask, run["seed"])
    else:
        plan = lesions.by_organ(volume, organ or "", diameter, count, run["seed"])
    said = [lesions.words(one) for one in plan.placed]
    for line in said:
        say(line)
    with loaded(run, "lesion", "lesion") as (model, options):
        what = Edit(around(plan.lesion, volume.spacing_mm), plan.lesion, plan.anatomy)
        result = edit(model, volume, what, options)
    told = lesions.told(plan, model, str(input), run["seed"])
    nifti.write_mask(plan.numbers, volume, masked, run["force"])
    findings.write_json(told, listed, run["force"])
    if sent is not None:
        seg.write(sent, plan.numbers, volume, said, force=run["force"])
    nifti.write(result, output, run["force"])


@click.command()
@click.argument("store", type=FILE)
@click.option("--out", type=FILE, required=True, help="The data set: a folder.")
@click.option(
    "--per-scan", default=5, show_default=True, type=click.IntRange(1), help="Copies of each scan."
)
@click.option("--organ", help="A class of docs/labels.md; by default lung in chests, else liver.")
@click.option("--diameter", help="E.g. 12mm; drawn if not given.")
@click.option(
    "--count", default=1, show_default=True, type=click.IntRange(1, 255), help="Lesions of a copy."
)
@control_option("lesion")
@window_option
@seed_option
def augment(
    store: Path,
    out: Path,
    per_scan: int,
    organ: str | None,
    diameter: str | None,
    count: int,
    **run: Any,
) -> None:
    """More training data with lesions: copies of the scans of a STORE, in nnU-Net's layout.

    Images go to imagesTr, labels (1 in lesions) to labelsTr, what was put where to lesions.json.
    Scans whose own lesions the store knows come along as they are. A run that was stopped is
    finished by the same command; docs/augment.md trains on the result.
    """
    from ..datasets import store as of
    from ..datasets.augment import augment as fill
    from ..inference import lesions

    wanted = lesions.wanting(organ, diameter, count)
    cases = of.cases(store)
    with loaded(run, "augment", "lesion") as (model, options):
        make = lesions.maker(model, options)
        for line in fill(cases, out, per_scan, run["seed"], wanted, make, lesions.by(model)):
            say(line)


@click.command()
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@click.option("--mask", type=FILE, required=True, help="The hole: not 0, on the scan's grid.")
@click.option("--with-lesion", type=FILE, help="A mask in the hole: where a lesion is to be.")
@click.option(
    "--jumps",
    default="2x2",
    show_default=True,
    help="RePaint's LENGTHxTIMES; 1x1: none, 10x10: the paper's.",
)
@reading_options
@control_options("lesion")
@seed_option
def inpaint(
    input: Path,
    output: Path,
    mask: Path,
    with_lesion: Path | None,
    jumps: str,
    series: str | None,
    straighten: bool,
    **run: Any,
) -> None:
    """Make a part of a CT anew: healthy, or with a lesion.

    Without --with-lesion what was in the hole is gone: a lesion is taken out. Outside the hole the
    result is the scan, bit for bit.
    """
    from ..inference.inpaint import Edit, edit
    from ..io import formats, nifti
    from ..io.label_maps import marked

    length, times = _jumps(jumps)
    nifti.check_writable(output, run["force"])
    volume = formats.read(input, series=series, straighten=straighten, say=say)
    hole = marked(mask, volume)
    sick = None if with_lesion is None else marked(with_lesion, volume)
    with loaded(run, "inpaint", "lesion") as (model, options):
        what = Edit(hole, sick, jumps=(length, times))
        nifti.write(edit(model, volume, what, options), output, run["force"])


def _jumps(text: str) -> tuple[int, int]:
    from ..core.errors import InputError

    parts = text.split("x")
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() and int(p) for p in parts):
        raise InputError(f"--jumps '{text}' is not LENGTHxTIMES, e.g. 2x2")
    return int(parts[0]), int(parts[1])
