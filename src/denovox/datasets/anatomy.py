"""A label map by itself, as an anatomy to draw a scan from: whatever its values are called."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
from jaxtyping import Float, UInt8

from ..core.errors import ensure, silent
from ..io import label_maps
from . import label_sets, nnunet_raw


def read(
    path: Path, label_set: str | None = None, say: Callable[[str], None] = silent
) -> tuple[UInt8[np.ndarray, "x y z"], Float[np.ndarray, "4 4"]]:
    """(ids of `core.labels`, affine) of a NIfTI, NRRD or MetaImage file.

    label_set: a name of `label_sets.names`; None: the names that the file itself states, those of
    nnU-Net's dataset.json where the file is in a folder labels* beside one, and otherwise the
    vocabulary's own numbers, which are those of TotalSegmentator v2. `InputError` if the file
    cannot be read, has values that the label set does not have, or shows none of our classes.
    """
    by = None if label_set is None else label_sets.bridge(label_set)
    if by is None:
        listed = path.absolute().parent.parent / "dataset.json"
        own = any(one.names for one in label_maps.layers(path))
        if own or not (path.parent.name.startswith("labels") and listed.is_file()):
            return label_maps.vocabulary(path, say)
        by = nnunet_raw.bridge_of(listed)
        say(f"{path}: labels as named in {listed}")
    values, affine = label_maps.read(path)
    ids = label_sets.apply(values, by, str(path))
    ensure(
        ids.any() or not values.any(),
        f"{path} has no label that is a class of the vocabulary (docs/reference/labels.md)",
    )
    return ids, affine
