"""Lesion generation: one per component of a mask, or at positions drawn in an organ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from ..core.box import bounding_box
from ..core.errors import InputError, ensure
from ..core.labels import ID, overlay
from ..core.morphology import depth_mm
from ..core.version import __version__
from ..core.volume import Volume
from ..io.label_maps import marked
from ..metrics.lesions import RING_MM
from ..model.weights import sha256
from ..simulate.lesion_density import SOLID_SHARE, DensityRequest, Site, target_hu
from ..simulate.lesion_placement import LesionRequest, PlacedLesion, check, place
from .engine import Engine
from .inpaint import SOLID_PART, Edit, Levels, around, edit
from .options import RunOptions
from .scan_context import ScanContext

if TYPE_CHECKING:  # they import zarr
    from ..datasets.augment import Make
    from ..datasets.store import Case

LABEL_MAPS = (".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")
MAX_LESIONS = 255  # per mask: their numbers are stored as bytes


@dataclass(frozen=True)
class Plan:
    """numbers: 1, 2, ... in each lesion, 0 elsewhere. placed: their positions and sizes. anatomy:
    label ids that were used for placement; None: the coarse classes are enough. levels: as from
    `with_levels`; None: its defaults."""

    numbers: UInt8[np.ndarray, "x y z"]
    placed: tuple[PlacedLesion, ...]
    anatomy: UInt8[np.ndarray, "x y z"] | None = None
    levels: Levels | None = None

    @property
    def lesion(self) -> Bool[np.ndarray, "x y z"]:
        """True inside lesions."""
        return self.numbers > 0


@dataclass(frozen=True)
class Edited:
    """A scan with lesions added. numbers: 1, 2, ... in each lesion, 0 elsewhere. placed: their
    positions and sizes. levels: how dense they are."""

    volume: Volume
    numbers: UInt8[np.ndarray, "x y z"]
    placed: tuple[PlacedLesion, ...]
    levels: Levels | None = None


def add(engine: Engine, context: ScanContext, plan: Plan, options: RunOptions) -> Edited:
    """The context's scan with the planned lesions added; see `Model.add_lesions`."""
    if plan.levels is None:
        plan = with_levels(context, plan, options.seed)
    hole = around(plan.lesion, context.volume.spacing_mm)
    request = Edit(hole, plan.lesion, plan.anatomy, levels=plan.levels)
    result = edit(engine, context, request, options)
    return Edited(result, plan.numbers, plan.placed, plan.levels)


def in_mask(volume: Volume, mask: Bool[np.ndarray, "x y z"], seed: int) -> Plan:
    """Each connected component of a mask is a lesion; `InputError` for more than 255."""
    numbers, count = ndimage.label(mask, np.ones((3, 3, 3)))
    ensure(
        count <= MAX_LESIONS,
        f"the mask has {count} components; at most {MAX_LESIONS} lesions can be added at a time",
    )
    voxel_ml = math.prod(volume.spacing_mm) / 1000
    placed = []
    for number in range(1, count + 1):
        voxels = np.argwhere(numbers == number)
        x, y, z = volume.affine[:3] @ [*voxels.mean(0), 1]
        ml = len(voxels) * voxel_ml
        diameter_mm = (6000 * ml / math.pi) ** (1 / 3)
        centre_mm = float(x), float(y), float(z)
        placed.append(PlacedLesion(number, "from mask", centre_mm, diameter_mm, ml, seed))
    return Plan(numbers.astype(np.uint8), tuple(placed))


def in_organ(
    context: ScanContext,
    request: LesionRequest,
    anatomy: UInt8[np.ndarray, "x y z"] | None,
    seed: int,
) -> Plan:
    """Lesions placed in an organ; anatomy: label ids, None: the coarse classes.

    `InputError` where the organ is unknown, not in the scan, or too small for the lesions.
    """
    check(request)
    ids = context.coarse if anatomy is None else anatomy
    numbers, placed = place(context.measured, ids, request, seed)
    return Plan(numbers, placed, ids)


def with_levels(
    context: ScanContext, plan: Plan, seed: int, request: DensityRequest | None = None
) -> Plan:
    """The plan, with how dense each lesion becomes; what is drawn depends on the seed.

    `InputError` where a lesion cannot be as requested.
    """
    placed = {one.number: one for one in plan.placed}
    zones, hu, spacing = plan.numbers.astype(np.uint16), {}, context.volume.spacing_mm
    margin = [math.ceil(RING_MM[1] / mm) for mm in spacing]
    for number in (int(n) for n in np.unique(plan.numbers) if n):
        box = bounding_box(plan.numbers == number, margin).slices
        one, lesion = placed.get(number), plan.numbers[box] == number
        organ = one.organ if one is not None and one.organ in ID else None
        there = lesion
        if organ is None:  # what is in the mask may be a lesion already
            away = ndimage.distance_transform_edt(~lesion, spacing)
            ring = (away > RING_MM[0]) & (away <= RING_MM[1]) & (plan.numbers[box] == 0)
            there = ring if ring.any() else lesion
        organ_hu = float(np.median(context.volume.hu[box][there]))
        middle = (box[2].start + box[2].stop) // 2
        span = next(each for each in context.spans if each.start <= middle < each.stop)
        mm = 0.0 if one is None else one.diameter_mm
        site = Site(f"lesion {number}", organ, organ_hu, mm, span.region)
        rng = np.random.default_rng([seed, 0xDE2517, number])
        whole, *solid = target_hu(request or DensityRequest(), site, rng)
        hu[number] = organ_hu, whole
        if solid:
            depth = depth_mm(lesion, spacing, ends=True)
            zones[box][depth >= (1 - SOLID_SHARE) * depth.max()] = SOLID_PART + number
            hu[SOLID_PART + number] = whole, solid[0]
    return replace(plan, levels=Levels(zones, hu))


