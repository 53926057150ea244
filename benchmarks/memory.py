"""Whether `--memory` is kept: the peak of `denoise`, `superres` and `detect` on a large scan.

    python benchmarks/memory.py --slices 1200 --memory 4GB

A phantom of 512 x 512 voxels of 0.75 mm in each slice, with white or coloured noise, goes through
each command in a process of its own, with a network that returns 0.9 times its input: all else is
computed as always, in minutes rather than hours. Peak memory is the kernel's own (ru_maxrss).
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import nibabel
import numpy as np
from scipy import ndimage

COMMANDS = {
    "denoise, white": ["denoise", "white.nii", "OUT"],
    "denoise, coloured": ["denoise", "coloured.nii", "OUT"],
    "superres": ["superres", "thick.nii", "OUT", "--factor", "4"],
    "detect": ["detect", "white.nii", "OUT"],
}


def scans(folder: Path, slices: int) -> None:
    """Write the inputs: two scans, and one with a quarter of the slices."""
    from denovox.simulate.phantom import chest

    body = chest((128, 128, 75), 3.0).ct.hu
    rng = np.random.default_rng(0)
    for name in ("white", "coloured"):
        raw = np.empty((512, 512, slices), np.int16, order="F")
        for k in range(slices):
            noise = 20 * rng.standard_normal((512, 512), np.float32)
            if name == "coloured":
                noise = 3.5 * ndimage.gaussian_filter(noise, 1.0)
            plane = np.kron(body[..., k * 75 // slices], np.ones((4, 4), np.float32))
            raw[..., k] = np.rint(plane + noise)
        nibabel.Nifti1Image(raw, np.diag([0.75, 0.75, 0.75, 1])).to_filename(folder / f"{name}.nii")
    thick = np.asfortranarray(raw[..., ::4])
    nibabel.Nifti1Image(thick, np.diag([0.75, 0.75, 3.0, 1])).to_filename(folder / "thick.nii")


def run(words: list[str]) -> dict[str, float]:
    """One command, in this process."""
    from denovox.cli.main import main as denovox
    from denovox.cli.options import loading_by
    from denovox.inference.model import load

    def loading(*given):  # type: ignore[no-untyped-def]
        return replace(load(*given), denoiser=lambda x, sigma, condition: 0.9 * x)

    began = time.process_time()
    with loading_by(loading):
        denovox(words, standalone_mode=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"memory_mb": peak, "cpu_s": time.process_time() - began}


def main() -> None:
    """Print a line for each command."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--slices", type=int, default=1200)
    parser.add_argument("--memory", default="4GB")
    parser.add_argument("--only", choices=list(COMMANDS))
    parser.add_argument("--run", nargs=argparse.REMAINDER, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        print(json.dumps(run(given.run)))
        return
    print(f"512 x 512 x {given.slices}, --memory {given.memory}\n")
    print("| | peak MB | CPU s |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        scans(Path(folder), given.slices)
        for name, words in COMMANDS.items():
            if given.only in (None, name):
                out = [*words[:2], "out.nii", *words[3:], "--region", "chest", "--force"]
                line = [sys.executable, str(Path(__file__).resolve()), "--run", *out]
                done = subprocess.run(
                    [*line, "--memory", given.memory],
                    cwd=folder,
                    check=True,
                    stdout=subprocess.PIPE,
                    text=True,
                )
                found = json.loads(done.stdout.splitlines()[-1])
                print(f"| {name} | {found['memory_mb']:.0f} | {found['cpu_s']:.0f} |", flush=True)


if __name__ == "__main__":
    main()
