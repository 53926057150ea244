"""The law of noise levels, the loss against closed forms, and its means by level and noise."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from toy import toy

from denovox.core.condition import condition
from denovox.core.schedule import Schedule
from denovox.datasets.samples.batch import Sample, collate
from denovox.model.denoiser import denoiser, use_bfloat16
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.tasks import synthesis
from denovox.train.config import NoiseConfig, TrainConfig
from denovox.train.distill import Teacher
from denovox.train.loss import (
    BAND_NAMES,
    Ledger,
    min_snr_weight,
    noise_level,
    noise_levels,
    predictor,
    share_below,
)

SCHEDULE = Schedule()


def test_uniform_is_even_over_the_timesteps():
    law = NoiseConfig(law="uniform")
    steps = [SCHEDULE.timestep(noise_level(u, law, SCHEDULE)) for u in np.linspace(0, 1, 11)]
    assert steps == pytest.approx(list(np.linspace(0, 999, 11)), abs=1e-6)


def test_lognormal_has_its_mean_and_deviation():
    law = NoiseConfig(law="lognormal", mean=-1.4, deviation=1.3)
    u = (np.arange(4000) + 0.5) / 4000
    logs = np.log([noise_level(v, law, SCHEDULE) for v in u])
    assert logs.mean() == pytest.approx(-1.4, abs=1e-3)
    assert logs.std() == pytest.approx(1.3, rel=5e-3)
    assert np.isfinite([noise_level(v, law, SCHEDULE) for v in (0.0, 1.0)]).all()


LAWS = (NoiseConfig(law="uniform"), NoiseConfig(law="lognormal", mean=-1.4, deviation=1.3))


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.law)
def test_the_share_below_a_noise_level_is_its_quantile(law):
    for u in (0.001, 0.2, 0.5, 0.97):
        assert share_below(noise_level(u, law, SCHEDULE), law, SCHEDULE) == pytest.approx(u)


@pytest.mark.parametrize("law", LAWS, ids=lambda law: law.law)
@pytest.mark.parametrize("floor", [0.05, 0.4])
def test_above_a_noise_floor_the_law_is_what_it_was(law, floor):
    """A run's levels given that they lie above the floor: drawn anew until they do."""
    us = np.random.default_rng(0).random(20_000)
    got = [noise_level(u, law, SCHEDULE, floor) for u in us]
    every = np.array([noise_level(u, law, SCHEDULE) for u in us])
    assert min(got) >= floor * (1 - 1e-9)
    assert kstest(got, every[every >= floor]).pvalue > 0.01


def test_each_sample_is_trained_above_its_own_floor():
    model = ModelConfig(net=PRESETS["tiny"])
    net = model.build()  # its last layer is zero at birth
    law = NoiseConfig(law="lognormal", mean=0.0)
    config = TrainConfig(steps=1, precision="float32", noise=law)
    floors = (0.0, 0.2, 3.0)
    zero = torch.zeros(1, 1, 8, 8, 8)
    one = Sample(zero, zero, 0.01, condition((8, 8, 8), (1, 1, 1)), 2, None, zero + 1)
    batch = collate([replace(one, noise_floor=floor) for floor in floors])
    ledger = Ledger(noise_levels(model, config, None))
    got = ledger.watched(predictor(net, model, config))(batch).tolist()
    # What leads from start + sigma n back to x0 = 0 is noise of start / sigma.
    assert got == pytest.approx([1 / noise_level(0.01, law, SCHEDULE, floor) for floor in floors])
    bands = ledger.close()
    assert [name for name in BAND_NAMES if name in bands] == ["sigma<.1", "sigma .1-.5", "sigma>2"]


@pytest.mark.parametrize(("loss", "expected"), [("l1", "abs"), ("l2", "square")])
def test_a_network_that_answers_zero_is_as_wrong_as_the_noise(loss, expected):
    model = ModelConfig(net=PRESETS["tiny"])
    torch.manual_seed(0)
    net = model.build()  # its last layer is zero at birth
    noise = torch.randn(1, 1, 8, 8, 8)
    one = Sample(torch.zeros(1, 1, 8, 8, 8), noise, 0.5, condition((8, 8, 8), (1, 1, 1)), 2)
    got = predictor(net, model, TrainConfig(steps=1, loss=loss, precision="float32"))(
        collate([one, one])
    )
    want = getattr(noise, expected)().mean()
    torch.testing.assert_close(got.detach(), want.repeat(2))


