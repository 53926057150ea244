"""Regions along z: on bodies whose borders are known, and on real scans where present."""

from __future__ import annotations

import importlib.util
import itertools
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from denovox.core.labels import ID, OUTSIDE
from denovox.core.volume import Volume
from denovox.scan.anatomy import coarse
from denovox.scan.body_regions import ORDER, RegionSpan, _best_cut, region_spans
from denovox.simulate.phantom import Phantom, add_noise, chest

LUNGS = [number for name, number in ID.items() if name.startswith("lung_")]
GRIDS = [((112, 96, 80), 3.0), ((56, 48, 72), 6.0), ((80, 64, 40), (4.0, 4.0, 8.0))]
NEAR_MM = 20.0


def found(volume: Volume) -> tuple[RegionSpan, ...]:
    return region_spans(volume, coarse(volume))


def names(slabs: tuple[RegionSpan, ...]) -> list[str]:
    return [slab.region for slab in slabs]


def borders(body: Phantom) -> tuple[float, int]:
    """Half way between the liver's top and the lungs' bottom, and the apex, from the labels."""
    lung = np.flatnonzero(np.isin(body.labels, LUNGS).any((0, 1)))
    dome = np.flatnonzero((body.labels == ID["liver"]).any((0, 1)))[-1]
    return (lung[0] + dome) / 2 + 0.5, int(lung[-1]) + 1


def column(radii_mm: list[float], ring: bool = False, lung: bool = False) -> Volume:
    """Stacked round sections of 3 mm, a bone rod in them; a ring of bone in large ones; lungs."""
    x, y, _ = np.ix_(*(np.arange(-n, n + 1) * 3.0 for n in (55, 55, 0)))
    from_centre = np.hypot(x, y)
    hu = np.where(from_centre < np.array(radii_mm), 40.0, -1000.0)
    if ring:
        skull = (np.abs(from_centre - np.array(radii_mm) + 12) < 5) & (np.array(radii_mm) > 100)
        hu[skull] = 900
    if lung:
        hu[(np.hypot(np.abs(x) - 65, y) < 45) & (hu > 0)] = -850
    hu[np.broadcast_to(np.hypot(x, y + 30) < 15, hu.shape)] = 700
    return Volume(hu.astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1, 2])
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_the_phantoms_borders_are_where_its_organs_are(
    grid: tuple[tuple[int, int, int], float], seed: int
) -> None:
    body = chest(*grid, seed)
    slabs, z_mm = found(body.ct), body.ct.spacing_mm[2]
    lower, upper = borders(body)
    assert names(slabs)[:2] == ["abdomen", "chest"]
    assert abs(slabs[1].start - lower) * z_mm < NEAR_MM
    assert abs(slabs[1].stop - upper) * z_mm < NEAR_MM


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_crop_in_the_plane_and_noise_leave_the_borders(seed: int) -> None:
    body = chest((112, 96, 80), 3.0, seed)
    lower, _ = borders(body)
    for other in (
        Volume(body.ct.hu[22:90, 14:82], body.ct.affine),  # no skin, no table, no air around
        add_noise(body.ct, 100.0, seed),
    ):
        slabs = found(other)
        assert names(slabs)[:2] == ["abdomen", "chest"]
        assert abs(slabs[1].start - lower) * 3.0 < NEAR_MM


def test_slabs_cover_every_slice_in_order_and_none_is_thin() -> None:
    body = chest((56, 48, 72), 6.0)
    for first, last in [(0, 72), (0, 30), (20, 50), (25, 31), (50, 72), (40, 41)]:
        slabs = found(Volume(body.ct.hu[..., first:last], body.ct.affine))
        assert slabs[0].start == 0
        assert slabs[-1].stop == last - first
        assert all(a.stop == b.start for a, b in itertools.pairwise(slabs))
        order = [ORDER.index(name) for name in names(slabs)]
        assert order == list(range(order[0], order[0] + len(order)))
        assert len(slabs) == 1 or all((s.stop - s.start) * 6.0 >= 30 for s in slabs)


def test_the_cut_is_the_best_of_all_possible_ones() -> None:
    """Against every labelling there is, its runs and its sum counted one by one."""
    rng = np.random.default_rng(0)
    z_mm = 15.0  # so that a slab inside a scan has at least two slices
    for n in [*range(1, 8)] * 8:
        scores = rng.normal(0, 12, (3, n))
        best = -np.inf
        for labelling in itertools.product(range(3), repeat=n):
            runs = [(label, len(list(run))) for label, run in itertools.groupby(labelling)]
            rising = all(b == a + 1 for (a, _), (b, _) in itertools.pairwise(runs))
            if rising and (len(runs) == 1 or all(size >= 2 for _, size in runs)):
                fit = sum(scores[label, z] for z, label in enumerate(labelling))
                best = max(best, fit - 10 * (len(runs) - 1))
        first, second = _best_cut(scores, z_mm)
        got = [0] * first + [1] * (second - first) + [2] * (n - second)
        fit = sum(scores[label, z] for z, label in enumerate(got))
        assert fit - 10 * (len(set(got)) - 1) == pytest.approx(best)


