"""A training sample from one box: whole volume, 2x crop or crop (METHOD 1).

Sample number n of a seed is always the same sample, whatever came before it: which case, box,
augmentation and noise it has is drawn from a generator keyed by (seed, n), before any voxel is
read. `sample` reads the voxels from a store; `resident.py` draws whole batches in a GPU's memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Float64
from pydantic import Field
from torch import Tensor

from ..core import labels
from ..core.box import Shape, coordinates
from ..core.condition import Condition
from ..core.condition import batch as batch_of
from ..core.errors import InputError
from ..core.noise import normal
from ..core.regions import REGIONS, UNKNOWN_REGION
from ..core.settings import Settings
from .control import ControlConfig, loss_weight, low_resolution, onto_lesion
from .grain import Grain, coloured, random_grain
from .store import Case

# Twice the patch begins on a voxel of the pyramid's next level: nothing is to be resized.
PACE = (1, 2, 1)
# In plane. A coarser scan shows whole volumes and 2x crops; it has no detail for crops to learn.
COARSE_MM = 3.0
MIRROR = labels.mirror_table().astype(np.uint8)


class SampleConfig(Settings):
    """How samples are drawn.

    patch: edge in voxels. levels: relative frequency of whole volume, 2x crop, crop.
    zoom: the crop's edge is patch times a factor drawn log-uniformly from this range.
    shift_hu, gain: HU jitter, uniform within +-shift and 1 +- gain.
    mirror: how often left and right are swapped, labels with them.
    drop: how often region and anatomy, each on its own, are withheld.
    grain: how often the noise is coloured as a CT's is (data/grain.py), and not white.
    control: what a control is told (data/control.py); None: samples for a base.
    """

    patch: int = 32
    levels: tuple[float, float, float] = (1, 1, 1)
    zoom: tuple[float, float] = (1, 1)
    shift_hu: float = Field(0, ge=0)
    gain: float = Field(0, ge=0, lt=1)
    mirror: float = Field(0.5, ge=0, le=1)
    drop: float = Field(0.1, ge=0, le=1)
    grain: float = Field(0, ge=0, le=1)
    control: ControlConfig | None = None

    @property
    def grid(self) -> Shape:
        """The shape of a sample."""
        return (self.patch,) * 3


@dataclass(frozen=True)
class Sample:
    """x0: 1 1 p p p, model units, clipped to [-1, 1]. noise: of the same shape, SD about 1.

    u: a uniform number for the loss to choose a noise level with. weight: of each voxel in the
    loss; None: all alike. start: what noise is added to, where that is not x0. case: whose it is.
    """

    x0: Float[Tensor, "1 1 p p p"]
    noise: Float[Tensor, "1 1 p p p"]
    u: float
    condition: Condition
    level: int
    weight: Float[Tensor, "1 1 p p p"] | None = None
    start: Float[Tensor, "1 1 p p p"] | None = None
    case: str = ""


@dataclass(frozen=True)
class Batch:
    """Several samples in one: the fields of `Sample`, with b in place of 1."""

    x0: Float[Tensor, "b 1 p p p"]
    noise: Float[Tensor, "b 1 p p p"]
    u: Float64[np.ndarray, " b"]
    condition: Condition
    level: tuple[int, ...]
    weight: Float[Tensor, "b 1 p p p"] | None = None
    start: Float[Tensor, "b 1 p p p"] | None = None
    case: tuple[str, ...] = ()

    def part(self, first: int, stop: int) -> Batch:
        """Samples [first, stop) of it."""

        def cut(of: Tensor | None) -> Tensor | None:
            return None if of is None else of[first:stop]

        known = self.condition
        told: dict[str, Any] = {f.name: cut(getattr(known, f.name)) for f in fields(known)}
        return replace(
            self,
            x0=self.x0[first:stop],
            noise=self.noise[first:stop],
            u=self.u[first:stop],
            condition=replace(known, **told),
            level=self.level[first:stop],
            weight=cut(self.weight),
            start=cut(self.start),
            case=self.case[first:stop],
        )


Draw = Callable[[Sequence[int]], Batch]  # numbers -> those samples


def collate(samples: Sequence[Sample]) -> Batch:
    """Samples of one shape as a batch.

    All or none have a weight; where some have a start, those without begin at x0.
    """
    weights = [s.weight for s in samples if s.weight is not None]
    starts = [s.x0 if s.start is None else s.start for s in samples]
    return Batch(
        torch.cat([s.x0 for s in samples]),
        torch.cat([s.noise for s in samples]),
        np.array([s.u for s in samples], np.float64),
        batch_of([s.condition for s in samples]),
        tuple(s.level for s in samples),
        torch.cat(weights) if weights else None,
        torch.cat(starts) if any(s.start is not None for s in samples) else None,
        tuple(s.case for s in samples),
    )


def batches(draw: Callable[[int], Sample]) -> Draw:
    """The same samples, several at a time."""
    return lambda numbers: collate([draw(n) for n in numbers])


# ---- which case ---------------------------------------------------------------------------------


def is_coarse(case: Case) -> bool:
    """Whether its voxels are larger than `COARSE_MM` in plane."""
    return max(case.facts.spacing_mm[:2]) > COARSE_MM


def grouped(cases: Sequence[Case], config: SampleConfig) -> list[list[list[list[Case]]]]:
    """Cases by region, then fine and coarse, then patient; in one order, however they came.

    Where `config` has crops alone, coarse cases are left out; `InputError` where none is left.
    """
    tree: dict[str, dict[bool, dict[str, list[Case]]]] = {}
    for case in cases:
        coarse = is_coarse(case)
        if not coarse or any(config.levels[:2]):
            kinds = tree.setdefault(case.facts.region, {})
            kinds.setdefault(coarse, {}).setdefault(case.facts.patient, []).append(case)
    if not cases:
        raise InputError("no case is left to draw samples from")
    if not tree:
        raise InputError(
            f"all {len(cases)} cases have voxels of more than {COARSE_MM:g} mm in plane, which is"
            " too coarse for crops; give whole volumes or 2x crops a share in data.sample.levels"
        )
    return [
        [
            [sorted(scans, key=lambda case: case.facts.id) for _, scans in sorted(of_kind.items())]
            for _, of_kind in sorted(kinds.items())
        ]
        for _, kinds in sorted(tree.items())
    ]


def chooser(cases: Sequence[Case], config: SampleConfig) -> Callable[[np.random.Generator], Case]:
    """How a case is drawn: region first, then fine or coarse, then patient; each choice is even.

    So seventy coarse heads weigh no more than one fine one.
    """
    regions = grouped(cases, config)

    def choose(rng: np.random.Generator) -> Case:
        kinds = regions[rng.integers(len(regions))]
        patients = kinds[rng.integers(len(kinds))]
        mine = patients[rng.integers(len(patients))]
        return mine[rng.integers(len(mine))]

    return choose


def in_turn(cases: Sequence[Case], config: SampleConfig, count: int) -> list[Case]:
    """`count` cases, as evenly as `chooser` on average: regions in turn, then kinds, patients."""
    regions = grouped(cases, config)
    chosen = []
    for n in range(count):
        k, kinds = n // len(regions), regions[n % len(regions)]
        k, patients = k // len(kinds), kinds[k % len(kinds)]
        k, mine = k // len(patients), patients[k % len(patients)]
        chosen.append(mine[k % len(mine)])
    return chosen


def sampler(cases: Sequence[Case], config: SampleConfig, seed: int) -> Callable[[int], Sample]:
    """n -> sample n, read from the store; cases as `chooser` draws them."""
    choose = chooser(cases, config)

    def draw(n: int) -> Sample:
        rng = np.random.default_rng([seed, n])
        return sample(choose(rng), config, rng)

    return draw


# ---- what of it ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """All that is random about a sample of a case, before a voxel is read.

    start, size: its box, in voxels of the case. factor, offset_hu: HU jitter. show_region,
    show_anatomy: whether these conditions are given. noise: seed of its noise; grain: what colours
    it. thick: (slices averaged, offset) of a low-resolution control; begun: noise is added to that.
    """

    level: int
    start: list[float]
    size: list[float]
    factor: float
    offset_hu: float
    mirror: bool
    show_region: bool
    show_anatomy: bool
    u: float
    noise: int
    grain: Grain | None
    thick: tuple[float, float]
    begun: bool


def plan(case: Case, config: SampleConfig, rng: np.random.Generator) -> Plan:
    """Draw a sample of a case; a coarse case gives no crops where other levels have a share."""
    some = (
        [*config.levels[:2], 0.0] if is_coarse(case) and any(config.levels[:2]) else config.levels
    )
    shares = np.cumsum(some) / sum(some)
    level = int(np.searchsorted(shares, rng.random(), side="right"))
    start, size = crop_box(case.facts.shape, level, config, rng)
    control = config.control
    lesions = case.facts.lesions if control and control.kind == "lesion" and level else ()
    if control and lesions and rng.random() < control.on_lesion:
        start = onto_lesion(lesions, size, case.facts.shape, PACE[level], rng)
    factor, offset_hu = 1 + config.gain * rng.uniform(-1, 1), config.shift_hu * rng.uniform(-1, 1)
    mirror = bool(rng.random() < config.mirror)
    drop_region, drop_anatomy = (rng.random(2) < config.drop).tolist()
    u, noise = float(rng.random()), int(rng.integers(2**62))
    coloured_too = config.grain > 0 and rng.random() < config.grain
    grain = random_grain(rng) if coloured_too else None
    thick, begun = (0.0, 0.0), False
    if control and control.kind == "low-resolution":
        thick = float(rng.uniform(*control.factor)), float(rng.random())
        begun = bool(rng.random() < control.begin)
    return Plan(
        level, start, size, factor, offset_hu, mirror, not drop_region, not drop_anatomy, u, noise,
        grain, thick, begun,
    )  # fmt: skip


def crop_box(
    shape: tuple[int, ...], level: int, config: SampleConfig, rng: np.random.Generator
) -> tuple[list[float], list[float]]:
    """(start, size) in voxels: the whole, or a random crop of twice or once the patch, zoomed."""
    if level == 0:
        return [0.0] * 3, [float(n) for n in shape]
    low, high = np.log(config.zoom)
    factor = float(np.exp(rng.uniform(low, high))) if high > low else config.zoom[0]
    wanted = config.patch * factor * (2 if level == 1 else 1)
    size = [min(float(round(wanted)), float(n)) for n in shape]
    pace = PACE[level]
    start = [pace * rng.integers(int(n - s) // pace + 1) for n, s in zip(shape, size, strict=True)]
    return [float(first) for first in start], size


def places(case: Case, of: Plan, patch: int) -> list[Float[np.ndarray, " p"]]:
    """Coordinates of a sample's voxels along x, y, z (METHOD 1).

    A mirrored body lies where the original's other side lay: coordinates stay in order.
    """
    axes = [
        coordinates(a, n, whole, patch)
        for a, n, whole in zip(of.start, of.size, case.facts.shape, strict=True)
    ]
    return [-axes[0][::-1], *axes[1:]] if of.mirror else axes


def spacing_mm(case: Case, of: Plan, patch: int) -> list[float]:
    """The voxel size of a sample."""
    return [mm * n / patch for mm, n in zip(case.facts.spacing_mm, of.size, strict=True)]


def region_id(case: Case, of: Plan) -> int:
    """The region that a sample's condition names."""
    return REGIONS[case.facts.region].id if of.show_region else UNKNOWN_REGION


