"""Low dose and thick slices against physics, closed forms and SimpleITK."""

from __future__ import annotations

import itertools
import re

import numpy as np
import pytest
import SimpleITK as sitk
from pydantic import ValidationError

from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.io import nifti
from denovox.simulate.dose import (
    REFERENCE_VIEWS,
    WATER_PER_MM,
    LowDoseConfig,
    photons_of,
    simulate_low_dose,
    thinned,
)
from denovox.simulate.projection import CUTOFF, back_project, line_integrals, response
from denovox.simulate.slabs import simulate_thick_slices

KERNELS = ["soft", "sharp"]


def along(n: int, pixel_mm: float = 1) -> np.ndarray:
    """mm from the centre of the slice."""
    return (np.arange(n) - (n - 1) / 2) * pixel_mm


def distance(n: int, pixel_mm: float = 1) -> np.ndarray:
    return np.hypot(along(n, pixel_mm)[:, None], along(n, pixel_mm))


def scan(plane: np.ndarray, slices: int, pixel_mm: float = 1, slice_mm: float = 1) -> Volume:
    hu = np.repeat(plane.astype(np.float32)[:, :, None], slices, 2)
    return Volume(hu, np.diag([pixel_mm, pixel_mm, slice_mm, 1.0]))


def water(n: int, pixel_mm: float, diameter_mm: float, slices: int) -> Volume:
    """A cylinder of water in air, its edge as sharp as the grid allows."""
    plane = np.where(distance(n, pixel_mm) < diameter_mm / 2, 0, -1000)
    return scan(plane, slices, pixel_mm)


def air(n: int, slices: int, pixel_mm: float = 1, slice_mm: float = 1) -> Volume:
    return scan(np.full((n, n), -1000), slices, pixel_mm, slice_mm)


def added(volume: Volume, config: LowDoseConfig) -> np.ndarray:
    return simulate_low_dose(volume, config).hu.astype(float) - volume.hu


def ray_variance(config: LowDoseConfig, area_mm2: float, integral: float = 0) -> float:
    """Of a line integral: (1-f)/(f N) + e^2 (1-f^2)/(f N)^2, Yu et al. 2012."""
    f, size = config.dose, area_mm2 * REFERENCE_VIEWS / config.views
    n = config.photons * size * np.exp(-integral)
    return (1 - f) / (f * n) + config.electronic**2 * size * (1 - f**2) / (f * n) ** 2


def pixel_sd_hu(config: LowDoseConfig, pixel_mm: float, slice_mm: float, integral: float) -> float:
    """Where all rays have that integral: pi^2/views times the energy of the filter (Parseval)."""
    length = 4096
    gain = response(length, pixel_mm, config.kernel)
    energy = (2 * (gain**2).sum() - gain[0] ** 2 - gain[-1] ** 2) / length
    variance = ray_variance(config, pixel_mm * slice_mm, integral) * energy
    return np.pi / np.sqrt(config.views) * np.sqrt(variance) * 1000 / WATER_PER_MM


# --- low dose ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("dose", "electronic"), [(0.5, 0), (0.1, 0), (0.25, 60)])
def test_thinned_rays_have_yus_variance(dose, electronic):
    config = LowDoseConfig(dose=dose, photons=2e4, electronic=electronic, views=1000)
    integral = 1.5
    got = thinned(np.full((400, 500), integral), 1.0, config, np.random.default_rng(0))
    wanted = ray_variance(config, 1.0, integral)
    # First order in 1/N; and 200 000 rays give the variance within 0.3 %.
    left = dose * 2e4 * np.exp(-integral)
    assert got.var() == pytest.approx(wanted, rel=0.013 + 5 / left)
    # The logarithm's own bias.
    assert got.mean() == pytest.approx(wanted / 2, abs=4 * np.sqrt(wanted / got.size) + wanted**1.5)


def test_half_of_a_half_is_a_quarter():
    rays = np.zeros((1, 1))

    def variance(dose: float, photons: float, electronic: float) -> float:
        config = LowDoseConfig(dose=dose, photons=photons, electronic=electronic, views=1000)
        many = np.broadcast_to(rays, (500, 500))
        return float(thinned(many, 1.0, config, np.random.default_rng(1)).var())

    twice = variance(0.5, 1e5, 300) + variance(0.5, 0.5e5, 300)
    assert variance(0.25, 1e5, 300) == pytest.approx(twice, rel=0.015)


