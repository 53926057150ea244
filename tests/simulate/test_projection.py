"""Projections and filtered back-projection against closed forms and scikit-image."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.transform import iradon

from denovox.simulate.projection import (
    CUTOFF,
    back_project,
    detectors,
    line_integrals,
    ray_matrix,
)


def along(n: int, pixel_mm: float = 1) -> np.ndarray:
    """mm from the centre of the slice."""
    return (np.arange(n) - (n - 1) / 2) * pixel_mm


def test_line_integrals_of_a_disc_off_the_centre():
    pixel, mu, radius, x0, y0 = 0.8, 0.02, 30.0, 12.0, -20.0
    x, y = along(120, pixel)[:, None], along(140, pixel)
    plane = np.where(np.hypot(x - x0, y - y0) < radius, mu, 0)
    got = line_integrals(plane, pixel, 90)
    angle = np.arange(90) * np.pi / 90
    at = along(len(got), pixel)[:, None] - (y0 * np.cos(angle) - x0 * np.sin(angle))
    chord = 2 * mu * np.sqrt(np.clip(radius**2 - at**2, 0, None))
    inside = np.abs(at) < 0.9 * radius
    # Chords of 60 mm that begin and end in cells of 2 mm.
    assert np.abs(got - chord)[inside].max() < 0.04 * chord.max()
    # Every view sees all of the disc.
    np.testing.assert_allclose(got.sum(0) * pixel, plane.sum() * pixel**2, rtol=2e-3)
    assert got[np.abs(at) > radius + 6].max() < 1e-6


@pytest.mark.parametrize("shape", [(65, 65), (64, 64), (48, 65)])
def test_back_projection_of_a_blob_gives_the_blob(shape):
    pixel, width, x0, y0, views = 0.5, 2.5, 2.0, -4.0, 120
    x, y = along(shape[0], pixel)[:, None], along(shape[1], pixel)
    blob = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * width**2))
    angle = np.arange(views) * np.pi / views
    t = along(detectors(shape), pixel)[:, None] - (y0 * np.cos(angle) - x0 * np.sin(angle))
    got = back_project(
        width * np.sqrt(2 * np.pi) * np.exp(-(t**2) / (2 * width**2)), shape, pixel, "sharp"
    )
    # A Hann window is 1 - (pi nu / 2 cutoff)^2 at the low frequencies of a blob: a diffusion.
    spread = 2 / (4 * CUTOFF["sharp"]) ** 2  # added variance, mm^2
    wide = width**2 + spread
    expected = width**2 / wide * np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * wide))
    assert np.abs(got - blob).max() < 0.011
    np.testing.assert_allclose(got, expected, atol=2e-3)


def test_it_is_scikit_images_iradon():
    n, views = 65, 90
    pixel = 1 / (2 * CUTOFF["soft"])  # the window then ends at the grid's last frequency
    rng = np.random.default_rng(0)
    sinogram = np.zeros((detectors((n, n)), views))
    sinogram[20:-20] = rng.normal(size=(len(sinogram) - 40, views))
    smooth = np.apply_along_axis(np.convolve, 0, sinogram, np.hanning(25) / 12, mode="same")
    got = back_project(smooth, (n, n), pixel, "soft")
    other = iradon(
        smooth,
        np.arange(views) * 180 / views,
        output_size=n,
        filter_name="hann",
        circle=False,
        preserve_range=True,
    )
    # Linear interpolation in theirs, none in ours.
    assert np.abs(got * pixel - other).max() < 0.03 * np.abs(other).max()


def test_the_matrix_of_rays_projects_a_blob_and_its_transpose_is_the_adjoint():
    shape, views, pixel, width, x0, y0 = (90, 70), 60, 0.5, 4.0, 5.0, -3.0
    count = detectors((45, 35))
    matrix = ray_matrix(shape, pixel, views, count)
    x, y = along(shape[0], pixel)[:, None], along(shape[1], pixel)
    blob = np.exp(-((x - x0) ** 2 + (y - y0) ** 2) / (2 * width**2))
    angle = np.arange(views) * np.pi / views
    t = along(count)[:, None] - (y0 * np.cos(angle) - x0 * np.sin(angle))
    expected = width * np.sqrt(2 * np.pi) * np.exp(-(t**2) / (2 * width**2))
    got = (matrix @ blob.ravel()).reshape(count, views)
    # Two bins share each pixel: a blur of variance 1/4 at most, 0.8 % of this peak, and a ripple.
    assert np.abs(got - expected).max() < 0.015 * expected.max()
    np.testing.assert_allclose(got.sum(0), blob.sum() * pixel**2)  # every view sees all of it
    rng = np.random.default_rng(0)
    image, sinogram = rng.normal(size=shape).ravel(), rng.normal(size=count * views)
    assert (matrix @ image) @ sinogram == pytest.approx(image @ (matrix.T @ sinogram))
