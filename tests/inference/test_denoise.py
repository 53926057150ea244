"""Denoising where the noise varies: each voxel is restored at its own noise level."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pytest

from denovox.core.regions import region
from denovox.core.volume import Volume
from denovox.inference.denoise import LEVEL_RATIO
from denovox.inference.model import Model
from denovox.inference.options import RunOptions
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig

CONFIG = ModelConfig(net=PRESETS["tiny"], spacing_mm=(1.0, 6.0))
SHAPE, SD_HU, CHANGE = (72, 64, 40), 30.0, 4.0
SPREAD = 0.1  # of the truth, model units


def shrunk(x, sigma, condition):
    """The posterior mean of voxels ~ N(0, SPREAD^2) on their own."""
    return x * SPREAD**2 / (SPREAD**2 + sigma**2)


def noisy(spacing: tuple[float, float, float]) -> tuple[Volume, np.ndarray]:
    """A body whose noise rises along x and z, and its SD."""
    rng, window = np.random.default_rng(0), region("abdomen").window
    x, y, z = np.indices(SHAPE)
    sd = SD_HU * CHANGE ** (x / SHAPE[0] / 2 + z / SHAPE[2] / 2 - 0.5)
    inside = ((x - 36) / 34) ** 2 + ((y - 32) / 30) ** 2 < 1
    hu = np.where(inside, window.hu(0.0), -1000) + sd * rng.normal(size=SHAPE)
    return Volume(hu.astype(np.float32), np.diag([*spacing, 1.0])), np.where(inside, sd, np.nan)


@pytest.mark.parametrize("spacing", [(1.5, 1.5, 3.0), (0.8, 1.2, 2.0)])  # own grid, and resampled
def test_each_voxel_is_restored_at_its_own_noise_level(spacing: tuple[float, ...]) -> None:
    scan, sd = noisy(spacing)
    model = Model(shrunk, CONFIG, Path("none"), "cpu")
    options = RunOptions(tile=32)
    found = model.denoise(scan, region="abdomen", noise_hu=SD_HU, options=options)
    window = region("abdomen").window
    inside = np.abs(window.unit(scan.hu)) < 0.9
    inside &= np.isfinite(sd)
    before, after = (window.unit(hu)[inside] for hu in (scan.hu, found.hu))
    gain = (before * after).sum() / (before**2).sum()
    own = sd[inside] * window.sigma(1.0)
    want = SPREAD**2 / (SPREAD**2 + own**2)
    if spacing[0] >= 1:
        assert gain == pytest.approx((want * before**2).sum() / (before**2).sum(), abs=0.01)
        worst = np.abs(after - want * before)
        assert np.sqrt(np.mean(worst**2)) < 0.04 * np.sqrt(np.mean(before**2))
    quiet, loud = sd[inside] < 0.75 * SD_HU, sd[inside] > 1.33 * SD_HU
    left = [
        np.sum(after[part] * before[part]) / np.sum(before[part] ** 2) for part in (quiet, loud)
    ]
    # Change on a coarser grid leaves what that grid does not show.
    assert left[0] > (1.6 if spacing[0] >= 1 else 1.05) * left[1]


def test_levels_are_as_few_as_their_ratio_allows() -> None:
    asked = set()

    def watched(x, sigma, condition):
        asked.add(sigma)
        return shrunk(x, sigma, condition)

    scan, _ = noisy((1.5, 1.5, 3.0))
    model = Model(watched, CONFIG, Path("none"), "cpu")
    model.denoise(scan, region="abdomen", noise_hu=SD_HU, options=RunOptions(tile=32))
    levels = sorted(asked)
    ratios = [b / a for a, b in itertools.pairwise(levels)]
    assert max(ratios) == pytest.approx(min(ratios))
    assert 1 < ratios[0] <= LEVEL_RATIO
    assert CHANGE**0.5 < levels[-1] / levels[0] < CHANGE


def test_steady_noise_takes_one_evaluation() -> None:
    asked = []

    def watched(x, sigma, condition):
        asked.append(sigma)
        return shrunk(x, sigma, condition)

    rng = np.random.default_rng(1)
    hu = 40 + 20 * rng.normal(size=SHAPE)
    scan = Volume(hu.astype(np.float32), np.diag([1.5, 1.5, 3.0, 1.0]))
    model = Model(watched, CONFIG, Path("none"), "cpu")
    model.denoise(scan, region="abdomen", options=RunOptions(tile=32))
    assert len(set(asked)) == 1


def test_the_bias_of_a_network_is_restored_from_the_scan() -> None:
    def biased(x, sigma, condition):
        return shrunk(x, sigma, condition) + 0.004 * condition.position_x[0, :, None, None]

    hu = 60 + 20 * np.random.default_rng(1).normal(size=SHAPE)
    scan = Volume(hu.astype(np.float32), np.diag([1.5, 1.5, 3.0, 1.0]))
    options = RunOptions(tile=32)

    def slope(denoiser) -> float:
        """Of the result along x, HU from one end to the other."""
        model = Model(denoiser, CONFIG, Path("none"), "cpu")
        found = model.denoise(scan, region="abdomen", noise_hu=20.0, options=options)
        return float(np.polyfit(np.linspace(0, 1, SHAPE[0]), found.hu.mean((1, 2)), 1)[0])

    pure = slope(shrunk)
    assert abs(slope(biased) - pure) < 0.004 * region("abdomen").window.width_hu / 4
