"""A training sample from one box: whole volume, 2x crop or crop (Method 1).

Sample n of a seed is always the same, whatever came before it: its case, box, augmentation and
noise are drawn from a generator keyed by (seed, n) before any voxel is read. `sample` reads the
voxels from a store; `resident.py` draws whole batches in GPU memory.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...core import labels
from ...core.box import Shape, coordinates
from ...core.condition import Condition
from ...core.random_field import normal
from ...core.regions import REGIONS, UNKNOWN_REGION
from ...core.tensors import tensor
from ...simulate.fbp_noise import Grain, coloured, random_grain
from ..store import Case
from .batch import Sample
from .choice import SampleConfig, chooser, is_coarse
from .control_inputs import loss_weight, low_resolution, onto_lesion

# A 2x crop begins on a voxel of the pyramid's next level, so that nothing has to be resized.
PACE = (1, 2, 1)
OWN_NOISE = (0.0, 0.5, 1.0)  # share of a scan's noise in the samples of each level
MIRROR = labels.mirror_table().astype(np.uint8)


def sampler(cases: Sequence[Case], config: SampleConfig, seed: int) -> Callable[[int], Sample]:
    """n -> sample n, read from the store; cases are drawn by `chooser`."""
    choose = chooser(cases, config)

    def draw(n: int) -> Sample:
        rng = np.random.default_rng([seed, n])
        return sample(choose(rng), config, rng)

    return draw


# ---- planning a sample --------------------------------------------------------------------------


@dataclass(frozen=True)
class Plan:
    """All random choices of a sample, made before any voxel is read.

    start, size: its box, in voxels of the case. factor, offset_hu: HU jitter. show_region,
    show_anatomy: whether these conditions are given. noise: seed of its noise; grain: its
    colouring. thick: (slices averaged, offset) of a low-resolution control; begun: noise is added
    to that.
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
    """Draw the plan of a sample; a coarse case gives no crops if other levels have a share."""
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
    """(start, size) in voxels: the whole, or a random crop of two or one patch sizes, zoomed."""
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
    """Coordinates of a sample's voxels along x, y, z (Method 1).

    A mirrored body takes the place of the original's other side: coordinates stay in order.
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
    """The region id in a sample's condition."""
    return REGIONS[case.facts.region].id if of.show_region else UNKNOWN_REGION


def noise_floor(case: Case, of: Plan, config: SampleConfig) -> float:
    """The lowest noise level of a sample (sigma, model units): that of its scan, if it counts."""
    if not config.noise_floor or case.facts.noise_hu is None:
        return 0.0
    return REGIONS[case.facts.region].window.sigma(case.facts.noise_hu) * OWN_NOISE[of.level]


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
        begun = tensor(given) if of.begun else None
    elif control:
        given = lesion.astype(np.float32)
        weight = tensor(loss_weight(given, control.weight))
    x, y, z = (
        torch.from_numpy(np.ascontiguousarray(axis))[None]
        for axis in places(case, of, config.patch)
    )
    return Sample(
        tensor(np.clip(unit, -1, 1)),
        noise_of(of, grid),
        of.u,
        Condition(
            torch.tensor([region_id(case, of)]),
            torch.from_numpy(np.ascontiguousarray(anatomy))[None],
            x,
            y,
            z,
            torch.tensor([spacing_mm(case, of, config.patch)], dtype=torch.float32),
            None if given is None else tensor(given),
        ),
        of.level,
        weight,
        begun,
        case.facts.id,
        noise_floor(case, of, config),
    )
