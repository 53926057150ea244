"""One region hands over to the next: weights, places, noise, and nothing but the region's own."""

from pathlib import Path

import numpy as np
import pytest

from denovox.core.box import coordinates
from denovox.core.regions import REGIONS
from denovox.core.volume import Volume
from denovox.inference import scan_context
from denovox.inference.model import (
    Model,
)
from denovox.inference.options import RunOptions
from denovox.inference.region_blend import BLEND_MM, CONTEXT, blend_parts, handed_over
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.scan.body_regions import RegionSpan
from denovox.simulate.phantom import add_noise, chest

CONFIG = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0))
SLABS = (
    RegionSpan("abdomen", 0, 30, "a"),
    RegionSpan("chest", 30, 52, "b"),
    RegionSpan("headneck", 52, 80, "c"),
)
TALL = (24, 20, 80)
Z_MM = 4.0
REACH = round(BLEND_MM / 2 / Z_MM + 0.5)  # slices on each side of a border that are blended


def scan_of(hu, z_mm=Z_MM):
    return Volume(hu.astype(np.float32), np.diag([4.0, 4.0, z_mm, 1.0]))


def body(z_mm=Z_MM):
    """Water in air with a bone rod, and noise."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in TALL), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.6, 40.0, -1000.0)
    hu[np.hypot(x, y + 0.4) < 0.15] = 900
    return scan_of(hu + 20 * np.random.default_rng(0).standard_normal(TALL), z_mm)


def model(denoise):
    """A model around a function (x, sigma, condition) -> x0."""
    return Model(denoise, CONFIG, Path("none"), "cpu")


@pytest.fixture
def spanning(monkeypatch):
    """Every scan of 80 slices spans three regions."""
    monkeypatch.setattr(scan_context, "region_spans", lambda volume, coarse: SLABS)


def far_from(border, count):
    """Slices that no hand-over at this border touches."""
    return np.abs(np.arange(count) + 0.5 - border) > REACH


@pytest.mark.parametrize("z_mm", [0.8, 4.0, 12.0])
def test_weights_sum_to_one_and_a_border_is_half_and_half(z_mm):
    parts = blend_parts(SLABS, z_mm)
    total = np.zeros(80)
    for part in parts:
        assert (part.weight >= 0).all()
        total[part.z] += part.weight
    np.testing.assert_allclose(total, 1, rtol=0, atol=1e-6)
    for below, above, border in ((*parts[:2], 30), (*parts[1:], 52)):
        # Mirror images: what a slice below the border gives, its twin above it takes.
        for k in range(4):
            mirrored = (
                below.weight[border - 1 - k - below.start],
                above.weight[border + k - above.start],
            )
            assert mirrored[0] == pytest.approx(mirrored[1], abs=1e-6)
            way = min(0.5 + (k + 0.5) * z_mm / BLEND_MM, 1)
            assert mirrored[0] == pytest.approx(np.sin(np.pi * way / 2) ** 2, abs=1e-6)


def test_a_part_has_context_and_one_region_is_one_part():
    parts = blend_parts(SLABS, Z_MM)
    assert [part.start for part in parts] == [0, 30 - REACH + 1 - CONTEXT, 52 - REACH + 1 - CONTEXT]
    assert [part.stop for part in parts] == [30 + REACH - 1 + CONTEXT, 52 + REACH - 1 + CONTEXT, 80]
    (one,) = blend_parts((RegionSpan("chest", 0, 9, ""),), 1.0)
    assert (one.start, one.stop) == (0, 9)
    assert np.array_equal(one.weight, np.ones(9))


@pytest.mark.parametrize("z_mm", [4.0, 9.0])
def test_the_identity_changes_nothing_anywhere(spanning, z_mm):
    scan = body(z_mm)
    got = model(lambda x, sigma, told: x).denoise(scan, "auto", 20.0)
    # Rounding of float32 model units: a millionth of a window.
    np.testing.assert_allclose(got.hu, scan.hu, rtol=0, atol=2e-3)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean", "diffpir"])
@pytest.mark.parametrize("window", [96, 32])
@pytest.mark.parametrize("z_mm", [4.0, 9.0])  # 9 mm is worked on at 6
def test_far_from_a_border_each_side_is_its_regions_own(spanning, z_mm, window, method):
    scan, net = body(z_mm), model(lambda x, sigma, told: 0.5 * x - 0.1)
    options = RunOptions(tile=window)
    got = net.denoise(scan, "auto", 20.0, method, options)
    far = far_from(30, 80) & far_from(52, 80)
    for slab in SLABS:
        own = np.flatnonzero(far[slab.start : slab.stop]) + slab.start
        alone = net.denoise(scan, slab.region, 20.0, method, options)
        # Floats are rounded where windows, grids or noise levels blend.
        np.testing.assert_allclose(got.hu[..., own], alone.hu[..., own], rtol=0, atol=2e-3)
        assert np.abs(got.hu - alone.hu)[..., ~far].max() > 10


def test_what_is_added_goes_from_one_region_to_the_next_without_a_jump(spanning):
    line = np.linspace(-600, 300, 24 * 20, dtype=np.float32).reshape(24, 20, 1)
    scan = scan_of(np.repeat(line, 80, 2))
    net = model(lambda x, sigma, told: 0.5 * x)
    added = net.denoise(scan, "auto", 20.0).hu - scan.hu
    low, mid, high = (net.denoise(scan, s.region, 20.0).hu - scan.hu for s in SLABS)
    # A cosine of 20 mm is never steeper than pi / 2 / 20 a mm.
    steepest = np.pi / 2 * Z_MM / BLEND_MM
    for a, b, z in ((low, mid, slice(0, 41)), (mid, high, slice(41, 80))):
        jump = np.abs(np.diff(added[..., z], axis=2))
        assert (jump <= steepest * np.abs(b - a)[..., :1] + 1e-3).all()
        assert (added[..., z] <= np.maximum(a, b)[..., z] + 1e-3).all()
        assert (added[..., z] >= np.minimum(a, b)[..., z] - 1e-3).all()
    assert np.abs(low - mid).max() > 50  # there was something to hand over


def test_a_part_is_a_volume_of_its_own_and_is_told_its_region(spanning):
    heard = {}

    def listens(x, sigma, told):
        heard.setdefault(int(told.region[0]), []).extend(told.position_z[0].tolist())
        return x

    model(listens).denoise(body(), None, 20.0)
    assert list(heard) == [3, 2, 1]
    for part in blend_parts(SLABS, Z_MM):
        positions = heard[{"abdomen": 3, "chest": 2, "headneck": 1}[part.span.region]]
        own = coordinates(0, part.stop - part.start, part.stop - part.start, part.stop - part.start)
        assert min(positions) == pytest.approx(own[0], abs=1e-6)
        assert max(positions) >= own[-1] - 1e-6  # the last window may reach beyond


def test_noise_is_estimated_in_each_region(spanning):
    heard, said = {}, []

    def listens(x, sigma, told):
        heard.setdefault(int(told.region[0]), []).append(sigma)
        return x

    flat = np.full((60, 50, 80), 40.0)
    flat += np.random.default_rng(0).standard_normal(flat.shape) * np.repeat(
        [10, 40, 5], [30, 22, 28]
    )
    scan = scan_of(flat)
    model(listens).denoise(scan, options=RunOptions(say=said.append))
    expected = {3: 10 / 180, 2: 40 / 900, 1: 5 / 200}
    for region, sigma in expected.items():  # more or less where the neighbours have more or less
        assert min(heard[region]) < 1.05 * sigma
        assert max(heard[region]) > 0.95 * sigma
    assert said[:3] == [
        "region: abdomen, slices 0 to 29 (a; --region overrides)",
        "region: chest, slices 30 to 51 (b; --region overrides)",
        "region: headneck, slices 52 to 79 (c; --region overrides)",
    ]
    assert [line.split(" HU ")[1][:12] for line in said[3:]] == [
        "in the abdom",
        "in the chest",
        "in the headn",
    ]


def test_a_region_without_soft_tissue_takes_the_scans_noise(spanning):
    heard = {}

    def listens(x, sigma, told):
        heard[int(told.region[0])] = sigma
        return x

    hu = 40 + 20 * np.random.default_rng(0).standard_normal((60, 50, 80))
    hu[..., 30:52] = -850
    scan = scan_of(hu)
    model(listens).denoise(scan)
    assert heard[2] * 900 == pytest.approx(20, rel=0.03)


def test_the_share_done_grows_to_one_over_all_regions(spanning):
    shares = []
    half = model(lambda x, sigma, told: 0.5 * x)
    half.denoise(body(), "auto", 20.0, "diffpir", RunOptions(tile=32, progress=shares.append))
    assert shares == sorted(shares)
    assert shares[-1] == pytest.approx(1)
    assert len(set(shares)) >= 3 * 10  # parts, evaluations


def test_a_phantom_is_worked_on_as_abdomen_and_chest():
    said, scan = [], add_noise(chest((56, 48, 40), 6.0).ct, 30.0, seed=1)
    got = model(lambda x, sigma, told: 0.5 * x).denoise(scan, options=RunOptions(say=said.append))
    assert [line.split(",")[0] for line in said][:2] == ["region: abdomen", "region: chest"]
    for z, level, reach in ((0, 60, 180), (30, -500, 900)):
        inside = np.abs(scan.hu[..., z] - level) < reach
        half = level + 0.5 * (scan.hu[..., z] - level)
        np.testing.assert_allclose(got.hu[..., z][inside], half[inside], rtol=0, atol=2e-3)


# What is generated ----------------------------------------------------------------------------


def generated(**hu):
    """Two parts of 30 slices of 4 mm, abdomen and chest, of one value each; and the whole."""
    spans = (RegionSpan("abdomen", 0, 30, "a"), RegionSpan("chest", 30, 60, "b"))
    parts = blend_parts(spans, Z_MM)
    drawn = [
        np.full((2, 2, part.stop - part.start), hu[part.span.region], np.float32) for part in parts
    ]
    return handed_over(parts, drawn)[0, 0]


@pytest.mark.parametrize("hu", [-1000.0, -850.0, 400.0])
def test_what_the_narrow_window_cuts_off_is_taken_from_the_wide_one(hu):
    window = REGIONS["abdomen"].window
    got = generated(abdomen=np.clip(hu, window.low_hu, window.high_hu), chest=hu)
    away = 30 - REACH - CONTEXT
    np.testing.assert_allclose(got[away + 1 :], hu, rtol=1e-6)
    assert got[0] == np.clip(hu, window.low_hu, window.high_hu)


def test_within_both_windows_the_hand_over_is_the_weights_alone():
    got = generated(abdomen=100.0, chest=20.0)
    spans = (RegionSpan("abdomen", 0, 30, "a"), RegionSpan("chest", 30, 60, "b"))
    lower, upper = blend_parts(spans, Z_MM)
    expected = np.zeros(60)
    expected[lower.z] += 100 * lower.weight
    expected[upper.z] += 20 * upper.weight
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    assert np.abs(np.diff(got)).max() < 80 / (BLEND_MM / Z_MM) * np.pi / 2 + 1e-3


def test_a_cut_off_value_does_not_pull_a_neighbour_that_is_not_beyond_it():
    got = generated(abdomen=REGIONS["abdomen"].window.low_hu, chest=30.0)
    assert got[29] < 30 - 1
    assert got[0] == REGIONS["abdomen"].window.low_hu


def test_one_region_is_what_was_generated_bit_for_bit():
    (part,) = blend_parts((RegionSpan("chest", 0, 12, "a"),), Z_MM)
    hu = np.random.default_rng(0).normal(-500, 900, (3, 4, 12)).astype(np.float32)
    assert np.array_equal(handed_over([part], [hu]), hu)
