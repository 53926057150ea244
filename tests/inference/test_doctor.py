"""denovox.inference.doctor and cost: one report of a scan, whatever becomes of it."""

from __future__ import annotations

import gzip
import json
import math
import re
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import dicom_cases as cases
import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.core.operators.coloured_noise import WHITE
from denovox.core.process import resident_mb
from denovox.core.volume import Volume
from denovox.inference import doctor, scan_context
from denovox.inference import model as api
from denovox.inference.anomaly.calibration import AnomalyMethod, Calibration, empty
from denovox.inference.cost import commands
from denovox.inference.cost.commands import Noise, Scan, works
from denovox.inference.cost.estimate import START_S, cost, costs
from denovox.inference.cost.timing import TileTiming, _Watch, time_tile
from denovox.inference.frame import working_grid
from denovox.inference.options import RunOptions
from denovox.inference.region_blend import blend_parts
from denovox.io import formats, nifti
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
    return time_tile(api.load(path, "cpu"), 32, 0.01)


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
    assert [(one.command, one.method) for one in report.costs] == [
        ("denoise", "mean"),
        ("denoise", "diffpir"),
        ("superres", "slices halved"),
    ]
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
        "cost    denoise, mean: ",
        "cost    superres, slices halved: ",
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
        *("command", "method", "evaluations", "tiles", "tile", "seconds", "memory_mb", "device_mb")
    }
    words = {"path", "verdict", "code", "severity", "sentence", "advice", "file_axes"}
    words |= {"region", "reason", "command", "method"}

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


def halves(count: int, borders: tuple[float, ...], top: str = "chest") -> tuple[RegionSpan, ...]:
    """A region, or an abdomen below it; borders: shares of the scan."""
    names = ("abdomen", top)[-len(borders) + 1 :]
    ends = [round(share * count) for share in borders]
    return tuple(RegionSpan(*each, "") for each in zip(names, ends, ends[1:], strict=False))


def calibrations(path: Path, *regions: str, **method: int) -> tuple[Calibration, ...]:
    """Of the weights in a file, for the bundled ones."""
    digest = weights.describe(path)[2]
    ones = [empty(region, AnomalyMethod(**method), digest) for region in regions]
    return tuple(one.model_copy(update={"millilitres": (1.0,) * 96}) for one in ones)


@dataclass
class Counting:
    """A denoiser that changes nothing, and the tiles that it was called with."""

    tiles: list[tuple[int, ...]] = field(default_factory=list)

    def __call__(self, x: Any, sigma: float, told: Any) -> Any:
        self.tiles.append(tuple(x.shape[2:]))
        return x


RUNS: dict[str, Callable[[api.Model, Volume, RunOptions], object]] = {
    "mean": lambda model, ct, options: model.denoise(ct, options=options),
    "diffpir": lambda model, ct, options: model.denoise(ct, method="diffpir", options=options),
    "slices halved": lambda model, ct, options: model.superres(ct, 2, options=options),
    "bundled calibrations": lambda model, ct, options: model.detect(ct, options=options),
}
EVALUATIONS = {"mean": 2, "diffpir": 10, "slices halved": 5, "bundled calibrations": 2}
BORDERS = {"one region": (0, 1), "torso": (0, 0.42, 1), "resampled": (0, 1), "oblique": (0, 1)}


def oblique() -> Volume:
    """A slab of water across the corners: some tiles are nothing but air. Noise varies along x."""
    x, y = np.indices((90, 90))
    hu = np.where(abs(x - y) < 14, 40.0, -1000.0)[..., None].repeat(40, 2)
    noise = np.random.default_rng(0).standard_normal(hu.shape)
    noise *= np.linspace(10, 30, 90)[:, None, None]
    return Volume((hu + noise).astype(np.float32), np.diag([5.0, 5.0, 5.0, 1.0]))


