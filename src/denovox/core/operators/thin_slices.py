"""The grid of thin slices that are reconstructed from thick ones, and how the two compare."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int

from ..errors import InputError, ensure
from ..on_disk import release
from ..tensors import tensor
from ..volume import Volume, within
from .slab_average import SlabAverage, interpolation
from .slice_profile import Profile, slab_centres_mm, slab_matrix

ROWS = 16  # at a time, so that what is computed of them takes no memory


@dataclass(frozen=True)
class Consistency:
    """Difference between the input slices and the result averaged back to them, HU."""

    max_hu: float
    rms_hu: float

    def __str__(self) -> str:
        return f"averaged back: within {self.max_hu:.2g} HU of the input (RMS {self.rms_hu:.2g})"


@dataclass(frozen=True)
class Thin:
    """The thin slices to reconstruct, and how the thick ones are made of them.

    count, spacing_mm: of the thin slices; they start at the lower face of the first thick one.
    centres: of the thin slices, in units of thick ones (0 is the centre of the first).
    """

    operator: SlabAverage
    count: int
    spacing_mm: float
    centres: Float[np.ndarray, " fine"]

    def grid(self, volume: Volume) -> Volume:
        """The interpolation along z: cubic, then the closest one whose averages are the slices.

        The result has no source, since its grid is new.
        """
        weights = interpolation(self.operator.matrix, self.centres).astype(np.float32)
        hu = np.ascontiguousarray(volume.hu.astype(np.float32) @ weights)
        return Volume(hu, self.affine(volume))

    def affine(self, volume: Volume) -> Float[np.ndarray, "4 4"]:
        """Index of a thin slice's voxel -> millimetres in RAS+; volume: the thick slices."""
        affine = volume.affine.astype(np.float64)
        affine[:3, 3] += affine[:3, 2] * self.centres[0]
        affine[:3, 2] *= self.spacing_mm / volume.spacing_mm[2]
        return affine

    @property
    def nearest(self) -> Int[np.ndarray, " fine"]:
        """The thick slice nearest to each thin one."""
        return np.clip(np.rint(self.centres).astype(int), 0, len(self.operator.matrix) - 1)

    def compare(self, thin: Volume, thick: Volume) -> Consistency:
        """`thin`, averaged back, compared with `thick`."""
        most, squares = 0.0, 0.0
        for y in _rows(thin.shape[1]):
            averaged = self.operator.A(tensor(thin.hu[:, y]))[0, 0].numpy()
            error = np.abs(averaged - thick.hu[:, y])
            most = max(most, float(error.max()))
            squares += float(np.sum(np.square(error, dtype=np.float64)))
            release(thin.hu)
        return Consistency(most, float(np.sqrt(squares / thick.hu.size)))


def thin(
    volume: Volume,
    limits_mm: tuple[float, float],
    factor: float | None = None,
    spacing_z_mm: float | None = None,
    thickness_mm: float | None = None,
    profile: Profile = "box",
) -> Thin:
    """The thin slices of a scan; limits_mm: supported spacings.

    `InputError` where the requested spacing is not supported, or not finer than the scan's.
    """
    count, thick_mm = volume.shape[2], volume.spacing_mm[2]
    ensure(
        (factor is None) != (spacing_z_mm is None),
        "give either a factor or the spacing of the new slices in mm, but not both",
    )
    ensure(
        factor is None or (np.isfinite(factor) and factor > 1),
        f"a factor of {factor} does not make slices thinner; give one above 1",
    )
    requested_mm = thick_mm / factor if factor is not None else float(spacing_z_mm or 0)
    low, high = limits_mm
    if not within(requested_mm, low, high):
        most = f"; the largest factor here is {thick_mm / low:.3g}" * (thick_mm > low)
        raise InputError(
            f"slices {requested_mm:.3g} mm apart were requested, but the model supports spacings"
            f" from {low:g} to {high:g} mm{most}"
        )
    ensure(
        not within(requested_mm, thick_mm),
        f"a spacing of {requested_mm:.3g} mm is not finer than the scan's own, {thick_mm:.3g} mm",
    )
    ensure(count >= 2, "the scan has one slice; super-resolution along z needs at least two")
    thickness = thick_mm if thickness_mm is None else thickness_mm
    ensure(
        np.isfinite(thickness) and within(thickness, requested_mm),
        f"the scan's slices, {thickness:g} mm thick, are thinner than the requested ones,"
        f" {requested_mm:.3g} mm; request thinner ones",
    )
    extent = ((count - 1) * thick_mm + thickness) / requested_mm
    fine = int(np.ceil(extent - 1e-4))
    # Lengths that a file rounds must not cost the last slice.
    fine_mm = max(requested_mm, extent * requested_mm / fine)
    thickness = max(thickness, fine_mm)
    matrix = slab_matrix(fine, fine_mm, thickness, thick_mm, profile)
    first = float(slab_centres_mm(fine, fine_mm, thickness, thick_mm)[0])
    centres = ((np.arange(fine) + 0.5) * fine_mm - first) / thick_mm
    return Thin(SlabAverage(matrix), fine, fine_mm, centres)


def _rows(count: int) -> list[slice]:
    return [slice(k, k + ROWS) for k in range(0, count, ROWS)]
