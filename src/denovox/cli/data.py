"""Commands that look at data and bring it in."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import click

from .options import FILE, reading_options, say


@click.command()
@click.argument("path", type=FILE, nargs=-1, required=True)
@click.option("--json", "as_json", is_flag=True, help="For programs.")
@reading_options
def doctor(path: tuple[Path, ...], as_json: bool, series: str | None, straighten: bool) -> None:
    """Look at scans before anything is done to them: HU, geometry, regions, costs.

    Exit code 2 where one of them cannot be worked on.
    """
    import json

    from ..inference import doctor as of
    from ..inference.cost import try_window
    from ..inference.model import load

    model = load(device=os.environ.get("DENOVOX_DEVICE"))
    trial = try_window(model)  # before any scan is read, or its memory would count
    reports = []
    for one in path:
        reports.append(of.examine(one, series=series, straighten=straighten, trial=trial))
        if not as_json:
            click.echo(of.prose(reports[-1]) + "\n")
    if as_json:
        click.echo(json.dumps([report.model_dump(mode="json") for report in reports], indent=1))
    if any(report.verdict == "refuse" for report in reports):
        raise SystemExit(2)


@click.command()
@click.argument("source", type=FILE)
@click.option("--out", type=FILE, required=True, help="The store: a folder.")
@click.option(
    "--layout", help="Of docs/datasets.md; 'folder' for your own; recognised if not given."
)
@click.option("--spacing", type=float, help="Resample to voxels of this many mm; own grid if not.")
@click.option("--straighten", is_flag=True, help="Resample tilted or uneven DICOM.")
@click.option("--segment", is_flag=True, help="TotalSegmentator for scans without a mask.")
@click.option("--workers", type=click.IntRange(1), help="Processes; one a core if not given.")
@click.option(
    "--engine",
    type=click.Choice(["processes", "ray"]),
    default="processes",
    show_default=True,
    help="This machine, or the Ray cluster of RAY_ADDRESS.",
)
@click.option("--retry", is_flag=True, help="Try again what was put aside before.")
@click.option("--dry-run", is_flag=True, help="List the scans and stop.")
def prepare(
    source: Path, out: Path, layout: str | None, workers: int | None, engine: str, **told: Any
) -> None:
    """Bring a data set, or a folder of scans, into a store to train from.

    A run that was stopped in whatever way is finished by the same command.
    """
    from ..core.errors import InputError
    from ..datasets import layouts
    from ..datasets.executors import processes, ray_cluster
    from ..datasets.prepare import prepare as run
    from ..datasets.prepare_config import PrepareConfig

    if told["spacing"] is not None and not 0.1 <= told["spacing"] <= 20:
        raise InputError(f"a spacing of {told['spacing']:g} mm makes no store; give 0.1 to 20")
    if told["dry_run"]:
        survey = layouts.survey(source, layout)
        for entry in survey.entries:
            click.echo(f"{entry.id}: patient {entry.patient}, {len(entry.masks)} masks")
        for note in survey.notes():
            say(note)
        return
    config = PrepareConfig(
        spacing_mm=told["spacing"], straighten=told["straighten"], segment=told["segment"]
    )
    work = ray_cluster() if engine == "ray" else processes(workers)
    for line in run(source, out, config, work, layout, told["retry"]):
        say(line)
