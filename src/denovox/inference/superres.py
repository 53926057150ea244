"""Thin slices from thick ones: super-resolution along z, without training (METHOD 2 and 3)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ..core.errors import InputError, ensure
from ..core.operators.slab_average import SlabAverage, interpolation
from ..core.operators.slice_profile import Profile, slab_centres_mm, slab_matrix
from ..core.regions import region as region_named
from ..core.tensors import tensor
from ..core.volume import Volume
from ..scan.anatomy import coarse
from ..tasks import change, super_resolution
from .engine import Engine
from .frame import Frame, working_grid
from .options import RunOptions
from .region_blend import Part, handover, share_of
from .scan_context import spans_in

# What sticks out of a window by less than three of these (model units) may change; farther out
# the interpolation stays (METHOD 3).
REACH = 0.1


@dataclass(frozen=True)
class Consistency:
    """How far the slices, averaged back from the result, are from those that came in, HU."""

    max_hu: float
    rms_hu: float

    def __str__(self) -> str:
        return f"averaged back: within {self.max_hu:.2g} HU of the input (RMS {self.rms_hu:.2g})"


@dataclass(frozen=True)
class ThinSlices(Volume):
    """A volume of thin slices, and how well they average back to the thick ones."""

    consistency: Consistency = Consistency(0.0, 0.0)


@dataclass(frozen=True)
class Thin:
    """The thin slices that are looked for, and how the thick ones were made of them.

    count, spacing_mm: of the thin slices; they begin at the lower face of the first thick one.
    centres: of the thin slices, counted in thick ones (0 is the centre of the first).
    """

    operator: SlabAverage
    count: int
    spacing_mm: float
    centres: Float[np.ndarray, " fine"]

    def grid(self, volume: Volume) -> Volume:
        """The interpolation along z: cubic, then the closest one whose averages are the slices.

        The result has no source: it is a new grid.
        """
        way = interpolation(self.operator.matrix, self.centres).astype(np.float32)
        affine = volume.affine.astype(np.float64)
        affine[:3, 3] += affine[:3, 2] * self.centres[0]
        affine[:3, 2] *= self.spacing_mm / volume.spacing_mm[2]
        return Volume(np.ascontiguousarray(volume.hu.astype(np.float32) @ way), affine)

    def compare(self, thin: Volume, thick: Volume) -> Consistency:
        """`thin`, averaged back, against `thick`."""
        seen = self.operator.A(tensor(thin.hu))[0, 0].numpy()
        off = np.abs(seen - thick.hu)
        return Consistency(float(off.max()), float(np.sqrt(np.mean(off**2, dtype=np.float64))))


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

    thickness_mm: of the slices that came in (None: their spacing); thicker ones overlap, thinner
    ones leave gaps. profile: their sensitivity along z. region: as in `Model.denoise`.
    evaluations: of the model for each voxel; 0 is the consistent interpolation alone. anatomy:
    label ids of core/labels on the scan's grid, or on the result's; None: the coarse classes, found
    in the interpolation (those of the thick slices have stairs, and cost a decibel and more).
    The thin slices begin at the lower face of the first thick one and end at the upper face of the
    last. Averaged back they give the input; what they show beyond that is the model's guess.
    Farther than 0.3 units outside the region's window it is the interpolation.
    `InputError` where the spacing asked for is none that the model knows, or not finer.
    """
    options = options or RunOptions()
    ensure(evaluations >= 0, f"{evaluations} evaluations cannot be done; give 0 or more")
    fine = thin(volume, engine.config.spacing_mm, factor, spacing_z_mm, thickness_mm, profile)
    base = fine.grid(volume)
    options.say(f"slices: {volume.shape[2]} of {volume.spacing_mm[2]:g} mm to {fine.count} of"
                f" {fine.spacing_mm:g} mm")  # fmt: skip
    if evaluations:
        ids = coarse(base) if anatomy is None else anatomy
        shown = f"the anatomy's grid is {ids.shape}, the scan's {volume.shape}"
        ensure(ids.shape in (volume.shape, base.shape), f"{shown}; bring it to the scan's grid")
        added = _added_hu(engine, volume, base, fine, ids, region, evaluations, options)
        base = base.with_hu(base.hu + added)
    return ThinSlices(base.hu, base.affine, None, fine.compare(base, volume))


