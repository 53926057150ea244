"""A store of three patients, small, of numbers drawn at random; and a recipe for it."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from denovox.datasets import store


def make_store(folder: Path, lesions: bool | None = None) -> list[store.Case]:
    """Chests of 20^3 voxels of 2 mm, patients a, b and c; gives its cases.

    lesions: a box of each is one; False: there are masks, but empty ones.
    """
    rng = np.random.default_rng(0)
    for patient in "abc":
        facts = store.CaseFacts(id=patient, patient=patient, region="chest", spacing_mm=(2, 2, 2))
        hu = rng.normal(-500, 300, (20, 20, 20)).astype(np.int16)
        lesion = np.zeros(hu.shape, np.uint8)
        lesion[5:9, 6:9, 7:12] = bool(lesions)
        labels = np.full(hu.shape, 118, np.uint8)
        store.add(folder, facts, hu, labels, None if lesions is None else lesion)
    store.index(folder)
    return store.cases(folder)


def tree(folder: Path, but: tuple[str, ...] = (".lock",)) -> dict[str, bytes]:
    """Every file of a folder, such as a store, but for those of these names, or in such folders."""
    paths = (path for path in sorted(folder.rglob("*")) if path.is_file())
    within = {path.relative_to(folder): path for path in paths}
    return {
        k.as_posix(): path.read_bytes() for k, path in within.items() if not {*but} & {*k.parts}
    }


# A recipe that trains on it in seconds; to be filled with the store and the steps, and to go on.
RECIPE = """
name = "mine"
card = "a test"
[data]
store = "{store}"
validation_patients = ["c"]
sample = {{ patch = 16 }}
[model]
net = "tiny"
[train]
steps = {steps}
precision = "float32"
"""
