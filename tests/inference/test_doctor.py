"""denovox.inference.doctor and cost: one report of a scan, whatever becomes of it."""

from __future__ import annotations

import gzip
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from denovox.core.operators.coloured_noise import WHITE
from denovox.core.volume import Volume
from denovox.inference import cost, doctor, scan_context
from denovox.inference import model as api
from denovox.inference.cost import TileTiming
from denovox.inference.options import RunOptions
from denovox.inference.region_blend import blend_parts
from denovox.io import nifti
from denovox.model import weights
from denovox.model.presets import PRESETS
from denovox.scan import anatomy
from denovox.scan.body_regions import RegionSpan, region_spans
from denovox.scan.noise_level import estimate_noise_hu
from denovox.scan.noise_map import noise_map
from denovox.simulate import phantom

SHAPE = (76, 56, 48)


@pytest.fixture(scope="module")
def timing(tmp_path_factory: pytest.TempPathFactory) -> TileTiming:
    """A window of a network that has learnt nothing, tried."""
    path = tmp_path_factory.mktemp("weights") / "fresh.safetensors"
    config = weights.ModelConfig(net=PRESETS["tiny"])
    weights.save(path, config.build().state_dict(), config, {})
    return cost.time_tile(api.load(path, "cpu"), 32, 0.01)


@pytest.fixture(scope="module")
def chest() -> Volume:
    """A noisy phantom."""
    return phantom.add_noise(phantom.chest(SHAPE, 5.0).ct, 20.0, 0)


def verdicts(report: doctor.Report) -> dict[str, str]:
    return {one.code: one.severity for one in report.findings}


@pytest.mark.slow
def test_a_good_scan_is_told_in_full(tmp_path: Path, chest: Volume, timing: TileTiming) -> None:
    nifti.write(chest, tmp_path / "ct.nii.gz")
    report = doctor.examine(tmp_path / "ct.nii.gz", timing=timing)
    assert report.verdict in ("ok", "note")
    assert report.values is not None
    assert report.geometry is not None
    assert report.view is not None
    assert report.geometry.shape == SHAPE
    assert report.geometry.spacing_mm == pytest.approx((5, 5, 5))
    assert verdicts(report)["hu"] == "ok"
    volume = nifti.read(tmp_path / "ct.nii.gz")
    slabs = region_spans(volume, anatomy.coarse(volume))
    assert [(one.region, one.start, one.stop, one.reason) for one in report.regions] == [
        (slab.region, slab.start, slab.stop, slab.reason) for slab in slabs
    ]
    assert [one.method for one in report.costs] == ["mean", "diffpir"]
    for one in report.regions:
        own = slice(one.start, one.stop)
        part = Volume(volume.hu[..., own], volume.affine)
        assert one.noise_hu == estimate_noise_hu(part, anatomy.coarse(volume)[..., own])
    text = str(report)
    for part in (
        "ct.nii.gz",
        "in HU: peaks at air",
        "stored as RAS",
        "chest, slices",
        "evaluations",
    ):
        assert part in text


def test_json_holds_numbers_under_stable_keys(
    tmp_path: Path, chest: Volume, timing: TileTiming
) -> None:
    nifti.write(chest, tmp_path / "ct.nii")
    report = doctor.examine(tmp_path / "ct.nii", timing=timing)
    told: dict[str, Any] = json.loads(report.model_dump_json())
    assert set(told) == {
        *("path", "verdict", "findings", "values", "geometry", "stacking", "view", "regions"),
        "costs",
    }
    assert set(told["costs"][0]) == {
        *("method", "evaluations", "tiles", "tile", "seconds", "memory_mb", "device_mb")
    }
    words = {"path", "verdict", "code", "severity", "sentence", "advice", "file_axes"}
    words |= {"region", "reason", "method"}

    def look(node: Any, key: str = "") -> None:
        if isinstance(node, dict):
            for name, value in node.items():
                look(value, name)
        elif isinstance(node, list):
            for value in node:
                look(value, key)
        else:
            assert isinstance(node, str) == (key in words)

    look(told)
    assert doctor.Report.model_validate(told) == report


