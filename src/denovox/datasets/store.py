"""A store: zarr v3, one pyramid per case, with random access to boxes.

    store/manifest.parquet           one CaseFacts per row: every case, and every scan set aside
    store/<entry>/entry.json         the same rows for one scan; written last
    store/<entry>/<region>/ct/<k>    int16 HU, x y z closest to RAS; level k of the pyramid
    store/<entry>/<region>/anatomy/<k>    uint8 ids of core/labels
    store/<entry>/<region>/lesion/<k>     uint8, 1 in lesions; only if masks mark any

A scan is an entry, and each region that it shows is a separate case (Method 1). An entry appears
under its name only when it is complete. Chunks of 64^3 in shards of 256^3, byte-shuffled and
compressed by zstd; docs/explain/log.md has measurements of alternatives. A store can be read from a
folder or any URL that fsspec supports (s3://bucket/store); it is written to a folder.
"""

from __future__ import annotations

import json
import math
import shutil
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
from ..io import atomic
from . import manifest
from .manifest import CaseFacts
from .samples.control_inputs import boxes

CHUNK, SHARD = 64, 256
FLOOR = 64  # an axis is halved as long as at least this many voxels remain
Kind = Literal["ct", "anatomy", "lesion"]
AIR_HU, OUTSIDE_ID = -1024, 119  # fill values: chunks of nothing else are not written


def pyramid(shape: Shape) -> tuple[Shape, ...]:
    """Downsampling factors per level and axis; thick slices are kept while the plane is halved."""
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
    """A case in a store at `root`, a folder or a URL; opened on first read."""

    root: str
    facts: CaseFacts

    def voxels(self, kind: Kind = "ct", level: int = 0) -> Any:
        """A level of the pyramid, as a lazy array that reads what is indexed."""
        return _opened(f"{self.root}/{self.facts.id}/{kind}/{level}")

    def read(
        self, start: Sequence[float], size: Sequence[float], grid: Shape
    ) -> tuple[Float[np.ndarray, "x y z"], UInt8[np.ndarray, "x y z"]]:
        """(HU, label ids) of the box [start, start + size), in voxels, resampled to shape `grid`.

        Read from the coarsest level that is not coarser than the grid along any axis, then resized:
        a whole volume on 128^3 costs no more than reading a small level.
        """
        level, where, inside, length = self.reach(start, size, grid)
        ct = self._voxels("ct", level, where).astype(np.float32)
        anatomy = self._voxels("anatomy", level, where)
        return resize(ct, grid, inside, length), nearest(anatomy, grid, inside, length)

    def lesion(
        self, start: Sequence[float], size: Sequence[float], grid: Shape
    ) -> UInt8[np.ndarray, "x y z"]:
        """1 in lesions, for the same box and grid as `read`; zeros if the case has none."""
        if not self.facts.lesions:
            return np.zeros(grid, np.uint8)
        level, where, inside, length = self.reach(start, size, grid)
        return nearest(self._voxels("lesion", level, where), grid, inside, length)

    def whole(self, kind: Kind, level: int) -> np.ndarray:
        """A whole level; zeros for the lesions of a case without any."""
        if kind == "lesion" and not self.facts.lesions:
            return np.zeros(self.shape_of(level), np.uint8)
        return self._voxels(kind, level, (slice(None),) * 3)

    def shape_of(self, level: int) -> Shape:
        """The shape of a level of the pyramid."""
        factors = pyramid(self.facts.shape)[level]
        x, y, z = (math.ceil(n / f) for n, f in zip(self.facts.shape, factors, strict=True))
        return x, y, z

    def _voxels(self, kind: Kind, level: int, where: tuple[slice, ...]) -> np.ndarray:
        """Read voxels; `OSError` if the store is gone before or afterwards.

        zarr treats a missing chunk as air, so training would see air if a disk disappeared. Behind
        a URL this cannot be checked, but there a store does not vanish without an error.
        """
        metadata = Path(self.root, self.facts.id, kind, str(level), "zarr.json")
        array = self.voxels(kind, level)
        local = "://" not in self.root
        if local:
            metadata.stat()
        read = np.asarray(array[where])
        if local:
            metadata.stat()
        return read

    def reach(
        self, start: Sequence[float], size: Sequence[float], grid: Shape
    ) -> tuple[int, tuple[slice, ...], list[float], list[float]]:
        """(level to read, its voxels, where the box begins in them, and its size there)."""
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


