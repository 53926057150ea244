"""What a run would cost: windows, seconds and memory, from one window of the actual network.

Time is windows' voxels times the network's own speed. Memory is what the process holds already,
plus arrays counted in bytes a voxel (below), plus what one window took when it was tried;
`benchmarks/doctor.py` measures how true that is.
"""

from __future__ import annotations

import itertools
import math
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

from ..core.box import Shape
from ..core.condition import condition
from ..core.config import Settings
from ..core.memory import resident_mb
from ..core.regions import region as region_named
from ..core.volume import Volume
from ..io.nifti_bytes import NiftiSource
from ..sampling.interleaved import STEP
from ..scan.body_regions import RegionSpan
from ..tasks import denoising, denoising_diffpir
from .engine import Engine
from .frame import Frame, working_grid
from .options import RunOptions
from .region_blend import handover

Method = Literal["mean", "diffpir"]
METHODS: tuple[Method, ...] = ("mean", "diffpir")
# Bytes a voxel, besides HU and stored values. Of the scan: labels, what is to be added, and the
# region's share of it; while anatomy is looked for, far more, but nothing else is there yet.
SCAN_BYTES, ANATOMY_BYTES = 17, 40
# Of the working grid: what was measured, noise on it, the start, the state, the windows' sum.
GRID_BYTES = {"mean": 24, "coloured": 48, "diffpir": 40}
# On a CPU, each further shape of window leaves behind this share of what a window takes: memory
# that was freed, and that glibc keeps, as it suits no other shape (MALLOC_MMAP_THRESHOLD_=1000000
# in the environment has it given back). Measured: benchmarks/doctor.py.
LEFT = 0.12
COLOURED = 4  # evaluations where noise is coloured


class Cost(Settings):
    """A run of `denoise`, expected. seconds: of the network, which is nearly all of a run."""

    method: Method
    evaluations: int
    windows: int  # of all evaluations
    window: Shape  # the largest
    seconds: float
    memory_mb: float  # of the process, at its peak
    device_mb: float  # of the GPU, at its peak; 0 on a CPU


@dataclass(frozen=True)
class Trial:
    """One window of a model, tried, and its seconds.

    resident_mb: of the process before, with the model and no scan. grown_mb: what a window added.
    """

    model: Engine
    window: Shape
    seconds: float
    resident_mb: float
    grown_mb: float

    @property
    def on_gpu(self) -> bool:
        """Whether the network does not run in the process's own memory."""
        return self.model.device.startswith("cuda")


@dataclass(frozen=True)
class Plan:
    """What is evaluated. count, voxels: of all windows of all evaluations. shapes: different ones.

    Seams move from one evaluation to the next, and shapes with them, but neither count nor voxels.
    """

    evaluations: int
    count: int
    voxels: int
    shapes: frozenset[Shape]

    @property
    def largest(self) -> Shape:
        """The shape with most voxels."""
        return max(self.shapes, key=math.prod)


def plan(
    model: Engine,
    volume: Volume,
    slabs: tuple[RegionSpan, ...],
    method: Method,
    edge: int,
    coloured: tuple[bool, ...] = (),
) -> Plan:
    """The windows of a run with seed 0, as `sampling/windowed` will cut them.

    coloured: of each slab, whether its noise is taken for coloured (none is, if left out).
    """
    grid = working_grid(volume, model.config.spacing_mm)
    start = torch.zeros(1, 1, 1, 1, 1)
    task = (
        denoising(start, 0.1)
        if method == "mean"
        else denoising_diffpir(start, 0.1, model.config.noise_schedule)
    )
    tiling = model.tiling(edge, task.blend)
    count, voxels, shapes = 0, 0, set[Shape]()
    parts = handover(slabs, volume.spacing_mm[2])
    several = [method == "mean" and each for each in coloured or (False,) * len(parts)]
    for part, grain in zip(parts, several, strict=True):
        size = Frame.of_slices(volume, grid, region_named(part.slab.region), part.z).box.size
        whole = [(size, call) for call in range(task.evaluations)]
        for shape, call in [(each, 0) for each in _coloured_calls(size)] if grain else whole:
            shifts = np.random.default_rng([0, call]).uniform(-1, 1, 3)
            axes = [
                [tile.stop - tile.start for tile in tiling.tiles(n, shift)]
                for n, shift in zip(shape, shifts, strict=True)
            ]
            count += math.prod(len(sizes) for sizes in axes)
            voxels += math.prod(sum(sizes) for sizes in axes)
            shapes |= {(x, y, z) for x, y, z in itertools.product(*axes)}
    return Plan(COLOURED if any(several) else task.evaluations, count, voxels, frozenset(shapes))


