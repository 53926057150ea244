"""`denovox denoise` and `denovox superres`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ..core.errors import ensure
from .commands import option
from .options import (
    FILE,
    control_options,
    loaded,
    memory_option,
    read_ct,
    reading_options,
    region_option,
    running_options,
    seed_option,
)
from .outputs import Output, like_option
from .progress import say
from .results.command import Result

if TYPE_CHECKING:
    from ..core.volume import Volume
    from ..inference.model import Model
    from ..reports.types import Given

report_option = option(
    "--report", type=FILE, group="Output", help="New folder for a faithfulness report."
)


@click.command(cls=Result)
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@option("--noise-hu", type=float, help="SD of the noise in HU.  [default: estimated]")
@option("--samples", type=int, help="Average this many posterior samples, at 10 evaluations each.")
@region_option
@reading_options
@report_option
@like_option
@running_options
@memory_option
@seed_option
def denoise(
    input: Path,
    output: Path,
    region: str,
    noise_hu: float | None,
    samples: int | None,
    report: Path | None,
    like: Path | None,
    **run: Any,
) -> None:
    """Remove noise from a CT scan.

    INPUT is a CT scan in HU: DICOM (a folder, a ZIP archive or an Enhanced CT file), NIfTI, NRRD or
    MetaImage. OUTPUT is the posterior mean on the grid of the scan, at the noise level of each
    voxel. It is written as NIfTI, or as a DICOM series if it is a folder or a .zip.

    With --samples, OUTPUT is the mean of posterior samples, and their SD in HU is written to
    OUTPUT_sd.nii.gz, or to OUTPUT_sd.dcm (DICOM Parametric Map) if OUTPUT is DICOM. --report writes
    index.html, a page that compares the two scans, and report.json.
    """
    from ..inference.posterior import check_count
    from ..inference.scan_context import ScanContext
    from ..io.atomic import together
    from ..reports.faithfulness import require_body
    from ..reports.types import Given

    if samples is not None:
        check_count(samples)
    target = Output(output, run["force"], like, report)
    more = {} if samples is None else {"its SD map": target.map_beside("_sd")}
    target.check({"INPUT": input}, more)
    volume = read_ct(input, run)
    target.check_scan(volume, more=tuple(more.values()))
    context = ScanContext(volume, region, noise_hu, say)
    if report is not None:
        require_body(context.coarse)
    sd = None
    with loaded(run, "denoise") as (model, options):
        if samples is None:
            result = model.denoise(volume, options=options, context=context)
        else:
            posterior = model.posterior(volume, samples, options=options, context=context)
            result, sd = posterior.mean, posterior.sd
    with together():
        if sd is not None:
            target.write_sd(sd, more["its SD map"], model, volume)
        if report is not None:
            given = Given(
                sd_hu=None if sd is None else sd.hu,
                noise=context.noise,
                labels=context.coarse,
                settings={"region": region, "noise_hu": noise_hu, "samples": samples}
                | {"seed": run["seed"]},
            )
            _report(report, input, (volume, result), given, model, run["force"])
        target.write(result, model, volume)


def _report(
    folder: Path, input: Path, scans: tuple[Volume, Volume], given: Given, model: Model, force: bool
) -> None:
    """Write a faithfulness report on scans before and after; its summary goes to stderr."""
    from ..core.errors import shown
    from ..core.version import __version__
    from ..model.weights import describe
    from ..reports.faithfulness import write_report

    given = replace(given, weights=describe(model.path)[2], version=__version__)
    say(write_report(folder, *scans, given, shown(input), force).summary)


@click.command(cls=Result)
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@option("--factor", type=float, help="Slices in OUTPUT per slice of INPUT.")
@option("--spacing-z", type=float, help="Slice spacing of OUTPUT in mm, instead of --factor.")
@option(
    "--thickness",
    type=float,
    group="Input",
    help="Slice thickness of INPUT in mm.  [default: from its DICOM header, or its slice spacing]",
)
@region_option
@reading_options
@report_option
@like_option
@control_options("base")
@memory_option
def superres(
    input: Path,
    output: Path,
    factor: float | None,
    spacing_z: float | None,
    thickness: float | None,
    region: str,
    report: Path | None,
    like: Path | None,
    **run: Any,
) -> None:
    """Reconstruct thin slices from thick ones.

    INPUT is a CT scan in HU, in any format that `denovox denoise` reads. OUTPUT has more slices, by
    --factor or --spacing-z; it is written as NIfTI, or as a DICOM series if it is a folder or a
    .zip. Averaged back to the thickness of INPUT, its slices reproduce INPUT; detail beyond that is
    the model's estimate.
    --control takes a control trained for this task (recipes/superres.toml). --report writes
    index.html, a page that compares the two scans, and report.json.
    """
    from ..inference.options import RunOptions
    from ..io.atomic import together
    from ..reports.faithfulness import require_body
    from ..reports.types import Given
    from ..scan.anatomy import coarse

    ensure((factor is None) != (spacing_z is None), "give either --factor or --spacing-z")
    target = Output(output, run["force"], like, report)
    target.check({"INPUT": input})
    volume = read_ct(input, run)
    times = volume.spacing_mm[2] / spacing_z if spacing_z else factor or 1.0
    target.check_scan(volume, times)
    grid: dict[str, Any] = {"factor": factor, "spacing_z_mm": spacing_z, "thickness_mm": thickness}
    settings = {"factor": factor, "spacing_z": spacing_z, "thickness": thickness}
    base = anatomy = None
    with loaded(run, "superres", "low-resolution") as (model, options):
        if report is not None:  # which compares with the interpolation
            quiet = RunOptions(accept_hu=run["accept_hu"])
            base = model.superres(volume, **grid, evaluations=0, options=quiet)
            anatomy = coarse(base)
            require_body(anatomy)
        result = model.superres(volume, **grid, region=region, anatomy=anatomy, options=options)
    say(str(result.consistency))
    with together():
        if report is not None and base is not None:
            given = Given(
                data_consistency_hu=result.consistency.rms_hu,
                adds_detail=True,
                labels=anatomy,
                settings={"region": region, **settings},
            )
            _report(report, input, (base, result), given, model, run["force"])
        target.write(result, model, volume)
