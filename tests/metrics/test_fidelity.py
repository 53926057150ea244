"""Fidelity against numbers worked by hand, closed forms, and an SSIM written a second time."""

from __future__ import annotations

import math

import numpy as np
import pytest
from skimage.metrics import structural_similarity

from denovox.core.errors import InputError
from denovox.core.regions import REGIONS
from denovox.core.volume import Volume
from denovox.metrics.fidelity import (
    CONVENTIONS,
    Convention,
    fidelity,
    mae_hu,
    named,
    psnr,
    rmse_hu,
    ssim,
)

OPEN = Convention("open", None, None, 100)
MAYO = CONVENTIONS["mayo16-redcnn"]


def pair(seed: int = 0, shape: tuple[int, int, int] = (16, 14, 3)) -> list[np.ndarray]:
    rng = np.random.default_rng(seed)
    clean = rng.uniform(-100, 200, shape)
    return [clean, clean + rng.normal(0, 30, shape)]


def direct_ssim(a: np.ndarray, b: np.ndarray, data_range: float) -> float:
    """Wang et al. 2004, eq. 13, window by window: an 11 x 11 Gaussian, valid positions only."""
    offset = np.arange(-5, 6)
    weight = np.exp(-(offset[:, None] ** 2 + offset[None] ** 2) / (2 * 1.5**2))
    weight /= weight.sum()
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    values = []
    for i in range(a.shape[0] - 10):
        for j in range(a.shape[1] - 10):
            p, q = a[i : i + 11, j : j + 11], b[i : i + 11, j : j + 11]
            mp, mq = (weight * p).sum(), (weight * q).sum()
            vp, vq = (weight * (p - mp) ** 2).sum(), (weight * (q - mq) ** 2).sum()
            cov = (weight * (p - mp) * (q - mq)).sum()
            top = (2 * mp * mq + c1) * (2 * cov + c2)
            values.append(top / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


# Errors and PSNR ------------------------------------------------------------------------------


def test_numbers_worked_by_hand() -> None:
    reference = np.array([[[0, 0], [0, 0]]], np.int16)
    test = np.array([[[3, -1], [1, 5]]], np.int16)  # |e| 3 1 1 5; e^2 9 1 1 25
    assert mae_hu(reference, test, OPEN) == 2.5
    assert rmse_hu(reference, test, OPEN) == 3.0
    assert psnr(reference, test, OPEN) == pytest.approx(30.457575, abs=1e-6)  # 20 log10(100/3)


@pytest.mark.parametrize("offset", [-7.0, 0.5, 20.0])
def test_a_constant_offset_has_closed_forms(offset: float) -> None:
    clean = pair()[0]
    got = fidelity(clean, clean + offset, OPEN)
    assert got.rmse_hu == pytest.approx(abs(offset))
    assert got.mae_hu == pytest.approx(abs(offset))
    assert got.psnr_db == pytest.approx(20 * math.log10(100 / abs(offset)))


def test_identical_volumes() -> None:
    clean = pair()[0]
    got = fidelity(clean, clean.copy(), MAYO)
    assert (got.psnr_db, got.mae_hu, got.rmse_hu) == (math.inf, 0, 0)
    assert got.ssim == pytest.approx(1, abs=1e-12)


def test_int16_extremes_do_not_wrap_around() -> None:
    reference, test = np.full((1, 1, 2), -20000, np.int16), np.full((1, 1, 2), 20000, np.int16)
    assert mae_hu(reference, test, OPEN) == 40000


def test_order_of_the_volumes_and_of_the_axes_do_not_matter() -> None:
    clean, noisy = pair()
    forth, back = fidelity(clean, noisy, MAYO), fidelity(noisy, clean, MAYO)
    turned = fidelity(*(hu[::-1, :, ::-1].swapaxes(0, 1) for hu in (clean, noisy)), MAYO)
    for other in (back, turned):
        for figure in ("psnr_db", "ssim", "mae_hu", "rmse_hu"):
            assert getattr(forth, figure) == pytest.approx(getattr(other, figure)), figure


def test_ssim_is_scikit_images_bit_for_bit() -> None:
    rng = np.random.default_rng(3)
    clean = rng.normal(0, 50, (32, 27, 1))
    noisy = clean + rng.normal(0, 30, clean.shape)
    cut = OPEN.cut(clean[..., 0]), OPEN.cut(noisy[..., 0])
    how = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "full": True}
    _, local = structural_similarity(*cut, data_range=OPEN.data_range_hu, **how)
    assert ssim(clean, noisy, OPEN) == local[5:-5, 5:-5].mean()


def test_scaling_values_and_range_together_changes_neither_psnr_nor_ssim() -> None:
    clean, noisy = pair()
    wide = Convention("wide", None, None, 400)
    assert psnr(4 * clean, 4 * noisy, wide) == pytest.approx(psnr(clean, noisy, OPEN))
    assert ssim(4 * clean, 4 * noisy, wide) == pytest.approx(ssim(clean, noisy, OPEN))


# Conventions ----------------------------------------------------------------------------------


def test_both_volumes_are_cut() -> None:
    reference = np.array([[[-1000.0, 0.0, 3000.0]]])
    test = np.array([[[-500.0, 6.0, 200.0]]])  # cut to -160 0 240 and -160 6 200
    assert mae_hu(reference, test, MAYO) == pytest.approx(46 / 3)
    assert rmse_hu(reference, test, MAYO) == pytest.approx(math.sqrt((36 + 1600) / 3))


