"""The composition of thick slices: weights along z from thickness, spacing and profile."""

from __future__ import annotations

from typing import Literal

import numpy as np
from jaxtyping import Float

from ..errors import ensure
from ..volume import within

Profile = Literal["box", "triangle", "gaussian"]

_ROUNDING = 1e-6  # tolerance as a share of a slice, for lengths from float32 headers


def slab_centres_mm(
    n_in: int, dz_mm: float, thickness_mm: float, spacing_mm: float
) -> Float[np.ndarray, " n_out"]:
    """Centres of the slabs of `slab_matrix`, mm along z.

    0 is the lower face of the first thin slice, whose centre is thus at dz_mm / 2; slab k covers
    [k spacing_mm, k spacing_mm + thickness_mm], and there are as many as fit into n_in slices.
    `InputError` if none fits or a length is invalid.
    """
    ensure(n_in >= 1 and dz_mm > 0, f"{n_in} slices of {dz_mm:g} mm are not a scan")
    for name, length in (("thickness", thickness_mm), ("spacing", spacing_mm)):
        valid = np.isfinite(length) and within(length, dz_mm)
        reason = f"a {name} of {length:g} mm is less than the scan's slice spacing of {dz_mm:g} mm"
        ensure(valid, f"{reason}; give {dz_mm:g} mm or more")
    whole_mm = n_in * dz_mm
    reason = f"slabs of {thickness_mm:g} mm do not fit into a scan of {whole_mm:g} mm"
    ensure(thickness_mm <= whole_mm + _ROUNDING * dz_mm, f"{reason}; give a smaller thickness")
    count = int(np.floor((whole_mm - thickness_mm + _ROUNDING * dz_mm) / spacing_mm)) + 1
    return thickness_mm / 2 + spacing_mm * np.arange(count)


def slab_matrix(
    n_in: int, dz_mm: float, thickness_mm: float, spacing_mm: float, profile: Profile = "box"
) -> Float[np.ndarray, "n_out n_in"]:
    """M, float64, rows sum to one: thick = M @ thin, with slabs placed as in `slab_centres_mm`.

    thickness_mm: the full width at half maximum of the slice-sensitivity profile, which is a box
    (the slab itself), a triangle (as in a helical scan with pitch 1; Kalender 2011, chapter 3) or a
    Gaussian, truncated 1.5 widths from its centre. spacing_mm: between slab centres; slabs overlap
    if it is below the thickness and leave gaps if it is above.

    A voxel's weight is the integral of the profile over it. Slab faces inside voxels would
    displace a slab's centre of mass by up to dz/8; a tilt of its weights corrects this, so that a
    line along z is preserved (the weights stay positive). Soft profiles that extend past the ends
    of the scan are truncated there and normalised. `InputError` as in `slab_centres_mm`.
    """
    centres = slab_centres_mm(n_in, dz_mm, thickness_mm, spacing_mm)
    faces = np.arange(n_in + 1) * dz_mm
    weights = np.diff(_cumulative((faces - centres[:, None]) / thickness_mm, profile))
    weights /= weights.sum(1, keepdims=True)
    away = faces[:-1] + dz_mm / 2 - centres[:, None]  # each voxel's offset from each slab's centre
    off = (weights * away).sum(1, keepdims=True)
    spread = (weights * (away - off) ** 2).sum(1, keepdims=True)
    tilt = 1 - np.divide(off, spread, out=np.zeros_like(off), where=spread > 0) * (away - off)
    # At the ends, a soft profile may be so truncated that no tilt with positive weights helps.
    tilted = np.where((tilt * (weights > 0) >= 0).all(1, keepdims=True), weights * tilt, weights)
    return tilted / tilted.sum(1, keepdims=True)


def _cumulative(
    u: Float[np.ndarray, "n_out faces"], profile: Profile
) -> Float[np.ndarray, "n_out faces"]:
    """The integral up to u of a profile whose full width at half maximum is 1."""
    if profile == "box":
        return np.clip(u + 0.5, 0, 1)
    if profile == "triangle":
        inside = np.clip(u, -1, 1)
        return 0.5 + inside - inside * np.abs(inside) / 2
    from scipy.special import ndtr

    return ndtr(np.clip(u, -1.5, 1.5) * np.sqrt(8 * np.log(2)))