def test_bfloat16_only_where_it_is_native_or_asked_for():
    assert use_bfloat16("bfloat16", "cpu")
    assert not use_bfloat16("float32", "cpu")
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    assert use_bfloat16("auto", "cpu") == native


def test_noise_may_be_added_to_what_sampling_begins_from():
    model = ModelConfig(net=PRESETS["tiny"])
    torch.manual_seed(0)
    net = model.build()  # its last layer is zero at birth
    x0, noise, start = (torch.randn(1, 1, 8, 8, 8) for _ in range(3))
    one = Sample(x0, noise, 0.5, condition((8, 8, 8), (1, 1, 1)), 2, None, start)
    law = NoiseConfig(law="lognormal", mean=0.0)  # sigma 1 at u = 0.5
    config = TrainConfig(steps=1, precision="float32", noise=law)
    got = predictor(net, model, config)(collate([one]))
    # What leads back to x0 from start + noise is more than the noise.
    torch.testing.assert_close(got[0].detach(), (noise + start - x0).abs().mean())


def test_some_voxels_may_weigh_more():
    model = ModelConfig(net=PRESETS["tiny"])
    torch.manual_seed(0)
    net = model.build()
    noise, weight = torch.randn(1, 1, 8, 8, 8), torch.ones(1, 1, 8, 8, 8)
    weight[..., :2] = 7
    one = Sample(torch.zeros_like(noise), noise, 0.5, condition((8, 8, 8), (1, 1, 1)), 2, weight)
    got = predictor(net, model, TrainConfig(steps=1, precision="float32"))(collate([one]))
    torch.testing.assert_close(got[0].detach(), (noise.abs() * weight).sum() / weight.sum())


def test_min_snr_weights_are_those_of_the_paper():
    sigma = torch.tensor([10.0, 1.0, 0.5, 0.1])  # SNR .01, 1, 4, 100
    weights = {p: min_snr_weight(p, sigma, 5.0).tolist() for p in ("x0", "noise", "v")}
    assert weights["x0"] == pytest.approx([0.01, 1, 4, 5])
    assert weights["noise"] == pytest.approx([1, 1, 1, 5 / 100])
    assert weights["v"] == pytest.approx([0.01 / 1.01, 1 / 2, 4 / 5, 5 / 101])


@pytest.mark.parametrize("prediction", ["noise", "v"])
@pytest.mark.parametrize("u", [0.02, 0.3, 0.7])
def test_min_snr_weighs_the_error_of_x0_whatever_is_predicted(prediction, u):
    model = ModelConfig(net=PRESETS["tiny"], prediction=prediction)
    torch.manual_seed(0)
    net = model.build()
    torch.nn.init.normal_(net.unet.out[-1].conv.weight, std=0.1)
    x0, noise = (torch.randn(1, 1, 8, 8, 8) for _ in range(2))
    told = condition((8, 8, 8), (1, 1, 1))
    config = TrainConfig(steps=1, loss="l2", min_snr=5, precision="float32")
    got = predictor(net, model, config)(collate([Sample(x0, noise, u, told, 2)]))
    sigma = noise_level(u, config.noise, SCHEDULE)
    said = denoiser(net, SCHEDULE, prediction)(x0 + sigma * noise, sigma, told)
    expected = min(sigma**-2, 5) * (said - x0).square().mean()
    # x0 + sigma n - sigma n': what float32 loses at sigma is sigma's share of its rounding.
    torch.testing.assert_close(got[0], expected, rtol=1e-3, atol=0)


def test_min_snr_is_for_squares():
    with pytest.raises(ValidationError, match="loss = 'l2'"):
        TrainConfig(steps=1, loss="l1", min_snr=5)


