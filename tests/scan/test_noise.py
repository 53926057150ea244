"""The noise of a scan from the scan itself: SD and spectrum that were put on a phantom."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.core.labels import BODY, OUTSIDE
from denovox.core.operators.coloured_noise import WHITE, Spectrum
from denovox.core.volume import Volume
from denovox.scan.noise import ANATOMY_PER_MM, _below_fit, _per_voxel, estimate
from denovox.scan.noise_level import estimate_noise_hu
from denovox.simulate import phantom

SPACING = (1.5, 1.5, 2.0)
NYQUIST = 1 / (2 * SPACING[0])
CROP = 16


def kernel(peak: float) -> Spectrum:
    """A ramp with a Gaussian roll-off, most at `peak` of the Nyquist frequency, 2 % at 0."""
    f = np.linspace(0, 1.5, 60)
    power = f / peak * np.exp((1 - (f / peak) ** 2) / 2) + 0.02
    return Spectrum(tuple(f * NYQUIST), tuple(power))


KERNELS = {"white": WHITE, "soft": kernel(0.3), "medium": kernel(0.45), "sharp": kernel(0.7)}


def noise(shape, spectrum, spacing=SPACING, seed=1) -> np.ndarray:
    """SD 1, by DFT on a larger grid of which the middle is taken: nothing of our DCT in it."""
    big = [n + 2 * CROP for n in shape[:2]]
    f = np.hypot(*np.meshgrid(*map(np.fft.fftfreq, big, spacing[:2]), indexing="ij"))
    power = np.interp(f, spectrum.per_mm, spectrum.power)
    white = np.random.default_rng(seed).standard_normal((*big, shape[2]))
    gain = np.sqrt(power / power.mean())[..., None]
    full = np.fft.ifft2(np.fft.fft2(white, axes=(0, 1)) * gain, axes=(0, 1)).real
    return full[CROP:-CROP, CROP:-CROP]


@cache
def body(thick=2.0):
    made = phantom.chest((200, 150, round(48 / thick)), (*SPACING[:2], thick))
    labels = np.where(made.labels == OUTSIDE, OUTSIDE, BODY).astype(np.uint8)
    labels[made.ct.hu < -300] = OUTSIDE
    return made.ct, labels


def unlike(found: Spectrum, true: Spectrum) -> float:
    """Mean distance of two spectra of mean power 1."""
    a, b = (s.on((128, 128, 1), SPACING) for s in (found, true))
    return float((a - b).abs().mean())


@pytest.mark.slow
@pytest.mark.parametrize("sd_hu", [10.0, 30.0])
@pytest.mark.parametrize("name", KERNELS)
def test_sd_and_spectrum_in_thin_slices(name, sd_hu):
    ct, labels = body()
    noisy = ct.with_hu(ct.hu + sd_hu * noise(ct.shape, KERNELS[name]).astype(np.float32))
    model = estimate(noisy, labels)
    assert model.sd_hu == pytest.approx(sd_hu, rel=0.08)
    assert unlike(model.spectrum, KERNELS[name]) < 0.15
    assert model.spectrum.along_z == pytest.approx(0, abs=0.06)


def test_the_diagonal_difference_alone_misses_half_of_soft_noise():
    ct, labels = body()
    noisy = ct.with_hu(ct.hu + 30 * noise(ct.shape, KERNELS["soft"]).astype(np.float32))
    assert estimate_noise_hu(noisy, labels) < 20


@pytest.mark.parametrize("name", KERNELS)
def test_thick_slices(name):
    ct, labels = body(5.0)
    spacing = ct.spacing_mm
    noisy = ct.with_hu(ct.hu + 30 * noise(ct.shape, KERNELS[name], spacing).astype(np.float32))
    model = estimate(noisy, labels)
    assert model.sd_hu == pytest.approx(30, rel=0.08)
    assert unlike(model.spectrum, KERNELS[name]) < 0.15
    assert model.spectrum.along_z == 0


def flat(shape=(96, 96, 8)):
    return Volume(np.full(shape, 40, np.float32), np.diag([*SPACING, 1.0])), np.full(
        shape, BODY, np.uint8
    )


def test_the_sd_is_that_of_most_of_the_body_not_of_where_squares_fit():
    volume, labels = flat((400, 64, 8))
    # Squares fit on the left; on the right, where noise has half the SD, are strips of tissue.
    right = np.arange(400) >= 80
    labels[right & (np.arange(400) % 12 >= 10)] = OUTSIDE
    true = np.where(right, 10, 20)[:, None, None]
    noisy = volume.with_hu((volume.hu + true * noise(volume.shape, WHITE)).astype(np.float32))
    model = estimate(noisy, labels)
    assert model.sd_hu == pytest.approx(10, rel=0.08)


def test_a_single_slice():
    volume, labels = flat((160, 160, 1))
    noisy = volume.with_hu(volume.hu + 20 * noise(volume.shape, KERNELS["soft"]).astype(np.float32))
    model = estimate(noisy, labels)
    assert model.sd_hu == pytest.approx(20, rel=0.06)
    assert unlike(model.spectrum, KERNELS["soft"]) < 0.15


@pytest.mark.parametrize("shared", [0.2, 0.45])
def test_noise_that_slices_share(shared):
    # Each slice is a mixture of two independent ones, as where slices overlap.
    volume, labels = flat((96, 96, 12))
    layers = noise((96, 96, 13), KERNELS["soft"])
    turn = 0.5 * np.arcsin(2 * shared)
    mixed = np.cos(turn) * layers[..., 1:] + np.sin(turn) * layers[..., :-1]
    model = estimate(volume.with_hu((volume.hu + 20 * mixed).astype(np.float32)), labels)
    assert model.sd_hu == pytest.approx(20, rel=0.06)
    assert model.spectrum.along_z == pytest.approx(shared, abs=0.06)


@pytest.mark.parametrize(("thick_mm", "along_z"), [(3.0, 0.45), (3.1, 0)])
def test_thick_slices_are_taken_to_share_none(thick_mm, along_z):
    volume, labels = flat((96, 96, 12))
    volume = Volume(volume.hu, np.diag([*SPACING[:2], thick_mm, 1.0]))
    layers = noise((96, 96, 13), WHITE)
    turn = 0.5 * np.arcsin(0.9)
    mixed = np.cos(turn) * layers[..., 1:] + np.sin(turn) * layers[..., :-1]
    model = estimate(volume.with_hu((volume.hu + 20 * mixed).astype(np.float32)), labels)
    assert model.spectrum.along_z == pytest.approx(along_z, abs=0.06 if along_z else 0)


@pytest.mark.parametrize(("name", "least"), [("white", 0.97), ("sharp", 0.97), ("medium", 0.95)])
def test_coarse_pixels_do_not_cost_the_noise_its_low_frequencies(name, least):
    """On 4 mm pixels the frequencies that anatomy may share are most of all there are."""
    volume, labels = flat((128, 128, 8))
    volume = Volume(volume.hu, np.diag([4.0, 4.0, 3.0, 1.0]))
    scale = SPACING[0] / 4.0  # the same share of Nyquist
    spectrum = KERNELS[name]
    spectrum = Spectrum(tuple(f * scale for f in spectrum.per_mm), spectrum.power)
    grain = noise(volume.shape, spectrum, volume.spacing_mm)
    model = estimate(volume.with_hu((volume.hu + 20 * grain).astype(np.float32)), labels)
    assert least < model.sd_hu / 20 < 1.02


@pytest.mark.parametrize(("a", "b", "c"), [(3.0, 0.0, 0.0), (0.0, 20.0, 0.0), (1.0, 9.0, 25.0)])
def test_the_fit_takes_away_what_noise_does_not_foretell(a, b, c):
    per_mm = _per_voxel(32, (1.5, 1.5))
    step = per_mm[per_mm > 0].min()
    true = (a + b * np.maximum(per_mm, step / 2)) * np.exp(-c * per_mm**2)
    np.testing.assert_allclose(_below_fit(true, per_mm), true, rtol=1e-6)
    low = per_mm < ANATOMY_PER_MM
    anatomy = true + np.where(low, 50.0, 0)
    np.testing.assert_allclose(_below_fit(anatomy, per_mm), true, rtol=1e-6)
    less = np.where(low, true / 2, true)  # what is not there is not made up
    np.testing.assert_allclose(_below_fit(less, per_mm), less, rtol=1e-6)


def test_hu_offset_changes_nothing():
    volume, labels = flat((96, 96, 6))
    grain = noise(volume.shape, WHITE).astype(np.float32)
    a, b = (estimate(volume.with_hu(volume.hu + off + 9 * grain), labels) for off in (0, 60))
    assert a.sd_hu == pytest.approx(b.sd_hu, rel=1e-4)
    assert a.sd_hu == pytest.approx(9, rel=0.06)


def test_without_flat_squares_it_is_taken_for_white():
    volume, labels = flat((60, 60, 4))
    labels[::8] = OUTSIDE
    noisy = volume.with_hu(volume.hu + 20 * noise(volume.shape, WHITE).astype(np.float32))
    model = estimate(noisy, labels)
    assert model.sd_hu == estimate_noise_hu(noisy, labels)
    assert model.spectrum == WHITE
    assert model.squares == (0, 0)


def test_where_it_cannot_know_it_asks():
    volume, labels = flat((40, 40, 3))
    with pytest.raises(InputError, match="--noise-hu"):
        estimate(volume, np.full_like(labels, OUTSIDE))
    with pytest.raises(InputError, match="--noise-hu"):
        estimate(*flat((8, 8, 3)))
    with pytest.raises(InputError, match="--noise-hu"):
        estimate(*flat())  # no noise at all
