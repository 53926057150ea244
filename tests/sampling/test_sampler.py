"""The sampling loop against closed forms: a Gaussian prior, and diffusers' own schedulers.

On a Gaussian prior every sampler is an affine map of its noise. So the law of its results is worked
out exactly, from its answer to each noise number alone (`law`), and no bound here hides behind the
scatter of random draws.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from itertools import pairwise

import numpy as np
import pytest
import torch
from torch import Tensor

from denovox.core.operators.base import Identity
from denovox.core.schedule import Schedule, Spacing
from denovox.sampling.corrections import clip, paste, prox, then
from denovox.sampling.sampler import ddim, ddpm, diffpir, keep, sample, start, with_jumps
from denovox.tasks import denoising, denoising_diffpir

Sampler = Callable[[Tensor, Callable[[int], Tensor]], Tensor]
ONE = (1, 1, 1, 1, 2)


def silent(stream: int) -> Tensor:
    raise AssertionError("no noise was to be drawn")


def zeros(like: Tensor) -> Callable[[int], Tensor]:
    return lambda stream: torch.zeros_like(like)


def law(gaussian, run: Sampler, sigma: float, moves: int) -> tuple[Tensor, Tensor]:
    """(mean, covariance) of `run` from mean + sigma * noise; it draws at moves 1 .. `moves`.

    Member 0 of the batch sees no noise at all, every other one a single 1 in a single place.
    """
    d = len(gaussian.mean)
    rows = torch.zeros(1 + d * (1 + moves), d, dtype=torch.float64)

    def alone(stream: int) -> Tensor:
        own = rows.clone()
        own[1 + d * stream : 1 + d * (stream + 1)] = torch.eye(d, dtype=torch.float64)
        return gaussian.volume(own)

    middle = gaussian.volume(gaussian.mean.expand(rows.shape))
    out = gaussian.flat(run(start(middle, sigma, alone), alone))
    answers = out[1:] - out[0]
    return out[0], answers.T @ answers


def distance(gaussian, mean: Tensor, cov: Tensor) -> float:
    """How far a law is from the prior: the larger of the two relative errors."""
    off = (mean - gaussian.mean).norm() / gaussian.mean.norm()
    return max(float(off), float((cov - gaussian.cov).norm() / gaussian.cov.norm()))


# One step -------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["cosine", "linear"])
@pytest.mark.parametrize("t", [1, 50, 500, 900])
def test_a_ddpm_step_is_the_posterior_of_the_vp_chain(name, t):
    """Ho et al. 2020, eq. 7: mean and variance of x_{t-1} given x_t and x0."""
    schedule = Schedule(name)
    betas, abar = schedule.betas, np.cumprod(1 - schedule.betas)
    x0, xt = torch.tensor([[0.4, -1.3], [0.9, 2.1]], dtype=torch.float64).view(2, *ONE)
    sigmas = [float(schedule.sigmas[t]), float(schedule.sigmas[t - 1])]

    def step(noise: float) -> Tensor:
        x = xt / math.sqrt(abar[t])
        after = sample(
            lambda x, s: x0, x, sigmas, fresh=ddpm, noise=lambda k: torch.full_like(x, noise)
        )
        return after * math.sqrt(abar[t - 1])

    mean = (
        math.sqrt(abar[t - 1]) * betas[t] / (1 - abar[t]) * x0
        + math.sqrt(1 - betas[t]) * (1 - abar[t - 1]) / (1 - abar[t]) * xt
    )
    variance = betas[t] * (1 - abar[t - 1]) / (1 - abar[t])
    torch.testing.assert_close(step(0), mean, rtol=1e-10, atol=1e-12)
    spread = (step(1) - step(0)) ** 2
    torch.testing.assert_close(spread, torch.full_like(spread, variance), rtol=1e-8, atol=0)


@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_a_step_keeps_the_level_of_noise_whatever_is_fresh(share):
    x0 = torch.zeros(ONE, dtype=torch.float64)
    x = torch.full(ONE, 0.8, dtype=torch.float64)

    def step(noise: float) -> float:
        ones = torch.full(ONE, noise, dtype=torch.float64)
        after = sample(lambda x, s: x0, x, [0.8, 0.5], fresh=diffpir(share), noise=lambda k: ones)
        return float(after.flatten()[0])

    # x holds one SD of noise: what is kept and what is new are two SDs whose squares sum.
    kept, new = step(0), step(1) - step(0)
    assert kept == pytest.approx(0.5 * math.sqrt(1 - share))
    assert new == pytest.approx(0.5 * math.sqrt(share))


def test_a_climb_adds_what_noise_is_missing():
    x = torch.full(ONE, 2.0)
    after = sample(silent_denoise, x, [0.3, 0.5], noise=lambda k: torch.ones(ONE))
    torch.testing.assert_close(after, x + 0.4)


def silent_denoise(x: Tensor, sigma: float) -> Tensor:
    raise AssertionError("no evaluation was due")


def test_the_denoiser_is_asked_once_a_step_and_streams_are_the_moves():
    sigmas, asked, drawn = [3.0, 2.0, 1.0, 2.0, 1.0, 0.0], [], []

    def denoise(x: Tensor, sigma: float) -> Tensor:
        asked.append(sigma)
        return 0 * x

    def noise(stream: int) -> Tensor:
        drawn.append(stream)
        return torch.ones(ONE)

    sample(denoise, torch.ones(ONE), sigmas, fresh=ddpm, noise=noise)
    assert asked == [3.0, 2.0, 2.0, 1.0]
    assert drawn == [1, 2, 3, 4]  # nothing is drawn on the way to 0


def test_start_is_the_estimate_and_stream_0():
    estimate = torch.full(ONE, 0.5)
    got = start(estimate, 4.0, lambda stream: torch.full(ONE, 1.0 + stream))
    torch.testing.assert_close(got, torch.full(ONE, 4.5))


def test_the_last_step_gives_the_corrected_estimate_itself():
    x0 = torch.full(ONE, 7.0)
    for order in (1, 2):
        got = sample(
            lambda x, s: x0,
            5 * x0,
            [9.0, 1.0, 0.0],
            correct=clip,
            fresh=ddim,
            order=order,
            noise=silent,
        )
        assert torch.equal(got, torch.ones(ONE))


# Synthesis on a Gaussian prior ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("fresh", "order", "steps"),
    [(ddpm, 1, 160), (ddim, 1, 320), (ddim, 2, 160)],
    ids=["ddpm", "ddim", "dpm++"],
)
def test_samples_follow_the_prior(gaussian, fresh, order, steps):
    """Half the step, half the error or less (a quarter, in second order): nothing else is left."""

    def error(count: int) -> float:
        sigmas = Schedule().descend(count, "karras", start=80, stop=0.002)

        def run(x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
            return sample(gaussian.denoise, x, sigmas, fresh=fresh, order=order, noise=noise)

        return distance(gaussian, *law(gaussian, run, 80, count if fresh is ddpm else 0))

    coarse, fine = error(steps // 2), error(steps)
    assert fine < 0.07
    assert coarse / fine > 0.9 * 2**order


def test_the_law_is_that_of_random_draws(gaussian):
    """The exact law above is what drawing thousands of samples would show."""
    count, sigmas = 4000, Schedule().descend(20, "karras")

    def run(x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        return sample(gaussian.denoise, x, sigmas, fresh=ddpm, noise=noise)

    mean, cov = law(gaussian, run, 80, 20)
    noise = gaussian.noise(count)
    drawn = gaussian.flat(run(80 * noise(0), noise))
    variance = cov.diagonal()
    assert ((drawn.mean(0) - mean).abs() < 4 * (variance / count).sqrt()).all()
    assert ((drawn.var(0) / variance - 1).abs() < 4 * math.sqrt(2 / count)).all()


def ode_errors(gaussian, order: int, counts: list[int]) -> list[float]:
    x = gaussian.volume(gaussian.mean[None]) + 10 * gaussian.noise(8)(0)
    exact = gaussian.ode(x, 10, 0.05)
    errors = []
    for count in counts:
        sigmas = Schedule().descend(count, "karras", start=10, stop=0.05)[:-1]
        got = sample(gaussian.denoise, x, sigmas, fresh=ddim, order=order, noise=silent)
        errors.append(float((got - exact).abs().max()))
    return errors


def test_ddim_is_of_first_order(gaussian):
    errors = ode_errors(gaussian, 1, [80, 160, 320, 640])
    assert all(1.85 < a / b < 2.15 for a, b in pairwise(errors))


def test_dpm_solver_is_of_second_order(gaussian):
    errors = ode_errors(gaussian, 2, [80, 160, 320, 640])
    assert all(3.6 < a / b < 4.4 for a, b in pairwise(errors))


def test_20_steps_of_dpm_solver_are_no_worse_than_100_of_ddim(gaussian):
    """With the spacing that synthesis uses; Karras's is too coarse in log sigma for it."""
    x = 80 * gaussian.noise(64)(0)
    exact = gaussian.ode(x, 80, 0)

    def error(count: int, order: int, spacing: Spacing) -> float:
        sigmas = Schedule().descend(count, spacing)
        got = sample(gaussian.denoise, x, sigmas, fresh=ddim, order=order, noise=silent)
        return float((got - exact).square().mean().sqrt())

    assert error(20, 2, "logsnr") <= min(error(100, 1, "karras"), error(100, 1, "logsnr"))


