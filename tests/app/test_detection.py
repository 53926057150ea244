"""Detection on models whose healthy estimate is known."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import ndimage

from denovox.app.api import Model, Running
from denovox.app.detection import (
    THRESHOLD,
    calibrate,
    components,
    detect,
    residual,
    scan_score,
)
from denovox.core.errors import InputError
from denovox.core.labels import BODY, OUTSIDE
from denovox.core.noise import field
from denovox.core.volume import Volume
from denovox.data import anatomy
from denovox.data.calibration import Method
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
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


def model(denoise):
    return Model(denoise, CONFIG, Path("w.safetensors"), "cpu")


def water(x, sigma, told):
    """Thinks that everything is water, 60 HU: 0 in the abdomen's window."""
    return torch.zeros_like(x)


def found(spot_hu=90.0, roi=None, **change):
    net = model(water)
    healthy = [calibrate(net, body(seed), METHOD, "abdomen")[0] for seed in (1, 2)]
    return detect(net, body(0, spot_hu), healthy[:1], "abdomen", roi, **change)


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


def test_a_lesion_outside_what_the_model_takes_for_healthy_is_found_where_it_is():
    got = found(90.0)
    first = got.components[0]
    centre = np.array([26, 26, 11]) * (3, 3, 5) + (-70, -60, 100)
    assert first.centre_mm == pytest.approx(centre, abs=1.0)
    assert first.peak_z > THRESHOLD
    assert 30 < first.mean_hu < 95
    assert first.volume_ml == pytest.approx(75 * 0.045, rel=0.8)
    assert got.score > 2 * found(0.0).score
    dark = found(-90.0).components[0]
    assert dark.peak_z < -THRESHOLD
    assert dark.mean_hu < -30


def test_the_residual_is_the_smoothed_difference_in_hu_within_the_window():
    volume = body(0, 90.0)
    coarse = anatomy.coarse(volume)
    everywhere = np.ones(volume.shape, bool)
    got = residual(model(water), volume, coarse, "abdomen", everywhere, METHOD, Running())
    want = ndimage.gaussian_filter(np.clip(volume.hu, -120, 240) - 60, (1, 1, 0.6), mode="nearest")
    np.testing.assert_allclose(got.hu, want, atol=1e-3)
    np.testing.assert_allclose(got.estimate.hu, 60, atol=1e-4)


def test_nothing_outside_the_region_of_interest_is_judged():
    roi = np.zeros((48, 48, 24), bool)
    roi[16:20, 16:20, 8:16] = True
    got = found(90.0, roi)
    assert got.z.hu[roi].any()
    assert not got.z.hu[~roi].any()
    assert not got.residual_hu.hu[~roi].any()
    assert got.score < found(90.0).score


def test_the_model_is_told_where_in_the_scan_the_region_lies():
    told = []

    def listens(x, sigma, condition):
        told.append(condition)
        return torch.zeros_like(x)

    roi = np.zeros((48, 48, 24), bool)
    roi[40:44, 20:24, 10:12] = True
    volume = body()
    coarse = anatomy.coarse(volume)
    for share in (True, False):
        method = replace_method(anatomy=share)
        residual(model(listens), volume, coarse, "abdomen", roi, method, Running())
    assert float(told[0].position_x[0, 0]) == pytest.approx(2 * 34.5 / 48 - 1)
    assert set(np.unique(told[0].anatomy)) == {BODY, OUTSIDE}
    assert set(np.unique(told[1].anatomy)) == {0}
    assert told[0].region.tolist() == [3]


def replace_method(**change):
    return METHOD.model_copy(update=change)


def test_seeds_are_averaged_in_opposite_pairs_and_noise_is_that_of_the_voxel():
    def echo(x, sigma, told):
        return x

    volume = body().with_hu(np.full((48, 48, 24), 60, np.float32))
    coarse = np.full(volume.shape, BODY, np.uint8)
    everywhere = np.ones(volume.shape, bool)
    method = replace_method(seeds=3, sigma_star=0.1, smooth_mm=0.01)
    got = residual(model(echo), volume, coarse, "abdomen", everywhere, method, Running(seed=5))
    noises = [0.1 * field(seed, volume.shape)(0)[0, 0].numpy() for seed in (5, 6)]
    # 5, its opposite, and 6: the first two cancel
    np.testing.assert_allclose(got.hu, -180 * noises[1] / 3, atol=1e-3)


