"""The noise estimate: right on white noise, blind to structure, silent where it cannot know."""

import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.core.labels import BODY, OUTSIDE
from denovox.core.volume import Volume
from denovox.scan.noise_level import estimate_noise_hu


def scan(noise, structure=0.0, shape=(60, 60, 12)):
    rng = np.random.default_rng(1)
    x, y, _ = np.meshgrid(*(np.arange(n) for n in shape), indexing="ij")
    hu = 40 + structure * np.sin(x / 4) + 0.5 * y + noise * rng.standard_normal(shape)
    hu[:, :10] = -1000
    coarse = np.full(shape, BODY, np.uint8)
    coarse[:, :10] = OUTSIDE
    return Volume(hu.astype(np.float32), np.eye(4)), coarse


@pytest.mark.parametrize("noise", [3.0, 12.0, 40.0])
def test_white_noise_is_found(noise):
    # 36,000 squares: the estimate's own deviation is about half a percent.
    assert estimate_noise_hu(*scan(noise)) == pytest.approx(noise, rel=0.03)


def test_ramps_and_waves_are_not_noise():
    assert estimate_noise_hu(*scan(10.0, structure=40)) == pytest.approx(10, rel=0.03)
    assert estimate_noise_hu(*scan(0.0, structure=40)) < 0.01


def test_without_soft_tissue_it_asks():
    volume, coarse = scan(10.0, shape=(12, 22, 3))
    with pytest.raises(InputError, match="--noise-hu"):
        estimate_noise_hu(volume, np.full_like(coarse, OUTSIDE))
