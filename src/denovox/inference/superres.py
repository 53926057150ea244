"""Super-resolution along z without task-specific training (Method 2 and Method 3)."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ..core.box import Box
from ..core.errors import ensure
from ..core.operators.slab_average import SlabAverage
from ..core.operators.slice_profile import Profile
from ..core.operators.thin_slices import Consistency, Thin, thin
from ..core.regions import region as region_named
from ..core.tensors import tensor
from ..core.volume import Volume, within
from ..io.dicom.reader import DicomSource
from ..reports.recorder import decided
from ..sampling.sampler import Noise, Vol
from ..scan.anatomy import coarse
from ..scan.body_regions import RegionSpan
from ..scan.constant_fill import as_air, outside_fill
from ..tasks import Task, change, super_resolution
from .engine import Engine
from .frame import Frame, working_grid
from .large.sampling import sampled
from .memory import Room, slabs, work_mb
from .options import RunOptions, Say
from .region_blend import Part, blend_parts, share_of
from .scan_context import spans_in, stored_bytes

# Voxels outside the window by less than three of these (model units) may change; farther outside,
# the interpolation is kept (Method 3).
REACH = 0.1
CREDIBLE = 0.5, 5.0  # thickness of slices in a header, relative to their spacing
EVALUATIONS = 5  # per voxel, where no number is given

EXACT = Consistency(0.0, 0.0)


@dataclass(frozen=True)
class ThinSlices(Volume):
    """A volume of thin slices, and how well it averages back to the thick ones."""

    consistency: Consistency = EXACT


def superres(
    engine: Engine,
    volume: Volume,
    *,
    factor: float | None = None,
    spacing_z_mm: float | None = None,
    thickness_mm: float | None = None,
    profile: Profile = "box",
    region: str | None = None,
    evaluations: int = EVALUATIONS,
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
    step_mm = spacing_z_mm or volume.spacing_mm[2] / (factor or 1)
    thick_mm = slab_thickness(volume, step_mm, thickness_mm, options.say)
    fine = thin(volume, limits_mm, factor, spacing_z_mm, thick_mm, profile)
    base = fine.grid(volume)
    options.say(f"slices: {volume.shape[2]} of {volume.spacing_mm[2]:g} mm to {fine.count} of"
                f" {fine.spacing_mm:g} mm")  # fmt: skip
    if evaluations:
        filled = outside_fill(volume.hu)
        seen = base if filled is None else fine.grid(volume.with_hu(as_air(volume.hu, filled)))
        ids = coarse(seen) if anatomy is None else anatomy
        shapes = f"the anatomy's grid is {ids.shape}, the scan's {volume.shape}"
        ensure(ids.shape in (volume.shape, base.shape), f"{shapes}; resample it to the scan's grid")
        held = (base, seen, volume) if seen is not base else (base, volume)
        held_mb = (sum(each.hu.nbytes for each in held) + ids.nbytes + stored_bytes(volume)) / 1e6
        asked = Asked(seen, filled, fine, ids, region, evaluations)
        added, room = _added_hu(engine, asked, held_mb, options)
        for z in slabs(fine.count):
            added[..., z] += base.hu[..., z]
            room.release()
        base = base.with_hu(added)
    return ThinSlices(base.hu, base.affine, None, fine.compare(base, volume))


def slab_thickness(
    volume: Volume,
    step_mm: float,
    given_mm: float | None = None,
    say: Say = lambda line: None,
) -> float | None:
    """Thickness of the scan's slices, mm; None: their spacing.

    step_mm: spacing of the slices to reconstruct. given_mm: by the user, in place of the header's.
    """
    if given_mm is not None:
        if not within(given_mm, 0, CREDIBLE[1] * volume.spacing_mm[2]):
            say(f"slice thickness: {given_mm:g} mm, as given, is over {CREDIBLE[1]:g} times the"
                f" slice spacing, {volume.spacing_mm[2]:g} mm")  # fmt: skip
        return given_mm
    header_mm, why = thickness_of(volume)
    say(f"slice thickness: {why}")
    # Slices thinner than those requested would be refused, which is for the user's own thickness;
    # that of a header only says that there are gaps.
    return None if header_mm is None else max(header_mm, step_mm)


def parts_of(
    base: Volume, fine: Thin, spans: Sequence[RegionSpan], limits_mm: tuple[float, float]
) -> list[tuple[Part, Frame]]:
    """The parts of the thin slices, each as the network sees it. base: on their grid."""
    # The grid can differ in plane only: z was requested.
    grid = (*working_grid(base, limits_mm)[:2], fine.count)
    return [
        (part, Frame.of_slices(base, grid, region_named(part.span.region), part.z))
        for part in blend_parts(spans, fine.spacing_mm)
    ]


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
    elif not within(header_mm, low, high):
        limit = f"less than {CREDIBLE[0]:g}" if header_mm < low else f"over {CREDIBLE[1]:g}"
        why = f"the {header_mm:g} mm of the DICOM header are {limit} times that"
    if why or header_mm is None:
        return None, f"{default} ({why}; --thickness overrides)"
    same = within(header_mm, spacing_mm, spacing_mm)
    reason = f"{header_mm:g} mm (from the DICOM header; --thickness overrides)"
    return None if same else header_mm, reason


@dataclass(frozen=True)
class Asked:
    """The interpolation to refine (ids: its label ids, or those of the thick slices), where it was
    filled, and how."""

    base: Volume
    filled: Bool[np.ndarray, "x y thick"] | None
    fine: Thin
    ids: UInt8[np.ndarray, "x y slices"]
    region: str | None
    evaluations: int


def _added_hu(
    engine: Engine, asked: Asked, held_mb: float, options: RunOptions
) -> tuple[Float[np.ndarray, "x y fine"], Room]:
    """What the model adds to the interpolation; its average over each thick slice is zero.

    held_mb: what is in memory of volumes.
    """
    base, fine, ids = asked.base, asked.fine, asked.ids
    if ids.shape != base.shape:
        ids = ids[..., fine.nearest]
    spans = spans_in(base, ids, asked.region, options.say)
    of_parts = parts_of(base, fine, spans, engine.config.spacing_mm)
    parts, frames = zip(*of_parts, strict=True)
    grid = frames[0].grid
    decided("working grid", [grid])
    if grid != base.shape:
        voxels = " x ".join(map(str, grid))
        options.say(f"grid: processed at {voxels} voxels, at a spacing the model supports")
    kind = "stream" if grid == base.shape else "resampled"
    work = max(work_mb(engine, kind, each.box.size, options, blend=False) for each in frames)
    room = Room.beside(base.shape, held_mb + base.hu.size / 1e6, work, options)
    added = room.zeros(base.shape)
    free = np.zeros(base.shape, bool)
    for number, (part, frame) in enumerate(of_parts):
        one = _Part(engine, asked, part, frame, share_of(options, number, parts), room.part())
        for z, of_part, near in one.changes(ids):
            added[..., z] += part.weight[z.start - part.start : z.stop - part.start] * of_part
            free[..., z] |= near
            room.release()
    if asked.filled is not None:
        free &= ~asked.filled[..., fine.nearest]
    # Windows, clipping and blending leave traces in the averages: remove them exactly, in HU.
    for y in slabs(base.shape[1]):  # columns are independent: the steps take no memory
        exact = fine.operator.null_space_part(tensor(added[:, y]), tensor(free[:, y]))
        added[:, y] = exact[0, 0].numpy()
        room.release()
    return added, room


@dataclass(frozen=True, eq=False)
class _Part:
    """A part of the interpolation in the window of its region."""

    engine: Engine
    asked: Asked
    part: Part
    frame: Frame
    options: RunOptions
    room: Room

    def changes(
        self, ids: UInt8[np.ndarray, "x y z"]
    ) -> Iterator[tuple[slice, Float[np.ndarray, "x y z2"], Bool[np.ndarray, "x y z2"]]]:
        """Slices of the scan, the change to them in HU, and where they may change."""
        window, base = self.frame.region.window, self.asked.base
        rows = self.asked.fine.operator.matrix[:, self.part.z]
        operator = SlabAverage(rows[rows.any(1)])
        schedule, count = self.engine.config.noise_schedule, self.asked.evaluations
        data = self.room.zeros((*self.frame.box.size[:2], len(operator.matrix)))
        for y in slabs(data.shape[1]):
            data[:, y] = operator.A(self.clipped(y=y)).cpu()[0, 0].numpy()

        def task_of(y: slice, noise: Noise) -> Task:
            clipped, averages = self.clipped(y=y), tensor(data[:, y], self.engine.device)
            return super_resolution(averages, operator, clipped, noise, schedule, count)

        x0 = sampled(
            self.engine,
            task_of,
            self._noise,
            self.frame.condition(ids),
            None if self.engine.control is None else (lambda z: self.clipped(z=z)),
            self.options,
            self.room,
        )
        for z in slabs(self.frame.box.size[2]):
            start = self.unit(z=z)
            changed = change(start, tensor(x0[..., z], start.device), REACH)[0, 0].cpu().numpy()
            at = slice(self.part.start + z.start, self.part.start + z.stop)
            in_plane = replace(self.frame, box=self._box(z=z))
            added = in_plane.from_grid(changed, slice(at.start, at.stop))
            near = np.abs(window.unit(base.hu[..., at])) <= 1 + 3 * REACH
            weight = self.part.weight[z] > 0
            yield at, np.where(near, added, 0) * (window.width_hu / 2), near & weight

    def clipped(self, y: slice | None = None, z: slice | None = None) -> Vol:
        """The average of a saturated tissue is not the windowed average: the sampler's data are
        the averages of the clipped interpolation."""
        return self.unit(y, z).clamp(-1, 1)

    def unit(self, y: slice | None = None, z: slice | None = None) -> Vol:
        """Rows or slices of the interpolation on the working grid, model units."""
        some = replace(self.frame, box=self._box(y, z)).to_grid(self.asked.base.hu)
        return tensor(self.frame.region.window.unit(some), self.engine.device)

    def _noise(self, y: slice) -> Noise:
        return replace(self.frame, box=self._box(y)).noise(self.options.seed, self.engine.device)

    def _box(self, y: slice | None = None, z: slice | None = None) -> Box:
        (i, j, k), (u, v, w) = self.frame.box.start, self.frame.box.size
        y, z = y or slice(0, v), z or slice(0, w)
        return Box((i, j + y.start, k + z.start), (u, y.stop - y.start, z.stop - z.start))
