"""What a faithfulness report is given, what it holds, and the thresholds it judges by."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Integer

from ..core.volume import Volume, Window
from ..metrics.residual import Residual
from ..scan.noise import SlabNoise

SOFT_TISSUE = Window(400, 40)
FORMAT = 1  # of the JSON; where a key is renamed or dropped, it is a new one

Verdict = Literal["fine", "look", "not judged"]


@dataclass(frozen=True)
class Thresholds:
    """Where "fine" ends, all in one place. Each is for the check of its name.

    bias_hu: of any tissue's mean, either way, beyond its error.
    removed_ratio: RMS removed, over the noise given.
    edge_ratio, structure, excess: of the residual; see `Residual`. An honest denoiser has some
        structure, since the noise it keeps resembles the noise it takes. On ten crops of five
        training scans, white and coloured noise: the truth -.01 to .01, this model -.05 to .27;
        on four of the five a median of 3 x 3 has .40 to .61, a Gaussian of .7 voxels .57 to .72,
        of 2 voxels .67 to .82. On the fifth, of 3 mm voxels, blurs have less, and the other two
        tell: edge ratio 2.1 and excess .2 at least, where this model has .8 to 1.5 and .05 at most.
    consistency_hu: RMS.
    coverage: share of voxels within 2 SD of the reference, at least (0.954 if exact and normal).
    """

    bias_hu: float = 2.0
    removed_ratio: float = 1.2
    edge_ratio: float = 1.25
    structure: float = 0.35
    excess: float = 0.15
    consistency_hu: float = 1.0
    coverage: float = 0.9


@dataclass(frozen=True)
class Given:
    """What is known beside the two volumes, on their grid; all of it may be missing.

    reference: the truth on the same grid. sd_hu: SD of the samples at each voxel.
    data_consistency_hu: RMS of (measurement - what the result would have measured).
    noise: what was taken to be there, slab by slab along z, without gaps; level: its relative SD at
        each voxel (`scan/noise.py`).
    adds_detail: whether detail is what it was made to add, as in super-resolution: then what
        changed is not asked whether it is noise.
    labels: anatomy (core/labels ids); the coarse one is found if there is none.
    window: what the pictures show. weights: sha256. settings: ready for JSON.
    """

    reference: Volume | None = None
    sd_hu: Float[np.ndarray, "_ _ _"] | None = None
    data_consistency_hu: float | None = None
    noise: tuple[SlabNoise, ...] = ()
    adds_detail: bool = False
    level: Float[np.ndarray, "_ _ _"] | None = None
    labels: Integer[np.ndarray, "_ _ _"] | None = None
    window: Window = SOFT_TISSUE
    weights: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True)
class Change:
    """|after - before| within the body, HU. untouched: share of its voxels that came back as is."""

    mean_hu: float
    rms_hu: float
    p99_hu: float
    largest_hu: float
    untouched: float


@dataclass(frozen=True)
class Tissue:
    """A tissue class: its mean HU before and after, and the bias (after - reference, or before).

    error_hu: two standard errors of the bias, as if voxels were independent: less tells nothing.
    """

    name: str
    voxels: int
    before_hu: float
    after_hu: float
    bias_hu: float
    error_hu: float


@dataclass(frozen=True)
class Spread:
    """SD of the samples within the body, HU; and how many voxels lie within 2 SD of a reference."""

    mean_hu: float
    p95_hu: float
    coverage: float | None


@dataclass(frozen=True)
class Errors:
    """RMS distance to the reference within the body, HU."""

    rmse_before_hu: float
    rmse_after_hu: float


@dataclass(frozen=True)
class Check:
    """One question, its number, the threshold, and a sentence for a reader who is no engineer."""

    name: str
    value: float | None
    threshold: float | None
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Report:
    """Everything the JSON has, under these names. noise_hu: RMS over the slices."""

    change: Change
    residual: Residual
    tissues: tuple[Tissue, ...]
    data_consistency_hu: float | None
    noise_hu: float | None
    noise: tuple[SlabNoise, ...]
    spread: Spread | None
    errors: Errors | None
    checks: tuple[Check, ...]
    summary: str
    thresholds: Thresholds
    weights: str | None
    settings: Mapping[str, Any]
    version: str
    format: int = FORMAT
