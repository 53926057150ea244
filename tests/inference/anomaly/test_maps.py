"""What a scan shows against its surroundings and a healthy estimate, on known estimates."""

import numpy as np
import pytest
import torch
from scipy import ndimage
from water import CONFIG, METHOD, body, water

from denovox.core.box import Box
from denovox.core.labels import AIRWAY, BODY, BONE, LUNG, OUTSIDE
from denovox.core.random_field import field
from denovox.core.volume import Volume
from denovox.inference.anomaly.contrast import LocalMeans, Surroundings
from denovox.inference.anomaly.estimate import Wanted
from denovox.inference.anomaly.maps import PartMaps, anomaly_maps
from denovox.inference.memory import Room
from denovox.inference.model import (
    Model,
)
from denovox.inference.options import RunOptions
from denovox.scan import anatomy
from denovox.tasks import anomaly


def surroundings(coarse, spacing_mm):
    """The groups of a whole volume."""
    return Surroundings.of(coarse, spacing_mm).at(tuple(slice(0, n) for n in coarse.shape))


@pytest.fixture
def model(tiny):
    """A denoiser -> a model; its weights are a file's, of which only the hash counts."""
    return lambda denoise: Model(denoise, CONFIG, tiny, "cpu")


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


def test_the_maps_are_smoothed_differences_in_hu_within_the_window(model):
    volume = body(0, 90.0)
    coarse = anatomy.coarse(volume)
    everywhere = np.ones(volume.shape, bool)
    got = anomaly_maps(model(water), volume, coarse, "abdomen", everywhere, METHOD, RunOptions())
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
    hu = hu.astype(np.float32)
    parts = (lambda z: hu[..., z]), (lambda z: groups[..., z])
    means = LocalMeans.of(*parts, groups.shape, (2, 2, 2), METHOD.reach_mm)
    got = means.contrast(hu, groups, slice(0, 20), METHOD.clip_hu)
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


def test_the_model_sees_the_scan_as_it_is_outside_the_region_of_interest(model):
    """Pasted bit for bit: the estimate there is the scan."""
    roi = np.zeros((48, 48, 24), bool)
    roi[20:30, 20:30, 8:14] = True
    volume = body(0, 90.0)
    coarse = anatomy.coarse(volume)
    got = anomaly_maps(model(water), volume, coarse, "abdomen", roi, METHOD, RunOptions())
    outside = ~roi[got.box.slices]
    assert outside.any()
    want = np.clip((volume.hu[got.box.slices] - 60) / 180, -1, 1)[outside] * np.float32(180) + 60
    np.testing.assert_array_equal(got.estimate.hu[outside], want)


def test_only_voxels_of_the_region_of_interest_are_smoothed_into_its_maps(model):
    roi = np.zeros((48, 48, 24), bool)
    roi[20:30, 20:30, 8:14] = True
    maps = []
    for outside_hu in (0.0, 150.0):
        volume = body(0, 90.0)
        volume = volume.with_hu(np.where(roi, volume.hu, volume.hu + np.float32(outside_hu)))
        coarse = np.full(volume.shape, BODY, np.uint8)
        got = anomaly_maps(model(water), volume, coarse, "abdomen", roi, METHOD, RunOptions())
        maps.append(got.maps_hu)
    np.testing.assert_array_equal(maps[0], maps[1])


def test_a_nodule_in_the_lung_is_classed_as_lung_whatever_the_region_of_interest(model):
    coarse = np.full((40, 40, 20), BODY, np.uint8)
    coarse[5:35, 5:35] = LUNG
    coarse[18:22, 18:22, 8:12] = BODY
    volume = Volume(np.where(coarse == LUNG, -850, 40).astype(np.float32), np.diag([3, 3, 3, 1.0]))
    roi = coarse == LUNG
    for within in (roi, np.ones_like(roi)):
        got = anomaly_maps(
            model(lambda x, sigma, told: x), volume, coarse, "chest", within, METHOD, RunOptions()
        )
        first = np.array([18, 18, 8]) - got.box.start
        nodule = tuple(slice(a, a + 4) for a in first)
        assert (got.classes[nodule] == 4).all()  # lung, away from its rim


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
        anomaly_maps(model(listens), volume, coarse, "abdomen", roi, method, RunOptions())
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
    got = anomaly_maps(
        model(echo), volume, coarse, "abdomen", everywhere, method, RunOptions(seed=5)
    )
    noises = [0.1 * field(seed, volume.shape)(0)[0, 0].numpy() for seed in (5, 6)]
    # 5, its opposite, and 6: the first two cancel
    np.testing.assert_allclose(got.maps_hu[..., 1], -180 * noises[1] / 3, atol=1e-3)


def test_the_noise_of_a_part_is_that_of_the_scans_own_voxels(model):
    """Whatever slices are a region, and wherever its box begins."""

    def echo(x, sigma, condition):
        return x

    volume = body().with_hu(np.full((48, 48, 24), 60, np.float32))
    coarse = np.full(volume.shape, BODY, np.uint8)
    z = slice(9, 21)
    roi = np.zeros(volume.shape, bool)
    roi[20:30, 22:28, 12:16] = True
    method = METHOD.model_copy(update={"seeds": 1, "sigma_star": 0.1, "smooth_mm": 0.01})
    got = anomaly_maps(model(echo), volume, coarse, "abdomen", roi, method, RunOptions(seed=5), z)
    noise = 0.1 * field(5, volume.shape)(0)[0, 0].numpy()[..., z]
    inside = roi[..., z][got.box.slices]
    want = -180 * noise[got.box.slices][inside]
    np.testing.assert_allclose(got.maps_hu[..., 1][inside], want, atol=1e-3)


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
    got = anomaly_maps(model(listens), volume, coarse, "abdomen", everywhere, method, RunOptions())
    assert seen[0][0] == 40
    assert got.maps_hu.shape == (*volume.shape, 2)
    want = ndimage.gaussian_filter(
        np.clip(smooth, -120, 240) - 60, (2 / 0.35, 2 / 0.35, 0.4), mode="nearest"
    )
    np.testing.assert_allclose(got.maps_hu[..., 1], want, atol=3.0)


@pytest.mark.parametrize("step", [1, 5])
def test_a_few_slices_are_those_of_all(model, step):
    """Whatever a slice depends on is computed with it. Up to rounding: a BLAS may sum matrices of
    another size in another order."""
    volume = body(0, 90.0, mm=(3.0, 3.0, 2.0))
    coarse = anatomy.coarse(volume)
    roi = np.zeros(volume.shape, bool)
    roi[6:40, 8:44, 2:22] = True
    wanted = Wanted(volume, coarse, "abdomen", roi, slice(0, 24), METHOD)
    maps = PartMaps.of(model(lambda x, sigma, c: 0.5 * x), wanted, RunOptions(), Room(1e6, print))
    whole = maps.at(slice(0, maps.box.size[2]))
    for first in range(0, maps.box.size[2] - step, step):
        got, z = maps.at(slice(first, first + step)), slice(first, first + step)
        np.testing.assert_allclose(got.maps_hu, whole.maps_hu[:, :, z], rtol=0, atol=1e-3)
        np.testing.assert_array_equal(got.classes, whole.classes[..., z])
        np.testing.assert_array_equal(got.estimate.hu, whole.estimate.hu[..., z])
        assert got.box == Box((*whole.box.start[:2], whole.box.start[2] + first),
                              (*whole.box.size[:2], step))  # fmt: skip
