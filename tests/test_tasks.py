"""The tasks: rows of Method 2's table, and Method 3's rules for what lies outside a window."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from denovox.core.operators.slab_average import SlabAverage
from denovox.core.schedule import Schedule
from denovox.sampling.corrections import clip
from denovox.sampling.sampler import ddim, ddpm
from denovox.tasks import (
    change,
    denoising,
    denoising_diffpir,
    inpainting,
    noisy_input,
    super_resolution,
    synthesis,
)

SHAPE = (1, 1, 2, 3, 4)


def column(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float64).view(1, 1, 1, 1, -1)


def ones(stream: int) -> Tensor:
    return torch.ones(SHAPE)


# The table ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("solver", "fresh", "order"), [("dpm++", ddim, 2), ("ddim", ddim, 1), ("ddpm", ddpm, 1)]
)
def test_synthesis_starts_from_noise_and_goes_all_the_way(solver, fresh, order):
    task = synthesis(ones, Schedule().descend(13), solver=solver)
    assert task.evaluations == 13
    assert list(task.sigmas) == Schedule().descend(13)
    assert torch.equal(task.x, torch.full(SHAPE, task.sigmas[0]))
    assert task.fresh is fresh
    assert task.order == order
    assert task.correct is clip


def test_synthesis_starts_from_stream_0():
    streams = []

    def noise(stream: int) -> Tensor:
        streams.append(stream)
        return torch.zeros(SHAPE)

    synthesis(noise, Schedule().descend(3), solver="ddpm").run(lambda x, s: x, noise)
    assert streams == [0, 1, 2]  # to 0 nothing is added


def test_denoising_asks_once_at_the_noises_own_level():
    y, asked = torch.full(SHAPE, 0.5), []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        asked.append((x, sigma))
        return x / 2

    got = denoising(y, 0.17).run(denoise, ones)
    ((seen, sigma),) = asked
    assert torch.equal(seen, y)
    assert sigma == 0.17
    torch.testing.assert_close(got, y / 2)


@pytest.mark.parametrize("sigma", [0.5, 0.15, 0.01])
def test_diffpir_starts_from_the_scan_at_its_own_noise(sigma):
    y, asked = torch.full(SHAPE, 0.5), []

    def denoise(x: Tensor, level: float) -> Tensor:
        asked.append(level)
        return x

    task = denoising_diffpir(y, sigma, Schedule(), steps=7)
    assert task.x is y
    assert task.fresh(0.5, 0.4) == 0.3
    assert task.evaluations == 7
    task.run(denoise, ones)
    assert asked[0] == pytest.approx(sigma)
    assert asked == sorted(asked, reverse=True)
    assert 0 < asked[-1] <= 0.02


def test_diffpirs_correction_is_the_prox_of_the_clipped_estimate():
    y = torch.full(SHAPE, -0.5)
    task = denoising_diffpir(y, 0.2, Schedule(), strength=10.0)
    # rho = 10 * (.2 / .1)^2 = 40, and an estimate of 3 is first clipped to 1.
    got = task.correct(torch.full(SHAPE, 3.0), 0.1)
    torch.testing.assert_close(got, torch.full(SHAPE, (-0.5 + 40) / 41))


PAIRS = SlabAverage(np.kron(np.eye(2), [[0.5, 0.5]]))


def test_super_resolution_starts_above_the_interpolation_and_asks_as_often_as_said():
    estimate = torch.full(SHAPE, 0.25)
    task = super_resolution(PAIRS.A(estimate), PAIRS, estimate, ones, Schedule(), steps=4)
    assert torch.equal(task.x, torch.full(SHAPE, 0.25 + task.sigmas[0]))
    assert task.evaluations == 4
    assert task.sigmas[0] == pytest.approx(0.3)
    assert task.sigmas[-2:] == pytest.approx([0.03, 0])
    assert task.fresh(0.5, 0.4) == 1


def test_super_resolutions_estimates_are_clipped_and_then_have_the_data():
    y = torch.full((1, 1, 2, 3, 2), 0.5)
    task = super_resolution(y, PAIRS, torch.zeros(SHAPE), ones, Schedule())
    got = task.correct(column(3, 0, 0, 0).expand(SHAPE).double(), 0.1)
    torch.testing.assert_close(got, column(1, 0, 0.5, 0.5).expand(SHAPE), rtol=0, atol=1e-6)


def test_super_resolution_by_a_gaussian_prior_is_near_the_posterior_mean(gaussian):
    truth, noise = gaussian.draw(64), gaussian.noise(64)
    y = PAIRS.A(truth)
    start = PAIRS.prox(torch.zeros_like(truth), y, 0.0)
    got = super_resolution(y, PAIRS, start, noise, Schedule(), steps=5).run(gaussian.denoise, noise)
    torch.testing.assert_close(PAIRS.A(got), y, atol=1e-9, rtol=0)
    # Exact: the mean given A x = y, from the prior's own covariance.
    rows = np.kron(np.eye(6), PAIRS.matrix)
    a = torch.from_numpy(rows)
    gain = gaussian.cov @ a.T @ torch.linalg.inv(a @ gaussian.cov @ a.T)
    flat = gaussian.mean + (y.reshape(64, -1) - gaussian.mean @ a.T) @ gain.T
    off, before = got - gaussian.volume(flat), start - gaussian.volume(flat)
    assert float(off.std()) < 0.5 * float(before.std())


def test_climbs_are_no_evaluations():
    from denovox.tasks import Task

    assert Task(torch.zeros(SHAPE), [3.0, 1.0, 2.0, 1.0, 0.0]).evaluations == 3


# Outside the window ---------------------------------------------------------------------------

sigmas = st.floats(0.01, 0.5)
units = st.lists(st.floats(-8, 8), min_size=1, max_size=20).map(lambda v: column(*v))


@given(units, sigmas)
def test_within_reach_of_the_noise_the_input_stays(unit, sigma):
    near = unit.abs() <= 1 + 3 * sigma
    got = noisy_input(unit, sigma, lambda stream: torch.full_like(unit, 0.7))
    assert torch.equal(got[near], unit[near])


@given(units, sigmas)
def test_farther_out_the_input_is_the_windows_end_and_noise(unit, sigma):
    beyond = unit.abs() > 1 + 3 * sigma
    got = noisy_input(unit, sigma, lambda stream: torch.full_like(unit, 0.7))
    torch.testing.assert_close(got[beyond], unit[beyond].sign() + 0.7 * sigma)


@given(units, sigmas, st.floats(-1, 1))
def test_inside_the_window_the_restored_value_is_the_result(unit, sigma, value):
    restored = torch.full_like(unit, value)
    inside = unit.abs() <= 1
    got = unit + change(unit, restored, sigma)
    torch.testing.assert_close(got[inside], restored[inside])


@given(units, sigmas, st.floats(-1, 1))
def test_far_outside_the_window_nothing_changes(unit, sigma, value):
    beyond = unit.abs() > 1 + 3 * sigma
    added = change(unit, torch.full_like(unit, value), sigma)
    assert (added[beyond] == 0).all()


@given(units, sigmas, st.floats(-1, 1))
def test_between_the_result_lies_between_the_restored_and_the_measured(unit, sigma, value):
    restored = torch.full_like(unit, value)
    near = (unit.abs() > 1) & (unit.abs() <= 1 + 3 * sigma)
    got = (unit + change(unit, restored, sigma))[near]
    low, high = torch.minimum(unit, restored)[near], torch.maximum(unit, restored)[near]
    assert ((low - 1e-12 <= got) & (got <= high + 1e-12)).all()


@pytest.mark.parametrize(("sigma", "reach"), [(0.04, 0.04), (0.1, 0.05), (0.5, 0.05)])
def test_between_by_numbers(sigma, reach):
    unit = column(1.1, 1.1, 1.1, -1.1, -1.1)
    restored = column(1.0, 1 - reach / 2, 1 - reach, -1.0, -0.3)
    # At the window's end: as measured. Half a reach inside: half of what sticks out (.1) comes
    # back. A reach inside or more: it was noise. That reach is sigma, but .05 at most: an estimate
    # of fat in an abdomen (.11 inside) is sure, however noisy the scan.
    expected = column(1.1, 1 - reach / 2 + 0.05, 1 - reach, -1.1, -0.3)
    torch.testing.assert_close(unit + change(unit, restored, sigma), expected)


def test_no_noise_is_no_change_outside():
    unit = column(-3.0, -1.0, 0.0, 1.0, 1.5)
    torch.testing.assert_close(change(unit, unit.clamp(-1, 1), 0.0), column(0, 0, 0, 0, 0))


# Inpainting -----------------------------------------------------------------------------------


def two_voxels(r: float, count: int = 4000):
    """(denoise, prior SD): `count` pairs of voxels, each normal with SD .2, correlated by r."""
    cov = 0.04 * torch.tensor([[1.0, r], [r, 1.0]], dtype=torch.float64)

    def denoise(x: Tensor, sigma: float) -> Tensor:
        gain = cov @ torch.linalg.inv(cov + sigma**2 * torch.eye(2, dtype=torch.float64))
        return (x.view(-1, 2) @ gain.T).view(x.shape)

    def noise(stream: int) -> Tensor:
        drawn = torch.Generator().manual_seed(stream)
        return torch.randn(count, 1, 1, 1, 2, generator=drawn, dtype=torch.float64)

    return denoise, noise


def filled(r: float, jumps: tuple[int, int], steps: int = 20) -> Tensor:
    """What stands in the hole of pairs whose first voxel is known to be .3."""
    denoise, noise = two_voxels(r)
    y = torch.zeros(4000, 1, 1, 1, 2, dtype=torch.float64)
    y[..., 0] = 0.3
    known = torch.zeros(y.shape, dtype=torch.bool)
    known[..., 0] = True
    task = inpainting(y, known, noise, Schedule(), steps, jumps)
    result = task.run(denoise, noise)
    assert torch.equal(result[..., 0], y[..., 0])
    return result[..., 1].flatten()


def test_what_is_known_decides_what_fills_the_hole():
    """Given the first, the second voxel of a pair is normal: mean r y, SD .2 sqrt(1 - r^2).

    RePaint comes near that, the nearer the more jumps; the prior alone has mean 0 and SD .2.
    """
    wrong = [abs(float(filled(0.9, (2, times)).mean()) - 0.27) for times in (1, 2, 4)]
    assert wrong[0] > wrong[1] > wrong[2]
    assert wrong[1] < 0.1
    assert wrong[2] < 0.05


def test_a_hole_that_nothing_is_known_of_is_drawn_from_the_prior():
    free = filled(0.0, (2, 2), steps=200)
    assert abs(float(free.mean())) < 0.01
    assert float(free.std()) == pytest.approx(0.2, rel=0.04)


def test_jumps_cost_their_evaluations():
    y, known = torch.zeros(SHAPE), torch.ones(SHAPE, dtype=torch.bool)
    counts = [inpainting(y, known, ones, Schedule(), 20, (2, n)).evaluations for n in (1, 2, 3)]
    assert counts == [20, 38, 56]  # of ten pairs of steps all but the last, which ends at 0
