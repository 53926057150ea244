"""Label maps and masks in any format, on the grid of their CT.

A file that names its values (`segments`) is understood by these names, not by its numbers: the
first segment of Slicer has the value 1, whatever it is. `FILE:NAME` is one segment of a file.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Int32, Integer, UInt8

from ..core import labels
from ..core.errors import InputError, did_you_mean, ensure, line, silent
from ..core.volume import GRID_TOLERANCE_MM, Grid, Volume
from . import formats, segments
from .segments import Layer

_CHOSEN = re.compile(r"(.+?\.(?:nii|nii\.gz|nrrd|nhdr|mha|mhd)):(.+)", re.IGNORECASE | re.DOTALL)
MOST = 20  # names listed in a message

Say = Callable[[str], None]


def layers(path: Path, like: Volume | None = None, say: Say = silent) -> tuple[Layer, ...]:
    """A NIfTI, NRRD or MetaImage file as it is: values, and names where it states them.

    Several layers only where segments of Slicer overlap. path: may end in `:NAME`, which leaves 1
    in that segment. like: a CT whose grid the result is put on, see `on_grid`. say: called with
    the notes of the file's reader, as for a scan; here alone for all label maps and masks. Raises
    `InputError` if the file cannot be read, its values are not integers below 2^24, it has no such
    segment, or its voxels are not those of the CT.
    """
    given = Path(path)
    chosen = None if given.exists() else _CHOSEN.fullmatch(str(given))
    file, name = (Path(chosen[1]), chosen[2]) if chosen else (given, None)
    _require_file(file)
    found = (segments.of_itk if formats.kind_of(file) == "itk" else segments.of_nifti)(file)
    for note in found[0].notes:
        say(f"{file}: {note}")
    if name is not None:
        found = (_segment(found, name, file),)
    if like is None:
        return found
    return tuple(replace(one, values=_placed(one, like, file), affine=like.affine) for one in found)


def read(path: Path) -> tuple[Int32[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """(stored values, affine) of a file, in the axes closest to RAS; `InputError` as `layers`."""
    one = _single(layers(path), path)
    return one.values.astype(np.int32), one.affine


def on_grid(path: Path, like: Volume, say: Say = silent) -> Int32[np.ndarray, "x y z"]:
    """The stored values on the grid of a volume; 0 outside a label map that was cropped.

    Its voxels must coincide with voxels of the volume within 0.01 mm: labels are never resampled
    silently. Otherwise `InputError`, with both geometries.
    """
    return _single(layers(path, like, say), path).values.astype(np.int32)


def read_labels(
    path: str | Path, like: Volume | None = None, say: Say = silent
) -> UInt8[np.ndarray, "x y z"] | Int32[np.ndarray, "x y z"]:
    """A label map or mask in any format, in the axes closest to RAS.

    Stored values; of a file that names several segments, their classes in the vocabulary. A path
    ending in `:NAME` is 1 in that segment. like: a CT whose grid the result is put on (0 outside a
    cropped label map). say: called with a note on what the file's header states twice. uint8 if the
    values fit. Raises `InputError` if the file cannot be read, its voxels are not those of the CT,
    or several segments have names that are not classes.
    """
    found = layers(Path(path), like, say)
    several = sum(len(one.names) for one in found) > 1
    values = _classes(found, path) if several else found[0].values
    fits = values.size == 0 or (values.min() >= 0 and values.max() < 256)
    return values.astype(np.uint8) if fits else values.astype(np.int32)


def vocabulary(
    path: Path, say: Say = silent
) -> tuple[UInt8[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """A label map by itself: (ids of `core.labels`, affine), by the names that it states, if any.

    `InputError` as `layers`, or if a value or a name is not in the vocabulary.
    """
    found = layers(path, say=say)
    if any(one.names for one in found):
        return _classes(found, path), found[0].affine
    values = found[0].values
    try:
        labels.check(np.unique(values))
    except InputError as error:
        raise InputError(f"{path}: {error}") from None
    return values.astype(np.uint8), found[0].affine


def marked(path: Path, like: Volume, say: Say = silent) -> Bool[np.ndarray, "x y z"]:
    """True where a label map on a volume's grid is not 0, in any layer; `InputError` if nowhere."""
    found = np.zeros(like.shape, bool)
    for one in layers(path, like, say):
        found |= one.values != 0
    ensure(found.any(), f"{path} is empty: all its voxels are 0")
    return found


