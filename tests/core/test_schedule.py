"""Schedules against diffusers', the figures of Method 3, and the spacings' closed forms."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from denovox.core.schedule import Schedule

SCHEDULES = [Schedule("cosine"), Schedule("linear")]
SPACINGS = ["uniform", "karras", "logsnr"]


@pytest.mark.parametrize(
    ("name", "theirs"), [("cosine", "squaredcos_cap_v2"), ("linear", "linear")]
)
def test_betas_are_those_of_diffusers(name, theirs):
    from diffusers import DDPMScheduler

    reference = DDPMScheduler(beta_schedule=theirs, beta_start=1e-4, beta_end=0.02)
    np.testing.assert_allclose(Schedule(name).betas, reference.betas.double(), rtol=1e-5, atol=1e-9)
    # Their float32 alpha-bar is good to about 1e-4 where it is not all but zero.
    abar = reference.alphas_cumprod.double().numpy()[:900]
    expected = np.sqrt((1 - abar) / abar)
    np.testing.assert_allclose(Schedule(name).sigmas[:900], expected, rtol=1e-3)


def test_cosine_sigma_is_a_tangent():
    # alpha_bar is cos^2 of a phase over that of its first: no product of a thousand betas needed.
    phase = (np.arange(1, 1000) / 1000 + 0.008) / 1.008 * np.pi / 2
    abar = (np.cos(phase) / np.cos(0.008 / 1.008 * np.pi / 2)) ** 2
    got = Schedule().sigmas[:999]
    np.testing.assert_allclose(got[:990], np.sqrt(1 / abar - 1)[:990], rtol=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_sigmas_rise(schedule):
    assert schedule.sigmas.shape == (1000,)
    assert schedule.sigmas[0] > 0
    assert (np.diff(schedule.sigmas) > 0).all()


@pytest.mark.parametrize(
    ("name", "sigma", "t"),
    [("cosine", 0.15, 87), ("cosine", 0.30, 178), ("linear", 0.15, 42), ("linear", 0.30, 88)],
)
def test_timesteps_of_method_3(name, sigma, t):
    assert abs(Schedule(name).timestep(sigma) - t) < 1


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
@given(t=st.floats(0, 999))
def test_timestep_inverts_sigma(schedule, t):
    assert schedule.timestep(schedule.sigma(t)) == pytest.approx(t, abs=1e-6)


ENDING = [Schedule("cosine", zero_snr=True), Schedule("linear", zero_snr=True)]


@pytest.mark.parametrize("schedule", [*SCHEDULES, *ENDING], ids=str)
def test_timesteps_of_many_are_those_of_each(schedule):
    own = schedule.sigmas
    between = np.sqrt(own[:-1] * own[1:])
    rng = np.random.default_rng(0)
    drawn = np.exp(rng.uniform(np.log(own[0]) - 1, np.log(own[-1]) + 1, 2000))
    beyond = [own[0] * (1 - 1e-9), own[0] / 2, 1e-30, own[-1] * (1 + 1e-9), 2 * own[-1], 1e30]
    sigmas = np.concatenate([own, between, drawn, beyond])
    got = schedule.timesteps(torch.from_numpy(sigmas))
    assert got.dtype == torch.float64
    expected = [schedule.timestep(sigma) for sigma in sigmas]
    # One division and one logarithm, of which each is rounded its own way: steps of the table are
    # as small as 1e-3, and their ends as large as 10.
    np.testing.assert_allclose(got, expected, rtol=1e-12, atol=1e-12)
    np.testing.assert_allclose(got[:1000], np.arange(1000), rtol=0, atol=1e-9)
    assert got[-6:].tolist() == [0, 0, 0, 999, 999, 999]
    alone = torch.cat([schedule.timesteps(torch.tensor([sigma])) for sigma in sigmas[-40:]])
    assert torch.equal(alone, got[-40:])


@pytest.mark.parametrize("schedule", [*SCHEDULES, *ENDING], ids=str)
def test_timesteps_of_float32_are_those_of_its_numbers(schedule):
    sigmas = torch.from_numpy(schedule.sigmas).float()
    got = schedule.timesteps(sigmas).float()
    expected = [schedule.timestep(float(sigma)) for sigma in sigmas]
    assert torch.equal(got, torch.tensor(expected, dtype=torch.float32))


def test_timesteps_that_a_sampler_asked_for_first_serve_training():
    from denovox.core import schedule

    schedule._log_sigmas.cache_clear()
    with torch.inference_mode():
        Schedule().timesteps(torch.ones(2))
    scale = torch.ones(2, requires_grad=True)
    Schedule().timesteps(scale).sum().backward()
    assert (scale.grad > 0).all()


def test_whole_timesteps_are_the_tables_own_and_the_ends_hold():
    schedule = Schedule()
    assert [schedule.sigma(t) for t in (0, 10, 999)] == pytest.approx(schedule.sigmas[[0, 10, 999]])
    between = np.sqrt(schedule.sigmas[10] * schedule.sigmas[11])
    assert schedule.sigma(10.5) == pytest.approx(between)
    assert schedule.timestep(1e-9) == 0
    assert schedule.timestep(1e9) == 999


@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("count", [2, 3, 20])
def test_descend_goes_from_start_to_stop_and_to_zero(spacing, count):
    path = Schedule().descend(count, spacing, start=30.0, stop=0.05)
    assert len(path) == count + 1
    assert path[0] == pytest.approx(30)
    assert path[-2] == pytest.approx(0.05)
    assert path[-1] == 0
    assert all(a > b for a, b in itertools.pairwise(path))
    assert all(type(sigma) is float for sigma in path)


@pytest.mark.parametrize("spacing", SPACINGS)
def test_one_evaluation_is_one_step_from_the_start(spacing):
    assert Schedule().descend(1, spacing, start=0.5, stop=0.1) == [pytest.approx(0.5), 0.0]


def test_no_evaluation_is_refused():
    with pytest.raises(ValueError, match="one evaluation"):
        Schedule().descend(0)


def test_karras_is_equation_5():
    n, rho, largest, smallest = 12, 7, 80.0, 0.02
    expected = [
        (largest ** (1 / rho) + i / (n - 1) * (smallest ** (1 / rho) - largest ** (1 / rho))) ** rho
        for i in range(n)
    ]
    assert Schedule().descend(n, "karras")[:-1] == pytest.approx(expected, rel=1e-9)


@pytest.mark.parametrize("schedule", SCHEDULES, ids=lambda s: s.name)
def test_uniform_is_even_in_timestep(schedule):
    path = schedule.descend(9, "uniform", start=10.0, stop=0.1)
    steps = np.diff([schedule.timestep(s) for s in path[:-1]])
    np.testing.assert_allclose(steps, steps[0], atol=1e-6)


def test_uniform_stays_within_the_schedule():
    path = Schedule().descend(5, "uniform", start=1e9, stop=1e-9)
    assert path[0] == pytest.approx(Schedule().sigmas[-1])
    assert path[-2] == pytest.approx(Schedule().sigmas[0])


def test_logsnr_is_even_in_log_sigma():
    path = Schedule().descend(9, "logsnr", start=10.0, stop=0.1)
    np.testing.assert_allclose(np.diff(np.log(path[:-1])), np.log(0.01) / 8, rtol=1e-9)


def test_unless_asked_otherwise_steps_are_even_in_log_sigma_from_80_to_a_fiftieth():
    assert Schedule().descend(20) == Schedule().descend(20, "logsnr", start=80.0, stop=0.02)


@pytest.mark.parametrize(
    ("name", "theirs"), [("cosine", "squaredcos_cap_v2"), ("linear", "linear")]
)
def test_zero_terminal_snr_is_that_of_diffusers(name, theirs):
    from diffusers.schedulers.scheduling_ddpm import DDPMScheduler, rescale_zero_terminal_snr

    plain = DDPMScheduler(beta_schedule=theirs, beta_start=1e-4, beta_end=0.02).betas
    abar = (1 - rescale_zero_terminal_snr(plain.double())).cumprod(0).numpy()
    got = Schedule(name, zero_snr=True).sigmas
    np.testing.assert_allclose(got[:999], np.sqrt(1 / abar[:999] - 1), rtol=2e-3)
    assert abar[-1] == 0
    assert got[-1] == 1e5


def test_zero_terminal_snr_keeps_the_first_sigma_and_raises_the_others():
    plain, ending = Schedule("linear").sigmas, Schedule("linear", zero_snr=True).sigmas
    assert ending[0] == pytest.approx(plain[0], rel=1e-9)
    assert (ending[1:] > plain[1:]).all()
    assert (np.diff(ending) > 0).all()


def test_what_snr_the_schedules_end_at_by_themselves():
    assert Schedule("cosine").sigmas[-1] ** -2 == pytest.approx(2.43e-9, rel=1e-2)
    assert Schedule("linear").sigmas[-1] ** -2 == pytest.approx(4.04e-5, rel=1e-2)


@pytest.mark.parametrize("count", [1, 2, 3, 4, 8])
def test_few_evaluations_begin_at_pure_noise_and_leave_the_end_to_one(count):
    path = Schedule().from_noise(count)
    assert len(path) == count + 1
    assert path[0] == Schedule().descend(1)[0]
    assert path[-1] == 0
    assert path[1:-1] == pytest.approx(np.geomspace(8, 0.2, max(count - 1, 1))[: count - 1])
