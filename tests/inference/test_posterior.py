"""Samples of what a scan may be: on a Gaussian prior, against the posterior in closed form."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from denovox.core.errors import InputError
from denovox.core.operators.coloured_noise import WHITE, Spectrum, filtered
from denovox.core.schedule import Schedule
from denovox.core.volume import Volume
from denovox.inference import posterior, scan_context
from denovox.inference.model import (
    Model,
)
from denovox.inference.options import RunOptions
from denovox.inference.posterior import Spread, factor
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig, describe
from denovox.tasks import denoising_sample

SIGMA, COUNT = 0.1, 3000
MC = 5 / (2 * COUNT) ** 0.5  # five standard errors of an SD, relative


@pytest.fixture
def prior(gaussian, gaussian_prior):
    """The shared one, of SD .1: clipping at 1 never shows."""
    return gaussian_prior(gaussian.mean / 4, gaussian.cov / 16, gaussian.shape)


def drawn(prior, y, psd, **more):
    """Samples, flat; y the same for all."""
    noise = prior.noise(COUNT)
    task = denoising_sample(y.expand(COUNT, -1, -1, -1, -1), SIGMA, psd, noise, Schedule(), **more)
    return prior.flat(task.run(prior.denoise, noise)), task


def flat_psd(prior):
    return torch.ones(*prior.shape[:2], 1, dtype=torch.float64)


def test_with_many_steps_white_noise_gives_the_posterior(prior):
    y = prior.draw(1, 3) + SIGMA * prior.noise(1, 5)(0)
    got, _ = drawn(prior, y, flat_psd(prior), steps=150)
    w, v = prior.eigen
    kept = w > 1e-3  # finer than the last sigma, .02, nothing is drawn
    exact = (w * SIGMA**2 / (w + SIGMA**2)).sqrt()
    along = got @ v
    # r = .2 ** (1 / 149) = .989, and .02^2 of the last step's variance is not drawn.
    slack = 1 - 0.2 ** (2 / 149) * (1 - 0.02**2 / exact[kept] ** 2)
    low = exact[kept] * (1 - slack).sqrt() * (1 - MC)
    assert (along.std(0)[kept] > low).all()
    assert (along.std(0)[kept] < exact[kept] * (1 + MC)).all()
    mean = prior.flat(prior.denoise(y, SIGMA))[0] @ v
    assert ((along.mean(0) - mean).abs() < 5 * exact / COUNT**0.5).all()


def test_ten_steps_draw_too_narrowly_by_no_more_than_is_said(prior):
    y = prior.draw(1, 3)
    got, task = drawn(prior, y, flat_psd(prior))
    assert task.evaluations == 10
    w, v = prior.eigen
    exact = w * SIGMA**2 / (w + SIGMA**2)
    last = w * 0.02**2 / (w + 0.02**2)
    ratio = 0.2 ** (1 / 9)
    low = ratio * (exact - last).clamp_min(0).sqrt() * (1 - MC)
    sd = (got @ v).std(0)
    assert (sd >= low).all()
    assert (sd <= exact.sqrt() * (1 + MC)).all()
    assert sd[-1] < 0.95 * exact[-1].sqrt()  # which is why it is said
    mean = prior.flat(prior.denoise(y, SIGMA))[0] @ v
    assert (((got @ v).mean(0) - mean).abs() < 5 * exact.sqrt() / COUNT**0.5).all()


def test_coloured_noise_gives_nearly_the_posterior(gaussian_prior):
    """Here the prox is a rule of thumb, so what is allowed is a share of the exact SD: the mean is
    off by under .3 of it (.28 here), and the SD is between .6 and all of it (.73)."""
    shape = (8, 8, 2)
    grid = torch.stack(torch.meshgrid(*map(torch.arange, shape), indexing="ij"), -1).reshape(-1, 3)
    near = torch.exp(-((grid[:, None] - grid) ** 2).sum(-1).double() / 4.5)
    cov = 0.01 * near + 1e-4 * torch.eye(128, dtype=torch.float64)
    prior = gaussian_prior(torch.zeros(128, dtype=torch.float64), cov, shape)
    psd = Spectrum((0.0, 0.1, 0.5), (0.1, 1.0, 0.05)).on(shape, (1.0, 1.0, 1.0))
    every = prior.volume(torch.eye(128, dtype=torch.float64))
    noise_cov = SIGMA**2 * prior.flat(filtered(every, psd))
    y = prior.draw(1, 3) + SIGMA * filtered(prior.noise(1, 5)(0), psd.sqrt())
    gain = prior.cov @ torch.linalg.inv(prior.cov + noise_cov)
    exact = (prior.cov - gain @ prior.cov).diagonal().mean().sqrt()
    got, task = drawn(prior, y, psd)
    assert task.sigmas[0] > 1.1 * SIGMA  # topped up
    off = (got.mean(0) - prior.flat(y)[0] @ gain.T).square().mean().sqrt()
    assert off < 0.3 * exact
    assert 0.6 * exact < got.var(0).mean().sqrt() < exact
    # Without a data step it forgets more of y.
    free, _ = drawn(prior, y, psd, strength=1e6)
    left, forgot = ((s.mean(0) - prior.flat(y)[0]).square().mean() for s in (got, free))
    assert left < 0.95 * forgot
    # Taken for white it would be farther off.
    white, _ = drawn(prior, y, torch.ones_like(psd))
    assert (white.mean(0) - prior.flat(y)[0] @ gain.T).square().mean().sqrt() > 0.3 * exact


def test_the_top_up_is_of_no_noise_that_a_step_draws(prior):
    asked = []

    def noise(stream):
        asked.append(stream)
        return prior.noise(1)(stream)

    psd = torch.tensor([0.1, 1.9], dtype=torch.float64)[:, None, None].expand(2, 3, 1)
    y = prior.draw(1)
    denoising_sample(y, SIGMA, psd, noise, Schedule(), steps=4).run(prior.denoise, noise)
    assert len(asked) == len(set(asked)) == 4  # the last step draws none


# Of a volume ---------------------------------------------------------------------------------


def scan():
    """Water in air, bone within, and noise."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in (32, 30, 8)), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.6, 40.0, -1000.0)
    hu[np.hypot(x, y + 0.4) < 0.15] = 900
    hu += 20 * np.random.default_rng(0).standard_normal(hu.shape)
    return Volume(hu.astype(np.float32), np.diag([3.0, 3.0, 5.0, 1.0]))


