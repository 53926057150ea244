"""The plain-text header of NRRD: voxel type, layout, position in space; MetaImage shares helpers.

http://teem.sourceforge.net/nrrd/format.html
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..core.errors import InputError, ensure, line
from .statements import Statement, compare, once

MOST_HEAD = 2**20  # bytes
FAR_MM = 1e5  # as for DICOM
AGAIN = "export it again from the original"
# http://teem.sourceforge.net/nrrd/format.html; ITK writes the first name of each.
_NRRD_TYPES = {
    name: code
    for code, names in {
        "i1": "signed char,int8,int8_t",
        "u1": "unsigned char,uchar,uint8,uint8_t",
        "i2": "short,short int,signed short,signed short int,int16,int16_t",
        "u2": "unsigned short,ushort,unsigned short int,uint16,uint16_t",
        "i4": "int,signed int,int32,int32_t",
        "u4": "unsigned int,uint,uint32,uint32_t",
        "i8": "long long,longlong,long long int,signed long long,int64,int64_t",
        "u8": "unsigned long long,ulonglong,unsigned long long int,uint64,uint64_t",
        "f4": "float",
        "f8": "double",
    }.items()
    for name in names.split(",")
}
_TO_RAS = {  # signs of x y z
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
}


@dataclass(frozen=True, eq=False)
class Head:
    """A parsed header. affine: to RAS. data, offset: where voxels begin; negative: from the end.

    packing: raw, gzip (or zlib) or text. notes: what the header states twice and differently.
    """

    dtype: np.dtype
    size: tuple[int, ...]
    affine: Float[np.ndarray, "4 4"]
    data: Path
    offset: int
    packing: str
    notes: tuple[str, ...] = ()


def is_nrrd(start: bytes) -> bool:
    """Whether a file starting with these bytes is NRRD."""
    return start.startswith(b"NRRD0")


def nrrd(path: Path, start: bytes) -> Head:
    """Parse an NRRD header; `InputError` if it is unusable."""
    gap = re.search(rb"\r?\n\r?\n", start)
    offset = gap.end() if gap else len(start)
    fields: dict[str, str] = {}
    for row in start[:offset].decode("latin-1").splitlines()[1:]:
        key, colon, value = row.partition(":")
        if colon and not row.startswith("#") and not value.startswith("="):
            short = key.strip().lower().replace(" ", "")
            once(path, key.strip(), fields.get(short), value.strip())
            fields[short] = value.strip()
    size = whole(path, "sizes", fields.get("sizes", ""))
    solid = fields.get("dimension") == "3" and len(size) == 3
    ensure(solid, f"{path} is not a 3D volume (sizes {fields.get('sizes', '')[:80]!r}); give one")
    vectors = fields.get("spacedirections", "")
    placed = vectors and "space" in fields and "spaceorigin" in fields and "none" not in vectors
    unplaced = f"{path} does not state its position in space (space, space directions and origin)"
    ensure(placed, f"{unplaced}; {AGAIN}")
    signs = _TO_RAS.get(fields["space"].lower())
    if signs is None:
        raise InputError(
            f"{path} uses the unsupported space {line(fields['space'])}; {AGAIN} as LPS"
        )
    stated = fields.get("spaceunits", "") + fields.get("units", "")
    units = set(re.findall(r'"([^"]*)"', stated)) - {"mm", "millimeter", "millimetre", ""}
    ensure(not units, f"{path} is in {line(', '.join(sorted(units)))}; convert it to millimetres")
    directions = reals(path, "space directions", vectors, 9).reshape(3, 3)
    origin = reals(path, "space origin", fields["spaceorigin"], 3)
    encoding = fields.get("encoding", "").lower()
    packing = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}.get(encoding, "")
    packing = "text" if encoding in ("ascii", "text", "txt") else packing
    ensure(
        packing,
        f"{path} has the unsupported encoding {line(encoding) or '(none)'}; save it as gzip",
    )
    dtype = _NRRD_TYPES.get(fields.get("type", "").lower(), "")
    ensure(
        dtype,
        f"{path} stores values of type {line(fields.get('type', '(none)'))}; give the original CT",
    )
    order = {"little": "<", "big": ">"}.get(fields.get("endian", "").lower(), "")
    fine = order or dtype.endswith("1") or packing == "text"
    ensure(fine, f"{path} does not state its byte order (endian); {AGAIN}")
    data = path
    if name := fields.get("datafile", ""):
        data, offset = beside(path, name), 0
    lines, skip = (whole(path, key, fields.get(key, "0"))[0] for key in ("lineskip", "byteskip"))
    ensure(lines == 0, f"{path} has text before its voxels (line skip); save it again")
    ensure(
        skip == 0 or (skip >= -1 and packing == "raw" and data != path),
        f"{path} has {skip} bytes before its voxels (byte skip); save it again",
    )
    affine = ras_affine(path, directions.T, origin, signs)
    quantised = fields.get("oldmin", "nan").lower(), fields.get("oldmax", "nan").lower()
    scaled = f"{path} was quantised from {line(' to '.join(quantised))} (old min, old max)"
    ensure(quantised == ("nan", "nan"), f"{scaled}; {AGAIN}")
    notes: tuple[str, ...] = ()
    if others := [key for key in ("axis mins", "axis maxs") if key.replace(" ", "") in fields]:
        notes = (f"its {' and '.join(others)} were ignored, since it has space directions",)
    if "spacings" in fields:  # which the format does not allow beside space directions
        mm = np.abs(reals(path, "spacings", fields["spacings"], 3, finite=False))
        used = Statement.of("space directions", affine)
        notes += compare(path, used, [Statement("spacings", mm)])
    return Head(np.dtype(order + dtype), size, affine, data, skip or offset, packing, notes)


def whole(path: Path, what: str, value: str) -> tuple[int, ...]:
    """The integers in a field; `InputError` if it holds anything else."""
    fine = re.fullmatch(r"\s*-?\d{1,9}(\s+-?\d{1,9})*\s*", value)
    ensure(fine, f"{path} has {what} of {line(value)!r}, not whole numbers; {AGAIN}")
    return tuple(int(word) for word in value.split())


def reals(
    path: Path, what: str, value: str, count: int, finite: bool = True
) -> Float[np.ndarray, " n"]:
    """The (finite) numbers in a field, vectors in brackets or not; `InputError` otherwise."""
    try:
        found = np.array([float(word) for word in re.sub(r"[(),]", " ", value).split()])
    except ValueError:
        found = np.empty(0)
    fine = len(found) == count and (np.isfinite(found).all() or not finite)
    ensure(fine, f"{path} has {what} of {line(value)!r}, not {count} numbers; {AGAIN}")
    return found


def beside(path: Path, name: str) -> Path:
    """The file that holds the voxels; `InputError` if that is not one regular file."""
    one = "%" not in name and not re.match(r"LIST\b", name)
    ensure(one, f"{path} has its voxels in several files; save it as one")
    other = path.parent / name.replace("\0", "?")
    plain = other.is_file()
    ensure(plain, f"{path} has its voxels in {line(other)}, which is not a file; copy that too")
    return other


def ras_affine(
    path: Path,
    axes: Float[np.ndarray, "3 3"],
    origin: Float[np.ndarray, " 3"],
    signs: Sequence[int],
) -> Float[np.ndarray, "4 4"]:
    """Steps along each axis (columns) and origin, mm -> RAS affine; `InputError` if singular."""
    affine = np.eye(4)
    affine[:3] = np.array(signs)[:, None] * np.c_[axes, origin]
    steps = np.linalg.norm(np.clip(axes, -FAR_MM, FAR_MM), axis=0)
    sane = steps.min() > 1e-3 and steps.max() < 1e3 and np.abs(origin).max() < FAR_MM
    solid = sane and abs(np.linalg.det(axes)) > 1e-6 * np.prod(steps)
    ensure(
        solid, f"{path} has a geometry that is implausible for a CT, or cannot be inverted; {AGAIN}"
    )
    return affine
