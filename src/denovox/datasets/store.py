"""A store: zarr v3, a pyramid a case, read by random box without touching the rest.

    store/manifest.parquet           a CaseFacts a row: every case, and everything put aside
    store/<entry>/entry.json         the same rows of one scan; written last
    store/<entry>/<region>/ct/<k>    int16 HU, x y z nearest to RAS; level k of the pyramid
    store/<entry>/<region>/anatomy/<k>    uint8 ids of core/labels
    store/<entry>/<region>/lesion/<k>     uint8, 1 in lesions; only where masks mark any

A scan is an entry, and each region that it shows is a case of its own (METHOD 1). An entry appears
under its name only when it is complete. Chunks of 64^3 lie in shards of 256^3, bytes shuffled and
packed by zstd: docs/log.md says what else was measured. A store may lie in a folder, or behind any
URL that fsspec can read (s3://bucket/store); it is written in a folder.
"""

from __future__ import annotations

import json
import math
import shutil
import uuid
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import zarr
from jaxtyping import Float, Int16, UInt8
from zarr.codecs import BloscCodec

from ..core.box import Shape
from ..core.errors import InputError
from ..core.resample import nearest, resize
from . import manifest
from .manifest import CaseFacts
from .samples.control_inputs import boxes

CHUNK, SHARD = 64, 256
FLOOR = 64  # an axis is halved as long as this many voxels are left
Kind = Literal["ct", "anatomy", "lesion"]
AIR_HU, OUTSIDE_ID = -1024, 119  # what is not there: chunks of nothing else are not written


def pyramid(shape: Shape) -> tuple[Shape, ...]:
    """Factors of the levels along each axis; thick slices stay while the plane is halved."""
    levels: list[Shape] = [(1, 1, 1)]
    while True:
        x, y, z = (
            f * 2 if n / (f * 2) >= FLOOR else f for n, f in zip(shape, levels[-1], strict=True)
        )
        if (x, y, z) == levels[-1]:
            return tuple(levels)
        levels.append((x, y, z))


@dataclass(frozen=True)
class Case:
    """A case of a store at `root`, a folder or a URL; opened when it is first read."""

    root: str
    facts: CaseFacts

    def voxels(self, kind: Kind = "ct", level: int = 0) -> Any:
        """A level of the pyramid, as an array that reads what is indexed."""
        return _opened(f"{self.root}/{self.facts.id}/{kind}/{level}")

    def read(
        self, start: Sequence[float], size: Sequence[float], grid: Shape
    ) -> tuple[Float[np.ndarray, "x y z"], UInt8[np.ndarray, "x y z"]]:
        """(HU, label ids) of the box [start, start + size), in voxels, on a grid of that shape.

        Read from the coarsest level that is not coarser than the grid along any axis, and resized
        from there: a whole volume on 128^3 costs no more than some small level of it.
        """
        level, where, inside, length = self.reach(start, size, grid)
        ct = self._voxels("ct", level, where).astype(np.float32)
        anatomy = self._voxels("anatomy", level, where)
        return resize(ct, grid, inside, length), nearest(anatomy, grid, inside, length)

    def lesion(
        self, start: Sequence[float], size: Sequence[float], grid: Shape
    ) -> UInt8[np.ndarray, "x y z"]:
        """1 in lesions, on the same box and grid as `read`; zeros where the case has none."""
        if not self.facts.lesions:
            return np.zeros(grid, np.uint8)
        level, where, inside, length = self.reach(start, size, grid)
        return nearest(self._voxels("lesion", level, where), grid, inside, length)

    def whole(self, kind: Kind, level: int) -> np.ndarray:
        """All of a level; zeros for the lesions of a case that has none."""
        if kind == "lesion" and not self.facts.lesions:
            return np.zeros(self.shape_of(level), np.uint8)
        return self._voxels(kind, level, (slice(None),) * 3)

    def shape_of(self, level: int) -> Shape:
        """The shape of a level of the pyramid."""
        factors = pyramid(self.facts.shape)[level]
        x, y, z = (math.ceil(n / f) for n, f in zip(self.facts.shape, factors, strict=True))
        return x, y, z

    def _voxels(self, kind: Kind, level: int, where: tuple[slice, ...]) -> np.ndarray:
        """What is there, read; `OSError` where the store was gone before or after.

        To zarr a chunk that is missing is one of air: a disk that went away would train on air.
        Behind a URL that cannot be told apart, but there a store does not vanish without an error.
        """
        seen = Path(self.root, self.facts.id, kind, str(level), "zarr.json")
        array = self.voxels(kind, level)
        local = "://" not in self.root
        if local:
            seen.stat()
        read = np.asarray(array[where])
        if local:
            seen.stat()
        return read

    def reach(
        self, start: Sequence[float], size: Sequence[float], grid: Shape
    ) -> tuple[int, tuple[slice, ...], list[float], list[float]]:
        """(level to read, voxels of it, where in them the box begins, and its size there)."""
        level, factors = max(
            (k, f)
            for k, f in enumerate(pyramid(self.facts.shape))
            if all(f[i] <= max(1.0, size[i] / grid[i]) for i in range(3))
        )
        first = [math.floor(start[i] / factors[i]) for i in range(3)]
        shape = self.shape_of(level)
        stop = [min(shape[i], math.ceil((start[i] + size[i]) / factors[i])) for i in range(3)]
        where = tuple(slice(a, b) for a, b in zip(first, stop, strict=True))
        inside = [start[i] / factors[i] - first[i] for i in range(3)]
        return level, where, inside, [size[i] / factors[i] for i in range(3)]