def test_starved_rays_stay_finite():
    config = LowDoseConfig(dose=0.1, photons=1e3, electronic=30, views=1000)
    got = thinned(np.full((50, 50), 12.0), 1.0, config, np.random.default_rng(0))
    assert np.isfinite(got).all()
    assert got.max() == 0  # nothing arrived before either
    got = thinned(np.full((200, 200), 4.0), 1.0, config, np.random.default_rng(0))
    assert np.isfinite(got).all()
    assert got.max() == pytest.approx(np.log(0.1 * 1e3 * np.exp(-4.0)))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("pixel", "slice_mm", "views", "kernel"),
    [(1, 1, 90, "soft"), (1, 1, 90, "sharp"), (0.7, 4, 180, "soft"), (2, 1, 120, "soft")],
)
def test_noise_in_air_has_its_closed_form(pixel, slice_mm, views, kernel):
    config = LowDoseConfig(dose=0.2, photons=1e5, electronic=0, kernel=kernel, views=views)
    noise = added(air(48, 24, pixel, slice_mm), config)
    # Neighbours are correlated: 24 slices of 48^2 count as some 10 000 pixels and more.
    assert noise.std() == pytest.approx(pixel_sd_hu(config, pixel, slice_mm, 0), rel=0.03)


def test_noise_behind_water_has_its_closed_form_on_the_axis():
    config = LowDoseConfig(dose=0.25, photons=2e5, electronic=100, views=60)
    n, pixel, diameter = 45, 3, 110
    mu = (1 + water(n, pixel, diameter, 1).hu[:, :, 0] / 1000) * WATER_PER_MM
    integrals, rng = line_integrals(mu, pixel, config.views), np.random.default_rng(0)
    wanted = pixel_sd_hu(config, pixel, 1, WATER_PER_MM * diameter)
    middle = [
        back_project(thinned(integrals, pixel, config, rng), (n, n), pixel, "soft")[20:25, 20:25]
        for _ in range(200)
    ]
    # 200 planes of 25 pixels, some of them correlated.
    assert np.std(middle) * 1000 / WATER_PER_MM == pytest.approx(wanted, rel=0.05)


def test_variance_goes_as_one_over_dose():
    volume = water(40, 2, 70, 16)
    near = distance(40, 2) < 28

    def variance(dose: float) -> float:
        config = LowDoseConfig(dose=dose, photons=1e6, electronic=0, views=45, seed=int(100 * dose))
        return float(added(volume, config)[near].var())

    original = variance(0.5)  # 1/f - 1 = 1: what the scan itself has
    for dose in (0.8, 0.25, 0.1, 0.02):
        # Four standard errors of two variances of 16 slices of some 600 pixels.
        assert variance(dose) + original == pytest.approx(original / dose, rel=0.07)


@pytest.mark.slow
@pytest.mark.parametrize("kernel", KERNELS)
def test_noise_power_is_ramp_times_kernel(kernel):
    n, pixel, slices = 64, 0.8, 40
    config = LowDoseConfig(dose=0.25, photons=1e5, electronic=0, kernel=kernel, views=180)
    noise = added(air(n, slices, pixel), config)
    hann = np.hanning(n + 2)[1:-1]
    window = hann[:, None] * hann
    power = (np.abs(np.fft.fft2(noise * window[:, :, None], axes=(0, 1))) ** 2).mean(2)
    power *= pixel**2 / (window**2).sum()  # HU^2 mm^2
    # Its expectation: pi/views times the rays' power, blurred by the window, to which end the
    # covariance goes on a grid that holds all lags of the window.
    fine = np.hypot(np.fft.fftfreq(2 * n, pixel)[:, None], np.fft.fftfreq(2 * n, pixel))
    share = np.minimum(fine / CUTOFF[kernel], 1)
    ray = ray_variance(config, pixel) * (1000 / WATER_PER_MM) ** 2
    expected = np.pi / config.views * ray * pixel * fine * np.cos(np.pi / 2 * share) ** 4
    # No view has anything beyond the last frequency of its samples.
    expected[fine > 0.5 / pixel] = 0
    lags = np.fft.ifft2(np.abs(np.fft.fft2(window, (2 * n, 2 * n))) ** 2) / (window**2).sum()
    blurred = np.fft.fft2(np.fft.ifft2(expected) * lags).real[::2, ::2]
    ring = np.digitize(fine[::2, ::2], np.linspace(0, 0.6, 13))
    for k in range(1, 13):
        here = ring == k
        # Conjugates are one, and a Hann window correlates 1.5 neighbours along each axis.
        independent = here.sum() * slices / 2 / 1.5**2
        # The nearest of 8 samples is off by 1/16 pixel at most: 0.3 % of the power, evenly spread.
        slack = 3.5 / np.sqrt(independent) * blurred[here].mean() + 0.003 * blurred.max()
        assert power[here].mean() == pytest.approx(blurred[here].mean(), abs=slack), k
    low = [power[ring == k].mean() for k in (2, 3, 4)]
    assert low[0] < low[1] < low[2]  # the ramp's rise
    if kernel == "soft":
        assert power[ring == 12].mean() < 0.05 * power.max()  # the kernel's fall


