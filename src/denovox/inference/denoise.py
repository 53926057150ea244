"""Denoising without task-specific training: posterior mean or sample (Method 2 and Method 3)."""

from __future__ import annotations

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


def denoise(engine: Engine, context: ScanContext, method: Method, options: RunOptions) -> Volume:
    """The context's scan, denoised; see `Model.denoise`."""
    volume = context.volume
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
    return volume.with_hu((volume.hu + added_hu).astype(volume.hu.dtype))


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
    measured = tensor(window.unit(frame.to_grid(volume.hu.astype(np.float32)))).to(engine.device)
    y, condition = noisy_input(measured, sigma, noise), frame.condition(ids)
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
    added = change(measured, x0, sigma)[0, 0].cpu().numpy()
    if not frame.own_grid:
        # Interpolation would spread the change into voxels that must stay unchanged.
        far = np.abs(window.unit(volume.hu[..., z])) > 1 + 3 * window.sigma(noise_hu)
        added = np.where(far, 0, frame.from_grid(added, z))
    return added * (window.width_hu / 2)
