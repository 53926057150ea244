"""The grain of the noise that training sees."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.data.grain import LEVEL, grain, power


def test_power_has_mean_one_over_all_frequencies() -> None:
    for peak, floor, along_z in [(0.2, 0.01, 0.0), (0.9, 0.2, 0.4)]:
        half = power([20, 24, 12], peak, floor, along_z)
        times = np.full(half.shape[2], 2.0)
        times[[0, -1]] = 1  # of an even count, the first and the last have no twin
        assert (half * times).sum() / (20 * 24 * 12) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("peak", [0.2, 0.5, 0.9])
def test_power_is_a_ramp_below_its_peak_and_most_there(peak: float) -> None:
    n = 400
    along = power([n, 4, 1], peak, 0.0, 0.0)[: n // 2, 0, 0]
    f = 2 * np.arange(n // 2) / n
    assert along[0] == 0
    assert f[along.argmax()] == pytest.approx(peak, abs=0.01)
    low = (f > 0) & (f < 0.05 * peak)
    assert along[low] / f[low] == pytest.approx(np.full(low.sum(), along[1] / f[1]), rel=2e-3)


def test_noise_has_sd_one_but_for_its_level_and_no_mean() -> None:
    made = [grain((16, 20, 12), np.random.default_rng(n)) for n in range(300)]
    # The log of the level has mean 0; that of a sample's own SD is biased by a per cent at most.
    logs = np.log([noise.std() for noise in made])
    assert np.mean(logs) == pytest.approx(0, abs=0.03)
    assert np.std(logs) == pytest.approx(LEVEL, abs=0.03)
    assert np.mean([noise.mean() for noise in made]) == pytest.approx(0, abs=0.01)


def test_no_voxel_is_special() -> None:
    made = np.stack([grain((8, 8, 6), np.random.default_rng([1, n])) for n in range(1500)])
    sd = np.sqrt(np.square(made).mean(0))
    # 1500 draws, whose levels differ by 15 %: an SD is known to 2.3 %.
    assert np.abs(sd / np.sqrt(np.square(made).mean()) - 1).max() < 5 * 0.023


def test_neighbours_along_z_are_as_correlated_as_asked() -> None:
    n = 48
    for along_z in (0.0, 0.3):
        half = power([n, n, n], 0.4, 0.05, along_z)
        noise = np.fft.irfftn(
            np.fft.rfftn(np.random.default_rng(5).standard_normal((n, n, n))) * np.sqrt(half),
            (n, n, n),
            axes=(0, 1, 2),
        )
        found = (noise[..., 1:] * noise[..., :-1]).mean() / (noise**2).mean()
        assert found == pytest.approx(along_z, abs=0.02)


def test_kernels_differ_and_a_seed_repeats() -> None:
    def at(seed: int) -> np.ndarray:
        return grain((16, 16, 4), np.random.default_rng(seed))

    assert np.array_equal(at(3), at(3))
    assert not np.array_equal(at(3), at(4))
    neighbours = [float((a[1:] * a[:-1]).mean() / (a**2).mean()) for a in map(at, range(40))]
    assert max(neighbours) > 0.6  # soft kernels
    assert min(neighbours) < 0  # and sharp ones