def test_the_sharp_kernel_is_noisier():
    volume = water(40, 0.7, 24, 4)
    soft, sharp = (added(volume, LowDoseConfig(kernel=k, views=90)).std() for k in KERNELS)
    assert sharp > 1.5 * soft


def test_attenuation_makes_the_middle_noisier_than_the_edge():
    volume = water(64, 4, 220, 8)
    away = distance(64, 4)
    noise = added(volume, LowDoseConfig(views=120))
    middle, edge = noise[away < 25].std(), noise[(away > 95) & (away < 108)].std()
    beyond = noise[(away > 115) & (away < 125)].std()
    assert middle > 1.3 * edge > 1.3 * beyond > 0


def test_noise_is_streaked_along_the_long_axis():
    ellipse = np.hypot(along(64, 4)[:, None] / 110, along(64, 4) / 45) < 1  # wide in x
    noise = added(scan(np.where(ellipse, 0, -1000), 12, 4), LowDoseConfig(views=60))
    middle = noise[26:38, 26:38]
    # The noisy rays run along x: neighbours in x agree, neighbours in y do not.
    along_x = (middle[1:] * middle[:-1]).mean()
    along_y = (middle[:, 1:] * middle[:, :-1]).mean()
    assert along_x > along_y + 0.2 * middle.var()


def test_mean_hu_stay():
    away = distance(64, 5)
    plane = np.where(away < 150, 40, -1000)
    plane[20:30, 28:36] = -850
    plane[38:42, 30:34] = 800
    volume = scan(plane, 16, 5)
    noise = added(volume, LowDoseConfig(dose=0.25, views=90))
    for here in (away < 40, (away > 100) & (away < 140), plane == -850, plane == 800, away > 155):
        assert abs(noise[here].mean()) < 1
        assert noise[here].std() > 1


