"""The headers of NRRD and MetaImage: plain text, and what it says of voxels and their place.

http://teem.sourceforge.net/nrrd/format.html, https://itk.org/Wiki/ITK/MetaIO/Documentation.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..core.errors import InputError, ensure, line

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
_META_TYPES = {  # MET_LONG has 4 bytes or 8, which the file does not say
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
_TO_RAS = {  # signs of x y z
    **dict.fromkeys(("left-posterior-superior", "lps"), (-1, -1, 1)),
    **dict.fromkeys(("right-anterior-superior", "ras"), (1, 1, 1)),
    **dict.fromkeys(("left-anterior-superior", "las"), (-1, 1, 1)),
}


@dataclass(frozen=True, eq=False)
class Head:
    """What a header says. affine: RAS. data, offset: where voxels begin; negative: from the end.

    packing: raw, gzip (or zlib) or text.
    """

    dtype: np.dtype
    size: tuple[int, ...]
    affine: Float[np.ndarray, "4 4"]
    data: Path
    offset: int
    packing: str


def is_nrrd(start: bytes) -> bool:
    """Whether a file that starts so is NRRD."""
    return start.startswith(b"NRRD0")


def is_meta(start: bytes) -> bool:
    """Whether a file that starts so is MetaImage, whose header has no magic but its keys."""
    return bool(re.match(rb"\s*(ObjectType|NDims|Comment)\s*=", start))


def nrrd(path: Path, start: bytes) -> Head:
    """A NRRD's header; `InputError`."""
    gap = re.search(rb"\r?\n\r?\n", start)
    offset = gap.end() if gap else len(start)
    said = {}
    for row in start[:offset].decode("latin-1").splitlines()[1:]:
        key, colon, value = row.partition(":")
        if colon and not row.startswith("#") and not value.startswith("="):
            said[key.strip().lower().replace(" ", "")] = value.strip()
    vectors = said.get("spacedirections", "")
    placed = vectors and "space" in said and "spaceorigin" in said and "none" not in vectors
    unplaced = f"{path} does not say how it lies in space (space, space directions and origin)"
    ensure(placed, f"{unplaced}; {AGAIN}")
    signs = _TO_RAS.get(said["space"].lower())
    if signs is None:
        raise InputError(f"{path} lies in a space of {line(said['space'])}; {AGAIN} as LPS")
    units = set(re.findall(r'"([^"]*)"', said.get("spaceunits", ""))) - {"mm", ""}
    ensure(not units, f"{path} measures in {line(', '.join(units))}; convert it to millimetres")
    size = _whole(path, "sizes", said.get("sizes", ""))
    solid = said.get("dimension") == "3" and len(size) == 3
    ensure(solid, f"{path} is no 3D volume (sizes {said.get('sizes', '')[:80]!r}); give one")
    directions = _reals(path, "space directions", vectors, 9).reshape(3, 3)
    origin = _reals(path, "space origin", said["spaceorigin"], 3)
    encoding = said.get("encoding", "").lower()
    packing = {"raw": "raw", "gzip": "gzip", "gz": "gzip"}.get(encoding, "")
    packing = "text" if encoding in ("ascii", "text", "txt") else packing
    ensure(packing, f"{path} is packed as {line(encoding) or 'nothing said'}; save it as gzip")
    dtype = _NRRD_TYPES.get(said.get("type", "").lower(), "")
    ensure(dtype, f"{path} stores values of type {line(said.get('type'))}; give the original CT")
    order = {"little": "<", "big": ">"}.get(said.get("endian", "").lower(), "")
    fine = order or dtype.endswith("1") or packing == "text"
    ensure(fine, f"{path} does not say its byte order (endian); {AGAIN}")
    data = path
    if name := said.get("datafile", ""):
        data, offset = _beside(path, name), 0
    lines, skip = (_whole(path, key, said.get(key, "0"))[0] for key in ("lineskip", "byteskip"))
    ensure(lines == 0, f"{path} has text before its voxels (line skip); save it anew")
    ensure(
        skip == 0 or (skip >= -1 and packing == "raw" and data != path),
        f"{path} has {skip} bytes before its voxels (byte skip); save it anew",
    )
    affine = _affine(path, directions.T, origin, signs)
    return Head(np.dtype(order + dtype), size, affine, data, skip or offset, packing)


