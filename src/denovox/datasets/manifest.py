"""The manifest of a store: one Parquet table with a row per case and per scan set aside.

A packed store (datasets/packed.py) has the same rows as JSON: the Parquet reader is larger than
such a store, and is only loaded when needed.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import model_validator

from ..core.box import Shape
from ..core.config import Settings
from ..core.errors import InputError, encodable, line
from ..io.atomic import open_file, write_file

if TYPE_CHECKING:
    import pyarrow

NAME, PACKED = "manifest.parquet", "manifest.json"
Split = Literal["train", "validation", "test"]


class CaseFacts(Settings):
    """What is known about a case besides its voxels: a row of the manifest.

    id: its path in the store. patient: the unit of the data split. region: a name from
    core/regions; region_why: how it was determined. affine: 4x4 by rows, voxel -> mm in RAS+.
    covers: classes that its masks can label; labelled: the fraction of voxels they do. lesions: the
    bounding box of each lesion in its masks (first x y z, last x y z; voxels); lesion_ml: their
    total volume; a case without lesions has no lesion array. noise_hu: SD of its noise
    (datasets/noise.py); 0: none found; None: not measured. file, sha256: the source scan.
    settings: of the run that made it, as JSON. notes: decisions made on the way. aside: why the
    scan was set aside; then there are no voxels.
    """

    id: str
    patient: str
    region: str = ""
    region_why: str = ""
    split: Split = "train"
    shape: Shape = (0, 0, 0)
    spacing_mm: tuple[float, float, float] = (0.0, 0.0, 0.0)
    affine: tuple[float, ...] = ()
    covers: tuple[str, ...] = ()
    labelled: float = 0.0
    lesions: tuple[tuple[int, ...], ...] = ()
    lesion_ml: float = 0.0
    noise_hu: float | None = None
    source: str = ""
    licence: str = ""
    file: str = ""
    sha256: str = ""
    settings: str = ""
    notes: tuple[str, ...] = ()
    aside: str = ""

    @model_validator(mode="before")
    @classmethod
    def _encodable(cls, fields: Any) -> Any:
        """Names of files that are not valid Unicode are escaped: no format here can store them."""
        if not isinstance(fields, dict):
            return fields
        return {key: _escaped(value) for key, value in fields.items()}


def _escaped(value: Any) -> Any:
    if isinstance(value, str):
        return encodable(value)
    if isinstance(value, list | tuple):
        return type(value)(map(_escaped, value))
    return value


def split_of(patient: str) -> Split:
    """90/5/5 by a hash of the patient's name: the same in every run, whoever else is in the set."""
    place = int.from_bytes(hashlib.sha256(patient.encode()).digest()[:8], "big") / 2**64
    return "train" if place < 0.9 else "validation" if place < 0.95 else "test"


def _schema() -> pyarrow.Schema:
    import pyarrow as pa

    return pa.schema(
        [
            *((name, pa.string()) for name in ("id", "patient", "region", "region_why", "split")),
            ("shape", pa.list_(pa.int32(), 3)),
            ("spacing_mm", pa.list_(pa.float64(), 3)),
            ("affine", pa.list_(pa.float64())),
            ("covers", pa.list_(pa.string())),
            ("labelled", pa.float64()),
            ("lesions", pa.list_(pa.list_(pa.int32(), 6))),
            ("lesion_ml", pa.float64()),
            ("noise_hu", pa.float64()),
            *((name, pa.string()) for name in ("source", "licence", "file", "sha256", "settings")),
            ("notes", pa.list_(pa.string())),
            ("aside", pa.string()),
        ]
    )


def write(store: Path, rows: Iterable[CaseFacts]) -> None:
    """Write all rows, in order of id; readers see the old manifest or the new one."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    records = [row.model_dump() for row in sorted(rows, key=lambda row: row.id)]
    with open_file(store / NAME) as file:
        pq.write_table(pa.Table.from_pylist(records, _schema()), file)


def write_packed(store: Path, rows: Iterable[CaseFacts]) -> None:
    """Write the same rows as JSON, for a store that is read without Parquet."""
    write_file(store / PACKED, packed_text(rows))


def packed_text(rows: Iterable[CaseFacts]) -> str:
    """What `write_packed` writes."""
    records = [row.model_dump(mode="json") for row in sorted(rows, key=lambda row: row.id)]
    return json.dumps(records, indent=1)


def read(store: str | Path) -> list[CaseFacts]:
    """The rows; `InputError` if there is no manifest, or it is not one of a store."""
    packed = Path(store, PACKED)
    rows = _packed(packed) if packed.is_file() else _parquet(f"{store}/{NAME}", store)
    return [CaseFacts(**row) for row in rows]


def _packed(path: Path) -> list[dict[str, Any]]:
    try:
        rows = json.loads(path.read_text())
    except (ValueError, OSError) as error:
        raise InputError(f"{path} cannot be read ({line(error)})") from error
    known = set(CaseFacts.model_fields)
    if not isinstance(rows, list) or any(set(row) != known for row in rows):
        raise InputError(f"{path} is not a manifest of this version of denovox; pack it again")
    return rows


def _parquet(url: str, store: str | Path) -> list[dict[str, Any]]:
    import fsspec
    import pyarrow.parquet as pq

    try:
        # Not fsspec for a folder, to which "::" and other names of files are orders.
        with fsspec.open(url, "rb") if "://" in url else open(url, "rb") as file:
            table = pq.read_table(file)
    except FileNotFoundError:
        raise InputError(
            f"{store}: no store here (no {NAME}); `denovox prepare SOURCE --out {store}` creates"
            " one, or completes one that was interrupted"
        ) from None
    except (ImportError, ValueError, OSError) as error:
        raise InputError(f"{url} cannot be read ({line(error)})") from error
    if table.schema.names != _schema().names:
        raise InputError(f"{url} is not a manifest of this version of denovox; prepare it again")
    return table.to_pylist()
