"""A training sample from one box: whole volume, 2x crop or crop (METHOD 1).

Sample number n of a seed is always the same sample, whatever came before it: augmentations, crops
and noise are drawn from a generator keyed by (seed, n).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from pydantic import Field
from torch import Tensor

from ..core import labels
from ..core.box import coordinates
from ..core.condition import Condition
from ..core.regions import REGIONS, UNKNOWN_REGION
from ..core.settings import Settings
from .control import ControlConfig, loss_weight, low_resolution, onto_lesion
from .grain import grain
from .store import Case

# Twice the patch begins on a voxel of the pyramid's next level: nothing is to be resized.
PACE = (1, 2, 1)
_MIRROR = labels.mirror_table().astype(np.uint8)


class SampleConfig(Settings):
    """How samples are drawn.

    patch: edge in voxels. levels: relative frequency of whole volume, 2x crop, crop.
    zoom: the crop's edge is patch times a factor drawn log-uniformly from this range.
    shift_hu, gain: HU jitter, uniform within +-shift and 1 +- gain.
    mirror: how often left and right are swapped, labels with them.
    drop: how often region and anatomy, each on its own, are withheld.
    grain: how often the noise has the grain of a CT's (data/grain.py) in place of none.
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


def sampler(cases: list[Case], config: SampleConfig, seed: int) -> Callable[[int], Sample]:
    """n -> sample n. Cases are chosen in proportion to nothing: each patient counts the same."""
    by_patient: dict[str, list[Case]] = {}
    for case in cases:
        by_patient.setdefault(case.facts.patient, []).append(case)
    patients = sorted(by_patient)

    def draw(n: int) -> Sample:
        rng = np.random.default_rng([seed, n])
        mine = by_patient[patients[rng.integers(len(patients))]]
        return sample(mine[rng.integers(len(mine))], config, rng)

    return draw


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


def sample(case: Case, config: SampleConfig, rng: np.random.Generator) -> Sample:
    """One sample of a case. An axis shorter than the crop is taken whole and resized."""
    shares = np.cumsum(config.levels) / sum(config.levels)
    level = int(np.searchsorted(shares, rng.random(), side="right"))
    region = REGIONS[case.facts.region]
    start, size = crop_box(case.facts.shape, level, config, rng)
    control, grid = config.control, (config.patch,) * 3
    lesion = np.zeros(grid, np.uint8)
    if control and control.kind == "lesion" and case.facts.lesions:
        if level and rng.random() < control.on_lesion:
            start = onto_lesion(case.facts.lesions, size, case.facts.shape, PACE[level], rng)
        lesion = case.lesion(start, size, grid)
    hu, anatomy = case.read(start, size, grid)
    axes = [
        coordinates(a, n, whole, config.patch)
        for a, n, whole in zip(start, size, case.facts.shape, strict=True)
    ]
    hu = hu * (1 + config.gain * rng.uniform(-1, 1)) + config.shift_hu * rng.uniform(-1, 1)
    if rng.random() < config.mirror:
        # The mirrored body lies where the original's other side lay: coordinates stay in order.
        hu, anatomy, axes[0] = hu[::-1], _MIRROR[anatomy[::-1]], -axes[0][::-1]
        lesion = lesion[::-1]
    dropped_region, dropped_anatomy = rng.random(2) < config.drop
    if dropped_anatomy:
        anatomy = np.full_like(anatomy, labels.UNKNOWN)
    spacing = [mm * n / config.patch for mm, n in zip(case.facts.spacing_mm, size, strict=True)]
    unit = region.window.unit(hu)
    x0 = torch.from_numpy(np.clip(unit, -1, 1).astype(np.float32))
    x, y, z = (torch.from_numpy(np.ascontiguousarray(axis))[None] for axis in axes)
    noise, u = rng.standard_normal(x0.shape, np.float32), float(rng.random())
    if config.grain and rng.random() < config.grain:
        noise = grain(grid, rng)
    told = weight = begun = None
    if control and control.kind == "low-resolution":
        told = np.clip(low_resolution(unit, rng.uniform(*control.factor), rng.random()), -1, 1)
        begun = _batch_of_one(told) if rng.random() < control.begin else None
    elif control:
        told = lesion.astype(np.float32)
        weight = _batch_of_one(loss_weight(told, control.weight))
    return Sample(
        x0[None, None],
        _batch_of_one(noise),
        u,
        Condition(
            torch.tensor([UNKNOWN_REGION if dropped_region else region.id]),
            torch.from_numpy(np.ascontiguousarray(anatomy))[None],
            x,
            y,
            z,
            torch.tensor([spacing], dtype=torch.float32),
            None if told is None else _batch_of_one(told),
        ),
        level,
        weight,
        begun,
        case.facts.id,
    )


def _batch_of_one(array: np.ndarray) -> Float[Tensor, "1 1 x y z"]:
    return torch.from_numpy(np.ascontiguousarray(array, np.float32))[None, None]
