"""Label maps that name their values: Slicer segmentations (.seg.nrrd) and TotalSegmentator's NIfTI.

Slicer keeps segments that overlap in layers: voxels of a fourth axis, the first of the file. A
segment is a value in a layer (`Segment0_Layer`, `Segment0_LabelValue`); files from before Slicer
4.11 have a layer for each segment. What a file covers is given by its origin: it may be cropped.
https://github.com/Slicer/Slicer/blob/main/Libs/vtkSegmentationCore and its storage node.
TotalSegmentator writes the names of its values as an extension of the header, as XML of Caret.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from html import unescape
from pathlib import Path

import numpy as np
from jaxtyping import Float, Integer
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from ..core.errors import InputError, ensure, line
from . import itk, nifti
from .itk_header import MOST_HEAD, is_nrrd, nrrd
from .nifti_bytes import decoded, load

# Value -> names of a segment, the one to show first; the others are its id and its terminology.
Values = Integer[np.ndarray, "x y z"]
Names = Mapping[int, tuple[str, ...]]
_PER_AXIS = re.compile(rb"(?mi)^(kinds|centers|centerings|labels|spacings|thicknesses)[^\n]*\n")
_LABEL = re.compile(
    r"<Label\s[^>]*?Key=\"(\d+)\"[^>]*>\s*(?:<!\[CDATA\[(.*?)\]\]>|([^<]*?))\s*</Label>", re.DOTALL
)


@dataclass(frozen=True, eq=False)
class Layer:
    """Label values in the axes closest to RAS, and what the file calls them; often nothing.

    notes: of the file's reader, as those of a scan.
    """

    values: Integer[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    names: Names
    notes: tuple[str, ...] = ()


def of_nifti(path: Path) -> tuple[Layer, ...]:
    """The label map in a NIfTI file; `InputError` unless its values are integers."""
    source = load(path)
    values = nifti.whole_numbers(decoded(source, source.dtype)[0], path)
    text = source.head[348:].decode("utf-8", "replace")
    found = {int(key): unescape(a or b).strip() for key, a, b in _LABEL.findall(text)}
    names = {key: (name,) for key, name in found.items() if name}
    return (Layer(values, source.affine, names, source.notes),)


def of_itk(path: Path) -> tuple[Layer, ...]:
    """The layers of a label map in NRRD or MetaImage: one, unless segments of Slicer overlap.

    Raises `InputError` if the file cannot be read, values are not integers below 2^24, or a segment
    is in a layer that is not there.
    """
    with open(path, "rb") as file:
        start = file.read(MOST_HEAD)
    named = _slicer(path, start) if is_nrrd(start) else ()
    count = _layer_count(path, start) if is_nrrd(start) else 0
    if not count:
        volume = itk.read(path, thin=True)
        maps: list[Values] = [nifti.whole_numbers(volume.hu, path)]
        affine, notes = volume.affine, volume.source.notes
    else:
        maps, affine, notes = _layered(path, start, count)
    late = [names[0] for layer, _, names in named if layer >= len(maps)]
    ensure(not late, f"{path} has no layer for {line(', '.join(late))} (it has {len(maps)})")
    return tuple(
        Layer(values, affine, {value: names for layer, value, names in named if layer == k}, notes)
        for k, values in enumerate(maps)
    )


def _layer_count(path: Path, start: bytes) -> int:
    """The number of layers in a 4D NRRD file whose first axis has no direction; otherwise 0."""
    head = start[: _end(start)]
    if not re.search(rb"(?mi)^dimension:\s*4\s*$", head):
        return 0
    first = re.search(rb"(?mi)^space directions:\s*none\s+\(", head)
    kind = re.search(rb"(?mi)^kinds:\s*(list|vector|\S*-?color|none|\?+)", head)
    size = re.search(rb"(?mi)^sizes:\s*(\d{1,6})\s", head)
    fine = first and size and (kind or b"kinds:" not in head)
    if not (fine and size):
        raise InputError(
            f"{path} is a 4D image whose first axis does not list segments; save the segmentation"
            " in Slicer as .seg.nrrd, or give one 3D label map"
        )
    return int(size[1])


def _layered(
    path: Path, start: bytes, count: int
) -> tuple[list[Values], Float[np.ndarray, "4 4"], tuple[str, ...]]:
    """Values of each layer, affine and notes: read as a 3D image of `count` values a voxel."""
    end = _end(start)
    flat = re.sub(rb"(?mi)^dimension:\s*4", b"dimension: 3", start[:end])
    flat = re.sub(rb"(?mi)^(sizes:)\s*\d+", rb"\1", flat)
    flat = re.sub(rb"(?mi)^(space directions:)\s*none", rb"\1", flat)
    flat = _PER_AXIS.sub(b"", flat)
    head = nrrd(path, flat)
    whole = head.dtype.kind in "iu" and head.packing != "text"
    ensure(whole, f"{path} has layers of {head.dtype}, or as text; save it again in Slicer")
    own = head.offset + end - len(flat) if head.data == path else head.offset
    dtype = np.dtype([("layers", head.dtype, (count,))])
    raw = itk.voxels(path, replace(head, dtype=dtype, offset=own))["layers"]
    ornt = io_orientation(head.affine)
    maps = [np.ascontiguousarray(apply_orientation(raw[..., k], ornt)) for k in range(count)]
    return maps, head.affine @ inv_ornt_aff(ornt, raw.shape[:3]), head.notes


def _end(start: bytes) -> int:
    """The length of a NRRD header."""
    gap = re.search(rb"\r?\n\r?\n", start)
    return gap.end() if gap else len(start)


def _slicer(path: Path, start: bytes) -> tuple[tuple[int, int, tuple[str, ...]], ...]:
    """(layer, value, names) of each segment in a NRRD header; nothing if it describes none."""
    text = start[: _end(start)].decode("utf-8", "replace")
    rows: dict[int, dict[str, str]] = {}
    for number, key, value in re.findall(r"(?m)^Segment(\d{1,5})_(\w+):=(.*?)\r?$", text):
        rows.setdefault(int(number), {})[key] = value.strip()
    found = []
    old = not any("LabelValue" in row or "Layer" in row for row in rows.values())
    for place, (number, row) in enumerate(sorted(rows.items())):
        layer, value = row.get("Layer", str(place if old else 0)), row.get("LabelValue", "1")
        whole = re.fullmatch(r"\d{1,7}", layer) and re.fullmatch(r"\d{1,7}", value)
        ensure(whole, f"{path}: layer {line(layer)} and value {line(value)} are not whole numbers")
        name = row.get("Name") or row.get("ID") or f"Segment{number}"
        others = (row.get("ID", ""), _term(row.get("Tags", "")))
        found.append((int(layer), int(value), (name, *(one for one in others if one))))
    return tuple(found)


def _term(tags: str) -> str:
    """The type of a segment in its terminology, with its modifier: "Kidney Right"."""
    entry = re.search(r"TerminologyEntry:([^|]*)", tags)
    parts = entry[1].split("~") if entry else []
    words = [part.split("^") for part in parts[2:4]]
    return " ".join(word[2] for word in words if len(word) == 3 and word[2])
