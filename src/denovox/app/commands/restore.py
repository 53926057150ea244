"""Commands that give a scan back better than it came."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from ..terminal import FILE, REGION_NAMES, loaded, reading_options, running_options, say


@click.command()
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@click.option(
    "--region",
    type=click.Choice(["auto", *REGION_NAMES]),
    default="auto",
    show_default=True,
    help="Auto finds head-neck, chest and abdomen along z.",
)
@click.option("--noise-hu", type=float, help="SD of the noise in HU; estimated if not given.")
@click.option(
    "--method",
    type=click.Choice(["mean", "diffpir"]),
    default="mean",
    show_default=True,
    help="Posterior mean, one evaluation or (coloured noise) four; or DiffPIR, ten.",
)
@click.option("--report", type=FILE, help="A new folder for the faithfulness report.")
@reading_options
@running_options
def denoise(
    input: Path,
    output: Path,
    region: str,
    noise_hu: float | None,
    method: Any,
    report: Path | None,
    series: str | None,
    straighten: bool,
    **run: Any,
) -> None:
    """Remove noise from a CT, on the scan's own grid.

    INPUT is NIfTI, NRRD, MetaImage, or DICOM (a folder, a ZIP, an Enhanced CT file), in HU; OUTPUT
    is NIfTI.
    """
    from ... import __version__
    from ...data import files, nifti
    from ...evaluate.folder import check_folder
    from ...evaluate.report import write_report
    from ...evaluate.report_types import Given
    from ...model.weights import describe

    nifti.check_writable(output, run["force"])
    if report is not None:
        check_folder(report, run["force"])
    volume = files.read(input, series=series, straighten=straighten, say=say)
    with loaded(run, "denoise") as (model, running):
        result = model.denoise(volume, region, noise_hu, method, running)
    nifti.write(result, output, run["force"])
    if report is not None:
        told = {"region": region, "noise_hu": noise_hu, "method": method, "seed": run["seed"]}
        given = Given(
            noise_hu=noise_hu, weights=describe(model.path)[2], settings=told, version=__version__
        )
        say(write_report(report, volume, result, given, str(input), run["force"]).summary)


@click.command()
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@click.option("--factor", type=float, help="How many times as many slices.")
@click.option("--spacing-z", type=float, help="Or: between the new slices, mm.")
@click.option(
    "--thickness", type=float, help="Of the scan's slices, mm; their spacing if not given."
)
@click.option(
    "--region", type=click.Choice(["auto", *REGION_NAMES]), default="auto", show_default=True
)
@reading_options
@running_options
def superres(
    input: Path,
    output: Path,
    factor: float | None,
    spacing_z: float | None,
    thickness: float | None,
    region: str,
    series: str | None,
    straighten: bool,
    **run: Any,
) -> None:
    """Thin slices from thick ones: averaged back, they are the scan's own.

    What they show beyond that is the model's guess.
    """
    from ...data import files, nifti
    from ..superres import superres as of

    nifti.check_writable(output, run["force"])
    volume = files.read(input, series=series, straighten=straighten, say=say)
    with loaded(run, "superres") as (model, running):
        result, consistency = of(
            model,
            volume,
            factor=factor,
            spacing_z_mm=spacing_z,
            thickness_mm=thickness,
            region=region,
            running=running,
        )
    say(str(consistency))
    nifti.write(result, output, run["force"])