class Affine(torch.nn.Module):
    """A student of Gaussians: at each of its noise levels, any affine function of x."""

    def __init__(self, sigmas):
        super().__init__()
        self.logs = torch.tensor(sigmas).log()
        self.gain = torch.nn.Parameter(torch.zeros(len(sigmas)))
        self.offset = torch.nn.Parameter(torch.zeros(len(sigmas)))

    def forward(self, x, sigma, t, condition):
        k = (sigma.log()[:, None] - self.logs).abs().argmin(1).view(-1, 1, 1, 1, 1)
        scaled = x * torch.rsqrt(1 + sigma.view(-1, 1, 1, 1, 1) ** 2)
        return self.gain[k] * scaled + self.offset[k]


@pytest.mark.parametrize(("steps", "substeps"), [(1, 40), (2, 20), (4, 10)])
def test_a_distilled_student_draws_from_its_teachers_law(steps, substeps):
    """N(.1, .2^2), whose ODE has the closed form mu + (x - mu) SD / sqrt(SD^2 + sigma^2)."""
    mean, sd = 0.1, 0.2
    model = ModelConfig(net=PRESETS["tiny"], prediction="v", distilled_steps=steps)
    sigmas = SCHEDULE.from_noise(steps)
    teacher = Teacher(
        lambda x, sigma, told: mean + (x - mean) * sd**2 / (sd**2 + sigma**2), sigmas, substeps
    )
    assert {teacher.sigma(u) for u in np.linspace(0, 1, 64)} == set(sigmas[:-1])
    torch.manual_seed(0)
    values, noise = mean + sd * torch.randn(64, 64), torch.randn(64, 1, 4, 4, 4)
    batch = collate([toy(one) for one in values])
    batch = replace(batch, noise=noise, u=(np.arange(64) + 0.5) / 64)
    student = Affine(sigmas[:-1])
    predict = predictor(
        student, model, TrainConfig(steps=1, loss="l2", precision="float32"), teacher=teacher
    )
    solver = torch.optim.LBFGS(student.parameters(), max_iter=50, line_search_fn="strong_wolfe")

    def loss():
        solver.zero_grad()
        total = predict(batch).sum()
        total.backward()
        return total

    before = loss().item()
    solver.step(loss)
    assert loss().item() < 1e-6 * before  # a linear law is learned exactly
    start = torch.randn(1, 1, 16, 16, 16)
    ask = denoiser(student, SCHEDULE, "v")
    with torch.no_grad():
        drawn = synthesis(lambda stream: start, sigmas, "ddim").run(
            lambda x, sigma: ask(x, sigma, batch.condition), lambda stream: start
        )
    exact = mean + (80 * start - mean) * sd / (sd**2 + 80**2) ** 0.5
    # The teacher's last evaluation shrinks the SD by sigma^2 / (2 SD^2), .5 % at .02.
    torch.testing.assert_close(drawn, exact, rtol=0, atol=0.012 * sd * 4)
    assert float(drawn.mean()) == pytest.approx(float(exact.mean()), abs=0.005 * sd)
    assert float(drawn.std()) == pytest.approx(float(exact.std()), rel=0.012)


def levels_of(*each):
    """A batch of samples of these levels and u."""
    one = toy(torch.zeros(1))
    return collate([replace(one, level=level, u=u) for level, u in each])


def test_means_by_level_and_by_band():
    losses = iter([torch.tensor([1.0, 2.0, 6.0]), torch.tensor([3.0])])
    ledger = Ledger(lambda samples: (10 * samples.u).tolist())
    predict = ledger.watched(lambda samples: next(losses))
    assert predict(levels_of((0, 0.001), (2, 0.02), (2, 0.3))).tolist() == [1, 2, 6]
    predict(levels_of((2, 0.05)))  # sigma .5 belongs to the band that begins there
    assert ledger.close() == {
        "whole": 1,
        "crop": pytest.approx(11 / 3),
        "sigma<.1": 1,
        "sigma .1-.5": 2,
        "sigma .5-2": 3,
        "sigma>2": 6,
    }
    assert ledger.close() == {}


def test_validation_is_not_in_the_ledger():
    ledger = Ledger(lambda samples: samples.u.tolist())
    predict = ledger.watched(lambda samples: torch.ones(len(samples.u)))
    with torch.no_grad():
        predict(levels_of((1, 0.5)))
    assert ledger.close() == {}
