"""How much memory writing DICOM takes, in a process that has done nothing before.

Where other tests have fragmented the heap, memory that `malloc_trim` returns is touched again, and
would count.
"""

from __future__ import annotations

import ctypes
from pathlib import Path

import dicom_cases as cases
import numpy as np

from denovox.core.volume import Volume
from denovox.io import dicom
from denovox.io.dicom import derived
from denovox.io.dicom.derived import Processing
from denovox.io.dicom.evidence import Findings, seg, write_findings

SHAPE = (320, 320, 64)


def held(key: str) -> int:
    """VmRSS or VmHWM of this process in bytes."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))


def grown(folder: Path) -> dict[str, float]:
    """What each kind of output takes at its peak, as a share of the volume in float32."""
    hu = np.random.default_rng(0).integers(-1000, 1000, SHAPE).astype(np.float32)
    derived.write_series(Volume(hu, np.eye(4)), folder / "ct", Processing("synthesize"))
    cases.series(folder / "small", cases.phantom((16, 12, 6)))
    volume, small = dicom.read(folder / "ct"), dicom.read(folder / "small")
    denoise, detect = Processing("denoise"), Processing("detect")
    lesion = seg.How(Processing("lesion"))
    writes = {
        "out": lambda v, n, path: derived.write_series(v, path, denoise),
        "out.zip": lambda v, n, path: write_findings(path, Findings(v, n, (), (), 1.0), detect),
        "out.dcm": lambda v, n, path: seg.write(path, n, v, lesion),
    }
    shares = {}
    for name, write in writes.items():
        write(small, np.ones(small.shape, np.uint8), folder / f"small-{name}")  # imports, tables
        numbers = np.ones(SHAPE, np.uint8)
        ctypes.CDLL(None).malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM begins again
        before = held("VmRSS")
        write(volume, numbers, folder / name)
        shares[name] = (held("VmHWM") - before) / volume.hu.nbytes
    return shares
