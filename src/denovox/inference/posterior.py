"""What a scan may be without its noise: samples of the posterior, their mean, and their SD.

The SD is too small by a third: on crops of the two validation patients (8 samples; white and soft
noise, 27 and 90 HU) its RMS is .65 to .68 of the error's, .47 to .51 of the voxels lie within one
of it and .77 to .80 within two, where 8 exact samples would have .62 and .90. Ten steps are one
cause (`tasks.denoising_sample` says how much), the noise of the "truth" itself another. It does say
where the model is unsure: its correlation with the error is .23 to .35. The best estimate is still
the posterior mean; the mean of 8 samples is .2 to .4 dB below it, at 20 to 80 times the cost.
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
    """Mean, HU, and SD in place of HU, on the scan's grid; and evaluations of the model spent, each
    of the whole scan. Where nothing may change the SD is 0."""

    mean: Volume
    sd: Volume
    evaluations: int


def samples(engine: Engine, context: ScanContext, count: int, options: RunOptions) -> Posterior:
    """Mean and SD of `count` samples, as `Model.posterior` has it.

    Welford's recurrence (Technometrics 1962): in memory are mean, sum of squares and the newest
    sample, whatever the count.
    """
    check_count(count)
    volume = context.volume
    mean, squares = np.zeros((2, *volume.shape))
    for number in range(count):
        drawn = denoise(engine, context, "sample", _of_sample(options, number, count)).hu
        off = drawn - mean
        mean += off / (number + 1)
        squares += off * (drawn - mean)
    sd = np.sqrt(squares / (count - 1)).astype(np.float32)
    return Posterior(
        volume.with_hu(mean.astype(volume.hu.dtype)),
        Volume(sd, volume.affine),
        count * SAMPLE_STEPS,
    )


def check_count(count: int) -> None:
    """`InputError` for fewer than two samples."""
    ensure(count >= 2, f"{count} samples have no SD; ask for 2 or more, such as 8")


def _of_sample(options: RunOptions, number: int, count: int) -> RunOptions:
    """The options of sample `number`: its own seed and its share of the work."""
    return replace(options.part(number, count), seed=options.seed + number)
