"""Detection on models whose healthy estimate is known."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy import ndimage

from denovox.app.api import Model, Running
from denovox.app.detection import THRESHOLD, calibrate, components, detect, scan_score
from denovox.app.healthy import contrast, evidence, surroundings
from denovox.core.errors import InputError
from denovox.core.labels import AIRWAY, BODY, BONE, LUNG, OUTSIDE
from denovox.core.noise import field
from denovox.core.volume import Volume
from denovox.data import anatomy
from denovox.data.calibration import Method
from denovox.data.regions_along import Slab
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig, describe
from denovox.tasks import anomaly

CONFIG = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0))
METHOD = Method(sigma_star=0.5, seeds=1, smooth_mm=3.0)
SPOT = (slice(24, 29), slice(24, 29), slice(10, 13))


def body(seed=0, spot_hu=0.0, mm=(3.0, 3.0, 5.0), shape=(48, 48, 24)):
    """A cylinder of water with noise, and perhaps a spot in it."""
    rng = np.random.default_rng(seed)
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.7, 60.0, -1000.0) + 10 * rng.standard_normal(shape)
    hu[SPOT] += spot_hu
    affine = np.diag([*mm, 1.0])
    affine[:3, 3] = (-70, -60, 100)
    return Volume(hu.astype(np.float32), affine)


@pytest.fixture
def model(tiny):
    """A denoiser -> a model; its weights are a file's, of which only the hash counts."""
    return lambda denoise: Model(denoise, CONFIG, tiny, "cpu")


def water(x, sigma, told):
    """Thinks that everything is water, 60 HU: 0 in the abdomen's window."""
    return torch.zeros_like(x)


@pytest.fixture
def found(model):
    """Detection in a body with a spot, calibrated on another body."""
    net = model(water)
    healthy = calibrate(net, body(1), METHOD, "abdomen")

    def run(spot_hu=90.0, roi=None, affine=None, **change):
        volume = body(0, spot_hu)
        volume = volume if affine is None else replace(volume, affine=affine)
        return detect(net, volume, healthy, "abdomen", roi, **change)

    return run


@pytest.mark.parametrize("steps", [1, 4])
def test_known_voxels_come_back_and_the_rest_is_the_samplers(gaussian, steps):
    y = gaussian.draw(1).clamp(-1, 1)
    noise = gaussian.noise(1)
    known = torch.zeros_like(y, dtype=torch.bool)
    known[:, :, 0] = True
    task = anomaly(y, 0.7, steps, known, noise)
    assert task.evaluations == steps
    got = task.run(gaussian.denoise, noise)
    assert torch.equal(got[known], y[known])
    free = anomaly(y, 0.7, steps, torch.zeros_like(known), noise)
    assert torch.equal(free.x, y + 0.7 * noise(0))
    if steps == 1:
        assert torch.equal(
            free.run(gaussian.denoise, noise), gaussian.denoise(free.x, 0.7).clamp(-1, 1)
        )


def test_from_sigma_star_to_the_end_by_the_ode(gaussian):
    y = gaussian.volume(gaussian.mean[None])
    noise = gaussian.noise(1)
    nothing = torch.zeros_like(y, dtype=torch.bool)
    task = anomaly(y, 0.5, 300, nothing, noise)
    assert task.sigmas[0] == 0.5
    assert (np.diff(task.sigmas) < 0).all()
    want = gaussian.ode(task.x, 0.5, 0.0)
    assert (task.run(gaussian.denoise, noise) - want).abs().max() < 0.02


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
    healthy = calibrate(net, body(1), METHOD, "abdomen")
    one, same, other = (
        detect(net, body(0, 90.0), healthy, "abdomen", running=Running(seed=seed)).z.hu
        for seed in (0, 0, 1)
    )
    assert np.array_equal(one, same)
    assert not np.array_equal(one, other)


