"""Structure is told from noise in the change that denoising makes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from denovox.sampling.residual import CERTAIN, LIMITS, RINGS, SLICES, noise_in

SHAPE, MM = (80, 64, 40), (1.5, 1.5, 3.0)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt(np.square(values).mean()))


def noise(kind: str) -> np.ndarray:
    values = np.random.default_rng(1).normal(size=SHAPE)
    if kind == "coloured":  # as a CT's: little at low frequencies, little at the highest
        values = ndimage.gaussian_filter(values, (0.7, 0.7, 0)) - ndimage.gaussian_filter(
            values, (3, 3, 0)
        )
    if kind == "along z":
        values = values + 0.1 * np.roll(values, 1, 2)  # correlation .1 / 1.01
    return (values / rms(values)).astype(np.float32)


def slow(strength: float) -> np.ndarray:
    x, y, z = (np.arange(n) / n for n in SHAPE)
    values = np.cos(np.pi * x)[:, None, None] + np.cos(2 * np.pi * y)[:, None] * np.cos(np.pi * z)
    return (strength * values / rms(values)).astype(np.float32)


@pytest.mark.parametrize(("kind", "along_z"), [("white", 0), ("coloured", 0), ("along z", 0.1)])
def test_noise_alone_remains(kind: str, along_z: float) -> None:
    change = noise(kind)
    assert rms(noise_in(change, MM, along_z) - change) < 0.03


def test_noise_that_is_correlated_along_z_needs_its_correlation() -> None:
    change = noise("along z")
    assert rms(noise_in(change, MM, 0.0) - change) > 3 * rms(noise_in(change, MM, 0.1) - change)


@pytest.mark.parametrize("kind", ["white", "coloured"])
def test_structure_is_removed_from_the_change(kind: str) -> None:
    pure, structure = noise(kind), slow(0.05)
    left = noise_in(pure + structure, MM, 0.0)
    assert rms(left - pure) < 0.5 * rms(structure)
    assert abs(np.vdot(left, structure) / np.vdot(structure, structure)) < 0.1


def test_a_single_mode_is_scaled_as_wiener_says() -> None:
    """White noise of power 1: of a ring of modes, structure is 1 - CERTAIN * noise / power."""
    x, y = (np.arange(n) / n for n in SHAPE[:2])
    modes = np.count_nonzero(np.hypot(x[:, None], y) < 1 / RINGS)
    mode = np.sqrt(2) * np.cos(np.pi * (x + 0.5 / SHAPE[0]))[:, None, None] * np.ones(SHAPE)
    strength = 0.02
    change = noise("white") + (strength * mode).astype(np.float32)
    found = np.vdot(change, mode) / mode.size  # with the noise in this mode
    left = np.vdot(noise_in(change, MM, 0.0), mode) / mode.size
    expected = CERTAIN * modes / (found**2 * change.size + modes - 1)
    assert left / found == pytest.approx(expected, rel=0.2)


def test_much_structure_is_the_scans_own() -> None:
    change = noise("white") + slow(LIMITS[1] * 1.5)
    np.testing.assert_array_equal(noise_in(change, MM, 0.0), change)


def test_unchanged_voxels_stay_unchanged() -> None:
    change = noise("white") + slow(0.05)
    change[20:40, 10:30] = 0
    left = noise_in(change, MM, 0.0)
    assert not left[20:40, 10:30].any()
    assert (left != change).any()


def test_few_slices_and_no_change_come_back_as_they_are() -> None:
    thin = noise("white")[..., : SLICES - 1] + slow(0.05)[..., : SLICES - 1]
    assert noise_in(thin, MM, 0.0) is thin
    none = np.zeros(SHAPE, np.float32)
    assert noise_in(none, MM, 0.0) is none