def thin(
    volume: Volume,
    limits_mm: tuple[float, float],
    factor: float | None = None,
    spacing_z_mm: float | None = None,
    thickness_mm: float | None = None,
    profile: Profile = "box",
) -> Thin:
    """The thin slices of a scan; limits_mm: spacings the model knows. Errors as `superres`."""
    count, thick_mm = volume.shape[2], volume.spacing_mm[2]
    ensure(
        (factor is None) != (spacing_z_mm is None),
        "give either a factor or the spacing of the new slices in mm, and not both",
    )
    ensure(
        factor is None or (np.isfinite(factor) and factor > 1),
        f"a factor of {factor} makes no slices thinner; give one above 1",
    )
    wanted_mm = thick_mm / factor if factor is not None else float(spacing_z_mm or 0)
    low, high = limits_mm
    if not low * 0.999 <= wanted_mm <= high:
        most = f"; a factor of {thick_mm / low:.3g} is the most here" * (thick_mm > low)
        raise InputError(
            f"slices {wanted_mm:.3g} mm apart were asked for, and the model knows spacings from"
            f" {low:g} to {high:g} mm{most}"
        )
    ensure(
        wanted_mm < thick_mm * 0.999,
        f"slices {wanted_mm:.3g} mm apart are no finer than the scan's own, {thick_mm:.3g} mm",
    )
    ensure(count >= 2, "the scan has one slice; super-resolution along z needs at least two")
    thickness = thick_mm if thickness_mm is None else thickness_mm
    told = f"slices {thickness:g} mm thick are thinner than those asked for, {wanted_mm:.3g} mm"
    ensure(np.isfinite(thickness) and thickness >= wanted_mm * 0.999, f"{told}; ask for thinner")
    spans = ((count - 1) * thick_mm + thickness) / wanted_mm
    fine = int(np.ceil(spans - 1e-4))
    # Rounded lengths of a file must not cost the last slice.
    room_mm = max(wanted_mm, spans * wanted_mm / fine)
    thickness = max(thickness, room_mm)
    matrix = slab_matrix(fine, room_mm, thickness, thick_mm, profile)
    first = float(slab_centres_mm(fine, room_mm, thickness, thick_mm)[0])
    centres = ((np.arange(fine) + 0.5) * room_mm - first) / thick_mm
    return Thin(SlabAverage(matrix), fine, room_mm, centres)


def _added_hu(
    engine: Engine,
    volume: Volume,
    base: Volume,
    fine: Thin,
    ids: UInt8[np.ndarray, "x y z2"],
    region: str | None,
    evaluations: int,
    options: RunOptions,
) -> Float[np.ndarray, "x y fine"]:
    """What the model adds to the interpolation; no thick slice sees it."""
    if ids.shape != base.shape:
        slice_of = np.clip(np.rint(fine.centres).astype(int), 0, volume.shape[2] - 1)
        ids = ids[..., slice_of]
    slabs = spans_in(base, ids, region, options.say)
    # Only in the plane can the grid be another one: z has been asked for.
    grid = (*working_grid(volume, engine.config.spacing_mm)[:2], fine.count)
    if grid != base.shape:
        shown = " x ".join(map(str, grid))
        options.say(f"grid: worked on {shown} voxels, within the spacings the model knows")
    parts = handover(slabs, fine.spacing_mm)
    added = np.zeros(base.shape, np.float32)
    free = np.zeros(base.shape, bool)
    for number, part in enumerate(parts):
        share = share_of(options, number, parts)
        frame = Frame.of_slices(base, grid, region_named(part.slab.region), part.z)
        of_part, near = _part(engine, base, fine, part, frame, ids, evaluations, share)
        added[..., part.z] += part.weight * of_part
        free[..., part.z] |= near & (part.weight > 0)
    # Windows, their ends and hand-overs left traces in the averages: the exact step, in HU.
    return fine.operator.unseen(tensor(added), tensor(free))[0, 0].numpy()


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
    """The change of a part's slices in its region's window, HU, and where it may change."""
    window, noise = frame.region.window, frame.noise(options.seed, engine.device)
    near = np.abs(window.unit(base.hu[..., part.z])) <= 1 + 3 * REACH
    start = tensor(window.unit(frame.to_grid(base.hu))).to(engine.device)
    seeing = fine.operator.matrix[:, part.z]
    operator = SlabAverage(seeing[seeing.any(1)])
    # The averages of a saturated tissue are not what the window shows of the averages: the data
    # of the sampler are those of the clipped interpolation.
    clipped = start.clamp(-1, 1)
    seen, schedule = operator.A(clipped), engine.config.noise_schedule
    task = super_resolution(seen, operator, clipped, noise, schedule, evaluations)
    told = frame.condition(ids, None if engine.control is None else clipped[0, 0].cpu().numpy())
    x0 = engine.run(task, told, noise, options)
    added = frame.from_grid(change(start, x0, REACH)[0, 0].cpu().numpy(), part.z)
    return np.where(near, added, 0) * (window.width_hu / 2), near
