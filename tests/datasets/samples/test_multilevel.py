"""Training samples: drawn by number alone, told truly where they lie and how large they are.

The cases here hold their own coordinates: HU rise linearly along one axis, so that a sample's
values say where its voxels came from.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.core.random_field import normal
from denovox.core.regions import REGIONS
from denovox.datasets.manifest import CaseFacts
from denovox.datasets.samples.batch import Sample
from denovox.datasets.samples.choice import SampleConfig, chooser, grouped, in_turn, is_coarse
from denovox.datasets.samples.multilevel import Plan, plan, sampler
from denovox.datasets.store import Case, add, cases, index

SHAPE = (40, 33, 28)
SPACING = (0.8, 0.9, 2.5)
PATCH = 8
CHEST = REGIONS["chest"].window
SLOPE_HU = 850.0  # from end to end of the volume: within the chest's window
STEP = 1 / 900  # int16 HU in units of that window: values are good to half of it
Draw = Callable[[int], Sample]


def ramp(axis: int, shape: tuple[int, int, int] = SHAPE) -> np.ndarray:
    """int16 HU: the window's middle plus the coordinate along an axis, times the slope."""
    n = shape[axis]
    view = [1, 1, 1]
    view[axis] = n
    line = CHEST.level_hu + SLOPE_HU * (2 * (np.arange(n) + 0.5) / n - 1)
    return np.broadcast_to(np.round(line).astype(np.int16).reshape(view), shape).copy()


