"""How true `denovox.inference.cost` is: the memory it expects of a run, and what the run took.

    python benchmarks/doctor.py [EDGE ...]

Each run is a process of its own: a phantom of EDGE^3 voxels of 2 mm is written as NIfTI, read,
and denoised, as the command would. Peak memory is the kernel's own (ru_maxrss).
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def expected(path: Path, method: str) -> dict[str, float]:
    """What the model says, in this process."""
    from denovox.inference import cost
    from denovox.inference.model import load
    from denovox.io import nifti
    from denovox.scan import anatomy
    from denovox.scan.body_regions import region_spans

    timing = cost.time_tile(load())
    volume = nifti.read(path)
    slabs = region_spans(volume, anatomy.coarse(volume))
    told = cost.cost(timing, volume, slabs, method)  # type: ignore[arg-type]
    return {
        "memory_mb": told.memory_mb,
        "seconds": told.seconds,
        "grown_mb": timing.grown_mb,
        "resident_mb": timing.resident_mb,
        "tiles": told.tiles,
    }


def taken(path: Path, method: str) -> dict[str, float]:
    """What it took, in this process."""
    from denovox.inference.model import load
    from denovox.io import nifti

    volume = nifti.read(path)
    model = load()
    began = time.perf_counter()
    result = model.denoise(volume, method=method)  # type: ignore[arg-type]
    seconds = time.perf_counter() - began
    nifti.write(result, path.with_name("out.nii.gz"), force=True)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"memory_mb": peak, "seconds": seconds}


def main() -> None:
    """Print a line for each size and method."""
    if sys.argv[1:2] in (["expected"], ["taken"]):
        what = expected if sys.argv[1] == "expected" else taken
        print(json.dumps(what(Path(sys.argv[2]), sys.argv[3])))
        return
    from denovox.io import nifti
    from denovox.simulate import phantom

    edges = [int(arg) for arg in sys.argv[1:]] or [48, 96, 160]
    for edge in edges:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "ct.nii"
            body = phantom.chest((edge, edge, edge), 2.0).ct
            nifti.write(phantom.add_noise(body, 30.0, 0), path)
            for method in ("mean", "diffpir") if edge < 100 else ("mean",):
                told = {}
                for what in ("expected", "taken"):
                    line = [sys.executable, __file__, what, str(path), method]
                    out = subprocess.run(line, check=True, capture_output=True, text=True)
                    told[what] = json.loads(out.stdout)
                ratio = told["expected"]["memory_mb"] / told["taken"]["memory_mb"]
                print(edge, method, f"memory expected / taken {ratio:.2f}", told)


if __name__ == "__main__":
    main()
