"""What a run would cost in tiles, seconds and memory, estimated from one tile of the real network.

Time is the voxels of all tiles times the network's measured speed. Memory is what the process
already holds, plus arrays counted in bytes per voxel (below), plus what one tile took when it was
timed; `benchmarks/doctor.py` measures how accurate this is.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import torch

from ..core.box import Shape
from ..core.condition import Condition, condition
from ..core.config import Settings
from ..core.process import resident_mb
from ..core.regions import region as region_named
from ..core.volume import Volume
from ..io.nifti_bytes import NiftiSource
from ..sampling.interleaved import STEP
from ..scan.body_regions import RegionSpan
from ..tasks import denoising, denoising_diffpir
from .engine import Engine
from .frame import Frame, working_grid
from .options import RunOptions
from .region_blend import blend_parts

Method = Literal["mean", "diffpir"]
METHODS: tuple[Method, ...] = ("mean", "diffpir")
# Bytes per voxel, besides HU and stored values. Of the scan: labels, the change to be added, and
# the part of one region; finding the anatomy happens before anything else is allocated.
SCAN_BYTES, ANATOMY_BYTES = 17, 6
# Of the largest part, on the working grid: the measurement, its noise, the start, the state, the
# sum over tiles.
GRID_BYTES = {"mean": 24, "coloured": 48, "diffpir": 40}
# On a CPU, each further tile shape leaves behind this fraction of a tile's memory: it is freed, but
# glibc keeps it, since it fits no other shape (with MALLOC_MMAP_THRESHOLD_=1000000 in the
# environment, glibc returns it). Measured: benchmarks/doctor.py.
RETAINED = 0.12
COLOURED = 4  # evaluations where the noise is coloured


class Cost(Settings):
    """Expected cost of a `denoise` run. seconds: of the network, which is nearly all of a run."""

    method: Method
    evaluations: int
    tiles: int  # of all evaluations
    tile: Shape  # the largest
    seconds: float
    memory_mb: float  # peak of the process
    device_mb: float  # peak of the GPU; 0 on a CPU


@dataclass(frozen=True)
class TileTiming:
    """Time and memory of one tile of a model.

    resident_mb: of the process before, with the model and no scan. grown_mb: added by the tile.
    """

    model: Engine
    tile: Shape
    seconds: float
    resident_mb: float
    grown_mb: float

    @property
    def on_gpu(self) -> bool:
        """Whether the network runs outside the memory of the process."""
        return self.model.device.startswith("cuda")


@dataclass(frozen=True)
class TilePlan:
    """The tiles to evaluate. count, voxels: over all tiles and evaluations. shapes: distinct ones.
    part: voxels of the largest part of the scan that is processed at once.

    Seams and shapes change from one evaluation to the next, but count and voxels do not.
    """

    evaluations: int
    count: int
    voxels: int
    shapes: frozenset[Shape]
    part: int

    @property
    def largest(self) -> Shape:
        """The shape with the most voxels."""
        return max(self.shapes, key=math.prod)


def plan(
    model: Engine,
    volume: Volume,
    spans: tuple[RegionSpan, ...],
    method: Method,
    edge: int,
    coloured: tuple[bool, ...] = (),
) -> TilePlan:
    """The tiles of a run with seed 0, as `sampling/windowed` will cut them.

    coloured: for each region, whether its noise is treated as coloured (default: none is).
    """
    grid = working_grid(volume, model.config.spacing_mm)
    start = torch.zeros(1, 1, 1, 1, 1)
    task = (
        denoising(start, 0.1)
        if method == "mean"
        else denoising_diffpir(start, 0.1, model.config.noise_schedule)
    )
    tiling = model.tiling(edge, task.blend)
    count, voxels, largest, shapes = 0, 0, 0, set[Shape]()
    parts = blend_parts(spans, volume.spacing_mm[2])
    coloured_parts = [method == "mean" and each for each in coloured or (False,) * len(parts)]
    for part, is_coloured in zip(parts, coloured_parts, strict=True):
        size = Frame.of_slices(volume, grid, region_named(part.span.region), part.z).box.size
        largest = max(largest, math.prod(size))
        whole = [(size, call) for call in range(task.evaluations)]
        for shape, call in [(each, 0) for each in _coloured_calls(size)] if is_coloured else whole:
            shifts = np.random.default_rng([0, call]).uniform(-1, 1, 3)
            axes = [
                [tile.stop - tile.start for tile in tiling.tiles(n, shift)]
                for n, shift in zip(shape, shifts, strict=True)
            ]
            count += math.prod(len(sizes) for sizes in axes)
            voxels += math.prod(sum(sizes) for sizes in axes)
            shapes |= {(x, y, z) for x, y, z in itertools.product(*axes)}
    return TilePlan(
        COLOURED if any(coloured_parts) else task.evaluations,
        count,
        voxels,
        frozenset(shapes),
        largest,
    )


def _coloured_calls(size: Shape) -> Iterator[Shape]:
    """Boxes that `Model.denoise` evaluates where the noise is coloured: the whole box three times,
    and once in four phases of every other voxel in the slices."""
    x, y, z = size
    yield from (size, size, size)
    for i, j in itertools.product(range(STEP), repeat=2):
        yield len(range(i, x, STEP)), len(range(j, y, STEP)), z


def time_tile(model: Engine, edge: int = RunOptions.tile, seconds: float = 1.0) -> TileTiming:
    """Evaluate one tile, a cube of side `edge`, for about `seconds` after a warm-up.

    The speed is the median after the warm-up. Call this before reading a scan: memory that was
    freed earlier would hide what the tile takes.
    """
    tile = (edge, edge, edge)
    conditioning = condition(tile, (1.0, 1.0, 1.0), 1).to(model.device)
    x = torch.zeros(1, 1, *tile, device=model.device)

    def once() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            model.denoiser(x, 0.5, conditioning).cpu()  # waits for the device
        return time.perf_counter() - began

    resident = resident_mb()
    if model.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(model.device)
    with _Watch() as watch:  # throughout: freed memory is not all returned, so it adds up
        once()
        times = [once()]
        while sum(times) < seconds:
            times.append(once())
    grown = watch.highest_mb - resident
    if model.device.startswith("cuda"):
        grown = torch.cuda.max_memory_allocated(model.device) / 1e6
    without = replace(model, denoiser=_timed)  # the caller may drop the network
    return TileTiming(without, tile, sorted(times)[len(times) // 2], resident, max(0.0, grown))


def _timed(x: torch.Tensor, sigma: float, condition: Condition) -> torch.Tensor:
    raise ValueError("a timing has no network; use the model that was timed")


def cost(
    timing: TileTiming,
    volume: Volume,
    spans: tuple[RegionSpan, ...],
    method: Method,
    edge: int = RunOptions.tile,
    coloured: tuple[bool, ...] = (),
    stored_mb: float | None = None,
) -> Cost:
    """What denoising `volume` would cost in a process that holds only the model and the scan.

    stored_mb: from `stored_in`, for a volume without its source.
    """
    model, timed = timing.model, math.prod(timing.tile)
    work = plan(model, volume, spans, method, edge, coloured)
    largest = math.prod(work.largest)
    others = sum(math.prod(shape) for shape in work.shapes) - largest
    grown = timing.grown_mb * (largest + (0 if timing.on_gpu else RETAINED * others)) / timed
    scan = math.prod(volume.shape)
    stored = stored_in(volume) if stored_mb is None else stored_mb
    held = volume.hu.nbytes / 1e6 + stored
    kind = "coloured" if work.evaluations == COLOURED else method
    on_grid = work.part * GRID_BYTES[kind] / 1e6
    options = SCAN_BYTES * scan / 1e6 + (0 if timing.on_gpu else on_grid + grown)
    return Cost(
        method=method,
        evaluations=work.evaluations,
        tiles=work.count,
        tile=work.largest,
        seconds=work.voxels * timing.seconds / timed,
        memory_mb=timing.resident_mb + held + max(ANATOMY_BYTES * scan / 1e6, options),
        device_mb=on_grid + grown if timing.on_gpu else 0.0,
    )


def stored_in(volume: Volume) -> float:
    """MB of the file's stored values, which a volume keeps for writing."""
    return volume.source.raw.nbytes / 1e6 if isinstance(volume.source, NiftiSource) else 0.0


class _Watch:
    """Peak memory of the process within the block, sampled every 2 ms."""

    def __enter__(self) -> _Watch:
        self.highest_mb = resident_mb()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._done.wait(0.002):
            self.highest_mb = max(self.highest_mb, resident_mb())

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.highest_mb = max(self.highest_mb, resident_mb())
