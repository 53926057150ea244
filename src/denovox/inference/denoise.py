"""Denoising without task-specific training: posterior mean or sample (Method 2 and Method 3).

A scan passes through in slices where the result is the posterior mean: besides the scan and the
result, one layer of tiles is in memory.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from ..core.box import Box
from ..core.condition import Condition
from ..core.regions import region as region_named
from ..core.resample import noise_gain
from ..core.tensors import tensor
from ..core.volume import Volume
from ..sampling.residual import noise_in
from ..sampling.sampler import Noise
from ..sampling.windowed import NoiseLevels
from ..scan.noise import RegionNoise
from ..scan.noise_map import NoiseMap, noise_map
from ..tasks import change, denoising_diffpir, denoising_sample, noisy_input
from . import memory
from .engine import Engine
from .frame import Frame
from .options import RunOptions
from .region_blend import Part, blend_parts, share_of
from .scan_context import ScanContext, stored_bytes

Method = Literal["mean", "diffpir", "sample"]

Vol = Float[torch.Tensor, "1 1 x y z"]
Restored = Iterator[tuple[slice, Vol]]
Changes = Iterator[tuple[slice, Float[np.ndarray, "x y _"]]]

LEVEL_RATIO = 1.7  # of two noise levels, at most: the network is evaluated at each, and between
STEADY = 1.25  # noise that varies by less has one level
EXTREMES = 0.02  # share of a scan whose noise counts as the least, or the most, of the rest


def denoise(engine: Engine, context: ScanContext, method: Method, options: RunOptions) -> Volume:
    """The context's scan, denoised; see `Model.denoise`."""
    volume, filled = context.measured, context.filled
    noise, parts = context.noise, blend_parts(context.spans, volume.spacing_mm[2])
    grid = context.grid(engine.config.spacing_mm)
    frames = [
        Frame.of_slices(volume, grid, region_named(part.span.region), part.z) for part in parts
    ]
    work_mb = max(
        memory.work_mb(engine, _kind(frame, method), frame.box.size, options, method == "mean")
        for frame in frames
    )
    held_mb = (volume.hu.nbytes + context.coarse.nbytes + stored_bytes(context.volume)) / 1e6
    room = memory.Room.beside(volume.shape, held_mb, work_mb, options)
    added_hu = room.zeros(volume.shape)
    for number, (part, frame, each) in enumerate(zip(parts, frames, noise, strict=True)):
        share = share_of(options, number, parts)
        variation = noise_map(volume.slices(part.z), context.coarse[..., part.z])
        work = _Work(engine, volume, frame, part, each, share, variation)
        condition = frame.condition(context.coarse)
        of_part = added_hu[..., part.z]
        for z, added in work.added_hu(work.restored(method, condition), method == "mean"):
            room.release()
            of_part[..., z] += part.weight[z] * added
    scan = context.volume
    out = added_hu if scan.hu.dtype == np.float32 else np.empty_like(scan.hu)
    for z in memory.slabs(volume.shape[2]):
        if filled is not None:
            added_hu[..., z][filled[..., z]] = 0
        np.add(scan.hu[..., z], added_hu[..., z], out=out[..., z])
        room.release()
    return scan.with_hu(out)


def _kind(frame: Frame, method: Method) -> str:
    """Of `memory.GRID_BYTES`."""
    if method == "mean":
        return "stream" if frame.own_grid else "resampled"
    return method


def noise_levels(frame: Frame, first: int, sigma: float, variation: NoiseMap) -> NoiseLevels:
    """The noise levels of a frame in which it varies about sigma (model units).

    variation: of the scan from slice `first` on.
    """
    low, high = (float(v) for v in np.quantile(variation.values, (EXTREMES, 1 - EXTREMES)))
    if high < STEADY * low:
        return NoiseLevels((sigma,))
    count = math.ceil(math.log(high / low) / math.log(LEVEL_RATIO))
    (x, y, z), size = frame.reach
    step = size[2] / frame.box.size[2]

    def position(slices: slice) -> Vol:
        start, length = z - first + slices.start * step, (slices.stop - slices.start) * step
        grid = (*frame.box.size[:2], slices.stop - slices.start)
        values = np.log(variation.on(grid, (x, y, start), (*size[:2], length)) / low)
        return tensor((values * (count / math.log(high / low))).clip(0, count))

    return NoiseLevels(
        tuple(sigma * float(v) for v in np.geomspace(low, high, count + 1)), position
    )