def test_the_maps_are_smoothed_differences_in_hu_within_the_window(model):
    volume = body(0, 90.0)
    coarse = anatomy.coarse(volume)
    everywhere = np.ones(volume.shape, bool)
    got = evidence(model(water), volume, coarse, "abdomen", everywhere, METHOD, Running())
    inside = coarse != OUTSIDE
    cut = np.clip(volume.hu, -120, 240)
    residual = ndimage.gaussian_filter(inside * (cut - 60), (1, 1, 0.6), mode="nearest")
    np.testing.assert_allclose(got.maps_hu[..., 1], residual, atol=1e-3)
    np.testing.assert_allclose(got.estimate.hu, 60, atol=1e-3)
    # Normalised convolution, written out on the fine grid.
    steps = (METHOD.reach_mm / 3, METHOD.reach_mm / 3, METHOD.reach_mm / 5)
    total, weight = (
        ndimage.gaussian_filter(each, steps, mode="nearest")
        for each in (cut * inside, inside.astype(np.float32))
    )
    mean = total / np.maximum(weight, 1e-3)
    own = ndimage.gaussian_filter(inside * (cut - mean), (1, 1, 0.6), mode="nearest")
    np.testing.assert_allclose(got.maps_hu[..., 0], own, atol=1.5)  # the mean's is a coarse grid


def test_contrast_is_within_a_group_and_clipped():
    groups = np.ones((20, 20, 20), np.uint8)
    groups[10:] = 3
    groups[:, :, :4] = 0
    hu = np.where(np.arange(20)[:, None, None] < 10, -800.0, 50.0) * np.ones(groups.shape)
    hu[:, :, :4] = 5000
    hu[4, 10, 10] += 900
    hu[14, 10, 10] -= 60
    got = contrast(hu.astype(np.float32), groups, (2, 2, 2), METHOD)
    assert not got[groups == 0].any()
    assert got[4, 10, 10] == METHOD.clip_hu
    assert got[14, 10, 10] == pytest.approx(-60, abs=2)
    got[4, 10, 10] = got[14, 10, 10] = 0
    assert np.abs(got).max() < 2


def test_what_the_lung_encloses_is_judged_against_the_lung():
    coarse = np.full((40, 40, 20), BODY, np.uint8)
    coarse[:2] = OUTSIDE
    coarse[10:30, 10:30] = LUNG
    coarse[18:22, 18:22, 8:12] = BODY  # a nodule of 12 mm
    coarse[33:35] = BONE
    coarse[10:12, 10:12] = AIRWAY
    got = surroundings(coarse, (3.0, 3.0, 3.0))
    assert (got[10:30, 10:30] == 1).all()
    assert (got[:2] == 0).all()
    assert (got[33:35] == 2).all()
    assert (got[4:8, 4:8] == 3).all()
    fine = surroundings(coarse.repeat(3, 0).repeat(3, 1), (1.0, 1.0, 3.0))
    assert (fine.reshape(40, 3, 40, 3, 20)[:, 1, :, 1] == got).mean() > 0.97
    solid = np.full((8, 8, 8), LUNG, np.uint8)
    assert (surroundings(solid, (3.0, 3.0, 3.0)) == 1).all()


def test_nothing_outside_the_region_of_interest_or_the_body_is_judged(found):
    roi = np.zeros((48, 48, 24), bool)
    roi[:20, 16:20, 8:16] = True
    got = found(90.0, roi)
    inside = roi & (anatomy.coarse(body(0, 90.0)) != OUTSIDE)
    assert inside.sum() < roi.sum()
    assert (got.z.hu[inside] != 0).all()
    assert not got.z.hu[~inside].any()
    assert got.score < found(90.0).score


def test_the_model_sees_the_scan_as_it_is_outside_the_region_of_interest(model):
    """Pasted bit for bit: the estimate there is the scan."""
    roi = np.zeros((48, 48, 24), bool)
    roi[20:30, 20:30, 8:14] = True
    volume = body(0, 90.0)
    coarse = anatomy.coarse(volume)
    got = evidence(model(water), volume, coarse, "abdomen", roi, METHOD, Running())
    outside = ~roi[got.box.slices]
    assert outside.any()
    want = np.clip((volume.hu[got.box.slices] - 60) / 180, -1, 1)[outside] * np.float32(180) + 60
    np.testing.assert_array_equal(got.estimate.hu[outside], want)


def test_the_model_is_told_where_in_the_scan_the_region_lies(model):
    told = []

    def listens(x, sigma, condition):
        told.append(condition)
        return torch.zeros_like(x)

    roi = np.zeros((48, 48, 24), bool)
    roi[40:44, 20:24, 10:12] = True
    volume = body()
    coarse = anatomy.coarse(volume)
    for share in (True, False):
        method = METHOD.model_copy(update={"anatomy": share})
        evidence(model(listens), volume, coarse, "abdomen", roi, method, Running())
    assert float(told[0].position_x[0, 0]) == pytest.approx(2 * 34.5 / 48 - 1)
    assert set(np.unique(told[0].anatomy)) == {BODY, OUTSIDE}
    assert set(np.unique(told[1].anatomy)) == {0}
    assert told[0].region.tolist() == [3]


