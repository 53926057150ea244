"""The grain of the noise that training sees."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from denovox.core.random_field import normal
from denovox.simulate.fbp_noise import (
    ALONG_Z,
    FLOOR,
    LEVEL,
    PEAK,
    Grain,
    coloured,
    power,
    random_grain,
)

SHARP = Grain(0.5, 0.05, 0.0, 1.0)


def power_of(shape: list[int], peak: float, floor: float, along_z: float) -> np.ndarray:
    return power(shape, [Grain(peak, floor, along_z, 1.0)])[0].double().numpy()


def noise_of(n: int, shape: tuple[int, int, int]) -> Tensor:
    """Noise of a kernel drawn at random; of another for each n."""
    return coloured([random_grain(np.random.default_rng(n))], [n], shape)[0, 0]


def test_power_has_mean_one_over_all_frequencies() -> None:
    for peak, floor, along_z in [(0.2, 0.01, 0.0), (0.9, 0.2, 0.4)]:
        half = power_of([20, 24, 12], peak, floor, along_z)
        times = np.full(half.shape[2], 2.0)
        times[[0, -1]] = 1  # of an even count, the first and the last have no twin
        # It is float32, summed over 4000 frequencies.
        assert (half * times).sum() / (20 * 24 * 12) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("peak", [0.2, 0.5, 0.9])
def test_power_is_a_ramp_below_its_peak_and_most_there(peak: float) -> None:
    n = 400
    along = power_of([n, 4, 1], peak, 0.0, 0.0)[: n // 2, 0, 0]
    f = 2 * np.arange(n // 2) / n
    assert along[0] == 0
    assert f[along.argmax()] == pytest.approx(peak, abs=0.01)
    low = (f > 0) & (f < 0.05 * peak)
    assert along[low] / f[low] == pytest.approx(np.full(low.sum(), along[1] / f[1]), rel=2e-3)


def test_power_of_several_is_that_of_each() -> None:
    several = [random_grain(np.random.default_rng(n)) for n in range(4)]
    together = power([12, 10, 8], several)
    for n, one in enumerate(several):
        torch.testing.assert_close(together[n : n + 1], power([12, 10, 8], [one]))


def test_noise_has_sd_one_but_for_its_level_and_no_mean() -> None:
    made = [noise_of(n, (16, 20, 12)) for n in range(300)]
    # The log of the level has mean 0; that of a sample's own SD is biased by a per cent at most.
    logs = np.log([float(noise.std()) for noise in made])
    assert np.mean(logs) == pytest.approx(0, abs=0.03)
    assert np.std(logs) == pytest.approx(LEVEL, abs=0.03)
    assert np.mean([float(noise.mean()) for noise in made]) == pytest.approx(0, abs=0.01)


def test_the_level_is_the_sd() -> None:
    one, twice = (
        coloured([replace(SHARP, level=level)], [3], (40, 40, 40)) for level in (1.0, 2.0)
    )
    torch.testing.assert_close(twice, 2 * one)
    # 64,000 numbers, of which neighbours in a plane know something of each other.
    assert float(one.std()) == pytest.approx(1, abs=0.02)


@pytest.mark.slow
def test_no_voxel_is_special() -> None:
    made = torch.stack([noise_of(n, (8, 8, 6)) for n in range(1500)]).numpy()
    sd = np.sqrt(np.square(made).mean(0))
    # 1500 draws, whose levels differ by 15 %: an SD is known to 2.3 %.
    assert np.abs(sd / np.sqrt(np.square(made).mean()) - 1).max() < 5 * 0.023


def test_opposite_sides_know_nothing_of_each_other() -> None:
    """A DFT's noise goes on at the other side, which is cut off."""
    made = torch.cat([coloured([replace(SHARP, peak=0.15)], [n], (12, 12, 4)) for n in range(60)])
    a, b = made[:, 0, 0], made[:, 0, -1]
    beside = made[:, 0, 1]
    assert abs(float((a * b).mean())) < 4 / np.sqrt(a.numel() / 4)
    assert float((a * beside).mean()) > 0.5


