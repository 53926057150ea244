"""scan/slice_checks: slices of two acquisitions that alternate, seen in the image alone."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.core.volume import Volume
from denovox.scan.slice_checks import check_slices


def body(slices: int = 16) -> np.ndarray:
    """Soft tissue in air, with noise of 12 HU."""
    x, y = np.indices((60, 50))
    plane = np.where(((x - 30) / 26) ** 2 + ((y - 25) / 21) ** 2 < 1, 50.0, -1000.0)
    noise = np.random.default_rng(0).normal(0, 12, (60, 50, slices))
    return (plane[..., None] + noise).astype(np.float32)


def refused(hu: np.ndarray, spacing: tuple[float, ...] = (1.0, 1.0, 3.0)) -> str:
    return " ".join(one.sentence for one in check_slices(Volume(hu, np.diag([*spacing, 1.0]))))


def test_one_acquisition_passes() -> None:
    assert not refused(body())
    ramp = body() + 10 * np.arange(16, dtype=np.float32)
    assert not refused(ramp)


@pytest.mark.parametrize("axis", [0, 2])
def test_contrast_in_every_second_slice_is_refused(axis: int) -> None:
    hu = body()
    hu[..., 1::2] += 60 * (hu[..., 1::2] > 0)
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.0
    said = refused(np.moveaxis(hu, 2, axis), tuple(spacing))
    assert f"slices along {'xyz'[axis]} alternate: slices 2 steps apart differ by" in said


def test_two_kernels_in_turn_are_refused() -> None:
    hu = body()
    hu[..., 1::2] += np.random.default_rng(1).normal(0, 40, (60, 50, 8)).astype(np.float32)
    assert "slices along z alternate" in refused(hu)
