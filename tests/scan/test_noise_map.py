"""The map of a scan's noise: known variations come back, and anatomy does not change it."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import ndimage

from denovox.core.labels import BODY, OUTSIDE
from denovox.core.volume import Volume
from denovox.scan.noise_map import NoiseMap, noise_map

SHAPE, MM = (96, 90, 40), (1.5, 1.5, 3.0)
RNG = np.random.default_rng(0)


def scan(hu: np.ndarray) -> Volume:
    return Volume(hu.astype(np.float32), np.diag([*MM, 1.0]))


def body() -> np.ndarray:
    x, y, _ = np.indices(SHAPE)
    inside = ((x - 48) / 42) ** 2 + ((y - 45) / 38) ** 2 < 1
    return np.where(inside, BODY, OUTSIDE).astype(np.uint8)


def variation() -> np.ndarray:
    """Rises threefold along x, and by a half along z."""
    x, _, z = np.indices(SHAPE)
    return np.exp(np.log(3) * x / SHAPE[0] + np.log(1.5) * z / SHAPE[2])


def relative(field: np.ndarray, labels: np.ndarray) -> np.ndarray:
    return field / np.median(field[labels == BODY])


def on_scan(found: NoiseMap) -> np.ndarray:
    return found.on(SHAPE, (0, 0, 0), SHAPE)


@pytest.mark.parametrize("blur", [0.0, 0.8])
def test_noise_that_varies_is_mapped_whatever_its_spectrum_and_level(blur: float) -> None:
    labels = body()
    noise = ndimage.gaussian_filter(RNG.normal(size=SHAPE), (blur, blur, 0)) * variation()
    hu = np.where(labels == BODY, 40, -1000) + 20 * noise
    found = noise_map(scan(hu), labels)
    off = np.log(on_scan(found) / relative(variation(), labels))[labels == BODY]
    assert np.abs(off).mean() < 0.06
    assert np.quantile(np.abs(off), 0.95) < 0.15
    louder = noise_map(scan(hu * 3), labels)
    np.testing.assert_allclose(louder.values, found.values, rtol=1e-3)


def test_anatomy_leaves_the_map_of_uniform_noise_flat() -> None:
    labels = body()
    grain = ndimage.gaussian_filter(RNG.normal(size=SHAPE), 3)
    organs = np.where(grain > 0, 120, -60)  # edges of 180 HU, nine times the noise
    organs[40:50, 40:50] = 700
    hu = np.where(labels == BODY, organs, -1000) + 20 * RNG.normal(size=SHAPE)
    values = on_scan(noise_map(scan(hu), labels))[labels == BODY]
    assert np.log(values).std() < 0.1


def test_vessels_of_the_lung_do_not_count_as_noise() -> None:
    labels = body()
    x, y, _ = np.indices(SHAPE)
    lung = ((x - 60) / 20) ** 2 + ((y - 45) / 22) ** 2 < 1
    vessels = RNG.random(SHAPE) < 0.15
    tissue = np.where(lung, np.where(vessels, -600, -850), 40)
    hu = np.where(labels == BODY, tissue, -1000) + 20 * RNG.normal(size=SHAPE)
    values = on_scan(noise_map(scan(hu), labels))
    assert np.abs(np.log(values[lung])).mean() < 0.1
    quiet = np.where(lung, -850 + 10 * RNG.normal(size=SHAPE), hu)  # half the noise
    inner = ((x - 60) / 10) ** 2 + ((y - 45) / 11) ** 2 < 1
    assert np.median(on_scan(noise_map(scan(quiet), labels))[inner]) == pytest.approx(0.5, abs=0.1)


def test_air_around_the_body_plays_no_part() -> None:
    labels = body()
    hu = np.where(labels == BODY, 40, -1000) + 20 * RNG.normal(size=SHAPE)
    clipped = np.where(labels == BODY, hu, -1024)
    kept, cut = (noise_map(scan(each), labels).values for each in (hu, clipped))
    np.testing.assert_allclose(kept, cut, rtol=0.02)


def test_a_scan_without_noise_or_without_a_body_has_a_map_of_ones() -> None:
    labels = body()
    assert (noise_map(scan(np.full(SHAPE, 40.0)), labels).values == 1).all()
    noise = scan(RNG.normal(size=SHAPE))
    assert (noise_map(noise, np.full(SHAPE, OUTSIDE, np.uint8)).values == 1).all()


def test_a_single_slice_has_a_map_too() -> None:
    labels = body()[..., :1]
    field = variation()[..., :1]
    hu = np.where(labels == BODY, 40, -1000) + 20 * field * RNG.normal(size=field.shape)
    values = noise_map(scan(hu), labels).on(field.shape, (0, 0, 0), field.shape)
    off = np.log(values / relative(field, labels))[labels == BODY]
    assert np.abs(off).mean() < 0.12


def test_a_map_is_linear_between_blocks_on_any_grid() -> None:
    x, y, z = np.indices((6, 5, 4))
    found = NoiseMap((2.0 * x + y + 0.5 * z).astype(np.float32), (3, 2, 1))
    got = found.on((5, 4, 2), (4.5, 2.0, 1.0), (10.0, 5.0, 2.0))
    centres = [
        (start + (np.arange(n) + 0.5) * size / n) / block - 0.5
        for start, size, n, block in zip((4.5, 2, 1), (10, 5, 2), (5, 4, 2), (3, 2, 1), strict=True)
    ]
    a, b, c = np.meshgrid(*centres, indexing="ij")
    np.testing.assert_allclose(got, 2 * a + b + 0.5 * c, rtol=1e-5)