def sides() -> np.ndarray:
    """Left kidney in the lower half of x (x grows to the Right), right kidney in the upper."""
    anatomy = np.full(SHAPE, ID["kidney_right"], np.uint8)
    anatomy[: SHAPE[0] // 2] = ID["kidney_left"]
    return anatomy


def case(store: Path, axis: int = 0, name: str = "a", patient: str = "p", **more: object) -> None:
    known = {"id": name, "patient": patient, "region": "chest", "spacing_mm": SPACING}
    add(store, CaseFacts(**(known | more)), ramp(axis), sides())
    index(store)


def drawer(store: Path, seed: int = 0, **config: object) -> Draw:
    known = {"patch": PATCH, "mirror": 0, "drop": 0}
    return sampler(cases(store), SampleConfig(**(known | config)), seed)


def planned(store: Path, count: int, **config: object) -> list[tuple[Case, Plan]]:
    """The case and the plan of the first samples of a `drawer`, for frequencies; that samples are
    drawn as planned is tested on a few."""
    of = SampleConfig(**({"patch": 4, "mirror": 0, "drop": 0} | config))
    choose, found = chooser(cases(store), of), []
    for n in range(count):
        rng = np.random.default_rng([0, n])
        one = choose(rng)
        found.append((one, plan(one, of, rng)))
    return found


def same(a: Sample, b: Sample) -> bool:
    tensors = [(a.x0, b.x0), (a.noise, b.noise)]
    tensors += [
        (getattr(a.condition, f.name), getattr(b.condition, f.name))
        for f in fields(a.condition)
        if f.name != "control"
    ]
    for x, y in ((a.weight, b.weight), (a.condition.control, b.condition.control)):
        assert (x is None) == (y is None)
        tensors += [] if x is None or y is None else [(x, y)]
    return (a.u, a.level) == (b.u, b.level) and all(torch.equal(x, y) for x, y in tensors)


def along(sample: Sample, axis: int) -> tuple[np.ndarray, np.ndarray]:
    """(coordinate told, coordinate that the values show) along an axis of a ramp case."""
    shown = sample.x0[0, 0].movedim(axis, 0).numpy() * (CHEST.width_hu / 2) / SLOPE_HU
    np.testing.assert_allclose(shown, np.broadcast_to(shown[:, :1, :1], shown.shape), atol=1e-6)
    return sample.condition.position[axis][0].numpy(), shown[:, 0, 0]


# By number alone ------------------------------------------------------------------------------


def test_a_sample_depends_on_seed_and_number_alone(tmp_path):
    for name, patient in [("a", "p"), ("b", "q"), ("c", "q")]:
        case(tmp_path, 1, name, patient)
    config = {"mirror": 0.5, "drop": 0.3, "zoom": (0.5, 2), "gain": 0.1, "shift_hu": 20}
    one, other = drawer(tmp_path, **config), drawer(tmp_path, **config)
    backwards = {n: other(n) for n in (9, 3, 7, 0)}
    assert all(same(one(n), backwards[n]) for n in (0, 3, 7, 9))
    assert not same(one(0), one(1))
    assert not same(one(0), drawer(tmp_path, seed=1, **config)(0))


def test_shapes_noise_and_u(tmp_path):
    case(tmp_path)
    draw = drawer(tmp_path)
    samples = [draw(n) for n in range(100)]
    for s in samples[:5]:
        assert s.x0.shape == s.noise.shape == (1, 1, PATCH, PATCH, PATCH)
        assert s.condition.anatomy.shape == (1, PATCH, PATCH, PATCH)
        assert s.x0.dtype == s.noise.dtype == torch.float32
    noise = torch.cat([s.noise.flatten() for s in samples]).double()
    n = len(noise)
    assert abs(float(noise.mean())) < 4 / math.sqrt(n)
    assert abs(float(noise.var()) - 1) < 4 * math.sqrt(2 / n)
    u = np.array([s.u for s in samples])
    assert ((u >= 0) & (u < 1)).all()
    assert abs(u.mean() - 0.5) < 4 * math.sqrt(1 / 12 / len(u))


# Where a sample lies --------------------------------------------------------------------------


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_the_whole_level_covers_the_volume(tmp_path, axis):
    case(tmp_path, axis)
    sample = drawer(tmp_path, levels=(1, 0, 0))(0)
    assert sample.level == 0
    for position in sample.condition.position:
        expected = np.linspace(-1 + 1 / PATCH, 1 - 1 / PATCH, PATCH)
        np.testing.assert_allclose(position[0], expected, atol=1e-6)
    told, shown = along(sample, axis)
    # A triangle over a fraction of voxels sums to one only about: a hundredth of the volume.
    np.testing.assert_allclose(shown[1:-1], told[1:-1], atol=0.01)
    mm = [s * n / PATCH for s, n in zip(SPACING, SHAPE, strict=True)]
    assert sample.condition.spacing_mm[0].tolist() == pytest.approx(mm)


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("level", [1, 2])
def test_a_crop_is_told_where_its_voxels_come_from(tmp_path, axis, level):
    case(tmp_path, axis)
    draw = drawer(tmp_path, levels=[float(i == level) for i in range(3)])
    places = set()
    for n in range(12):
        sample = draw(n)
        assert sample.level == level
        told, shown = along(sample, axis)
        inner = slice(None) if level == 2 else slice(1, -1)  # at a crop's edge no neighbour is seen
        np.testing.assert_allclose(shown[inner], told[inner], atol=STEP)
        pace = 2 * (3 - level) / SHAPE[axis]
        np.testing.assert_allclose(np.diff(told), pace, atol=1e-6)
        assert told[0] - pace / 2 >= -1 - 1e-6
        assert told[-1] + pace / 2 <= 1 + 1e-6
        mm = [s * (3 - level) for s in SPACING]
        assert sample.condition.spacing_mm[0].tolist() == pytest.approx(mm)
        places.add(float(told[0]))
    assert len(places) > 3


def test_crops_reach_both_ends(tmp_path):
    case(tmp_path, 2)
    config = {"patch": PATCH, "levels": (0, 0, 1)}
    starts = [of.start[2] for _, of in planned(tmp_path, 300, **config)]
    assert set(starts) == set(range(28 - PATCH + 1))
    draw = drawer(tmp_path, **config)
    for n in range(9):
        first = float((draw(n).condition.position_z[0, 0] + 1) * 14 - 0.5)
        assert first == pytest.approx(starts[n], abs=1e-5)


def test_zoomed_crops_are_told_their_size(tmp_path):
    case(tmp_path, 0)
    draw = drawer(tmp_path, levels=(0, 0, 1), zoom=(0.5, 2))
    sizes = set()
    for n in range(60):
        sample = draw(n)
        told, shown = along(sample, 0)
        size = float(sample.condition.spacing_mm[0, 0]) / SPACING[0] * PATCH
        assert size == pytest.approx(round(size), abs=1e-4)
        np.testing.assert_allclose(np.diff(told), 2 * size / PATCH / SHAPE[0], atol=1e-6)
        np.testing.assert_allclose(shown[2:-2], told[2:-2], atol=0.02)
        sizes.add(round(size))
    assert min(sizes) >= PATCH // 2
    assert max(sizes) <= 2 * PATCH
    assert len(sizes) > 6


def test_an_axis_shorter_than_the_crop_is_taken_whole(tmp_path):
    case(tmp_path, 2)
    sample = drawer(tmp_path, patch=32, levels=(0, 0, 1))(0)
    expected = np.linspace(-1 + 1 / 32, 1 - 1 / 32, 32)
    np.testing.assert_allclose(sample.condition.position_z[0], expected, atol=1e-6)
    mm = sample.condition.spacing_mm[0].tolist()
    assert mm == pytest.approx([SPACING[0], SPACING[1], SPACING[2] * 28 / 32])
    told, shown = along(sample, 2)
    np.testing.assert_allclose(shown[1:-1], told[1:-1], atol=STEP)


@pytest.mark.parametrize("mirror", [0, 1])
def test_labels_lie_where_positions_say(tmp_path, mirror):
    """Mirrored or not, the left kidney is where x is below the middle: on the left."""
    case(tmp_path)
    draw = drawer(tmp_path, mirror=mirror)
    seen = set()
    for n in range(30):
        c = draw(n).condition
        left = (c.anatomy[0] == ID["kidney_left"]).numpy()
        assert (left | (c.anatomy[0] == ID["kidney_right"]).numpy()).all()
        x = c.position_x[0].numpy()
        expected = np.broadcast_to((x < 0)[:, None, None], left.shape)
        clear = np.abs(x) > 1e-6
        assert np.array_equal(left[clear], expected[clear])
        seen |= set(np.unique(left))
    assert seen == {True, False}


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_a_mirrored_body_shows_the_other_side(tmp_path, axis):
    case(tmp_path, axis)
    draw = drawer(tmp_path, mirror=1, levels=(0, 0, 1))
    for n in range(8):
        told, shown = along(draw(n), axis)
        assert (np.diff(told) > 0).all()  # coordinates stay in order
        np.testing.assert_allclose(shown, -told if axis == 0 else told, atol=STEP)


# How often ------------------------------------------------------------------------------------


def near(count: int, total: int, share: float) -> bool:
    """Within four standard deviations of a binomial law."""
    return abs(count - share * total) < 4 * math.sqrt(total * share * (1 - share)) + 1e-9


@pytest.mark.parametrize("shares", [(1, 2, 5), (1, 0, 1)])
def test_levels_come_as_often_as_asked(tmp_path, shares):
    case(tmp_path)
    levels = [of.level for _, of in planned(tmp_path, 600, levels=shares)]
    assert all(near(levels.count(i), 600, n / sum(shares)) for i, n in enumerate(shares))
    draw = drawer(tmp_path, patch=4, levels=shares)
    assert [draw(n).level for n in range(9)] == levels[:9]


def test_noise_hangs_on_no_number_that_is_drawn_before_it(tmp_path):
    """It is the noise of the plan's seed, whatever the box and the jitter were."""
    case(tmp_path)
    config = SampleConfig(patch=PATCH, grain=0.5, gain=0.1, zoom=(0.5, 2))
    draw, choose = sampler(cases(tmp_path), config, 0), chooser(cases(tmp_path), config)
    for n in range(12):
        rng = np.random.default_rng([0, n])
        of, drawn = plan(choose(rng), config, rng), draw(n)
        white = normal(of.noise, 0, config.grid)
        assert torch.equal(drawn.noise, white) is (of.grain is None)
        assert (drawn.u, drawn.level) == (of.u, of.level)


def test_noise_has_a_grain_as_often_as_asked(tmp_path):
    case(tmp_path)
    plain, some = ([of for _, of in planned(tmp_path, 600, grain=p)] for p in (0, 0.3))
    assert near(sum(of.grain is not None for of in some), 600, 0.3)
    # Nothing else is another: what was drawn before the grain is drawn as without it.
    assert [replace(of, grain=None) for of in some] == plain


def test_a_crop_is_trained_no_lower_than_the_noise_of_its_scan(tmp_path):
    case(tmp_path, noise_hu=45)  # .05 of half the chest's window
    samples = [drawer(tmp_path, noise_floor=True)(n) for n in range(30)]
    assert {s.level: s.noise_floor for s in samples} == {0: 0, 1: 0.025, 2: 0.05}
    plain = [drawer(tmp_path)(n) for n in range(30)]
    assert {s.noise_floor for s in plain} == {0}
    assert all(same(a, b) for a, b in zip(samples, plain, strict=True))  # nothing else changes


def test_a_case_that_was_not_measured_has_no_noise_floor(tmp_path):
    case(tmp_path)
    assert {drawer(tmp_path, noise_floor=True)(n).noise_floor for n in range(9)} == {0}


@pytest.mark.parametrize("drop", [0, 0.3, 1])
def test_region_and_anatomy_are_withheld_each_on_its_own(tmp_path, drop):
    case(tmp_path)
    seen = [(of.show_region, of.show_anatomy) for _, of in planned(tmp_path, 600, drop=drop)]
    region, anatomy = ~np.array(seen).T
    assert near(region.sum(), 600, drop)
    assert near(anatomy.sum(), 600, drop)
    assert near((region & anatomy).sum(), 600, drop**2)
    draw = drawer(tmp_path, patch=4, drop=drop)
    for n, (known, labelled) in enumerate(seen[:12]):
        assert int(draw(n).condition.region) == known * REGIONS["chest"].id
        assert bool(draw(n).condition.anatomy.any()) is labelled


def test_patients_count_the_same_however_many_scans_they_have(tmp_path):
    case(tmp_path, name="lone", patient="p")
    for i in range(3):
        case(tmp_path, name=f"q{i}", patient="q")
    seen = [one.facts.id for one, _ in planned(tmp_path, 600, levels=(0, 0, 1))]
    assert near(seen.count("lone/chest"), 600, 1 / 2)
    assert all(near(seen.count(f"q{i}/chest"), 600, 1 / 6) for i in range(3))
    draw = drawer(tmp_path, patch=4, levels=(0, 0, 1))
    assert [draw(n).case for n in range(9)] == seen[:9]


# Which case -----------------------------------------------------------------------------------

# region -> whether coarse -> patient -> number of scans; far from even on purpose.
MANY = {
    "head": {False: {"h1": 1}, True: {f"h{n}": 1 for n in range(2, 9)}},
    "chest": {False: {"c1": 3, "c2": 1, "b": 2}},
    "abdomen": {True: {"b": 1, "a1": 1}, False: {"a1": 2, "a2": 1, "a3": 1, "a4": 1, "a5": 4}},
}
COARSE = (3.5, 1.0, 2.0), (1.0, 3.5, 2.0)
WHOLE, CROPS = SampleConfig(levels=(1, 1, 1)), SampleConfig(levels=(0, 0, 1))


def many() -> list[Case]:
    """Cases that nobody reads; coarse along x or along y."""
    return [
        Case("nowhere", CaseFacts(
            id=f"{region}-{coarse}-{patient}-{n}", patient=patient, region=region, shape=SHAPE,
            spacing_mm=(COARSE[ord(patient[-1]) % 2] if coarse else (3.0, 3.0, 9.0)),
        ))
        for region, kinds in MANY.items()
        for coarse, patients in kinds.items()
        for patient, count in patients.items()
        for n in range(count)
    ]  # fmt: skip


def shares(*, coarse_too: bool) -> dict[str, float]:
    """How often each of them is to come: every choice even, from region to scan."""
    found = {}
    for region, kinds in MANY.items():
        some = {kind: who for kind, who in kinds.items() if coarse_too or not kind}
        for coarse, patients in some.items():
            for patient, count in patients.items():
                share = 1 / len(MANY) / len(some) / len(patients) / count
                found |= {f"{region}-{coarse}-{patient}-{n}": share for n in range(count)}
    return found


def test_coarse_is_more_than_3_mm_in_plane():
    assert all(is_coarse(one) is ("True" in one.facts.id) for one in many())


@pytest.mark.parametrize(("config", "coarse_too"), [(WHOLE, True), (CROPS, False)])
def test_regions_come_evenly_then_fine_and_coarse_then_patients_then_scans(config, coarse_too):
    choose, rng = chooser(many(), config), np.random.default_rng(0)
    seen = [choose(rng).facts.id for _ in range(6000)]
    expected = shares(coarse_too=coarse_too)
    assert sum(expected.values()) == pytest.approx(1)
    assert set(seen) == set(expected)
    assert all(near(seen.count(one), 6000, share) for one, share in expected.items())
    for region, kinds in MANY.items():
        mine = sum(one.startswith(region) for one in seen)
        coarse = sum(one.startswith(f"{region}-True") for one in seen)
        assert near(mine, 6000, 1 / 3)
        assert near(coarse, mine, coarse_too * (len(kinds) - 1) / 2)


@pytest.mark.parametrize(("config", "coarse_too"), [(WHOLE, True), (CROPS, False)])
def test_in_turn_all_have_their_share_exactly(config, coarse_too):
    expected = shares(coarse_too=coarse_too)
    period = math.lcm(*(round(1 / share) for share in expected.values()))
    seen = [one.facts.id for one in in_turn(many(), config, 2 * period)]
    assert {one: seen.count(one) for one in set(seen)} == {
        one: round(2 * period * share) for one, share in expected.items()
    }
    # However many are asked for, nothing is one ahead of what it shares with.
    every = many()
    few = in_turn(every, config, 300)
    assert [one.facts.id for one in few] == seen[:300]
    for count in range(1, 301):
        few = in_turn(every, config, count)
        regions = [sum(one.facts.region == region for one in few) for region in MANY]
        assert max(regions) - min(regions) <= 1
        of_head = [is_coarse(one) for one in few if one.facts.region == "head"]
        assert abs(len(of_head) - 2 * sum(of_head)) <= 1 or not coarse_too
        own = [one.facts.patient for one in few if one.facts.region == "chest"]
        counts = [own.count(patient) for patient in MANY["chest"][False]]
        assert max(counts) - min(counts) <= 1


def test_the_order_of_cases_does_not_matter():
    backwards = many()[::-1]
    for config in (WHOLE, CROPS):
        a, b = (chooser(some, config) for some in (many(), backwards))
        rng, other = np.random.default_rng(1), np.random.default_rng(1)
        assert [a(rng) for _ in range(200)] == [b(other) for _ in range(200)]
        assert in_turn(many(), config, 90) == in_turn(backwards, config, 90)


@pytest.mark.parametrize("levels", [(1, 1, 1), (1, 2, 5), (1, 0, 3), (0, 1, 9), (0, 0, 1)])
def test_a_coarse_case_gives_no_crops(levels):
    config = SampleConfig(patch=8, levels=levels)
    rng = np.random.default_rng(0)
    for one in many()[:3]:
        seen = [plan(one, config, rng).level for _ in range(600)]
        mine = (*levels[:2], 0) if is_coarse(one) and any(levels[:2]) else levels
        told = [share / sum(mine) for share in mine]
        assert all(near(seen.count(level), 600, share) for level, share in enumerate(told))


def test_where_crops_alone_are_asked_coarse_cases_are_left_out():
    fine = [
        one for kinds in grouped(many(), CROPS) for kind in kinds for who in kind for one in who
    ]
    assert {one.facts.id for one in fine} == set(shares(coarse_too=False))
    assert not any(is_coarse(one) for one in fine)


def test_crops_of_coarse_cases_alone_are_one_sentence():
    coarse = [one for one in many() if is_coarse(one)]
    for of in (chooser, grouped, lambda some, config: in_turn(some, config, 3)):
        with pytest.raises(InputError, match=r"all 9 cases .* 3 mm .*data\.sample\.levels") as told:
            of(coarse, CROPS)
        assert "\n" not in str(told.value)
    assert len({one.facts.id for one in in_turn(coarse, WHOLE, 100)}) == 9


def test_no_cases_are_one_sentence():
    with pytest.raises(InputError, match="no case"):
        chooser([], WHOLE)


def test_each_region_has_its_own_window(tmp_path):
    case(tmp_path, region="abdomen")
    draw = drawer(tmp_path, patch=4)
    seen = [draw(n) for n in range(40)]
    assert {int(s.condition.region) for s in seen} == {REGIONS["abdomen"].id}
    # The ramp of a chest is clipped in the abdomen's window.
    assert any(float(s.x0.min()) == -1 for s in seen)
    assert all(float(s.x0.abs().max()) <= 1 for s in seen)


# Jitter ---------------------------------------------------------------------------------------


def uniform_case(store: Path, hu: int) -> None:
    known = {"id": "u", "patient": "p", "region": "chest", "spacing_mm": SPACING}
    add(store, CaseFacts(**known), np.full(SHAPE, hu, np.int16), sides())
    index(store)


@pytest.mark.parametrize(
    ("hu", "config", "reach"),
    [(-700, {"shift_hu": 30}, 30), (-700, {"gain": 0.1}, 70), (0, {"gain": 0.1}, 0), (-700, {}, 0)],
)
def test_jitter_is_uniform_within_its_bounds(tmp_path, hu, config, reach):
    uniform_case(tmp_path, hu)
    some = [of for _, of in planned(tmp_path, 600, **config)]
    values = np.array([hu * of.factor + of.offset_hu - hu for of in some])
    assert np.abs(values).max() <= reach + 1e-9
    # A uniform law on +-reach: mean 0, SD reach / sqrt(3).
    assert abs(values.mean()) <= 4 * reach / math.sqrt(3 * 600) + 1e-9
    assert values.std() == pytest.approx(reach / math.sqrt(3), rel=0.1, abs=1e-9)
    draw = drawer(tmp_path, patch=4, **config)
    for n in range(9):
        assert float(CHEST.hu(draw(n).x0).mean()) - hu == pytest.approx(values[n], abs=1e-3)


@pytest.mark.parametrize(
    "wrong", [{"shift_hu": -1}, {"gain": 1}, {"mirror": 1.1}, {"drop": -0.1}, {"zooom": (1, 1)}]
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(ValueError, match=next(iter(wrong))):
        SampleConfig(**wrong)


# What a control is told ---------------------------------------------------------------------------


def lesion_case(store: Path) -> np.ndarray:
    """A case whose HU rise along x, with two lesions; their mask."""
    lesion = np.zeros(SHAPE, np.uint8)
    lesion[3:6, 20:24, 5:9] = 1
    lesion[30, 4, 20] = 1
    facts = CaseFacts(id="l", patient="p", region="chest", spacing_mm=SPACING)
    row = add(store, facts, ramp(0), sides(), lesion)
    index(store)
    assert set(row.lesions) == {(3, 20, 5, 5, 23, 8), (30, 4, 20, 30, 4, 20)}
    assert row.lesion_ml == pytest.approx(49 * math.prod(SPACING) / 1000)
    return lesion


def test_a_lesion_lies_where_its_mask_says_and_is_what_the_control_is_told(tmp_path):
    lesion = lesion_case(tmp_path)
    told = {"kind": "lesion", "on_lesion": 1.0, "weight": 4.0}
    draw = drawer(tmp_path, levels=(0, 0, 1), control=told)
    seen = set()
    for n in range(40):
        one = draw(n)
        assert one.condition.control is not None
        assert one.weight is not None
        mask = one.condition.control[0, 0].numpy()
        # Where the crop lies is told by the positions; the mask there is the case's own.
        start = [
            round(float((p[0, 0] + 1) / 2 * size - 0.5))
            for p, size in zip(one.condition.position, SHAPE, strict=True)
        ]
        expected = lesion[tuple(slice(a, a + PATCH) for a in start)]
        np.testing.assert_array_equal(mask, expected)
        assert mask.any()
        seen.add(bool(start[0] > 15))
        weight = one.weight[0, 0].numpy()
        assert set(np.unique(weight)) <= {1.0, 4.0}
        assert (weight[mask > 0] == 4).all()
        at = np.argwhere(weight == 4)[:, None] - np.argwhere(mask > 0)[None]
        assert np.abs(at).max(-1).min(1).max() <= 1  # a voxel around it, and no farther
    assert seen == {True, False}  # the small lesion as often as the large one


def test_left_and_right_change_sides_with_their_lesions(tmp_path):
    lesion_case(tmp_path)
    told = {"kind": "lesion", "on_lesion": 1.0}
    plain = drawer(tmp_path, levels=(0, 0, 1), control=told)
    mirrored = drawer(tmp_path, levels=(0, 0, 1), control=told, mirror=1)
    for n in range(5):
        one, other = plain(n), mirrored(n)
        assert torch.equal(one.condition.control.flip(2), other.condition.control)
        assert torch.equal(one.x0.flip(2), other.x0)


def test_a_case_without_lesions_tells_of_none(tmp_path):
    case(tmp_path)
    one = drawer(tmp_path, control={"kind": "lesion"})(0)
    assert not one.condition.control.any()
    assert (one.weight == 1).all()


def test_samples_of_a_base_are_told_nothing(tmp_path):
    lesion_case(tmp_path)
    one = drawer(tmp_path)(0)
    assert one.condition.control is None
    assert one.weight is None


def test_a_low_resolution_image_keeps_what_is_straight_along_z(tmp_path):
    case(tmp_path, 2)
    draw = drawer(tmp_path, levels=(0, 0, 1), control={"kind": "low-resolution", "factor": (2, 3)})
    for n in range(5):
        one = draw(n)
        # A ramp along z is its own slab average, but for the slabs at the crop's ends.
        inner = one.condition.control[..., 4:-4]
        torch.testing.assert_close(inner, one.x0[..., 4:-4], rtol=0, atol=0.02)


@pytest.mark.parametrize("begin", [0, 1])
def test_noise_is_added_to_the_interpolation_as_often_as_asked(tmp_path, begin):
    case(tmp_path, 2)
    one = drawer(tmp_path, control={"kind": "low-resolution", "begin": begin})(0)
    assert (one.start is not None) == bool(begin)
    if one.start is not None:
        assert torch.equal(one.start, one.condition.control)
