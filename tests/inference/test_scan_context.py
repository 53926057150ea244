"""The noise that `Model.denoise` takes a scan to have, and what it then does."""

from __future__ import annotations

import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.core.labels import BODY
from denovox.core.operators.coloured_noise import WHITE
from denovox.core.volume import Volume
from denovox.inference.scan_context import noise_in
from denovox.scan.body_regions import RegionSpan
from denovox.scan.noise_level import estimate_noise_hu

SHAPE, SD = (96, 96, 10), 30.0
COARSE = np.full(SHAPE, BODY, np.uint8)
WHOLE = RegionSpan("abdomen", 0, SHAPE[2], "named")


def scan(coloured: bool) -> Volume:
    """Flat soft tissue with noise of 30 HU, white, or as filtered back-projection with a soft
    kernel leaves it: power as a ramp times the kernel's fall."""
    noise = np.random.default_rng(0).standard_normal(SHAPE)
    if coloured:
        per_mm = np.hypot(*np.meshgrid(*[np.fft.fftfreq(96, 1.5)] * 2, indexing="ij"))
        power = per_mm * np.exp(-((per_mm / 0.12) ** 2))
        noise = np.fft.ifft2(
            np.fft.fft2(noise, axes=(0, 1)) * np.sqrt(power)[..., None], axes=(0, 1)
        )
        noise = noise.real
    hu = 40 + noise * (SD / noise.std())
    return Volume(hu.astype(np.float32), np.diag([1.5, 1.5, 3.0, 1.0]))


def silent(line: str) -> None:
    """Nobody listens."""


def test_white_noise_is_taken_for_white_and_measured_as_before():
    noise_hu, spectrum = noise_in(scan(False), COARSE, WHOLE, None, silent)
    assert spectrum is WHITE
    assert noise_hu == estimate_noise_hu(scan(False), COARSE)
    assert noise_hu == pytest.approx(SD, rel=0.02)


def test_coloured_noise_is_measured_for_what_it_is():
    said = []
    noise_hu, spectrum = noise_in(scan(True), COARSE, WHOLE, None, said.append)
    assert estimate_noise_hu(scan(True), COARSE) < 0.6 * SD  # what a white estimator sees of it
    assert noise_hu == pytest.approx(SD, rel=0.1)
    assert spectrum is not WHITE
    assert "coloured" in said[0]


def test_a_given_level_stays_and_only_the_spectrum_is_estimated():
    noise_hu, spectrum = noise_in(scan(True), COARSE, WHOLE, 17.0, silent)
    assert noise_hu == 17.0
    assert spectrum is not WHITE


def test_without_soft_tissue_a_given_level_is_white_and_no_level_is_an_error():
    air = Volume(np.full(SHAPE, -1000, np.float32), scan(False).affine)
    assert noise_in(air, COARSE, WHOLE, 20.0, silent) == (20.0, WHITE)
    with pytest.raises(InputError, match="soft tissue"):
        noise_in(air, COARSE, WHOLE, None, silent)
