"""How often each case is sampled, and the settings of samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from pydantic import Field

from ...core.box import Shape
from ...core.config import Settings
from ...core.errors import InputError
from ...core.volume import within
from ..store import Case
from .control_inputs import ControlConfig

# In plane. A coarser scan gives whole volumes and 2x crops only: it lacks the detail for crops.
COARSE_MM = 3.0


class SampleConfig(Settings):
    """How samples are drawn.

    patch: edge in voxels. levels: relative frequency of whole volume, 2x crop, crop.
    zoom: the crop's edge is patch times a factor drawn log-uniformly from this range.
    shift_hu, gain: HU jitter, uniform within +-shift and 1 +- gain.
    mirror: probability of swapping left and right, including labels.
    drop: probability of withholding the region, and independently the anatomy.
    grain: probability of coloured noise as in CT (simulate/fbp_noise.py) instead of white noise.
    noise_floor: train no crop at less noise than its scan has, and no 2x crop, which averages
    voxels, at less than half of that; otherwise the network learns to keep this noise (Daras et al.
    2025, arXiv 2506.10038).
    control: input of a control (datasets/samples/control_inputs.py); None: samples for a base.
    """

    patch: int = 32
    levels: tuple[float, float, float] = (1, 1, 1)
    zoom: tuple[float, float] = (1, 1)
    shift_hu: float = Field(0, ge=0)
    gain: float = Field(0, ge=0, lt=1)
    mirror: float = Field(0.5, ge=0, le=1)
    drop: float = Field(0.1, ge=0, le=1)
    grain: float = Field(0, ge=0, le=1)
    noise_floor: bool = False
    control: ControlConfig | None = None

    @property
    def grid(self) -> Shape:
        """The shape of a sample."""
        return (self.patch,) * 3


def is_coarse(case: Case) -> bool:
    """Whether voxels are larger than `COARSE_MM` in plane."""
    return not within(max(case.facts.spacing_mm[:2]), 0, COARSE_MM)


def grouped(cases: Sequence[Case], config: SampleConfig) -> list[list[list[list[Case]]]]:
    """Group cases by region, then fine and coarse, then patient; independent of input order.

    If `config` has only crops, coarse cases are left out; `InputError` if none remain.
    """
    tree: dict[str, dict[bool, dict[str, list[Case]]]] = {}
    for case in cases:
        coarse = is_coarse(case)
        if not coarse or any(config.levels[:2]):
            kinds = tree.setdefault(case.facts.region, {})
            kinds.setdefault(coarse, {}).setdefault(case.facts.patient, []).append(case)
    if not cases:
        raise InputError("there are no cases left to draw samples from")
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
    """Draw a case: region first, then fine or coarse, then patient; each choice is uniform.

    So seventy coarse heads weigh no more than one fine head.
    """
    regions = grouped(cases, config)

    def choose(rng: np.random.Generator) -> Case:
        kinds = regions[rng.integers(len(regions))]
        patients = kinds[rng.integers(len(kinds))]
        mine = patients[rng.integers(len(patients))]
        return mine[rng.integers(len(mine))]

    return choose


def in_turn(cases: Sequence[Case], config: SampleConfig, count: int) -> list[Case]:
    """`count` cases, as balanced as from `chooser`: cycling over regions, then kinds, patients."""
    regions = grouped(cases, config)
    chosen = []
    for n in range(count):
        k, kinds = n // len(regions), regions[n % len(regions)]
        k, patients = k // len(kinds), kinds[k % len(kinds)]
        k, mine = k // len(patients), patients[k % len(patients)]
        chosen.append(mine[k % len(mine)])
    return chosen
