"""What MedicalNet is given: 2 mm, the middle, cut, mean 0 and SD 1."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.core.volume import Volume
from denovox.metrics.medicalnet import prepare


def test_the_middle_at_2_mm():
    hu = np.random.default_rng(0).uniform(-900, 900, (12, 4, 6)).astype(np.float32)
    found = prepare(Volume(hu, np.diag([2.0, 2.0, 2.0, 1.0])), 8)
    box = np.full((8, 8, 8), -1000.0)
    box[:, 2:6, 1:7] = hu[2:10]
    assert found.shape == (1, 8, 8, 8)
    assert found[0] == pytest.approx((box - box.mean()) / (box.std() + 1e-5), abs=1e-5)


def test_spacing_and_range():
    hu = np.zeros((8, 8, 8), np.float32)
    hu[0] = 5000
    small, large = (prepare(Volume(hu, np.diag([mm, mm, mm, 1.0])), 8) for mm in (1.0, 2.0))
    assert len(np.unique(large)) == 2
    high, low = large.max(), large.min()
    assert high / -low == pytest.approx(7, rel=1e-3), "cut at 1000 HU, one slice of eight"
    assert len(np.unique(np.round(small, 3))) > 2, "averaged, and padded"
