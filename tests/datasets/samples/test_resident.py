"""Batches drawn in memory: the same samples as the store's own sampler gives, in one go.

The cases differ in shape, spacing, region and lesions, so that every batch mixes boxes of several
sizes and levels of the pyramid.
"""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from denovox.core.labels import ID
from denovox.core.random_field import normal, normals
from denovox.datasets.manifest import CaseFacts
from denovox.datasets.samples.batch import Batch, batches
from denovox.datasets.samples.choice import SampleConfig
from denovox.datasets.samples.multilevel import sampler
from denovox.datasets.samples.resident import Resident, bytes_of
from denovox.datasets.store import Case, add, cases, index, pyramid

PATCH = 8
SHAPES = {
    "fine": ("chest", (140, 66, 70), (0.8, 0.9, 2.5)),  # whose pyramid halves x alone
    "thin": ("abdomen", (40, 33, 6), (1.5, 1.5, 5.0)),
    "head": ("headneck", (24, 30, 28), (1.0, 1.0, 1.0)),
    "coarse": ("headneck", (26, 20, 22), (4.5, 4.5, 3.0)),
}
EVERYTHING = {
    "zoom": (0.6, 1.6),
    "shift_hu": 20,
    "gain": 0.1,
    "mirror": 0.5,
    "drop": 0.3,
    "grain": 0.5,
    "noise_floor": True,
}


@pytest.fixture(scope="module")
def every(tmp_path_factory: pytest.TempPathFactory) -> list[Case]:
    """A store of the cases above, of numbers drawn at random."""
    folder: Path = tmp_path_factory.mktemp("store")
    rng = np.random.default_rng(5)
    some = [ID[name] for name in ("liver", "kidney_left", "kidney_right", "outside", "body")]
    for name, (region, shape, mm) in SHAPES.items():
        facts = CaseFacts(id=name, patient=name, region=region, spacing_mm=mm, noise_hu=20)
        hu = rng.integers(-900, 600, shape, np.int16)
        lesion = np.zeros(shape, np.uint8)
        if name != "thin":
            lesion[3:9, 5:9, 4:6] = 1
        add(folder, facts, hu, rng.choice(some, shape).astype(np.uint8), lesion)
    index(folder)
    assert len(pyramid((140, 66, 70))) == 2
    return cases(folder)


def both(every: list[Case], numbers: range, seed: int = 3, **config: object) -> tuple[Batch, Batch]:
    """(the store's batch, the resident one)."""
    settings = SampleConfig(**({"patch": PATCH} | config))
    return (
        batches(sampler(every, settings, seed))(numbers),
        Resident(every, settings, seed)(numbers),
    )


def same_but_for_rounding(a: Batch, b: Batch) -> None:
    assert (a.level, a.case, a.noise_floor) == (b.level, b.case, b.noise_floor)
    np.testing.assert_array_equal(a.u, b.u)
    # float32 sums of at most 20 products of HU up to 900, in units of half a window.
    torch.testing.assert_close(a.x0, b.x0, rtol=0, atol=5e-6)
    torch.testing.assert_close(a.noise, b.noise, rtol=0, atol=2e-5)
    for name in ("region", "anatomy", "position_x", "position_y", "position_z", "spacing_mm"):
        assert torch.equal(getattr(a.condition, name), getattr(b.condition, name)), name
    for one, other in ((a.weight, b.weight), (a.start, b.start)):
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=5e-6)


@pytest.mark.slow
def test_batches_are_the_stores_own(every):
    for first in range(0, 120, 24):
        one, other = both(every, range(first, first + 24), **EVERYTHING)
        same_but_for_rounding(one, other)
        assert len(set(one.level)) == 3
        assert len(set(one.case)) > 2
        assert len(set(one.noise_floor)) > 3


def test_what_is_not_resized_is_exact(every):
    fine = [case for case in every if case.facts.patient in ("fine", "head")]
    config = {"levels": (0, 0, 1), "mirror": 0.5, "shift_hu": 20, "gain": 0.1}
    one, other = both(fine, range(40), **config)
    for field in fields(one):
        a, b = getattr(one, field.name), getattr(other, field.name)
        if isinstance(a, torch.Tensor):
            assert torch.equal(a, b), field.name
    assert torch.equal(one.condition.anatomy, other.condition.anatomy)


def test_a_sample_is_the_same_in_any_company(every):
    draw = Resident(every, SampleConfig(patch=PATCH, **EVERYTHING), 3)
    together = draw(range(12))
    for n in (0, 5, 11):
        alone = draw([n])
        torch.testing.assert_close(alone.x0[0], together.x0[n], rtol=0, atol=5e-6)
        torch.testing.assert_close(alone.noise[0], together.noise[n], rtol=0, atol=2e-5)
        assert torch.equal(alone.condition.anatomy[0], together.condition.anatomy[n])


@pytest.mark.parametrize(
    "control",
    [
        {"kind": "lesion", "on_lesion": 0.8, "weight": 4.0},
        {"kind": "low-resolution", "factor": (2, 5), "begin": 0.5},
    ],
)
def test_controls_are_the_stores_own(every, control):
    one, other = both(every, range(40), control=control, **EVERYTHING)
    same_but_for_rounding(one, other)
    assert one.condition.control is not None
    torch.testing.assert_close(one.condition.control, other.condition.control, rtol=0, atol=1e-5)
    assert one.condition.control.any()


def test_arrays_are_as_large_as_is_said(every):
    draw = Resident(every, SampleConfig(patch=PATCH), 0)
    held = draw.ct.flat, draw.anatomy.flat
    assert sum(flat.numel() * flat.element_size() for flat in held) == bytes_of(every)
    lesions = Resident(every, SampleConfig(patch=PATCH, control={"kind": "lesion"}), 0)
    assert lesions.lesion is not None
    assert lesions.lesion.flat.numel() == draw.anatomy.flat.numel()
    assert bytes_of(every, lesions=True) == bytes_of(every) + draw.anatomy.flat.numel()


def test_noise_of_several_seeds_is_that_of_each():
    shape = (5, 3, 7)
    together = normals([3, 2**61 + 9, 0], shape)
    for seed, noise in zip((3, 2**61 + 9, 0), together, strict=True):
        assert torch.equal(noise, normal(seed, 0, shape)[0])


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
def test_a_gpu_draws_the_same(every):
    settings = SampleConfig(patch=PATCH, **EVERYTHING)
    one = batches(sampler(every, settings, 3))(range(24))
    other = Resident(every, settings, 3, "cuda")(range(24))
    assert other.x0.device.type == other.condition.anatomy.device.type == "cuda"
    torch.testing.assert_close(one.x0, other.x0.cpu(), rtol=0, atol=1e-5)
    torch.testing.assert_close(one.noise, other.noise.cpu(), rtol=0, atol=1e-4)
    assert torch.equal(one.condition.anatomy, other.condition.anatomy.cpu())