def meta(path: Path, start: bytes) -> Head:
    """A MetaImage's header (https://itk.org/Wiki/ITK/MetaIO/Documentation); `InputError`."""
    said, offset = {}, 0
    for row in start.splitlines(keepends=True):
        offset += len(row)
        key, _, value = row.decode("latin-1").partition("=")
        said[key.strip().lower()] = value.strip()
        if key.strip() == "ElementDataFile":
            break

    def first(*keys: str) -> str:
        return next((said[key] for key in keys if said.get(key)), "")

    def true(*keys: str) -> bool:
        return first(*keys).lower().startswith(("t", "1"))

    matrix = first("transformmatrix", "orientation", "rotation")
    place = first("offset", "origin", "position")
    unplaced = f"{path} does not say how it lies in space (TransformMatrix, Offset); {AGAIN}"
    ensure(matrix and place, unplaced)
    unit = first("distanceunits") or "mm"
    ensure(unit.lower() in ("mm", "?"), f"{path} measures in {line(unit)}; convert it to mm")
    size = _whole(path, "DimSize", first("dimsize"))
    solid = first("ndims") == "3" and len(size) == 3
    ensure(solid, f"{path} is no 3D volume (DimSize {first('dimsize')[:80]!r}); give one")
    channels = first("elementnumberofchannels") or "1"
    ensure(channels == "1", f"{path} stores {line(channels)} values a voxel; give the original CT")
    dtype = _META_TYPES.get(first("elementtype"), "")
    ensure(dtype, f"{path} stores values of type {line(first('elementtype'))}; give another type")
    axes = _reals(path, "TransformMatrix", matrix, 9).reshape(3, 3)  # an axis a row
    spacing = _reals(path, "ElementSpacing", first("elementspacing", "elementsize"), 3)
    origin = _reals(path, "Offset", place, 3)
    order = ">" if true("binarydatabyteordermsb", "elementbyteordermsb") else "<"
    packed, text = true("compresseddata"), not true("binarydata") and "binarydata" in said
    packing = "gzip" if packed else "text" if text else "raw"
    name = first("elementdatafile")
    ensure(name, f"{path} does not say where its voxels are (ElementDataFile); {AGAIN}")
    data = path
    if name.upper() != "LOCAL":
        data, offset = _beside(path, name), 0
    (skip,) = _whole(path, "HeaderSize", first("headersize") or "0")[:1]
    own = skip == 0 or (skip >= -1 and packing == "raw" and data != path)
    ensure(own, f"{path} has {skip} bytes before its voxels (HeaderSize); save it anew")
    affine = _affine(path, axes.T * spacing, origin, (-1, -1, 1))
    return Head(np.dtype(order + dtype), size, affine, data, skip or offset, packing)


def _whole(path: Path, what: str, said: str) -> tuple[int, ...]:
    """Whole numbers of a field; `InputError`."""
    fine = re.fullmatch(r"\s*-?\d{1,9}(\s+-?\d{1,9})*\s*", said)
    ensure(fine, f"{path} has {what} of {line(said)!r}, not whole numbers; {AGAIN}")
    return tuple(int(word) for word in said.split())


def _reals(path: Path, what: str, said: str, count: int) -> Float[np.ndarray, " n"]:
    """Finite numbers of a field, vectors in brackets or not; `InputError`."""
    try:
        found = np.array([float(word) for word in re.sub(r"[(),]", " ", said).split()])
    except ValueError:
        found = np.empty(0)
    fine = len(found) == count and np.isfinite(found).all()
    ensure(fine, f"{path} has {what} of {line(said)!r}, not {count} numbers; {AGAIN}")
    return found


def _beside(path: Path, name: str) -> Path:
    """The file that voxels are in; `InputError` where that is not one plain file."""
    one = "%" not in name and not re.match(r"LIST\b", name)
    ensure(one, f"{path} has its voxels in several files; save it as one")
    other = path.parent / name.replace("\0", "?")
    plain = other.is_file()
    ensure(plain, f"{path} has its voxels in {line(other)}, which is no file; copy that, too")
    return other


def _affine(
    path: Path,
    axes: Float[np.ndarray, "3 3"],
    origin: Float[np.ndarray, " 3"],
    signs: Sequence[int],
) -> Float[np.ndarray, "4 4"]:
    """mm of each axis' step (columns) and of voxel 0 -> affine in RAS; `InputError` if flat."""
    affine = np.eye(4)
    affine[:3] = np.array(signs)[:, None] * np.c_[axes, origin]
    steps = np.linalg.norm(np.clip(axes, -FAR_MM, FAR_MM), axis=0)
    sane = steps.min() > 1e-3 and steps.max() < 1e3 and np.abs(origin).max() < FAR_MM
    solid = sane and abs(np.linalg.det(axes)) > 1e-6 * np.prod(steps)
    ensure(solid, f"{path} has a geometry that no CT has, or that cannot be inverted; {AGAIN}")
    return affine
