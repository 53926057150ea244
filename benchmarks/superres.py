"""Super-resolution along z: 5 slices of 1 mm averaged, and back; PSNR, SSIM, RMSE, consistency.

    nice python benchmarks/superres.py                  # 64 x 64 x 60 voxels a scan
    python benchmarks/superres.py --crop 96 --evaluations 5 10

The scans of 1 mm are of two patients whose scans THE BUNDLED WEIGHTS WERE TRAINED ON: those lines
are optimistic. The patient of the last lines was never trained on, but is only known at 4 mm:
pairs of slices are averaged, 8 mm to 4 mm. The anatomy is found in the interpolation of the whole
thick scan; found in the thin scan it would tell what is looked for (0.8 dB too good).

Compared under the convention `window:chest`: both volumes cut to the window, peak its width. The
first and last thick slice are left out: there all methods extrapolate.
"""

from __future__ import annotations

import argparse
import platform
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np
from scipy.interpolate import interp1d, make_interp_spline

import denovox
from denovox.core.volume import Volume
from denovox.inference.options import RunOptions
from denovox.inference.superres import superres, thin
from denovox.metrics.fidelity import fidelity, named
from denovox.scan import anatomy as anatomy_of

SCANS = (
    ("chest_LIDC-0314_1mm-crop_ct.nii.gz", 5, "trained on"),
    ("chest_NSCLCRG-R01-001_1mm-crop_ct.nii.gz", 5, "trained on"),
    ("chest_ACRIN-013_ct.nii.gz", 2, "never seen"),
)
REGION = "chest"
HEAD = """| scan | patient | mm | method | PSNR dB | SSIM | RMSE HU | back: max HU | RMS HU | s |
|---|---|---|---|---:|---:|---:|---:|---:|---:|"""


@dataclass(frozen=True)
class Case:
    """A thin crop, its thick slices, and the anatomy that the whole thick scan shows."""

    thin_hu: np.ndarray
    thick: Volume
    factor: int
    anatomy: np.ndarray  # on the thin grid


def case(path: Path, factor: int, crop: int, slices: int) -> Case:
    """The middle of a scan; everything but `thin_hu` is made from thick slices."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    hu = np.asarray(image.dataobj, np.float32)
    hu = hu[..., : hu.shape[2] // factor * factor]
    thick_hu = hu.reshape(*hu.shape[:2], -1, factor).mean(-1)
    thick = Volume(thick_hu, image.affine @ np.diag([1, 1, factor, 1.0]))
    base = thin(thick, (0.7, 6.0), factor=factor).grid(thick)
    anatomy = anatomy_of.coarse(base)
    many = min(slices // factor, thick.shape[2])
    x, y, z = ((n - c) // 2 for n, c in zip(thick.shape, (crop, crop, many), strict=True))
    plane = slice(x, x + crop), slice(y, y + crop)
    fine = (*plane, slice(z * factor, (z + many) * factor))
    part = Volume(np.ascontiguousarray(thick_hu[(*plane, slice(z, z + many))]), thick.affine)
    return Case(hu[fine], part, factor, np.ascontiguousarray(anatomy[fine]))


def interpolations(thick: Volume, factor: int) -> Iterator[tuple[str, np.ndarray]]:
    """What there is without a model; beyond the outer centres all go on flat."""
    pad = 4
    hu = np.pad(thick.hu, ((0, 0), (0, 0), (pad, pad)), "edge")
    knots = np.arange(hu.shape[2]) - pad
    at = (np.arange(thick.shape[2] * factor) + 0.5) / factor - 0.5
    yield "linear", interp1d(knots, hu, axis=2)(at)
    yield "cubic", make_interp_spline(knots, hu, 3, axis=2)(at)
    far = at[:, None] - knots
    lanczos = np.sinc(far) * np.sinc(far / 3) * (np.abs(far) < 3)
    yield "Lanczos-3", hu @ (lanczos / lanczos.sum(1, keepdims=True)).T


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("../shared/ct"))
    parser.add_argument("--crop", type=int, default=64, help="voxels along x and y")
    parser.add_argument("--slices", type=int, default=60, help="thin slices")
    parser.add_argument("--evaluations", type=int, nargs="*", default=[5])
    asked = parser.parse_args()
    model = denovox.load()
    print(f"{platform.processor() or platform.machine()}, weights {model.path.name}\n\n{HEAD}")
    for file, factor, seen in SCANS:
        one = case(asked.data / file, factor, asked.crop, asked.slices)
        inner = (..., slice(factor, -factor))
        mm = f"{one.thick.spacing_mm[2]:g} to {one.thick.spacing_mm[2] / factor:g}"

        def line(method: str, hu: np.ndarray, seconds: float) -> None:
            f = fidelity(hu[inner], one.thin_hu[inner], named(f"window:{REGION}"))  # noqa: B023
            back = hu.reshape(*one.thick.shape, factor).mean(-1) - one.thick.hu  # noqa: B023
            figures = f"{f.psnr_db:.2f} | {f.ssim:.4f} | {f.rmse_hu:.1f} | {np.abs(back).max():.2g}"
            figures += f" | {np.sqrt((back**2).mean()):.2g} | {seconds:.1f} |"
            name = file.removesuffix("_ct.nii.gz")  # noqa: B023
            print(f"| {name} | {seen} | {mm} | {method} | {figures}", flush=True)  # noqa: B023

        for method, hu in interpolations(one.thick, factor):
            line(method, hu, 0)
        for count in (0, *asked.evaluations):
            begun = time.perf_counter()
            result, _ = superres(
                model,
                one.thick,
                factor=factor,
                region=REGION,
                evaluations=count,
                anatomy=one.anatomy,
                options=RunOptions(seed=1),
            )
            method = f"ours, {count} evaluations" if count else "cubic, made consistent"
            line(method, result.hu, time.perf_counter() - begun)


if __name__ == "__main__":
    main()
