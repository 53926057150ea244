"""Lesion generation: in a mask's components, or at places drawn in an organ."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, UInt8
from scipy import ndimage

from .. import __version__
from ..core.errors import InputError, ensure
from ..core.labels import ID
from ..core.volume import Volume
from ..datasets.augment import Make
from ..datasets.store import Case
from ..io.label_maps import marked
from ..model.weights import sha256
from ..simulate.lesion_placement import Placed, Wanted, check, place
from .engine import Engine
from .inpaint import Edit, around, edit
from .options import RunOptions
from .scan_context import ScanContext

MOST = 255  # lesions of one mask: their numbers are bytes


@dataclass(frozen=True)
class Plan:
    """numbers: 1, 2, ... in each lesion, 0 elsewhere. placed: what they are. anatomy: label ids of
    the scan as it was planned on; None: the coarse classes will do."""

    numbers: UInt8[np.ndarray, "x y z"]
    placed: tuple[Placed, ...]
    anatomy: UInt8[np.ndarray, "x y z"] | None = None

    @property
    def lesion(self) -> Bool[np.ndarray, "x y z"]:
        """True in lesions."""
        return self.numbers > 0


@dataclass(frozen=True)
class Edited:
    """A scan with lesions. numbers: 1, 2, ... in each lesion, 0 elsewhere. placed: where they are
    and how large."""

    volume: Volume
    numbers: UInt8[np.ndarray, "x y z"]
    placed: tuple[Placed, ...]


def add(engine: Engine, context: ScanContext, plan: Plan, options: RunOptions) -> Edited:
    """The context's scan with the planned lesions, as `Model.add_lesions` has it."""
    hole = around(plan.lesion, context.volume.spacing_mm)
    result = edit(engine, context, Edit(hole, plan.lesion, plan.anatomy), options)
    return Edited(result, plan.numbers, plan.placed)


def in_mask(volume: Volume, mask: Bool[np.ndarray, "x y z"], seed: int) -> Plan:
    """Each connected component of a mask is a lesion; `InputError` for more than 255."""
    numbers, count = ndimage.label(mask, np.ones((3, 3, 3)))
    ensure(count <= MOST, f"the mask has {count} components; {MOST} lesions at a time are the most")
    voxel_ml = math.prod(volume.spacing_mm) / 1000
    placed = []
    for number in range(1, count + 1):
        own = np.argwhere(numbers == number)
        x, y, z = volume.affine[:3] @ [*own.mean(0), 1]
        ml = len(own) * voxel_ml
        diameter_mm = (6000 * ml / math.pi) ** (1 / 3)
        centre_mm = float(x), float(y), float(z)
        placed.append(Placed(number, "as masked", centre_mm, diameter_mm, ml, seed))
    return Plan(numbers.astype(np.uint8), tuple(placed))


def in_organ(
    context: ScanContext, wanted: Wanted, anatomy: UInt8[np.ndarray, "x y z"] | None, seed: int
) -> Plan:
    """Lesions drawn for an organ; anatomy: label ids, None: the coarse classes.

    `InputError` for an unknown organ, one that the scan does not show, or without room in it.
    """
    check(wanted)
    ids = context.coarse if anatomy is None else anatomy
    numbers, placed = place(context.volume, ids, wanted, seed)
    return Plan(numbers, placed, ids)


def organ_in(path: Path, context: ScanContext) -> tuple[str, UInt8[np.ndarray, "x y z"]]:
    """(organ, label ids) from a mask file that is named as the organ, over the coarse anatomy."""
    name = path.name.split(".")[0]
    if name not in ID:
        raise InputError(
            f"{path}: name the file after the organ it shows (docs/reference/labels.md), e.g."
            " pancreas.nii.gz"
        )
    mask = marked(path, context.volume)
    return name, np.where(mask, np.uint8(ID[name]), context.coarse)


def millimetres(text: str | None) -> float | None:
    """ "12" or "12mm" -> 12.0; `InputError` where it is neither."""
    if text is None:
        return None
    try:
        return float(text.strip().lower().removesuffix("mm"))
    except ValueError:
        raise InputError(f"--diameter '{text}' is not a length in mm, e.g. 12mm") from None


def words(one: Placed) -> str:
    """A lesion in a line."""
    x, y, z = one.centre_mm
    return (
        f"lesion {one.number}: {one.organ}, {one.diameter_mm:.1f} mm ({one.volume_ml:.2g} ml)"
        f" at RAS {x:.0f} {y:.0f} {z:.0f} mm"
    )


def record(edited: Edited, engine: Engine, scan: str, seed: int) -> dict[str, Any]:
    """What was put where, and by what: ready for JSON."""
    lesions = [asdict(one) for one in edited.placed]
    return {"scan": scan, "seed": seed, **by(engine), "lesions": lesions}


def by(engine: Engine) -> dict[str, str]:
    """What lesions are made by: sha256 of the weights, and this version."""
    control = "" if engine.control_path is None else sha256(engine.control_path)
    return {"weights": sha256(engine.path), "control": control, "version": __version__}


def wanting(organ: str | None, diameter: str | None, count: int) -> Callable[[Case], Wanted]:
    """Which lesions each case of a store gets; organ None: lung in chests, else liver.

    `InputError` where there is no such organ or diameter.
    """
    diameter_mm = millimetres(diameter)
    check(Wanted(organ=organ or "lung", diameter_mm=diameter_mm))

    def wanted(case: Case) -> Wanted:
        of = "lung" if case.facts.region == "chest" else "liver"
        return Wanted(organ=organ or of, diameter_mm=diameter_mm, count=count)

    return wanted


def maker(engine: Engine, options: RunOptions) -> Make:
    """(scan, numbers of lesions, seed) -> the scan with them, made by a model with a control."""

    def make(volume: Volume, numbers: UInt8[np.ndarray, "x y z"], seed: int) -> Volume:
        plan = Plan(numbers, ())
        return add(engine, ScanContext(volume), plan, _quiet(options, seed)).volume

    return make


def remover(
    engine: Engine, options: RunOptions
) -> Callable[[Volume, Bool[np.ndarray, "x y z"], int], Volume]:
    """(scan, hole, seed) -> the scan with the hole filled, and no lesion in it."""

    def remove(volume: Volume, hole: Bool[np.ndarray, "x y z"], seed: int) -> Volume:
        return edit(engine, ScanContext(volume), Edit(hole), _quiet(options, seed))

    return remove


def _quiet(options: RunOptions, seed: int) -> RunOptions:
    """One edit of many: whoever asks for them all says how far they are."""
    return replace(options, seed=seed, say=lambda line: None, progress=lambda share: None)