# ---- files --------------------------------------------------------------------------------------


def _require_file(path: Path) -> None:
    """`InputError` for what is often given in place of a label map: a folder, or DICOM."""
    if path.is_dir():
        masks = sorted(one.name for one in path.glob("*.nii.gz"))
        ensure(masks, f"{path} is a folder; give one label map (NIfTI, NRRD or MetaImage)")
        raise InputError(
            f"{path} is a folder of {len(masks)} masks ({_listed(masks, 3)}); give one of them, or"
            " all in one label map (TotalSegmentator --ml)"
        )
    if formats.kind_of(path) == "dicom":
        raise InputError(
            f"{path} is DICOM; label maps are read as NIfTI, NRRD or MetaImage: convert it, for"
            " example with 3D Slicer or dcmqi"
        )


def _single(found: tuple[Layer, ...], path: str | Path) -> Layer:
    many = f"{path} has segments that overlap ({_shown(found)}); choose one as {path}:NAME"
    ensure(len(found) == 1, many)
    return found[0]


def _placed(one: Layer, like: Volume, path: Path) -> Integer[np.ndarray, "x y z"]:
    """The values of a layer on the grid of a volume."""
    offset = np.linalg.solve(like.affine, one.affine[:, 3])[:3]
    start = np.rint(offset).astype(int)
    stop = start + one.values.shape
    axes = one.affine[:3, :3] - like.affine[:3, :3]
    apart_mm = np.linalg.norm(like.affine[:3, :3] @ (offset - start)) + np.linalg.norm(
        np.abs(axes) @ one.values.shape
    )
    if apart_mm > GRID_TOLERANCE_MM or (start < 0).any() or (stop > like.shape).any():
        raise InputError(Grid(one.values.shape, one.affine).unlike(like.grid, path))
    if one.values.shape == like.shape:
        return one.values
    out = np.zeros(like.shape, one.values.dtype)
    out[tuple(slice(a, b) for a, b in zip(start, stop, strict=True))] = one.values
    return out


# ---- names --------------------------------------------------------------------------------------


def _segment(found: tuple[Layer, ...], name: str, path: Path) -> Layer:
    """1 in the segment of that name, 0 elsewhere."""
    ensure(any(one.names for one in found), f"{path} does not name its values; leave out ':{name}'")
    for same in (str, str.casefold):
        hits = [
            (one, value)
            for one in found
            for value, names in one.names.items()
            if same(name) in map(same, names[:2])
        ]
        ensure(len(hits) < 2, f"{path} has {len(hits)} segments called '{line(name)}'; rename one")
        if hits:
            one, value = hits[0]
            mask = (one.values == value).astype(np.uint8)
            return Layer(mask, one.affine, {1: one.names[value]})
    near = did_you_mean(name, [names[0] for one in found for names in one.names.values()])
    raise InputError(f"{path} has no segment '{line(name)}'{near}; it has {_shown(found)}")


def _classes(found: tuple[Layer, ...], path: str | Path) -> UInt8[np.ndarray, "x y z"]:
    """The class of each voxel by the names of segments; where they overlap, the finer class."""
    strange = _unnamed(found)
    ensure(
        not strange,
        f"{path} has segments whose names are not classes of the vocabulary ({_listed(strange)});"
        f" rename them (docs/reference/labels.md), or choose one as a mask with FILE:NAME",
    )
    ids = np.zeros(found[0].values.shape, np.uint8)
    for one in found:
        ids = labels.overlay(ids, _by_name(one))
    return ids


def _by_name(one: Layer) -> UInt8[np.ndarray, "x y z"]:
    ids = np.zeros(one.values.shape, np.uint8)
    for value, names in one.names.items():
        ids[one.values == value] = labels.ID[labels.named(*names) or "unknown"]
    return ids


def _unnamed(found: tuple[Layer, ...]) -> list[str]:
    """What of a file has no class: names, and values without a name; only what occurs."""
    strange = []
    for one in found:
        for value in np.unique(one.values[one.values != 0]).tolist():
            names = one.names.get(value, (f"value {value}",))
            if labels.named(*names) is None:
                strange.append(names[0])
    return strange


def _shown(found: tuple[Layer, ...]) -> str:
    return _listed([names[0] for one in found for names in one.names.values()])


def _listed(names: list[str], most: int = MOST) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return line(", ".join(names[:most])) + more
