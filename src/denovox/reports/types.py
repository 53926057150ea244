"""Inputs, contents and thresholds of a faithfulness report."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from jaxtyping import Float, Integer

from ..core.volume import Volume, Window
from ..metrics.residual import Residual
from ..scan.noise import RegionNoise

SOFT_TISSUE = Window(400, 40)
FORMAT = 1  # of the JSON; incremented when a key is renamed or dropped

Verdict = Literal["fine", "look", "not evaluated"]


@dataclass(frozen=True)
class Thresholds:
    """Where "fine" ends, all in one place. Each is for the check of the same name.

    bias_hu: of any tissue's mean, in either direction, beyond its error.
    removed_ratio: RMS removed, relative to the given noise.
    edge_ratio, structure, excess: of the residual; see `Residual`. An honest denoiser shows some
        structure, since the noise it keeps resembles the noise it removes. On ten crops of five
        training scans, with white and coloured noise, structure is -.01 to .01 for the truth and
        -.05 to .27 for this model; on four of the five it is .40 to .61 for a 3 x 3 median, and
        .57 to .72 and .67 to .82 for Gaussians of .7 and 2 voxels. On the fifth, with 3 mm voxels,
        blurs show less, and the other two thresholds catch them: edge ratio at least 2.1 and excess
        at least .2, where this model has .8 to 1.5 and at most .05.
    consistency_hu: RMS.
    coverage: minimum share of voxels within 2 SD of the reference (0.954 if exact and normal).
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
    """What is known besides the two volumes, on their grid; everything is optional.

    reference: ground truth on the same grid. sd_hu: SD of the samples at each voxel.
    data_consistency_hu: RMS of (measurement - simulated measurement of the result).
    noise: the assumed noise, region by region along z, without gaps.
    adds_detail: whether the task is meant to add detail, like super-resolution: the change is then
        not tested for being noise.
    labels: anatomy (core/labels ids); None: the coarse anatomy is computed.
    window: for the images. weights: sha256. settings: ready for JSON.
    """

    reference: Volume | None = None
    sd_hu: Float[np.ndarray, "_ _ _"] | None = None
    data_consistency_hu: float | None = None
    noise: tuple[RegionNoise, ...] = ()
    adds_detail: bool = False
    labels: Integer[np.ndarray, "_ _ _"] | None = None
    window: Window = SOFT_TISSUE
    weights: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True)
class Change:
    """|after - before| within the body, HU. untouched: share of its voxels that did not change."""

    mean_hu: float
    rms_hu: float
    p99_hu: float
    largest_hu: float
    untouched: float


@dataclass(frozen=True)
class Tissue:
    """A tissue class: its mean HU before and after, and the bias (after - reference, or before).

    error_hu: two standard errors of the bias, for independent voxels; smaller biases mean nothing.
    """

    name: str
    voxels: int
    before_hu: float
    after_hu: float
    bias_hu: float
    error_hu: float


@dataclass(frozen=True)
class Spread:
    """SD of the samples within the body, HU, and the share of voxels within 2 SD of a reference."""

    mean_hu: float
    p95_hu: float
    coverage: float | None


@dataclass(frozen=True)
class Errors:
    """RMSE against the reference within the body, HU."""

    rmse_before_hu: float
    rmse_after_hu: float


@dataclass(frozen=True)
class Check:
    """One check: its value, its threshold, and a sentence for readers who are not engineers."""

    name: str
    value: float | None
    threshold: float | None
    verdict: Verdict
    sentence: str


@dataclass(frozen=True)
class Report:
    """Everything in the JSON, under the same names. noise_hu: RMS over the slices."""

    change: Change
    residual: Residual
    tissues: tuple[Tissue, ...]
    data_consistency_hu: float | None
    noise_hu: float | None
    noise: tuple[RegionNoise, ...]
    spread: Spread | None
    errors: Errors | None
    checks: tuple[Check, ...]
    summary: str
    thresholds: Thresholds
    weights: str | None
    settings: Mapping[str, Any]
    version: str
    format: int = FORMAT
