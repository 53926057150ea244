"""What `denovox demo` runs: synthesis and denoising of a chest phantom."""

from __future__ import annotations

from pathlib import Path

from ..core.errors import InputError
from ..core.regions import region
from ..inference.model import Model
from ..inference.options import RunOptions
from ..io import nifti
from ..io.atomic import check_folder, open_folder
from ..metrics.fidelity import fidelity, named
from ..reports.figure_sheet import Row, sheet
from ..reports.viewer.page import PAGE_NAME, View, page
from ..simulate.phantom import add_noise, chest

SHAPE = (104, 80, 80)  # x, y, z
SPACING_MM = 3.5
NOISE_HU = 90.0
STEPS = 5  # guided, some of them are evaluated twice
TITLE = "denovox demo: a simulated chest, not a patient"
FILES = (
    "phantom.nii.gz",
    "anatomy.nii.gz",
    "synthesised.nii.gz",
    "low_dose.nii.gz",
    "denoised.nii.gz",
    "sheet.png",
    PAGE_NAME,
)


def check(folder: Path, force: bool) -> None:
    """`InputError` where the results cannot be written to the folder."""
    existing = [name for name in FILES if (folder / name).exists()]
    if existing and not force:
        raise InputError(f"{folder / existing[0]} already exists; use --force to overwrite it")
    check_folder(folder, force=True, parents=True)


def fill(folder: Path, model: Model, options: RunOptions, force: bool) -> list[str]:
    """Draw, synthesise, denoise and compare; write FILES and return the lines of the summary."""
    check(folder, force)
    window = region("chest").window
    body = chest(SHAPE, SPACING_MM, options.seed)
    low_dose = add_noise(body.ct, NOISE_HU, options.seed)

    synthetic = model.synthesize(
        "chest",
        body.ct.shape,
        body.ct.spacing_mm,
        body.labels,
        steps=STEPS,
        options=options.between(0, 0.95),
    )
    clean = model.denoise(low_dose, "chest", NOISE_HU, options=options.between(0.95, 1))
    before, after = (fidelity(body.ct, one, named("window:chest")) for one in (low_dose, clean))

    figures = (
        f"PSNR {before.psnr_db:.1f} -> {after.psnr_db:.1f} dB,"
        f" SSIM {before.ssim:.3f} -> {after.ssim:.3f} ({before.convention})"
    )
    rows = [
        Row(
            "Synthesised from the phantom's anatomy",
            body.ct,
            synthetic,
            window,
            f"{STEPS} guided steps of DPM-Solver++(2M)",
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
    with open_folder(folder, force=True) as new:  # which may hold other files
        nifti.write(body.ct, new / FILES[0])
        nifti.write_labels(body.labels, body.ct.affine, new / FILES[1])
        nifti.write(synthetic, new / FILES[2])
        nifti.write(low_dose, new / FILES[3])
        nifti.write(clean, new / FILES[4])
        sheet(rows, new / FILES[5], TITLE)
        view = View(low_dose, clean, window=window, names=("low dose", "denoised"))
        (new / FILES[6]).write_text(page(view, TITLE, [f"<p>{figures}</p>"], body.labels), "utf-8")
    return [f"denoised: {figures}", *(str(folder / name) for name in FILES)]