def test_after_a_climb_the_solver_starts_anew(gaussian):
    x, noise = 9 * gaussian.noise(2)(0), gaussian.noise(2)
    path = [9.0, 6.0, 4.0, 6.0, 4.0]
    got = sample(gaussian.denoise, x, path, fresh=ddim, order=2, noise=noise)
    down = sample(gaussian.denoise, x, path[:3], fresh=ddim, order=2, noise=silent)
    up = down + math.sqrt(6**2 - 4**2) * noise(3)
    again = sample(gaussian.denoise, up, path[3:], fresh=ddim, order=1, noise=silent)
    torch.testing.assert_close(got, again, rtol=0, atol=1e-12)


# Against diffusers ----------------------------------------------------------------------------


def against(gaussian, scheduler, count: int, order: int) -> tuple[Tensor, Tensor]:
    """(ours, theirs) from one start, with one closed-form noise estimate."""
    scheduler.set_timesteps(count)
    timesteps = scheduler.timesteps.tolist()
    sigmas = [*map(float, Schedule().sigmas[timesteps]), 0.0]
    x = gaussian.volume(gaussian.mean[None]) + sigmas[0] * gaussian.noise(4)(0)
    ours = sample(gaussian.denoise, x, sigmas, fresh=ddim, order=order, noise=silent)

    theirs = x / math.sqrt(1 + sigmas[0] ** 2)  # sqrt(abar) x
    for t, sigma in zip(timesteps, sigmas, strict=False):
        seen = theirs * math.sqrt(1 + sigma**2)
        noise = (seen - gaussian.denoise(seen, sigma)) / sigma
        theirs = scheduler.step(noise, t, theirs).prev_sample
    return ours, theirs


