"""A round body in the files that a command may read."""

from __future__ import annotations

from pathlib import Path

import dicom_cases
import nibabel
import numpy as np

SHAPE = (40, 36, 12)
STEP_MM = (4.0, 4.0, 5.0)


def body() -> np.ndarray:
    """A round section: air, fat, soft tissue and a spine, with noise of 15 HU."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    hu = np.full(SHAPE, -1000.0)
    hu[np.hypot(x, y) < 0.85] = -100
    hu[np.hypot(x, y) < 0.75] = 50
    hu[np.hypot(x, y + 0.5) < 0.12] = 600
    return np.maximum(hu + 15 * np.random.default_rng(0).standard_normal(SHAPE), -1024)


def save(array: np.ndarray, path: Path) -> Path:
    """Write NIfTI in the orientation of DICOM."""
    image = nibabel.Nifti1Image(array, np.diag([-STEP_MM[0], -STEP_MM[1], STEP_MM[2], 1.0]))
    image.header.set_xyzt_units("mm")
    image.to_filename(path)
    return path


def scans(folder: Path) -> Path:
    """Write the body as scan.nii.gz and as a DICOM series, ct, and mask.nii.gz; the folder."""
    hu = body().round().astype(np.int16)
    save(hu, folder / "scan.nii.gz")
    dicom_cases.series(folder / "ct", hu, origin=(0, 0, 0), spacing=STEP_MM)
    mask = np.zeros(SHAPE, np.uint8)
    mask[18:22, 18:22, 4:8] = 1
    save(mask, folder / "mask.nii.gz")
    return folder