def model(heard):
    """A prior of SD .05 around 0 at every voxel."""

    def denoise(x, sigma, told):
        heard.append(sigma)
        return x * 0.05**2 / (0.05**2 + sigma**2)

    config = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0))
    return Model(denoise, config, Path("none"), "cpu")


def test_mean_and_sd_are_those_of_the_samples():
    heard, shares = [], []
    net, volume = model(heard), scan()
    options = RunOptions(seed=7, progress=shares.append)
    got = net.posterior(volume, 4, "abdomen", 20.0, options)
    assert got.evaluations == 40 == len(heard)  # one window
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    each = np.stack(
        [
            net.denoise(volume, "abdomen", 20.0, "sample", RunOptions(seed=7 + k)).hu.astype(float)
            for k in range(4)
        ]
    )
    np.testing.assert_allclose(got.mean.hu, each.mean(0), rtol=0, atol=1e-3)
    np.testing.assert_allclose(got.sd.hu, each.std(0, ddof=1), rtol=1e-4, atol=1e-4)
    water = np.abs(volume.hu - 60) < 100
    # 180 * .05 * sigma / hypot(.05, sigma), sigma = 20 / 180; ten steps draw up to a third less.
    assert 5 < np.sqrt(np.mean(got.sd.hu[water] ** 2)) < 8.2
    far = np.abs(volume.hu - 60) > 180 + 3 * 20
    assert far.mean() > 0.3
    assert np.array_equal(got.mean.hu[far], volume.hu[far])
    assert (got.sd.hu[far] == 0).all()
    assert got.mean.hu.dtype == volume.hu.dtype


@pytest.mark.parametrize("count", [2, 8])
def test_exact_samples_have_a_factor_of_1_and_narrow_ones_more(count):
    rng = np.random.default_rng(0)
    truth, *drawn = rng.uniform(1, 5, 100_000) * rng.standard_normal((count + 1, 100_000))
    error, sd = np.mean(drawn, 0) - truth, np.std(drawn, 0, ddof=1)
    assert factor(error, sd, count) == pytest.approx(1, rel=0.02)
    assert factor(error, sd / 1.7, count) == pytest.approx(1.7 * factor(error, sd, count))
    sd[:50_000], error[:50_000] = 0, 100  # may not change: says nothing
    assert factor(error, sd, count) == pytest.approx(1, rel=0.02)
    if count == 8:
        assert np.mean(np.abs(error[50_000:]) < sd[50_000:]) == pytest.approx(0.62, abs=0.01)


def test_the_sd_is_scaled_for_the_weights_and_regions_it_was_fitted_to(tmp_path, tiny, monkeypatch):
    net, volume = replace(model([]), path=tiny), scan()
    spread = tmp_path / "spread.json"
    monkeypatch.setattr(posterior, "SPREAD", spread)
    plain = net.posterior(volume, 3, "abdomen", 20.0)
    sha = describe(tiny)[2]
    for weights, times in ((sha, 1.5), ("of others", 1.0)):
        fitted = Spread(weights=weights, factors={"abdomen": 1.5, "chest": 4})
        spread.write_text(fitted.model_dump_json())
        got = net.posterior(volume, 3, "abdomen", 20.0)
        np.testing.assert_allclose(got.sd.hu, times * plain.sd.hu, rtol=1e-6)
        assert np.array_equal(got.mean.hu, plain.mean.hu)
    assert plain.sd.hu.max() > 1


def test_noise_is_told_and_found_once(monkeypatch):
    said, calls = [], []
    net = model([])
    estimated = scan_context.noise_in
    monkeypatch.setattr(scan_context, "noise_in", lambda *a: calls.append(1) or estimated(*a))
    thick = Volume(scan().hu, np.diag([3.0, 3.0, 8.0, 1.0]))  # worked on another grid, it says
    net.posterior(thick, 3, "abdomen", options=RunOptions(say=said.append))
    assert len(calls) == 1
    assert sum("noise:" in line for line in said) == 1
    assert sum("grid:" in line for line in said) == 1
    known = scan_context.ScanContext(scan(), "abdomen", 20.0)
    assert known.noise[0].spectrum is WHITE
    assert [(n.region, n.start, n.stop, n.sd_hu) for n in known.noise] == [("abdomen", 0, 8, 20)]


@pytest.mark.parametrize("count", [1, 0, -3])
def test_fewer_than_two_are_refused(count):
    with pytest.raises(InputError, match=f"at least 2 samples, not {count}"):
        model([]).posterior(scan(), count, "abdomen", 20.0)
