"""Where lesions are to be put: as a mask says, or drawn for an organ."""

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
from ..scan import anatomy as anatomy_of
from ..simulate.lesion_placement import Placed, Wanted, check, place
from .inpaint import Edit, around, edit
from .model import (
    Model,
)
from .options import RunOptions

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


def by_mask(volume: Volume, mask: Path, seed: int) -> Plan:
    """Each connected piece of a mask file on the scan's grid is a lesion; `InputError`."""
    numbers, count = ndimage.label(marked(mask, volume), np.ones((3, 3, 3)))
    ensure(count <= MOST, f"{mask} has {count} pieces; {MOST} lesions at a time are the most")
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


def by_organ(
    volume: Volume, organ: str, diameter: str | None, count: int | None, seed: int
) -> Plan:
    """Lesions drawn for an organ: a class of core/labels, or a mask file that is named as one.

    diameter: "12" or "12mm"; None: drawn. `InputError` where any of it makes no sense, or there is
    no room.
    """
    name, path = organ, Path(organ)
    anatomy = anatomy_of.coarse(volume)
    if path.name.lower().endswith((".nii", ".nii.gz", ".nrrd", ".mha", ".mhd")):
        name = path.name.split(".")[0]
        if name not in ID:
            raise InputError(
                f"{path}: name the file as the class that it shows (docs/labels.md), e.g."
                " pancreas.nii.gz"
            )
        anatomy = np.where(marked(path, volume), np.uint8(ID[name]), anatomy)
    wanted = Wanted(organ=name, diameter_mm=_mm(diameter), count=count or 1)
    numbers, placed = place(volume, anatomy, wanted, seed)
    return Plan(numbers, placed, anatomy)


def _mm(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        return float(text.strip().lower().removesuffix("mm"))
    except ValueError:
        raise InputError(f"--diameter '{text}' is no length in mm, e.g. 12mm") from None


def words(one: Placed) -> str:
    """A lesion in a line."""
    x, y, z = one.centre_mm
    return (
        f"lesion {one.number}: {one.organ}, {one.diameter_mm:.1f} mm ({one.volume_ml:.2g} ml)"
        f" at RAS {x:.0f} {y:.0f} {z:.0f} mm"
    )


def told(plan: Plan, model: Model, scan: str, seed: int) -> dict[str, Any]:
    """What was put where, and by what: ready for JSON."""
    lesions = [asdict(one) for one in plan.placed]
    return {"scan": scan, "seed": seed, **by(model), "lesions": lesions}


def by(model: Model) -> dict[str, str]:
    """What lesions are made by: sha256 of the weights, and this version."""
    control = "" if model.steered_by is None else sha256(model.steered_by)
    return {"weights": sha256(model.path), "control": control, "version": __version__}


def wanting(organ: str | None, diameter: str | None, count: int) -> Callable[[Case], Wanted]:
    """Which lesions each case of a store gets; organ None: lung in chests, else liver.

    `InputError` where there is no such organ or diameter.
    """
    diameter_mm = _mm(diameter)
    check(Wanted(organ=organ or "lung", diameter_mm=diameter_mm))

    def wanted(case: Case) -> Wanted:
        of = "lung" if case.facts.region == "chest" else "liver"
        return Wanted(organ=organ or of, diameter_mm=diameter_mm, count=count)

    return wanted


def maker(model: Model, options: RunOptions) -> Make:
    """(scan, numbers of lesions, seed) -> the scan with them, made by a model with a control."""

    def make(volume: Volume, numbers: UInt8[np.ndarray, "x y z"], seed: int) -> Volume:
        lesion = numbers > 0
        what = Edit(around(lesion, volume.spacing_mm), lesion)
        return edit(model, volume, what, _quiet(options, seed))

    return make


def remover(
    model: Model, options: RunOptions
) -> Callable[[Volume, Bool[np.ndarray, "x y z"], int], Volume]:
    """(scan, hole, seed) -> the scan with the hole filled, and no lesion in it."""

    def remove(volume: Volume, hole: Bool[np.ndarray, "x y z"], seed: int) -> Volume:
        return edit(model, volume, Edit(hole), _quiet(options, seed))

    return remove


def _quiet(options: RunOptions, seed: int) -> RunOptions:
    """One edit of many: whoever asks for them all says how far they are."""
    return replace(options, seed=seed, say=lambda line: None, progress=lambda share: None)