@pytest.mark.slow
@pytest.mark.parametrize("name", BORDERS)
@pytest.mark.parametrize("method", RUNS)
def test_tiles_are_counted_as_they_are_evaluated(
    chest: Volume, timing: TileTiming, name: str, method: str, monkeypatch: Any
) -> None:
    if name == "resampled":  # in plane, where super-resolution keeps its own slices
        chest = phantom.add_noise(phantom.chest((54, 40, 48), (7.0, 7.0, 5.0)).ct, 20.0, 0)
    if name == "oblique":
        chest = oblique()
    own = working_grid(chest, timing.model.config.spacing_mm) == chest.shape
    assert own == (name != "resampled")
    top = "abdomen" if name == "oblique" else "chest"  # whose window air is far below
    regions = lambda volume, *_: halves(volume.shape[2], BORDERS[name], top)  # noqa: E731
    monkeypatch.setattr(scan_context, "region_spans", regions)
    monkeypatch.setattr(scan_context, "noise_in", lambda *_: (20.0, WHITE))
    known = calibrations(timing.model.path, "abdomen", "chest")
    for module in (api, commands):
        monkeypatch.setattr(module, "bundled", lambda: known)
    spans, coarse = regions(chest), anatomy.coarse(chest)
    noise = tuple(
        Noise(20.0, noise_map(chest.slices(part.z), coarse[..., part.z]))
        for part in blend_parts(spans, chest.spacing_mm[2])
    )
    assert all(of.variation is not None and of.variation.values.std() > 0.05 for of in noise)
    scan = Scan(chest, coarse, spans, noise)
    (work,) = [one for one in works(timing.model, scan, 32) if one.method == method]
    count = Counting()
    model = api.Model(count, timing.model.config, timing.model.path, "cpu")
    RUNS[method](model, chest, RunOptions(tile=32))
    assert len(count.tiles) > 4
    assert work.plan.count == len(count.tiles)
    assert work.plan.voxels == sum(map(math.prod, count.tiles))
    assert work.plan.shapes == set(count.tiles)
    assert work.plan.evaluations == EVALUATIONS[method]
    told = cost(timing, scan, work)
    assert (told.method, told.tiles) == (method, len(count.tiles))
    assert math.prod(told.tile) == max(map(math.prod, count.tiles))
    per_voxel = timing.seconds / math.prod(timing.tile)
    want = START_S + work.plan.voxels * per_voxel + math.prod(work.shape) * work.voxel_s
    assert told.seconds == pytest.approx(want, rel=1e-9)


@pytest.mark.parametrize("method", [{}, {"steps": 2, "seeds": 1}], ids=["default", "steps"])
def test_detection_is_told_for_calibrated_regions_alone(
    chest: Volume, timing: TileTiming, method: dict[str, int], monkeypatch: Any
) -> None:
    path, coarse = timing.model.path, anatomy.coarse(chest)
    spans = halves(48, (0, 0.42, 1))

    def voxels(*known: Calibration, own: tuple[RegionSpan, ...] = spans) -> list[int]:
        monkeypatch.setattr(commands, "bundled", lambda: known)
        told = [*works(timing.model, Scan(chest, coarse, own), 32)]
        assert [one.command for one in told][:3] == ["denoise", "denoise", "superres"]
        return [one.plan.voxels for one in told if one.command == "detect"]

    of_chest = calibrations(path, "chest", **method)
    count = Counting()
    model = api.Model(count, timing.model.config, path, "cpu")
    monkeypatch.setattr(scan_context, "region_spans", lambda *_: spans)
    model.detect(chest, calibrations=of_chest, options=RunOptions(tile=32))
    assert voxels(*of_chest) == [sum(map(math.prod, count.tiles))]
    assert voxels(*of_chest) < voxels(*calibrations(path, "abdomen", "chest", **method))
    # No row: other regions, other weights, nothing bundled.
    assert voxels(*of_chest, own=(RegionSpan("headneck", 0, 48, ""),)) == []
    assert voxels(of_chest[0].model_copy(update={"weights": "ab" * 32})) == []
    assert voxels() == []


