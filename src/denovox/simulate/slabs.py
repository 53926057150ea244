"""The same scan with thicker slices."""

from __future__ import annotations

from ..core.operators.slice_profile import Profile, slab_centres_mm, slab_matrix
from ..core.volume import Volume


def simulate_thick_slices(
    volume: Volume, thickness_mm: float, spacing_mm: float | None = None, profile: Profile = "box"
) -> Volume:
    """The scan in slices of that thickness, `spacing_mm` (default: the thickness) apart along z.

    The first slab starts where the first slice does; the affine of the result refers to the centres
    of the slabs, so a slab of an even number of slices is centred between two of them. The profile
    is applied on top of that of the scan's own slices (core/operators/slice_profile.py). Noise is
    averaged as well. There is no source, since this grid is no longer the file's. `InputError` if
    slabs are thinner than the slices or thicker than the scan.
    """
    dz_mm, count = volume.spacing_mm[2], volume.shape[2]
    spacing_mm = thickness_mm if spacing_mm is None else spacing_mm
    matrix = slab_matrix(count, dz_mm, thickness_mm, spacing_mm, profile)
    first_mm = slab_centres_mm(count, dz_mm, thickness_mm, spacing_mm)[0] - dz_mm / 2
    up = volume.affine[:, 2] / dz_mm
    affine = volume.affine.copy()
    affine[:, 2] = up * spacing_mm
    affine[:, 3] += up * first_mm
    return Volume(volume.hu @ matrix.T.astype(volume.hu.dtype), affine)