@lru_cache(maxsize=1024)  # not all: 50,000 cases have 400,000 arrays
def _opened(url: str) -> Any:
    return zarr.open_array(url, mode="r")


# ---- writing ------------------------------------------------------------------------------------


@contextmanager
def entry(store: Path, name: str) -> Iterator[Path]:
    """A folder to fill, which takes its name in the store when the block ends without an error.

    Where another worker was faster, its work stays and this one's is dropped: they are equal.
    """
    beside = store / ".tmp" / uuid.uuid4().hex
    beside.mkdir(parents=True)
    try:
        yield beside
        try:
            beside.rename(store / name)
        except OSError:
            if not is_done(store, name):
                raise
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def write_case(
    folder: Path,
    ct: Int16[np.ndarray, "x y z"],
    anatomy: UInt8[np.ndarray, "x y z"],
    lesion: UInt8[np.ndarray, "x y z"] | None = None,
) -> None:
    """The pyramid of one case. HU are averaged (anti-aliased), labels taken at the cells' centres.

    Voxel i of a level with factor f covers voxels [f i, f i + f) of the scan.
    """
    group = zarr.create_group(folder)
    shape: Shape = (ct.shape[0], ct.shape[1], ct.shape[2])
    group.attrs["factors"] = [list(factors) for factors in pyramid(shape)]
    hu, before = ct, (1, 1, 1)
    for level, factors in enumerate(pyramid(shape)):
        if level:
            step = [f // b for f, b in zip(factors, before, strict=True)]
            cells = [math.ceil(n / s) for n, s in zip(hu.shape, step, strict=True)]
            covered = [c * s for c, s in zip(cells, step, strict=True)]
            hu = np.rint(resize(hu.astype(np.float32), cells, size=covered)).astype(np.int16)
            before = factors
        _write(group, f"ct/{level}", hu, AIR_HU)
        centres = tuple(
            np.minimum(np.arange(n) * f + f // 2, last - 1)
            for n, f, last in zip(hu.shape, factors, shape, strict=True)
        )
        _write(group, f"anatomy/{level}", anatomy[np.ix_(*centres)], OUTSIDE_ID)
        if lesion is not None:
            _write(group, f"lesion/{level}", lesion[np.ix_(*centres)], 0)


def _write(group: zarr.Group, name: str, array: np.ndarray, fill: int) -> None:
    shards = tuple(min(SHARD, CHUNK * math.ceil(n / CHUNK)) for n in array.shape)
    target = group.create_array(
        name,
        shape=array.shape,
        dtype=array.dtype,
        chunks=(CHUNK,) * 3,
        shards=shards,
        fill_value=fill,
        compressors=BloscCodec(cname="zstd", clevel=5, shuffle="shuffle"),
    )
    target[...] = array


def finish(folder: Path, rows: Sequence[CaseFacts]) -> None:
    """The rows of an entry, written when everything else of it is there."""
    text = json.dumps([row.model_dump(mode="json") for row in rows], indent=1)
    (folder / "entry.json").write_text(text)


def is_done(store: Path, name: str) -> bool:
    """Whether an entry of that name is complete."""
    return (store / name / "entry.json").is_file()


def sweep(store: Path) -> None:
    """Remove what killed runs left half done; nobody else may be writing."""
    shutil.rmtree(store / ".tmp", ignore_errors=True)


def forget_aside(store: Path) -> None:
    """Remove the entries that came to nothing, so that the next run tries them again."""
    for path in store.glob("*/entry.json"):
        if all(row["aside"] for row in json.loads(path.read_text())):
            shutil.rmtree(path.parent)


def index(store: Path) -> list[CaseFacts]:
    """Write the manifest from all complete entries, whichever runs they came from; its rows.

    A scan whose bytes another entry has, too, is put aside: under two names it could both train
    and judge.
    """
    rows: list[CaseFacts] = []
    first: dict[str, str] = {}
    for path in sorted(store.glob("*/entry.json")):
        for row in (CaseFacts(**told) for told in json.loads(path.read_text())):
            twin = (
                first.setdefault(row.sha256, path.parent.name) if row.sha256 else path.parent.name
            )
            if twin != path.parent.name and not row.aside:
                row = row.model_copy(update={"aside": f"the same scan as {twin}, byte for byte"})
            rows.append(row)
    manifest.write(store, rows)
    return rows


def with_lesion(facts: CaseFacts, lesion: UInt8[np.ndarray, "x y z"] | None) -> CaseFacts:
    """The row of a case that has this mask of lesions (None, or without a voxel: none)."""
    if lesion is None or not lesion.any():
        return facts
    ml = float(lesion.sum()) * math.prod(facts.spacing_mm) / 1000
    return facts.model_copy(update={"lesions": boxes(lesion), "lesion_ml": ml})


def add(
    store: Path,
    facts: CaseFacts,
    ct: Int16[np.ndarray, "x y z"],
    anatomy: UInt8[np.ndarray, "x y z"],
    lesion: UInt8[np.ndarray, "x y z"] | None = None,
) -> CaseFacts:
    """A case by itself: an entry `facts.id` with one region; gives its row for the manifest."""
    row = facts.model_copy(update={"id": f"{facts.id}/{facts.region}", "shape": ct.shape})
    row = with_lesion(row, lesion)
    with entry(store, facts.id) as folder:
        write_case(folder / facts.region, ct, anatomy, lesion if row.lesions else None)
        finish(folder, [row])
    return row


# ---- reading ------------------------------------------------------------------------------------


def cases(store: str | Path) -> list[Case]:
    """All cases of a store, in order of id; `InputError` where there is none."""
    root = str(store).rstrip("/")
    found = [Case(root, row) for row in manifest.read(root) if not row.aside]
    if not found:
        raise InputError(f"{store} holds no case; manifest.parquet says why scans were put aside")
    return found


def split(every: list[Case], validation_patients: tuple[str, ...]) -> tuple[list[Case], list[Case]]:
    """(training, validation) cases, by patient.

    The store's own split counts: what it holds back never trains. Patients named here do not train
    either, and are then what is validated on. A patient no case has is an `InputError`.
    """
    strange = set(validation_patients) - {case.facts.patient for case in every}
    if strange:
        raise InputError(f"validation patients {sorted(strange)} are not in the store")
    named = {case.facts.id for case in every if case.facts.patient in validation_patients}
    training = [c for c in every if c.facts.split == "train" and c.facts.id not in named]
    if named:
        return training, [case for case in every if case.facts.id in named]
    return training, [case for case in every if case.facts.split == "validation"]
