"""Map published label sets to the anatomy vocabulary (core/labels), using `label_sets.toml`.

A bridge defines what each value of a label map means. It never guesses: values missing from its
table raise an error that lists them. Where a mask is 0 the class is unknown, not background; the
classes a bridge covers are those it can label at all.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from ..core import labels
from ..core.errors import InputError, did_you_mean, ensure, line, listed, silent
from ..core.volume import Volume
from ..io import label_maps

MOST = 65535  # no published label map has larger values; keeps the lookup table small
_STRANGE = 255  # not an id of the vocabulary, which is stored in a byte


@dataclass(frozen=True)
class Bridge:
    """What the values of one kind of label map mean.

    values: value -> id of core/labels. every: the id of any value above 0 that `values` does not
    list (binary masks, numbered lesions), or None. lesions: values that mark disease; with
    `all_lesions`, every value above 0.
    """

    name: str
    values: Mapping[int, int]
    every: int | None = None
    lesions: tuple[int, ...] = ()
    all_lesions: bool = False

    @property
    def covers(self) -> tuple[str, ...]:
        """The classes it can label, in the order of the vocabulary."""
        ids = {*self.values.values(), self.every or labels.UNKNOWN} - {labels.UNKNOWN}
        return tuple(labels.NAMES[number] for number in sorted(ids))


# The words that name disease, at the beginning of a word.
LESIONS = (
    *("lesion", "tumour", "tumor", "cancer", "carcinoma", "sarcoma", "nodule", "metasta"),
    *("lymphoma", "lymph_node", "lymph node", "gtv"),  # gross tumour volume
    *("haemorrhage", "hemorrhage", "hematoma", "haematoma"),
)
NAMES_LESION = re.compile(rf"(?:^|[^a-z])(?:{'|'.join(LESIONS)})", re.IGNORECASE)
# A lesion mask: any value above 0; it says nothing about the anatomy.
LESION = Bridge("lesion", {}, every=labels.UNKNOWN, all_lesions=True)


@cache
def tables() -> dict[str, Any]:
    """The contents of `label_sets.toml`: tables `bridge`, `organs` and `layout`."""
    return tomllib.loads(
        resources.files(__package__).joinpath("label_sets.toml").read_text("utf-8")
    )


def names() -> tuple[str, ...]:
    """Every name that `bridge` accepts; "denovox" is the vocabulary itself."""
    return ("denovox", *tables()["bridge"])


@cache
def bridge(name: str) -> Bridge:
    """The bridge with this name; `InputError` lists the known ones."""
    if name == "denovox":
        return Bridge(name, {number: number for number in range(len(labels.NAMES))})
    if name not in tables()["bridge"]:
        near = did_you_mean(name, names())
        raise InputError(f"label set '{name}' is not known{near}; known: {', '.join(names())}")
    row = tables()["bridge"][name]
    lesions = row.get("lesions", ())
    return Bridge(
        name,
        {int(value): labels.ID[of] for value, of in row.get("values", {}).items()},
        labels.ID[row["every"]] if "every" in row else None,
        () if lesions == "every" else tuple(lesions),
        lesions == "every",
    )


@cache
def organs(name: str) -> Mapping[str, Bridge]:
    """For a set with one file per organ: file stem -> the bridge of its mask (0 or 1)."""
    row = tables()["organs"][name]
    own = {of: of for of in labels.TOTALSEGMENTATOR_V2} if name == "totalsegmentator" else {}
    with_lesions = row.get("lesions", ())
    return {
        stem: Bridge(of, {1: labels.ID[of]}, lesions=(1,) if stem in with_lesions else ())
        for stem, of in {**own, **row["files"]}.items()
    }


def from_table(table: Mapping[int, str] | Mapping[str, str], name: str = "your table") -> Bridge:
    """A bridge from {value: class name}; values may be text, as in JSON.

    Raises `InputError` for values that are not integers from 0 to 65535, and for names not in the
    vocabulary, suggesting the closest spelling.
    """
    values = {}
    for key, of in table.items():
        text = str(key).strip()
        if not (text.isascii() and text.isdigit()) or int(text) > MOST:
            raise InputError(f"{name}: '{key}' is not a label value (an integer, 0 to {MOST})")
        if of not in labels.ID:
            near = did_you_mean(of, labels.NAMES)
            what = f"'{of}' (value {key}) is not a class{near}"
            raise InputError(f"{name}: {what}; see docs/reference/labels.md")
        values[int(text)] = labels.ID[of]
    return Bridge(name, values)


def by_names(names: Mapping[int, Iterable[str]]) -> Bridge:
    """A bridge from what each value is called, in anybody's words: value -> all its names.

    Of several classes that a value is part of (regions of nnU-Net) the finest counts. Names that
    are not in the vocabulary stay unknown, and those of `LESIONS` mark disease.
    """
    values = {}
    for value, texts in names.items():
        found = [name for text in texts if (name := labels.named(text))]
        finest = max(found, key=lambda name: len(labels.path(name)), default="unknown")
        values[value] = labels.ID[finest]
    lesions = tuple(v for v, texts in names.items() if any(map(NAMES_LESION.search, texts)))
    return Bridge("names", values, lesions=lesions)


def read(
    path: Path, by: Bridge, like: Volume, say: Callable[[str], None] = silent
) -> tuple[UInt8[np.ndarray, "x y z"], Bool[np.ndarray, "x y z"], tuple[str, ...]]:
    """A mask of a scan: (ids, 0 where unlabelled; where it marks disease; classes it can label).

    A file that names its values (Slicer's .seg.nrrd, TotalSegmentator's NIfTI) is understood by
    these names in place of the vocabulary's numbers. say, `InputError`: as in `label_maps.layers`,
    and `apply`.
    """
    ids, marks, covers = np.zeros(like.shape, np.uint8), np.zeros(like.shape, bool), set[str]()
    for layer in label_maps.layers(path, like, say):
        own = layer.names and by.name == "denovox"
        use = by_names(layer.names) if own else by
        shown = line(", ".join(texts[0] for texts in layer.names.values()))
        ensure(
            use.covers or use.lesions or not own,
            f"{path} names no class of the vocabulary and no lesion ({shown}); rename its segments,"
            " see docs/reference/labels.md",
        )
        ids = labels.overlay(ids, apply(layer.values, use, str(path)))
        marks |= lesion(layer.values, use)
        covers |= set(use.covers)
    return ids, marks, tuple(covers)


def apply(
    raw: Integer[np.ndarray, "x y z"], by: Bridge, where: str = "the label map"
) -> UInt8[np.ndarray, "x y z"]:
    """Label values -> ids of core/labels; 0 is unknown, unless the bridge maps it.

    Raises `InputError` naming `where` and every value missing from the bridge.
    """
    limit = max(by.values, default=0)
    table = np.full(limit + 3, _STRANGE, np.uint8)  # values 0 to limit, above, below
    table[limit + 1] = _STRANGE if by.every is None else by.every
    table[1 : limit + 1] = table[limit + 1]
    table[0] = labels.UNKNOWN
    for value, number in by.values.items():
        table[value] = number
    out = np.empty(raw.shape, np.uint8)
    for k in range(raw.shape[2]):  # plane by plane: no wide copy of the volume
        # As float64, because some integer types are too narrow for the limits; exact below 2^53.
        out[..., k] = table[np.clip(raw[..., k].astype(np.float64), -1, limit + 1).astype(np.intp)]
    if (out == _STRANGE).any():
        strange = listed(np.unique(raw[out == _STRANGE]).tolist(), 20)
        raise InputError(
            f"{where} has values that label set '{by.name}' does not have: {strange} (it has"
            f" {_ranges(by.values)}); choose the right label set, or give your own table"
        )
    return out


def lesion(raw: Integer[np.ndarray, "x y z"], by: Bridge) -> Bool[np.ndarray, "x y z"]:
    """Where a label map marks disease (tumour, haemorrhage, lymph node)."""
    return raw > 0 if by.all_lesions else np.isin(raw, by.lesions)


def combine(
    masks: UInt8[np.ndarray, "x y z"], coarse: UInt8[np.ndarray, "x y z"]
) -> UInt8[np.ndarray, "x y z"]:
    """A label map without holes: `masks` where known (not 0), `anatomy.coarse` elsewhere.

    Where the mask only gives an ancestor of the coarse class ("body" over bone), the finer of the
    two is kept. `InputError` for a value outside the vocabulary, `ValueError` for unequal shapes.
    """
    if masks.shape != coarse.shape:
        raise ValueError(f"mask shape {masks.shape} is not the coarse map's {coarse.shape}")
    finer = labels.path_matrix().astype(bool)
    out = coarse.copy()
    for under, over in zip(out, masks, strict=True):  # plane by plane: indices take 8 bytes each
        labels.check(np.unique(over).tolist())
        known = (over != labels.UNKNOWN) & ~finer[under, over]
        under[known] = over[known]
    return out


def _ranges(values: Mapping[int, int]) -> str:
    """Values as ranges: 0-13, 20."""
    runs: list[list[int]] = []
    for value in sorted({0, *values}):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
