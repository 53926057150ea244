"""Pairs of a CT and its label map without a patient: phantoms, and the scans drawn for them.

In nnU-Net's layout (datasets/nnunet.py), with the manifest of a batch (ledger.py): a row a pair.
A stopped run is completed by the same command, and a larger number adds pairs.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import UInt8

from ..core.errors import ensure
from ..core.labels import BODY, ID, NAMES, OUTSIDE, path
from ..core.volume import Volume
from ..datasets import nnunet
from ..simulate.phantom import Phantom, classes, draw
from ..simulate.phantoms.canvas import Size
from .ledger import Ledger, Place, Wanted, alone, keep_settings, sha256
from .scans import Scan

ALL = ("chest", "abdomen", "headneck")


@dataclass(frozen=True)
class Pair:
    """Person number `seed`, one region of it. shape: None for as much as the region takes."""

    region: str
    seed: int
    shape: Size | None
    spacing_mm: tuple[float, float, float]

    @property
    def name(self) -> str:
        """Of the case."""
        return f"{self.region}_{self.seed:04d}"


# (the pair, its phantom, its number among those left, their count) -> a CT on the phantom's grid
Make = Callable[[Pair, Phantom, int, int], Volume]


def fill(
    folder: Path, pairs: Sequence[Pair], make: Make, settings: Mapping[str, Any], force: bool
) -> Iterator[str]:
    """Fill a folder with pairs; yields a line as each is done.

    settings: what the pairs depend on besides region and seed. `InputError` if the folder holds
    pairs made with other settings (unless `force`), or something else, or cannot be written.
    """
    labels = label_values({pair.region for pair in pairs})
    with alone(folder):
        keep_settings(folder, settings, force)
        nnunet.start(folder, labels)
        ledger = Ledger(Place(folder, f"_0000{nnunet.ENDING}", lambda output: output), force)
        digest, by_key = sha256(settings), {pair.name: pair for pair in pairs}
        scans = [Scan(name, f"imagesTr/{name}", Path(name)) for name in by_key]
        rows = [row for row, _ in ledger.plan([Wanted(one, {}, digest, "") for one in scans])]
        refused = next((row.message for row in rows if row.status == "refused"), "")
        ensure(not refused, refused)
        waiting = [
            (row, pair)
            for row, pair in zip(rows, pairs, strict=True)
            if row.status == "pending" or not nnunet.is_done(folder, pair.name)
        ]
        if len(waiting) < len(pairs):
            yield f"{len(pairs) - len(waiting)} of {len(pairs)} pairs already exist"
        for number, (row, pair) in enumerate(waiting):
            began = time.monotonic()
            phantom = draw(pair.region, pair.shape, pair.spacing_mm, pair.seed)
            ct = make(pair, phantom, number, len(waiting))
            image, _ = nnunet.paths(folder, pair.name)
            image.unlink(missing_ok=True)  # made with other settings, under --force
            nnunet.write_case(folder, pair.name, ct, contiguous(phantom.labels, labels))
            seconds = round(time.monotonic() - began, 1)
            ledger.put(replace(row, status="done", seconds=seconds))
            yield f"{number + 1}/{len(waiting)} {pair.name}: done after {seconds:g} s"
        yield f"{folder}: {nnunet.write_dataset_json(folder, labels)} pairs of a CT and a label map"


def label_values(regions: set[str]) -> dict[str, int]:
    """The labels of a data set of these regions: name -> value, from 0 without gaps."""
    ids = sorted(set().union(*(classes(region) for region in regions)) - {OUTSIDE})
    return {"background": 0, **{NAMES[number]: k for k, number in enumerate(ids, 1)}}


def contiguous(
    ids: UInt8[np.ndarray, "x y z"], labels: Mapping[str, int]
) -> UInt8[np.ndarray, "x y z"]:
    """Ids of the vocabulary -> values of `label_values`; what is outside becomes 0. A class that
    has no value takes that of the nearest one that it is part of."""
    table = np.zeros(256, np.uint8)
    for name, number in ID.items():
        values = (labels[above] for above in path(name) if above in labels)
        table[number] = 0 if number == OUTSIDE else next(values, labels[NAMES[BODY]])
    return table[ids]
