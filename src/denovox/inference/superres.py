"""Super-resolution along z without task-specific training (Method 2 and Method 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ..core.errors import InputError, ensure
from ..core.morphology import Mask
from ..core.operators.slab_average import SlabAverage, interpolation
from ..core.operators.slice_profile import Profile, slab_centres_mm, slab_matrix
from ..core.regions import region as region_named
from ..core.tensors import tensor
from ..core.volume import Volume
from ..io.dicom.reader import DicomSource
from ..reports.recorder import decided
from ..scan.anatomy import coarse
from ..scan.constant_fill import as_air, outside_fill
from ..tasks import change, super_resolution
from .engine import Engine
from .frame import Frame, working_grid
from .options import RunOptions
from .region_blend import Part, blend_parts, share_of
from .scan_context import spans_in

# Voxels outside the window by less than three of these (model units) may change; farther outside,
# the interpolation is kept (Method 3).
REACH = 0.1
CREDIBLE = 0.5, 5.0  # thickness of slices in a header, relative to their spacing
PLANES = 32  # of columns, at a time
SAME = 1e-3  # closer to the spacing than this, a thickness is the spacing


@dataclass(frozen=True)
class Consistency:
    """Difference between the input slices and the result averaged back to them, HU."""

    max_hu: float
    rms_hu: float

    def __str__(self) -> str:
        return f"averaged back: within {self.max_hu:.2g} HU of the input (RMS {self.rms_hu:.2g})"


@dataclass(frozen=True)
class ThinSlices(Volume):
    """A volume of thin slices, and how well it averages back to the thick ones."""

    consistency: Consistency = Consistency(0.0, 0.0)


@dataclass(frozen=True)
class Thin:
    """The thin slices to reconstruct, and how the thick ones are made of them.

    count, spacing_mm: of the thin slices; they start at the lower face of the first thick one.
    centres: of the thin slices, in units of thick ones (0 is the centre of the first).
    """

    operator: SlabAverage
    count: int
    spacing_mm: float
    centres: Float[np.ndarray, " fine"]

    def grid(self, volume: Volume) -> Volume:
        """The interpolation along z: cubic, then the closest one whose averages are the slices.

        The result has no source, since its grid is new.
        """
        weights = interpolation(self.operator.matrix, self.centres).astype(np.float32)
        affine = volume.affine.astype(np.float64)
        affine[:3, 3] += affine[:3, 2] * self.centres[0]
        affine[:3, 2] *= self.spacing_mm / volume.spacing_mm[2]
        return Volume(np.ascontiguousarray(volume.hu.astype(np.float32) @ weights), affine)

    def compare(self, thin: Volume, thick: Volume) -> Consistency:
        """`thin`, averaged back, compared with `thick`."""
        averaged = self.operator.A(tensor(thin.hu))[0, 0].numpy()
        error = np.abs(averaged - thick.hu)
        return Consistency(float(error.max()), float(np.sqrt(np.mean(error**2, dtype=np.float64))))


def superres(
    engine: Engine,
    volume: Volume,
    *,
    factor: float | None = None,
    spacing_z_mm: float | None = None,
    thickness_mm: float | None = None,
    profile: Profile = "box",
    region: str | None = None,
    evaluations: int = 5,
    anatomy: UInt8[np.ndarray, "x y z"] | None = None,
    options: RunOptions | None = None,
) -> ThinSlices:
    """Slices `factor` times as dense along z, or spacing_z_mm apart, and their data consistency.

    thickness_mm: of the input slices; None: as in their DICOM header, or else their spacing.
    Thicker ones overlap, thinner ones leave gaps. profile: their sensitivity along z. region: as in
    `Model.denoise`. evaluations: of the model, per voxel; 0 is the consistent interpolation alone.
    anatomy: label ids of core/labels on the grid of the scan or of the result; None: the coarse
    classes, computed on the interpolation (those of the thick slices have steps, which cost a
    decibel or more).
    The thin slices start at the lower face of the first thick one and end at the upper face of the
    last. Averaged back, they reproduce the input; any detail beyond that is the model's guess.
    More than 0.3 units outside the region's window, the result is the interpolation.
    `InputError` where the model does not support the requested spacing, or it is not finer.
    """
    options = options or RunOptions()
    ensure(evaluations >= 0, f"the number of evaluations is {evaluations}; give 0 or more")
    limits_mm = engine.config.spacing_mm
    if thickness_mm is None:
        thickness_mm, why = thickness_of(volume)
        options.say(f"slice thickness: {why}")
        if thickness_mm is not None:
            # Slices thinner than those requested would be refused, which is for the user's own
            # thickness; that of a header only says that there are gaps.
            step_mm = spacing_z_mm or volume.spacing_mm[2] / (factor or 1)
            thickness_mm = max(thickness_mm, step_mm)
    elif thickness_mm > CREDIBLE[1] * volume.spacing_mm[2]:
        options.say(f"slice thickness: {thickness_mm:g} mm, as given, is over {CREDIBLE[1]:g} times"
                    f" the slice spacing, {volume.spacing_mm[2]:g} mm")  # fmt: skip
    fine = thin(volume, limits_mm, factor, spacing_z_mm, thickness_mm, profile)
    base = fine.grid(volume)
    options.say(f"slices: {volume.shape[2]} of {volume.spacing_mm[2]:g} mm to {fine.count} of"
                f" {fine.spacing_mm:g} mm")  # fmt: skip
    if evaluations:
        filled = outside_fill(volume.hu)
        seen = base if filled is None else fine.grid(volume.with_hu(as_air(volume.hu, filled)))
        ids = coarse(seen) if anatomy is None else anatomy
        shapes = f"the anatomy's grid is {ids.shape}, the scan's {volume.shape}"
        ensure(ids.shape in (volume.shape, base.shape), f"{shapes}; resample it to the scan's grid")
        added = _added_hu(engine, seen, filled, fine, ids, region, evaluations, options)
        base = base.with_hu(np.add(base.hu, added, out=added))
    return ThinSlices(base.hu, base.affine, None, fine.compare(base, volume))


def thickness_of(volume: Volume) -> tuple[float | None, str]:
    """(thickness of the scan's slices in mm, None for their spacing; the reason).

    From the DICOM header (SliceThickness), unless that is missing, not credible, or of slices that
    are not axial.
    """
    spacing_mm, source = volume.spacing_mm[2], volume.source
    default = f"taken as the slice spacing, {spacing_mm:g} mm"
    if not isinstance(source, DicomSource):
        return None, f"{default} (--thickness overrides)"
    header_mm = source.facts.thickness_mm
    low, high = (share * spacing_mm for share in CREDIBLE)
    why = ""
    if source.slice_axis != 2:
        why = "the slices of the DICOM series are not axial"
    elif header_mm is None:
        why = "the DICOM header has none"
    elif not low <= header_mm <= high:
        limit = f"less than {CREDIBLE[0]:g}" if header_mm < low else f"over {CREDIBLE[1]:g}"
        why = f"the {header_mm:g} mm of the DICOM header are {limit} times that"
    if why or header_mm is None:
        return None, f"{default} ({why}; --thickness overrides)"
    same = abs(header_mm / spacing_mm - 1) < SAME
    reason = f"{header_mm:g} mm (from the DICOM header; --thickness overrides)"
    return None if same else header_mm, reason


def thin(
    volume: Volume,
    limits_mm: tuple[float, float],
    factor: float | None = None,
    spacing_z_mm: float | None = None,
    thickness_mm: float | None = None,
    profile: Profile = "box",
) -> Thin:
    """The thin slices of a scan; limits_mm: supported spacings. Errors as in `superres`."""
    count, thick_mm = volume.shape[2], volume.spacing_mm[2]
    ensure(
        (factor is None) != (spacing_z_mm is None),
        "give either a factor or the spacing of the new slices in mm, but not both",
    )
    ensure(
        factor is None or (np.isfinite(factor) and factor > 1),
        f"a factor of {factor} does not make slices thinner; give one above 1",
    )
    requested_mm = thick_mm / factor if factor is not None else float(spacing_z_mm or 0)
    low, high = limits_mm
    if not low * 0.999 <= requested_mm <= high:
        most = f"; the largest factor here is {thick_mm / low:.3g}" * (thick_mm > low)
        raise InputError(
            f"slices {requested_mm:.3g} mm apart were requested, but the model supports spacings"
            f" from {low:g} to {high:g} mm{most}"
        )
    ensure(
        requested_mm < thick_mm * 0.999,
        f"a spacing of {requested_mm:.3g} mm is not finer than the scan's own, {thick_mm:.3g} mm",
    )
    ensure(count >= 2, "the scan has one slice; super-resolution along z needs at least two")
    thickness = thick_mm if thickness_mm is None else thickness_mm
    ensure(
        np.isfinite(thickness) and thickness >= requested_mm * 0.999,
        f"the scan's slices, {thickness:g} mm thick, are thinner than the requested ones,"
        f" {requested_mm:.3g} mm; request thinner ones",
    )
    extent = ((count - 1) * thick_mm + thickness) / requested_mm
    fine = int(np.ceil(extent - 1e-4))
    # Lengths that a file rounds must not cost the last slice.
    fine_mm = max(requested_mm, extent * requested_mm / fine)
    thickness = max(thickness, fine_mm)
    matrix = slab_matrix(fine, fine_mm, thickness, thick_mm, profile)
    first = float(slab_centres_mm(fine, fine_mm, thickness, thick_mm)[0])
    centres = ((np.arange(fine) + 0.5) * fine_mm - first) / thick_mm
    return Thin(SlabAverage(matrix), fine, fine_mm, centres)


def _added_hu(
    engine: Engine,
    base: Volume,
    filled: Mask | None,
    fine: Thin,
    ids: UInt8[np.ndarray, "x y z2"],
    region: str | None,
    evaluations: int,
    options: RunOptions,
) -> Float[np.ndarray, "x y fine"]:
    """What the model adds to the interpolation; its average over each thick slice is zero."""
    slice_of = np.clip(np.rint(fine.centres).astype(int), 0, len(fine.operator.matrix) - 1)
    if ids.shape != base.shape:
        ids = ids[..., slice_of]
    spans = spans_in(base, ids, region, options.say)
    # The grid can differ in plane only: z was requested.
    grid = (*working_grid(base, engine.config.spacing_mm)[:2], fine.count)
    decided("working grid", [grid])
    if grid != base.shape:
        voxels = " x ".join(map(str, grid))
        options.say(f"grid: processed at {voxels} voxels, at a spacing the model supports")
    parts = blend_parts(spans, fine.spacing_mm)
    added = np.zeros(base.shape, np.float32)
    free = np.zeros(base.shape, bool)
    for number, part in enumerate(parts):
        share = share_of(options, number, parts)
        frame = Frame.of_slices(base, grid, region_named(part.span.region), part.z)
        of_part, near = _part(engine, base, fine, part, frame, ids, evaluations, share)
        added[..., part.z] += part.weight * of_part
        free[..., part.z] |= near & (part.weight > 0)
    if filled is not None:
        free &= ~filled[..., slice_of]
    # Windows, clipping and blending leave traces in the averages: remove them exactly, in HU.
    for first in range(0, len(added), PLANES):  # columns are independent: the steps take no memory
        some = slice(first, first + PLANES)
        exact = fine.operator.null_space_part(tensor(added[some]), tensor(free[some]))
        added[some] = exact[0, 0].numpy()
    return added


def _part(
    engine: Engine,
    base: Volume,
    fine: Thin,
    part: Part,
    frame: Frame,
    ids: UInt8[np.ndarray, "x y z"],
    evaluations: int,
    options: RunOptions,
) -> tuple[Float[np.ndarray, "x y z2"], Bool[np.ndarray, "x y z2"]]:
    """The change to a part's slices in its region's window, HU, and where they may change."""
    window, noise = frame.region.window, frame.noise(options.seed, engine.device)
    near = np.abs(window.unit(base.hu[..., part.z])) <= 1 + 3 * REACH
    start = tensor(window.unit(frame.to_grid(base.hu))).to(engine.device)
    rows = fine.operator.matrix[:, part.z]
    operator = SlabAverage(rows[rows.any(1)])
    # The average of a saturated tissue is not the windowed average: the sampler's data are the
    # averages of the clipped interpolation.
    clipped = start.clamp(-1, 1)
    data, schedule = operator.A(clipped), engine.config.noise_schedule
    task = super_resolution(data, operator, clipped, noise, schedule, evaluations)
    condition = frame.condition(
        ids, None if engine.control is None else clipped[0, 0].cpu().numpy()
    )
    x0 = engine.run(task, condition, noise, options)
    added = frame.from_grid(change(start, x0, REACH)[0, 0].cpu().numpy(), part.z)
    return np.where(near, added, 0) * (window.width_hu / 2), near
