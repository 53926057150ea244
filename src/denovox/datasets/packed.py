"""Pack a store within a size limit: the same layout, with a JSON manifest.

Information that training cannot see goes first: no jitter of the recipe brings values far outside a
region's window back into it, so these are rounded to `BEYOND_HU`. They are not clipped, though that
would save more: a sample that averages voxels (a whole volume, a 2x crop) mixes them with those
inside. Then HU in the window are rounded to a power of two, 2 HU in the abdomen and 8 in the chest,
an error of at most 0.004 (SD) in model units. Then validation cases are resampled to coarser
voxels, one rung of `GRIDS` at a time; then the HU rounding step is doubled; and if that is not
enough, training cases are resampled too, starting with the one that takes the most bytes relative
to how often it is drawn.

The zarr codec is that of the store: measured on eight cases of five scans, zstd levels 7 to 9 save
1 to 4 % for 2 to 20 times the time, and bit shuffling takes 2 to 20 % more than byte shuffling.
"""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int16, Num

from ..core.box import Shape
from ..core.errors import InputError
from ..core.regions import REGIONS
from ..core.resample import nearest, resize
from ..core.volume import Window
from ..io.atomic import scratch_folder
from . import manifest, store
from .manifest import CaseFacts
from .noise import noise_hu
from .samples.choice import COARSE_MM, SampleConfig, grouped, is_coarse
from .store import Case

BEYOND_HU = 32
STEPS_A_WINDOW = (180, 90)  # at least, at the first and second rounding
GRIDS = (1.0, 1.15, 1.3, 1.5, 1.75, 2.0)  # smallest voxel edge, relative to the original
MB = 1e6


@dataclass(frozen=True)
class Packing:
    """How a case is packed. rounding: of HU in its window, 0 (none) to 2. rung: in `GRIDS`."""

    rounding: int = 0
    rung: int = 0


def pack(
    cases: Sequence[Case],
    target: Path,
    config: SampleConfig,
    limit_mb: float,
    say: Callable[[str], None] = lambda text: None,
    held: Collection[str] = (),
) -> list[str]:
    """Write the cases to a new store `target` of at most `limit_mb` MB; returns what that took.

    held: ids of validation cases. Returns a line on the rounding of HU, and one for each case that
    became coarser. say: called with the progress. `InputError` if even the coarsest packing is too
    large.
    """
    cases = sorted(cases, key=lambda case: case.facts.id)
    target.mkdir(parents=True)
    with scratch_folder(target) as scratch:
        tries = _Tries(scratch, config)
        how = _fitting(cases, held, tries, limit_mb * MB, say)
        rows = [tries.keep(case, how[case.facts.id], target) for case in cases]
    manifest.write_packed(target, rows)
    within, most = "unchanged within it", max(one.rounding for one in how.values())
    if most:
        steps = [f"{step_hu(of.window, most)} ({of.name})" for of in REGIONS.values()]
        within = f"within it to {', '.join(steps)}"
    lines = [f"HU are rounded to {BEYOND_HU} far outside each region's window, and {within}"]
    for case, row in zip(cases, rows, strict=True):
        if row.shape != case.facts.shape:
            lines.append(f"{row.id}: {_mm(row.spacing_mm)}, resampled from {_mm(case.facts)}")
    return lines


def kept_hu(window: Window, config: SampleConfig) -> tuple[float, float]:
    """The range of HU that a sample's jitter can bring into the window: (lowest, highest)."""
    gains, shift = (1 - config.gain, 1 + config.gain), config.shift_hu
    low = min((window.low_hu - shift) / gain for gain in gains)
    return low, max((window.high_hu + shift) / gain for gain in gains)


def step_hu(window: Window, rounding: int) -> int:
    """The largest power of two giving at least `STEPS_A_WINDOW` steps; 1 without rounding."""
    if not rounding:
        return 1
    return int(2 ** max(0, np.floor(np.log2(window.width_hu / STEPS_A_WINDOW[rounding - 1]))))


