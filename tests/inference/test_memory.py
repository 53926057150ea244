"""The memory that a run may take decides where its result is kept, never what it is."""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from denovox.core import on_disk as files
from denovox.core import process
from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.core.operators.coloured_noise import WHITE, Spectrum
from denovox.core.operators.thin_slices import thin
from denovox.core.volume import Volume
from denovox.inference import memory
from denovox.inference.anomaly.calibration import AnomalyMethod
from denovox.inference.anomaly.components import ComponentLimits, components
from denovox.inference.anomaly.detection import calibrate, detect
from denovox.inference.model import Model
from denovox.inference.options import RunOptions
from denovox.inference.scan_context import ScanContext
from denovox.io import nifti
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.scan.body_regions import RegionSpan
from denovox.scan.noise import RegionNoise

CONFIG = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0))


def smooth(x, sigma, condition):
    """A denoiser that is not local, so that it matters where tiles lie."""
    return x.roll(1, 2) * 0.5 + x.roll(1, 4) * 0.25


def body(shape=(72, 60, 44)) -> Volume:
    """Water in air, and noise: tiles at the border hold nothing but air."""
    rng = np.random.default_rng(0)
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.2, 40.0, -1000.0) + 20 * rng.standard_normal(shape)
    return Volume(hu.astype(np.float32), np.diag([3.0, 3.0, 3.0, 1.0]))


def known(volume: Volume, spectrum: Spectrum) -> ScanContext:
    context = ScanContext(volume, "abdomen", 20.0)
    noise = RegionNoise("abdomen", 0, volume.shape[2], 20.0, spectrum)
    context.__dict__["noise"] = (noise,)
    return context


@pytest.fixture
def mapped(monkeypatch) -> list[int]:
    """Sizes of the arrays that were put on disk."""
    sizes = []

    def noted(shape, dtype):
        sizes.append(int(np.prod(shape)))
        return on_disk(shape, dtype)

    on_disk = memory.on_disk
    monkeypatch.setattr(memory, "on_disk", noted)
    return sizes


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_a_result_on_disk_has_the_same_bits(dtype, mapped, monkeypatch):
    volume = body()
    volume = volume.with_hu(volume.hu.astype(dtype))
    model = Model(smooth, CONFIG, Path("none"), "cpu")
    results = []
    for free_mb in (1e6, 1e-3):
        monkeypatch.setattr("denovox.inference.options.free_mb", lambda free_mb=free_mb: free_mb)
        result = model.denoise(volume, options=RunOptions(tile=32), context=known(volume, WHITE))
        results.append(np.array(result.hu))
    assert mapped == [volume.hu.size]
    assert results[0].dtype == results[1].dtype == dtype
    np.testing.assert_array_equal(results[0], results[1])
    assert not np.array_equal(results[0], volume.hu)


@pytest.mark.slow
def test_tiles_without_a_voxel_to_change_are_skipped_and_nothing_else_changes(monkeypatch):
    volume, results, counts = body(), [], []
    for skips in (True, False):
        seen = []

        def counted(x, sigma, condition, seen=seen):
            seen.append(len(x))
            return smooth(x, sigma, condition)

        if not skips:
            monkeypatch.setattr("denovox.inference.denoise._Work.needed", lambda work, z: None)
            work = "denovox.inference.denoise.Engine.means"
            monkeypatch.setattr(work, lambda *given, means=Model.means: means(*given[:-1]))
        model = Model(counted, CONFIG, Path("none"), "cpu")
        context = known(volume, WHITE)
        results.append(model.denoise(volume, options=RunOptions(tile=24), context=context).hu)
        counts.append(sum(seen))
    np.testing.assert_array_equal(results[0], results[1])
    assert counts[0] < 0.8 * counts[1]


@pytest.fixture
def on_disk(monkeypatch):
    """Within it no array fits into memory."""

    def force() -> None:
        monkeypatch.setattr("denovox.inference.options.free_mb", lambda: 1e-3)

    return force


@pytest.mark.slow
@pytest.mark.parametrize("control", [None, "low-resolution"])
def test_thin_slices_have_the_same_bits_on_disk(control, on_disk, mapped):
    def denoise(x, sigma, condition):
        more = 0 if condition.control is None else 0.1 * condition.control
        return smooth(x, sigma, condition) + more

    volume = body((40, 36, 12))
    model = Model(denoise, CONFIG, Path("none"), "cpu", control)
    options = RunOptions(tile=24)
    kept = model.superres(volume, 3, region="abdomen", evaluations=2, options=options)
    assert not mapped
    on_disk()
    got = model.superres(volume, 3, region="abdomen", evaluations=2, options=options)
    assert mapped == [40 * 36 * 36, 40 * 36 * 12, 40 * 36 * 36]
    np.testing.assert_array_equal(got.hu, kept.hu)
    assert got.consistency == kept.consistency