def _coloured_calls(size: Shape) -> Iterator[Shape]:
    """What `Model.denoise` asks the network for where noise is coloured: all of a box three times,
    and once in four phases of every other voxel in the slices."""
    x, y, z = size
    yield from (size, size, size)
    for i, j in itertools.product(range(STEP), repeat=2):
        yield len(range(i, x, STEP)), len(range(j, y, STEP)), z


def try_window(model: Engine, edge: int = RunOptions.tile, seconds: float = 1.0) -> Trial:
    """Evaluate one window, a cube of `edge`, for about `seconds` after a first time.

    The first time warms up; the median of the others is the speed. To be called before a scan is
    read: what was freed before would hide what the window takes.
    """
    window = (edge, edge, edge)
    told = condition(window, (1.0, 1.0, 1.0), 1).to(model.device)
    x = torch.zeros(1, 1, *window, device=model.device)

    def once() -> float:
        began = time.perf_counter()
        with torch.inference_mode():
            model.denoiser(x, 0.5, told).cpu()  # waits for the device
        return time.perf_counter() - began

    resident = resident_mb()
    if model.device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(model.device)
    with _Watch() as watch:  # throughout: what is freed is not all given back, and so adds up
        once()
        times = [once()]
        while sum(times) < seconds:
            times.append(once())
    grown = watch.highest_mb - resident
    if model.device.startswith("cuda"):
        grown = torch.cuda.max_memory_allocated(model.device) / 1e6
    return Trial(model, window, sorted(times)[len(times) // 2], resident, max(0.0, grown))


def cost(
    trial: Trial,
    volume: Volume,
    slabs: tuple[RegionSpan, ...],
    method: Method,
    edge: int = RunOptions.tile,
    coloured: tuple[bool, ...] = (),
) -> Cost:
    """What denoising `volume` would cost in a process that holds but the model and the scan."""
    model, tried = trial.model, math.prod(trial.window)
    work = plan(model, volume, slabs, method, edge, coloured)
    largest = math.prod(work.largest)
    others = sum(math.prod(shape) for shape in work.shapes) - largest
    grown = trial.grown_mb * (largest + (0 if trial.on_gpu else LEFT * others)) / tried
    scan = math.prod(volume.shape)
    grid = math.prod(working_grid(volume, model.config.spacing_mm))
    held = volume.hu.nbytes
    if isinstance(volume.source, NiftiSource):
        held += volume.source.raw.nbytes
    kind = "coloured" if work.evaluations == COLOURED else method
    on_grid = grid * GRID_BYTES[kind] / 1e6
    options = SCAN_BYTES * scan / 1e6 + (0 if trial.on_gpu else on_grid + grown)
    return Cost(
        method=method,
        evaluations=work.evaluations,
        windows=work.count,
        window=work.largest,
        seconds=work.voxels * trial.seconds / tried,
        memory_mb=trial.resident_mb + held / 1e6 + max(ANATOMY_BYTES * scan / 1e6, options),
        device_mb=on_grid + grown if trial.on_gpu else 0.0,
    )


class _Watch:
    """The most memory the process held within the block, looked at every 2 ms."""

    def __enter__(self) -> _Watch:
        self.highest_mb = resident_mb()
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._look)
        self._thread.start()
        return self

    def _look(self) -> None:
        while not self._over.wait(0.002):
            self.highest_mb = max(self.highest_mb, resident_mb())

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self.highest_mb = max(self.highest_mb, resident_mb())
