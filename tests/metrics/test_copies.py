"""Copied patches: found wherever they are, and told from patches that are merely smooth."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.core.regions import REGIONS
from denovox.metrics.copies import EDGE, nearness, patches

WINDOW = REGIONS["chest"].window
SHAPE = (32, 24, 28)
BODY = np.ones(SHAPE, bool)


def hu(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(-500, 200, SHAPE).astype(np.float32)


def cut(values: np.ndarray, body: np.ndarray = BODY) -> np.ndarray:
    return patches(values, (6.0, 6.0, 6.0), WINDOW, body)


TRAINING = [cut(hu(seed)) for seed in range(10, 15)]


def test_patches_are_cubes_of_48_mm_at_every_24_mm():
    values = hu(0)
    found = cut(values)
    assert found.shape == (7 * 5 * 6, EDGE**3)
    expected = WINDOW.unit(values)[4:12, :8, :8].ravel()
    np.testing.assert_allclose(found[5 * 6], expected, atol=1e-6)
    half = patches(np.repeat(values, 2, 0), (3.0, 6.0, 6.0), WINDOW, np.repeat(BODY, 2, 0))
    assert half.shape == found.shape


def test_only_patches_that_show_body_count():
    body = np.zeros(SHAPE, bool)
    body[:16] = True
    assert len(cut(hu(0), body)) == 4 * 5 * 6  # starts at 0, 4, 8 and 12, which is half
    assert len(patches(hu(0)[:7], (6.0, 6.0, 6.0), WINDOW, BODY[:7])) == 0


def test_of_independent_scans_none_is_much_nearer_than_the_others():
    found = nearness(cut(hu(0)), TRAINING)
    assert found is not None
    assert 0.9 < found.ratio <= 1


def test_a_copy_of_a_tenth_is_at_0_and_its_source_is_named():
    values = hu(0)
    values[:20, :16, :20] = hu(13)[:20, :16, :20]
    found = nearness(cut(values), TRAINING)
    assert found is not None
    assert found.ratio == 0
    assert found.nearest == 3


def test_a_copy_with_noise_is_as_near_as_its_noise():
    values = hu(12) + np.random.default_rng(1).normal(0, 50, SHAPE).astype(np.float32)
    found = nearness(cut(values), TRAINING)
    assert found is not None
    assert found.nearest == 2
    # Patches that are independent differ by the SDs of both, less for the nearest of 210.
    assert found.ratio == pytest.approx(50 / np.hypot(200, np.hypot(200, 50)), rel=0.15)


def test_smooth_patches_could_be_of_anybody_and_do_not_count():
    assert len(cut(np.full(SHAPE, 40, np.float32))) == 0
    assert len(cut(hu(0) / 4)) == 0  # an SD of 50 HU in a window of 1800
    assert len(cut(hu(0) / 1.5)) == 210


def test_without_patches_or_training_there_is_no_answer():
    assert nearness(cut(hu(0)), TRAINING[:2]) is None
    assert nearness(cut(hu(0))[:0], TRAINING) is None
