"""Inputs of a control in training: thick slices interpolated to thin ones, or lesion masks."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, UInt8
from pydantic import Field
from scipy import ndimage

from ...core.condition import ControlKind
from ...core.config import Settings
from ...core.operators.slab_average import interpolation
from ...core.operators.slice_profile import slab_centres_mm, slab_matrix


class ControlConfig(Settings):
    """How the control inputs of training samples are made.

    kind: "low-resolution" or "lesion". factor: how many slices are averaged into a thick one, drawn
    uniformly from this range, as is the position of the first. begin: probability that noise is
    added to the interpolation instead of the truth, as `superres` starts there: all that is left to
    learn is what the interpolation lacks. on_lesion: probability that a crop is centred near a
    lesion, if its case has any. weight: of the loss on lesions and one voxel around them; they are
    a per mille of a scan.
    """

    kind: ControlKind
    factor: tuple[float, float] = (2, 6)
    begin: float = Field(0, ge=0, le=1)
    on_lesion: float = Field(0.8, ge=0, le=1)
    weight: float = Field(5, ge=1)


def low_resolution(
    unit: Float[np.ndarray, "x y z"], factor: float, offset: float
) -> Float[np.ndarray, "x y z"]:
    """Average `factor` thin slices at a time, then interpolate back to thin slices.

    Interpolated as in `superres`: cubic, and consistent with the thick slices. offset: 0 to 1,
    where in a thick slice the volume begins. Beyond its ends the last slices are repeated.
    """
    count = unit.shape[2]
    before = int(np.ceil(factor * (1 + offset)))
    thin = np.pad(unit, [(0, 0), (0, 0), (before, 2 * int(np.ceil(factor)))], mode="edge")
    first = before - factor * offset
    whole = int(first)  # slabs may begin between voxels: the fraction before is cut off
    n = thin.shape[2] - whole
    matrix = slab_matrix(n, 1.0, factor, factor)
    centres = slab_centres_mm(n, 1.0, factor, factor)
    way = interpolation(matrix, (np.arange(n) + 0.5 - centres[0]) / factor)
    blurred = thin[..., whole:] @ (matrix.T @ way).astype(np.float32)
    return np.ascontiguousarray(blurred[..., before - whole :][..., :count], np.float32)


def onto_lesion(
    lesions: Sequence[Sequence[int]],
    size: Sequence[float],
    shape: Sequence[int],
    pace: int,
    rng: np.random.Generator,
) -> list[float]:
    """The start of a crop of `size` that shows a lesion; all lesions of a case are equally likely.

    lesions: boxes (first x y z, last x y z), in voxels of the case's `shape`. A point of one is
    placed somewhere in the middle half of the crop, as far as the case allows. pace: the crop
    begins at a multiple of this many voxels.
    """
    box = np.asarray(lesions[int(rng.integers(len(lesions)))], float).reshape(2, 3)
    point = rng.uniform(box[0], box[1] + 1)
    start = point - rng.uniform(0.25, 0.75, 3) * size
    most = np.array(shape) - np.array(size)
    return [float(pace * int(np.clip(s, 0, m) // pace)) for s, m in zip(start, most, strict=True)]


def boxes(lesion: UInt8[np.ndarray, "x y z"]) -> tuple[tuple[int, ...], ...]:
    """The box (first x y z, last x y z) of each connected lesion in a mask."""
    parts, _ = ndimage.label(lesion)
    return tuple(
        (*(s.start for s in where), *(s.stop - 1 for s in where))
        for where in ndimage.find_objects(parts)
    )


def loss_weight(lesion: Float[np.ndarray, "x y z"], weight: float) -> Float[np.ndarray, "x y z"]:
    """`weight` on lesions and one voxel around them, 1 elsewhere."""
    near = ndimage.binary_dilation(lesion > 0, np.ones((3, 3, 3)))
    return np.where(near, np.float32(weight), np.float32(1))
