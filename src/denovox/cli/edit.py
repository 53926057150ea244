"""`denovox lesion`, `denovox inpaint` and `denovox augment`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .commands import option
from .options import (
    FILE,
    beside,
    control_option,
    control_options,
    loaded,
    model_options,
    page_option,
    read_ct,
    reading_options,
    seed_option,
    write_view,
)
from .outputs import Output, is_series, like_option, processing
from .progress import say
from .results.command import Cases, Result

if TYPE_CHECKING:
    from ..simulate.lesion_density import Density

diameter_option = option(
    "--diameter",
    metavar="MM",
    help="Diameter of a sphere with the lesion's volume, e.g. 12mm.  [default: drawn at random]",
)


@click.command(cls=Result)
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@option("--mask", type=FILE, help="Mask of the lesions, on the grid of INPUT.")
@option(
    "--organ",
    metavar="NAME|FILE",
    help="Place lesions in this class of docs/reference/labels.md, or in a mask whose file name is"
    " such a class.",
)
@option(
    "--anatomy",
    metavar="auto|FILE",
    help="Label map of INPUT that contains --organ; auto: by TotalSegmentator, if that is"
    " installed.  [default: by thresholds]",
)
@diameter_option
@option("--count", type=click.IntRange(1, 255), help="Number of lesions.  [default: 1]")
@option(
    "--density",
    type=click.Choice(["solid", "part-solid", "ground-glass"]),
    help="Type of lung lesion; its HU are drawn from the range of this type.  [default: solid]",
)
@option(
    "--contrast",
    metavar="HU",
    type=float,
    help="HU of the lesions minus those of the organ, e.g. -40.  [default: drawn at random]",
)
@reading_options
@page_option
@like_option
@control_options("lesion")
@seed_option
def lesion(
    input: Path,
    output: Path,
    mask: Path | None,
    organ: str | None,
    anatomy: str | None,
    diameter: str | None,
    count: int | None,
    density: Density | None,
    contrast: float | None,
    report: Path | None,
    like: Path | None,
    **run: Any,
) -> None:
    """Add synthetic lesions to a CT scan.

    For training detection and segmentation models, not for diagnosis.

    INPUT is a CT scan in HU, in any format that `denovox denoise` reads. Each component of --mask
    (NIfTI, NRRD or MetaImage) becomes a lesion; or --organ places lesions of random shape, away
    from the border of the organ and from vessels. Their mean HU are drawn from the range of real
    lesions, unless --density or --contrast is given; texture and border are the model's. OUTPUT is
    written as NIfTI, or as a DICOM series if it is a folder or a .zip. Voxels more than 4 mm from
    the lesions are unchanged, bit for bit.

    Also written: OUTPUT_mask.nii.gz (lesions numbered from 1), OUTPUT_lesions.json (positions,
    sizes, HU, seed, weights) and, if INPUT or OUTPUT is DICOM, OUTPUT_mask.dcm (DICOM SEG).
    --report writes a page that compares the two scans and lists the lesions.
    """
    from ..core.errors import ensure
    from ..inference import lesions
    from ..inference.anomaly import findings
    from ..inference.lesions import LABEL_MAPS
    from ..inference.scan_context import ScanContext
    from ..inference.views import of_edit
    from ..io import nifti
    from ..io.atomic import together
    from ..io.dicom.evidence import seg
    from ..io.label_maps import marked
    from ..simulate.lesion_density import DensityRequest
    from ..simulate.lesion_placement import LesionRequest

    ensure((mask is None) != (organ is None), "give either --mask or --organ, but not both")
    ensure(
        organ is not None or (diameter is None and count is None),
        "--diameter and --count go with --organ; with --mask, the mask determines both",
    )
    ensure(density is None or contrast is None, "give either --density or --contrast, but not both")
    dense = DensityRequest(density, contrast)
    ensure(
        anatomy is None or not (organ or LABEL_MAPS[0]).lower().endswith(LABEL_MAPS),
        "--anatomy shows where the organ of --organ NAME is; with a mask, leave it out",
    )
    mask_path, list_path = beside(output, "_mask.nii.gz"), beside(output, "_lesions.json")
    named = Path(organ) if organ else None
    labelled = Path(anatomy) if anatomy not in (None, "auto") else None
    target = Output(output, run["force"], like, report)
    target.check(
        {"INPUT": input, "--mask": mask, "--organ": named, "--anatomy": labelled},
        {"its mask": mask_path, "its list of lesions": list_path},
    )
    nifti.check_writable(mask_path, run["force"])
    findings.check_json(list_path, run["force"])
    volume = read_ct(input, run)
    series = target.series_of(volume)
    seg_path = None if series is None else beside(output, "_mask.dcm")
    target.check_scan(volume)
    if seg_path is not None:
        seg.check(seg_path, volume, run["force"], say, series)
    context = ScanContext(volume, say=say)
    if mask is not None:
        plan = lesions.in_mask(volume, marked(mask, volume, say), run["seed"])
    else:
        mm = lesions.millimetres(diameter)
        wanted = LesionRequest(organ=organ or "", diameter_mm=mm, count=count or 1)
        plan = lesions.in_named(context, wanted, anatomy, run["device"], run["seed"])
    plan = lesions.with_levels(context, plan, run["seed"], dense)
    lines = [lesions.describe(one, plan.levels) for one in plan.placed]
    for line in lines:
        say(line)
    with loaded(run, "lesion", "lesion") as (model, options):
        edited = lesions.add(model, context, plan, options)
    record = lesions.record(edited, model, str(input), run["seed"])
    with together():
        nifti.write_mask(edited.numbers, volume, mask_path, run["force"])
        findings.write_json(record, list_path, run["force"])
        if seg_path is not None:
            how = seg.How(processing(model), lines, force=run["force"], like=series)
            seg.write(seg_path, edited.numbers, volume, how)
        if report is not None:
            view = of_edit(volume, edited.volume, edited.numbers, edited.placed)
            write_view(report, view, model, record)
        target.write(edited.volume, model, volume)


@click.command(cls=Cases)
@click.argument("store", type=FILE)
@option("--per-scan", default=5, type=click.IntRange(1), help="Copies per scan.")
@option(
    "--organ",
    metavar="NAME",
    help="Class of docs/reference/labels.md.  [default: lung in chest scans, otherwise liver]",
)
@diameter_option
@option("--count", default=1, type=click.IntRange(1, 255), help="Lesions per copy.")
@option("--out", type=FILE, required=True, group="Output", help="Folder of the data set.")
@control_option("lesion")
@model_options
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
    """Generate training data with synthetic lesions, in nnU-Net's layout.

    STORE is a folder written by `denovox prepare`. Copies of its scans, with lesions, are written
    to imagesTr, their labels (1 in lesions) to labelsTr, and the positions and sizes of the lesions
    to lesions.json. Scans whose own lesions are labelled in the store are included unchanged. If
    the command is stopped, run it again to complete the data set. docs/how-to/lesions.md shows how
    to train on it.
    """
    import math

    from ..datasets import store as stores
    from ..datasets.augment import augment as fill
    from ..inference import lesions
    from ..io.atomic import check_folder
    from ..io.outputs import check_apart
    from ..io.space import check_space, packed_bytes, size_of

    check_apart({"--out": out}, {"STORE": store})
    check_folder(out, force=True, parents=True)
    wanted = lesions.requests_per_case(organ, diameter, count)
    cases = stores.cases(store)
    voxels = sum(math.prod(case.facts.shape or ()) for case in cases)
    check_space({out: packed_bytes(Path(".nii.gz"), 2 * voxels * per_scan) - size_of(out)})
    with loaded(run, "augment", "lesion") as (model, options):
        make = lesions.maker(model, options)
        for line in fill(
            cases, out, per_scan, run["seed"], wanted, make, lesions.provenance(model)
        ):
            say(line)


@click.command(cls=Result)
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@option("--mask", type=FILE, required=True, help="Mask of the voxels to replace, on INPUT's grid.")
@option("--with-lesion", type=FILE, help="Mask, within --mask, of a lesion to draw.")
@option(
    "--jumps",
    default="2x2",
    metavar="LENGTHxTIMES",
    help="Resampling of RePaint: jump length and repeats; 1x1: none, 10x10: as published.",
)
@reading_options
@page_option
@like_option
@control_options("lesion")
@seed_option
def inpaint(
    input: Path,
    output: Path,
    mask: Path,
    with_lesion: Path | None,
    jumps: str,
    report: Path | None,
    like: Path | None,
    **run: Any,
) -> None:
    """Replace part of a CT scan with healthy tissue, or with a lesion.

    INPUT is a CT scan in HU, in any format that `denovox denoise` reads; masks are NIfTI, NRRD or
    MetaImage on its grid. OUTPUT is written as NIfTI, or as a DICOM series if it is a folder or a
    .zip; outside --mask it is identical to INPUT, bit for bit. To remove a lesion, mask it; with
    --with-lesion, a lesion is drawn instead. If OUTPUT is DICOM, the mask is also written, to
    OUTPUT_mask.dcm (DICOM SEG). --report writes a page that compares the two scans.
    """
    from ..inference.views import of_edit
    from ..io.atomic import together
    from ..io.dicom.evidence import seg
    from ..io.label_maps import marked

    pair = _jumps(jumps)
    target = Output(output, run["force"], like, report)
    seg_path = beside(output, "_mask.dcm") if is_series(output) else None
    target.check(
        {"INPUT": input, "--mask": mask, "--with-lesion": with_lesion},
        None if seg_path is None else {"its mask": seg_path},
    )
    volume = read_ct(input, run)
    target.check_scan(volume)
    series = target.series_of(volume)
    if seg_path is not None:
        seg.check(seg_path, volume, run["force"], say, series)
    hole = marked(mask, volume, say)
    drawn = None if with_lesion is None else marked(with_lesion, volume, say)
    with loaded(run, "inpaint", "lesion") as (model, options):
        result = model.inpaint(volume, hole, drawn, jumps=pair, options=options)
    with together():
        if report is not None:
            write_view(report, of_edit(volume, result, hole), model, {})
        if seg_path is not None:
            labels = ("Replaced region", "Synthetic lesion")
            how = seg.How(processing(model), labels, seg.REPLACED, run["force"], series)
            seg.write(seg_path, seg.layered(hole, drawn), volume, how)
        target.write(result, model, volume)


def _jumps(text: str) -> tuple[int, int]:
    from ..core.errors import InputError

    parts = text.split("x")
    if len(parts) != 2 or not all(p.isascii() and p.isdigit() and int(p) for p in parts):
        raise InputError(f"--jumps '{text}' is not LENGTHxTIMES, e.g. 2x2")
    return int(parts[0]), int(parts[1])
