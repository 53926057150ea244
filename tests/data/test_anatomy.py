"""Coarse anatomy: on bodies made of boxes and ellipsoids, and on real scans where present."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
from jaxtyping import TypeCheckError

from denovox.core.errors import InputError
from denovox.core.labels import AIRWAY, BODY, BONE, ID, LUNG, OUTSIDE
from denovox.core.volume import Volume
from denovox.data.anatomy import coarse, combine, guess_region

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


def test_noise_does_not_change_the_picture() -> None:
    volume = made(SPACINGS[1])
    noise = np.random.default_rng(0).normal(0, 100, volume.shape)
    agree = coarse(volume) == coarse(volume.with_hu(volume.hu + noise.astype(np.float32)))
    assert agree.mean() > 0.997


def test_an_empty_scan_is_outside() -> None:
    assert (coarse(Volume(np.full((20, 20, 8), -1000.0), np.diag([3.0, 3, 3, 1]))) == OUTSIDE).all()


def test_guess_chest_and_abdomen() -> None:
    chest, abdomen = made(SPACINGS[1]), made(SPACINGS[1], lungs=False)
    assert guess_region(chest, coarse(chest))[0] == "chest"
    assert guess_region(abdomen, coarse(abdomen))[0] == "abdomen"
    nothing = np.full(chest.shape, OUTSIDE, np.uint8)
    assert guess_region(chest, nothing) == ("abdomen", "no body found")


@pytest.mark.parametrize("part", ["head", "neck"])
def test_guess_headneck(part: str) -> None:
    spacing = 3.0
    x, y, z = np.ix_(*(np.arange(-n, n + 1) * spacing for n in (40, 40, 30)))
    radius = np.sqrt(x**2 + y**2 + (z * 0) ** 2)
    hu = np.where(radius < (112 if part == "head" else 85), 40.0, -1000.0)
    ring = (radius < 103) & (radius > 92) if part == "head" else radius < 30
    hu[ring] = 900
    volume = Volume(hu, np.diag([spacing] * 3 + [1.0]))
    assert guess_region(volume, coarse(volume))[0] == "headneck"


def test_combine_fine_wins_and_coarse_fills() -> None:
    coarse_map = np.array([BODY, LUNG, BONE, OUTSIDE, BONE, LUNG], np.uint8)
    masks = np.array([0, ID["lung_upper_lobe_left"], BODY, 0, ID["liver"], LUNG])
    expected = [BODY, ID["lung_upper_lobe_left"], BONE, OUTSIDE, ID["liver"], LUNG]
    combined = combine(masks.reshape(6, 1, 1), coarse_map.reshape(6, 1, 1))
    assert combined.dtype == np.uint8
    assert combined.ravel().tolist() == expected


def test_combine_refuses_strange_values_and_shapes() -> None:
    map_ = np.full((2, 2, 2), BODY, np.uint8)
    with pytest.raises(InputError, match="200"):
        combine(np.full((2, 2, 2), 200), map_)
    with pytest.raises((ValueError, TypeCheckError), match=r"shape|coarse"):
        combine(np.zeros((2, 2, 1), int), map_)


def real(data_dir: Path, name: str) -> Volume:
    image = nibabel.as_closest_canonical(nibabel.load(data_dir / f"{name}_ct.nii.gz"))
    return Volume(np.asarray(image.dataobj, np.float32), image.affine)


@pytest.mark.parametrize(
    "name",
    [
        "chest_RIDER-0117",
        "chest_TSaorta",
        "chest_ACRIN-013",
        "abdomen_CRLM-1006",
        "abdomen_CPTAC-PDA-00189_noisy",
        "abdomen_TSexample_sm",
        "headneck_ACRIN-001_defaced",
    ],
)
def test_guess_region_on_real_scans(data_dir: Path, name: str) -> None:
    volume = real(data_dir, name)
    entry = next(e for e in json.loads((data_dir / "index.json").read_text()) if e["id"] == name)
    guess, reason = guess_region(volume, coarse(volume))
    assert guess == entry["region"], reason


def test_lung_volume_of_a_full_chest(data_dir: Path) -> None:
    volume = real(data_dir, "chest_LIDC-0314")
    labels = coarse(volume)
    litres = np.bincount(labels.ravel()) * np.prod(volume.spacing_mm) / 1e6
    assert 1.5 < litres[LUNG] < 8
    assert 0.01 < litres[AIRWAY] < 0.08
    assert 0.5 < litres[BONE] < 3
