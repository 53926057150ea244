"""Posterior samples of the denoised scan, their mean and their SD.

The samples' own SD is too small: of an earlier base, .47 to .51 of the voxels were within one SD of
the truth and .77 to .80 within two, where 8 exact samples would give .62 and .90. Taking only ten
steps is one cause (`tasks.denoising_sample` quantifies it), the noise of the "truth" itself
another. So it is multiplied by a factor that was fitted to training patients (`Spread`,
benchmarks/calibrations.py). The posterior mean remains the best estimate; the mean of 8 samples is
.2 to .4 dB below it, at 20 to 80 times the cost.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Float
from scipy.special import stdtr

from ..core.config import Settings
from ..core.errors import ensure
from ..core.volume import Volume
from ..model.weights import describe
from ..tasks import SAMPLE_STEPS
from .denoise import denoise
from .engine import Engine
from .options import RunOptions
from .scan_context import ScanContext

SPREAD = Path(str(files("denovox"))) / "weights" / "spread.json"


class Spread(Settings):
    """What the samples' SD is multiplied by in each region; 1 in others.

    weights: sha256 of the model file that it was fitted to.
    """

    weights: str
    factors: Mapping[str, float]


@dataclass(frozen=True)
class Posterior:
    """Mean (HU) and SD (in place of HU) on the scan's grid, and the number of model evaluations,
    each of the whole scan. The SD is 0 where nothing may change."""

    mean: Volume
    sd: Volume
    evaluations: int


def factors_of(engine: Engine) -> Mapping[str, float]:
    """The bundled factors for a model's weights, by region; none for others."""
    if not SPREAD.is_file() or not engine.path.is_file():
        return {}
    spread = Spread.model_validate_json(SPREAD.read_text())
    return spread.factors if spread.weights == describe(engine.path)[2] else {}


def factor(error_hu: Float[np.ndarray, " n"], sd_hu: Float[np.ndarray, " n"], count: int) -> float:
    """What to multiply the SD of `count` samples by, so that it covers as many errors of their mean
    as that of exact samples does: .62 of 8 (Student's t). Voxels with an SD of 0 are left out."""
    within = 2 * float(stdtr(count - 1, (1 + 1 / count) ** -0.5)) - 1
    inside = sd_hu > 0
    return float(np.quantile(np.abs(error_hu[inside]) / sd_hu[inside], within))


def samples(
    engine: Engine,
    context: ScanContext,
    count: int,
    options: RunOptions,
    factors: Mapping[str, float] | None = None,
) -> Posterior:
    """Mean and SD of `count` samples; see `Model.posterior`. factors: None: `factors_of` the model.

    Welford's recurrence (Technometrics 1962): memory holds the mean, the sum of squares and the
    latest sample, whatever the count.
    """
    check_count(count)
    volume = context.volume
    mean, squares = np.zeros((2, *volume.shape))
    for number in range(count):
        sample = denoise(engine, context, "sample", _of_sample(options, number, count)).hu
        deviation = sample - mean
        mean += deviation / (number + 1)
        squares += deviation * (sample - mean)
    times, known = np.ones(volume.shape[2]), factors_of(engine) if factors is None else factors
    for span in context.spans if known else ():
        times[span.start : span.stop] = known.get(span.region, 1)
    sd = (np.sqrt(squares / (count - 1)) * times).astype(np.float32)
    return Posterior(
        volume.with_hu(mean.astype(volume.hu.dtype)),
        Volume(sd, volume.affine),
        count * SAMPLE_STEPS,
    )


def check_count(count: int) -> None:
    """`InputError` for fewer than two samples."""
    ensure(count >= 2, f"an SD needs at least 2 samples, not {count}; request more, such as 8")


def _of_sample(options: RunOptions, number: int, count: int) -> RunOptions:
    """Options for sample `number`: its own seed and its share of the progress."""
    return replace(options.part(number, count), seed=options.seed + number)
