"""The plain-text header of MetaImage: voxel type, layout and position in space.

https://itk.org/Wiki/ITK/MetaIO/Documentation
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from ..core.errors import ensure, line
from ..core.volume import spacing_of
from .itk_header import AGAIN, Head, beside, ras_affine, reals, whole
from .statements import ONE, Statement, compare, letters_of, once

_META_TYPES = {  # MET_LONG is left out: it has 4 or 8 bytes, and the file does not say which
    **{"MET_CHAR": "i1", "MET_UCHAR": "u1", "MET_SHORT": "i2", "MET_USHORT": "u2"},
    **{"MET_INT": "i4", "MET_UINT": "u4", "MET_LONG_LONG": "i8", "MET_ULONG_LONG": "u8"},
    **{"MET_FLOAT": "f4", "MET_DOUBLE": "f8"},
}
# One thing under several names, in the order in which MetaIO, the format's library, uses them.
META_SIZES = ("ElementSpacing", "ElementSize")
META_MATRICES = ("TransformMatrix", "Rotation", "Orientation")
META_PLACES = ("Origin", "Offset", "Position")
META_ORDERS = ("BinaryDataByteOrderMSB", "ElementByteOrderMSB")
_TOWARDS = {"R": (0, 1), "L": (0, -1), "A": (1, 1), "P": (1, -1), "S": (2, 1), "I": (2, -1)}


def is_meta(start: bytes) -> bool:
    """Whether a file starting like this is MetaImage, which has no magic number, only keys."""
    return bool(re.match(rb"\s*(ObjectType|NDims|Comment)\s*=", start))


def meta(path: Path, start: bytes) -> Head:
    """Parse a MetaImage header (https://itk.org/Wiki/ITK/MetaIO/Documentation); `InputError`."""
    fields: dict[str, str] = {}
    offset = 0
    for row in start.splitlines(keepends=True):
        offset += len(row)
        key, _, value = row.decode("latin-1").partition("=")
        if (short := key.strip().lower()) != "comment":
            once(path, key.strip(), fields.get(short), value.strip())
        fields[short] = value.strip()
        if key.strip() == "ElementDataFile":
            break

    def first(*keys: str) -> str:
        return next((fields[key.lower()] for key in keys if fields.get(key.lower())), "")

    def true(*keys: str) -> bool:
        return first(*keys).lower().startswith(("t", "1"))

    matrix, place = first(*META_MATRICES), first(*META_PLACES)
    unplaced = f"{path} does not state its position in space (TransformMatrix, Offset); {AGAIN}"
    ensure(matrix and place, unplaced)
    unit = first("distanceunits") or "mm"
    ensure(unit.lower() in ("mm", "?"), f"{path} is in {line(unit)}; convert it to mm")
    size = whole(path, "DimSize", first("dimsize"))
    solid = first("ndims") == "3" and len(size) == 3
    ensure(solid, f"{path} is not a 3D volume (DimSize {first('dimsize')[:80]!r}); give one")
    channels = first("elementnumberofchannels") or "1"
    ensure(
        channels == "1", f"{path} stores {line(channels)} values per voxel; give the original CT"
    )
    dtype = _META_TYPES.get(first("elementtype"), "")
    ensure(
        dtype,
        f"{path} stores values of type {line(first('elementtype') or '(none)')}; give another type",
    )
    slope = first("elementtointensityfunctionslope") or "1"
    inter = first("elementtointensityfunctionoffset") or "0"
    plain = reals(path, "a slope and offset", f"{slope} {inter}", 2).tolist() == [1, 0]
    unscaled = f"{path} states a slope of {line(slope)} and an offset of {line(inter)}"
    ensure(plain, f"{unscaled}, which readers of MetaImage ignore; save HU")
    axes = reals(path, "TransformMatrix", matrix, 9).reshape(3, 3)  # one axis per row
    spacing = reals(path, "ElementSpacing", first(*META_SIZES), 3)
    origin = reals(path, "Offset", place, 3)
    msb = {true(key) for key in META_ORDERS if first(key)}
    ensure(len(msb) < 2, f"{path} states two byte orders ({', '.join(META_ORDERS)}); {ONE}")
    order = ">" if msb == {True} else "<"
    packed, text = true("compresseddata"), not true("binarydata") and "binarydata" in fields
    packing = "gzip" if packed else "text" if text else "raw"
    name = first("elementdatafile")
    ensure(name, f"{path} does not state where its voxels are (ElementDataFile); {AGAIN}")
    data = path
    if name.upper() != "LOCAL":
        data, offset = beside(path, name), 0
    (skip,) = whole(path, "HeaderSize", first("headersize") or "0")[:1]
    own = skip == 0 or (skip >= -1 and packing == "raw" and data != path)
    ensure(own, f"{path} has {skip} bytes before its voxels (HeaderSize); save it again")
    affine = ras_affine(path, axes.T * spacing, origin, (-1, -1, 1))
    notes = _stated_twice(path, fields, affine)
    if not msb and not dtype.endswith("1") and packing != "text":
        notes += (f"it does not state its byte order ({META_ORDERS[0]}): taken as little-endian",)
    return Head(np.dtype(order + dtype), size, affine, data, skip or offset, packing, notes)


def _stated_twice(
    path: Path, fields: dict[str, str], affine: Float[np.ndarray, "4 4"]
) -> tuple[str, ...]:
    """Notes on what a MetaImage states twice and differently; `InputError` as of `statements`."""

    def stated(keys: Sequence[str], count: int) -> list[tuple[str, Float[np.ndarray, " n"]]]:
        given = [(key, fields.get(key.lower())) for key in keys]
        return [(key, reals(path, key, value, count)) for key, value in given if value]

    to_ras = np.array([-1, -1, 1])
    sizes = [Statement(key, mm) for key, mm in stated(META_SIZES, 3)]
    sizes.append(Statement("TransformMatrix and ElementSpacing", np.array(spacing_of(affine))))
    matrices = [
        Statement(key, axes=to_ras[:, None] * axes.reshape(3, 3).T)
        for key, axes in stated(META_MATRICES, 9)
    ]
    places = [Statement(key, origin=to_ras * mm) for key, mm in stated(META_PLACES, 3)]
    notes: tuple[str, ...] = ()
    for same in (sizes, matrices, places):
        notes += compare(path, same[0], same[1:])
    letters = fields.get("anatomicalorientation", "").upper()
    if re.fullmatch("[RLAPSI]{3}", letters):
        _check_letters(path, letters, affine[:3, :3] / spacing_of(affine))
    if np.any(reals(path, "CenterOfRotation", fields.get("centerofrotation") or "0 0 0", 3)):
        notes += ("its CenterOfRotation was ignored, as ITK does",)
    return notes


def _check_letters(path: Path, letters: str, axes: Float[np.ndarray, "3 3"]) -> None:
    """`InputError` unless AnatomicalOrientation fits the axes.

    ITK writes where axes come from, and the format's documentation has where they go: either is
    right, if it is so for all three.
    """
    towards = [_TOWARDS[letter] for letter in letters]
    along = np.array([axes[row, k] * sign for k, (row, sign) in enumerate(towards)])
    fits = (along > 0.05).all() or (along < -0.05).all()
    own = letters_of(axes)
    two = f"{path} states two orientations: its axes point to {own} by its TransformMatrix, and"
    ensure(fits, f"{two} its AnatomicalOrientation is {letters}; {ONE}")