def test_seeds_are_averaged_in_opposite_pairs_and_noise_is_that_of_the_voxel(model):
    def echo(x, sigma, told):
        return x

    volume = body().with_hu(np.full((48, 48, 24), 60, np.float32))
    coarse = np.full(volume.shape, BODY, np.uint8)
    everywhere = np.ones(volume.shape, bool)
    change = {"seeds": 3, "sigma_star": 0.1, "smooth_mm": 0.01}
    method = METHOD.model_copy(update=change)
    got = evidence(model(echo), volume, coarse, "abdomen", everywhere, method, Running(seed=5))
    noises = [0.1 * field(seed, volume.shape)(0)[0, 0].numpy() for seed in (5, 6)]
    # 5, its opposite, and 6: the first two cancel
    np.testing.assert_allclose(got.maps_hu[..., 1], -180 * noises[1] / 3, atol=1e-3)


def test_a_fine_grid_is_worked_on_coarser(model):
    seen = []

    def listens(x, sigma, told):
        seen.append(tuple(x.shape[2:]))
        return torch.zeros_like(x)

    volume = body(mm=(0.35, 0.35, 5.0), shape=(80, 80, 12))
    coarse = np.full(volume.shape, BODY, np.uint8)
    everywhere = np.ones(volume.shape, bool)
    smooth = ndimage.gaussian_filter(volume.hu, (4, 4, 0), mode="nearest")
    volume = volume.with_hu(smooth)
    method = METHOD.model_copy(update={"smooth_mm": 2.0})
    got = evidence(model(listens), volume, coarse, "abdomen", everywhere, method, Running())
    assert seen[0][0] == 40
    assert got.maps_hu.shape == (*volume.shape, 2)
    want = ndimage.gaussian_filter(
        np.clip(smooth, -120, 240) - 60, (2 / 0.35, 2 / 0.35, 0.4), mode="nearest"
    )
    np.testing.assert_allclose(got.maps_hu[..., 1], want, atol=3.0)


WHOLE = (Slab("abdomen", 0, 24, "named"),)


def components_of(z, volume, slabs=WHOLE):
    hu = np.full(volume.shape, 40, np.float32)
    coarse = np.full(volume.shape, BODY, np.uint8)
    return components(volume.with_hu(z), 10 * z, 4.0, hu, coarse, slabs)


def test_components_are_counted_in_ml_signs_apart_and_small_ones_dropped():
    volume = body()
    z = np.zeros(volume.shape, np.float32)
    z[2:4, 2:4, 2:4], z[4:6, 2:4, 2:4], z[20, 20, 20], z[30, 30, 5] = 5, -9, 50, 3
    got = components_of(z, volume)
    assert [each.peak_z for each in got] == [-9, 5]
    assert got[0].volume_ml == pytest.approx(8 * 0.045)
    assert got[0].centre_mm == pytest.approx((-70 + 4.5 * 3, -60 + 2.5 * 3, 100 + 2.5 * 5))
    assert (got[1].contrast_hu, got[1].mean_hu) == pytest.approx((50, 40))


def test_a_component_is_of_the_region_of_its_centre():
    z = np.zeros((48, 48, 24), np.float32)
    z[2:4, 2:4, 8:11], z[2:4, 2:4, 13:16] = 8, 5
    slabs = (Slab("abdomen", 0, 11, ""), Slab("chest", 11, 24, ""))
    assert [each.region for each in components_of(z, body(), slabs)] == ["abdomen", "chest"]


def test_the_score_is_the_mean_of_the_top():
    z = np.arange(-100, 100, dtype=np.float32).reshape(10, 10, 2)
    assert scan_score(z, (1, 1, 1), 0.004) == pytest.approx((100 + 99 + 99 + 98) / 4)
    assert scan_score(z, (20, 20, 20)) == 100