def in_named(
    context: ScanContext, request: LesionRequest, where: str | None, device: str | None, seed: int
) -> Plan:
    """Lesions placed in an organ of an anatomy, or in a mask file that is named after an organ.

    where: a label map's path; "auto": by TotalSegmentator, on a device; None: the coarse classes.
    """
    from ..datasets import totalsegmentator

    anatomy, file = None, Path(request.organ)
    if request.organ.lower().endswith(LABEL_MAPS):
        request = request.model_copy(update={"organ": file.name.split(".")[0]})
        ensure(
            request.organ in ID,
            f"{file}: name the file after the organ it shows (docs/reference/labels.md), e.g."
            " pancreas.nii.gz",
        )
        mask = marked(file, context.volume, context.say)
        anatomy = np.where(mask, np.uint8(ID[request.organ]), context.coarse)
    check(request)  # before TotalSegmentator takes minutes
    found = totalsegmentator.anatomy(context.volume, where, device, context.say)
    if found is not None:
        anatomy = overlay(context.coarse, found)
    return in_organ(context, request, anatomy, seed)


def millimetres(text: str | None) -> float | None:
    """ "12" or "12mm" -> 12.0; `InputError` where it is neither."""
    if text is None:
        return None
    try:
        return float(text.strip().lower().removesuffix("mm"))
    except ValueError:
        raise InputError(f"--diameter '{text}' is not a length in mm, e.g. 12mm") from None


def describe(one: PlacedLesion, levels: Levels | None = None) -> str:
    """One line about a lesion."""
    x, y, z = one.centre_mm
    values = " and ".join(f"{each:.0f}" for each in _target_hu(one, levels))
    hu = f", {values} HU" if values else ""
    return (
        f"lesion {one.number}: {one.organ}, {one.diameter_mm:.1f} mm ({one.volume_ml:.2g} ml)"
        f" at RAS {x:.0f} {y:.0f} {z:.0f} mm{hu}"
    )


def _target_hu(one: PlacedLesion, levels: Levels | None) -> list[float]:
    """HU of a lesion; of a part-solid one, of its ground glass and of its solid part."""
    known = {} if levels is None else levels.hu
    zones = one.number, SOLID_PART + one.number
    return [round(known[zone][1], 1) for zone in zones if zone in known]


def record(edited: Edited, engine: Engine, scan: str, seed: int) -> dict[str, Any]:
    """Which lesions were added, where, and by which model: ready for JSON."""
    lesions = [
        asdict(each) | {"target_hu": _target_hu(each, edited.levels)} for each in edited.placed
    ]
    return {"scan": scan, "seed": seed, **provenance(engine), "lesions": lesions}


def provenance(engine: Engine) -> dict[str, str]:
    """What generates the lesions: sha256 of the weights, and the denovox version."""
    control = "" if engine.control_path is None else sha256(engine.control_path)
    return {"weights": sha256(engine.path), "control": control, "version": __version__}


def requests_per_case(
    organ: str | None, diameter: str | None, count: int
) -> Callable[[Case], LesionRequest]:
    """Which lesions to add to each case of a store; organ None: lung in chest scans, else liver.

    `InputError` for an invalid organ or diameter.
    """
    diameter_mm = millimetres(diameter)
    check(LesionRequest(organ=organ or "lung", diameter_mm=diameter_mm))

    def request(case: Case) -> LesionRequest:
        default = "lung" if case.facts.region == "chest" else "liver"
        return LesionRequest(organ=organ or default, diameter_mm=diameter_mm, count=count)

    return request


def maker(engine: Engine, options: RunOptions) -> Make:
    """(scan, numbered lesions, seed) -> the scan with them added, by a model with a control."""

    def make(volume: Volume, numbers: UInt8[np.ndarray, "x y z"], seed: int) -> Volume:
        plan = Plan(numbers, ())
        return add(engine, ScanContext(volume), plan, _quiet(options, seed)).volume

    return make


def remover(
    engine: Engine, options: RunOptions
) -> Callable[[Volume, Bool[np.ndarray, "x y z"], int], Volume]:
    """(scan, hole, seed) -> the scan with the hole filled with healthy tissue."""

    def remove(volume: Volume, hole: Bool[np.ndarray, "x y z"], seed: int) -> Volume:
        return edit(engine, ScanContext(volume), Edit(hole), _quiet(options, seed))

    return remove


def _quiet(options: RunOptions, seed: int) -> RunOptions:
    """Options for one edit of many: messages and progress are left to the caller."""
    return replace(options, seed=seed, say=lambda line: None, progress=lambda share: None)