@lru_cache(maxsize=1024)  # bounded: 50,000 cases have 400,000 arrays
def _opened(url: str) -> Any:
    return zarr.open_array(url, mode="r")


# ---- writing ------------------------------------------------------------------------------------


@contextmanager
def entry(store: Path, name: str) -> Iterator[Path]:
    """A folder to fill; it takes its name in the store when the block ends without an error.

    If another worker was faster, its result is kept and this one is dropped: they are identical.
    """
    with atomic.scratch_folder(store / ".tmp") as unfinished:
        yield unfinished
        try:
            unfinished.rename(store / name)
        except OSError:
            if not is_done(store, name):
                raise


def write_case(
    folder: Path,
    ct: Int16[np.ndarray, "x y z"],
    anatomy: UInt8[np.ndarray, "x y z"],
    lesion: UInt8[np.ndarray, "x y z"] | None = None,
) -> None:
    """Write the pyramid of a case. HU are averaged (anti-aliased), labels sampled at voxel centres.

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
    """Write the rows of an entry, after everything else in it."""
    text = json.dumps([row.model_dump(mode="json") for row in rows], indent=1)
    (folder / "entry.json").write_text(text, "utf-8")


def is_done(store: Path, name: str) -> bool:
    """Whether the entry with this name is complete."""
    return (store / name / "entry.json").is_file()


def sweep(store: Path) -> None:
    """Remove what killed runs left unfinished; nothing else may be writing."""
    shutil.rmtree(store / ".tmp", ignore_errors=True)
    atomic.sweep(store)


def forget_aside(store: Path) -> None:
    """Remove entries that were set aside, so that the next run tries them again."""
    for path in store.glob("*/entry.json"):
        if all(row["aside"] for row in json.loads(path.read_text())):
            shutil.rmtree(path.parent)


def index(store: Path) -> list[CaseFacts]:
    """Write the manifest from all complete entries, from whichever runs; returns its rows.

    A scan that is a byte-for-byte duplicate of another entry is set aside: under two names it could
    end up in both training and test data.
    """
    rows: list[CaseFacts] = []
    first: dict[str, str] = {}
    for path in sorted(store.glob("*/entry.json")):
        for row in (CaseFacts(**fields) for fields in json.loads(path.read_text())):
            twin = (
                first.setdefault(row.sha256, path.parent.name) if row.sha256 else path.parent.name
            )
            if twin != path.parent.name and not row.aside:
                row = row.model_copy(update={"aside": f"the same scan as {twin}, byte for byte"})
            rows.append(row)
    manifest.write(store, rows)
    return rows


def with_lesion(facts: CaseFacts, lesion: UInt8[np.ndarray, "x y z"] | None) -> CaseFacts:
    """The row of a case with this lesion mask (None or empty: no lesions)."""
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
    """Add a single case: an entry `facts.id` with one region; returns its manifest row."""
    row = facts.model_copy(update={"id": f"{facts.id}/{facts.region}", "shape": ct.shape})
    row = with_lesion(row, lesion)
    with entry(store, facts.id) as folder:
        write_case(folder / facts.region, ct, anatomy, lesion if row.lesions else None)
        finish(folder, [row])
    return row


# ---- reading ------------------------------------------------------------------------------------


def cases(store: str | Path) -> list[Case]:
    """All cases in a store, in order of id; `InputError` if there are none."""
    root = str(store).rstrip("/")
    found = [Case(root, row) for row in manifest.read(root) if not row.aside]
    if not found:
        raise InputError(f"{store} holds no cases; manifest.parquet states why scans were excluded")
    return found


def split(every: list[Case], validation_patients: tuple[str, ...]) -> tuple[list[Case], list[Case]]:
    """(training, validation) cases, by patient.

    The split of the store is respected: its held-out cases are never trained on. Patients named
    here are excluded from training too, and then are the only ones validated on. `InputError` if a
    patient has no case.
    """
    strange = set(validation_patients) - {case.facts.patient for case in every}
    if strange:
        raise InputError(f"validation patients {sorted(strange)} are not in the store")
    named = {case.facts.id for case in every if case.facts.patient in validation_patients}
    training = [c for c in every if c.facts.split == "train" and c.facts.id not in named]
    if named:
        return training, [case for case in every if case.facts.id in named]
    return training, [case for case in every if case.facts.split == "validation"]
