"""How true `denovox doctor` is: what it foretells of the commands, and what those take.

    OMP_NUM_THREADS=1 python benchmarks/doctor.py --edge 96 144

A chest phantom of EDGE x EDGE x .6 EDGE voxels: `denoise` with each kind of noise of speed.py,
`superres --factor 2` and `detect` with white noise, which does not change their work. Doctor and
every command run in processes of their own; peak memory is the kernel's (ru_maxrss). Seconds are
CPU seconds, also those that doctor measures, so that other programs may run: use one thread.
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

COMMANDS: dict[str, list[str]] = {
    "denoise": ["denoise", "IN", "OUT"],
    "superres": ["superres", "IN", "OUT", "--factor", "2"],
    "detect": ["detect", "IN", "OUT"],
}


def foretold(command: str, path: Path) -> dict[str, float]:
    """What doctor says, in this process."""
    from denovox.inference.cost.timing import time_tile
    from denovox.inference.doctor import examine
    from denovox.inference.model import load

    time.perf_counter = time.process_time
    costs = examine(path, timing=time_tile(load())).costs
    found = next(one for one in costs if one.command == command)
    return {"memory_mb": found.memory_mb, "seconds": found.seconds}


def taken(command: str, path: Path) -> dict[str, float]:
    """What the command takes, in this process."""
    from denovox.cli.main import main as denovox

    files = {"IN": str(path), "OUT": str(path.with_name("out.nii.gz"))}
    words = [files.get(word, word) for word in COMMANDS[command]]
    denovox([*words, "--force"], standalone_mode=False)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6
    return {"memory_mb": peak, "seconds": time.process_time()}


def compared(command: str, path: Path) -> list[str]:
    """Foretold, taken and their ratio, for seconds and memory."""
    found = {}
    for what in ("foretold", "taken"):
        line = [sys.executable, __file__, "--run", what, command, str(path)]
        out = subprocess.run(line, check=True, stdout=subprocess.PIPE, text=True)
        found[what] = json.loads(out.stdout.splitlines()[-1])
    cells = []
    for figure in ("seconds", "memory_mb"):
        said, took = found["foretold"][figure], found["taken"][figure]
        digits = 1 if figure == "seconds" else 0
        cells += [f"{said:.{digits}f}", f"{took:.{digits}f}", f"{said / took:.2f}"]
    return cells


def main() -> None:
    """Print a line for each size, command and kind of noise."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--edge", type=int, nargs="+", default=[144])
    parser.add_argument("--only", nargs="+", choices=list(COMMANDS), default=list(COMMANDS))
    parser.add_argument("--run", nargs=3, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run:
        what, command, path = given.run
        print(json.dumps((foretold if what == "foretold" else taken)(command, Path(path))))
        return

    from speed import KINDS, noisy_chest

    from denovox.io import nifti

    figures = "CPU s, foretold | taken | ratio | MB, foretold | taken | ratio"
    print(f"| edge | command | noise | {figures} |")
    print("|---" * 9 + "|")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ct.nii.gz"
        for edge in given.edge:
            for kind in KINDS:
                nifti.write(noisy_chest(edge, kind)[1], path, force=True)
                for command in given.only:
                    if command == "denoise" or kind == "white":
                        cells = [str(edge), command, kind, *compared(command, path)]
                        print(f"| {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    main()