@pytest.mark.parametrize(("z_mm", "told"), [(0.7, False), (1.3, False), (1.4, True), (20.0, False)])
def test_super_resolution_is_told_where_it_is_not_refused(
    chest: Volume, timing: TileTiming, z_mm: float, told: bool
) -> None:
    assert timing.model.config.spacing_mm == (0.7, 6.0)
    ct = Volume(chest.hu, np.diag([5.0, 5.0, z_mm, 1.0]))
    scan = Scan(ct, anatomy.coarse(chest), halves(48, (0, 1)))
    found = [one for one in costs(timing, scan, 32) if one.command == "superres"]
    assert bool(found) == told
    if not told:
        model = api.Model(Counting(), timing.model.config, Path("none"), "cpu")
        with pytest.raises(InputError, match="the model supports spacings"):
            model.superres(ct, 2)


@pytest.mark.slow
def test_the_thickness_in_a_header_decides_how_many_slices_there_are(
    tmp_path: Path, timing: TileTiming, monkeypatch: Any
) -> None:
    for module in (doctor, scan_context):
        one = lambda volume, *_: halves(volume.shape[2], (0, 1))  # noqa: E731
        monkeypatch.setattr(module, "region_spans", one)
    hu = phantom.add_noise(phantom.chest((38, 28, 30), (10.0, 10.0, 4.0)).ct, 20.0, 0).hu
    hu = np.rint(hu).clip(-1024).astype(np.int16)
    tags = {"SliceThickness": 20}  # they overlap, and so reach farther than slices of 4 mm
    cases.series(tmp_path, hu, spacing=(10, 10, 4), tags=tags)
    report = doctor.examine(tmp_path, timing=timing)
    (told,) = [one.tiles for one in report.costs if one.command == "superres"]
    count = Counting()
    model = api.Model(count, timing.model.config, Path("none"), "cpu")
    thin = model.superres(formats.read(tmp_path), 2)
    assert thin.shape[2] == 68  # 60 of slices as thick as their spacing, in half as many tiles
    assert told == len(count.tiles) == 10


def test_a_cost_reads_as_a_sentence(chest: Volume, timing: TileTiming) -> None:
    scan = Scan(chest, anatomy.coarse(chest), halves(48, (0, 1)))
    timing = replace(timing, seconds=0.01)  # a busy machine would take minutes
    found = {one.command: str(one) for one in costs(timing, scan)}
    whole = r"superres, slices halved: \d+ tiles \(5 evaluations\), about \d+ s, \d+ MB"
    assert re.fullmatch(whole, found["superres"])
    one = costs(timing, scan)[0].model_copy(update={"tiles": 1, "evaluations": 1, "seconds": 150})
    assert str(one).startswith("denoise, mean: 1 tile (1 evaluation), about 2 min, ")
    assert str(one.model_copy(update={"device_mb": 70.0})).endswith(" and 70 MB of GPU memory")


def test_memory_grows_with_the_scan_and_the_tile(chest: Volume, timing: TileTiming) -> None:
    known = Scan(chest, anatomy.coarse(chest), halves(48, (0, 1)))
    large = Volume(np.tile(chest.hu, (3, 3, 3)), chest.affine)
    big = Scan(large, np.tile(known.coarse, (3, 3, 3)), halves(144, (0, 1)))
    before, after = costs(timing, known, 32), costs(timing, big, 32)
    grown = (large.hu.size - chest.hu.size) * 4 / 1e6
    # HU and the result; HU, thick data, a layer of tiles and, with twice as many slices, the
    # interpolation, the change and the sampler.
    at_least = {"denoise": 2, "superres": 9}
    for one, two in zip(before, after, strict=True):
        assert two.memory_mb - one.memory_mb > at_least[one.command] * grown
        assert one.memory_mb > timing.resident_mb + chest.hu.nbytes / 1e6
        assert two.device_mb == 0


def test_memory_is_seen_while_it_is_held() -> None:
    before = resident_mb()
    with _Watch() as watch:
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
