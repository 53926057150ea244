"""Slices of several passes, phases, energies or kernels in one series, separated by their tags.

The evidence is that groups of slices with different values interleave along the stack. Contiguous
blocks (the stations of a long scan, one acquisition for each rotation) do not, and are one volume.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float

from .geometry import EVEN_MM, SAME_MM
from .planes import LABELS, ORDERS, Plane

FEWEST = 3  # slices of a group; fewer are a repeated slice, or a tag that was edited
BALANCED = 1 / 3  # of two groups in the length that they share; a sparser one must be even
SPARSE = 1.5  # gaps of a pass are at least this many times those of the whole stack
EVEN_SHARE = 0.8  # of the gaps of an even stack
MOST = 64  # groups

Groups = dict[str, list[int]]  # "AcquisitionNumber 1" -> indices of planes


def passes(planes: Sequence[Plane], along: Float[np.ndarray, " n"]) -> Groups:
    """Groups of planes that interleave, labelled by what distinguishes them; empty if none do.

    along: mm of each plane along the normal.
    """
    groups: Groups = {}
    for keyword in LABELS:
        found = _labelled(planes, keyword)
        if len(found) <= MOST and _interleave(list(found.values()), along):
            groups = _refined(groups, found)
    if groups:
        return groups
    for keyword in ORDERS:
        values = {plane.tags.get(keyword, "") for plane in planes}
        found = {} if "" in values or len(values) == 1 else _ordered(planes, keyword, along)
        if found:
            return found
        if keyword == "AcquisitionTime" and len(values) > len(planes) / 2:
            break  # one pass in time: when its images were computed or numbered is no evidence
    return {}


def even(along: Float[np.ndarray, " n"]) -> bool:
    """Whether most gaps between neighbours are equal, as in a stack with at most a few missing."""
    gaps = np.diff(np.sort(along))
    middle = float(np.median(gaps))
    near = np.abs(gaps - middle) <= max(EVEN_MM, 0.01 * middle)
    return middle > SAME_MM and float(near.mean()) >= EVEN_SHARE


def _labelled(planes: Sequence[Plane], keyword: str) -> Groups:
    """Planes grouped by the value of a tag; those without it are in no group."""
    groups: Groups = {}
    for index, plane in enumerate(planes):
        if value := plane.tags.get(keyword):
            groups.setdefault(f"{keyword} {value}", []).append(index)
    return groups if sum(map(len, groups.values())) == len(planes) else {}


def _interleave(groups: Sequence[Sequence[int]], along: Float[np.ndarray, " n"]) -> bool:
    """Whether any two groups share a length of the stack."""
    large = [along[list(group)] for group in groups if len(group) >= FEWEST]
    for i, one in enumerate(large):
        for other in large[:i]:
            low, high = max(one.min(), other.min()), min(one.max(), other.max())
            inside = sorted(
                ((at[(at >= low - SAME_MM) & (at <= high + SAME_MM)]) for at in (one, other)),
                key=len,
            )
            few, many = map(len, inside)
            if few >= 2 and (few >= BALANCED * many or (few >= FEWEST and even(inside[0]))):
                return True
    return False


def _refined(groups: Groups, found: Groups) -> Groups:
    """Groups split further by another tag, unless that only repeats what separates them."""
    if not groups:
        return found
    both = {
        f"{one}, {other}": sorted({*ours} & {*theirs})
        for one, ours in groups.items()
        for other, theirs in found.items()
    }
    both = {name: members for name, members in both.items() if members}
    fine = all(len(members) >= FEWEST for members in both.values())
    return both if fine and len(both) > len(groups) else groups


def _ordered(planes: Sequence[Plane], keyword: str, along: Float[np.ndarray, " n"]) -> Groups:
    """Passes by the order of a time or number: the stack is traversed again and again."""
    try:
        values = np.array([float(plane.tags[keyword]) for plane in planes])
    except ValueError:
        return {}
    if keyword == "InstanceNumber" and np.diff(np.sort(along)).min() <= SAME_MM:
        return {}  # images at one place are compared when they are read
    runs: list[list[int]] = []
    way = 0
    for value in np.unique(values):
        members = np.flatnonzero(values == value).tolist()
        if runs:
            before = along[runs[-1]]
            last = along[[i for i in runs[-1] if values[i] == values[runs[-1][-1]]]]
            ahead = int(along[members].min() > last.max() + SAME_MM)
            ahead -= int(along[members].max() < last.min() - SAME_MM)
            clear = along[members].min() > before.max() or along[members].max() < before.min()
            if ahead and clear and way in (0, ahead):
                runs[-1] += members
                way = ahead
                continue
        runs.append(members)
        way = 0
    step = float(np.ptp(along)) / (len(along) - 1)
    kept = [run for run in runs if len(run) >= FEWEST and even(along[run])]
    enough = sum(map(len, kept)) >= 0.9 * len(planes) and 2 <= len(kept) <= MOST
    sparse = all(np.ptp(along[run]) / (len(run) - 1) >= SPARSE * step for run in kept)
    if not (enough and sparse and _interleave(kept, along)):
        return {}
    groups: Groups = {}
    for run in runs:
        ends = [planes[i].tags[keyword] for i in (run[0], run[-1])]
        label = " to ".join(dict.fromkeys(ends))
        groups.setdefault(f"{keyword} {label}", []).extend(run)
    return groups
