"""Detection on models whose healthy estimate is known."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from scipy import ndimage
from water import CONFIG, METHOD, body, water

from denovox.core.errors import InputError
from denovox.core.labels import BODY, BONE, OUTSIDE
from denovox.core.volume import Volume
from denovox.inference.anomaly.components import (
    LIMITS,
    THRESHOLD,
    ComponentLimits,
    components,
    numbered,
    scan_score,
)
from denovox.inference.anomaly.detection import calibrate, detect
from denovox.inference.model import (
    Model,
)
from denovox.inference.options import RunOptions
from denovox.inference.scan_context import ScanContext
from denovox.model.weights import describe
from denovox.scan import anatomy
from denovox.scan.body_regions import RegionSpan


@pytest.fixture
def model(tiny):
    """A denoiser -> a model; its weights are a file's, of which only the hash counts."""
    return lambda denoise: Model(denoise, CONFIG, tiny, "cpu")


@pytest.fixture
def found(model):
    """Detection in a body with a spot, calibrated on another body."""
    net = model(water)
    healthy = calibrate(net, ScanContext(body(1), "abdomen"), METHOD)

    def run(spot_hu=90.0, roi=None, affine=None, **change):
        volume = body(0, spot_hu)
        volume = volume if affine is None else replace(volume, affine=affine)
        return detect(net, ScanContext(volume, "abdomen"), healthy, roi, **change)

    return run


def test_a_lesion_is_found_where_it_is(found):
    got = found(90.0)
    first = got.components[0]
    centre = np.array([26, 26, 11]) * (3, 3, 5) + (-70, -60, 100)
    assert first.centre_mm == pytest.approx(centre, abs=1.0)
    assert first.peak_z > THRESHOLD
    assert first.mean_hu == pytest.approx(60 + first.contrast_hu, abs=10)  # spot and rim
    assert 30 < first.contrast_hu < 95
    assert 1 < first.volume_ml / (75 * 0.045) < 2.5  # as smoothed
    assert (first.region, first.tissue) == ("abdomen", "body")
    assert got.score > 2 * found(0.0).score
    dark = found(-90.0).components[0]
    assert dark.peak_z < -THRESHOLD
    assert dark.contrast_hu < -30


@pytest.mark.parametrize("flip", [(-1, 1, 1), (1, -1, 1), (-1, -1, -1)])
def test_centres_are_mm_of_the_affine_whatever_its_signs(found, flip):
    affine = np.diag([3.0, 3.0, 5.0, 1.0]) @ np.diag([*flip, 1.0])
    affine[:3, 3] = (11, -7, 300)
    got = found(90.0, affine=affine).components[0]
    assert got.centre_mm == pytest.approx(affine[:3, :3] @ (26, 26, 11) + affine[:3, 3], abs=1.0)


