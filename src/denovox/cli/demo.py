"""`denovox demo`: what the bundled weights do on a body that was drawn, not scanned."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ..core.errors import InputError
from ..core.regions import region
from ..inference.model import (
    load,
)
from ..inference.options import RunOptions
from ..io import nifti
from ..metrics.fidelity import fidelity, named
from ..reports.figure_sheet import Row, sheet
from ..simulate.phantom import add_noise, chest

SHAPE = (104, 80, 80)  # x, y, z
SPACING_MM = 3.5
NOISE_HU = 90.0
STEPS = 20
FILES = (
    "phantom.nii.gz",
    "anatomy.nii.gz",
    "synthesised.nii.gz",
    "low_dose.nii.gz",
    "denoised.nii.gz",
    "sheet.png",
)


def run(folder: Path, seed: int, force: bool, done: Callable[[float], None]) -> list[str]:
    """Draw, synthesise, denoise, compare; fills `folder` and returns lines for the user."""
    there = [name for name in FILES if (folder / name).exists()]
    if there and not force:
        raise InputError(f"{folder / there[0]} already exists; use --force to overwrite")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"{folder}: cannot be made ({error.strerror})") from None
    model = load()
    window = region("chest").window
    body = chest(SHAPE, SPACING_MM, seed)
    low_dose = add_noise(body.ct, NOISE_HU, seed)

    made = model.synthesize(
        "chest",
        body.ct.shape,
        body.ct.spacing_mm,
        body.labels,
        STEPS,
        options=RunOptions(seed, progress=lambda share: done(share * 0.95)),
    )
    clean = model.denoise(low_dose, "chest", NOISE_HU, options=RunOptions(seed))
    before, after = (fidelity(body.ct, one, named("window:chest")) for one in (low_dose, clean))

    nifti.write(body.ct, folder / FILES[0], force)
    nifti.write_labels(body.labels, body.ct.affine, folder / FILES[1], force)
    nifti.write(made, folder / FILES[2], force)
    nifti.write(low_dose, folder / FILES[3], force)
    nifti.write(clean, folder / FILES[4], force)
    figures = (
        f"PSNR {before.psnr_db:.1f} -> {after.psnr_db:.1f} dB,"
        f" SSIM {before.ssim:.3f} -> {after.ssim:.3f} ({before.convention})"
    )
    rows = [
        Row(
            "Synthesised from the phantom's anatomy",
            body.ct,
            made,
            window,
            f"{STEPS} evaluations of DPM-Solver++(2M)",
            names=("phantom", "synthesised", "reference"),
        ),
        Row(
            f"Denoised, {NOISE_HU:.0f} HU of white noise",
            low_dose,
            clean,
            window,
            figures,
            body.ct,
            ("low dose", "denoised", "phantom"),
        ),
    ]
    sheet(rows, folder / FILES[5], "denovox demo: a procedural chest, no patient")
    done(1.0)
    return [f"denoised: {figures}", *(str(folder / name) for name in FILES)]
