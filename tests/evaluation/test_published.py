"""Each published convention on numbers made by hand, and SSIM window by window."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import ndimage, stats

from denovox.core.errors import InputError
from denovox.evaluation.published import (
    SliceScores,
    VolumeScore,
    bmad_liver,
    mayo16_corediff,
    mayo16_founddiff,
    mayo16_redcnn,
    rplhr,
    slice_ssim,
)
from denovox.evaluation.tables import detection_figures, slice_figures, volume_figures
from denovox.metrics.bootstrap import bootstrap
from denovox.metrics.detection import area, auroc, curve, lesion_weights, pro


def scan(seed: int = 0, shape: tuple[int, int, int] = (13, 12, 4)) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    clean = rng.uniform(-100, 200, shape).astype(np.float32)
    return [clean, (clean + rng.normal(0, 30, shape)).astype(np.float32)]


def direct(a: np.ndarray, b: np.ndarray, data_range: float, padding: str, cut: bool) -> float:
    """Wang et al. 2004, eq. 13, a window for every pixel, the slice padded by numpy."""
    offset = np.arange(-5, 6)
    weight = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    wide_a, wide_b = (np.pad(image, 5, mode=padding) for image in (a, b))
    values = []
    for i in range(a.shape[0]):
        for j in range(a.shape[1]):
            p, q = wide_a[i : i + 11, j : j + 11], wide_b[i : i + 11, j : j + 11]
            mp, mq = (weight * p).sum(), (weight * q).sum()
            vp, vq = (weight * (p - mp) ** 2).sum(), (weight * (q - mq) ** 2).sum()
            cov = (weight * (p - mp) * (q - mq)).sum()
            value = (2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2))
            values.append(np.clip(value, 0, 1) if cut else value)
    return float(np.mean(values))


def test_ssim_of_every_rim() -> None:
    a, b = (image[:, :, 0].astype(np.float64) for image in scan())
    b = 50 - b  # anticorrelated, so that some voxels' SSIM is negative and the cut shows
    zeros, reflect = (slice_ssim(a, b, 400, rim) for rim in ("zeros", "reflect"))
    assert zeros == pytest.approx(direct(a, b, 400, "constant", cut=False), abs=1e-9)
    assert reflect == pytest.approx(direct(a, b, 400, "reflect", cut=True), abs=1e-9)
    assert abs(zeros - direct(a, b, 400, "reflect", cut=False)) > 1e-3
    assert slice_ssim(a, a, 400, "zeros") == pytest.approx(1)


def test_redcnn_by_hand() -> None:
    reference = np.zeros((12, 12, 2), np.float32)
    test = reference.copy()
    test[..., 0], test[..., 1] = 10, -40
    found = mayo16_redcnn(reference, test)
    assert found.rmse_hu == pytest.approx([10, 40])
    assert found.psnr_db == pytest.approx([20 * math.log10(40), 20 * math.log10(10)])
    reference[..., 0], test[..., 0] = 240, 3000  # cut off alike
    assert mayo16_redcnn(reference, test).psnr_db[0] == math.inf
    a, b = scan(1)
    expected = [
        direct(
            *(np.clip(x[..., z], -160, 240).astype(float) for x in (a, b)), 400, "constant", False
        )
        for z in range(4)
    ]
    assert mayo16_redcnn(a, b).ssim == pytest.approx(expected, abs=1e-9)


def test_corediff_by_hand() -> None:
    reference = np.zeros((12, 12, 4), np.float32)
    reference[0, 0] = [
        -5000,
        250,
        1700,
        0,
    ]  # spans of the inner slices: 250, and 1000 after the cut
    test = reference + np.array([900, 25, 0, 900], np.float32)
    test[3, :, 2] = 24  # a twelfth of the slice
    found = mayo16_corediff(reference, test)
    assert len(found.psnr_db) == 2, "the first and the last slice of a scan are no targets"
    assert found.rmse_hu == pytest.approx([25, 24 / math.sqrt(12)])
    assert found.psnr_db == pytest.approx(
        [20 * math.log10(250 / 25), 20 * math.log10(1000 / (24 / math.sqrt(12)))]
    )
    a, b = scan(2)
    levels = [255 * (np.clip(x[..., 1].astype(float), -1000, 1000) + 1000) / 2000 for x in (a, b)]
    expected = direct(*levels, float(np.ptp(levels[0])), "constant", False)
    assert mayo16_corediff(a, b).ssim[0] == pytest.approx(expected, abs=1e-9)


def test_founddiff_by_hand() -> None:
    reference = np.zeros((12, 12, 2), np.float32)
    test = reference + np.array([30, -3000], np.float32)  # the latter is cut to -1000
    found = mayo16_founddiff(reference, test)
    assert found.rmse_hu == pytest.approx([30, 1000])
    assert found.psnr_db == pytest.approx([40, 20 * math.log10(3)])
    a, b = scan(3)
    a[0], b = 1900, 300 - b
    unit = [(x[..., 2].astype(float) + 1000) / 3000 for x in (a, b)]
    expected = direct(*unit, 1.0, "reflect", True)
    assert mayo16_founddiff(a, b).ssim[2] == pytest.approx(expected, abs=1e-9)


def test_the_three_differ() -> None:
    a, b = scan(4)
    means = [
        float(p(a, b).psnr_db.mean()) for p in (mayo16_redcnn, mayo16_corediff, mayo16_founddiff)
    ]
    assert means[2] - means[0] == pytest.approx(20 * math.log10(3000 / 400), abs=0.5)
    assert len({round(mean, 1) for mean in means}) == 3


def test_rplhr_by_hand() -> None:
    reference = np.full((12, 12, 13), 0.5, np.float32)
    test = reference.copy()
    test[..., :5], test[..., -5:] = 0, 1  # left out
    assert rplhr(reference, test).psnr_db == 40, "the authors' figure for equal volumes"
    test[..., 5] += 0.1
    found = rplhr(reference, test)
    assert found.psnr_db == pytest.approx(10 * math.log10(3 / 0.01), abs=1e-5)
    test[..., 5] = 0.5
    test[0, 0, 6] = 9  # cut to 1: an error of .5 in one of 432 voxels
    assert rplhr(reference, test).psnr_db == pytest.approx(10 * math.log10(432 / 0.25), abs=1e-5)
    rng = np.random.default_rng(0)
    a, b = rng.random((2, 12, 12, 12)).astype(np.float32)
    expected = [
        direct(a[..., z].astype(float), b[..., z].astype(float), 1, "constant", False)
        for z in (5, 6)
    ]
    assert rplhr(a, b).ssim == pytest.approx(np.mean(expected), abs=1e-9)
    with pytest.raises(InputError, match=r"from -1000 to 0\.5, so it is not the \[0, 1\]"):
        rplhr(np.where(np.arange(12) == 3, np.float32(-1000), a * 0 + np.float32(0.5)), b)
    with pytest.raises(InputError, match="11 slices or more"):
        rplhr(a[..., :10], b[..., :10])


def detection(seed: int = 0) -> tuple[list, list, list]:
    rng = np.random.default_rng(seed)
    masks = [np.zeros((9, 8), np.uint8) for _ in range(6)]
    for number in (0, 2, 5):
        masks[number][2:4, 1 + number % 3 : 5] = 255
    maps = [np.round(rng.normal(0, 1, m.shape) + (m > 0), 2) for m in masks]
    return maps, masks, ["a", "a", "b", "b", "c", "c"]


def test_bmad_liver_is_of_all_images_together() -> None:
    maps, masks, _ = detection()
    found = bmad_liver(maps, masks)
    sick = np.array([True, False, True, False, False, True])
    assert found.image_auroc == auroc(sick, np.array([m.max() for m in maps]))
    assert found.pixel_auroc == auroc(np.stack(masks).ravel() > 0, np.stack(maps).ravel())
    assert found.pro == pro([m > 0 for m in masks], maps, 0.3, 200)
    own = bmad_liver(maps, masks, [0, 1, 0, 1, 1, 0])
    assert (own.image_auroc, own.pixel_auroc) == (0, found.pixel_auroc)
    with pytest.raises(InputError, match="5 masks for 6"):
        bmad_liver(maps, masks[:5])


@pytest.mark.parametrize("seed", range(3))
def test_bmad_liver_as_counting_says(seed: int) -> None:
    """Mann and Whitney's U by scipy; PRO by a loop over BMAD's 200 thresholds, image by image."""
    rng = np.random.default_rng(seed)
    masks = [np.zeros((16, 14), np.uint8) for _ in range(5)]
    masks[0][1:3, 2:5] = masks[0][8:14, 4:12] = masks[3][5:9, 5:6] = 255
    masks[4][0, 0] = masks[4][1, 1] = 1  # one lesion, by its corner
    maps = [np.round(rng.gamma(2, 1, m.shape) + 1.5 * (m > 0), 2) for m in masks]

    def rank(sick: np.ndarray, score: np.ndarray) -> float:
        found = stats.mannwhitneyu(score[sick], score[~sick])
        return float(found.statistic / sick.sum() / (~sick).sum())

    sick = np.stack(masks) > 0
    low, high = min(m.min() for m in maps), max(m.max() for m in maps)
    points = []
    for step in range(200):
        threshold, shares, wrong = low + (high - low) * step / 200, [], 0
        for mask, found in zip(masks, maps, strict=True):
            parts, count = ndimage.label(mask, np.ones((3, 3)))
            shares += [np.mean(found[parts == n] > threshold) for n in range(1, count + 1)]
            wrong += np.sum(found[mask == 0] > threshold)
        points.append((wrong / (~sick).sum(), np.mean(shares)))
    fpr, overlap = np.array(sorted([*points, (0.0, 0.0), (1.0, 1.0)])).T
    fine = np.linspace(0, 0.3, 300001)
    expected = np.trapezoid(np.interp(fine, fpr, overlap), fine) / 0.3
    score = bmad_liver(maps, masks)
    assert score.pixel_auroc == pytest.approx(rank(sick.ravel(), np.stack(maps).ravel()), abs=1e-12)
    image = rank(sick.any((1, 2)), np.array([m.max() for m in maps]))
    assert score.image_auroc == pytest.approx(image, abs=1e-12)
    assert score.pro == pytest.approx(expected, abs=2e-6)


def test_figures_are_means_over_slices_or_scans() -> None:
    one = SliceScores(np.array([30.0, 32.0, 34.0]), np.ones(3), np.array([5.0, 6.0, 7.0]))
    two = SliceScores(np.array([40.0]), np.zeros(1), np.array([2.0]))
    psnr, ssim, rmse = slice_figures([one, two], ["a", "b"])
    assert (psnr.value, ssim.value, rmse.value) == (34, 0.75, 5)  # not the mean of the scans' means
    assert (psnr.interval.low, psnr.interval.high) == (32, 40)
    assert (psnr.patients, psnr.scans, psnr.unit, rmse.better) == (2, 2, "dB", "lower")
    psnr, ssim = volume_figures([VolumeScore(30.0, 0.9), VolumeScore(40.0, 0.7)], ["a", "a"], "x")
    assert (psnr.value, ssim.value, psnr.method) == (35, pytest.approx(0.8), "x")
    assert psnr.interval.low is None, "one patient has no interval"
    with pytest.raises(InputError, match="1 patients' names for 2 scans"):
        slice_figures([one, two], ["a"])


@pytest.mark.slow
def test_intervals_of_detection_are_those_of_sorting_every_draw() -> None:
    maps, masks, patients = detection(1)
    figures = {f.name: f for f in detection_figures(maps, masks, patients, seed=7)}
    lesions = [m > 0 for m in masks]

    def exact(drawn: np.ndarray) -> float:
        return auroc(
            np.concatenate([lesions[i].ravel() for i in drawn]),
            np.concatenate([maps[i].ravel() for i in drawn]),
        )

    weights = [lesion_weights(mask)[0].ravel() for mask in lesions]

    def overlap(drawn: np.ndarray) -> float:
        score = np.concatenate([maps[i].ravel() for i in drawn])
        normal = np.concatenate([~lesions[i].ravel() for i in drawn]).astype(np.float64)
        return area(curve(score, np.concatenate([weights[i] for i in drawn]), normal), 0.3)

    # Fewer scores than bins: no rounding at all.
    found = figures["pixel AUROC"]
    expected = bootstrap(patients, exact, seed=7)
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert found.value == bmad_liver(maps, masks).pixel_auroc
    expected = bootstrap(patients, overlap, seed=7)
    found = figures["PRO at FPR 0.3"]
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    assert figures["image AUROC"].interval.resamples == 2000


def test_draws_of_healthy_patients_alone_are_left_out() -> None:
    maps, masks, _ = detection(2)
    image, pixel, _ = detection_figures(maps[:4], masks[:4], ["sick", "well", "sick", "well"])
    assert 900 < image.interval.resamples < 1100  # both must be drawn for an image's AUROC
    assert 1400 < pixel.interval.resamples < 1600  # the sick one's has pixels of both kinds


def test_grids_and_values_are_checked() -> None:
    a, b = scan()
    for score in (mayo16_redcnn, mayo16_corediff, mayo16_founddiff):
        with pytest.raises(InputError, match="must lie on one grid"):
            score(a, b[:, :, :3])
        with pytest.raises(InputError, match="NaN"):
            score(a, np.where(np.arange(4) == 2, np.float32(np.nan), b))
    with pytest.raises(InputError, match="3 slices or more"):
        mayo16_corediff(a[..., :2], b[..., :2])
    with pytest.raises(InputError, match="slice 0 of the reference is constant"):
        mayo16_corediff(a * 0, b)