@pytest.mark.slow
@pytest.mark.parametrize("steps", [1, 2])
def test_z_scores_are_the_same_on_disk(steps, tiny, on_disk, mapped):
    volume = body((44, 40, 30))
    volume.hu[20:24, 18:22, 12:16] += 150
    model = Model(smooth, CONFIG, tiny, "cpu")
    options, context = RunOptions(tile=24), ScanContext(volume, "abdomen")
    method = AnomalyMethod(steps=steps, anatomy=True)
    healthy = calibrate(model, ScanContext(body((44, 40, 30)), "abdomen"), method, None, options)
    kept = detect(model, context, healthy, options=options)
    assert not mapped
    on_disk()
    got = detect(model, context, healthy, options=options)
    assert mapped == [volume.hu.size] * 2 + [mapped[2]]
    # Fewer slices at a time, and a BLAS may sum matrices of another size in another order.
    np.testing.assert_allclose(got.z.hu, kept.z.hu, rtol=0, atol=2e-5)
    assert kept.components
    for one, other in zip(got.components, kept.components, strict=True):
        numbers = ("volume_ml", "centre_mm", "peak_z", "mean_hu", "contrast_hu", "mean_z")
        for name in numbers:
            assert getattr(one, name) == pytest.approx(getattr(other, name), rel=1e-5)
        assert (one.region, one.tissue) == (other.region, other.tissue)
    assert got.score == pytest.approx(kept.score, rel=1e-5)


def test_no_more_than_three_copies_of_a_volume_are_in_memory(monkeypatch):
    monkeypatch.setattr("denovox.inference.options.free_mb", lambda: 1e6)
    copy_mb, said = 4 * 512**2 * 300 / 1e6, []
    options = RunOptions(say=said.append)
    room = memory.Room.beside((512, 512, 300), 1.5 * copy_mb, 100, options)
    assert room.left_mb == pytest.approx(max(1.5 * copy_mb, memory.LEAST_MB))
    large = memory.Room.beside((512, 512, 1200), 6 * copy_mb, 100, options)
    assert large.left_mb == pytest.approx(6 * copy_mb)
    assert large.kept_mb([(512, 512, 1200), (512, 512, 900), (512, 512, 600)]) == pytest.approx(
        6 * copy_mb  # the first and the last
    )


def test_parts_of_a_run_share_its_room_one_after_another():
    room = memory.Room(10.0, print)
    room.zeros((100, 100, 100))
    part = room.part()
    part.zeros((100, 100, 100))
    assert (room.left_mb, part.left_mb) == (6.0, 2.0)


def test_a_budget_that_does_not_suffice_is_refused_before_the_network_runs():
    def never(x, sigma, condition):
        raise AssertionError

    volume = body()
    model = Model(never, CONFIG, Path("none"), "cpu")
    with pytest.raises(InputError, match=r"takes about \d+\.\d GB of memory, but --memory allows"):
        model.denoise(volume, "abdomen", 20.0, options=RunOptions(memory="1MB"))


@pytest.mark.parametrize(
    ("given", "mb"),
    [("4GB", 4000), ("512 MB", 512), ("1GiB", 2**30 / 1e6), (2e9, 2000), ("0.5g", 500)],
)
def test_amounts_of_memory(given, mb):
    assert process.megabytes(given) == pytest.approx(mb, rel=1e-12)


@pytest.mark.parametrize("given", ["", "four", "4 apples", "-1GB", "0", "nan", "1e400GB"])
def test_other_amounts_are_refused(given):
    with pytest.raises(InputError, match="not an amount of memory; give one such as 4GB"):
        RunOptions(memory=given)


def groups(root: Path, version: int, limits: dict[str, str]) -> Path:
    """Files of control groups; limits: of each folder below the top."""
    top = root if version == 2 else root / "memory"
    names = ("memory.max", "memory.current")
    names = names if version == 2 else ("memory.limit_in_bytes", "memory.usage_in_bytes")
    for folder, limit in limits.items():
        (top / folder).mkdir(parents=True, exist_ok=True)
        for name, text in zip(names, (limit, "1000000000"), strict=True):
            (top / folder / name).write_text(text + "\n")
        (top / folder / "memory.stat").write_text("anon 5\ninactive_file 200000000\n")
    own = root / "own"
    own.write_text("0::/a/b\n" if version == 2 else "9:cpu,cpuacct:/a\n7:memory:/a/b\n")
    return own


