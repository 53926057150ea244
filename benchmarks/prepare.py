"""What `denovox prepare` costs: seconds a scan on one core, the share of each step, peak memory.

    python benchmarks/prepare.py [--data ../shared/ct] [--spacing 1.5]

The scan is a torso of `--data` brought to 512 x 407 x 300 voxels with fresh noise, as .nii.gz; it
is prepared in a process of its own, on one thread. "One scan" is its HU in float32.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import numpy as np

from denovox.core.resample import resize
from denovox.core.volume import Volume
from denovox.datasets import prepare, store
from denovox.datasets.source_scans import Entry
from denovox.io import formats, nifti
from denovox.scan import anatomy

GRID = (512, 407, 300)
NOISE_HU = 12.0
STEPS = (
    ("hash the file", prepare, "digest"),
    ("read", formats, "read"),
    ("coarse anatomy", anatomy, "coarse"),
    ("regions", prepare, "region_spans"),
    ("resample", prepare, "on_grid"),
    ("write", store, "write_case"),
)


def make(data: Path, path: Path) -> None:
    scan = nifti.read(data / "torso_CCTH-A01_ct.nii.gz")
    hu = resize(scan.hu, GRID)
    hu += NOISE_HU * np.random.default_rng(0).standard_normal(GRID, np.float32)
    affine = scan.affine @ np.diag([*np.array(scan.shape) / GRID, 1.0])
    nifti.write(Volume(np.maximum(hu, -1024), affine), path)


def peak_mb() -> float:
    """The most memory this process has held; unlike ru_maxrss, nothing of its parent's."""
    status = Path("/proc/self/status").read_text()
    return int(re.search(r"VmHWM:\s*(\d+) kB", status)[1]) / 1024


def one(path: Path, spacing: float | None) -> dict[str, Any]:
    """Prepare one scan in this process; seconds a step, and megabytes."""
    seconds = {name: 0.0 for name, _, _ in STEPS}

    def timed(name: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **more: Any) -> Any:
            began = time.perf_counter()
            try:
                return call(*args, **more)
            finally:
                seconds[name] += time.perf_counter() - began

        return run

    for name, home, function in STEPS:
        setattr(home, function, timed(name, getattr(home, function)))
    before = peak_mb()
    began = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        entry = Entry("a", "a", path)
        config = prepare.PrepareConfig(spacing_mm=spacing)
        line = prepare.bring(entry, path.parent, Path(folder), config)
    total = time.perf_counter() - began
    peak = peak_mb()
    return {"line": line, "seconds": seconds, "total": total, "before": before, "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data", type=Path, default=Path("../shared/ct"))
    parser.add_argument("--spacing", type=float)
    parser.add_argument("--scan", type=Path)
    told = parser.parse_args()
    if told.scan:
        print(json.dumps(one(told.scan, told.spacing)))
        return
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "scan.nii.gz"
        make(told.data, path)
        scan_mb = 4 * np.prod(GRID) / 2**20
        print(f"\none scan: {' x '.join(map(str, GRID))} voxels, {scan_mb:.0f} MB in float32")
        print("\n| step | own grid | to 1.5 mm |\n|---|---|---|")
        found = []
        for spacing in (None, 1.5):
            again = [sys.executable, __file__, "--scan", str(path)]
            again += ["--spacing", str(spacing)] if spacing else []
            out = subprocess.run(again, stdout=subprocess.PIPE, text=True, check=True).stdout
            found.append(json.loads(out.splitlines()[-1]))
        for name in found[0]["seconds"]:
            print(f"| {name} |", *(f"{f['seconds'][name]:.2f} s |" for f in found))
        print("| all |", *(f"{f['total']:.2f} s |" for f in found))
        print("| peak, over what an empty process takes |", end="")
        for f in found:
            grown = f["peak"] - f["before"]
            print(f" {grown:.0f} MB = {grown / scan_mb:.1f} scans |", end="")
        print("\n\n" + "; ".join(f["line"] for f in found))


if __name__ == "__main__":
    main()
