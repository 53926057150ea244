"""The public interface of a model: one method per task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import numpy as np
import torch
from jaxtyping import Shaped, UInt8

from ..core.box import Shape
from ..core.errors import ensure, one_of
from ..core.operators.slice_profile import Profile
from ..core.volume import Volume
from ..model import loading, weights
from ..model.denoiser import Denoiser, Precision
from ..model.devices import devices_named
from ..sampling.guidance import Guidance
from ..scan import gate
from ..simulate.lesion_density import Density, DensityRequest
from ..simulate.lesion_placement import LesionRequest
from ..tasks import Solver
from . import denoise, inpaint, lesions, posterior, superres, synthesize
from .anomaly import detection
from .anomaly.calibration import Calibration, bundled
from .anomaly.components import LIMITS, ComponentLimits
from .engine import Engine
from .frame import Spacing
from .large.sharing import Fitting, Shared
from .options import RunOptions
from .scan_context import ScanContext, check_volume, context_of

LabelIds = UInt8[np.ndarray, "x y z"]
Marked = Shaped[np.ndarray, "x y z"]  # a mask of any type, nonzero where it is set


class Model(Engine):
    """A base model, with a control if there is one; created by `load`.

    Volumes are HU on a grid in space; label and mask arrays are on the volume's own grid, in its
    axes (x, y, z nearest to RAS: `denovox.read_labels(path, like=volume)`). Every method takes
    `options` (seed, tile, batch, callbacks) and raises a one-sentence `InputError` for bad input.

    region: headneck, chest or abdomen selects the HU window; None or "auto": recognised along z,
    each region in its own window, with a smooth transition of 20 mm between them.
    context: a `ScanContext` of the same scan, which lets several tasks share its anatomy, regions
    and noise; it replaces `region` and `noise_hu`.
    """

    def denoise(
        self,
        volume: Volume,
        region: str | None = None,
        noise_hu: float | None = None,
        method: denoise.Method = "mean",
        options: RunOptions | None = None,
        context: ScanContext | None = None,
    ) -> Volume:
        """The denoised scan, on its own grid (Method 2 and Method 3).

        noise_hu: SD of the noise in soft tissue, HU; None: estimated in each region. method:
        "mean", the posterior mean, for which the network is evaluated once, or where the noise
        varies at the two nearest of a few noise levels; "diffpir", ten times; "sample", ten times,
        for one sample of the posterior.
        Voxels more than three SDs outside the region's window are returned unchanged.
        """
        one_of(method, get_args(denoise.Method), "method")
        options = options or RunOptions()
        known = context_of(volume, region, noise_hu, options, context)
        return denoise.denoise(self, known, method, options)

    def posterior(
        self,
        volume: Volume,
        n: int = 8,
        region: str | None = None,
        noise_hu: float | None = None,
        options: RunOptions | None = None,
        context: ScanContext | None = None,
    ) -> posterior.Posterior:
        """Mean and SD (n - 1 degrees of freedom), HU, of n samples of the denoised scan.

        Sample k uses the seed options.seed + k. The SD is scaled as `posterior.Spread` describes.
        `InputError` for fewer than two samples.
        """
        posterior.check_count(n)
        options = options or RunOptions()
        known = context_of(volume, region, noise_hu, options, context)
        return posterior.samples(self, known, n, options)

    def superres(
        self,
        volume: Volume,
        factor: float | None = None,
        *,
        spacing_z_mm: float | None = None,
        thickness_mm: float | None = None,
        profile: Profile = "box",
        region: str | None = None,
        evaluations: int = superres.EVALUATIONS,
        anatomy: LabelIds | None = None,
        options: RunOptions | None = None,
    ) -> superres.ThinSlices:
        """Thin slices from thick ones: `factor` times as many, or spacing_z_mm apart.

        thickness_mm: slice thickness of the scan; None: as in its DICOM header, or else its
        spacing. profile: slice sensitivity along z. evaluations: of the network, per voxel; 0: the
        interpolation that is consistent with the scan. anatomy: label ids on the grid of the scan
        or of the result.
        Averaged back, the result reproduces the scan; `consistency` gives the error. `InputError`
        where the model does not support the requested spacing, or it is not finer than the scan's.
        """
        one_of(profile, get_args(Profile), "slice profile")
        check_volume(volume)
        gate.require_ct(volume, accept_hu=options is not None and options.accept_hu)
        return superres.superres(
            self,
            volume,
            factor=factor,
            spacing_z_mm=spacing_z_mm,
            thickness_mm=thickness_mm,
            profile=profile,
            region=region,
            evaluations=evaluations,
            anatomy=anatomy,
            options=options,
        )

    def detect(
        self,
        volume: Volume,
        roi: Marked | None = None,
        region: str | None = None,
        calibrations: Sequence[Calibration] | None = None,
        limits: ComponentLimits = LIMITS,
        options: RunOptions | None = None,
        context: ScanContext | None = None,
    ) -> detection.Detection:
        """Where the scan differs from healthy ones: z-scores, their components, a score.

        roi: where to look, usually an organ; None: the whole body. calibrations: one per region,
        for these weights (`denovox calibrate`); None: the bundled ones. limits: of a component.
        `InputError` where a calibration is for other weights, or none covers the ROI.
        """
        options = options or RunOptions()
        known = context_of(volume, region, None, options, context)
        mask = None if roi is None else _mask(roi, volume, "region of interest")
        chosen = bundled() if calibrations is None else calibrations
        return detection.detect(self, known, chosen, mask, limits, options)

    def synthesize(
        self,
        region: str | None,
        shape: Shape,
        spacing_mm: Spacing,
        anatomy: LabelIds | None = None,
        lesions: Marked | None = None,
        steps: int | None = None,
        solver: Solver = "dpm++",
        options: RunOptions | None = None,
        *,
        guidance: float | Guidance | None = None,
        guide: Engine | None = None,
        levels: int | None = None,
    ) -> Volume:
        """A new CT of a region on a grid of `shape` voxels (x, y, z) of size spacing_mm (Method 6).

        region: None or "auto": those that the anatomy shows, each in its own window, blended as in
        `denoise`. anatomy: label ids of docs/reference/labels.md on that grid (0: unknown).
        lesions: where to add lesions to the result, as `add_lesions` does; `anatomy` is the one
        without them. steps: evaluations of the network per level, fewer where a large volume has
        many tiles; None: 5, or as many as distilled weights take. guidance: its weight, 1 for
        none; None: as `Guidance`, or none for weights that were not trained for it. guide: weaker
        weights, in place of the same ones without conditions. levels: 1 draws all at once, more
        draw the whole first and refine it; None: 1 where the anatomy is given and the volume is not
        too large, else as many as there are. HU are within the region's window; where the anatomy
        is "outside" or airway, what is near air becomes air of -1000 HU.
        """
        one_of(solver, get_args(Solver), "solver")
        options = options or RunOptions()
        wanted = synthesize.Wanted(region, shape, spacing_mm, anatomy)
        how = synthesize.Sampling(steps, solver, levels, guidance, guide)
        if lesions is None:
            return synthesize.synthesize(self, wanted, how, options)
        self.require_lesions()
        grid = f"the lesion mask's grid is {np.shape(lesions)}, the requested shape {shape}"
        ensure(np.shape(lesions) == tuple(shape), grid)
        drawn = synthesize.synthesize(self, wanted, how, options.between(0, 0.8))
        rest = replace(options.between(0.8, 1), accept_hu=True)
        return self.add_lesions(drawn, lesions, anatomy=anatomy, region=region, options=rest).volume

    def add_lesions(
        self,
        volume: Volume,
        mask: Marked | None = None,
        *,
        organ: str | None = None,
        diameter_mm: float | None = None,
        count: int = 1,
        density: Density | None = None,
        contrast_hu: float | None = None,
        anatomy: LabelIds | None = None,
        region: str | None = None,
        options: RunOptions | None = None,
        context: ScanContext | None = None,
    ) -> lesions.Edited:
        """The scan with lesions added: one per component of a mask, or placed in an organ.

        organ: a class of docs/reference/labels.md; shapes and positions are drawn from
        options.seed, away from the organ's border and from vessels. diameter_mm: of a ball of the
        lesion's volume; None: drawn from published sizes. density: solid,
        part-solid or ground-glass, in the lung; contrast_hu: difference from the organ, or from the
        ring 3 to 6 mm around a mask; neither: HU drawn from the range of real lesions. anatomy:
        label ids, where finer ones than the coarse classes are available. More than 4 mm from the
        lesions, all voxels are returned unchanged. `InputError` unless exactly one of mask and
        organ is given, where the lesions do not fit or cannot be as dense as requested, or without
        a control for lesions (`denovox.load("lesion")`).
        """
        options, wanted = options or RunOptions(), DensityRequest(density, contrast_hu)
        ensure((mask is None) != (organ is None), "give either a mask or an organ, but not both")
        known = context_of(volume, region, None, options, context)
        if mask is not None:
            plan = lesions.in_mask(volume, _mask(mask, volume, "lesion"), options.seed)
            plan = replace(plan, anatomy=anatomy)
        else:
            request = LesionRequest(organ=organ or "", diameter_mm=diameter_mm, count=count)
            plan = lesions.in_organ(known, request, anatomy, options.seed)
        plan = lesions.with_levels(known, plan, options.seed, wanted)
        return lesions.add(self, known, plan, options)

    def inpaint(
        self,
        volume: Volume,
        mask: Marked,
        lesion: Marked | None = None,
        *,
        anatomy: LabelIds | None = None,
        region: str | None = None,
        steps: int = 20,
        jumps: tuple[int, int] = (2, 2),
        options: RunOptions | None = None,
        context: ScanContext | None = None,
    ) -> Volume:
        """The scan with the voxels of `mask` generated by the model, and all others unchanged.

        lesion: where in the mask to draw a lesion; None: healthy tissue. jumps: RePaint's jump
        length and repeats; (1, 1): none. `InputError` where a mask is empty or mostly outside the
        body.
        """
        options = options or RunOptions()
        known = context_of(volume, region, None, options, context)
        hole = _mask(mask, volume, "hole")
        inside = None if lesion is None else _mask(lesion, volume, "lesion")
        levels = None
        if inside is not None:
            plan = lesions.in_mask(volume, inside, options.seed)
            levels = lesions.with_levels(known, plan, options.seed).levels
        edit = inpaint.Edit(hole, inside, anatomy, steps, jumps, levels)
        return inpaint.edit(self, known, edit, options)


def _mask(values: Marked, volume: Volume, name: str) -> np.ndarray:
    """True where a mask is set; `InputError` where it is not on the volume's grid."""
    mask = np.asarray(values) != 0
    shapes = f"the {name} mask has the shape {mask.shape}, the scan {volume.shape}"
    ensure(mask.shape == volume.shape, f"{shapes}; resample the mask to the scan's grid")
    return mask


