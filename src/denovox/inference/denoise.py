"""Denoising without task-specific training: posterior mean or sample (Method 2 and Method 3).

A scan passes through in slices where the result is the posterior mean: besides the scan and the
result, one layer of tiles is in memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float

from ..core.box import Box
from ..core.condition import Condition
from ..core.operators.coloured_noise import Spectrum
from ..core.regions import region as region_named
from ..core.resample import noise_gain
from ..core.tensors import tensor
from ..core.volume import Volume
from ..sampling.sampler import Noise
from ..scan.noise import RegionNoise
from ..tasks import (
    COLOUR,
    change,
    denoising_diffpir,
    denoising_sample,
    noisy_input,
)
from . import memory
from .engine import Engine
from .frame import Frame
from .large import coloured
from .options import RunOptions
from .region_blend import Part, blend_parts, share_of
from .scan_context import ScanContext, stored_bytes

Method = Literal["mean", "diffpir", "sample"]

Vol = Float[torch.Tensor, "1 1 x y z"]
Restored = Iterator[tuple[slice, Vol]]


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
        work = _Work(engine, volume, frame, part, each, share, room.part())
        condition = frame.condition(context.coarse)
        of_part = added_hu[..., part.z]
        finished = None
        for (x, z), added in work.added_hu(work.restored(method, condition)):
            if z != finished:
                room.release()
            of_part[x, :, z] += part.weight[z] * added
            finished = z
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


@dataclass(frozen=True, eq=False)
class _Work:
    """A part of a scan in the window of its region. Slices z are those of the frame's box."""

    engine: Engine
    volume: Volume
    frame: Frame
    part: Part
    region_noise: RegionNoise
    options: RunOptions
    room: memory.Room

    @property
    def noise_hu(self) -> float:
        """SD of the noise on the scan's grid."""
        return self.region_noise.sd_hu

    @property
    def spectrum(self) -> Spectrum:
        """Of the noise."""
        return self.region_noise.spectrum

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
        return tensor(self.frame.region.window.unit(own)).to(self.engine.device)

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
            return self._mean(condition)
        y, schedule = self.noisy(self._all), self.engine.config.noise_schedule
        noise = self.frame.noise(self.options.seed, self.engine.device)
        if method == "diffpir":
            task = denoising_diffpir(y, self.sigma, schedule)
        else:
            task = denoising_sample(y, self.sigma, self._psd, noise, schedule)
        x0 = self.engine.run(task, condition, noise, self.options)
        return iter([(self._all, x0)])

    def _mean(self, condition: Condition) -> Restored:
        if self.spectrum.mean_square(self.frame.box.size, self.frame.spacing_mm) < COLOUR:
            return self.engine.means(self.noisy, self.sigma, condition, self.options, self.needed)
        every = slice(0, self.frame.box.size[0])
        measured = coloured.Measured(
            self.noisy,
            self.needed,
            lambda z: self._noise(every, z)(1),
            self.sigma,
            self.spectrum,
        )
        return coloured.means(self.engine, self.frame, measured, condition, self.options, self.room)

    @property
    def _psd(self) -> Float[torch.Tensor, "u v w"]:
        psd = self.spectrum.on(self.frame.box.size, self.frame.spacing_mm)
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

    def added_hu(self, restored: Restored) -> Iterator[tuple[tuple[slice, slice], np.ndarray]]:
        """The change to add to planes x and slices z of the part, HU."""
        half = self.frame.region.window.width_hu / 2
        changes = (
            ((x, z), change(self.measured(x, z), x0[:, :, x], self.sigma)[0, 0].cpu().numpy())
            for z, x0 in restored
            for x in self._planes
        )
        if self.frame.own_grid:
            yield from ((at, changed * half) for at, changed in changes)
            return
        whole = np.empty(self.frame.box.size, np.float32)
        for (x, z), changed in changes:
            whole[x, :, z] = changed
        # Interpolation would spread the change into voxels that must stay unchanged.
        window, z = self.frame.region.window, self.part.z
        far = np.abs(window.unit(self.volume.hu[..., z])) > 1 + 3 * window.sigma(self.noise_hu)
        added = np.where(far, 0, self.frame.from_grid(whole, z))
        yield (slice(None), slice(0, z.stop - z.start)), added * half
