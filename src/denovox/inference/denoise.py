"""Denoising without task-specific training: posterior mean or sample (Method 2 and Method 3)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from ..core.operators.coloured_noise import Spectrum
from ..core.regions import region as region_named
from ..core.resample import noise_gain
from ..core.tensors import tensor
from ..core.volume import Volume
from ..tasks import (
    RESIDUAL,
    change,
    denoising,
    denoising_coloured,
    denoising_diffpir,
    denoising_sample,
    noisy_input,
)
from .engine import Engine
from .frame import Frame
from .options import RunOptions
from .region_blend import blend_parts, share_of
from .scan_context import ScanContext

Method = Literal["mean", "diffpir", "sample"]
PLANES = 32


def denoise(engine: Engine, context: ScanContext, method: Method, options: RunOptions) -> Volume:
    """The context's scan, denoised; see `Model.denoise`."""
    volume, filled = context.measured, context.filled
    noise, parts = context.noise, blend_parts(context.spans, volume.spacing_mm[2])
    grid = context.grid(engine.config.spacing_mm)
    added_hu = np.zeros(volume.shape, np.float32)
    for number, (part, region_noise) in enumerate(zip(parts, noise, strict=True)):
        share = share_of(options, number, parts)
        frame = Frame.of_slices(volume, grid, region_named(part.span.region), part.z)
        added = _added_hu(
            engine,
            volume,
            frame,
            part.z,
            (region_noise.sd_hu, region_noise.spectrum),
            method,
            context.coarse,
            share,
        )
        added_hu[..., part.z] += part.weight * added
    if filled is not None:
        added_hu[filled] = 0
    scan = context.volume
    return scan.with_hu((scan.hu + added_hu).astype(scan.hu.dtype))


def _added_hu(
    engine: Engine,
    volume: Volume,
    frame: Frame,
    z: slice,
    noise_of: tuple[float, Spectrum],
    method: Method,
    ids: UInt8[np.ndarray, "x y z"],
    options: RunOptions,
) -> Float[np.ndarray, "x y z2"]:
    """The change to add to slices z, HU, in the window of the frame's region."""
    noise_hu, spectrum = noise_of
    window, noise = frame.region.window, frame.noise(options.seed, engine.device)
    sigma = window.sigma(noise_hu) * noise_gain(volume.shape, frame.grid)
    hu = frame.to_grid(volume.hu.astype(np.float32, copy=False))
    measured = tensor(window.unit(hu)).to(engine.device)
    del hu

    def noisy(unit: torch.Tensor, drawn: torch.Tensor) -> torch.Tensor:
        return noisy_input(unit, sigma, lambda stream: drawn)

    y = _by_planes(noisy, measured, noise(0))
    condition = frame.condition(ids)
    psd = spectrum.on(frame.box.size, frame.spacing_mm).to(engine.device)
    schedule = engine.config.noise_schedule
    if method == "diffpir":
        x0 = engine.run(denoising_diffpir(y, sigma, schedule), condition, noise, options)
    elif method == "sample":
        task = denoising_sample(y, sigma, psd, noise, schedule)
        x0 = engine.run(task, condition, noise, options)
    else:
        tasks = denoising_coloured(y, sigma, psd, noise)
        count = len(tasks) if len(tasks) == 1 else len(tasks) + 1
        x0 = torch.zeros_like(y)
        for number, task in enumerate(tasks):
            x0 += engine.run(task, condition, noise, options.part(number, count)) / len(tasks)
        if count > 1:
            last = options.part(count - 1, count)
            x0 = engine.run(denoising(x0, RESIDUAL * sigma), condition, noise, last)
    del y
    changed = _by_planes(lambda unit, restored: change(unit, restored, sigma), measured, x0)
    added = changed[0, 0].cpu().numpy()
    if not frame.own_grid:
        # Interpolation would spread the change into voxels that must stay unchanged.
        far = np.abs(window.unit(volume.hu[..., z])) > 1 + 3 * window.sigma(noise_hu)
        added = np.where(far, 0, frame.from_grid(added, z))
    return added * (window.width_hu / 2)


def _by_planes(
    elementwise: Callable[..., torch.Tensor], *volumes: Float[torch.Tensor, "1 1 x y z"]
) -> Float[torch.Tensor, "1 1 x y z"]:
    """An elementwise function of volumes, a few planes at a time: its steps take no memory."""
    out = torch.empty_like(volumes[0])
    for i in range(0, out.shape[2], PLANES):
        some = (..., slice(i, i + PLANES), slice(None), slice(None))
        out[some] = elementwise(*(each[some] for each in volumes))
    return out
