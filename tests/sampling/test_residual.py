"""Structure is told from noise in the change that denoising makes."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from denovox.sampling.residual import CERTAIN, LIMITS, RINGS, SLICES, noise_in, structure_in

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
    assert rms(structure_in(change, MM, along_z)) < 0.03


def test_noise_that_is_correlated_along_z_needs_its_correlation() -> None:
    change = noise("along z")
    assert rms(structure_in(change, MM, 0.0)) > 3 * rms(structure_in(change, MM, 0.1))


@pytest.mark.parametrize("kind", ["white", "coloured"])
def test_structure_is_removed_from_the_change(kind: str) -> None:
    pure, structure = noise(kind), slow(0.05)
    left = pure + structure - structure_in(pure + structure, MM, 0.0)
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
    left = found - np.vdot(structure_in(change, MM, 0.0), mode) / mode.size
    expected = CERTAIN * modes / (found**2 * change.size + modes - 1)
    assert left / found == pytest.approx(expected, rel=0.2)


def test_much_structure_is_the_scans_own() -> None:
    assert not structure_in(noise("white") + slow(LIMITS[1] * 1.5), MM, 0.0).any()


def test_unchanged_voxels_stay_unchanged() -> None:
    change = noise("white") + slow(0.05)
    change[20:40, 10:30] = 0
    found = structure_in(change, MM, 0.0)
    assert not found[20:40, 10:30].any()
    assert found.any()


def test_few_slices_and_no_change_have_no_structure() -> None:
    thin = (noise("white") + slow(0.05))[..., : SLICES - 1]
    assert not structure_in(np.ascontiguousarray(thin), MM, 0.0).any()
    assert not structure_in(np.zeros(SHAPE, np.float32), MM, 0.0).any()


@pytest.mark.parametrize("ends", [(40,), (18, 40), (20, 24, 40), (3, 6, 40)])
def test_layers_join_without_a_seam(ends: tuple[int, ...]) -> None:
    pure, structure = noise("white"), slow(0.05)
    starts = (0, *ends[:-1])
    layers = [
        (slice(5 + a, 5 + b), (pure + structure)[..., a:b])
        for a, b in zip(starts, ends, strict=True)
    ]
    out, after = np.zeros(SHAPE, np.float32), 5
    for z, left in noise_in(layers, MM, 0.0):
        assert z.start == after
        after = z.stop
        out[..., z.start - 5 : z.stop - 5] = left
    assert after == 5 + SHAPE[2]
    found = pure + structure - out
    assert rms(found - structure) < 0.6 * rms(structure)
    steps = np.sqrt(np.square(np.diff(found - structure, axis=2)).mean((0, 1)))
    assert steps.max() < 0.25 * rms(structure)