def test_real_tissue_keeps_its_mean(data_dir):
    whole = nifti.read(data_dir / "chest_LIDC-0314_ct.nii.gz")
    k = whole.shape[2] // 2
    step = max(1, whole.shape[0] // 128)
    hu = np.ascontiguousarray(whole.hu[::step, ::step, k : k + 2])
    affine = whole.affine @ np.diag([step, step, 1, 1])
    volume = Volume(hu, affine)
    noise = added(volume, LowDoseConfig(dose=0.25, views=120))
    for low, high in ((-950, -700), (-150, -50), (0, 100)):
        tissue = (hu > low) & (hu < high)
        assert tissue.sum() > 1000
        assert abs(noise[tissue].mean()) < 1
        assert noise[tissue].std() > 3


def test_the_full_dose_is_the_scan_itself():
    volume = water(16, 4, 50, 2)
    got = simulate_low_dose(volume, LowDoseConfig(dose=1, views=30))
    assert np.array_equal(got.hu, volume.hu)
    assert not np.shares_memory(got.hu, volume.hu)


def test_slices_draw_for_themselves():
    volume = water(24, 4, 80, 6)
    config = LowDoseConfig(views=60, seed=3)
    noise = added(volume, config)
    assert np.array_equal(noise, added(volume, config))
    front = Volume(volume.hu[:, :, :2].copy(), volume.affine)
    assert np.array_equal(added(front, config), noise[:, :, :2])
    other = added(volume, config.model_copy(update={"seed": 4}))
    flat = np.concatenate([noise, other], 2).reshape(-1, 12)
    off = np.corrcoef(flat.T)[np.triu_indices(12, 1)]
    assert np.abs(off).max() < 5 / np.sqrt(len(flat) / 2)


def test_what_comes_back_is_the_same_kind_of_scan():
    volume = water(20, 4, 60, 3)
    volume = Volume(volume.hu, volume.affine, source="a file")
    volume.hu[:2] = -3024
    shares: list[float] = []
    got = simulate_low_dose(volume, LowDoseConfig(views=30), shares.append)
    assert got.source == "a file"
    assert got.hu.dtype == np.float32
    assert np.array_equal(got.affine, volume.affine)
    assert (got.hu[:2] == -3024).all()
    assert (got.hu[2:] != volume.hu[2:]).mean() > 0.99
    assert shares == pytest.approx([1 / 3, 2 / 3, 1])


@pytest.mark.parametrize("photons", [2e5, 5e6])
def test_photons_of_a_scan_from_its_noise(photons):
    true = LowDoseConfig(dose=0.5, photons=photons, electronic=0, views=90)
    volume = water(64, 3, 150, 5)
    noise_hu = float(added(volume, true)[volume.hu == 0].std())
    got = photons_of(volume, noise_hu, LowDoseConfig(views=90))
    assert got == pytest.approx(photons, rel=0.1)


@pytest.mark.parametrize(
    ("volume", "sentence"),
    [
        (
            Volume(np.zeros((8, 8, 2), np.float32), np.diag([1, 1.5, 1, 1.0])),
            "pixels of 1 x 1.5 mm are not square; resample the scan first",
        ),
        (
            Volume(np.full((8, 8, 2), np.nan, np.float32), np.eye(4)),
            "128 voxels are NaN or infinite; set them to an HU, e.g. -1024",
        ),
    ],
)
def test_bad_scans_are_named(volume, sentence):
    with pytest.raises(InputError, match="^" + re.escape(sentence)):
        simulate_low_dose(volume, LowDoseConfig())


def test_photons_of_nothing_are_refused():
    with pytest.raises(InputError, match="too little soft tissue in slice 1"):
        photons_of(air(20, 2), 10.0, LowDoseConfig(views=30))
    with pytest.raises(InputError, match="a noise of 0 HU does not determine the dose"):
        photons_of(water(20, 4, 60, 2), 0.0, LowDoseConfig(views=30))


@pytest.mark.parametrize(
    "wrong", [{"dose": 0}, {"dose": 1.5}, {"photons": 0}, {"electronic": -1}, {"views": 3}]
)
def test_settings_have_limits(wrong):
    with pytest.raises(ValidationError):
        LowDoseConfig(**wrong)


# --- thick slices --------------------------------------------------------------------------------

OBLIQUE = np.array(
    [[-0.9, 0.1, 0.3, 12.0], [0.05, 1.1, 0.4, -7.0], [0.1, -0.2, 1.2, 100.0], [0, 0, 0, 1]]
)


@pytest.mark.parametrize(
    ("profile", "thickness", "spacing"),
    [
        *itertools.product(["box"], [2.0, 3.9, 6.5], [1.5, 3.0, 8.0]),
        ("triangle", 3.9, 2.6),
        ("gaussian", 3.9, 2.6),
    ],
)
def test_a_line_in_space_stays_itself(profile, thickness, spacing):
    index = np.indices((3, 4, 40)).astype(float)
    direction = np.array([0.3, -0.5, 0.8])

    def line(indices: np.ndarray, affine: np.ndarray) -> np.ndarray:
        mm = np.tensordot(affine[:3, :3], indices, 1) + affine[:3, 3][:, None, None, None]
        return np.tensordot(direction, mm, 1)

    got = simulate_thick_slices(Volume(line(index, OBLIQUE), OBLIQUE), thickness, spacing, profile)
    assert got.spacing_mm[2] == pytest.approx(spacing)
    wanted = line(np.indices(got.shape).astype(float), got.affine)
    ends = 0 if profile == "box" else 3
    inside = slice(ends, got.shape[2] - ends)
    assert got.shape[2] > 2 * ends
    np.testing.assert_allclose(got.hu[..., inside], wanted[..., inside], atol=1e-9)


def test_it_is_simpleitks_bin_shrink():
    hu = np.random.default_rng(0).normal(0, 100, (5, 6, 23)).astype(np.float32)
    affine = np.diag([0.7, 0.7, 1.25, 1.0])
    affine[:3, 3] = (3, -4, 50)
    got = simulate_thick_slices(Volume(hu, affine, "a file"), 5.0)
    image = sitk.GetImageFromArray(hu.transpose(2, 1, 0))
    image.SetSpacing((0.7, 0.7, 1.25))
    image.SetOrigin((3, -4, 50))
    other = sitk.BinShrink(image, [1, 1, 4])
    np.testing.assert_allclose(got.hu, sitk.GetArrayFromImage(other).transpose(2, 1, 0), atol=1e-3)
    assert other.GetOrigin() == pytest.approx(tuple(got.affine[:3, 3]))
    assert other.GetSpacing() == pytest.approx(got.spacing_mm)
    assert got.source is None
    assert got.hu.dtype == np.float32


def test_thin_slabs_are_refused():
    with pytest.raises(InputError, match=r"a thickness of 0\.5 mm is less"):
        simulate_thick_slices(air(4, 5), 0.5)


def test_a_frame_of_tissue_attenuates_nothing_and_does_not_change():
    noise = np.random.default_rng(0).normal(0, 10, (60, 60, 3))
    inner = water(60, 4, 180, 3)
    config = LowDoseConfig(dose=0.25, photons=1e4, views=90)
    got = {}
    for fill in (0.0, -1024.0):
        hu = np.pad(inner.hu + noise, ((8, 8), (8, 8), (0, 0)), constant_values=fill)
        got[fill] = simulate_low_dose(Volume(hu, inner.affine), config).hu
        assert fill != 0 or (got[fill][:8] == 0).all()
    assert np.array_equal(got[0.0][8:-8, 8:-8], got[-1024.0][8:-8, 8:-8])