@dataclass(frozen=True, eq=False)
class _Work:
    """A part of a scan in the window of its region. Slices z are those of the frame's box."""

    engine: Engine
    volume: Volume
    frame: Frame
    part: Part
    region_noise: RegionNoise
    options: RunOptions
    variation: NoiseMap

    @property
    def noise_hu(self) -> float:
        """SD of the noise on the scan's grid."""
        return self.region_noise.sd_hu

    @cached_property
    def sigma(self) -> float:
        """The noise on the working grid, model units."""
        gain = noise_gain(self.volume.shape, self.frame.grid)
        return self.frame.region.window.sigma(self.noise_hu) * gain

    @cached_property
    def _resampled(self) -> Float[np.ndarray, "u v w"]:
        return self.frame.to_grid(self.volume.hu.astype(np.float32, copy=False))

    def measured(self, x: slice, z: slice) -> Vol:
        """The scan, model units."""
        if self.frame.own_grid:
            own = self.volume.hu[x, :, self.part.z][..., z].astype(np.float32, copy=False)
        else:
            own = self._resampled[x, :, z]
        return tensor(self.frame.region.window.unit(own), self.engine.device)

    def noisy(self, z: slice) -> Vol:
        """The scan as the denoiser was trained to see it."""
        out = self._empty(z)
        for x in self._planes:
            unit = self.measured(x, z)
            if not bool(self._may_change(unit).all()):  # drawing noise takes longer than the rest
                unit = noisy_input(unit, self.sigma, self._noise(x, z))
            out[:, :, x] = unit
        return out

    def _noise(self, x: slice, z: slice) -> Noise:
        (i, j, k), (_, v, _) = self.frame.box.start, self.frame.box.size
        box = Box((i + x.start, j, k + z.start), (x.stop - x.start, v, z.stop - z.start))
        return replace(self.frame, box=box).noise(self.options.seed, self.engine.device)

    def needed(self, z: slice) -> Bool[torch.Tensor, "x y z"]:
        """Voxels that may change."""
        return torch.cat([self._may_change(self.measured(x, z))[0, 0] for x in self._planes])

    def _may_change(self, unit: Vol) -> Bool[torch.Tensor, "1 1 x y z"]:
        return unit.abs() <= 1 + 3 * self.sigma  # as in `tasks.change`

    def restored(self, method: Method, condition: Condition) -> Restored:
        """The restored part, as finished slices in order, model units."""
        if method == "mean":
            levels = noise_levels(self.frame, self.part.z.start, self.sigma, self.variation)
            return self.engine.means(self.noisy, levels, condition, self.options, self.needed)
        y, schedule = self.noisy(self._all), self.engine.config.noise_schedule
        noise = self.frame.noise(self.options.seed, self.engine.device)
        if method == "diffpir":
            task = denoising_diffpir(y, self.sigma, schedule)
        else:
            task = denoising_sample(y, self.sigma, self._psd, noise, schedule)
        x0 = self.engine.run(task, condition, noise, self.options)
        return iter([(self._all, x0)])

    @property
    def _psd(self) -> Float[torch.Tensor, "u v w"]:
        psd = self.region_noise.spectrum.on(self.frame.box.size, self.frame.spacing_mm)
        return psd.to(self.engine.device)

    @property
    def _all(self) -> slice:
        return slice(0, self.frame.box.size[2])

    @property
    def _planes(self) -> Iterator[slice]:
        return memory.slabs(self.frame.box.size[0])

    def _empty(self, z: slice) -> Vol:
        size = *self.frame.box.size[:2], z.stop - z.start
        return torch.empty(1, 1, *size, device=self.engine.device)

    def added_hu(self, restored: Restored, faithful: bool) -> Changes:
        """The change to add to slices z of the part, HU. faithful: noise alone is removed."""
        half = self.frame.region.window.width_hu / 2
        changes: Changes = ((z, self._changed(z, x0)) for z, x0 in restored)
        if faithful:
            along_z = self.region_noise.spectrum.along_z
            changes = noise_in(changes, self.frame.spacing_mm, along_z)
        if self.frame.own_grid:
            yield from ((z, changed * half) for z, changed in changes)
            return
        whole = np.empty(self.frame.box.size, np.float32)
        for z, changed in changes:
            whole[..., z] = changed
        # Interpolation would spread the change into voxels that must stay unchanged.
        window, z = self.frame.region.window, self.part.z
        far = np.abs(window.unit(self.volume.hu[..., z])) > 1 + 3 * window.sigma(self.noise_hu)
        added = np.where(far, 0, self.frame.from_grid(whole, z))
        yield slice(0, z.stop - z.start), added * half

    def _changed(self, z: slice, x0: Vol) -> Float[np.ndarray, "x y z"]:
        """The change of slices z, model units."""
        changed = np.empty(x0.shape[2:], np.float32)
        for x in self._planes:
            part = change(self.measured(x, z), x0[:, :, x], self.sigma)
            changed[x] = part[0, 0].cpu().numpy()
        return changed
