"""`denovox simulate`: degraded scans, as pairs for evaluation and tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .commands import Group, option
from .options import FILE, force_option, read_ct, reading_options, seed_option
from .outputs import Output, like_option
from .progress import progress, say
from .results.command import Result


@click.group(cls=Group)
def simulate() -> None:
    """Degrade a CT scan: lower its dose, or make its slices thicker."""


@simulate.command("low-dose", cls=Result)
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@option(
    "--dose",
    default=0.25,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Dose of OUTPUT as a fraction of that of INPUT.",
)
@option(
    "--kernel",
    type=click.Choice(["soft", "sharp"]),
    default="soft",
    help="Reconstruction kernel of INPUT.",
)
@option(
    "--photons",
    type=click.FloatRange(1, 1e12),
    help="Photons per mm2 and view in air at the dose of INPUT, for 1000 views.  [default: 1e6]",
)
@option("--noise-hu", type=float, help="SD of the noise of INPUT in HU, instead of --photons.")
@option(
    "--electronic",
    type=click.FloatRange(0),
    help="SD of the electronic noise in photons.  [default: 10, or 0 with --noise-hu]",
)
@option("--views", default=720, type=click.IntRange(90), help="Simulated views over half a turn.")
@reading_options
@like_option
@force_option
@seed_option
def low_dose(
    input: Path,
    output: Path,
    photons: float | None,
    noise_hu: float | None,
    electronic: float | None,
    like: Path | None,
    force: bool,
    **given: Any,
) -> None:
    """Add the noise of a lower dose, in the projection domain.

    INPUT is a CT scan in HU, in any format that `denovox denoise` reads. OUTPUT is on the same
    grid; it is written as NIfTI, or as a DICOM series if it is a folder or a .zip. Each slice is
    projected in parallel-beam geometry.
    """
    from ..core.errors import ensure
    from ..simulate.dose import LowDoseConfig, photons_of, simulate_low_dose

    target = Output(output, force, like)
    target.check({"INPUT": input})
    ensure(
        photons is None or noise_hu is None,
        "--photons and --noise-hu both set the noise of INPUT; give one of them",
    )
    asked = {name: given[name] for name in ("dose", "kernel", "views", "seed")}
    config = LowDoseConfig(**asked) if photons is None else LowDoseConfig(photons=photons, **asked)
    if electronic is None:
        # --noise-hu includes the electronic noise, which would otherwise count twice.
        electronic = config.electronic if noise_hu is None else 0.0
    config = config.model_copy(update={"electronic": electronic})
    volume = read_ct(input, given)
    target.check_scan(volume)
    if noise_hu is not None:
        config = config.model_copy(update={"photons": photons_of(volume, noise_hu, config)})
        say(f"photons: {config.photons:.3g}, from a noise of {noise_hu:g} HU")
    with progress("low dose") as done:
        result = simulate_low_dose(volume, config, done)
    target.write(result, None, volume)


@simulate.command("thick-slices", cls=Result)
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@option("--thickness", type=float, required=True, help="Slice thickness of OUTPUT in mm.")
@option("--spacing", type=float, help="Slice spacing of OUTPUT in mm.  [default: --thickness]")
@option(
    "--profile",
    type=click.Choice(["box", "triangle", "gaussian"]),
    default="box",
    help="Slice sensitivity profile.",
)
@reading_options
@like_option
@force_option
def thick_slices(
    input: Path,
    output: Path,
    thickness: float,
    spacing: float | None,
    profile: Any,
    like: Path | None,
    force: bool,
    **reading: Any,
) -> None:
    """Average thin slices into thick ones.

    INPUT is a CT scan in HU, in any format that `denovox denoise` reads. OUTPUT has fewer slices;
    it is written as NIfTI, or as a DICOM series if it is a folder or a .zip. A --spacing larger
    than --thickness leaves gaps between slices.
    """
    from ..simulate.slabs import simulate_thick_slices

    target = Output(output, force, like)
    target.check({"INPUT": input})
    volume = read_ct(input, reading)
    target.check_scan(volume, 0.0)  # there are fewer slices: how many is not known yet
    result = simulate_thick_slices(volume, thickness, spacing, profile)
    target.write(result, None, volume, thickness)