def put(path: Path, content: bytes) -> None:
    path.write_bytes(content)


REFUSED: dict[str, tuple[Callable[[Path, Volume], None], str, str]] = {
    "missing": (lambda path, ct: None, "read", "does not exist"),
    "text": (lambda path, ct: put(path, b"no scan"), "read", "is not a NIfTI"),
    "cut": (
        lambda path, ct: (nifti.write(ct, path), put(path, path.read_bytes()[:9999]))[1],
        "read",
        "truncated",
    ),
    "packed junk": (lambda path, ct: put(path, gzip.compress(b"junk")), "read", "not a NIfTI"),
    "intercept lost": (
        lambda path, ct: nifti.write(ct.with_hu(ct.hu + 1024), path),
        "shifted",
        "+1024",
    ),
    "no air": (
        lambda path, ct: nifti.write(ct.with_hu(np.clip(ct.hu, 0, 80)), path),
        "grey_levels",
        "8-bit",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_used_gets_a_report_and_no_crash(
    tmp_path: Path, chest: Volume, timing: TileTiming, name: str
) -> None:
    make, code, said = REFUSED[name]
    path = tmp_path / "ct.nii"
    make(path, chest)
    report = doctor.examine(path, timing=timing)
    assert report.verdict == "refuse"
    assert verdicts(report)[code] == "refuse"
    assert (report.view, report.regions, report.costs) == (None, (), ())
    assert (report.geometry is None) == (code == "read")
    last = str(report).splitlines()[-1]
    assert last.startswith("  REFUSED")
    assert said in last


def test_without_a_timing_nothing_is_said_of_costs(tmp_path: Path, chest: Volume) -> None:
    nifti.write(chest, tmp_path / "ct.nii")
    report = doctor.examine(tmp_path / "ct.nii")
    assert report.costs == ()
    assert report.regions


def test_another_working_grid_is_told(tmp_path: Path, chest: Volume, timing: TileTiming) -> None:
    thick = Volume(chest.hu[..., ::2].copy(), chest.affine @ np.diag([1, 1, 2.0, 1]))
    nifti.write(thick, tmp_path / "ct.nii")
    report = doctor.examine(tmp_path / "ct.nii", timing=timing)
    (said,) = [one.sentence for one in report.findings if one.code == "resampled"]
    assert "76 x 56 x 40 voxels" in said  # 24 slices of 10 mm, as 40 of 6 mm


@pytest.mark.slow
def test_a_tilted_series_is_refused_with_tilt_and_gaps(data_dir: Path) -> None:
    path = data_dir.parent / "dicom" / "ge-head-tilted"
    report = doctor.examine(path)
    assert verdicts(report) == {"tilt": "note", "gaps": "note", "read": "refuse"}
    (series,) = report.stacking
    assert series.slices == 28
    assert series.tilt_degrees == pytest.approx(18.5, abs=0.05)
    assert {round(mm, 2) for mm, _ in series.gaps_mm} == {4, 1.08, 7}
    assert sum(count for _, count in series.gaps_mm) == 27
    assert doctor.examine(path, series="no such end").verdict == "refuse"
    straight = doctor.examine(path, straighten=True)
    assert straight.geometry is not None
    assert straight.geometry.sheared_degrees == pytest.approx(0, abs=1e-3)
    assert verdicts(straight)["tilt"] == "note"


@pytest.mark.slow
def test_a_straight_series_is_told_with_its_regions(data_dir: Path) -> None:
    report = doctor.examine(data_dir.parent / "dicom" / "kits-00072")
    assert report.verdict in ("ok", "note")
    assert report.stacking[0].slices == 18
    assert report.regions


# ---- costs --------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("method", ["mean", "diffpir"])
@pytest.mark.parametrize("borders", [(0, 48), (0, 20, 48)])
def test_windows_are_counted_as_they_are_evaluated(
    chest: Volume,
    timing: TileTiming,
    borders: tuple[int, ...],
    method: Any,
    monkeypatch: Any,
) -> None:
    names = ("abdomen", "chest")[-len(borders) + 1 :]
    slabs = tuple(
        RegionSpan(name, start, stop, "")
        for name, start, stop in zip(names, borders, borders[1:], strict=False)
    )
    seen: list[int] = []
    shapes: set[Any] = set()

    def counting(x: Any, sigma: float, told: Any) -> Any:
        seen.append(math.prod(x.shape))
        shapes.add(tuple(x.shape[2:]))
        return x

    model = api.Model(counting, timing.model.config, Path("none"), "cpu")
    monkeypatch.setattr(scan_context, "region_spans", lambda *_: slabs)
    monkeypatch.setattr(scan_context, "noise_in", lambda *_: (20.0, WHITE))
    coarse = anatomy.coarse(chest)
    noise = tuple(
        cost.Noise(20.0, noise_map(chest.slices(part.z), coarse[..., part.z]))
        for part in blend_parts(slabs, chest.spacing_mm[2])
    )
    assert all(of.variation.values.std() > 0.05 for of in noise)
    model.denoise(chest, method=method, options=RunOptions(tile=32))
    told = cost.cost(timing, chest, slabs, method, edge=32, noise=noise)
    assert told.tiles == len(seen)
    assert told.evaluations == (10 if method == "diffpir" else 2)
    assert math.prod(told.tile) == math.prod(max(shapes, key=math.prod))
    assert cost.plan(timing.model, chest, slabs, method, 32, noise).shapes == shapes
    per_voxel = timing.seconds / math.prod(timing.tile)
    want = cost.START_S + sum(seen) * per_voxel + chest.hu.size * cost.VOXEL_S
    assert told.seconds == pytest.approx(want, rel=1e-9)


def test_memory_grows_with_the_scan_and_the_tile(chest: Volume, timing: TileTiming) -> None:
    slabs = (RegionSpan("chest", 0, 48, ""),)
    large = Volume(np.tile(chest.hu, (3, 3, 3)), chest.affine)
    big = (RegionSpan("chest", 0, 144, ""),)
    one = cost.cost(timing, chest, slabs, "mean", edge=32)
    two = cost.cost(timing, large, big, "mean", edge=32)
    grown = (large.hu.size - chest.hu.size) * 4 / 1e6
    assert two.memory_mb - one.memory_mb > 2 * grown  # HU, the result, and what is between
    assert one.memory_mb > timing.resident_mb + chest.hu.nbytes / 1e6
    assert two.device_mb == 0


def test_memory_is_seen_while_it_is_held() -> None:
    before = cost.resident_mb()
    with cost._Watch() as watch:
        held = np.ones(2**24)  # 134 MB
        del held
    assert watch.highest_mb - before > 100


@pytest.mark.slow
def test_a_frame_of_tissue_is_reported_and_left_out(tmp_path: Path, chest: Volume) -> None:
    reports = {}
    for fill in (0, -1024):
        hu = np.pad(chest.hu, ((6, 6), (9, 0), (0, 0)), constant_values=fill)
        nifti.write(Volume(np.rint(hu), chest.affine), tmp_path / f"{fill}.nii.gz")
        reports[fill] = doctor.examine(tmp_path / f"{fill}.nii.gz")
    share = float((hu == -1024).mean())
    filled, air = (reports[fill] for fill in (0, -1024))
    (found,) = (one for one in filled.findings if one.code == "fill")
    assert found.severity == "note"
    assert found.sentence.startswith(f"{share:.0%} of the voxels are exactly 0 HU")
    assert "fill" not in verdicts(air)
    assert filled.regions == air.regions
    assert filled.view == air.view
    assert verdicts(filled)["hu"] == "ok"
