"""Sheets of samples: of the run's weights, whole, and always from the same noise."""

import numpy as np
import pytest
import torch
from skimage.io import imread

from denovox.datasets import store
from denovox.datasets.samples.choice import SampleConfig
from denovox.model.denoiser import denoiser
from denovox.model.presets import PRESETS
from denovox.model.unet import Net
from denovox.model.weights import ModelConfig
from denovox.train import previews, validation


@pytest.fixture(scope="module")
def fixed(tmp_path_factory):
    folder = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(0)
    for patient, region in ("a", "chest"), ("b", "abdomen"):
        facts = store.CaseFacts(id=patient, patient=patient, region=region, spacing_mm=(2, 2, 3))
        hu = rng.normal(0, 300, (24, 24, 24)).astype(np.int16)
        store.add(folder, facts, hu, np.full(hu.shape, 118, np.uint8))
    store.index(folder)
    return validation.fixed_samples(store.cases(folder), SampleConfig(patch=16, zoom=(0.8, 1.2)))


def test_one_sample_of_each_region_shows_most_of_the_body(fixed):
    chosen = previews.preview_samples(fixed)
    assert [one.region for one in chosen] == ["chest", "abdomen"]
    for one in chosen:
        mine = [s.sample.level for s in fixed if s.region == one.region]
        assert one.sample.level == min(mine)


def test_fixed_samples_are_the_same_every_time_and_even_in_noise(fixed):
    assert [s.sample.u for s in fixed] == [(n + 0.5) / 48 for n in range(48)]


def test_validation_keeps_to_the_noise_floor_of_training(tmp_path):
    """Below the noise of a scan, the network that keeps this noise would be the best one."""
    known = {"id": "a", "patient": "a", "region": "chest", "spacing_mm": (2, 2, 3)}
    hu = np.random.default_rng(0).normal(0, 300, (24, 24, 24)).astype(np.int16)
    row = store.CaseFacts(**known, noise_hu=45)
    store.add(tmp_path, row, hu, np.full(hu.shape, 118, np.uint8))
    store.index(tmp_path)
    config = SampleConfig(patch=16, noise_floor=True)
    fixed = validation.fixed_samples(store.cases(tmp_path), config)
    assert {one.sample.level: one.sample.noise_floor for one in fixed} == {0: 0, 1: 0.025, 2: 0.05}


@pytest.mark.slow
def test_a_sheet_is_drawn_from_the_weights_alone(fixed, tmp_path):
    torch.manual_seed(0)
    net, config = Net(PRESETS["tiny"]), ModelConfig(net=PRESETS["tiny"])
    ask = denoiser(net, config.noise_schedule, config.prediction)
    for name in ("a", "b"):
        chosen, sheet = previews.preview_samples(fixed), tmp_path / f"{name}.png"
        previews.draw(ask, config, chosen, sheet, "a", "cpu")
        torch.randn(7)  # what else was drawn meanwhile changes nothing
    with torch.no_grad():
        net.unet.out[-1].conv.bias += 0.1
    previews.draw(ask, config, previews.preview_samples(fixed), tmp_path / "c.png", "a", "cpu")
    a, b, c = (imread(tmp_path / f"{name}.png") for name in "abc")
    assert np.array_equal(a, b)
    assert not np.array_equal(a, c)
    assert a.shape[1] == 1600
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png", "c.png"]
