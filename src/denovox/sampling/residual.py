"""Denoising should remove noise alone; structure that it removed as well is restored (Method 3).

The network knows how strong the noise is but not its spectrum, and a tile is too small to average
low frequencies, of which CT noise has little. It therefore changes local means by one to ten HU.
In the change that denoising makes, such structure stands out: noise differs from slice to slice.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float
from scipy.fft import dctn, idctn

RINGS = 24  # of in-plane frequencies, up to the Nyquist frequency
SLICES = 8  # with fewer, noise and structure cannot be told apart
CERTAIN = 1.25  # times the power of the noise: less than that counts as noise
LIMITS = (0.07, 0.09)  # RMS of structure to that of the change: less and less is restored


def noise_in(
    change: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, ...], along_z: float
) -> Float[np.ndarray, "x y z"]:
    """The change that denoising makes, in any unit, without the structure in it.

    A Wiener filter whose noise has, at each in-plane frequency, the power found in the upper half
    of the frequencies along z. along_z: correlation of the noise in neighbouring slices, -0.5 to
    0.5. More structure than the bias of a network explains is a bias of the scan (photon
    starvation), which the network was right to remove: the change is then returned as it is.
    Zeros remain zeros, and fewer than `SLICES` slices are returned unchanged.
    """
    count = change.shape[2]
    if count < SLICES or not change.any():
        return change
    x, y = (np.arange(n) / (n * mm) for n, mm in zip(change.shape[:2], spacing_mm, strict=False))
    rings = np.hypot(x[:, None], y) * (RINGS * min(spacing_mm[:2]))
    ring = rings.astype(np.intp).ravel()
    found = np.asarray(dctn(change, norm="ortho"))
    per_slice = np.stack(
        [np.bincount(ring, np.square(found[..., k]).ravel()) for k in range(count)]
    )
    expected = 1 + 2 * along_z * np.cos(np.arange(count) * (np.pi / count))
    upper = slice(count // 2, None)
    noise = per_slice[upper].sum(0) / np.maximum(expected[upper].sum(), 1e-3)
    octave = np.log2(np.arange(count) + 1).astype(int)
    share = np.empty_like(per_slice)
    for each in range(octave[-1] + 1):
        own = octave == each
        power = np.maximum(per_slice[own].sum(0), 1e-30)
        share[own] = (1 - CERTAIN * noise * expected[own].sum() / power).clip(0, 1)
    ratio = np.sqrt((np.square(share) * per_slice).sum() / per_slice.sum())
    low, high = LIMITS
    share *= np.clip((high - ratio) / (high - low), 0, 1)
    if not share.any():
        return change
    for k in range(count):
        found[..., k] *= share[k][ring].reshape(change.shape[:2])
    structure = idctn(found, norm="ortho", overwrite_x=True)
    return np.where(change == 0, 0, change - structure)