def rounded(
    hu: Num[np.ndarray, "x y z"], kept: tuple[float, float], step: int
) -> Int16[np.ndarray, "x y z"]:
    """Round HU to `step` within `kept`, and to `BEYOND_HU` outside; outside values stay outside.

    Outside, steps are counted from the ends of `kept`, rounded outwards.
    """
    low, high = np.floor(kept[0]), np.ceil(kept[1])
    hu = hu.astype(np.float32)
    inside = np.clip(np.rint(hu / step) * step, low, high)
    below = low - BEYOND_HU * np.rint((low - hu) / BEYOND_HU)
    above = high + BEYOND_HU * np.rint((hu - high) / BEYOND_HU)
    every = np.where(hu < low, below, np.where(hu > high, above, inside))
    return np.clip(every, -32768, 32767).astype(np.int16)


def grid_at(facts: CaseFacts, rung: int) -> Shape:
    """The shape of a case at a rung of `GRIDS`; axes coarser than the rung are kept.

    Voxels never come to exceed `COARSE_MM` in plane: such a case would yield no crops.
    """
    fine = not is_coarse(Case("", facts))
    edge = min(facts.spacing_mm) * GRIDS[rung]
    shape = list(facts.shape)
    for axis, (voxels, own) in enumerate(zip(facts.shape, facts.spacing_mm, strict=True)):
        wanted = max(own, edge)
        if axis < 2 and fine:
            wanted = min(wanted, COARSE_MM)
        # Rounded up, so that voxels are no larger than requested.
        shape[axis] = max(1, int(np.ceil(voxels * own / wanted - 1e-6)))
    return shape[0], shape[1], shape[2]


def regridded(facts: CaseFacts, shape: Shape) -> CaseFacts:
    """The row of a case on a different grid over the same field of view."""
    if shape == facts.shape:
        return facts
    ratio = np.array(facts.shape) / np.array(shape)
    x, y, z = (float(mm * r) for mm, r in zip(facts.spacing_mm, ratio, strict=True))
    affine = facts.affine
    if affine:
        to_old = np.diag([*ratio, 1.0])
        to_old[:3, 3] = (ratio - 1) / 2  # centres of the first voxels
        moved: Float[np.ndarray, "4 4"] = np.array(affine).reshape(4, 4) @ to_old
        affine = tuple(moved.ravel().tolist())
    note = f"packed at {_mm((x, y, z))}, from {_mm(facts)}"
    return facts.model_copy(
        update={
            "shape": shape,
            "spacing_mm": (x, y, z),
            "affine": affine,
            "notes": (*facts.notes, note),
        }
    )


def draws(cases: Sequence[Case]) -> dict[str, float]:
    """id -> how often a case is drawn (samples/choice.py `chooser`), as a share of samples."""
    regions = grouped(cases, SampleConfig())
    return {
        case.facts.id: 1 / (len(regions) * len(kinds) * len(patients) * len(scans))
        for kinds in regions
        for patients in kinds
        for scans in patients
        for case in scans
    }