def test_what_lies_beyond_the_limits_does_not_count_in_ssim() -> None:
    clean, noisy = pair()
    clean[4:8], noisy[4:8] = 240, 240
    far, farther = clean.copy(), noisy.copy()
    far[4:8], farther[4:8] = 900, 2500
    assert ssim(far, farther, MAYO) == ssim(clean, noisy, MAYO)


def test_the_table_has_the_windows_and_mayo() -> None:
    assert set(CONVENTIONS) == {f"window:{name}" for name in REGIONS} | {"mayo16-redcnn"}
    for name, row in CONVENTIONS.items():
        assert row.name == name
    chest = CONVENTIONS["window:chest"]
    assert (chest.low_hu, chest.high_hu, chest.data_range_hu) == (-1400, 400, 1800)
    assert (MAYO.low_hu, MAYO.high_hu, MAYO.data_range_hu) == (-160, 240, 400)


def test_a_result_carries_the_name_of_its_convention() -> None:
    assert fidelity(*pair(), MAYO).convention == "mayo16-redcnn"


def test_lookup_by_name() -> None:
    assert named("window:abdomen") is CONVENTIONS["window:abdomen"]
    with pytest.raises(InputError, match="window:headneck"):
        named("mayo")


@pytest.mark.parametrize("limits", [(0, 0, 1), (5, 0, 1), (0, 1, 0), (0, 1, -1), (0, 1, math.nan)])
def test_a_convention_that_makes_no_sense_is_refused(limits: tuple[float, float, float]) -> None:
    with pytest.raises(ValueError, match=r"low_hu|data_range_hu"):
        Convention("bad", *limits)


# SSIM -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", [0, 1])
def test_ssim_is_that_of_a_direct_loop_averaged_over_axial_slices(seed: int) -> None:
    clean, noisy = pair(seed)
    expected = [direct_ssim(clean[..., z], noisy[..., z], 100) for z in range(3)]
    assert ssim(clean, noisy, OPEN) == pytest.approx(np.mean(expected), abs=1e-10)
    assert 0.05 < np.mean(expected) < 0.95  # a figure that could have come out otherwise


def test_ssim_of_two_flat_volumes_is_its_luminance_term() -> None:
    flat = np.full((12, 12, 2), 10.0)
    c1 = (0.01 * 100) ** 2
    assert ssim(flat, flat + 10, OPEN) == pytest.approx((2 * 10 * 20 + c1) / (100 + 400 + c1))


def test_slices_too_small_for_the_window_are_refused() -> None:
    small = np.zeros((11, 10, 30))
    with pytest.raises(ValueError, match="11 x 11"):
        ssim(small, small, OPEN)


# Volumes, masks, refusals ---------------------------------------------------------------------


def test_a_volume_counts_as_its_array() -> None:
    clean, noisy = pair()
    volumes = [Volume(hu, np.eye(4)) for hu in (clean, noisy)]
    assert fidelity(*volumes, MAYO) == fidelity(clean, noisy, MAYO)


def test_a_mask_leaves_everything_else_out() -> None:
    clean, noisy = pair()
    mask = np.zeros(clean.shape, bool)
    mask[7, 6, 1] = mask[8, 8, 1] = True
    got = fidelity(clean, noisy, OPEN, mask=mask)
    error = (noisy - clean)[mask]
    assert got.mae_hu == pytest.approx(np.abs(error).mean())
    assert got.rmse_hu == pytest.approx(np.sqrt((error**2).mean()))
    windows = [np.s_[2:13, 1:12, 1], np.s_[3:14, 3:14, 1]]  # 11 x 11 around (7, 6) and (8, 8)
    expected = np.mean([direct_ssim(clean[w], noisy[w], 100) for w in windows])
    assert got.ssim == pytest.approx(expected, abs=1e-10)


def test_a_full_mask_is_no_mask() -> None:
    clean, noisy = pair()
    full = fidelity(clean, noisy, OPEN, mask=np.ones(clean.shape, bool))
    free = fidelity(clean, noisy, OPEN)
    for figure in ("psnr_db", "ssim", "mae_hu", "rmse_hu"):
        assert getattr(full, figure) == pytest.approx(getattr(free, figure)), figure


def test_a_slice_weighs_the_same_however_many_of_its_voxels_are_masked() -> None:
    clean, noisy = pair()
    noisy[..., 0] = clean[..., 0]  # SSIM 1 there
    mask = np.zeros(clean.shape, bool)
    mask[:, :, 0] = mask[7, 6, 1] = True
    other = direct_ssim(clean[2:13, 1:12, 1], noisy[2:13, 1:12, 1], 100)
    assert ssim(clean, noisy, OPEN, mask=mask) == pytest.approx((1 + other) / 2)


def test_a_mask_of_nothing_is_refused() -> None:
    clean, noisy = pair()
    with pytest.raises(ValueError, match="no voxel"):
        fidelity(clean, noisy, OPEN, mask=np.zeros(clean.shape, bool))
    rim = np.zeros(clean.shape, bool)
    rim[0] = True
    with pytest.raises(ValueError, match="rim"):
        ssim(clean, noisy, OPEN, mask=rim)
    with pytest.raises(ValueError, match="mask's shape"):
        psnr(clean, noisy, OPEN, mask=np.ones((2, 2, 2), bool))


@pytest.mark.parametrize("figure", [psnr, ssim, mae_hu, rmse_hu, fidelity])
def test_differing_shapes_are_refused_even_where_they_would_broadcast(figure) -> None:  # type: ignore[no-untyped-def]
    clean = pair()[0]
    with pytest.raises(ValueError, match="differ in shape"):
        figure(clean, clean[:, :, :1], OPEN)


def test_empty_volumes_are_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        psnr(np.zeros((0, 4, 4)), np.zeros((0, 4, 4)), OPEN)
