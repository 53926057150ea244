"""What a run would cost in tiles, seconds and memory, estimated from one tile of the real network.

Time is the voxels of all tiles times the network's measured speed, and seconds per voxel
(`commands.py`) for everything else. Memory is what the process already holds, plus arrays counted
in bytes per voxel, plus what one tile took when it was timed; `benchmarks/doctor.py` measures how
accurate this is.
"""

from __future__ import annotations

import math

from ...core.box import Shape
from ...core.config import Settings
from ..memory import Room, grid_mb
from ..options import RunOptions
from .commands import Command, Method, Scan, Work, works
from .timing import TileTiming

# On a CPU, each further tile shape leaves behind this fraction of a tile's memory: it is freed, but
# glibc keeps it, since it fits no other shape. Measured: benchmarks/doctor.py.
RETAINED = 0.12
# CPU seconds of any run (imports, weights), on a core of an AMD EPYC; 1.9 on one of a Xeon.
START_S = 2.5


class Cost(Settings):
    """Expected cost of a command, from its start to the file."""

    command: Command
    method: Method
    evaluations: int  # most per voxel
    tiles: int  # of all evaluations
    tile: Shape  # the largest
    seconds: float
    memory_mb: float  # peak of the process
    device_mb: float  # peak of the GPU; 0 on a CPU

    def __str__(self) -> str:
        """One line."""
        seconds = f"{self.seconds:.0f} s" if self.seconds < 120 else f"{self.seconds / 60:.0f} min"
        gpu = f" and {self.device_mb:.0f} MB of GPU memory" if self.device_mb else ""
        return (
            f"{self.command}, {self.method}: {self.tiles} tile{'s' * (self.tiles != 1)}"
            f" ({self.evaluations} evaluation{'s' * (self.evaluations != 1)}),"
            f" about {seconds}, {self.memory_mb:.0f} MB{gpu}"
        )


def costs(timing: TileTiming, scan: Scan, edge: int = RunOptions.tile) -> tuple[Cost, ...]:
    """What the commands would cost, each in a process of its own; those that would refuse the scan
    are left out."""
    return tuple(cost(timing, scan, work) for work in works(timing.model, scan, edge))


def cost(timing: TileTiming, scan: Scan, work: Work) -> Cost:
    """What one command would cost in a process that holds only the model and the scan."""
    plan, timed = work.plan, math.prod(timing.tile)
    largest = math.prod(plan.largest)
    others = sum(map(math.prod, plan.shapes)) - largest
    grown = timing.grown_mb * (largest + (0 if timing.on_gpu else RETAINED * others)) / timed
    network = grid_mb(work.kind, plan.part, plan.layer) + grown
    voxels = math.prod(work.shape)
    read = scan.volume.hu.nbytes / 1e6 + scan.stored_mb
    held = work.held_bytes * voxels / 1e6
    at_least = max(network, work.after_mb(0.0))
    room = Room.beside(work.shape, read + held, at_least, RunOptions())
    kept = room.kept_mb(work.kept)
    after = work.after_mb(room.left_mb - kept)
    at_once = after if timing.on_gpu else max(network, after)
    return Cost(
        command=work.command,
        method=work.method,
        evaluations=plan.evaluations,
        tiles=plan.count,
        tile=plan.largest,
        seconds=plan.voxels * timing.seconds / timed + START_S + work.voxel_s * voxels,
        memory_mb=timing.resident_mb
        + read
        + max(work.anatomy_bytes * voxels / 1e6, held + kept + at_once),
        device_mb=network if timing.on_gpu else 0.0,
    )
