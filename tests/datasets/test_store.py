"""The store: what went in comes out, by box and by level; half an entry is never seen."""

from __future__ import annotations

import json
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zarr

from denovox.core.errors import InputError
from denovox.core.resample import nearest, resize
from denovox.datasets import manifest, store
from denovox.datasets.manifest import CaseFacts, split_of
from denovox.datasets.store import add, cases, index, pyramid, split

SHAPE = (4, 5, 6)


def facts(name: str = "a", patient: str = "p", **more: object) -> CaseFacts:
    known = {"id": name, "patient": patient, "region": "chest", "spacing_mm": (1.0, 0.5, 2.5)}
    return CaseFacts(**(known | more))


def arrays(seed: int = 0, shape: tuple[int, int, int] = SHAPE) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    ct = rng.integers(-1024, 3000, shape).astype(np.int16)
    return ct, rng.integers(0, 118, shape).astype(np.uint8)


def test_a_case_comes_back_as_it_went_in(tmp_path):
    ct, anatomy = arrays()
    known = facts(source="a scanner", licence="CC BY 4.0", notes=("tilted",), covers=("liver",))
    add(tmp_path, known, ct, anatomy)
    index(tmp_path)
    (case,) = cases(tmp_path)
    assert case.facts == known.model_copy(update={"id": "a/chest", "shape": SHAPE})
    got = case.voxels("ct"), case.voxels("anatomy")
    assert (got[0].dtype, got[1].dtype) == (np.int16, np.uint8)
    assert np.array_equal(got[0][...], ct)
    assert np.array_equal(got[1][...], anatomy)


def test_other_zarr_readers_find_it(tmp_path):
    ct, anatomy = arrays(shape=(70, 30, 130))
    add(tmp_path, facts(), ct, anatomy)
    array = zarr.open_array(tmp_path / "a" / "chest" / "ct" / "0")
    assert array.metadata.zarr_format == 3
    assert (array.shards, array.chunks) == ((128, 64, 192), (64, 64, 64))
    assert np.array_equal(array[...], ct)


def test_cases_come_in_order_of_id(tmp_path):
    for name in ("c", "a", "b"):
        add(tmp_path, facts(name), *arrays())
    index(tmp_path)
    assert [case.facts.id for case in cases(tmp_path)] == ["a/chest", "b/chest", "c/chest"]


# ---- the pyramid --------------------------------------------------------------------------------


def test_the_pyramid_halves_what_is_long_and_leaves_thick_slices():
    assert pyramid((512, 512, 51)) == ((1, 1, 1), (2, 2, 1), (4, 4, 1), (8, 8, 1))
    assert pyramid((200, 130, 127)) == ((1, 1, 1), (2, 2, 1))
    assert pyramid((127, 20, 3)) == ((1, 1, 1),)