def test_a_fine_grid_is_worked_on_coarser():
    seen = []

    def listens(x, sigma, told):
        seen.append(tuple(x.shape[2:]))
        return torch.zeros_like(x)

    volume = body(mm=(0.35, 0.35, 5.0), shape=(80, 80, 12))
    coarse = np.full(volume.shape, BODY, np.uint8)
    everywhere = np.ones(volume.shape, bool)
    smooth = ndimage.gaussian_filter(volume.hu, (4, 4, 0), mode="nearest")
    volume = volume.with_hu(smooth)
    method = replace_method(smooth_mm=2.0)
    got = residual(model(listens), volume, coarse, "abdomen", everywhere, method, Running())
    assert seen[0][0] == 40
    assert got.hu.shape == volume.shape
    want = ndimage.gaussian_filter(
        np.clip(smooth, -120, 240) - 60, (2 / 0.35, 2 / 0.35, 0.4), mode="nearest"
    )
    np.testing.assert_allclose(got.hu, want, atol=3.0)


def test_components_are_counted_in_ml_signs_apart_and_small_ones_dropped():
    volume = body()
    z = np.zeros(volume.shape, np.float32)
    z[2:4, 2:4, 2:4], z[4:6, 2:4, 2:4], z[20, 20, 20], z[30, 30, 5] = 5, -9, 50, 3
    hu = 10 * z
    got = components(z, hu, volume, 4.0)
    assert [each.peak_z for each in got] == [-9, 5]
    assert got[0].volume_ml == pytest.approx(8 * 0.045)
    assert got[0].centre_mm == pytest.approx((-70 + 4.5 * 3, -60 + 2.5 * 3, 100 + 2.5 * 5))
    assert got[1].mean_hu == pytest.approx(50)
    assert len(components(z, hu, volume, 4.0, least_ml=0.0)) == 3


def test_the_score_is_the_mean_of_the_top():
    z = np.arange(-100, 100, dtype=np.float32).reshape(10, 10, 2)
    assert scan_score(z, (1, 1, 1), 0.004) == pytest.approx((100 + 99 + 99 + 98) / 4)
    assert scan_score(z, (20, 20, 20)) == 100


def test_what_cannot_be_judged_is_told():
    net, volume = model(water), body()
    (healthy,) = calibrate(net, volume, METHOD, "abdomen")
    with pytest.raises(InputError, match="calibrations are for abdomen"):
        detect(net, volume, [healthy], "chest")
    with pytest.raises(InputError, match="for no region"):
        detect(net, volume, [], "chest")
    other = replace(net, path=Path("other.safetensors"))
    with pytest.raises(InputError, match=r"made with the weights w\.safetensors"):
        detect(other, volume, [healthy], "abdomen")
    with pytest.raises(InputError, match=r"mask's grid is \(2, 2, 2\)"):
        detect(net, volume, [healthy], "abdomen", np.ones((2, 2, 2), bool))
    with pytest.raises(InputError, match="is empty"):
        detect(net, volume, [healthy], "abdomen", np.zeros(volume.shape, bool))


def test_calibrating_leaves_out_what_is_not_healthy_and_tells_slices_left_out():
    net, volume = model(water), body(0, 90.0)
    keep = np.ones(volume.shape, bool)
    keep[20:33, 20:33, 8:16] = False
    with_it, without = (calibrate(net, volume, METHOD, "abdomen", mask)[0] for mask in (None, keep))
    assert max(without.mean_sd()[1][8]) < max(with_it.mean_sd()[1][8])
    assert sum(with_it.millilitres) == pytest.approx(volume.hu.size * 0.045)
    said = []
    with pytest.raises(InputError):
        detect(net, volume, [without], "headneck", running=Running(say=said.append))
    assert said == ["slices 0 to 23 are left out: no calibration for the headneck"]
