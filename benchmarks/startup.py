"""What happens before and after the network: CPU seconds and peak memory of each stage.

    python benchmarks/startup.py [SCAN ...]

Without scans: phantoms of 2, 10 and 79 million voxels. Each scan is measured in a process of its
own, from the first import to the written result; the network is loaded, but computes nothing. Peak
memory is the kernel's (VmHWM), reset before each stage. For scans, also the size of their voxels
by the gzip level that packs them. Linux only.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
import time
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

EDGES = (126, 215, 428)  # of cubes of 2, 10 and 79 million voxels


def status(name: str) -> float:
    """A field of /proc/self/status, MB."""
    found = re.search(rf"{name}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(found[1]) * 1024 / 1e6 if found else 0.0


@contextmanager
def stage(name: str) -> Iterator[None]:
    """Print what the block takes."""
    Path("/proc/self/clear_refs").write_text("5")
    before, began = os.times(), time.perf_counter()
    yield
    after, wall = os.times(), time.perf_counter() - began
    cpu = after.user + after.system - before.user - before.system
    memory = f"peak {status('VmHWM'):6.0f} MB, then {status('VmRSS'):6.0f} MB"
    print(f"  {name:24} {cpu:6.2f} s of CPU, {wall:6.2f} s, {memory}", flush=True)


def measure(path: Path) -> None:
    """All stages of one scan."""
    with stage("import the command line"):
        import denovox.cli.main  # noqa: F401
    with stage("import what reads"):
        from denovox.io import nifti
        from denovox.scan import gate
    with stage("import the model"):
        from denovox.inference.model import load
        from denovox.inference.scan_context import ScanContext
    with stage("load the weights"):
        model = load()
    with stage("read and check"):
        volume = gate.read(path)
    context = ScanContext(volume)
    with stage("coarse anatomy"):
        assert context.coarse.any()
    with stage("regions"):
        assert context.spans
    with stage("noise"):
        assert context.noise
    with stage("write"):
        nifti.write(volume, path.with_name("startup.nii.gz"), force=True)
    del model
    voxels = volume.hu[..., : 10_000_000 // volume.hu[..., 0].size + 1].astype("<i2").tobytes("F")
    for level in range(1, 10):
        began = time.process_time()
        size = len(zlib.compress(voxels, level))
        seconds = time.process_time() - began
        share, speed = size / len(voxels), len(voxels) / seconds / 1e6
        print(f"  gzip level {level}: {share:.1%} of the size, {speed:.0f} MB/s")


def phantom(edge: int, path: Path) -> None:
    """A chest of edge^3 voxels, 430 mm wide, with noise."""
    from denovox.io import nifti
    from denovox.simulate import phantom as of

    made = of.add_noise(of.chest((edge, edge, edge), 430 / edge).ct, 20.0, 0)
    nifti.write(made, path)


def main() -> None:
    """Print the stages of each scan."""
    if sys.argv[1:2] == ["measure"]:
        measure(Path(sys.argv[2]))
        return
    with tempfile.TemporaryDirectory() as folder:
        scans = [Path(name) for name in sys.argv[1:]]
        for edge in () if scans else EDGES:
            scans.append(Path(folder) / f"{edge}.nii.gz")
            phantom(edge, scans[-1])
        for scan in scans:
            print(scan.name)
            copy = Path(folder) / "scan.nii.gz"
            copy.write_bytes(scan.read_bytes())  # the result is written beside it
            subprocess.run([sys.executable, __file__, "measure", str(copy)], check=True)


if __name__ == "__main__":
    main()