def test_what_cannot_be_judged_is_told(model, tmp_path):
    net, volume = model(water), body()
    (healthy,) = calibrate(net, volume, METHOD, "abdomen")
    assert healthy.weights == describe(net.path)[2]
    with pytest.raises(InputError, match="calibrations are for abdomen"):
        detect(net, volume, [healthy], "chest")
    with pytest.raises(InputError, match="for no region"):
        detect(net, volume, [], "chest")
    with pytest.raises(InputError, match="two calibrations are for the abdomen"):
        detect(net, volume, [healthy, healthy], "abdomen")
    other = healthy.model_copy(update={"weights": "ab" * 32})
    with pytest.raises(InputError, match="made with the weights abababababab, not with tiny"):
        detect(net, volume, [other], "abdomen")
    # The same weights under another name are the same weights.
    renamed = tmp_path / "renamed.safetensors"
    renamed.write_bytes(net.path.read_bytes())
    detect(replace(net, path=renamed), volume, [healthy], "abdomen")
    with pytest.raises(InputError, match=r"mask's grid is \(2, 2, 2\)"):
        detect(net, volume, [healthy], "abdomen", np.ones((2, 2, 2), bool))
    with pytest.raises(InputError, match="is empty"):
        detect(net, volume, [healthy], "abdomen", np.zeros(volume.shape, bool))


def test_calibrating_leaves_out_what_is_not_healthy(model):
    net, volume = model(water), body(0, 90.0)
    keep = np.ones(volume.shape, bool)
    keep[20:33, 20:33, 8:16] = False
    with_it, without = (calibrate(net, volume, METHOD, "abdomen", mask)[0] for mask in (None, keep))
    spread = [each.moments()[1][8, :, 0, 0].max() for each in (with_it, without)]
    assert spread[1] < spread[0]
    inside = anatomy.coarse(volume) != OUTSIDE
    assert sum(with_it.millilitres) == pytest.approx(inside.sum() * 0.045)
    assert sum(without.millilitres) == pytest.approx((inside & keep).sum() * 0.045)
    with pytest.raises(InputError, match="no healthy voxel"):
        calibrate(net, volume, METHOD, "abdomen", anatomy.coarse(volume) == OUTSIDE)


@pytest.fixture
def two_regions(monkeypatch):
    """Abdomen below slice 12, chest from there on, whatever the image."""
    slabs = (Slab("abdomen", 0, 12, "told"), Slab("chest", 12, 24, "told"))
    monkeypatch.setattr("denovox.app.api.region_along", lambda volume, coarse: slabs)


def test_regions_hand_over_without_a_jump(model, two_regions, monkeypatch):
    net, volume = model(water), body(0)
    (abdomen,) = calibrate(net, volume, METHOD, "abdomen")
    as_chest = abdomen.model_copy(update={"region": "chest"})
    # 20 mm of hand-over are slices 10 to 13, centred on the border at 60 mm.
    share = 0.5 - 0.5 * np.sin(np.pi * (np.array([52.5, 57.5, 62.5, 67.5]) - 60) / 20)

    def scored(seen, coarse, calibration):
        flat = {"abdomen": 2, "chest": 6}[calibration.region]
        return np.full(coarse[seen.box.slices].shape, flat, np.float32)

    monkeypatch.setattr("denovox.app.detection.scored", scored)
    got = detect(net, volume, [abdomen, as_chest]).z.hu
    np.testing.assert_allclose(got[24, 24, 10:14], 2 * share + 6 * (1 - share), rtol=1e-5)
    assert set(np.unique(got[24, 24, :10])) == {2}
    assert set(np.unique(got[24, 24, 14:])) == {6}
    assert not got[anatomy.coarse(volume) == OUTSIDE].any()


def test_slices_of_a_region_without_calibration_are_left_out_and_told(model, two_regions):
    net, volume = model(water), body(0, 90.0)
    healthy = calibrate(net, body(1), METHOD, "abdomen")
    said = []
    got = detect(net, volume, healthy, running=Running(say=said.append))
    sentence = "slices 12 to 23 are left out: no calibration for the chest"
    assert got.left_out == (sentence,)
    assert sentence in said
    assert [slab.region for slab in got.judged] == ["abdomen"]
    assert not got.z.hu[..., 12:].any()
    inside = anatomy.coarse(volume)[..., :12] != OUTSIDE
    assert (got.z.hu[..., :12][inside] != 0).all()
    # The border's slices are not fainter for the hand-over that leads nowhere.
    whole = detect(net, volume, healthy, "abdomen").z.hu
    np.testing.assert_allclose(
        np.abs(got.z.hu[..., 11]).mean(), np.abs(whole[..., 11]).mean(), rtol=0.25
    )
