"""Denoising should remove noise alone; structure that it removed as well is restored (Method 3).

The network knows how strong the noise is but not its spectrum, and a tile is too small to average
low frequencies, of which CT noise has little. It therefore changes local means by one to ten HU.
In the change that denoising makes, such structure stands out: noise differs from slice to slice.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import numpy as np
from jaxtyping import Float
from scipy.fft import dctn, idctn

RINGS = 24  # of in-plane frequencies, up to the Nyquist frequency
SLICES = 8  # with fewer, noise cannot be separated from structure
CERTAIN = 1.25  # times the power of the noise: less than that counts as noise
LIMITS = (0.07, 0.09)  # RMS of structure to that of the change: less and less is restored
OVERLAP = 8  # slices over which the structure of two layers blends

Change = Float[np.ndarray, "x y _"]


def noise_in(
    layers: Iterable[tuple[slice, Change]], spacing_mm: tuple[float, ...], along_z: float
) -> Iterator[tuple[slice, Change]]:
    """The change that denoising makes to a volume, without the structure in it.

    layers: consecutive slices, and the change to them, in any unit; so is the result, in other
    portions. along_z: as in `structure_in`.
    """
    start, held, known = 0, None, None
    for z, change in layers:
        if held is None:
            start = z.start
        else:
            change = np.concatenate([held, change], axis=2)
        structure = structure_in(change, spacing_mm, along_z)
        if known is not None:
            count = known.shape[2]
            share = ((np.arange(count) + 0.5) / count).astype(np.float32)
            structure[..., :count] = (1 - share) * known + share * structure[..., :count]
        finished = max(change.shape[2] - OVERLAP, 0)
        if finished:
            done = slice(start, start + finished)
            yield done, change[..., :finished] - structure[..., :finished]
        start += finished
        held, known = change[..., finished:].copy(), structure[..., finished:].copy()
    if held is not None and known is not None:
        yield slice(start, start + held.shape[2]), held - known


def structure_in(change: Change, spacing_mm: tuple[float, ...], along_z: float) -> Change:
    """What is not noise in the change that denoising makes.

    A Wiener filter whose noise has, at each in-plane frequency, the power found in the upper half
    of the frequencies along z. along_z: correlation of the noise in neighbouring slices, -0.5 to
    0.5. More structure than the bias of a network explains is a bias of the scan (photon
    starvation), which the network was right to remove: none is returned then, nor for fewer than
    `SLICES` slices. Where the change is 0, so is the result.
    """
    count = change.shape[2]
    if count < SLICES or not change.any():
        return np.zeros_like(change)
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
        return np.zeros_like(change)
    for k in range(count):
        found[..., k] *= share[k][ring].reshape(change.shape[:2])
    structure = np.asarray(idctn(found, norm="ortho", overwrite_x=True))
    structure[change == 0] = 0
    return structure