def test_head_and_neck() -> None:
    head = found(column([85.0] * 25 + [112.0] * 35, ring=True))
    assert names(head) == ["headneck"]
    assert "skull in 58%" in head[0].reason
    assert "certain" not in head[0].reason
    assert names(found(column([85.0] * 40))) == ["headneck"]


def test_a_neck_follows_a_chest_and_not_a_belly() -> None:
    chest_, neck = column([150.0] * 50, lung=True), column([85.0] * 40)
    both = Volume(np.concatenate([chest_.hu, neck.hu], 2), neck.affine)
    slabs = found(both)
    assert names(slabs) == ["chest", "headneck"]
    assert abs(slabs[1].start - 50) <= 1
    belly = column([150.0] * 60 + [85.0] * 20)  # thighs, turned over, or whatever: not a neck
    assert names(found(belly)) == ["abdomen"]


def test_each_sign_of_a_neck_decides_where_it_is_the_only_one() -> None:
    trunk = column([130.0] * 40)
    assert names(found(trunk)) == ["abdomen"]
    x, y, _ = np.ix_(*(np.arange(-n, n + 1) * 3.0 for n in (55, 55, 0)))
    windpipe = np.where(np.hypot(x, y - 10) < 9, -1000, trunk.hu).astype(np.float32)
    assert names(found(trunk.with_hu(windpipe))) == ["headneck"]
    assert names(found(Volume(windpipe[..., :12], trunk.affine))) == ["abdomen"]  # gas, 36 mm tall
    shoulders = Volume(column([85.0] * 40).hu, np.diag([7.0, 3.0, 3.0, 1.0]))
    assert names(found(shoulders)) == ["headneck"]
    head = column([112.0] * 40, ring=True)
    assert names(found(Volume(head.hu[19:-19], head.affine))) == ["headneck"]  # its skin is cut


def test_the_tips_of_the_lungs_alone_are_a_chest() -> None:
    """460 mL that do not reach the top: too little for `coarse`, which calls them body."""
    tips, neck = column([150.0] * 12, lung=True), column([85.0] * 40)
    both = Volume(np.concatenate([tips.hu, neck.hu], 2), neck.affine)
    assert [(s.region, s.start) for s in found(both)] == [("chest", 0), ("headneck", 12)]


def test_what_is_not_sure_says_so_and_nothing_is_refused() -> None:
    thigh = column([95.0] * 40)
    assert names(found(thigh)) == ["abdomen"]
    assert "no region is certain" in found(thigh)[0].reason
    assert "certain" not in found(column([150.0] * 40))[0].reason
    air = Volume(np.full((9, 8, 7), -1000.0, np.float32), np.eye(4))
    nothing = region_spans(air, np.full((9, 8, 7), OUTSIDE, np.uint8))
    assert nothing == (RegionSpan("abdomen", 0, 7, "no body found"),)


def test_blank_slices_go_with_their_neighbours() -> None:
    lungs = column([150.0] * 40, lung=True)
    blank = Volume(
        np.pad(lungs.hu, ((0, 0), (0, 0), (19, 18)), constant_values=-1024),
        np.diag([3.0] * 3 + [1]),
    )
    assert [(s.region, s.start, s.stop) for s in found(blank)] == [("chest", 0, 77)]


# -- real scans


def benchmark() -> ModuleType:
    """benchmarks/regions.py, which has the truth and what counts as right."""
    path = Path(__file__).parents[2] / "benchmarks" / "regions.py"
    spec = importlib.util.spec_from_file_location("regions_benchmark", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up
    sys.modules["regions_benchmark"] = module
    spec.loader.exec_module(module)
    return module


SOME = [
    "abdomen_CPTAC-PDA-00189_noisy",
    "abdomen_CRLM-1006",
    "abdomen_TSexample_sm",
    "chest_ACRIN-013",
    "chest_RIDER-0117",
    "chest_TSaorta",
    "headneck_ACRIN-001_defaced",
]


@pytest.mark.slow
def test_real_scans_and_crops_of_them(data_dir: Path) -> None:
    regions = benchmark()
    total: dict[str, list[float]] = {}
    for seed, name in enumerate(SOME):
        volume = regions.read(data_dir / f"{name}_ct.nii.gz")
        for kind, parts in regions.shares(volume, regions.TRUTH[name], 1, 100 + seed).items():
            total.setdefault(kind, []).extend(part.mean() for part in parts)
    assert [len(total[kind]) for kind in ("whole", "along z", "in plane")] == [7, 7, 7]
    for kind, each in total.items():
        assert np.mean(each) >= 0.95, (kind, each)


@pytest.mark.parametrize("name", ["limb_STS-001", "limb_STS-003"])
def test_limbs_are_not_sure(data_dir: Path, name: str) -> None:
    (slab,) = found(benchmark().read(data_dir / f"{name}_ct.nii.gz"))
    assert "no region is certain" in slab.reason
