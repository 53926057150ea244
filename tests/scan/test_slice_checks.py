"""scan/slice_checks: slices of two acquisitions that alternate, seen in the image alone."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.core.volume import Volume
from denovox.scan import slice_checks
from denovox.scan.slice_checks import alternating, check_slices


def body(slices: int = 16, scale: int = 1) -> np.ndarray:
    """Soft tissue in air, with noise of 12 HU."""
    x, y = np.indices((60 * scale, 50 * scale)) / scale
    plane = np.where(((x - 30) / 26) ** 2 + ((y - 25) / 21) ** 2 < 1, 50.0, -1000.0)
    noise = np.random.default_rng(0).normal(0, 12, (*plane.shape, slices))
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
    assert f"slices along {'xyz'[axis]} alternate: soft tissue is 59.8 HU" in said


def test_two_kernels_in_turn_are_refused() -> None:
    hu = body()
    hu[..., 1::2] += np.random.default_rng(1).normal(0, 40, (60, 50, 8)).astype(np.float32)
    assert "slices along z alternate" in refused(hu)


@pytest.mark.parametrize("period", [2, 3, 4])
def test_passes_between_which_the_patient_moved_are_refused(period: int) -> None:
    """No more contrast, no more noise: everything lies elsewhere in every pass."""
    hu = body(24)
    hu[20:40, 15:35] += 80
    hu[24:28, 19:23] -= 140
    for number in range(period):
        hu[..., number::period] = np.roll(hu[..., number::period], 5 * number, number % 2)
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


PHASES = {
    2: (0, 40),
    3: (0, 30, 60),
    4: (0, 60, 0, 20),
    5: (0, 15, 30, 45, 60),
    6: (0, 10, 20, 30, 40, 50),
}


def tilted(slices: int = 40) -> np.ndarray:
    """Tissue that changes by 45 HU from slice to slice anyway, here and there up and down."""
    hu = body(slices)
    rng = np.random.default_rng(2)
    drift = np.cumsum(rng.choice([-45.0, 45.0], (12, 10, slices)), 2)
    spread = np.repeat(np.repeat(drift, 5, 0), 5, 1)
    return (hu + np.where(hu > -500, np.clip(spread, -140, 140), 0)).astype(np.float32)


@pytest.mark.parametrize("period", PHASES)
def test_phases_in_turn_are_refused_though_the_anatomy_changes_more(period: int) -> None:
    hu = tilted()
    assert not refused(hu)
    for phase, more in enumerate(PHASES[period]):
        hu[..., phase::period] += more * (hu[..., phase::period] > -150)
    said = refused(hu)
    size = float(said.split(" HU")[0].split()[-1])
    assert size == pytest.approx(np.ptp(PHASES[period]), rel=0.15)
    every = "in every second slice" if period == 2 else f"repeats every {period} slices"
    assert said.startswith("slices along z alternate: soft tissue ")
    assert every in said


@pytest.mark.parametrize("sds", [(0, 30), (0, 0, 30), (0, 25, 50), (0, 0, 0, 0, 30)])
def test_noise_that_alternates_is_refused_with_its_factor(sds: tuple[float, ...]) -> None:
    hu = body(40)
    rng = np.random.default_rng(1)
    for kind, sd in enumerate(sds):
        some = hu[..., kind :: len(sds)]
        some += rng.normal(0, sd, some.shape).astype(np.float32)
    said = alternating(hu)
    size = float(said.split("a factor of ")[-1].split("noise is ")[-1].split()[0].rstrip(","))
    assert size == pytest.approx(np.hypot(max(sds), 12) / 12, rel=0.06)
    every = "every second slice" if len(sds) == 2 else f"repeats every {len(sds)} slices"
    assert said.startswith("noise ")
    assert every in said


@pytest.mark.parametrize("step", [1 / 3, 0.4, 0.5, 0.6, 0.75, 1.5])
def test_a_scan_that_was_interpolated_linearly_passes(step: float) -> None:
    """Noise then alternates by up to the square root of 2."""
    for hu in (body(40), tilted()):
        at = np.arange(0, 39, step)
        below = np.minimum(at.astype(int), 38)
        part = (at - below).astype(np.float32)
        assert not refused(hu[..., below] * (1 - part) + hu[..., below + 1] * part)


@pytest.mark.parametrize("every", [2, 3])
def test_an_offset_that_does_not_hold_throughout_is_no_alternation(every: int) -> None:
    """Of 20 HU in a third of the slices of a kind: what repeats is not the rule."""
    for seed in range(4):
        hu = body(48)
        kind = np.arange(0, 48, every)
        some = np.random.default_rng(seed).choice(kind, len(kind) // 3, replace=False)
        hu[..., some] += 20
        assert not refused(hu)


def test_chance_is_no_alternation(monkeypatch: pytest.MonkeyPatch) -> None:
    """A value of its own in every slice; in a short stack some period fits it always."""
    monkeypatch.setattr(slice_checks, "FAR", ())
    for seed in range(40):
        rng = np.random.default_rng(seed)
        hu = body(int(rng.integers(8, 30)))
        assert not refused(hu + rng.normal(0, 6, hu.shape[2]).astype(np.float32)), seed


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
    assert "in every second slice" in refused(hu)
