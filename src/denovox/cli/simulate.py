"""Commands that make a scan worse, as a scanner would: pairs for evaluation and tuning."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from .options import FILE, progress, say


@click.group()
def simulate() -> None:
    """Make a scan worse, as a scanner would: a lower dose, thicker slices."""


@simulate.command("low-dose")
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@click.option(
    "--dose",
    default=0.25,
    show_default=True,
    type=click.FloatRange(0, 1, min_open=True, max_open=True),
    help="Of the scan's own: 0.25 is a quarter.",
)
@click.option("--kernel", type=click.Choice(["soft", "sharp"]), default="soft", show_default=True)
@click.option(
    "--photons",
    type=click.FloatRange(1, 1e12),
    help="Of the scan's own dose: through air, per mm2 and view (of 1000).  [default: 1e6]",
)
@click.option("--noise-hu", type=float, help="SD of the scan's own noise; sets --photons by it.")
@click.option(
    "--electronic",
    type=click.FloatRange(0),
    help="SD of the detector's own noise, in photons.  [default: 10; 0 with --noise-hu]",
)
@click.option("--views", default=720, show_default=True, type=click.IntRange(90))
@click.option("--seed", default=0, show_default=True, type=click.IntRange(0))
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
def low_dose(
    input: Path,
    output: Path,
    photons: float | None,
    noise_hu: float | None,
    electronic: float | None,
    force: bool,
    **told: Any,
) -> None:
    """Insert the noise of a lower dose, in the projection domain (parallel beam, each slice)."""
    from ..core.errors import InputError
    from ..io import formats, nifti
    from ..simulate.dose import LowDoseConfig, photons_of, simulate_low_dose

    nifti.check_writable(output, force)
    if photons is not None and noise_hu is not None:
        raise InputError("--photons and --noise-hu say the same thing twice; give one of them")
    config = LowDoseConfig(**told) if photons is None else LowDoseConfig(photons=photons, **told)
    if electronic is None:
        # A scan's noise is laid to photons alone: the detector's on top of it would count twice.
        electronic = config.electronic if noise_hu is None else 0.0
    config = config.model_copy(update={"electronic": electronic})
    volume = formats.read(input, say=say)
    if noise_hu is not None:
        config = config.model_copy(update={"photons": photons_of(volume, noise_hu, config)})
        say(f"photons: {config.photons:.3g}, by the noise of {noise_hu:g} HU")
    with progress("low dose") as done:
        result = simulate_low_dose(volume, config, done)
    nifti.write(result, output, force)


@simulate.command("thick-slices")
@click.argument("input", type=FILE)
@click.argument("output", type=FILE)
@click.option("--thickness", type=float, required=True, help="Of a slab, mm.")
@click.option("--spacing", type=float, help="Between slabs, mm; the thickness if not given.")
@click.option(
    "--profile",
    type=click.Choice(["box", "triangle", "gaussian"]),
    default="box",
    show_default=True,
    help="Slice sensitivity.",
)
@click.option("--force", is_flag=True, help="Overwrite an existing output.")
def thick_slices(
    input: Path, output: Path, thickness: float, spacing: float | None, profile: Any, force: bool
) -> None:
    """Average slices into slabs; where spacing is more than thickness, slabs have gaps."""
    from ..io import formats, nifti
    from ..simulate.dose import simulate_thick_slices

    nifti.check_writable(output, force)
    volume = formats.read(input, say=say)
    nifti.write(simulate_thick_slices(volume, thickness, spacing, profile), output, force)
