"""A folder of NIfTI scans with an index.json -> a store.

The index is a list of entries: `id`, `file`, `patient`, `region`, and optionally `masks` (file
stem -> label table), `source`, `licence`. A label table is "TotalSegmentator v2 total ids" or
{value: class name}; values without a class of the vocabulary stay unknown. Published data sets
and other layouts come with the data issue.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Integer, UInt8

from ..core import labels
from ..core.errors import InputError
from ..core.regions import REGIONS
from . import anatomy, nifti, store

# A scan of the whole trunk is no region of its own: it trains the windows of both it shows.
SPANNING = {"torso": ("chest", "abdomen")}


def to_vocabulary(
    values: Integer[np.ndarray, "x y z"], table: dict[str, str] | str
) -> UInt8[np.ndarray, "x y z"]:
    """Label values of a file -> ids of core/labels; what the table cannot name is unknown."""
    if isinstance(table, str):
        return values.astype(np.uint8)
    out = np.zeros(values.shape, np.uint8)
    for value, name in table.items():
        if name in labels.ID:
            out[values == int(value)] = labels.ID[name]
    return out


def prepare(source: Path, target: Path) -> Iterator[str]:
    """Bring every scan of `source` that the model has a region for into the store `target`.

    Yields one line a scan. Cases that are there already are left alone, so a killed run resumes.
    """
    index = source / "index.json"
    if not index.is_file():
        raise InputError(f"{source}: no index.json here")
    for entry in json.loads(index.read_text()):
        regions = SPANNING.get(entry["region"], (entry["region"],))
        if not set(regions) <= set(REGIONS):
            yield f"{entry['id']}: left out, region '{entry['region']}' is not one of the model's"
        elif (target / entry["id"]).is_dir():
            yield f"{entry['id']}: there already"
        else:
            yield _bring(source, target, entry, regions)


def _bring(source: Path, target: Path, entry: dict[str, Any], regions: tuple[str, ...]) -> str:
    volume = nifti.read(source / entry["file"])
    masks = np.zeros(volume.shape, np.uint8)
    for stem, table in entry.get("masks", {}).items():
        path = source / f"{stem}.nii.gz"
        named = to_vocabulary(nifti.read_labels(path, volume), table)
        masks = np.where(named > 0, named, masks)
    facts = store.CaseFacts(
        id=entry["id"],
        patient=entry["patient"],
        regions=regions,
        spacing_mm=volume.spacing_mm,
        source=entry.get("source", ""),
        licence=entry.get("licence", ""),
    )
    ct = np.clip(np.round(volume.hu), -32768, 32767).astype(np.int16)
    store.add(target, facts, ct, anatomy.combine(masks, anatomy.coarse(volume)))
    return f"{entry['id']}: {'x'.join(map(str, volume.shape))}, {len(np.unique(masks)) - 1} classes"
