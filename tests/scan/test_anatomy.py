"""Coarse anatomy: on bodies made of boxes and ellipsoids, and on real scans where present."""

from __future__ import annotations

import tracemalloc
from pathlib import Path

import nibabel
import numpy as np
import pytest

from denovox.core.labels import AIRWAY, BODY, BONE, LUNG, OUTSIDE
from denovox.core.volume import Volume
from denovox.scan.anatomy import coarse

SIZE_MM = (360.0, 300.0, 300.0)
SPACINGS = [(2.5, 2.5, 5.0), (4.0, 4.0, 4.0)]
POINTS_MM = {  # x, y, z from the volume's centre
    "left lung": ((-70, 0, 40), LUNG),
    "right lung": ((70, 0, 40), LUNG),
    "trachea": ((0, 0, 110), AIRWAY),
    "bone rod": ((0, -70, 0), BONE),
    "bubble": ((40, 40, -100), BODY),
    "water": ((0, 60, 0), BODY),
    "sheet": ((130, -112, 0), OUTSIDE),
    "table": ((100, -125, 0), OUTSIDE),
    "under the table": ((100, -140, 0), OUTSIDE),
    "air beside": ((-170, 0, 0), OUTSIDE),
    "air in front": ((0, 140, 0), OUTSIDE),
}


def made(spacing: tuple[float, float, float], *, lungs: bool = True) -> Volume:
    """Water with two lungs, a trachea, a bone rod, a gas bubble, on a sheet and a table, in air."""
    shape = [round(size / mm) for size, mm in zip(SIZE_MM, spacing, strict=True)]
    axes = [(np.arange(n) - (n - 1) / 2) * mm for n, mm in zip(shape, spacing, strict=True)]
    x, y, z = np.ix_(*axes)
    hu = np.full(shape, -1000.0, np.float32)

    def oval(at: tuple[float, float], radii: tuple[float, float]) -> np.ndarray:
        inside = ((x - at[0]) / radii[0]) ** 2 + ((y - at[1]) / radii[1]) ** 2 < 1
        return inside & (z < np.inf)

    hu[oval((0, 0), (155, 110))] = 40
    hu[(np.abs(y + 112) < 2.1) & (np.abs(x) < 160) & (z < np.inf)] = 300
    hu[(np.abs(y + 124) < 6) & (np.abs(x) < 160) & (z < np.inf)] = 300
    hu[oval((0, -70), (16, 16))] = 900
    for side in (-1, 1):
        if lungs:
            hu[oval((side * 70, 0), (45, 70)) & (z > -30) & (z < 125)] = -850
    if lungs:
        hu[oval((0, 0), (9, 9)) & (z > 60)] = -1000
    hu[((x - 40) / 30) ** 2 + ((y - 40) / 30) ** 2 + ((z + 100) / 30) ** 2 < 1] = -1000
    return Volume(hu, np.diag([*spacing, 1.0]))


def at(volume: Volume, labels: np.ndarray, mm: tuple[float, float, float]) -> int:
    """The label at a point in mm from the centre."""
    grid = zip(mm, volume.spacing_mm, volume.shape, strict=True)
    return int(labels[tuple(round(p / step + (n - 1) / 2) for p, step, n in grid)])


@pytest.fixture(scope="module", params=SPACINGS, ids=str)
def labelled(request: pytest.FixtureRequest) -> tuple[Volume, np.ndarray]:
    volume = made(request.param)
    return volume, coarse(volume)


@pytest.mark.slow
@pytest.mark.parametrize("name", POINTS_MM)
def test_every_part_gets_its_class(labelled: tuple[Volume, np.ndarray], name: str) -> None:
    point, expected = POINTS_MM[name]
    assert at(*labelled, point) == expected


def test_every_voxel_gets_one_coarse_class(labelled: tuple[Volume, np.ndarray]) -> None:
    volume, labels = labelled
    assert labels.shape == volume.shape
    assert labels.dtype == np.uint8
    assert set(np.unique(labels)) == {OUTSIDE, BODY, LUNG, AIRWAY, BONE}


def test_sizes_are_in_mm_whatever_the_spacing(labelled: tuple[Volume, np.ndarray]) -> None:
    volume, labels = labelled
    millilitres = np.bincount(labels.ravel()) * np.prod(volume.spacing_mm) / 1000
    lungs = 2 * np.pi * 45 * 70 * 155 / 1000
    assert millilitres[LUNG] == pytest.approx(lungs, rel=0.05)
    assert millilitres[AIRWAY] == pytest.approx(np.pi * 9**2 * 90 / 1000, rel=0.25)
    assert millilitres[BONE] == pytest.approx(np.pi * 16**2 * 300 / 1000, rel=0.15)
    body = np.pi * 155 * 110 * 300 / 1000
    assert millilitres[1:].sum() - millilitres[OUTSIDE] == pytest.approx(body, rel=0.02)


def test_lung_cut_by_the_volume_end_is_still_lung() -> None:
    volume = made(SPACINGS[0])
    thin = Volume(volume.hu[:, :, 36:44], volume.affine)  # 40 mm through the lungs
    labels = coarse(thin)
    assert {at(thin, labels, (side * 70, 0, z)) for side in (-1, 1) for z in (-15, 15)} == {LUNG}


def test_lung_cut_by_the_field_of_view_is_not_the_room() -> None:
    volume = made(SPACINGS[0])
    crop = Volume(volume.hu[32:112, 20:96, 26:52], volume.affine)
    assert (coarse(crop) == LUNG).mean() == pytest.approx((crop.hu == -850).mean(), rel=0.05)


@pytest.mark.slow
def test_noise_does_not_change_the_picture() -> None:
    volume = made(SPACINGS[1])
    noise = np.random.default_rng(0).normal(0, 100, volume.shape)
    agree = coarse(volume) == coarse(volume.with_hu(volume.hu + noise.astype(np.float32)))
    assert agree.mean() > 0.997


def test_an_empty_scan_is_outside() -> None:
    assert (coarse(Volume(np.full((20, 20, 8), -1000.0), np.diag([3.0, 3, 3, 1]))) == OUTSIDE).all()


def real(data_dir: Path, name: str) -> Volume:
    image = nibabel.as_closest_canonical(nibabel.load(data_dir / f"{name}_ct.nii.gz"))
    return Volume(np.asarray(image.dataobj, np.float32), image.affine)


@pytest.mark.slow
def test_lung_volume_of_a_full_chest(data_dir: Path) -> None:
    volume = real(data_dir, "chest_LIDC-0314")
    labels = coarse(volume)
    litres = np.bincount(labels.ravel()) * np.prod(volume.spacing_mm) / 1e6
    assert 1.5 < litres[LUNG] < 8
    assert 0.01 < litres[AIRWAY] < 0.08
    assert 0.5 < litres[BONE] < 3


def test_a_scan_full_of_bone_takes_little_memory() -> None:
    """Connected components need four bytes for each voxel that may be bone, and no more."""
    x, y, _ = np.ogrid[-1:1:160j, -1:1:160j, :160]
    dense = 100 * np.random.default_rng(0).standard_normal((160, 160, 160), np.float32) + 900
    volume = Volume(np.where(x**2 + y**2 < 0.8, dense, -1000), np.diag([0.75, 0.75, 0.75, 1]))
    tracemalloc.start()
    labels = coarse(volume)
    peak = tracemalloc.get_traced_memory()[1] / labels.size
    tracemalloc.stop()
    assert (labels == BONE).mean() > 0.5
    assert peak < 8