def test_the_same_seed_gives_the_same_bits(model):
    def noisy(x, sigma, told):
        return 0.5 * x

    net = model(noisy)
    healthy = calibrate(net, ScanContext(body(1), "abdomen"), METHOD)
    one, same, other = (
        detect(
            net, ScanContext(body(0, 90.0), "abdomen"), healthy, options=RunOptions(seed=seed)
        ).z.hu
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_nothing_outside_the_region_of_interest_or_the_body_is_judged(found):
    roi = np.zeros((48, 48, 24), bool)
    roi[:20, 16:20, 8:16] = True
    got = found(90.0, roi)
    inside = roi & (anatomy.coarse(body(0, 90.0)) != OUTSIDE)
    assert inside.sum() < roi.sum()
    assert (got.z.hu[inside] != 0).all()
    assert not got.z.hu[~inside].any()
    assert got.score < found(90.0).score


WHOLE = (RegionSpan("abdomen", 0, 24, "named"),)
ANY_SHAPE = ComponentLimits(4.0, 0)


def components_of(z, volume, slabs=WHOLE, limits=ANY_SHAPE):
    hu = np.full(volume.shape, 40, np.float32)
    coarse = np.full(volume.shape, BODY, np.uint8)
    return components(volume.with_hu(z), 10 * z, limits, hu, coarse, slabs)


def test_components_are_counted_in_ml_signs_apart_and_small_ones_dropped():
    volume = body()
    z = np.zeros(volume.shape, np.float32)
    z[2:4, 2:4, 2:4], z[4:6, 2:4, 2:4], z[20, 20, 20], z[30, 30, 5] = 5, -9, 50, 3
    got = components_of(z, volume)
    assert [each.peak_z for each in got] == [-9, 5]
    assert got[0].volume_ml == pytest.approx(8 * 0.045)
    assert got[0].centre_mm == pytest.approx((-70 + 4.5 * 3, -60 + 2.5 * 3, 100 + 2.5 * 5))
    assert (got[1].contrast_hu, got[1].mean_hu) == pytest.approx((50, 40))


def test_voxels_are_numbered_in_the_order_of_the_components():
    volume = body()
    z = np.zeros(volume.shape, np.float32)
    z[2:4, 2:4, 2:4], z[4:6, 2:4, 2:4], z[20, 20, 20], z[30:32, 30:32, 5:7] = 5, -9, 50, 7
    z[30, 30, 5] = 4.5
    numbers = numbered(volume.with_hu(z), ANY_SHAPE)
    got = components_of(z, volume)
    assert [each.peak_z for each in got] == [-9, 7, 5]
    assert [each.mean_z for each in got] == pytest.approx(
        [z[numbers == number].mean() for number in (1, 2, 3)]
    )
    assert got[1].mean_z == pytest.approx((7 * 7 + 4.5) / 8)
    assert np.array_equal(numbers == 1, z == -9)
    assert np.array_equal(numbers == 2, (z == 7) | (z == 4.5))
    assert np.array_equal(numbers == 3, z == 5)


def odd(slices):
    """A map of which a third is above 4 or below -4, in winding pieces; dark and bright ones."""
    rng = np.random.default_rng(0)
    smooth = ndimage.gaussian_filter(rng.standard_normal((40, 44, slices), np.float32), 1.5)
    return Volume(smooth * np.float32(4 / smooth.std()), np.diag([2.0, 2.5, 3.0, 1.0]))


def test_components_across_slices_are_scipys():
    z = odd(30)
    coarse = np.where(np.arange(40)[:, None, None] < 25, BODY, BONE) * np.ones(z.shape, int)
    hu = z.hu**2
    got = components(z, 3 * z.hu, ANY_SHAPE, hu, coarse.astype(np.uint8), WHOLE)
    numbers = numbered(z, ANY_SHAPE)
    want = np.zeros(z.shape, int)
    for sign in (1, -1):
        parts, _ = ndimage.label(sign * z.hu > 4, np.ones((3, 3, 3)))
        want[parts > 0] = parts[parts > 0] + want.max()
    large = [n for n in range(1, want.max() + 1) if (want == n).sum() * 0.015 >= 0.05]
    large.sort(key=lambda n: -np.abs(z.hu[want == n]).max())
    assert len(got) == len(large) > 10
    assert any(np.ptp(np.nonzero(numbers == n)[2]) > 16 for n in range(1, len(large) + 1))
    for number, (n, each) in enumerate(zip(large, got, strict=True), 1):
        inside = want == n
        assert np.array_equal(numbers == number, inside)
        assert each.volume_ml == pytest.approx(inside.sum() * 0.015)
        assert each.centre_mm == pytest.approx(np.argwhere(inside).mean(0) * (2, 2.5, 3))
        assert abs(each.peak_z) == np.abs(z.hu[inside]).max()
        mm = np.argwhere(inside) * (2, 2.5, 3)
        spread = np.trace(np.cov(mm.T, bias=True)) + np.square((2, 2.5, 3)).sum() / 12
        same = 3 * (3 * 15 * inside.sum() / (4 * np.pi)) ** (2 / 3) / 5  # variance of the ball
        assert each.compactness == pytest.approx(np.sqrt(same / spread))
        assert each.compactness <= 1
        means = (each.mean_z, each.mean_hu, each.contrast_hu)
        assert means == pytest.approx([v[inside].mean() for v in (z.hu, hu, 3 * z.hu)], rel=1e-5)
        assert each.tissue == ("bone" if (coarse[inside] == BONE).mean() > 0.5 else "body")


@pytest.mark.parametrize("axes", [(8, 8, 8), (14, 7, 7), (18, 6, 6), (15, 15, 5)])
def test_compactness_is_the_mean_of_the_axes_over_their_root_mean_square(axes):
    spacing = (1.0, 1.25, 1.5)
    grid = np.meshgrid(*((np.arange(-20, 21)) * mm for mm in spacing), indexing="ij")
    inside = sum(np.square(each / axis) for each, axis in zip(grid, axes, strict=True)) <= 1
    volume = Volume(9 * inside.astype(np.float32), np.diag([*spacing, 1.0]))
    (one,) = components_of(volume.hu, volume)
    want = np.cbrt(np.prod(axes)) / np.sqrt(np.mean(np.square(axes)))
    assert one.compactness == pytest.approx(want, abs=0.01)


def test_long_and_flat_ones_are_left_out_and_the_others_numbered():
    volume = body()
    z = np.zeros(volume.shape, np.float32)
    z[2:6, 2:6, 2:5], z[10:40, 10:12, 5], z[20:40, 20:40, 9], z[2:6, 40:44, 2:5] = 5, 9, -8, -7
    got = components_of(z, volume, limits=ComponentLimits(4.0, 0.85))
    assert [each.peak_z for each in got] == [-7, 5]
    numbers = numbered(volume.with_hu(z), ComponentLimits(4.0, 0.85))
    assert np.array_equal(numbers, (z == -7) + 2 * (z == 5))
    assert [each.peak_z for each in components_of(z, volume)] == [9, -8, -7, 5]


def test_memory_for_components_is_that_of_a_few_slices():
    peaks = []
    for slices in (16, 64, 256):  # the first call also imports
        z = odd(slices)
        coarse = np.full(z.shape, BODY, np.uint8)
        tracemalloc.start()
        components(z, z.hu, LIMITS, z.hu, coarse, WHOLE)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[2] < 2 * peaks[1]  # a table of the labels alone grows


def test_a_component_is_of_the_region_of_its_centre():
    z = np.zeros((48, 48, 24), np.float32)
    z[2:4, 2:4, 8:11], z[2:4, 2:4, 13:16] = 8, 5
    slabs = (RegionSpan("abdomen", 0, 11, ""), RegionSpan("chest", 11, 24, ""))
    assert [each.region for each in components_of(z, body(), slabs)] == ["abdomen", "chest"]


def test_the_score_is_the_highest_mean_of_a_component():
    volume = body()
    z = np.zeros(volume.shape, np.float32)
    z[2:4, 2:4, 2:4], z[20:22, 20:22, 5:7] = 5, -7
    z[2, 2, 2] = 12
    assert scan_score(components_of(z, volume)) == 7
    assert scan_score(()) == 0


def test_what_cannot_be_judged_is_told(model, tmp_path):
    net, volume = model(water), body()
    (healthy,) = calibrate(net, ScanContext(volume, "abdomen"), METHOD)
    assert healthy.weights == describe(net.path)[2]
    with pytest.raises(InputError, match="calibrations are for abdomen"):
        detect(net, ScanContext(volume, "chest"), [healthy])
    with pytest.raises(InputError, match="for no region"):
        detect(net, ScanContext(volume, "chest"), [])
    with pytest.raises(InputError, match="two calibrations are for the abdomen"):
        detect(net, ScanContext(volume, "abdomen"), [healthy, healthy])
    other = healthy.model_copy(update={"weights": "ab" * 32})
    with pytest.raises(InputError, match="made with the weights abababababab, not with tiny"):
        detect(net, ScanContext(volume, "abdomen"), [other])
    # The same weights under another name are the same weights.
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(net.path.read_bytes())
    detect(replace(net, path=renamed), ScanContext(volume, "abdomen"), [healthy])
    with pytest.raises(InputError, match=r"mask's grid is \(2, 2, 2\)"):
        detect(net, ScanContext(volume, "abdomen"), [healthy], np.ones((2, 2, 2), bool))
    with pytest.raises(InputError, match="is empty"):
        detect(net, ScanContext(volume, "abdomen"), [healthy], np.zeros(volume.shape, bool))


def test_calibrating_leaves_out_what_is_not_healthy(model):
    net, volume = model(water), body(0, 90.0)
    keep = np.ones(volume.shape, bool)
    keep[20:33, 20:33, 8:16] = False
    with_it, without = (
        calibrate(net, ScanContext(volume, "abdomen"), METHOD, mask)[0] for mask in (None, keep)
    )
    spread = [each.moments()[1][8, :, 0, 0].max() for each in (with_it, without)]
    assert spread[1] < spread[0]
    inside = anatomy.coarse(volume) != OUTSIDE
    assert sum(with_it.millilitres) == pytest.approx(inside.sum() * 0.045)
    assert sum(without.millilitres) == pytest.approx((inside & keep).sum() * 0.045)
    with pytest.raises(InputError, match="no healthy voxel"):
        calibrate(net, ScanContext(volume, "abdomen"), METHOD, anatomy.coarse(volume) == OUTSIDE)


@pytest.fixture
def two_regions(monkeypatch):
    """Abdomen below slice 12, chest from there on, whatever the image."""
    slabs = (RegionSpan("abdomen", 0, 12, "told"), RegionSpan("chest", 12, 24, "told"))
    monkeypatch.setattr("denovox.inference.scan_context.region_spans", lambda volume, coarse: slabs)


def test_regions_hand_over_without_a_jump(model, two_regions, monkeypatch):
    net, volume = model(water), body(0)
    (abdomen,) = calibrate(net, ScanContext(volume, "abdomen"), METHOD)
    as_chest = abdomen.model_copy(update={"region": "chest"})
    # 20 mm of hand-over are slices 10 to 13, centred on the border at 60 mm.
    share = 0.5 - 0.5 * np.sin(np.pi * (np.array([52.5, 57.5, 62.5, 67.5]) - 60) / 20)

    def z_scores(maps, calibration):
        flat = {"abdomen": 2, "chest": 6}[calibration.region]
        return np.full(maps.box.size, flat, np.float32)

    monkeypatch.setattr("denovox.inference.anomaly.detection.z_scores", z_scores)
    got = detect(net, ScanContext(volume), [abdomen, as_chest]).z.hu
    np.testing.assert_allclose(got[24, 24, 10:14], 2 * share + 6 * (1 - share), rtol=1e-5)
    assert set(np.unique(got[24, 24, :10])) == {2}
    assert set(np.unique(got[24, 24, 14:])) == {6}
    assert not got[anatomy.coarse(volume) == OUTSIDE].any()


def test_slices_of_a_region_without_calibration_are_left_out_and_told(model, two_regions):
    net, volume = model(water), body(0, 90.0)
    healthy = calibrate(net, ScanContext(body(1), "abdomen"), METHOD)
    said = []
    got = detect(
        net, ScanContext(volume, say=said.append), healthy, options=RunOptions(say=said.append)
    )
    sentence = "slices 12 to 23 are left out: no calibration for the chest"
    assert got.left_out == (sentence,)
    assert sentence in said
    assert [slab.region for slab in got.covered] == ["abdomen"]
    assert not got.z.hu[..., 12:].any()
    inside = anatomy.coarse(volume)[..., :12] != OUTSIDE
    assert (got.z.hu[..., :12][inside] != 0).all()
    # The border's slices are not fainter for the hand-over that leads nowhere.
    whole = detect(net, ScanContext(volume, "abdomen"), healthy).z.hu
    np.testing.assert_allclose(
        np.abs(got.z.hu[..., 11]).mean(), np.abs(whole[..., 11]).mean(), rtol=0.25
    )