@pytest.mark.parametrize("count", [5, 20])
def test_ddim_is_that_of_diffusers(gaussian, count):
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(beta_schedule="squaredcos_cap_v2", clip_sample=False)
    ours, theirs = against(gaussian, scheduler, count, 1)
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)  # their alpha-bar is float32


# diffusers 0.42 makes an array of a tensor in a way that numpy 2 warns of.
@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
@pytest.mark.parametrize("count", [5, 20])
def test_dpm_solver_is_that_of_diffusers(gaussian, count):
    from diffusers import DPMSolverMultistepScheduler

    scheduler = DPMSolverMultistepScheduler(
        beta_schedule="squaredcos_cap_v2",
        algorithm_type="dpmsolver++",
        solver_order=2,
        solver_type="midpoint",
        lower_order_final=True,
        timestep_spacing="leading",
    )
    ours, theirs = against(gaussian, scheduler, count, 2)
    np.testing.assert_allclose(
        scheduler.sigmas[:-1], Schedule().sigmas[scheduler.timesteps], rtol=1e-3
    )
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-4)
    first, _ = against(gaussian, scheduler, count, 1)
    assert float((first - ours).abs().max()) > 1e-2  # the order matters here


# RePaint --------------------------------------------------------------------------------------


def test_repaint_comes_to_the_exact_conditional_law(gaussian_prior):
    """RePaint is no exact sampler: on smooth priors it needs very many jumps. Here neighbours
    correlate by 1/e, and 5 times are enough."""
    i = torch.arange(24, dtype=torch.float64)
    cov = 0.16 * torch.exp(-(i[:, None] - i).abs())
    gaussian = gaussian_prior(0.3 * torch.sin(i / 3), cov, (2, 3, 4))
    known, truth = (i < 8) | (i >= 16), gaussian.draw(1)
    mean, cov = gaussian.given(known, gaussian.flat(truth)[0])
    deviation = cov.diagonal().sqrt()
    mask = known.view(1, 1, *gaussian.shape)

    def errors(times: int) -> tuple[float, float]:
        sigmas = with_jumps(Schedule().descend(48, "karras", start=20, stop=0.02), 8, times)

        def run(x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
            correct = paste(mask.expand(x.shape), truth.expand(x.shape))
            return sample(gaussian.denoise, x, sigmas, correct=correct, fresh=ddpm, noise=noise)

        got_mean, got_cov = law(gaussian, run, 20, len(sigmas) - 1)
        # The known voxels are the truth in every sample.
        torch.testing.assert_close(got_mean[known], gaussian.flat(truth)[0, known])
        assert float(got_cov[known].abs().max()) == 0
        ratio = got_cov.diagonal()[~known].sqrt() / deviation
        off = (got_mean[~known] - mean).norm() / deviation.norm()
        return float(off), float((ratio - 1).abs().max())

    unaware = float((gaussian.mean[~known] - mean).norm() / deviation.norm())
    (once, _), (often, spread) = errors(1), errors(5)
    assert often < 0.6 * once < 0.6 * unaware
    assert often < 0.05
    assert spread < 0.09  # the 48 steps' own, without anything known


@pytest.mark.parametrize("times", [1, 2, 5])
@pytest.mark.parametrize("length", [1, 3, 4, 10, 50])
def test_jumps(length, times):
    sigmas = Schedule().descend(10)
    path = with_jumps(sigmas, length, times)
    assert path[0] == sigmas[0]
    assert path[-1] == 0
    assert path.count(0.0) == 1  # it never climbs from 0
    moves = list(pairwise(path))
    every = list(pairwise(sigmas))
    # Blocks that end above 0 are walked `times` times, the others once.
    blocks = [every[i : i + length] for i in range(0, len(every), length)]
    down = [move for move in moves if move[1] < move[0]]
    up = [move for move in moves if move[1] > move[0]]
    assert len(down) + len(up) == len(moves)
    for block in blocks:
        often = 1 if block[-1][1] == 0 else times
        assert all(down.count(move) == often for move in block)
        assert up.count((block[-1][1], block[0][0])) == often - 1
    assert len(down) == len(every) * times - len(blocks[-1]) * (times - 1)
    assert len(up) == (len(blocks) - 1) * (times - 1)


def test_one_time_is_the_list_itself():
    sigmas = Schedule().descend(7)
    assert with_jumps(sigmas, 3, 1) == sigmas


# Corrections, and denoising -------------------------------------------------------------------


def test_clip_paste_and_then():
    x0 = torch.tensor([-3.0, -1.0, 0.2, 2.0]).view(1, 1, 1, 1, 4)
    assert clip(x0, 1.0).flatten().tolist() == pytest.approx([-1, -1, 0.2, 1])
    known = torch.tensor([True, False, False, True]).view(x0.shape)
    pasted = paste(known, torch.full_like(x0, 9.0))
    assert pasted(x0, 1.0).flatten().tolist() == pytest.approx([9, -1, 0.2, 9])
    assert then(pasted, clip)(x0, 1.0).flatten().tolist() == pytest.approx([1, -1, 0.2, 1])
    assert then(clip, pasted)(x0, 1.0).flatten().tolist() == pytest.approx([9, -1, 0.2, 9])
    assert then()(x0, 1.0) is x0
    assert keep(x0, 1.0) is x0


@pytest.mark.parametrize(("sigma", "rho"), [(0.3, 2.0), (0.6, 0.5), (0.1, 18.0)])
def test_prox_weighs_by_the_ratio_of_the_noises(sigma, rho):
    x0, y = torch.full(ONE, 1.0), torch.full(ONE, -1.0)
    got = prox(Identity(), y, sigma_noise=0.3, strength=2.0)(x0, sigma)
    torch.testing.assert_close(got, torch.full(ONE, (-1 + rho) / (1 + rho)))


@pytest.mark.parametrize("sigma", [0.03, 0.15, 0.5])
def test_denoising_gives_the_exact_posterior_mean(gaussian, sigma):
    noise = gaussian.noise(6)
    y = gaussian.draw(6) + sigma * noise(0)
    # Bayes' rule with precisions: (C^-1 + 1/s^2)^-1 (C^-1 m + y/s^2).
    precision = torch.linalg.inv(gaussian.cov)
    both = precision + torch.eye(24, dtype=torch.float64) / sigma**2
    right = (precision @ gaussian.mean)[None] + gaussian.flat(y) / sigma**2
    exact = gaussian.volume(torch.linalg.solve(both, right.T).T)
    task = denoising(y, sigma)
    assert task.evaluations == 1
    got = task.run(gaussian.denoise, silent)
    torch.testing.assert_close(got, exact.clamp(-1, 1), rtol=0, atol=1e-9)
    assert float((exact.abs() <= 1).double().mean()) > 0.9  # the clip is not what is tested


def test_denoising_stays_within_the_window(gaussian):
    y = 30 * gaussian.noise(1)(0)
    for sigma in (0.1, 1.0):
        assert float(gaussian.denoise(y, sigma).abs().max()) > 1
        assert float(denoising(y, sigma).run(gaussian.denoise, silent).abs().max()) == 1


def test_diffpir_stays_within_the_window_if_the_scan_does(gaussian):
    y = gaussian.noise(8)(0).clamp(-1, 1)

    def wild(x: Tensor, sigma: float) -> Tensor:
        return 5 * gaussian.denoise(x, sigma)

    got = denoising_diffpir(y, 0.1, Schedule()).run(wild, gaussian.noise(8))
    assert 0.99 < float(got.abs().max()) <= 1 + 1e-12


@pytest.mark.parametrize("sigma", [1e-3, 1e-5])
def test_diffpir_without_noise_gives_the_scan(gaussian, sigma):
    y = gaussian.draw(4).clamp(-0.95, 0.95)
    got = denoising_diffpir(y, sigma, Schedule()).run(gaussian.denoise, gaussian.noise(4))
    assert float((got - y).abs().max()) < 5 * sigma


def test_diffpir_at_the_measurements_word_alone_gives_the_scan(gaussian):
    y = gaussian.draw(4).clamp(-0.95, 0.95)
    task = denoising_diffpir(y, 0.3, Schedule(), strength=0.0)
    torch.testing.assert_close(task.run(gaussian.denoise, gaussian.noise(4)), y)


def test_with_infinite_noise_the_measurement_has_no_word(gaussian):
    """sigma_n -> infinity: what is sampled is the prior, whatever was measured."""
    sigmas = Schedule().descend(60, "karras", start=80, stop=0.002)
    y = torch.full((1, 1, *gaussian.shape), 0.9, dtype=torch.float64)

    def run(x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        correct = prox(Identity(), y.expand(x.shape), sigma_noise=1e9)
        return sample(gaussian.denoise, x, sigmas, correct=correct, fresh=diffpir(0.3), noise=noise)

    def free(x: Tensor, noise: Callable[[int], Tensor]) -> Tensor:
        return sample(gaussian.denoise, x, sigmas, fresh=diffpir(0.3), noise=noise)

    mean, cov = law(gaussian, run, 80, 60)
    alone = law(gaussian, free, 80, 60)
    torch.testing.assert_close(mean, alone[0], rtol=0, atol=1e-9)
    torch.testing.assert_close(cov, alone[1], rtol=0, atol=1e-9)
    torch.testing.assert_close(mean, gaussian.mean, rtol=0, atol=0.01)


def test_diffpir_comes_nearer_to_the_truth(gaussian):
    sigma, truth = 0.2, gaussian.draw(200)
    noise = gaussian.noise(200, seed=1)
    y = truth + sigma * noise(0)
    got = denoising_diffpir(y, sigma, Schedule()).run(gaussian.denoise, noise)

    def error(x: Tensor) -> float:
        return float((x - truth).square().mean().sqrt())

    best = error(denoising(y, sigma).run(gaussian.denoise, silent))
    assert best < error(got) < 0.75 * error(y)
