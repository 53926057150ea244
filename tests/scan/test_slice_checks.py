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


@pytest.mark.parametrize("period", [3, 4])
def test_several_phases_in_turn_are_refused(period: int) -> None:
    """Each with its own contrast, in stacks of three or four."""
    hu = body(24)
    for phase in range(period):
        hu[..., phase::period] += 40 * phase**2 * (hu[..., phase::period] > 0)
    assert f"slices {period} steps apart differ by" in refused(hu)


@pytest.mark.parametrize("axis", [0, 2])
def test_a_small_offset_of_every_second_slice_is_refused(axis: int) -> None:
    """As between two energies: too small to stand out of the noise from slice to slice."""
    hu = body(24)
    hu[..., ::2] += 8
    spacing = [1.0, 1.0, 1.0]
    spacing[axis] = 3.0
    said = refused(np.moveaxis(hu, 2, axis), tuple(spacing))
    assert "soft tissue is " in said
    assert float(said.split("soft tissue is ")[1].split()[0]) == pytest.approx(8, abs=1)


def test_the_sentence_says_how_much_noisier_every_second_slice_is() -> None:
    hu = body(24)
    rng = np.random.default_rng(1)
    hu[..., 1::2] += rng.normal(0, 27, (60, 50, 12)).astype(np.float32)
    assert "noise is 2.4 times as strong in every second slice" in refused(hu)


def test_a_few_offset_slices_are_no_alternation() -> None:
    hu = body(24)
    hu[..., [3, 4, 11, 17]] += 20
    assert not refused(hu)


def test_too_few_slices_say_nothing() -> None:
    hu = body(7)
    hu[..., 1::2] += 60 * (hu[..., 1::2] > 0)
    assert not refused(hu)


def test_contrast_in_part_of_the_body_is_enough() -> None:
    """As in vessels: most of the soft tissue is alike in all slices."""
    hu = body(24)
    hu[:22, :, 1::2] += 60 * (hu[:22, :, 1::2] > 0)
    assert "slices 2 steps apart differ by" in refused(hu)
