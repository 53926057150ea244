"""`denovox batch denoise` on many small scans: two workers, one worker, and one command a scan.

    python benchmarks/batch.py --scans 20 --rounds 1

Chest phantoms of 1.5 mm with 27 HU of white noise, about --millions voxels each. Each way runs by
itself, in turn, with as many threads as cores, and is given every scan; shown are its wall and CPU
seconds, and how many times as long the commands one after another take. Run it on an idle machine.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

from denovox.core.volume import Volume
from denovox.io import nifti
from denovox.simulate.phantom import chest

DENOVOX = [sys.executable, "-m", "denovox"]
OPTIONS = ["--region", "chest"]


def scans(folder: Path, count: int, millions: float) -> None:
    """Write the phantoms."""
    edge = round((millions * 1e6 / 0.6) ** (1 / 3))
    body = chest((edge, edge, round(0.6 * edge)), 310 / edge * 1.2).ct.hu
    for number in range(count):
        noise = np.random.default_rng(number).standard_normal(body.shape, np.float32)
        volume = Volume(body + 27 * noise, np.diag([1.5, 1.5, 1.5, 1.0]))
        nifti.write(volume, folder / f"scan{number:02}.nii.gz")


def in_batch(scans: Path, out: Path, workers: int) -> None:
    """One command for all."""
    words = ["batch", "denoise", str(scans), "--out", str(out), "--workers", str(workers)]
    subprocess.run([*DENOVOX, *words, *OPTIONS], check=True, capture_output=True)


def one_by_one(scans: Path, out: Path) -> None:
    """A command for each."""
    out.mkdir()
    for path in sorted(scans.glob("*.nii.gz")):
        words = ["denoise", str(path), str(out / path.name), *OPTIONS]
        subprocess.run([*DENOVOX, *words], check=True, capture_output=True)


def main() -> None:
    """Print a line for each way."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--scans", type=int, default=20)
    parser.add_argument("--millions", type=float, default=0.5)
    parser.add_argument("--rounds", type=int, default=1)
    given = parser.parse_args()
    ways: dict[str, Callable[[Path, Path], None]] = {
        "one after another": one_by_one,
        "batch, 1 worker": lambda scans, out: in_batch(scans, out, 1),
        "batch, 2 workers": lambda scans, out: in_batch(scans, out, 2),
    }
    wall: dict[str, list[float]] = {name: [] for name in ways}
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    with tempfile.TemporaryDirectory() as folder:
        inputs = Path(folder) / "in"
        inputs.mkdir()
        scans(inputs, given.scans, given.millions)
        for number in range(given.rounds):
            for name, way in ways.items():
                before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
                way(inputs, Path(folder) / f"{name} {number}".replace(", ", " "))
                wall[name].append(time.perf_counter() - began)
                after = resource.getrusage(resource.RUSAGE_CHILDREN)
                used = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
                cpu[name].append(used)
    print(f"{given.scans} scans of {given.millions:g} M voxels, {os.cpu_count()} cores\n")
    print("| | wall s | CPU s | times as fast |\n|---|---|---|---|")
    slowest = statistics.median(wall["one after another"])
    for name in ways:
        seconds = statistics.median(wall[name])
        print(
            f"| {name} | {seconds:.1f} | {statistics.median(cpu[name]):.1f} |"
            f" {slowest / seconds:.2f} |"
        )


if __name__ == "__main__":
    main()
