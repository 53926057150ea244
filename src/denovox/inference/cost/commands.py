"""What the commands would do with a scan: a row for each, as `cost` needs it.

Parts, grids and masks come from the functions that the commands themselves call.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8

from ...core.box import Shape
from ...core.errors import InputError
from ...core.operators.thin_slices import thin
from ...core.regions import region as region_named
from ...core.resample import noise_gain
from ...core.volume import Volume
from ...sampling.windowed import NoiseLevels
from ...scan.body_regions import RegionSpan
from ...scan.noise_map import NoiseMap
from ..anomaly.calibration import bundled
from ..anomaly.detection import check, maps_mb, slices_at_once, wanted_in, within_spans
from ..anomaly.maps import reach_of
from ..denoise import noise_levels
from ..engine import Engine
from ..frame import Frame, working_grid
from ..region_blend import blend_parts
from ..superres import EVALUATIONS, parts_of, slab_thickness
from .tiles import Piece, TilePlan

Command = Literal["denoise", "superres", "detect"]
Method = Literal["mean", "diffpir", "slices halved", "bundled calibrations"]

DIFFPIR = 10  # evaluations
HALVED = 2.0  # factor of `superres`
FLOAT, MASK, LABELS = 4, 1, 1  # bytes per voxel
ANATOMY = 5  # bytes per voxel while the anatomy is found
# CPU seconds of everything but the network per voxel of the result: reading and writing .nii.gz,
# anatomy, noise, blending; of superres, the interpolation and the steps of the sampler; of detect,
# the maps. Measured on a core of an AMD EPYC, with a network that costs nothing, on phantoms of .5
# to 14 million voxels and a resampled chest of 16 million; denoise takes .42e-6 on a Xeon.
DENOISE_S, SUPERRES_S, DETECT_S = 0.3e-6, 0.9e-6, 0.8e-6


@dataclass(frozen=True)
class Noise:
    """The noise of a region as it decides how much work there is. sd_hu: SD, HU; variation: within
    the part of the scan that is restored with it; None: none."""

    sd_hu: float = 0.0
    variation: NoiseMap | None = None


@dataclass(frozen=True, eq=False)
class Scan:
    """A scan and what is known of it. volume: with air in place of what was filled.

    noise: of each region (None: white, and so little that voxels outside the window stay).
    stored_mb: of the file's stored values, which the commands keep for writing.
    """

    volume: Volume
    coarse: UInt8[np.ndarray, "x y z"]
    spans: tuple[RegionSpan, ...]
    noise: tuple[Noise, ...] | None = None
    stored_mb: float = 0.0
    filled: bool = False


@dataclass(frozen=True)
class Work:
    """A command's work on a scan.

    shape: of the arrays that are as large as the result. voxel_s: seconds for each of their voxels,
    besides the network. anatomy_bytes: of each of them while the anatomy is found; held_bytes:
    later, throughout; both besides the scan as it was read. kept: arrays in float32 in the `Room`.
    kind: of `memory.GRID_BYTES`. after_mb: what is left in the room -> memory for what follows the
    network.
    """

    command: Command
    method: Method
    plan: TilePlan
    shape: Shape
    voxel_s: float
    anatomy_bytes: int
    held_bytes: int
    kept: list[Shape]
    kind: str
    after_mb: Callable[[float], float] = field(default=lambda left_mb: 0.0)


def works(model: Engine, scan: Scan, edge: int) -> Iterator[Work]:
    """The work of each command that would accept the scan. edge: as in `RunOptions.tile`."""
    yield denoising(model, scan, "mean", edge)
    yield denoising(model, scan, "diffpir", edge)
    with suppress(InputError):  # the model does not support slices that thin
        yield super_resolution(model, scan, edge)
    with suppress(InputError):  # no calibrations for these weights, or these regions
        yield detection(model, scan, edge)


def denoising(model: Engine, scan: Scan, method: Literal["mean", "diffpir"], edge: int) -> Work:
    """`denovox denoise`."""
    volume, limits_mm = scan.volume, model.config.spacing_mm
    grid = working_grid(volume, limits_mm)
    parts = blend_parts(scan.spans, volume.spacing_mm[2])

    def pieces() -> Iterator[Piece]:
        for part, noise in zip(parts, scan.noise or (Noise(),) * len(parts), strict=True):
            frame = Frame.of_slices(volume, grid, region_named(part.span.region), part.z)
            if method == "diffpir":
                yield Piece(frame.box.size, range(DIFFPIR), blend=False)
                continue
            gain = noise_gain(volume.shape, frame.grid)
            sigma = frame.region.window.sigma(noise.sd_hu) * gain
            levels = (
                NoiseLevels((sigma,))
                if noise.variation is None
                else noise_levels(frame, part.z.start, sigma, noise.variation)
            )
            needed = _may_change(volume, frame, sigma)
            yield Piece(frame.box.size, needed=needed, levels=levels)

    return Work(
        "denoise",
        method,
        TilePlan.of(model, pieces(), edge),
        volume.shape,
        DENOISE_S,
        ANATOMY,
        LABELS,
        [volume.shape],
        method if method != "mean" else "stream" if grid == volume.shape else "resampled",
    )


def super_resolution(model: Engine, scan: Scan, edge: int) -> Work:
    """`denovox superres --factor 2`; `InputError` where it would refuse the scan."""
    volume, limits_mm = scan.volume, model.config.spacing_mm
    thick_mm = slab_thickness(volume, volume.spacing_mm[2] / HALVED)
    fine = thin(volume, limits_mm, HALVED, thickness_mm=thick_mm)
    shape = (*volume.shape[:2], fine.count)
    base = Volume(np.broadcast_to(np.float32(0), shape), fine.affine(volume))  # takes no memory
    # The command itself finds the regions again, in the thin slices.
    spans = [
        replace(
            span,
            start=int(np.searchsorted(fine.nearest, span.start)),
            stop=int(np.searchsorted(fine.nearest, span.stop)),
        )
        for span in scan.spans
    ]
    frames = [frame for _, frame in parts_of(base, fine, spans, limits_mm)]
    pieces = [Piece(frame.box.size, range(EVALUATIONS), blend=False) for frame in frames]
    plan = TilePlan.of(model, pieces, edge)
    x, y, z = plan.part
    interpolation = FLOAT * (2 if scan.filled else 1)
    return Work(
        "superres",
        "slices halved",
        plan,
        shape,
        SUPERRES_S,
        interpolation + ANATOMY,
        interpolation + LABELS + MASK,
        [shape, (x, y, math.ceil(z / HALVED)), plan.part],
        "stream" if frames[0].grid == shape else "resampled",
    )


def detection(model: Engine, scan: Scan, edge: int) -> Work:
    """`denovox detect`; `InputError` where no calibration fits the weights or the regions."""
    volume, limits_mm = scan.volume, model.config.spacing_mm
    calibrations = {each.region: each for each in bundled()}
    check(tuple(calibrations.values()), model)
    covered = [span for span in scan.spans if span.region in calibrations]
    within = within_spans(scan.coarse, covered)
    parts = blend_parts(scan.spans, volume.spacing_mm[2])
    boxes, reach = list[Shape](), 0

    def pieces() -> Iterator[Piece]:
        nonlocal reach
        for _, wanted in wanted_in(volume, scan.coarse, parts, within, calibrations):
            frame, method = wanted.frame(limits_mm), wanted.method
            boxes.append(wanted.box.size)
            reach = max(reach, reach_of(method, volume.spacing_mm[2]))
            needed = torch.from_numpy(frame.labels(wanted.roi)) if method.steps == 1 else None
            yield Piece(frame.box.size, (*range(method.steps),) * method.seeds, needed=needed)

    plan = TilePlan.of(model, pieces(), edge)
    if not boxes:
        raise InputError("no calibration for these regions")
    box = max(boxes, key=math.prod)
    several = any(each.method.steps > 1 for each in calibrations.values())
    own_grid = working_grid(volume, limits_mm) == volume.shape
    return Work(
        "detect",
        "bundled calibrations",
        plan,
        volume.shape,
        DETECT_S,
        ANATOMY,
        LABELS + MASK * (1 if len(parts) == 1 else 2),
        [volume.shape, volume.shape, plan.part],
        "sample" if several else "stream" if own_grid else "resampled",
        lambda left_mb: maps_mb(box, slices_at_once(left_mb, volume.shape), reach),
    )


def _may_change(volume: Volume, frame: Frame, sigma: float) -> Bool[torch.Tensor, "x y z"]:
    """Voxels of a frame that denoising may change."""
    near = np.empty(volume.shape, bool)
    for hu, out in zip(volume.hu, near, strict=True):
        np.less_equal(np.abs(frame.region.window.unit(hu)), 1 + 3 * sigma, out=out)
    return torch.from_numpy(frame.labels(near))
