"""Whether every task still gives the same numbers: run before a change and after it.

    python benchmarks/unchanged.py /tmp/before              # at the old commit
    python benchmarks/unchanged.py /tmp/after --against /tmp/before

Each task runs by its command on small crops of the validation scans in DENOVOX_TEST_DATA (default
../shared/ct), with the bundled weights, one seed and one thread: on a scan's own grid, and on one
that has to be resampled. Printed for each: the same bits, or the largest difference in HU or z.
About eight minutes on one core.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import nibabel as nib
import numpy as np

DATA = Path(os.environ.get("DENOVOX_TEST_DATA", "../shared/ct"))
# name -> (file, first voxel, shape, voxel size to pretend or None): .6 mm is finer than the
# weights know, so that scan is worked on a coarser grid.
CROPS = {
    "chest": ("chest_ACRIN-013_ct", (60, 40, 8), (96, 72, 20), None),
    "abdomen": ("abdomen_CRLM-1006_ct", (80, 50, 10), (80, 80, 18), None),
    "fine": ("chest_ACRIN-013_ct", (60, 40, 8), (96, 72, 20), 0.6),
}


def tasks(folder: Path) -> dict[str, list[str]]:
    """Name of the output -> the command that makes it."""
    chest, abdomen, fine, hole, lesion, labels = (
        str(folder / f"in_{name}.nii.gz")
        for name in ("chest", "abdomen", "fine", "hole", "lesion", "labels")
    )
    region = ["--region", "chest"]
    return {
        "denoise_chest": ["denoise", chest, "OUT", *region],
        "denoise_abdomen": ["denoise", abdomen, "OUT", "--region", "abdomen"],
        "denoise_white": ["denoise", chest, "OUT", *region, "--noise-hu", "40"],
        "denoise_fine": ["denoise", fine, "OUT", *region],
        "samples_chest": ["denoise", chest, "OUT", *region, "--samples", "2"],
        "superres_chest": ["superres", chest, "OUT", *region, "--factor", "2"],
        "detect_chest": ["detect", chest, "OUT", *region],
        "detect_fine": ["detect", fine, "OUT", *region],
        "lesion_chest": ["lesion", chest, "OUT", "--mask", lesion],
        "lesion_fine": ["lesion", fine, "OUT", "--mask", lesion.replace("lesion", "lesionfine")],
        "inpaint_chest": ["inpaint", chest, "OUT", "--mask", hole],
        "synthesize_grid": ["synthesize", "OUT", *region, "--shape", "48x48x48", "--spacing", "4"],
        "synthesize_labels": ["synthesize", "OUT", *region, "--anatomy", labels, "--steps", "8"],
    }


def crops(folder: Path) -> None:
    """The inputs: crops of scans, and masks on them."""
    for name, (file, first, shape, mm) in CROPS.items():
        scan = nib.load(DATA / f"{file}.nii.gz")
        box = tuple(slice(a, a + n) for a, n in zip(first, shape, strict=True))
        voxels = np.asarray(scan.dataobj)[box]
        affine = scan.affine if mm is None else np.diag([mm, mm, 2.0, 1.0])
        nib.save(nib.Nifti1Image(voxels.astype(np.int16), affine), folder / f"in_{name}.nii.gz")
    for name, like, half in (
        ("hole", "chest", 6),
        ("lesion", "chest", 4),
        ("lesionfine", "fine", 8),
    ):
        scan = nib.load(folder / f"in_{like}.nii.gz")
        mask = np.zeros(scan.shape, np.uint8)
        near = [
            (n // 2, min(half, 3 + more)) for n, more in zip(scan.shape, (9, 9, 0), strict=True)
        ]
        mask[tuple(slice(middle - w, middle + w) for middle, w in near)] = 1
        nib.save(nib.Nifti1Image(mask, scan.affine), folder / f"in_{name}.nii.gz")
    labels = np.full((48, 40, 32), 0, np.uint8)
    labels[8:40, 8:32] = 12  # upper lobe of the left lung
    nib.save(nib.Nifti1Image(labels, np.diag([4.0, 4.0, 4.0, 1.0])), folder / "in_labels.nii.gz")


def compare(after: Path, before: Path) -> str:
    """One line for two files."""
    new, old = (np.asarray(nib.load(each).dataobj, np.float64) for each in (after, before))
    if new.shape != old.shape:
        return f"DIFFERENT SHAPES {new.shape} {old.shape}"
    if np.array_equal(new, old):
        return "same bits"
    off = np.abs(new - old)
    return f"largest difference {off.max():.6g}, in {np.count_nonzero(off)} of {off.size} voxels"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("--against", type=Path)
    parser.add_argument("--only", default="", help="Names that hold this.")
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    crops(args.out)
    env = {**os.environ, "OMP_NUM_THREADS": "1", "DENOVOX_PRECISION": "float32"}
    for name, words in tasks(args.out).items():
        if args.only not in name:
            continue
        file = args.out / f"{name}.nii.gz"
        command = [str(file) if word == "OUT" else word for word in words]
        done = subprocess.run(
            [sys.executable, "-m", "denovox", *command, "--force"],
            env=env, capture_output=True, text=True, check=False,
        )  # fmt: skip
        line = done.stderr.strip().splitlines()[-1] if done.returncode else "done"
        if args.against and not done.returncode:
            line = compare(file, args.against / file.name)
        print(f"{name:<20} {line}", flush=True)


if __name__ == "__main__":
    main()
