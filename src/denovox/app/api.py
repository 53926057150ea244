"""The room that joins the others: a model that takes volumes and gives volumes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float, UInt8

from ..core.box import Shape, Tiling
from ..core.condition import Condition, condition
from ..core.errors import InputError
from ..core.labels import OUTSIDE
from ..core.noise import field
from ..core.regions import Region
from ..core.regions import region as region_named
from ..core.resample import nearest, noise_gain, resize
from ..core.volume import Volume
from ..data import anatomy as anatomy_of
from ..data.noise_level import estimate_noise_hu
from ..model import weights
from ..model.denoiser import Denoiser, Precision
from ..sampling.sample import Denoise
from ..sampling.windowed import windowed
from ..tasks import (
    Solver,
    Task,
    change,
    denoising,
    denoising_diffpir,
    noisy_input,
    synthesis,
)

AIR_HU = -1000.0
Say = Callable[[str], None]
Done = Callable[[float], None]


@dataclass(frozen=True)
class Running:
    """How a model runs, as against what it does. Only `seed` changes a result by more than rounding
    and the place of window seams.

    window: largest window's edge in voxels; halve it where memory is short. together: windows
    evaluated at once. say: told what was decided for the user. done: told the share of work done.
    """

    seed: int = 0
    window: int = 64
    together: int = 1
    say: Say = lambda line: None
    done: Done = lambda share: None


@dataclass(frozen=True)
class Model:
    """A base model; made by `load`."""

    denoiser: Denoiser
    config: weights.ModelConfig
    path: Path
    device: str

    def denoise(
        self,
        volume: Volume,
        region: str | None = None,
        noise_hu: float | None = None,
        method: Literal["mean", "diffpir"] = "mean",
        running: Running | None = None,
    ) -> Volume:
        """The scan without its noise, on its own grid (METHOD 2 and 3).

        region: head-neck, chest or abdomen decides the window; guessed if not given. noise_hu: SD
        of the noise, estimated if not given. method: "mean", one evaluation; "diffpir", ten.
        Voxels more than three SDs outside the region's window come back untouched.
        """
        running = running or Running()
        coarse = anatomy_of.coarse(volume)
        chosen = _region(volume, coarse, region, running.say)
        if noise_hu is None:
            noise_hu = estimate_noise_hu(volume, coarse)
            running.say(f"noise: {noise_hu:.1f} HU (estimated; --noise-hu overrides)")
        if not 0 < noise_hu < np.inf:
            raise InputError(f"a noise of {noise_hu:g} HU cannot be removed; give one above 0")

        grid = working_grid(volume, self.config.spacing_mm)
        unit = chosen.window.unit(volume.hu.astype(np.float32))
        sigma = chosen.window.sigma(noise_hu)
        told = nearest(coarse, grid)
        work = unit
        if grid != volume.shape:
            shown = " x ".join(map(str, grid))
            running.say(f"grid: worked on {shown} voxels, within the spacings the model knows")
            work, sigma = resize(unit, grid), sigma * noise_gain(volume.shape, grid)

        measured = torch.from_numpy(np.ascontiguousarray(work))[None, None].to(self.device)
        noise = field(running.seed, grid, self.device)
        y = noisy_input(measured, sigma, noise)
        task = (
            denoising(y, sigma)
            if method == "mean"
            else denoising_diffpir(y, sigma, self.config.noise_schedule)
        )
        x0 = self._run(task, self._condition(grid, volume, chosen, told), running)
        added = change(measured, x0, sigma)[0, 0].cpu().numpy()
        if grid != volume.shape:
            # Interpolated, a change would reach into what must come back untouched.
            far = np.abs(unit) > 1 + 3 * chosen.window.sigma(noise_hu)
            added = np.where(far, 0, resize(added, volume.shape))
        added_hu = added * (chosen.window.width_hu / 2)
        return volume.with_hu((volume.hu + added_hu).astype(volume.hu.dtype))

    def synthesize(
        self,
        region: str,
        shape: Shape,
        spacing_mm: tuple[float, float, float],
        anatomy: UInt8[np.ndarray, "x y z"] | None = None,
        steps: int = 20,
        solver: Solver = "dpm++",
        running: Running | None = None,
    ) -> Volume:
        """A new CT of a region on a grid of `shape` voxels (x, y, z) of spacing_mm.

        anatomy: label ids of core/labels on that grid (0: unknown). HU are those of the region's
        window; where the anatomy says "outside", a voxel at the window's lower end is air.
        """
        running = running or Running()
        chosen = region_named(region)
        low, high = self.config.spacing_mm
        if not all(low <= mm <= high for mm in spacing_mm):
            raise InputError(f"the model knows spacings from {low:g} to {high:g} mm")
        if anatomy is not None and anatomy.shape != shape:
            raise InputError(f"the anatomy's grid is {anatomy.shape}, the shape asked for {shape}")
        affine = np.diag([*spacing_mm, 1.0])
        affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing_mm
        noise = field(running.seed, shape, self.device)
        task = synthesis(noise, self.config.noise_schedule, steps, solver)
        told = condition(
            shape,
            spacing_mm,
            chosen.id,
            None if anatomy is None else torch.from_numpy(np.ascontiguousarray(anatomy)),
        )
        hu = chosen.window.hu(self._run(task, told, running)[0, 0].cpu().numpy())
        if anatomy is not None:
            air = (anatomy == OUTSIDE) & (hu < chosen.window.low_hu + 0.05 * chosen.window.width_hu)
            hu = np.where(air, np.minimum(hu, AIR_HU), hu)
        return Volume(hu.astype(np.float32), affine)

    def _condition(
        self, grid: Shape, volume: Volume, region: Region, anatomy: UInt8[np.ndarray, "x y z"]
    ) -> Condition:
        x, y, z = (
            mm * n / m for mm, n, m in zip(volume.spacing_mm, volume.shape, grid, strict=True)
        )
        return condition(grid, (x, y, z), region.id, torch.from_numpy(anatomy))

    def _run(
        self, task: Task, told: Condition, running: Running
    ) -> Float[torch.Tensor, "1 1 x y z"]:
        asked = 0

        def done(share: float) -> None:
            nonlocal asked
            running.done((asked + share) / task.evaluations)
            asked += share == 1

        shape = task.x.shape[2:]
        with torch.inference_mode():
            denoise: Denoise = windowed(
                self.denoiser,
                told.to(self.device),
                self._tiling(running.window, task.blend),
                running.together,
                running.seed,
                done,
            )
            x: Shape = (shape[0], shape[1], shape[2])
            return task.run(denoise, field(running.seed, x, self.device))

    def _tiling(self, window: int, blend: bool) -> Tiling:
        multiple = self.config.net.multiple
        size = max(window // multiple, 3) * multiple
        return Tiling(size, 2 * multiple if blend else 0, multiple)


def working_grid(volume: Volume, limits_mm: tuple[float, float]) -> Shape:
    """The scan's own grid where the model knows its spacing; else the nearest one it knows.

    Finer axes are coarsened to the smallest spacing, coarser ones refined to the largest.
    """
    low, high = limits_mm
    x, y, z = (
        max(1, round(n * mm / float(np.clip(mm, low, high))))
        for n, mm in zip(volume.shape, volume.spacing_mm, strict=True)
    )
    return x, y, z


def _region(
    volume: Volume, coarse: UInt8[np.ndarray, "x y z"], name: str | None, say: Say
) -> Region:
    if name is None:
        name, reason = anatomy_of.guess_region(volume, coarse)
        say(f"region: {name} (guessed: {reason}; --region overrides)")
    return region_named(name)


def load(
    name: str | Path = weights.BUNDLED,
    device: str | None = None,
    precision: Precision = "float32",
) -> Model:
    """Weights by bundled name or path -> a model.

    device: "cpu", "cuda", ...; None: the best there is. precision: "bfloat16", or "auto" for it
    where the hardware multiplies it natively, is up to three times faster and rounds at a 256th.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    path = weights.locate(name)
    denoiser, config = weights.load(path, device, precision)
    return Model(denoiser, config, path, device)
