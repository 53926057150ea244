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

from ..core.errors import InputError, ensure
from ..core.labels import ID
from ..core.version import __version__
from ..core.volume import Volume
from ..io.label_maps import marked
from ..model.weights import sha256
from ..simulate.lesion_placement import LesionRequest, PlacedLesion, check, place
from .engine import Engine
from .inpaint import Edit, around, edit
from .options import RunOptions
from .scan_context import ScanContext

if TYPE_CHECKING:  # they import zarr
    from ..datasets.augment import Make
    from ..datasets.store import Case

MAX_LESIONS = 255  # per mask: their numbers are stored as bytes


@dataclass(frozen=True)
class Plan:
    """numbers: 1, 2, ... in each lesion, 0 elsewhere. placed: their positions and sizes. anatomy:
    label ids that were used for placement; None: the coarse classes are enough."""

    numbers: UInt8[np.ndarray, "x y z"]
    placed: tuple[PlacedLesion, ...]
    anatomy: UInt8[np.ndarray, "x y z"] | None = None

    @property
    def lesion(self) -> Bool[np.ndarray, "x y z"]:
        """True inside lesions."""
        return self.numbers > 0


@dataclass(frozen=True)
class Edited:
    """A scan with lesions added. numbers: 1, 2, ... in each lesion, 0 elsewhere. placed: their
    positions and sizes."""

    volume: Volume
    numbers: UInt8[np.ndarray, "x y z"]
    placed: tuple[PlacedLesion, ...]


def add(engine: Engine, context: ScanContext, plan: Plan, options: RunOptions) -> Edited:
    """The context's scan with the planned lesions added; see `Model.add_lesions`."""
    hole = around(plan.lesion, context.volume.spacing_mm)
    result = edit(engine, context, Edit(hole, plan.lesion, plan.anatomy), options)
    return Edited(result, plan.numbers, plan.placed)


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


def organ_in(path: Path, context: ScanContext) -> tuple[str, UInt8[np.ndarray, "x y z"]]:
    """(organ, label ids) from a mask file named after the organ, on top of the coarse anatomy."""
    name = path.name.split(".")[0]
    if name not in ID:
        raise InputError(
            f"{path}: name the file after the organ it shows (docs/reference/labels.md), e.g."
            " pancreas.nii.gz"
        )
    mask = marked(path, context.volume, context.say)
    return name, np.where(mask, np.uint8(ID[name]), context.coarse)


def millimetres(text: str | None) -> float | None:
    """ "12" or "12mm" -> 12.0; `InputError` where it is neither."""
    if text is None:
        return None
    try:
        return float(text.strip().lower().removesuffix("mm"))
    except ValueError:
        raise InputError(f"--diameter '{text}' is not a length in mm, e.g. 12mm") from None


def describe(one: PlacedLesion) -> str:
    """One line about a lesion."""
    x, y, z = one.centre_mm
    return (
        f"lesion {one.number}: {one.organ}, {one.diameter_mm:.1f} mm ({one.volume_ml:.2g} ml)"
        f" at RAS {x:.0f} {y:.0f} {z:.0f} mm"
    )


def record(edited: Edited, engine: Engine, scan: str, seed: int) -> dict[str, Any]:
    """Which lesions were added, where, and by which model: ready for JSON."""
    lesions = [asdict(one) for one in edited.placed]
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
