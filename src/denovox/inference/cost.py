"""What a run would cost in tiles, seconds and memory, estimated from one tile of the real network.

Time is the voxels of all tiles times the network's measured speed, and seconds per voxel (below)
for everything else. Memory is what the process
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
from jaxtyping import Bool

from ..core.box import Shape, Tile
from ..core.condition import Condition, condition
from ..core.config import Settings
from ..core.process import resident_mb
from ..core.regions import region as region_named
from ..core.resample import noise_gain
from ..core.volume import Volume
from ..io.nifti_bytes import NiftiSource
from ..sampling.windowed import NoiseLevels, layout, levels_of, tile_size
from ..scan.body_regions import RegionSpan
from ..scan.noise_map import NoiseMap
from .denoise import noise_levels
from .engine import Engine
from .frame import Frame, working_grid
from .memory import Room, grid_mb
from .options import RunOptions
from .region_blend import blend_parts

Method = Literal["mean", "diffpir"]
METHODS: tuple[Method, ...] = ("mean", "diffpir")
# Bytes per voxel of the scan, besides HU and stored values: labels; finding the anatomy happens
# before anything else is allocated.
SCAN_BYTES, ANATOMY_BYTES = 1, 5
# On a CPU, each further tile shape leaves behind this fraction of a tile's memory: it is freed, but
# glibc keeps it, since it fits no other shape. Measured: benchmarks/doctor.py.
RETAINED = 0.12
# Seconds of everything but the network, on a core of a Xeon: of a run (imports, weights), and per
# voxel (reading and writing .nii.gz, anatomy, noise, blending).
START_S, VOXEL_S = 1.9, 0.42e-6
DIFFPIR = 10  # evaluations


class Cost(Settings):
    """Expected cost of a `denoise` run, from its start to the file."""

    method: Method
    evaluations: int  # most per voxel
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
    part: size of the largest part of the scan that is processed at once.

    Seams and shapes change from one evaluation to the next, but count and voxels do not.
    """

    evaluations: int
    count: int
    voxels: int
    shapes: frozenset[Shape]
    part: Shape

    @property
    def largest(self) -> Shape:
        """The shape with the most voxels."""
        return max(self.shapes, key=math.prod, default=(0, 0, 0))


@dataclass(frozen=True)
class Noise:
    """The noise of a region as it decides how much work there is. sd_hu: SD, HU; variation: within
    the part of the scan that is restored with it; None: none."""

    sd_hu: float = 0.0
    variation: NoiseMap | None = None


def plan(
    model: Engine,
    volume: Volume,
    spans: tuple[RegionSpan, ...],
    method: Method,
    edge: int,
    noise: tuple[Noise, ...] = (),
) -> TilePlan:
    """The tiles of a run with seed 0, as `sampling/windowed` will cut them.

    noise: of each region (default: white, and so little that voxels outside the window stay).
    """
    grid = working_grid(volume, model.config.spacing_mm)
    largest, most, shapes = (0, 0, 0), 1, list[Shape]()
    parts = blend_parts(spans, volume.spacing_mm[2])
    for part, of in zip(parts, noise or (Noise(),) * len(parts), strict=True):
        frame = Frame.of_slices(volume, grid, region_named(part.span.region), part.z)
        largest = max(largest, frame.box.size, key=math.prod)
        if method == "diffpir":
            most = DIFFPIR
            shapes += _sampler_tiles(model, frame.box.size, edge)
            continue
        window = frame.region.window
        sigma = window.sigma(of.sd_hu) * noise_gain(volume.shape, frame.grid)
        needed = _needed(volume, frame, sigma)
        levels = (
            NoiseLevels((sigma,))
            if of.variation is None
            else noise_levels(frame, part.z.start, sigma, of.variation)
        )
        most = max(most, min(len(levels.sigmas), 2))
        shapes += _mean_tiles(model, needed, edge, levels)
    return TilePlan(
        most,
        len(shapes),
        sum(math.prod(shape) for shape in shapes),
        frozenset(shapes),
        largest,
    )


def _needed(volume: Volume, frame: Frame, sigma: float) -> Bool[torch.Tensor, "x y z"]:
    """Voxels of a frame that may change."""
    near = np.empty(volume.shape, bool)
    for hu, out in zip(volume.hu, near, strict=True):
        np.less_equal(np.abs(frame.region.window.unit(hu)), 1 + 3 * sigma, out=out)
    return torch.from_numpy(frame.labels(near))


def _mean_tiles(
    model: Engine, needed: Bool[torch.Tensor, "x y z"], edge: int, levels: NoiseLevels
) -> Iterator[Shape]:
    """The tiles of a posterior mean, as often as they are evaluated."""
    x, y, z = needed.shape
    size = (x, y, z)
    across, along, layers = layout(size, model.tilings(size, edge), 0)
    for layer in layers:
        at = slice(layer.start, min(layer.stop, z))
        mask = needed[..., at]
        position = None if levels.position is None else levels.position(at)
        at_0 = Tile(0, layer.stop - layer.start, layer.weight)
        for a, b in itertools.product(across, along):
            tile = (a, b, at_0)
            if mask[a.start : a.stop, b.start : b.stop].any():
                yield from (tile_size(tile),) * len(levels_of([tile], position, mask))


def _sampler_tiles(model: Engine, size: Shape, edge: int) -> Iterator[Shape]:
    """The tiles of DiffPIR, as often as they are evaluated."""
    tilings = model.tilings(size, edge, blend=False)
    for number in range(DIFFPIR):
        yield from map(tile_size, itertools.product(*layout(size, tilings, 0, number)))


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
    noise: tuple[Noise, ...] = (),
    stored_mb: float | None = None,
) -> Cost:
    """What denoising `volume` would cost in a process that holds only the model and the scan.

    stored_mb: from `stored_in`, for a volume without its source.
    """
    model, timed = timing.model, math.prod(timing.tile)
    work = plan(model, volume, spans, method, edge, noise)
    largest = math.prod(work.largest)
    others = sum(math.prod(shape) for shape in work.shapes) - largest
    grown = timing.grown_mb * (largest + (0 if timing.on_gpu else RETAINED * others)) / timed
    scan = math.prod(volume.shape)
    stored = stored_in(volume) if stored_mb is None else stored_mb
    held = volume.hu.nbytes / 1e6 + stored
    own_grid = working_grid(volume, model.config.spacing_mm) == volume.shape
    kind: str = method if method != "mean" else "stream" if own_grid else "resampled"
    layer = max(z for _, _, z in work.shapes or {(0, 0, 0)})
    on_grid = grid_mb(kind, work.part, layer)
    labels = SCAN_BYTES * scan / 1e6
    room = Room.beside(volume.shape, held + labels, on_grid + grown, RunOptions())
    kept = room.kept_mb([volume.shape])
    options = labels + kept + (0 if timing.on_gpu else on_grid + grown)
    return Cost(
        method=method,
        evaluations=work.evaluations,
        tiles=work.count,
        tile=work.largest,
        seconds=work.voxels * timing.seconds / timed + START_S + VOXEL_S * scan,
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
