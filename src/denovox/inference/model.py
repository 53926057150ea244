"""The room that joins the others: a model that takes volumes and gives volumes."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, UInt8

from ..core.box import Shape, Tiling
from ..core.condition import Condition, ControlKind, condition
from ..core.errors import InputError, ensure
from ..core.labels import OUTSIDE, with_lesion
from ..core.operators.coloured_noise import Spectrum
from ..core.random_field import field
from ..core.regions import region as region_named
from ..core.resample import noise_gain
from ..core.volume import Volume
from ..model import weights
from ..model.denoiser import Denoiser, Precision
from ..sampling.interleaved import STEP, interleaved, phase
from ..sampling.sampler import Denoise, Noise
from ..sampling.windowed import windowed
from ..scan import anatomy as anatomy_of
from ..scan.body_regions import RegionSpan, region_spans
from ..tasks import (
    AGAIN,
    Solver,
    Task,
    change,
    denoising,
    denoising_coloured,
    denoising_diffpir,
    denoising_sample,
    noisy_input,
    synthesis,
)
from .frame import Frame, tensor, working_grid
from .options import RunOptions, Say
from .region_blend import Part, handover
from .scan_context import ScanNoise, noise_in

AIR_HU = -1000.0
Method = Literal["mean", "diffpir", "sample"]


@dataclass(frozen=True)
class Model:
    """A base model, maybe with a control, of that kind and file; made by `load`."""

    denoiser: Denoiser
    config: weights.ModelConfig
    path: Path
    device: str
    control: ControlKind | None = None
    steered_by: Path | None = None

    def denoise(
        self,
        volume: Volume,
        region: str | None = None,
        noise_hu: float | None = None,
        method: Method = "mean",
        options: RunOptions | None = None,
        noise: ScanNoise | None = None,
    ) -> Volume:
        """The scan without its noise, on its own grid (METHOD 2 and 3).

        region: headneck, chest or abdomen decides the window; "auto" or None: found along z, each
        in its own window, with a smooth hand-over of 20 mm where the scan spans several. noise_hu:
        SD of the noise, estimated in each region if not given; its spectrum always is. method:
        "mean", one evaluation, or four where the noise is coloured; "diffpir", ten; "sample", ten,
        for one draw from what the scan may be (inference/posterior.py). noise: as `Model.noise`
        found it, in place of `region` and `noise_hu`.
        Voxels more than three SDs outside the region's window come back untouched.
        """
        options = options or RunOptions()
        known = noise or self.noise(volume, region, noise_hu, options.say)
        parts = handover(known.slabs, volume.spacing_mm[2])
        grid = working_grid(volume, self.config.spacing_mm)
        if grid != volume.shape:
            shown = " x ".join(map(str, grid))
            options.say(f"grid: worked on {shown} voxels, within the spacings the model knows")
        added_hu = np.zeros(volume.shape, np.float32)
        for number, (part, found) in enumerate(zip(parts, known.found, strict=True)):
            share = share_of(options, number, parts)
            frame = Frame.of_slices(volume, grid, region_named(part.slab.region), part.z)
            added = self._added_hu(volume, frame, part.z, found, method, known.coarse, share)
            added_hu[..., part.z] += part.weight * added
        return volume.with_hu((volume.hu + added_hu).astype(volume.hu.dtype))

    def noise(
        self, volume: Volume, region: str | None, noise_hu: float | None, say: Say
    ) -> ScanNoise:
        """The regions of a scan and the noise in each; arguments as in `denoise`."""
        coarse = anatomy_of.coarse(volume)
        slabs = region_spans_of(volume, coarse, region, say)
        found = [noise_in(volume, coarse, slab, noise_hu, say) for slab in slabs]
        return ScanNoise(coarse, slabs, tuple(found))

    def _added_hu(
        self,
        volume: Volume,
        frame: Frame,
        z: slice,
        noise_of: tuple[float, Spectrum],
        method: Method,
        ids: UInt8[np.ndarray, "x y z"],
        options: RunOptions,
    ) -> Float[np.ndarray, "x y z2"]:
        """What to add to slices z, whose frame this is, in the window of its region."""
        noise_hu, spectrum = noise_of
        window, noise = frame.region.window, frame.noise(options.seed, self.device)
        sigma = window.sigma(noise_hu) * noise_gain(volume.shape, frame.grid)
        measured = tensor(window.unit(frame.to_grid(volume.hu.astype(np.float32)))).to(self.device)
        y, told = noisy_input(measured, sigma, noise), frame.condition(ids)
        psd = spectrum.on(frame.box.size, frame.spacing_mm).to(self.device)
        schedule = self.config.noise_schedule
        if method == "diffpir":
            x0 = self.run(denoising_diffpir(y, sigma, schedule), told, noise, options)
        elif method == "sample":
            x0 = self.run(denoising_sample(y, sigma, psd, noise, schedule), told, noise, options)
        else:
            tasks = denoising_coloured(y, sigma, psd, noise)
            count = len(tasks) if len(tasks) == 1 else len(tasks) + 1
            x0 = torch.zeros_like(y)
            for number, task in enumerate(tasks):
                part_of = options.part(number, count)
                x0 += self.run(task, told, noise, part_of) / len(tasks)
            if count > 1:
                last = options.part(count - 1, count)
                x0 = self.run(denoising(x0, AGAIN * sigma), told, noise, last)
        added = change(measured, x0, sigma)[0, 0].cpu().numpy()
        if not frame.own_grid:
            # Interpolated, a change would reach into what must come back untouched.
            far = np.abs(window.unit(volume.hu[..., z])) > 1 + 3 * window.sigma(noise_hu)
            added = np.where(far, 0, frame.from_grid(added, z))
        return added * (window.width_hu / 2)

    def synthesize(
        self,
        region: str,
        shape: Shape,
        spacing_mm: tuple[float, float, float],
        anatomy: UInt8[np.ndarray, "x y z"] | None = None,
        steps: int = 20,
        solver: Solver = "dpm++",
        options: RunOptions | None = None,
        lesion: Bool[np.ndarray, "x y z"] | None = None,
    ) -> Volume:
        """A new CT of a region on a grid of `shape` voxels (x, y, z) of spacing_mm.

        anatomy: label ids of core/labels on that grid (0: unknown). lesion: where lesions are to
        be, of a model with a control for them; the anatomy is that without them. HU are those of
        the region's window; where the anatomy says "outside", its lower end is air.
        """
        options = options or RunOptions()
        chosen = region_named(region)
        low, high = self.config.spacing_mm
        if not all(low <= mm <= high for mm in spacing_mm):
            raise InputError(f"the model knows spacings from {low:g} to {high:g} mm")
        if anatomy is not None and anatomy.shape != shape:
            raise InputError(f"the anatomy's grid is {anatomy.shape}, the shape asked for {shape}")
        affine = np.diag([*spacing_mm, 1.0])
        affine[:3, 3] = -(np.array(shape) - 1) / 2 * spacing_mm
        noise = field(options.seed, shape, self.device)
        task = synthesis(noise, self.config.noise_schedule, steps, solver)
        ids = anatomy if anatomy is None or lesion is None else with_lesion(anatomy, lesion)
        told = condition(
            shape,
            spacing_mm,
            chosen.id,
            None if ids is None else torch.from_numpy(np.ascontiguousarray(ids)),
        )
        if lesion is not None:
            told = self.steered(told, torch.from_numpy(lesion.astype(np.float32)))
        hu = chosen.window.hu(self.run(task, told, noise, options)[0, 0].cpu().numpy())
        if anatomy is not None:
            air = (anatomy == OUTSIDE) & (hu < chosen.window.low_hu + 0.05 * chosen.window.width_hu)
            hu = np.where(air, np.minimum(hu, AIR_HU), hu)
        return Volume(hu.astype(np.float32), affine)

    def steered(self, told: Condition, lesion: Float[torch.Tensor, "x y z"]) -> Condition:
        """A condition that says where lesions are to be (1); `InputError` without a control."""
        ensure(
            self.control == "lesion",
            "to put lesions in, the model needs a control for them: --control lesion",
        )
        return replace(told, control=lesion[None, None])

    def run(
        self, task: Task, told: Condition, noise: Noise, options: RunOptions
    ) -> Float[torch.Tensor, "1 1 x y z"]:
        asked, calls = 0, task.evaluations * (STEP**2 if task.split else 1)

        def done(share: float) -> None:
            nonlocal asked
            options.progress((asked + share) / calls)
            asked += share == 1

        def denoise_of(told: Condition) -> Denoise:
            return windowed(
                self.denoiser,
                told.to(self.device),
                self.tiling(options.tile, task.blend),
                options.batch,
                options.seed,
                done,
            )

        with torch.inference_mode():
            denoise = denoise_of(told)
            if task.split:
                denoise = interleaved(lambda i, j: denoise_of(phase(told, i, j)))
            return task.run(denoise, noise)

    def tiling(self, window: int, blend: bool) -> Tiling:
        multiple = self.config.net.multiple
        size = max(window // multiple, 3) * multiple
        return Tiling(size, 2 * multiple if blend else 0, multiple)


def region_spans_of(
    volume: Volume, coarse: UInt8[np.ndarray, "x y z"], region: str | None, say: Say
) -> tuple[RegionSpan, ...]:
    """The regions along z; a named one is the whole scan's."""
    if region not in (None, "auto"):
        return (RegionSpan(region_named(region).name, 0, volume.shape[2], "named"),)
    slabs = region_spans(volume, coarse)
    for slab in slabs:
        where = f"slices {slab.start} to {slab.stop - 1}"
        say(f"region: {slab.region}, {where} ({slab.reason}; --region overrides)")
    return slabs


def share_of(options: RunOptions, number: int, parts: list[Part]) -> RunOptions:
    """The options for part `number`, whose share of the work goes by its slices."""
    sizes = [part.stop - part.start for part in parts]
    before, whole = sum(sizes[:number]), sum(sizes)
    return options.between(before / whole, (before + sizes[number]) / whole)


def load(
    name: str | Path = weights.BUNDLED,
    device: str | None = None,
    precision: Precision = "float32",
    control: str | Path | None = None,
) -> Model:
    """Weights by bundled name or path -> a model.

    name: of a base, or of a control, which finds its base by itself. control: of `denovox finetune`
    for this base. `InputError` where it belongs to another. device: "cpu", "cuda", ...; None: the
    best there is. precision: "bfloat16", or "auto" for it where the hardware multiplies it
    natively, is up to three times faster and rounds at a 256th.
    """
    device = device or ("cuda" if torch.cuda.is_available() else "cpu")
    base, steered = weights.resolve([name] if control is None else [name, control])
    kind = None if steered is None else weights.describe_control(steered)[0].kind
    denoiser, config = weights.load(base, device, precision, steered)
    return Model(denoiser, config, base, device, kind, steered)
