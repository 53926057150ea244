"""A packed store: as small as asked for, and what training sees of it is what it saw before."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from denovox.core.errors import InputError
from denovox.core.regions import REGIONS
from denovox.datasets import manifest, packed, store
from denovox.datasets.samples.choice import COARSE_MM, SampleConfig, chooser, is_coarse
from denovox.datasets.samples.multilevel import sampler
from denovox.simulate.phantom import add_noise, draw

CONFIG = SampleConfig(patch=16, shift_hu=15, gain=0.03, zoom=(0.8, 1.25))
EVERY = np.arange(-3000, 5000, dtype=np.int16).reshape(20, 20, 20)


def facts(name: str = "a", region: str = "chest", **more: object) -> store.CaseFacts:
    known = {"id": name, "patient": name, "region": region, "spacing_mm": (1.5, 1.5, 3.0)}
    return store.CaseFacts(**(known | more))


def add(folder: Path, row: store.CaseFacts, shape: tuple[int, int, int], seed: int = 0) -> None:
    rng = np.random.default_rng(seed)
    hu = rng.normal(0, 300, shape).astype(np.int16)
    lesion = np.zeros(shape, np.uint8)
    lesion[4:12, 6:14, 5:9] = 1
    store.add(folder, row, hu, rng.integers(1, 118, shape).astype(np.uint8), lesion)


@pytest.fixture
def cases(tmp_path):
    """Two of the chest, one of them large, and an abdomen; with affines and lesions."""
    affine = tuple(
        np.array([[0, -1.5, 0, 7], [1.5, 0, 0, -3], [0, 0, 3, 11], [0, 0, 0, 1.0]]).ravel()
    )
    add(tmp_path / "store", facts("large", affine=affine), (60, 50, 40))
    add(tmp_path / "store", facts("small"), (20, 24, 18), 1)
    add(tmp_path / "store", facts("belly", "abdomen"), (22, 20, 18), 2)
    store.index(tmp_path / "store")
    return store.cases(tmp_path / "store")


def megabytes(folder: Path) -> float:
    return sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()) / 1e6


@given(st.sampled_from(sorted(REGIONS)), st.floats(0, 60), st.floats(0, 0.3),
       st.floats(-1, 1), st.floats(-1, 1))  # fmt: skip
def test_what_is_rounded_is_outside_whatever_the_jitter(region, shift_hu, gain, a, b):
    window, config = REGIONS[region].window, SampleConfig(shift_hu=shift_hu, gain=gain)
    hu = packed.rounded(EVERY, packed.kept_hu(window, config), 1)
    seen = [
        np.clip(window.unit(of.astype(float) * (1 + gain * a) + shift_hu * b), -1, 1)
        for of in (EVERY, hu)
    ]
    assert np.array_equal(*seen)
    changed = np.abs(hu.astype(float) - EVERY)
    assert 0 < changed.max() <= packed.BEYOND_HU / 2


@pytest.mark.parametrize(
    ("rounding", "expected", "most"), [(1, (2, 8, 2), 0.004), (2, (4, 16, 4), 0.007)]
)
def test_steps_are_alike_in_model_units(rounding, expected, most):
    steps = {name: packed.step_hu(region.window, rounding) for name, region in REGIONS.items()}
    assert steps == dict(zip(("headneck", "chest", "abdomen"), expected, strict=True))
    assert packed.step_hu(REGIONS["chest"].window, 0) == 1
    for name, region in REGIONS.items():
        hu = packed.rounded(EVERY, packed.kept_hu(region.window, SampleConfig()), steps[name])
        inside = np.abs(region.window.unit(EVERY.astype(float))) <= 1
        error = region.window.unit((hu.astype(float) - EVERY)[inside] + region.window.level_hu)
        assert abs(error.mean()) < 1e-3
        assert error.std() < most


def test_where_there_is_room_crops_are_what_they_were(cases, tmp_path):
    lines = packed.pack(cases, tmp_path / "packed", CONFIG, 40)
    assert len(lines) == 1
    again = store.cases(tmp_path / "packed")
    assert [case.facts for case in again] == [case.facts for case in cases]
    crops = CONFIG.model_copy(update={"levels": (0, 0, 1), "zoom": (1, 1)})
    for n in range(12):
        one, other = (sampler(of, crops, 0)(n) for of in (cases, again))
        assert np.array_equal(one.x0, other.x0)
        assert np.array_equal(one.condition.anatomy, other.condition.anatomy)
    whole = CONFIG.model_copy(update={"levels": (1, 0, 0)})
    for n in range(12):
        one, other = (sampler(of, whole, 0)(n) for of in (cases, again))
        assert (one.x0 - other.x0).abs().max() < 0.1  # means of what was rounded to 32 HU
        assert case_lesions(cases) == case_lesions(again)


def test_a_coarser_case_has_less_noise(tmp_path):
    truth = draw("abdomen", (150, 150, 12), 2.0, seed=1)
    hu = add_noise(truth.ct, 24.0, 0).hu.round().astype(np.int16)
    affine = tuple(truth.ct.affine.ravel().tolist())
    more = {"affine": affine, "spacing_mm": (2.0, 2.0, 2.0), "noise_hu": 24.0}
    store.add(tmp_path / "store", facts("one", "abdomen", **more), hu, truth.labels)
    store.index(tmp_path / "store")
    (case,) = store.cases(tmp_path / "store")
    size = sum(file.stat().st_size for file in (tmp_path / "store").rglob("*") if file.is_file())
    packed.pack([case], tmp_path / "packed", CONFIG, 0.6 * size / 1e6)
    (again,) = store.cases(tmp_path / "packed")
    assert again.facts.spacing_mm > case.facts.spacing_mm
    assert 5 < again.facts.noise_hu < 20


def case_lesions(every: list[store.Case]) -> list[int]:
    return [int(case.voxels("lesion")[...].sum()) for case in every]


@pytest.mark.slow
@pytest.mark.parametrize("limit_mb", [0.25, 0.18, 0.13])
def test_a_limit_is_kept_and_it_is_listed_what_that_took(cases, tmp_path, limit_mb):
    lines = packed.pack(cases, tmp_path / "packed", CONFIG, limit_mb)
    assert megabytes(tmp_path / "packed") <= limit_mb
    again = store.cases(tmp_path / "packed")
    coarser = [b.facts.id for a, b in zip(cases, again, strict=True) if a.facts != b.facts]
    assert [text.partition(":")[0] for text in lines[1:]] == coarser
    assert coarser[-1:] == ["large/chest"] if len(coarser) == 1 else len(coarser) > 0
    for a, b in zip(cases, again, strict=True):
        sizes = np.array(a.facts.shape) * a.facts.spacing_mm
        assert np.allclose(np.array(b.facts.shape) * b.facts.spacing_mm, sizes)
        assert b.voxels("ct").shape == b.facts.shape == b.voxels("anatomy").shape
        assert a.facts.lesion_ml / 2 < b.facts.lesion_ml < 2 * a.facts.lesion_ml
        assert set(np.unique(b.voxels("anatomy")[...])) <= set(np.unique(a.voxels("anatomy")[...]))
        if a.facts.affine:
            # The middle of the case is where it was.
            middles = [
                np.reshape(of.facts.affine, (4, 4)) @ [*(np.array(of.facts.shape) - 1) / 2, 1]
                for of in (a, b)
            ]
            assert np.allclose(*middles)
    for n in range(4):
        assert sampler(again, CONFIG, 0)(n).x0.isfinite().all()


def test_cases_that_only_validate_get_coarser_first(cases, tmp_path):
    largest = max(cases, key=lambda case: np.prod(case.facts.shape)).facts.id
    held = [case.facts.id for case in cases if case.facts.id != largest][:1]
    sizes = {}
    for name, some in (("a", held), ("b", [])):
        packed.pack(cases, tmp_path / name, CONFIG, 0.25, held=some)
        again = store.cases(tmp_path / name)
        sizes[name] = {case.facts.id: case.facts.shape for case in again}
    own = {case.facts.id: case.facts.shape for case in cases}
    assert sizes["a"][held[0]] != own[held[0]]
    assert sizes["b"][held[0]] == own[held[0]]


def test_a_store_that_cannot_fit_is_one_sentence(cases, tmp_path):
    with pytest.raises(InputError, match=r"at its coarsest, more than the kit's limit of 0\.01 MB"):
        packed.pack(cases, tmp_path / "packed", CONFIG, 0.01)
    assert not list((tmp_path / "packed").iterdir())


@given(st.tuples(*[st.floats(0.5, 6)] * 3), st.integers(0, len(packed.GRIDS) - 1))
def test_grids_get_coarser_where_they_are_finest_and_crops_stay_crops(spacing, rung):
    row = facts(shape=(200, 180, 90), spacing_mm=spacing)
    new = packed.regridded(row, packed.grid_at(row, rung))
    for axis, (before, after) in enumerate(zip(spacing, new.spacing_mm, strict=True)):
        assert before <= after + 1e-9
        assert after <= max(before, packed.GRIDS[rung] * min(spacing)) + 1e-9
        assert axis == 2 or is_coarse(store.Case("", row)) or after <= COARSE_MM + 1e-9
    if rung == 0:
        assert new == row


def test_draws_are_those_of_the_sampler():
    thick = {"region": "abdomen", "spacing_mm": (4, 4, 3)}
    rows = [facts("a"), facts("b"), facts("c", patient="b"), facts("d", "abdomen")]
    rows += [facts("e", **thick), facts("f", **thick)]
    every = [store.Case("", row) for row in rows]
    choose, rng = chooser(every, CONFIG), np.random.default_rng(0)
    seen = Counter(choose(rng).facts.id for _ in range(20000))
    for name, share in packed.draws(every).items():
        assert abs(seen[name] / 20000 - share) < 0.02
    assert sum(packed.draws(every).values()) == pytest.approx(1)


def test_a_packed_manifest_needs_no_parquet(cases, tmp_path, monkeypatch):
    packed.pack(cases, tmp_path / "packed", CONFIG, 40)
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "fsspec", None)
    assert len(store.cases(tmp_path / "packed")) == 3


@pytest.mark.parametrize(("text", "says"), [("[", "cannot be read"), ("[{}]", "of this version")])
def test_a_broken_packed_manifest_is_named(tmp_path, text, says):
    (tmp_path / manifest.PACKED).write_text(text)
    with pytest.raises(InputError, match=says):
        store.cases(tmp_path)


def test_the_manifest_counts_as_well(cases, tmp_path):
    packed.pack(cases, tmp_path / "all", CONFIG, 40)
    limit_mb = megabytes(tmp_path / "all") - 0.0005
    packed.pack(cases, tmp_path / "packed", CONFIG, limit_mb)
    assert megabytes(tmp_path / "packed") <= limit_mb