@pytest.mark.parametrize("version", [1, 2])
def test_control_groups_bound_what_is_free(tmp_path, version):
    limits = {"a/b": "max" if version == 2 else str(2**63 - 4096), "a": "3000000000"}
    left = process._left_in_groups(tmp_path, groups(tmp_path, version, limits))
    assert min(left) == pytest.approx(3000 - 1000 + 200)  # cached pages can be dropped
    limits["a/b"] = "500000000"
    left = process._left_in_groups(tmp_path, groups(tmp_path, version, limits))
    assert min(left) == 1e-6  # more than that is already taken


def test_what_is_free_is_less_than_the_machine_has():
    assert 0 < process.free_mb() <= os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 1e6


def test_an_array_on_disk_keeps_its_values_when_its_memory_is_released():
    said = []
    room = memory.Room(0.0, said.append)
    held = room.zeros((300, 200, 100))
    assert said == ["memory: volumes of 0.0 GB are kept on disk during the run"]
    assert not held.any()
    held[...] = np.arange(100)
    before = process.resident_mb()
    room.release()
    assert before - process.resident_mb() > 0.8 * held.nbytes / 1e6
    np.testing.assert_array_equal(held, np.broadcast_to(np.arange(100), held.shape))
    assert files.mapped(held[:5, ::2].T) is files.mapped(held) is not None
    assert files.mapped(np.zeros(3)) is None


def test_writing_and_comparing_let_go_of_a_volume_on_disk(tmp_path):
    """Not only what is computed, but also what reads it, must not bring it into memory."""
    held = files.on_disk((400, 200, 160), np.float32)
    held[...] = np.arange(160)
    scan = Volume(held, np.diag([1.0, 1.0, 1.0, 1.0]))
    thick = Volume(np.ascontiguousarray(held[..., 1::4]) + np.float32(0.5), scan.affine)
    fine = thin(thick, (0.1, 6.0), factor=4)
    for read in (lambda: nifti.write(scan, tmp_path / "ct.nii"), lambda: fine.compare(scan, thick)):
        files.release(held)
        process.return_freed()
        before = process.resident_mb()
        read()
        process.return_freed()
        assert process.resident_mb() - before < 0.5 * held.nbytes / 1e6
    np.testing.assert_array_equal(nifti.read(tmp_path / "ct.nii").hu, held)


def test_components_let_go_of_maps_on_disk():
    z, contrast_hu = (files.on_disk((300, 200, 160), np.float32) for _ in range(2))
    z[100:110, 100:110, 20:140] = 5  # in every slice but few
    contrast_hu[...] = 50
    coarse = np.full(z.shape, ID["body"], np.uint8)
    scan = Volume(z, np.eye(4))
    for each in (z, contrast_hu):
        files.release(each)
    process.return_freed()
    before = process.resident_mb()
    spans = (RegionSpan("chest", 0, 160, ""),)
    limits = ComponentLimits(4.0, 0)
    (found,) = components(scan, contrast_hu, limits, contrast_hu, coarse, spans)
    process.return_freed()
    assert process.resident_mb() - before < 0.5 * z.nbytes / 1e6
    assert (found.volume_ml, found.peak_z, found.contrast_hu) == (12, 5, 50)


def test_rows_of_an_array_on_disk_take_little_memory():
    """Linux would map more around each of them, up to the whole array."""
    room = memory.Room(0.0, lambda line: None)
    held = room.zeros((512, 512, 200))
    before = process.resident_mb()
    for rows in (slice(0, 16), slice(16, 32)):
        held[:, rows] = 1
    assert process.resident_mb() - before < 0.2 * held.nbytes / 1e6
    room.release()
    before = process.resident_mb()
    assert (held[:, 16:32] == 1).all()
    assert process.resident_mb() - before < 0.2 * held.nbytes / 1e6


def test_a_disk_without_room_is_an_input_error(monkeypatch):
    def full(file, count):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(files, "reserve", full)
    with pytest.raises(InputError, match=r"no room for 2\.4 GB of the result .*set TMPDIR"):
        files.on_disk((1000, 1000, 600), np.float32)


def test_half_of_what_is_free_is_the_default(monkeypatch):
    monkeypatch.setattr("denovox.inference.options.free_mb", lambda: 6000.0)
    assert RunOptions().allowance_mb() == 3000
    given = replace(RunOptions(), memory="4GB").allowance_mb()
    assert given == pytest.approx(4000 - process.resident_mb(), abs=20)
