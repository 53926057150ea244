"""Commands that give a scan back better than it came."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .options import (
    FILE,
    REGION_NAMES,
    beside,
    control_options,
    loaded,
    reading_options,
    running_options,
    say,
    seed_option,
)

if TYPE_CHECKING:
    from ..core.volume import Volume
    from ..inference.model import Model
    from ..reports.types import Given


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
@click.option("--samples", type=int, help="Mean of K samples, 10 evaluations each, and an SD map.")
@click.option("--report", type=FILE, help="A new folder for the faithfulness report.")
@reading_options
@running_options
@seed_option
def denoise(
    input: Path,
    output: Path,
    region: str,
    noise_hu: float | None,
    samples: int | None,
    report: Path | None,
    series: str | None,
    straighten: bool,
    **run: Any,
) -> None:
    """Remove noise from a CT, on the scan's own grid.

    INPUT is NIfTI, NRRD, MetaImage, or DICOM (a folder, a ZIP, an Enhanced CT file), in HU; OUTPUT
    is NIfTI: the posterior mean, from one evaluation of the model, or from four where the noise is
    coloured. With --samples it is the mean of samples, and their SD, HU, lies beside it as
    OUTPUT_sd.nii.gz.
    """
    from ..inference.posterior import check_count
    from ..inference.posterior import samples as posterior
    from ..io import formats, nifti
    from ..io.new_folder import check_folder
    from ..reports.types import Given

    sd_path = beside(output, "_sd.nii.gz")
    nifti.check_writable(output, run["force"])
    if samples is not None:
        check_count(samples)
        nifti.check_writable(sd_path, run["force"])
    if report is not None:
        check_folder(report, run["force"])
    volume = formats.read(input, series=series, straighten=straighten, say=say)
    with loaded(run, "denoise") as (model, options):
        noise = model.noise(volume, region, noise_hu, options.say)
        sd_hu = None
        if samples is None:
            result = model.denoise(volume, options=options, noise=noise)
        else:
            found = posterior(model, volume, samples, options=options, noise=noise)
            result, sd_hu = found.mean, found.sd.hu
    nifti.write(result, output, run["force"])
    if samples is not None:
        nifti.write(found.sd, sd_path, run["force"])
    if report is not None:
        told = {"region": region, "noise_hu": noise_hu, "samples": samples, "seed": run["seed"]}
        given = Given(sd_hu=sd_hu, noise=noise.noise, labels=noise.coarse, settings=told)
        _report(report, input, volume, result, given, model, run["force"])


def _report(
    folder: Path,
    input: Path,
    before: Volume,
    after: Volume,
    given: Given,
    model: Model,
    force: bool,
) -> None:
    """Write a faithfulness report, and say its summary."""
    from .. import __version__
    from ..model.weights import describe
    from ..reports.faithfulness import write_report

    given = replace(given, weights=describe(model.path)[2], version=__version__)
    say(write_report(folder, before, after, given, str(input), force).summary)


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
@click.option("--report", type=FILE, help="A new folder for the faithfulness report.")
@reading_options
@control_options("base")
def superres(
    input: Path,
    output: Path,
    factor: float | None,
    spacing_z: float | None,
    thickness: float | None,
    region: str,
    report: Path | None,
    series: str | None,
    straighten: bool,
    **run: Any,
) -> None:
    """Thin slices from thick ones: averaged back, they are the scan's own.

    What they show beyond that is the model's guess. A control that was tuned for it (--control
    superres) guesses better than the base alone.
    """
    from ..inference.superres import superres as of
    from ..io import formats, nifti
    from ..io.new_folder import check_folder
    from ..reports.types import Given

    nifti.check_writable(output, run["force"])
    if report is not None:
        check_folder(report, run["force"])
    volume = formats.read(input, series=series, straighten=straighten, say=say)
    with loaded(run, "superres", "low-resolution") as (model, options):
        result, consistency = of(
            model,
            volume,
            factor=factor,
            spacing_z_mm=spacing_z,
            thickness_mm=thickness,
            region=region,
            options=options,
        )
    say(str(consistency))
    nifti.write(result, output, run["force"])
    if report is not None:
        base, _ = of(
            model,
            volume,
            factor=factor,
            spacing_z_mm=spacing_z,
            thickness_mm=thickness,
            evaluations=0,
        )
        told = {"region": region, "factor": factor, "spacing_z": spacing_z, "thickness": thickness}
        given = Given(data_consistency_hu=consistency.rms_hu, adds_detail=True, settings=told)
        _report(report, input, base, result, given, model, run["force"])
