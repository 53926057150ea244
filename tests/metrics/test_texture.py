"""Features counted by hand, by skimage, and of noise whose spectrum is known."""

from __future__ import annotations

import numpy as np
import pytest
from skimage.feature import graycomatrix, graycoprops

from denovox.core.errors import InputError
from denovox.core.volume import Window
from denovox.metrics import texture as t

WINDOW = Window(400, 50)


def named(hu: np.ndarray, body: np.ndarray | None = None) -> dict[str, float]:
    return dict(zip(t.NAMES, t.texture(hu.astype(np.float32), WINDOW, body), strict=True))


def noise(sd_hu: float, shape: tuple[int, int, int] = (32, 24, 16), seed: int = 0) -> np.ndarray:
    return 50 + sd_hu * np.random.default_rng(seed).standard_normal(shape)


def test_white_noise_is_alike_in_all_bands():
    found = named(noise(20))  # 20 HU are .1 in units of half the window
    for octave in (1, 2, 3):
        for band in t.BANDS:
            cells = 32 * 24 * 16 / 8**octave * (4 if band == "mixed" else 1)
            error = 4 * np.sqrt(2 / cells) / np.log(10)
            assert found[f"haar {octave} {band}"] == pytest.approx(-2, abs=error)
    assert found["histogram mean"] == pytest.approx(0, abs=0.005)
    assert found["histogram sd"] == pytest.approx(0.1, rel=0.03)
    assert found["histogram skewness"] == pytest.approx(0, abs=0.1)
    assert found["histogram kurtosis"] == pytest.approx(3, abs=0.2)
    assert found["histogram p90"] == pytest.approx(0.1 * 1.2816, rel=0.05)
    for axis in t.AXES:
        assert found[f"glcm {axis} correlation"] == pytest.approx(0, abs=0.04)


def test_haar_keeps_energy_and_tells_directions():
    values = noise(1).astype(np.float64)
    bands = t.haar(values)
    assert sum((band**2).sum() for band in bands.values()) == pytest.approx((values**2).sum())
    along_z = np.broadcast_to(np.array([-1.0, 1.0] * 4), (8, 8, 8)).copy()
    energies = {name: float((band**2).sum()) for name, band in t.haar(along_z).items()}
    assert energies.pop((0, 0, 1)) == pytest.approx(512)
    assert energies.pop((0, 0, 0)) == pytest.approx(0)
    assert max(energies.values()) < 1e-9
    flat = t.haar(np.full((3, 4, 5), 2.0))
    assert flat[0, 0, 0].shape == (1, 2, 2), "an odd last voxel is left out"
    assert np.allclose(flat[0, 0, 0], 2 * 2**1.5)


def test_pairs_counted_by_hand():
    grey = np.array([[0, 0, 1], [2, 2, 1]])[:, :, None]
    body = np.ones(grey.shape, bool)
    along_x = t.cooccurrence(grey, body, 0, levels=3) * 6
    assert along_x.tolist() == [[0, 0, 2], [0, 2, 0], [2, 0, 0]]
    along_y = t.cooccurrence(grey, body, 1, levels=3) * 8
    assert along_y.tolist() == [[2, 1, 0], [1, 0, 1], [0, 1, 2]]
    assert t.cooccurrence(grey, body, 2, levels=3).sum() == 0
    body[0, 0] = body[1, 2] = False  # one that begins a pair, one that ends one
    assert (t.cooccurrence(grey, body, 1, levels=3) * 4).tolist() == [
        [0, 1, 0],
        [1, 0, 0],
        [0, 0, 2],
    ]


def test_matrices_agree_with_skimage():
    grey = np.random.default_rng(1).integers(0, 5, (9, 8, 6))
    body = np.ones(grey.shape, bool)
    for axis, angle in ((0, np.pi / 2), (1, 0)):
        counts = sum(
            graycomatrix(
                grey[:, :, z].astype(np.uint8), [1], [angle], levels=5, symmetric=True
            ).astype(float)
            for z in range(6)
        )
        theirs = counts / counts.sum()
        ours = t.cooccurrence(grey, body, axis, levels=5)
        assert np.allclose(ours, theirs[:, :, 0, 0], atol=1e-15)
        names = ("contrast", "homogeneity", "ASM", "correlation")
        expected = [graycoprops(theirs, name)[0, 0] for name in names]
        assert t.haralick(ours)[:4] == pytest.approx(expected, rel=1e-12)
    even = np.full((4, 4), 1 / 16)
    assert t.haralick(even)[4] == pytest.approx(4), "bits"


def test_what_lies_outside_the_body_counts_for_nothing():
    hu = noise(20, (32, 32, 16))
    body = np.zeros(hu.shape, bool)
    body[4:28, 4:28] = True
    other = np.where(body, hu, 3000)
    assert t.texture(hu, WINDOW, body).tolist() == t.texture(other, WINDOW, body).tolist()
    air = np.where(body, hu, -1000)
    air[12:16, 12:16, 5:9] = -900  # a lung: enclosed
    assert np.array_equal(t.texture(air, WINDOW), t.texture(air, WINDOW, body))


def test_blur_and_steps_between_slices_are_seen():
    sharp = noise(20)
    thick = np.repeat(sharp[:, :, ::2], 2, axis=2)
    assert named(thick)["haar 1 z"] < -5 < -2.2 < named(sharp)["haar 1 z"]
    assert named(thick)["glcm z correlation"] > 0.4
    more = named(thick)["haar 1 x"] - named(sharp)["haar 1 x"]
    assert more == pytest.approx(np.log10(2), abs=0.03), "two equal slices add up, not in squares"


def test_a_constant_has_features_too():
    found = named(np.full((8, 8, 8), 50.0))
    assert np.isfinite(list(found.values())).all()
    assert found["histogram entropy"] == found["histogram sd"] == 0
    assert found["haar 3 mixed"] == pytest.approx(-6)
    assert found["glcm x correlation"] == 1
    beyond = named(np.full((8, 8, 8), 900.0))
    assert (beyond["histogram top"], beyond["histogram floor"]) == (1, 0)


def test_scans_that_have_no_texture():
    with pytest.raises(InputError, match="too few"):
        t.texture(np.zeros((7, 20, 20)), WINDOW)
    with pytest.raises(InputError, match="above -300"):
        t.texture(np.full((9, 9, 9), -1000.0), WINDOW)
    holes = np.indices((16, 16, 16))[0] % 4 > 0
    with pytest.raises(InputError, match="larger scans"):
        t.texture(np.zeros((16, 16, 16)), WINDOW, holes)
    assert len(set(t.NAMES)) == len(t.NAMES) == 37
