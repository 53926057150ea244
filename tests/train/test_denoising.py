"""Crops with noise, and how well a network denoises them."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from denovox.core.regions import REGIONS
from denovox.datasets import store
from denovox.simulate.phantom import draw
from denovox.train.adaptation.denoising import CROP, DOSES, INNER, WHITE_HU, crops, psnr


@pytest.fixture(scope="module")
def cases(tmp_path_factory):
    """An abdomen that is larger than a crop, a slab of it that is too thin for one, and air."""
    folder = tmp_path_factory.mktemp("store")
    phantom = draw("abdomen", (125, 110, 20), (3.0, 3.0, 4.0), seed=2)
    ct = phantom.ct.hu.round().astype(np.int16)
    air = np.full_like(ct, -1000)
    for name, hu, last in (("whole", ct, 20), ("slab", ct, 15), ("air", air, 20)):
        facts = store.CaseFacts(id=name, patient=name, region="abdomen", spacing_mm=(3.0, 3.0, 4.0))
        store.add(folder, facts, hu[..., :last], phantom.labels[..., :last])
    store.index(folder)
    return store.cases(folder)


def test_crops_are_the_middle_with_the_noise_that_is_said(cases):
    found = list(crops(cases))
    assert {crop.patient for crop in found} == {"whole"}
    assert [crop.kind for crop in found] == ["white", *(f"dose {dose:g}" for dose in DOSES)]
    (case,) = (case for case in cases if case.facts.patient == "whole")
    for crop in found:
        assert crop.clean.shape == crop.noisy.shape == CROP
        assert np.array_equal(crop.clean.hu, case.voxels("ct")[6:118, 7:103, 2:18])
    added = [float((crop.noisy.hu - crop.clean.hu).std()) for crop in found]
    assert added[0] == pytest.approx(WHITE_HU["abdomen"], rel=0.01)
    assert added[1] < added[2]  # less dose, more noise


def test_psnr_is_that_of_what_the_network_says(cases):
    """The truth is infinitely good, but for clipping; what changes nothing changes no PSNR."""
    crop = next(iter(crops(cases)))
    window = REGIONS["abdomen"].window
    truth = torch.from_numpy(window.unit(crop.clean.hu))[None, None]
    before, after = psnr(lambda x, sigma, known: x, crop)
    wrong = np.clip(window.unit(crop.noisy.hu), -1, 1) - np.clip(window.unit(crop.clean.hu), -1, 1)
    assert before == pytest.approx(20 * np.log10(2 / np.sqrt((wrong[..., INNER] ** 2).mean())))
    assert after == pytest.approx(before, abs=0.2)  # noise beyond the window's ends is clipped
    assert psnr(lambda x, sigma, known: truth, crop)[1] > before + 20


def test_the_network_is_told_what_a_denoiser_is_told(cases):
    crop = next(iter(crops(cases)))
    seen = []
    psnr(lambda x, sigma, known: seen.append((sigma, known)) or x, crop)
    ((sigma, known),) = seen
    assert sigma == pytest.approx(REGIONS["abdomen"].window.sigma(WHITE_HU["abdomen"]), rel=0.2)
    assert int(known.region) == REGIONS["abdomen"].id
    assert known.spacing_mm.tolist() == [[3.0, 3.0, 4.0]]
