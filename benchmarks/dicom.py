"""DICOM out: seconds to write and to read back, and memory beside the volume.

    python benchmarks/dicom.py [SLICES ...]

For 512 x 512 x SLICES (300 by default): a CT series, a Parametric Map and a SEG of 40 components.
The source is a synthetic series in a temporary folder. Memory is the peak of the process while
writing (VmHWM, Linux), less what it held before; one copy of the volume is 4 bytes a voxel.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import highdicom
import numpy as np

from denovox.core.volume import Volume
from denovox.io import dicom
from denovox.io.dicom.derived import Processing, write_series
from denovox.io.dicom.evidence import Z_SCORE, maps, seg

MB = 1e6


def memory(key: str) -> float:
    """VmRSS or VmHWM of this process, in MB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 / MB for line in lines if line.startswith(key))


def timed(call: Callable[[], object]) -> str:
    """Wall and CPU time of a call; they differ where the machine is busy."""
    wall, cpu = time.perf_counter(), time.process_time()
    call()
    return f"{time.perf_counter() - wall:6.1f} s ({time.process_time() - cpu:.1f} s of CPU)"


def measured(what: str, write: Callable[[], object], read: Callable[[], object]) -> None:
    """Print a line."""
    Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
    held = memory("VmRSS")
    wrote = timed(write)
    beside = memory("VmHWM") - held
    print(f"{what}: write {wrote}, {beside:.0f} MB beside; read {timed(read)}", flush=True)


def bench(count: int) -> None:
    """All kinds of output for a scan of so many slices."""
    shape = (512, 512, count)
    affine = np.diag([0.75, 0.75, 1.0, 1.0])
    rng = np.random.default_rng(0)
    hu = np.rint(rng.standard_normal(shape, np.float32) * 20 + 40)
    print(f"{' x '.join(map(str, shape))}: one copy is {hu.nbytes / MB:.0f} MB", flush=True)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_series(Volume(hu, affine), folder / "in", Processing("synthesize"))
        del hu
        scan = dicom.read(folder / "in")
        numbers = np.zeros(shape, np.uint8)
        for number in range(1, 41):
            x, y, z = rng.integers(0, np.array(shape) - 20)
            numbers[x : x + 20, y : y + 20, z : z + 10] = number
        how = Processing("denoise")
        measured(
            "CT series",
            lambda: write_series(scan, folder / "out", how),
            lambda: dicom.read(folder / "out"),
        )
        measured(
            "CT series, ZIP",
            lambda: write_series(scan, folder / "out.zip", how),
            lambda: dicom.read(folder / "out.zip"),
        )
        measured(
            "Parametric Map",
            lambda: maps.write(folder / "map.dcm", scan, Z_SCORE, how),
            lambda: highdicom.pm.ParametricMap.from_file(folder / "map.dcm").get_volume(),
        )
        measured(
            "SEG",
            lambda: seg.write(folder / "seg.dcm", numbers, scan, seg.How(how)),
            lambda: highdicom.seg.segread(folder / "seg.dcm").get_volume(
                combine_segments=True, skip_overlap_checks=True
            ),
        )


if __name__ == "__main__":
    for each in sys.argv[1:] or ["300"]:
        bench(int(each))
