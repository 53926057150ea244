"""Posterior samples of the denoised scan, their mean and their SD.

The SD is too small by a third: on crops of the two validation patients (8 samples; white and soft
noise, 27 and 90 HU) its RMS is .65 to .68 of the error's; .47 to .51 of the voxels lie within one
SD and .77 to .80 within two, where 8 exact samples would give .62 and .90. Taking only ten steps is
one cause (`tasks.denoising_sample` quantifies it), the noise of the "truth" itself another. The SD
does show where the model is uncertain: its correlation with the error is .23 to .35. The posterior
mean remains the best estimate; the mean of 8 samples is .2 to .4 dB below it, at 20 to 80 times the
cost.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core.errors import ensure
from ..core.volume import Volume
from ..tasks import SAMPLE_STEPS
from .denoise import denoise
from .engine import Engine
from .options import RunOptions
from .scan_context import ScanContext


@dataclass(frozen=True)
class Posterior:
    """Mean (HU) and SD (in place of HU) on the scan's grid, and the number of model evaluations,
    each of the whole scan. The SD is 0 where nothing may change."""

    mean: Volume
    sd: Volume
    evaluations: int


def samples(engine: Engine, context: ScanContext, count: int, options: RunOptions) -> Posterior:
    """Mean and SD of `count` samples; see `Model.posterior`.

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
    sd = np.sqrt(squares / (count - 1)).astype(np.float32)
    return Posterior(
        volume.with_hu(mean.astype(volume.hu.dtype)),
        Volume(sd, volume.affine),
        count * SAMPLE_STEPS,
    )


def check_count(count: int) -> None:
    """`InputError` for fewer than two samples."""
    ensure(count >= 2, f"an SD needs at least 2 samples, not {count}; ask for more, such as 8")


def _of_sample(options: RunOptions, number: int, count: int) -> RunOptions:
    """Options for sample `number`: its own seed and its share of the progress."""
    return replace(options.part(number, count), seed=options.seed + number)
