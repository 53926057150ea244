"""Morphology of masks in millimetres: erosion, dilation, closing, connected components.

All distances are Euclidean, between voxel centres. Unless stated otherwise, a mask is assumed to
continue beyond the array's ends, so that nothing is eroded from outside.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np
from jaxtyping import Bool, Float, Integer, Shaped, UInt8
from scipy import ndimage
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from .box import bounding_box

Mask = Bool[np.ndarray, "x y z"]
Spacing = tuple[float, float, float]  # voxel size along x, y, z, mm
Bits = UInt8[np.ndarray, "u v w"]  # a mask, eight voxels a byte along the last axis
Links = Integer[np.ndarray, "2 _"]  # pairs of labels of one component

MOST_RODS = 3000  # in a ball of voxels; more take longer than distances
SWEEPS = 50  # before a winding region is followed voxel by voxel


def within_slice() -> Bool[np.ndarray, "3 3 3"]:
    """Connectivity, for scipy: the four neighbours in the same axial slice."""
    cross = np.zeros((3, 3, 3), bool)
    cross[:, 1, 1] = cross[1, :, 1] = True
    return cross


def depth_mm(mask: Mask, spacing_mm: Spacing, ends: bool = False) -> Float[np.ndarray, "x y z"]:
    """Distance in mm from each voxel of a mask to the nearest one outside it; 0 outside.

    ends: count everything beyond the array's ends as outside. Infinite if nothing is outside.
    """
    if ends:
        return depth_mm(np.pad(mask, 1), spacing_mm)[1:-1, 1:-1, 1:-1]
    if mask.all():
        return np.full(mask.shape, np.inf)
    nearest = ndimage.distance_transform_edt(
        mask, spacing_mm, return_distances=False, return_indices=True
    )
    squared = np.zeros(mask.shape)
    for axis, line in enumerate(np.ogrid[tuple(map(slice, mask.shape))]):
        # scipy's own distances are the same but take three times the memory.
        squared += ((nearest[axis] - line) * spacing_mm[axis]) ** 2
    return np.sqrt(squared, out=squared)


def erode_mm(mask: Mask, radius_mm: float, spacing_mm: Spacing) -> Mask:
    """Voxels farther than a radius from every voxel outside the mask."""
    out, box = np.zeros_like(mask), bounding_box(mask, (1, 1, 1)).slices
    out[box] = ~_near(~mask[box], radius_mm, spacing_mm)
    return out


def dilate_mm(mask: Mask, radius_mm: float, spacing_mm: Spacing) -> Mask:
    """Voxels within a radius of the mask; none for an empty mask."""
    margin = [math.ceil(radius_mm / mm) for mm in spacing_mm]
    out, box = np.zeros_like(mask), bounding_box(mask, margin).slices
    out[box] = _near(mask[box], radius_mm, spacing_mm)
    return out


def close_mm(mask: Mask, radius_mm: float, spacing_mm: Spacing) -> Mask:
    """The mask with holes and gaps up to twice a radius wide filled."""
    return erode_mm(dilate_mm(mask, radius_mm, spacing_mm), radius_mm, spacing_mm)


def _near(mask: Mask, radius_mm: float, spacing_mm: Spacing) -> Mask:
    """Voxels within a radius of the mask.

    A ball is a bundle of rods along the last axis: the mask is lengthened to each of their lengths,
    on packed bits, and shifted to each of their places. The exact distance takes ten times the
    time, and twelve bytes a voxel.
    """
    x2, y2, z2 = (
        np.square(np.arange(math.ceil(radius_mm / step) + 1) * step) for step in spacing_mm
    )
    inside = np.sqrt(x2[:, None, None] + y2[:, None] + z2) <= radius_mm
    lengths = inside.sum(2)  # from the middle to one end; 0 outside the ball
    if np.count_nonzero(lengths) > MOST_RODS:
        return depth_mm(~mask, spacing_mm) <= radius_mm
    rods = [_packed(mask)]
    for _ in range(1, int(lengths.max())):
        rods.append(_lengthened(rods[-1]))
    found = np.zeros_like(rods[0])
    for i, row in enumerate(lengths[: len(mask)]):
        disc = np.zeros_like(found)
        for j, length in enumerate(row[: mask.shape[1]]):
            if length:
                _add_shifted(disc.swapaxes(0, 1), rods[length - 1].swapaxes(0, 1), j)
        _add_shifted(found, disc, i)
    return np.unpackbits(found, axis=-1, count=mask.shape[-1]).view(bool)


def _add_shifted(out: Bits, bits: Bits, by: int) -> None:
    """Add bits, shifted along the first axis in both directions."""
    out[by:] |= bits[: len(bits) - by]
    out[: len(out) - by] |= bits[by:]


def component_sizes(
    parts: Integer[np.ndarray, "x y z"], among: Mask | None = None, count: int = 0
) -> Integer[np.ndarray, " n"]:
    """Number of voxels in each numbered component; 0 for number 0, the background.

    among: count only voxels in this mask. count: minimum length of the result.
    """
    sizes = np.zeros(max(count, int(parts.max()) + 1), np.int64)
    for i, part in enumerate(parts):  # plane by plane: `bincount` would copy it all to 64 bits
        some = part if among is None else part[among[i]]
        sizes += np.bincount(some.ravel(), None, len(sizes))
    sizes[0] = 0
    return sizes


def largest(mask: Mask) -> Mask:
    """The largest face-connected component; the first of several of equal size."""
    parts, count = ndimage.label(mask)
    return parts == component_sizes(parts).argmax() if count > 1 else mask


def reaching(mask: Mask, axes: tuple[int, ...]) -> Mask:
    """What of a mask is at least three voxels thick and reaches the first or last plane of `axes`.

    On packed bits, the axis that is contiguous in memory last: an eighth of the time and memory.
    """
    order = np.argsort(np.abs(mask.strides), kind="stable")[::-1]
    # It continues beyond the border: wedges there are as thick as in a larger scan.
    wide = np.pad(mask.transpose(order), 1, constant_values=True)
    inner = (slice(1, -1),) * 3
    border = np.zeros(wide.shape, bool)
    for axis in (k for k in range(3) if order[k] in axes):
        for end in (1, -2):
            border[(*inner[:axis], end, *inner[axis + 1 :])] = True
    core = ~_grown(_packed(~wide)) & _packed(wide)
    reach = _connected(_packed(border) & core, core)
    found: Mask = np.unpackbits(reach, axis=-1, count=wide.shape[-1]).view(bool) & wide
    return found[inner].transpose(np.argsort(order))


def _packed(mask: Mask) -> Bits:
    return np.packbits(mask, axis=-1)


def _connected(kept: Bits, core: Bits) -> Bits:
    """What of `core` is connected to `kept` by faces, edges or corners, grown by one voxel.

    Most of it extends straight from the border: sweeping along the first two axes finds it.
    """
    for _ in range(SWEEPS):
        grown = _grown(kept)
        more = grown & core
        if np.array_equal(more, kept):
            return grown
        kept = more
        for axis in (0, 1):
            out, into = np.moveaxis(kept, axis, 0), np.moveaxis(core, axis, 0)
            for i in range(1, len(out)):
                out[i] |= out[i - 1] & into[i]
            for i in range(len(out) - 1, 0, -1):
                out[i - 1] |= out[i] & into[i - 1]
    masks = (np.unpackbits(bits, axis=-1).view(bool) for bits in (kept, core))
    winding = ndimage.binary_propagation(next(masks), np.ones((3, 3, 3)), mask=next(masks))
    return _grown(_packed(winding))


def _grown(bits: Bits) -> Bits:
    """Dilated by a cube of 3 x 3 x 3 voxels."""
    wider = _lengthened(bits)
    for axis in (0, 1):
        bits, wider = wider, wider.copy()
        out, old = np.moveaxis(wider, axis, 0), np.moveaxis(bits, axis, 0)
        out[:-1] |= old[1:]
        out[1:] |= old[:-1]
    return wider


def _lengthened(bits: Bits) -> Bits:
    """Dilated by one voxel along the last axis."""
    wider = bits | bits >> 1 | bits << 1
    wider[..., 1:] |= bits[..., :-1] << 7
    wider[..., :-1] |= bits[..., 1:] >> 7
    return wider


def labelled(
    mask: Shaped[np.ndarray, "x y z"],
    links: list[Links],
    slab: int = 32,
    above: float = 0,
    sign: int = 1,
    corners: bool = False,
) -> Iterator[tuple[int, int, Integer[np.ndarray, "slab y z"]]]:
    """Labels of a mask, `slab` planes at a time: (first plane, labels before it, labels from 1).

    Together with `joined`, the same as `scipy.ndimage.label` in the memory of a few planes.

    Appended to `links`: pairs of labels, both counted from 0 over all slabs, that touch where two
    slabs meet. above: the mask is where the values, times sign, exceed this. corners: edges and
    corners connect as well.
    """
    structure = np.ones((3, 3, 3)) if corners else None
    last: tuple[np.ndarray, int] | None = None
    before = 0
    for first in range(0, len(mask), slab):
        parts, count = ndimage.label(sign * mask[first : first + slab] > above, structure)
        if last is not None:
            for here, there in _touching(last[0], parts[0], corners):
                touch = (here > 0) & (there > 0)
                pairs = np.stack([here[touch] + last[1] - 1, there[touch] + before - 1])
                links.append(np.unique(pairs, axis=1))
        yield first, before, parts
        last, before = (parts[-1].copy(), before), before + count


def joined(links: list[Links], count: int) -> Integer[np.ndarray, " count"]:
    """The component, numbered from 0, of each of `count` labels that `labelled` counted."""
    if not count:
        return np.zeros(0, np.int32)
    i, j = np.concatenate(links, axis=1) if links else np.zeros((2, 0), int)
    graph = coo_array((np.ones(len(i), bool), (i, j)), shape=(count, count))
    number: Integer[np.ndarray, " count"] = connected_components(graph, directed=False)[1]
    return number


def _touching(
    here: Shaped[np.ndarray, "y z"], there: Shaped[np.ndarray, "y z"], corners: bool
) -> Iterator[tuple[Shaped[np.ndarray, "v w"], Shaped[np.ndarray, "v w"]]]:
    """Voxels of two neighbouring planes that touch each other, as pairs of arrays."""
    shifts = [(i, j) for i in (-1, 0, 1) for j in (-1, 0, 1)] if corners else [(0, 0)]
    for shift in shifts:
        one = tuple(
            slice(max(0, by), n + min(0, by)) for by, n in zip(shift, here.shape, strict=True)
        )
        other = tuple(
            slice(max(0, -by), n + min(0, -by)) for by, n in zip(shift, here.shape, strict=True)
        )
        yield here[one], there[other]