@dataclass
class _Tries:
    """Packed cases on disk, one for each packing that was tried."""

    folder: Path
    config: SampleConfig

    def __post_init__(self) -> None:
        self._made: dict[tuple[str, Packing], tuple[Path, CaseFacts, int]] = {}
        self._number = itertools.count()

    def size(self, case: Case, how: Packing) -> int:
        """Bytes of a case with this packing, including its manifest row."""
        key = (case.facts.id, how)
        if key not in self._made:
            path = self.folder / str(next(self._number))
            row = self._write(case, how, path)
            total = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
            total += len(manifest.packed_text([row]).encode())
            self._made[key] = path, row, total
        return self._made[key][2]

    def drop(self, case: Case, how: Packing) -> None:
        """Delete a try that is no longer needed."""
        path, _, _ = self._made.pop((case.facts.id, how))
        shutil.rmtree(path)

    def keep(self, case: Case, how: Packing, target: Path) -> CaseFacts:
        """Move a try to its place in the store; returns its manifest row."""
        path, row, _ = self._made[case.facts.id, how]
        place = target / row.id
        place.parent.mkdir(parents=True, exist_ok=True)
        path.rename(place)
        return row

    def _write(self, case: Case, how: Packing, path: Path) -> CaseFacts:
        facts = regridded(case.facts, grid_at(case.facts, how.rung))
        ct, anatomy = (np.asarray(case.voxels(kind)[...]) for kind in ("ct", "anatomy"))
        lesion = np.asarray(case.voxels("lesion")[...]) if case.facts.lesions else None
        if facts.shape != case.facts.shape:
            ct = resize(ct.astype(np.float32), facts.shape)
            anatomy = nearest(anatomy, facts.shape)
            if facts.noise_hu:  # larger voxels have less
                affine = np.array(facts.affine).reshape(4, 4)
                facts = facts.model_copy(update={"noise_hu": round(noise_hu(ct, affine), 2)})
            if lesion is not None:
                lesion = nearest(lesion, facts.shape)
                facts = store.with_lesion(
                    facts.model_copy(update={"lesions": (), "lesion_ml": 0.0}), lesion
                )
        window = REGIONS[facts.region].window
        hu = rounded(ct, kept_hu(window, self.config), step_hu(window, how.rounding))
        store.write_case(path, hu, anatomy, lesion if facts.lesions else None)
        return facts


def _fitting(
    cases: Sequence[Case],
    held: Collection[str],
    tries: _Tries,
    limit: float,
    say: Callable[[str], None],
) -> dict[str, Packing]:
    """How to pack each case so that all of them fit; `InputError` if they cannot."""
    how: dict[str, Packing] = {}
    sizes: dict[str, int] = {}

    def settle(case: Case, packing: Packing) -> None:
        sizes[case.facts.id] = tries.size(case, packing)
        if how.get(case.facts.id, packing) != packing:
            tries.drop(case, how[case.facts.id])
        how[case.facts.id] = packing

    def rounded_to(rounding: int) -> bool:
        """Round all HU; returns whether that is enough."""
        for case in cases:
            rung = how[case.facts.id].rung if case.facts.id in how else 0
            settle(case, Packing(rounding, rung))
        own = f"HU rounded ({rounding} of 2)" if rounding else "HU not rounded"
        say(f"{len(cases)} cases, {own}: {sum(sizes.values()) / MB:.1f} MB")
        return sum(sizes.values()) <= limit

    def coarser(some: Sequence[Case], often: dict[str, float]) -> bool:
        """Put cases on coarser grids, the costliest first; returns whether that is enough."""
        left = list(some)
        while sum(sizes.values()) > limit:
            left = [case for case in left if how[case.facts.id].rung + 1 < len(GRIDS)]
            if not left:
                return False
            dearest = max(left, key=lambda case: sizes[case.facts.id] / often[case.facts.id])
            now = how[dearest.facts.id]
            settle(dearest, Packing(now.rounding, now.rung + 1))
        return True

    training = [case for case in cases if case.facts.id not in held]
    validating = [case for case in cases if case.facts.id in held]
    even = dict.fromkeys((case.facts.id for case in validating), 1.0)
    if not (
        rounded_to(0)
        or rounded_to(1)
        or coarser(validating, even)
        or rounded_to(2)
        or coarser(training, draws(training))
    ):
        raise InputError(
            f"the store takes {sum(sizes.values()) / MB:.1f} MB at its coarsest, more than the"
            f" kit's limit of {limit / MB:g} MB; pack a store of fewer cases"
        )
    return how


def _mm(of: CaseFacts | Iterable[float]) -> str:
    spacing = of.spacing_mm if isinstance(of, CaseFacts) else of
    return " x ".join(f"{mm:.3g}" for mm in spacing) + " mm"