def test_a_level_is_the_scan_resized(tmp_path):
    shape = (261, 130, 31)
    smooth = np.indices(shape).sum(0).astype(np.float32)
    ct, anatomy = np.rint(500 * np.sin(smooth / 40)).astype(np.int16), arrays(1, shape)[1]
    add(tmp_path, facts(), ct, anatomy)
    index(tmp_path)
    (case,) = cases(tmp_path)
    assert pyramid(shape) == ((1, 1, 1), (2, 2, 1), (4, 2, 1))
    for level, factors in enumerate(pyramid(shape)):
        cells = [-(-n // f) for n, f in zip(shape, factors, strict=True)]
        covered = [c * f for c, f in zip(cells, factors, strict=True)]
        straight = resize(ct.astype(np.float32), cells, size=covered)
        # Two halvings are not one quartering, at the ends least of all; levels are whole HU.
        far = np.abs(case.voxels("ct", level)[...] - straight)
        assert far.max() <= (0, 0.5, 3)[level]
        assert far[1:-1, 1:-1].max() <= (0, 0.5, 2)[level]
        exact = nearest(anatomy, cells, size=covered)
        assert np.array_equal(case.voxels("anatomy", level)[...], exact)


@pytest.mark.parametrize(
    ("start", "size", "grid"),
    [
        ((0, 0, 0), (150, 140, 30), (32, 32, 32)),  # the whole, from the level below
        ((12, 6, 0), (64, 64, 30), (32, 32, 16)),  # twice the patch, aligned with that level
        ((13, 7, 1), (64, 64, 28), (32, 32, 16)),
        ((13, 7, 1), (32, 32, 16), (32, 32, 16)),  # the patch
        ((100.5, 80.25, 3), (49.5, 40, 20), (24, 24, 24)),
    ],
)
def test_a_box_is_the_box_of_the_scan(tmp_path, start, size, grid):
    shape = (150, 140, 30)
    i = np.indices(shape).astype(np.float32)
    ct = np.rint(400 * np.sin(i[0] / 17) * np.cos(i[1] / 13) + 10 * i[2]).astype(np.int16)
    anatomy = (i[0] // 16).astype(np.uint8) + 1
    add(tmp_path, facts(), ct, anatomy)
    index(tmp_path)
    (case,) = cases(tmp_path)
    hu, labels = case.read(start, size, grid)
    assert hu.shape == labels.shape == grid
    assert (hu.dtype, labels.dtype) == (np.float32, np.uint8)
    inner = (slice(1, -1),) * 3  # at a box's edge the filter sees no neighbours
    straight = resize(ct.astype(np.float32), grid, start, size)[inner]
    np.testing.assert_allclose(hu[inner], straight, atol=4 if size[0] > grid[0] else 1e-3)
    same = nearest(anatomy, grid, start, size) == labels
    assert same.mean() > 0.95  # a label's border may lie half a coarse voxel aside
    if size == grid:
        assert np.array_equal(hu, ct[13:45, 7:39, 1:17])
        assert same.all()


def test_a_whole_volume_is_not_read_to_be_resized(tmp_path, monkeypatch):
    ct, anatomy = arrays(shape=(256, 140, 70))
    add(tmp_path, facts(), ct, anatomy)
    index(tmp_path)
    (case,) = cases(tmp_path)
    asked = []
    voxels = store.Case.voxels
    monkeypatch.setattr(store.Case, "voxels", lambda s, *a: (asked.append(a), voxels(s, *a))[1])
    case.read((0, 0, 0), (256, 140, 70), (32, 32, 32))
    assert set(asked) == {("ct", 2), ("anatomy", 2)}
    assert case.voxels("ct", 2).shape == (64, 70, 70)


def test_a_box_leaves_other_shards_alone(tmp_path):
    """All files but those of the box can be gone."""
    ct, anatomy = arrays(shape=(300, 20, 20))
    add(tmp_path, facts(), ct, anatomy)
    index(tmp_path)
    gone = list((tmp_path / "a" / "chest").glob("*/0/c/1"))
    assert len(gone) == 2
    for folder in gone:
        folder.rename(tmp_path / f".gone-{folder.parents[2].name}")
    (case,) = cases(tmp_path)
    assert np.array_equal(case.read((10, 0, 0), (16,) * 3, (16,) * 3)[0], ct[10:26, :16, :16])


# ---- nothing by halves --------------------------------------------------------------------------


@pytest.mark.parametrize("failing", ["_write", "finish"])
def test_a_failure_midway_leaves_nothing(tmp_path, monkeypatch, failing):
    done = []

    def full(*told: object) -> None:
        done.append(told)
        raise OSError("No space left on device")

    monkeypatch.setattr(store, failing, full)
    with pytest.raises(OSError, match="No space left"):
        add(tmp_path, facts(), *arrays())
    assert done
    assert [p.name for p in tmp_path.rglob("*")] == [".tmp"]
    assert index(tmp_path) == []
    with pytest.raises(InputError, match="holds no case"):
        cases(tmp_path)


def test_until_it_is_complete_an_entry_is_not_seen(tmp_path, monkeypatch):
    add(tmp_path, facts("a"), *arrays())
    rename, seen = Path.rename, []

    def look(path: Path, target: Path) -> Path:
        assert (path / "entry.json").exists()  # all is written, under another name
        seen.extend(row.id for row in index(tmp_path))
        return rename(path, target)

    monkeypatch.setattr(Path, "rename", look)
    add(tmp_path, facts("b"), *arrays())
    assert seen == ["a/chest"]
    assert [row.id for row in index(tmp_path)] == ["a/chest", "b/chest"]


def test_of_two_workers_on_one_entry_the_first_wins(tmp_path):
    add(tmp_path, facts(), *arrays(0))
    add(tmp_path, facts(), *arrays(1))
    index(tmp_path)
    (case,) = cases(tmp_path)
    assert np.array_equal(case.voxels()[...], arrays(0)[0])
    assert list((tmp_path / ".tmp").iterdir()) == []


def test_a_place_that_is_taken_by_something_else_is_an_error(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("keep")
    with pytest.raises(OSError, match=r"not empty|exists"):
        add(tmp_path, facts(), *arrays())
    assert (tmp_path / "a" / "mine").read_text() == "keep"


# ---- manifest and split -------------------------------------------------------------------------


def test_a_manifest_keeps_every_fact(tmp_path):
    rows = [
        facts(
            "b/chest",
            region_why="lung",
            split="test",
            shape=(3, 4, 5),
            affine=tuple(map(float, range(16))),
            covers=("liver", "spleen"),
            labelled=0.25,
            file="x/y.nii.gz",
            sha256="ab",
            settings='{"spacing_mm": 1}',
            notes=("one", "two"),
        ),
        facts("a", region="", aside="not in Hounsfield units"),
    ]
    manifest.write(tmp_path, rows)
    assert manifest.read(tmp_path) == rows[::-1]
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.parquet"]


def test_a_failing_write_keeps_the_old_manifest(tmp_path, monkeypatch):
    manifest.write(tmp_path, [facts()])

    def full(table: object, file: BinaryIO) -> None:
        file.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(pq, "write_table", full)
    with pytest.raises(OSError, match="No space left"):
        manifest.write(tmp_path, [])
    assert manifest.read(tmp_path) == [facts()]
    assert [p.name for p in tmp_path.iterdir()] == ["manifest.parquet"]


def test_a_scan_under_two_names_counts_once(tmp_path):
    for name, patient, digest in [
        ("b", "q", "1"),
        ("a", "p", "1"),
        ("c", "r", "2"),
        ("d", "s", ""),
    ]:
        add(tmp_path, facts(name, patient, sha256=digest), *arrays())
    add(tmp_path, facts("e", sha256=""), *arrays())
    aside = {row.id: row.aside for row in index(tmp_path) if row.aside}
    assert aside == {"b/chest": "the same scan as a, byte for byte"}
    assert [case.facts.id[0] for case in cases(tmp_path)] == ["a", "c", "d", "e"]


def test_a_split_is_by_patient(tmp_path):
    for name, patient in [("a", "p"), ("b", "q"), ("c", "p"), ("d", "r")]:
        add(tmp_path, facts(name, patient, split="test" if name == "d" else "train"), *arrays())
    index(tmp_path)
    training, validation = split(cases(tmp_path), ("p",))
    assert [case.facts.id[0] for case in training] == ["b"]  # what is for a test never trains
    assert [case.facts.id[0] for case in validation] == ["a", "c"]
    training, validation = split(cases(tmp_path), ())  # the store's own
    assert [case.facts.id[0] for case in training] == ["a", "b", "c"]
    assert validation == []


def test_the_stores_split_is_90_5_5_and_asks_nobody_else():
    names = [f"patient {i}" for i in range(20_000)]
    parts = [split_of(name) for name in names]
    for part, share in (("train", 0.9), ("validation", 0.05), ("test", 0.05)):
        expected = share * len(names)
        assert abs(parts.count(part) - expected) < 4 * np.sqrt(expected * (1 - share))
    # Fixed for good: a patient who changes sides spoils every comparison. SHA-256 of the name.
    assert [split_of(name) for name in ("LIDC-0314", "patient 2", "patient 29")] == parts_of_old()


def parts_of_old() -> list[str]:
    import hashlib

    out = []
    for name in ("LIDC-0314", "patient 2", "patient 29"):
        share = int(hashlib.sha256(name.encode()).hexdigest()[:16], 16) / 16**16
        out.append("train" if share < 0.9 else "validation" if share < 0.95 else "test")
    return out


def test_a_patient_nobody_knows_is_named(tmp_path):
    add(tmp_path, facts(), *arrays())
    index(tmp_path)
    with pytest.raises(InputError, match=r"\['x', 'y'\] are not in the store"):
        split(cases(tmp_path), ("y", "p", "x"))


@pytest.mark.parametrize("exists", [True, False])
def test_a_folder_without_a_manifest_is_no_store(tmp_path, exists):
    folder = tmp_path / "store"
    if exists:
        (folder / "something").mkdir(parents=True)
    with pytest.raises(InputError, match="no store here"):
        cases(folder)


def test_a_broken_manifest_is_named(tmp_path):
    (tmp_path / "manifest.parquet").write_bytes(b"PAR1 and then nothing")
    with pytest.raises(InputError, match=r"manifest\.parquet cannot be read"):
        cases(tmp_path)


def test_a_table_of_something_else_is_named(tmp_path):
    table = pa.table({"id": ["a"]})
    pq.write_table(table, tmp_path / "manifest.parquet")
    with pytest.raises(InputError, match="not a manifest of this version"):
        cases(tmp_path)


def test_a_fact_nobody_knows_is_an_error(tmp_path):
    add(tmp_path, facts(), *arrays())
    card = tmp_path / "a" / "entry.json"
    card.write_text(json.dumps([row | {"dose": 1} for row in json.loads(card.read_text())]))
    with pytest.raises(ValueError, match="dose"):
        index(tmp_path)
