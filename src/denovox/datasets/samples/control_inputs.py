"""What a control is told in training: thick slices made thin again, or where lesions are."""

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
    """How the controls of training samples are made.

    kind: "low-resolution" or "lesion". factor: how many slices a thick one is the mean of, drawn
    evenly from this range, as is where the first begins. begin: how often noise is added to the
    interpolation and not to the truth, as where `superres` begins: all that is left to learn there
    is what the interpolation lacks. on_lesion: how often a crop is laid onto
    a lesion, where its case has any. weight: of the loss on lesions and a voxel around them; they
    are a per mille of a scan.
    """

    kind: ControlKind
    factor: tuple[float, float] = (2, 6)
    begin: float = Field(0, ge=0, le=1)
    on_lesion: float = Field(0.8, ge=0, le=1)
    weight: float = Field(5, ge=1)


def low_resolution(
    unit: Float[np.ndarray, "x y z"], factor: float, offset: float
) -> Float[np.ndarray, "x y z"]:
    """What is left of thin slices when `factor` at a time are averaged and made thin again.

    As `superres` interpolates: cubic, and consistent with the thick slices. offset: 0 to 1, where
    in a thick slice the volume begins. Beyond its ends the volume goes on as it ends.
    """
    count = unit.shape[2]
    before = int(np.ceil(factor * (1 + offset)))
    thin = np.pad(unit, [(0, 0), (0, 0), (before, 2 * int(np.ceil(factor)))], mode="edge")
    first = before - factor * offset
    whole = int(first)  # slabs begin between two voxels: the part of one before them is cut off
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
    """Where a crop of `size` begins that shows a lesion: each lesion of a case counts the same.

    lesions: boxes (first x y z, last x y z), in voxels of the case's `shape`. A point of one comes
    to lie somewhere in the middle half of the crop, as far as the case allows. pace: the crop
    begins on a multiple of so many voxels.
    """
    box = np.asarray(lesions[int(rng.integers(len(lesions)))], float).reshape(2, 3)
    point = rng.uniform(box[0], box[1] + 1)
    start = point - rng.uniform(0.25, 0.75, 3) * size
    most = np.array(shape) - np.array(size)
    return [float(pace * int(np.clip(s, 0, m) // pace)) for s, m in zip(start, most, strict=True)]


def boxes(lesion: UInt8[np.ndarray, "x y z"]) -> tuple[tuple[int, ...], ...]:
    """The box (first x y z, last x y z) of each connected lesion of a mask."""
    parts, _ = ndimage.label(lesion)
    return tuple(
        (*(s.start for s in where), *(s.stop - 1 for s in where))
        for where in ndimage.find_objects(parts)
    )


def loss_weight(lesion: Float[np.ndarray, "x y z"], weight: float) -> Float[np.ndarray, "x y z"]:
    """`weight` on lesions and one voxel around them, 1 elsewhere."""
    near = ndimage.binary_dilation(lesion > 0, np.ones((3, 3, 3)))
    return np.where(near, np.float32(weight), np.float32(1))
