"""Published label sets -> the anatomy vocabulary (core/labels), by the tables of `label_sets.toml`.

A bridge says what each value of a label map means. It never guesses: a value that its table does
not have stops with all such values named. What a mask leaves at 0 is unknown, not background; the
classes a bridge covers are those it can say anything about.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from jaxtyping import Bool, Integer, UInt8

from ..core import labels
from ..core.errors import InputError, did_you_mean

MOST = 65535  # no published label map has larger values; a lookup table stays small
_STRANGE = 255  # no id of the vocabulary, which is stored in a byte


@dataclass(frozen=True)
class Bridge:
    """What the values of one kind of label map mean.

    values: value -> id of core/labels. every: the id of any value above 0 that `values` does not
    list (binary masks, numbered lesions), or None. lesions: values that mark disease; every value
    above 0 where `all_lesions`.
    """

    name: str
    values: Mapping[int, int]
    every: int | None = None
    lesions: tuple[int, ...] = ()
    all_lesions: bool = False

    @property
    def covers(self) -> tuple[str, ...]:
        """The classes it can name, in the vocabulary's order."""
        ids = {*self.values.values(), self.every or labels.UNKNOWN} - {labels.UNKNOWN}
        return tuple(labels.NAMES[number] for number in sorted(ids))


# A mask of lesions alone: any value above 0, and nothing is said of the anatomy.
LESION = Bridge("lesion", {}, every=labels.UNKNOWN, all_lesions=True)


@cache
def tables() -> dict[str, Any]:
    """The content of `label_sets.toml`: tables `bridge`, `organs` and `layout`."""
    return tomllib.loads(
        resources.files(__package__).joinpath("label_sets.toml").read_text("utf-8")
    )


def names() -> tuple[str, ...]:
    """Every name that `bridge` knows; "denovox" is the vocabulary itself."""
    return ("denovox", *tables()["bridge"])


@cache
def bridge(name: str) -> Bridge:
    """The bridge of that name; `InputError` lists the known ones."""
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
    """Of a set with one file an organ: the file's stem -> the bridge of its mask (0 or 1)."""
    row = tables()["organs"][name]
    own = {of: of for of in labels.TOTALSEGMENTATOR_V2} if name == "totalsegmentator" else {}
    sick = row.get("lesions", ())
    return {
        stem: Bridge(of, {1: labels.ID[of]}, lesions=(1,) if stem in sick else ())
        for stem, of in {**own, **row["files"]}.items()
    }


def from_table(table: Mapping[int, str] | Mapping[str, str], name: str = "your table") -> Bridge:
    """A bridge from {value: class name}; values may be text, as JSON has them.

    `InputError` for values that are no whole numbers of 0 to 65535, and for names that the
    vocabulary does not have, with the nearest spelling.
    """
    values = {}
    for key, of in table.items():
        text = str(key).strip()
        if not (text.isascii() and text.isdigit()) or int(text) > MOST:
            raise InputError(f"{name}: '{key}' is not a label value (a whole number, 0 to {MOST})")
        if of not in labels.ID:
            near = did_you_mean(of, labels.NAMES)
            what = f"'{of}' (value {key}) is not a class{near}"
            raise InputError(f"{name}: {what}; see docs/labels.md")
        values[int(text)] = labels.ID[of]
    return Bridge(name, values)


def apply(
    raw: Integer[np.ndarray, "x y z"], by: Bridge, where: str = "the label map"
) -> UInt8[np.ndarray, "x y z"]:
    """Label values -> ids of core/labels; 0 is unknown, unless the bridge says otherwise.

    `InputError` naming `where` and every value that the bridge does not have.
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
        # As float64, so that no integer type is too narrow for the limits; exact below 2^53.
        out[..., k] = table[np.clip(raw[..., k].astype(np.float64), -1, limit + 1).astype(np.intp)]
    if (out == _STRANGE).any():
        strange = np.unique(raw[out == _STRANGE]).tolist()
        listed = ", ".join(map(str, strange[:20])) + (", ..." if len(strange) > 20 else "")
        raise InputError(
            f"{where} has values that label set '{by.name}' does not have: {listed} (it has"
            f" {_ranges(by.values)}); name the right label set, or give a table of your own"
        )
    return out


def lesion(raw: Integer[np.ndarray, "x y z"], by: Bridge) -> Bool[np.ndarray, "x y z"]:
    """Where a label map marks disease (tumour, bleeding, lymph node)."""
    return raw > 0 if by.all_lesions else np.isin(raw, by.lesions)


def overlay(
    under: UInt8[np.ndarray, "x y z"], over: UInt8[np.ndarray, "x y z"]
) -> UInt8[np.ndarray, "x y z"]:
    """Two maps of one scan in one: the finer class wins, `over` where both are as fine.

    So the order of masks that overlap does not matter: "bone" stays where "body" comes after it.
    """
    fine = np.array([len(labels.path(name)) for name in labels.NAMES], np.uint8)
    fine[labels.UNKNOWN] = 0
    return np.where(fine[over] >= fine[under], over, under)


def combine(
    masks: UInt8[np.ndarray, "x y z"], coarse: UInt8[np.ndarray, "x y z"]
) -> UInt8[np.ndarray, "x y z"]:
    """A label map without holes: `masks` where known (not 0), `anatomy.coarse` elsewhere.

    Where the mask only names an ancestor of the coarse class ("body" over bone), the finer of the
    two stays. `InputError` on a value outside the vocabulary, `ValueError` on unequal shapes.
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
    """Values in words: 0-13, 20."""
    runs: list[list[int]] = []
    for value in sorted({0, *values}):
        if runs and value == runs[-1][1] + 1:
            runs[-1][1] = value
        else:
            runs.append([value, value])
    return ", ".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