def test_neighbours_along_z_are_as_correlated_as_asked() -> None:
    for along_z in (0.0, 0.3):
        noise = coloured([Grain(0.4, 0.05, along_z, 1.0)], [5], (48, 48, 48))[0, 0].numpy()
        found = (noise[..., 1:] * noise[..., :-1]).mean() / (noise**2).mean()
        assert found == pytest.approx(along_z, abs=0.02)


def test_its_spectrum_is_the_power_that_is_told() -> None:
    grain, shape = Grain(0.4, 0.1, 0.2, 1.5), (24, 24, 12)
    made = coloured([grain] * 400, range(400), shape)[:, 0]
    window = torch.from_numpy(np.hanning(24)).float()
    window = window[:, None, None] * window[:, None] * torch.from_numpy(np.hanning(12)).float()
    found = torch.fft.rfftn(made * window, dim=(1, 2, 3)).abs().square().mean(0)
    found /= window.square().sum() * grain.level**2
    # A window blurs a spectrum by its own; what it blurs is known at each of the DFT's frequencies.
    full = (48, 48, 24)
    known = power(full, [grain])[0]
    told = torch.cat([known, known.flip(2)[..., 1:-1].roll((1, 1), (0, 1)).flip(0, 1)], 2)
    blur = torch.fft.fftn(window, full).abs().square()
    blur /= blur.sum()
    product = torch.fft.fftn(told) * torch.fft.fftn(blur)
    expected = torch.fft.ifftn(product).real[::2, ::2, ::2][..., :7]
    # 400 spectra, each of which is exponential: 5 % a frequency, and half as many at the planes'.
    assert (found / expected - 1).abs().max() < 5 * 0.071


def test_what_is_coloured_is_the_noise_of_the_seed() -> None:
    """A kernel without a shape leaves white noise as it is."""
    flat = Grain(1e-3, 1.0, 0.0, 1.0)  # its peak is below all frequencies but zero
    got = coloured([flat], [11], (6, 5, 4))
    white = normal(11, 0, (22, 21, 20))[..., 8:14, 8:13, 8:12]
    torch.testing.assert_close(got, white, rtol=0, atol=1e-5)


def test_several_at_once_are_each_alone() -> None:
    several = [random_grain(np.random.default_rng(n)) for n in range(4)]
    together = coloured(several, [9, 2, 7, 4], (6, 8, 10))
    for n, seed in enumerate([9, 2, 7, 4]):
        alone = coloured([several[n]], [seed], (6, 8, 10))
        torch.testing.assert_close(together[n : n + 1], alone, rtol=0, atol=1e-5)


def test_kernels_differ_and_a_seed_repeats() -> None:
    def at(seed: int) -> np.ndarray:
        return noise_of(seed, (16, 16, 4)).numpy()

    assert np.array_equal(at(3), at(3))
    assert not np.array_equal(at(3), at(4))
    neighbours = [float((a[1:] * a[:-1]).mean() / (a**2).mean()) for a in map(at, range(40))]
    assert max(neighbours) > 0.6  # soft kernels
    assert min(neighbours) < 0  # and sharp ones


def test_kernels_are_drawn_by_their_laws() -> None:
    rng = np.random.default_rng(0)
    some = [random_grain(rng) for _ in range(4000)]
    for name, (low, high) in (("peak", PEAK), ("floor", FLOOR)):
        logs = np.log([getattr(grain, name) for grain in some])
        middle, width = np.log(low * high) / 2, np.log(high / low)
        assert np.abs(logs - middle).max() <= width / 2 + 1e-12
        assert np.mean(logs) == pytest.approx(middle, abs=4 * width / np.sqrt(12 * 4000))
        assert np.std(logs) == pytest.approx(width / np.sqrt(12), rel=4 * np.sqrt(0.2 / 4000))
    along = np.array([grain.along_z for grain in some])
    assert abs((along == 0).mean() - 0.5) < 4 * np.sqrt(0.25 / 4000)
    assert along.max() <= ALONG_Z
    levels = np.log([grain.level for grain in some])
    assert np.mean(levels) == pytest.approx(0, abs=4 * LEVEL / np.sqrt(4000))
    assert np.std(levels) == pytest.approx(LEVEL, rel=4 / np.sqrt(2 * 4000))