def noise_of(of: Plan, grid: Shape, device: str = "cpu") -> Float[Tensor, "1 1 x y z"]:
    """A sample's noise, SD about 1: the same on every device, to float32 rounding."""
    if of.grain is None:
        return normal(of.noise, 0, grid, device=device)
    return coloured([of.grain], [of.noise], grid, device)


def sample(case: Case, config: SampleConfig, rng: np.random.Generator) -> Sample:
    """One sample of a case. An axis shorter than the crop is taken whole and resized."""
    of, grid, control = plan(case, config, rng), config.grid, config.control
    hu, anatomy = case.read(of.start, of.size, grid)
    hu = hu * of.factor + of.offset_hu
    lesion = case.lesion(of.start, of.size, grid) if control else np.zeros(grid, np.uint8)
    if of.mirror:
        hu, anatomy, lesion = hu[::-1], MIRROR[anatomy[::-1]], lesion[::-1]
    if not of.show_anatomy:
        anatomy = np.full_like(anatomy, labels.UNKNOWN)
    unit = REGIONS[case.facts.region].window.unit(hu)
    given = weight = begun = None
    if control and control.kind == "low-resolution":
        given = np.clip(low_resolution(unit, *of.thick), -1, 1)
        begun = _batch_of_one(given) if of.begun else None
    elif control:
        given = lesion.astype(np.float32)
        weight = _batch_of_one(loss_weight(given, control.weight))
    x, y, z = (
        torch.from_numpy(np.ascontiguousarray(axis))[None]
        for axis in places(case, of, config.patch)
    )
    return Sample(
        _batch_of_one(np.clip(unit, -1, 1)),
        noise_of(of, grid),
        of.u,
        Condition(
            torch.tensor([region_id(case, of)]),
            torch.from_numpy(np.ascontiguousarray(anatomy))[None],
            x,
            y,
            z,
            torch.tensor([spacing_mm(case, of, config.patch)], dtype=torch.float32),
            None if given is None else _batch_of_one(given),
        ),
        of.level,
        weight,
        begun,
        case.facts.id,
    )


def _batch_of_one(array: np.ndarray) -> Float[Tensor, "1 1 x y z"]:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
