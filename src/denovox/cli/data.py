"""`denovox doctor` and `denovox prepare`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .commands import Command, option
from .options import (
    FILE,
    accept_hu_option,
    device_option,
    dicom_options,
    engine,
    precision_option,
    straighten_option,
)
from .progress import say
from .results.command import Cases
from .results.run import check_extras


@click.command(cls=Command)
@click.argument("path", type=FILE, nargs=-1, required=True)
@dicom_options
@option("--json", "as_json", is_flag=True, group="Output", help="Print JSON.")
@device_option
@precision_option
def doctor(
    path: tuple[Path, ...],
    as_json: bool,
    series: str | None,
    straighten: bool,
    device: str | None,
    precision: Any,
) -> None:
    """Check CT scans: HU, geometry, regions, noise, and what processing them costs.

    PATH is a CT scan in any format that `denovox denoise` reads. The report goes to stdout; it
    includes the time and memory that `denoise`, `superres` (with twice as many slices) and `detect`
    would take, unless they would refuse the scan. Exit code 2 if a scan cannot be processed.
    """
    import json

    from ..core.process import return_freed
    from ..inference import doctor as of
    from ..inference.cost.timing import time_tile
    from ..inference.model import load
    from ..metrics.results import finite

    # Before any scan is read, or its memory would count; the network is not needed any more.
    timing = time_tile(load(device=device, precision=precision))
    return_freed()
    reports = []
    for one in path:
        reports.append(of.examine(one, series=series, straighten=straighten, timing=timing))
        if not as_json:
            click.echo(f"{reports[-1]}\n")
    if as_json:
        click.echo(json.dumps(finite([one.model_dump(mode="json") for one in reports]), indent=1))
    if any(report.verdict == "refuse" for report in reports):
        raise SystemExit(2)


@click.command(cls=Cases)
@click.argument("source", type=FILE)
@option(
    "--layout",
    group="Input",
    help="A layout of docs/reference/datasets.md, or 'folder' for your own scans.  [default:"
    " recognised from the file names]",
)
@option(
    "--patients",
    type=FILE,
    group="Input",
    help="CSV with the columns case and patient, instead of the patients of the layout.",
)
@straighten_option
@accept_hu_option
@option("--dry-run", is_flag=True, group="Input", help="List the scans on stdout, and stop.")
@option("--out", type=FILE, required=True, group="Output", help="Folder of the store.")
@option(
    "--spacing",
    type=float,
    group="Output",
    help="Resample to voxels of this size in mm.  [default: keep the grid of each scan]",
)
@option(
    "--segment",
    is_flag=True,
    group="Output",
    help="Use TotalSegmentator for scans without a label map.",
)
@option("--retry", is_flag=True, group="Running", help="Retry scans that failed in earlier runs.")
@option(
    "--workers",
    type=click.IntRange(1),
    group="Running",
    help="Number of processes.  [default: one per core]",
)
@option("--engine", **engine)
def prepare(source: Path, out: Path, layout: str | None, workers: int | None, **given: Any) -> None:
    """Convert a data set, or a folder of scans, to a store for training.

    SOURCE is a folder of CT scans (DICOM, NIfTI, NRRD or MetaImage) and, if there are any, label
    maps. --out receives zarr arrays, and manifest.parquet, which lists every case, and every scan
    that failed, with the reason. If the command is interrupted in any way, run it again to complete
    the store.
    """
    from ..core.errors import InputError
    from ..datasets import layouts
    from ..datasets.executors import processes, ray_cluster
    from ..datasets.prepare import prepare as run
    from ..datasets.prepare_config import PrepareConfig
    from ..io.atomic import check_folder
    from ..io.outputs import check_apart

    spacing = given["spacing"]
    if spacing is not None and not 0.1 <= spacing <= 20:
        raise InputError(f"--spacing {spacing:g} mm is out of range; give 0.1 to 20 mm")
    if given["dry_run"]:
        survey = layouts.survey(source, layout, given["patients"])
        for entry in survey.entries:
            click.echo(f"{entry.id}: patient {entry.patient}, {len(entry.masks)} masks")
        for note in survey.notes():
            say(note)
        return
    check_apart({"--out": out}, {"SOURCE": source})
    check_folder(out, force=True, parents=True)
    check_extras()
    config = PrepareConfig(
        spacing_mm=spacing,
        straighten=given["straighten"],
        accept_hu=given["accept_hu"],
        segment=given["segment"],
    )
    work = ray_cluster() if given["engine"] == "ray" else processes(workers)
    for line in run(source, out, config, work, layout, given["retry"], given["patients"]):
        say(line)
