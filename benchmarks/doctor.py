"""How true `denovox doctor` is: what it foretells of `denovox denoise`, and what that takes.

    OMP_NUM_THREADS=1 python benchmarks/doctor.py --edge 144

A chest phantom of EDGE x EDGE x .6 EDGE voxels with each kind of noise of speed.py. Doctor and the
command run in processes of their own; peak memory is the kernel's (ru_maxrss). Seconds are CPU
seconds, also those that doctor measures, so that other programs may run: use one thread.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path


def foretold(path: Path) -> dict[str, float]:
    """What doctor says, in this process."""
    from denovox.inference import cost
    from denovox.inference.doctor import examine
    from denovox.inference.model import load

    time.perf_counter = time.process_time
    found = examine(path, timing=cost.time_tile(load())).costs[0]
    return {"memory_mb": found.memory_mb, "seconds": found.seconds}


def taken(path: Path) -> dict[str, float]:
    """What the command takes, in this process."""
    from denovox.cli.main import main as denovox

    words = ["denoise", str(path), str(path.with_name("out.nii.gz")), "--force"]
    denovox(words, standalone_mode=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"memory_mb": peak, "seconds": time.process_time()}


def main() -> None:
    """Print a line for each size and kind of noise."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edge", type=int, nargs="+", default=[144])
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        what, path = given.run
        print(json.dumps((foretold if what == "foretold" else taken)(Path(path))))
        return

    from speed import KINDS, noisy_chest

    from denovox.io import nifti

    print("| edge | noise | CPU s, foretold | taken | MB, foretold | taken |\n" + "|---" * 6 + "|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.nii.gz"
        for edge in given.edge:
            for kind in KINDS:
                nifti.write(noisy_chest(edge, kind)[1], path, force=True)
                found = {}
                for what in ("foretold", "taken"):
                    line = [sys.executable, __file__, "--run", what, str(path)]
                    out = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
                    found[what] = json.loads(out.stdout.splitlines()[-1])
                cells = [
                    f"{found[what][figure]:.0f}"
                    for figure in ("seconds", "memory_mb")
                    for what in ("foretold", "taken")
                ]
                print(f"| {edge} | {kind} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