def load(
    name: str | Path = weights.BUNDLED,
    device: str | int | torch.device | None = None,
    precision: Precision = "auto",
    control: str | Path | None = None,
) -> Model:
    """Load a model by the bundled name or the path of its weights.

    name: of a base, or of a control, which finds its base by itself. control: from `denovox
    finetune` for this base; `InputError` where it belongs to another. device: "cpu", "cuda", ...,
    or several that share the tiles of a scan, such as "cuda:0,cuda:1"; None: the best available;
    `InputError` for one that is not available. precision: "auto" computes in bfloat16 where the
    hardware supports it natively, which takes about half the time and changes a denoised scan by
    less than 0.1 HU (SD); elsewhere, and with "float32", in float32.
    """
    devices = devices_named(device)
    one_of(precision, get_args(Precision), "precision")
    base, control_file = weights.resolve([name] if control is None else [name, control])
    kind = None if control_file is None else weights.describe_control(control_file)[0].kind
    loaded = {each: loading.load(base, each, precision, control_file) for each in devices}
    config = loaded[devices[0]][1]
    fitting: list[Denoiser] = [
        Fitting(loaded[each][0]) if each.startswith("cuda") else loaded[each][0] for each in devices
    ]
    denoiser = fitting[0] if len(devices) == 1 else Shared(fitting, devices)
    return Model(denoiser, config, base, devices[0], kind, control_file)
