"""A folder -> a store: regions, masks, grids, patients; every scan ends as cases or is named."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Generator
from pathlib import Path

import nibabel
import numpy as np
import pytest
from filelock import FileLock
from tiny_store import tree

from denovox.core import labels
from denovox.core.errors import InputError
from denovox.core.labels import ID
from denovox.core.volume import Volume
from denovox.datasets import manifest, prepare, store
from denovox.datasets.executors import here
from denovox.datasets.prepare import PrepareConfig, bring, digest, on_grid
from denovox.datasets.source_scans import Entry
from denovox.io import nifti
from denovox.simulate.phantom import add_noise, chest, draw

SHAPE = (24, 22, 10)
AFFINE = np.diag([-4.0, -4.0, 5.0, 1.0])  # LPS, as most files are
PLAIN = PrepareConfig()


Job = Callable[[Entry], str]


def run(source: Path, target: Path, config: PrepareConfig = PLAIN, **more: object) -> list[str]:
    return list(prepare.prepare(source, target, config, here, **more))


@pytest.fixture
def source(tmp_path):
    """Three scans: an abdomen with a mask, a chest, a limb."""
    folder = tmp_path / "scans"
    folder.mkdir()
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in SHAPE), indexing="ij")
    grain = np.random.default_rng(0).integers(-9, 10, SHAPE)  # or it would be blank
    hu = (np.where(x**2 + y**2 < 0.7, 40, -1000) + grain).astype(np.int16)
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:14, 10:14, 2:6] = 1
    mask[8:10, 10:14, 2:6] = 2
    entries = []
    for name, region, patient in (("t", "abdomen", "A"), ("c", "chest", "B"), ("l", "limb", "C")):
        hu[2, 3, 4] = 77 + len(entries)  # tells where this voxel goes, and scans apart
        nibabel.Nifti1Image(hu, AFFINE).to_filename(folder / f"{name}.nii.gz")
        entries.append({"id": name, "file": f"{name}.nii.gz", "region": region, "patient": patient})
    nibabel.Nifti1Image(mask, AFFINE).to_filename(folder / "t_organs.nii.gz")
    entries[0]["masks"] = {"t_organs": {"1": "liver", "2": "a thing without a name"}}
    (folder / "index.json").write_text(json.dumps(entries))
    return folder


def test_what_goes_in_comes_out(source, tmp_path):
    run(source, tmp_path / "store")
    chest_case, torso = store.cases(tmp_path / "store")
    assert (chest_case.facts.id, torso.facts.id) == ("c/chest", "t/abdomen")
    assert torso.facts.patient == "A"
    assert torso.facts.spacing_mm == (4.0, 4.0, 5.0)
    # x and y of an LPS file run the other way in RAS.
    assert torso.voxels()[SHAPE[0] - 1 - 2, SHAPE[1] - 1 - 3, 4] == 77
    anatomy = torso.voxels("anatomy")[...]
    liver = np.argwhere(anatomy == ID["liver"])
    assert liver.min(0).tolist() == [10, 8, 2]
    assert liver.max(0).tolist() == [13, 11, 5]
    # What the table cannot name falls to what thresholds say; nothing is left without a label.
    assert {ID["body"], ID["outside"]} <= set(np.unique(anatomy))
    assert ID["unknown"] not in np.unique(anatomy)


def test_the_manifest_says_where_a_case_comes_from(source, tmp_path):
    run(source, tmp_path / "store")
    rows = {row.id: row for row in manifest.read(tmp_path / "store")}
    row = rows["t/abdomen"]
    assert row.covers == ("liver",)
    assert row.labelled == pytest.approx(4 * 4 * 4 / np.prod(SHAPE), abs=1e-6)
    assert row.file == "t.nii.gz"
    assert row.sha256 == digest(source / "t.nii.gz")
    assert row.split == manifest.split_of("A")
    assert PrepareConfig.model_validate_json(row.settings) == PLAIN
    volume = nifti.read(source / "t.nii.gz")
    np.testing.assert_allclose(np.reshape(row.affine, (4, 4)), volume.affine)


def test_the_splits_of_an_index_are_the_stores(source, tmp_path):
    rows = json.loads((source / "index.json").read_text())
    rows[0]["use"], rows[1]["use"] = "evaluate", "validate"
    assert manifest.split_of("A") == manifest.split_of("B") == "train"
    (source / "index.json").write_text(json.dumps(rows))
    run(source, tmp_path / "store")
    found = {row.patient: row.split for row in manifest.read(tmp_path / "store")}
    assert found == {"A": "test", "B": "validation", "C": manifest.split_of("C")}


def test_no_name_stops_a_folder_and_all_are_in_the_manifest(source, tmp_path):
    """Latin-1 as unpacked from a ZIP of Windows, line breaks, and one that cannot be read."""
    folder, target = tmp_path / os.fsdecode(b"M\xfcller::x"), tmp_path / os.fsdecode(b"st\xf6re#?%")
    folder.mkdir()
    names = [b"M\xfcller.nii.gz", b"M\xf6ller.nii.gz", b"-a b\nc\t.nii.gz", b"x" * 248 + b".nii.gz"]
    for name, from_ in zip(names, ("t", "c", "l", "t"), strict=True):
        shutil.copy(source / f"{from_}.nii.gz", folder / os.fsdecode(name))
    (folder / os.fsdecode(b"broken\xff.nii.gz")).write_bytes(b"no scan")
    first = run(folder, target, PrepareConfig(), layout="folder")
    rows = manifest.read(target)
    assert {row.file for row in rows} == {
        r"M\xfcller.nii.gz", r"M\xf6ller.nii.gz", r"-a b\nc\t.nii.gz", f"{'x' * 248}.nii.gz",
        r"broken\xff.nii.gz",
    }  # fmt: skip
    (broken,) = (row for row in rows if row.file.startswith("broken"))
    assert r"broken\xff.nii.gz" in broken.aside
    assert len({row.id for row in rows}) == len(rows)
    again = run(folder, target, PrepareConfig(), layout="folder")
    assert any("5 of them already in the store" in text for text in again)
    assert manifest.read(target) == rows
    assert all(text.isprintable() for text in [*first, *again])
    for path in target.glob("*/entry.json"):  # as an earlier version, which stopped here, left them
        path.write_text(path.read_text().replace(r"M\\xfcller", r"M\udcfcller"))
    run(folder, target, PrepareConfig(), layout="folder")
    assert manifest.read(target) == rows


def test_what_is_blank_is_unknown_and_noted(source, tmp_path):
    """But where a mask names it: somebody has seen it there."""
    image = nibabel.load(source / "t.nii.gz")
    hu = np.asarray(image.dataobj).astype(np.int16)
    hu[:9], hu[20:, :2] = -777, -1024  # over half of the second value's mask; and padding
    nibabel.Nifti1Image(hu, AFFINE).to_filename(source / "t.nii.gz")
    mask = np.asarray(nibabel.load(source / "t_organs.nii.gz").dataobj).copy()
    mask[4:6, 3:9, 2:5] = 1
    nibabel.Nifti1Image(mask.astype(np.uint8), AFFINE).to_filename(source / "t_organs.nii.gz")
    run(source, tmp_path / "store")
    chest_case, torso = store.cases(tmp_path / "store")
    anatomy = torso.voxels("anatomy")[...][::-1, ::-1]  # LPS, as the file is
    assert torso.facts.id == "t/abdomen"
    named = mask == 1
    blank = np.zeros(SHAPE, bool)
    blank[:9] = True
    assert np.array_equal(anatomy == ID["unknown"], blank & ~named)
    assert np.array_equal(anatomy == ID["liver"], named)
    share = (blank & ~named).mean()
    outside, unknown = torso.facts.notes
    assert "exactly -777 HU and reach the border: treated as outside the scan" in outside
    assert unknown == f"{share:.0%} is blank (one constant value): labelled unknown"
    assert chest_case.facts.notes == ()


# ---- scans that cannot be used ------------------------------------------------------------------


def test_a_doubtful_scan_is_put_aside_with_the_reason(source, tmp_path):
    hu = np.full(SHAPE, 1000, np.int16)
    nibabel.Nifti1Image(hu, AFFINE).to_filename(source / "c.nii.gz")
    (source / "t.nii.gz").write_bytes(b"no scan")
    image = nibabel.load(source / "l.nii.gz")
    nibabel.Nifti1Image(image.get_fdata() + 1, AFFINE).to_filename(source / "more.nii.gz")
    entries = json.loads((source / "index.json").read_text())
    entries += [{"id": "ok", "file": "more.nii.gz", "region": "chest", "patient": "D"}]
    (source / "index.json").write_text(json.dumps(entries))
    said = run(source, tmp_path / "store")
    rows = {row.id: row.aside for row in manifest.read(tmp_path / "store")}
    assert "not in HU" in rows["c"]
    assert "not a NIfTI file" in rows["t"] or "t.nii.gz" in rows["t"]
    assert rows["ok/chest"] == ""
    assert any(line.startswith("c: excluded") for line in said)
    assert "3 excluded" in said[-1]


def test_a_scan_that_cannot_be_read_is_put_aside_and_does_not_stop_the_run(
    source, tmp_path, monkeypatch
):
    def broken(path: Path, series: str = "") -> str:
        if path.name == "c.nii.gz":
            raise OSError(5, "Input/output error")
        return digest(path, series)

    monkeypatch.setattr(prepare, "digest", broken)
    run(source, tmp_path / "store")
    rows = {row.id: row.aside for row in manifest.read(tmp_path / "store")}
    assert "c.nii.gz cannot be read (Input/output error)" in rows["c"]
    assert rows["t/abdomen"] == ""


def test_a_kill_never_leaves_half_the_settings(source, tmp_path, monkeypatch):
    def killed(*paths: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        run(source, tmp_path / "store")
    monkeypatch.undo()
    assert not (tmp_path / "store" / "settings.json").exists()
    run(source, tmp_path / "store")
    assert len(store.cases(tmp_path / "store")) == 2


def test_a_mask_on_another_grid_puts_its_scan_aside(source, tmp_path):
    nibabel.Nifti1Image(np.ones(SHAPE, np.uint8), np.diag([-4.0, -4.0, 4.0, 1.0])).to_filename(
        source / "t_organs.nii.gz"
    )
    run(source, tmp_path / "store")
    rows = {row.id: row.aside for row in manifest.read(tmp_path / "store")}
    assert "not on the grid of its CT" in rows["t"]


def test_label_values_that_the_table_lacks_put_their_scan_aside(source, tmp_path):
    mask = np.zeros(SHAPE, np.uint8)
    mask[5:9] = 77
    nibabel.Nifti1Image(mask, AFFINE).to_filename(source / "t_organs.nii.gz")
    run(source, tmp_path / "store")
    rows = {row.id: row.aside for row in manifest.read(tmp_path / "store")}
    assert "77" in rows["t"]


def test_of_masks_that_overlap_the_finer_class_wins(source, tmp_path):
    large, small = (np.zeros(SHAPE, np.uint8) for _ in range(2))
    large[8:16, 8:16], small[10:12, 10:12] = 1, 1
    for name, mask in (("large", large), ("small", small)):
        nibabel.Nifti1Image(mask, AFFINE).to_filename(source / f"{name}.nii.gz")
    entries = json.loads((source / "index.json").read_text())
    entries[0]["masks"] = {"small": {"1": "vertebrae_L1"}, "large": {"1": "bone"}}
    (source / "index.json").write_text(json.dumps(entries))
    run(source, tmp_path / "store")
    case = store.cases(tmp_path / "store")[1]
    ids = case.voxels("anatomy")[...]
    assert (ids == ID["vertebrae_L1"]).sum() == small.sum()
    assert (ids == ID["bone"]).sum() == large.sum() - small.sum()
    assert case.facts.covers == ("bone", "vertebrae_L1")


def test_those_aside_are_tried_again_on_request(source, tmp_path):
    target = tmp_path / "store"
    good = (source / "c.nii.gz").read_bytes()
    (source / "c.nii.gz").write_bytes(good[:100])
    run(source, target)
    (source / "c.nii.gz").write_bytes(good)
    run(source, target)
    assert [case.facts.id for case in store.cases(target)] == ["t/abdomen"]
    run(source, target, retry=True)
    assert [case.facts.id for case in store.cases(target)] == ["c/chest", "t/abdomen"]


# ---- regions and grids --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def body():
    return chest((56, 48, 72), (6.5, 6.5, 4.5), seed=3).ct


def test_a_scan_of_two_regions_becomes_two_cases(tmp_path, body):
    folder = tmp_path / "own"
    folder.mkdir()
    nifti.write(body, folder / "p.nii.gz")
    run(folder, tmp_path / "store", layout="folder")
    cases = store.cases(tmp_path / "store")
    assert [case.facts.id for case in cases[:2]] == ["p/abdomen", "p/chest"]
    slices = [case.facts.shape[2] for case in cases]
    assert sum(slices) == 72
    joined = np.concatenate([case.voxels()[...] for case in cases], axis=2)
    assert np.array_equal(joined, np.clip(np.rint(body.hu), -1024, None))
    for case, first in zip(cases, np.cumsum([0, *slices[:-1]]), strict=True):
        affine = np.reshape(case.facts.affine, (4, 4))
        np.testing.assert_allclose(affine @ [0, 0, 0, 1], body.affine @ [0, 0, first, 1])
    assert all(case.facts.region_why for case in cases)


def test_resampling_keeps_the_field_of_view_and_millimetres(body):
    hu = np.fromfunction(lambda x, y, z: 3 * x - 2 * y + 5 * z, (20, 31, 18)).astype(np.float32)
    ids = np.zeros(hu.shape, np.uint8)
    ids[7, 9, 5] = 5
    affine = np.diag([0.8, 0.7, 2.5, 1.0])
    affine[:3, 3] = (-10, 20, 30)
    ct, new_ids, new = on_grid(hu, ids, affine, PrepareConfig(spacing_mm=1.25))
    assert ct.shape == new_ids.shape == (13, 17, 36)
    assert ct.dtype == np.int16
    spacing = np.diag(new)[:3]
    np.testing.assert_allclose(spacing * ct.shape, np.array([0.8, 0.7, 2.5]) * hu.shape)
    for old_corner, new_corner in (
        ([-0.5] * 3, [-0.5] * 3),
        ([19.5, 30.5, 17.5], [12.5, 16.5, 35.5]),
    ):
        np.testing.assert_allclose(affine @ [*old_corner, 1], new @ [*new_corner, 1])
    # HU that are linear in mm stay so, where the filter sees no end.
    index = np.stack(np.indices(ct.shape)[:, 2:-2, 2:-2, 2:-2], -1)
    at = index @ new[:3, :3].T + new[:3, 3]
    voxel = (at - affine[:3, 3]) / [0.8, 0.7, 2.5]
    expected = voxel @ [3, -2, 5]
    assert np.abs(ct[2:-2, 2:-2, 2:-2] - expected).max() < 0.5 + 0.6  # rounding, triangle's sum


def test_the_noise_of_a_case_is_measured_on_its_own_grid(tmp_path):
    folder = tmp_path / "scans"
    folder.mkdir()
    truth = draw("abdomen", (120, 120, 16), 2.5, seed=1).ct
    nifti.write(add_noise(truth, 60.0, 0), folder / "noisy.nii.gz")
    nifti.write(truth, folder / "quiet.nii.gz")
    found = {}
    for mm in (None, 5.0):
        target = tmp_path / f"store-{mm}"
        run(folder, target, PrepareConfig(spacing_mm=mm), layout="folder")
        for case in store.cases(target):
            found[case.facts.id.partition("/")[0], mm] = case.facts.noise_hu
    assert found["noisy", None] == pytest.approx(60, rel=0.1)
    assert found["noisy", 5.0] < 40  # a weighted mean of voxels has less
    assert found["quiet", None] < 20  # its anatomy, on squares of few voxels


def test_without_totalsegmentator_nothing_is_begun(source, tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("DENOVOX_TOTALSEGMENTATOR", raising=False)
    with pytest.raises(InputError, match="pip install TotalSegmentator"):
        run(source, tmp_path / "store", PrepareConfig(segment=True))
    assert not (tmp_path / "store").exists()


def test_totalsegmentator_names_what_no_mask_does(source, tmp_path, monkeypatch):
    def liver(volume: Volume) -> np.ndarray:
        return np.full(volume.shape, ID["liver"], np.uint8)

    monkeypatch.setattr(prepare.totalsegmentator, "require", lambda: None)
    monkeypatch.setattr(prepare.totalsegmentator, "segment", liver)
    run(source, tmp_path / "store", PrepareConfig(segment=True))
    one, masked = store.cases(tmp_path / "store")
    assert (one.voxels("anatomy")[...] == ID["liver"]).all()
    assert "spleen" in one.facts.covers  # it looked for it, and found none
    assert masked.facts.covers == ("liver",)  # its own mask is believed


def test_an_own_grid_stays_as_it_is(source, tmp_path):
    run(source, tmp_path / "store", PrepareConfig(spacing_mm=None))
    assert store.cases(tmp_path / "store")[0].facts.shape == SHAPE


# ---- killed, twice, together --------------------------------------------------------------------


def test_a_second_run_does_nothing_again(source, tmp_path):
    target = tmp_path / "store"
    run(source, target)
    before = {p: p.stat().st_mtime_ns for p in target.glob("*/**/*")}
    assert "3 of them already in the store" in " ".join(run(source, target))
    assert {p: p.stat().st_mtime_ns for p in target.glob("*/**/*")} == before


def test_a_killed_run_is_finished_by_the_next(source, tmp_path):
    run(source, tmp_path / "whole")
    target, done = tmp_path / "killed", []

    def dying(job: Job, entries: list[Entry], lost: Job) -> Generator[str, None, None]:
        for entry in entries:
            if done:
                raise KeyboardInterrupt
            done.append(job(entry))
            yield done[-1]

    with pytest.raises(KeyboardInterrupt):
        list(prepare.prepare(source, target, PLAIN, dying))
    assert [p.name for p in target.glob("*/entry.json")] == ["entry.json"]
    (target / ".tmp" / "left by a kill").mkdir(parents=True)
    run(source, target)
    assert tree(target) == tree(tmp_path / "whole")
    assert not (target / ".tmp" / "left by a kill").exists()


def test_the_order_of_jobs_does_not_matter(source, tmp_path):
    def backwards(job: Job, entries: list[Entry], lost: Job) -> Generator[str, None, None]:
        yield from map(job, entries[::-1])

    run(source, tmp_path / "a")
    list(prepare.prepare(source, tmp_path / "b", PLAIN, backwards))
    assert tree(tmp_path / "a") == tree(tmp_path / "b")


def test_a_lost_job_is_named(source, tmp_path):
    def loses(job: Job, entries: list[Entry], lost: Job) -> Generator[str, None, None]:
        yield from map(job, entries[1:])

    with pytest.raises(InputError, match=r"1 of 3 scans are not in the store \(c\)"):
        list(prepare.prepare(source, tmp_path / "store", PLAIN, loses))
    assert [case.facts.id for case in store.cases(tmp_path / "store")] == ["t/abdomen"]


def test_two_runs_at_once_are_kept_apart(source, tmp_path):
    target = tmp_path / "store"
    target.mkdir()
    with FileLock(target / ".lock"), pytest.raises(InputError, match="another `denovox prepare`"):
        run(source, target)


def test_other_settings_need_another_store(source, tmp_path):
    run(source, tmp_path / "store")
    with pytest.raises(InputError, match="choose another --out"):
        run(source, tmp_path / "store", PrepareConfig(spacing_mm=2))


def test_a_full_disk_is_one_sentence_and_loses_nothing(source, tmp_path, monkeypatch):
    target = tmp_path / "store"
    write = store.write_case

    def full(folder: Path, ct: np.ndarray, anatomy: np.ndarray, lesion: np.ndarray | None) -> None:
        if "t" in [p.name for p in target.iterdir()] or folder.name == "abdomen":
            raise OSError(28, "No space left on device")
        write(folder, ct, anatomy, lesion)

    monkeypatch.setattr(store, "write_case", full)
    with pytest.raises(InputError, match=r"could not be written \(No space left on device\)"):
        run(source, target)
    monkeypatch.setattr(store, "write_case", write)
    run(source, target)
    assert len(store.cases(target)) == 2


def test_lack_of_memory_leaves_a_scan_for_the_next_run(source, tmp_path, monkeypatch):
    from denovox.io import formats

    def greedy(*told: object, **more: object) -> None:
        raise MemoryError

    monkeypatch.setattr(formats, "read", greedy)
    with pytest.raises(InputError, match="2 of 3 scans are not in the store"):
        run(source, tmp_path / "store")
    monkeypatch.undo()
    run(source, tmp_path / "store")
    assert len(store.cases(tmp_path / "store")) == 2


def test_a_job_done_twice_changes_nothing(source, tmp_path):
    run(source, tmp_path / "store")
    before = tree(tmp_path / "store")
    entry = Entry("c", "B", source / "c.nii.gz", regions=("chest",))
    bring(entry, source, tmp_path / "store", PLAIN)
    assert tree(tmp_path / "store") == before


def test_a_digest_is_of_all_files_in_order_of_their_names(tmp_path):
    for name, text in (("b", "2"), ("a", "1")):
        (tmp_path / name).write_text(text)
    first = digest(tmp_path)
    (tmp_path / "c").write_text("3")
    assert digest(tmp_path) != first
    (tmp_path / "c").unlink()
    assert digest(tmp_path) == first
    assert len(digest(tmp_path / "a")) == 64


def test_a_folder_without_an_index(tmp_path):
    with pytest.raises(InputError, match="no known layout matches"):
        run(tmp_path, tmp_path / "store")


def test_nothing_of_the_vocabulary_is_outside_a_byte():
    assert len(labels.NAMES) <= 255
    assert store.OUTSIDE_ID == labels.OUTSIDE
