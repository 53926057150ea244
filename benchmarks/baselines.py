"""Denoising without a network: the competitors of `benchmarks/denoising.py`.

Each is given the true sigma of the noise, and each but BM4D (which has no free parameter beyond
it) is run at several strengths of which the one with the best PSNR *against the clean reference*
is reported, with the seconds of that one run alone. No user could choose so well: every doubt is
settled in the competitor's favour.

Arrays are x y z in model units: a region's window is [-1, 1] (METHOD 1).
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float

Array = Float[np.ndarray, "x y z"]

# Wide on purpose: a sweep won at one of its ends may not have found the competitor's best, and
# the table says so.
NLM_STRENGTHS = (0.1, 0.2, 0.4, 0.6)  # h / sigma
TV_STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5)  # weight / sigma
NLM_PATCH, NLM_DISTANCE = 3, 5  # voxels, along every axis


@dataclass(frozen=True)
class Denoised:
    """What a competitor came to. `setting` names the strength that won, `seconds` is its time."""

    unit: Array
    seconds: float
    setting: str


def nlm(noisy: Array, sigma: float, reference: Array) -> Denoised:
    """Non-local means in 3D (Buades 2005, fast mode of Darbon 2008), the best h of `NLM_STRENGTHS`.

    noisy, reference: model units. sigma: standard deviation of the noise, model units.
    """
    from skimage.restoration import denoise_nl_means

    def run(strength: float) -> Array:
        return denoise_nl_means(
            noisy,
            patch_size=NLM_PATCH,
            patch_distance=NLM_DISTANCE,
            h=strength * sigma,
            sigma=sigma,
            fast_mode=True,
        )

    return _best(((f"h = {s:g} sigma", _later(run, s)) for s in NLM_STRENGTHS), reference)


def tv(noisy: Array, sigma: float, reference: Array) -> Denoised:
    """Total variation in 3D (Chambolle 2004), the best weight of `TV_STRENGTHS`.

    noisy, reference: model units. sigma: standard deviation of the noise, model units.
    """
    from skimage.restoration import denoise_tv_chambolle

    def run(strength: float) -> Array:
        return denoise_tv_chambolle(noisy, weight=strength * sigma)

    return _best(((f"weight = {s:g} sigma", _later(run, s)) for s in TV_STRENGTHS), reference)


def bm4d(noisy: Array, sigma: float, reference: Array) -> Denoised:
    """BM4D (Maggioni 2013), the authors' package and default profile, told the true sigma.

    noisy, reference: model units. sigma: standard deviation of the noise, model units.
    """
    from bm4d import bm4d as package

    def run() -> Array:
        return np.asarray(package(noisy, sigma)).reshape(noisy.shape)

    return _best([("sigma given", run)], reference)


COMPETITORS: dict[str, Callable[[Array, float, Array], Denoised]] = {
    "nlm": nlm,
    "tv": tv,
    "bm4d": bm4d,
}


def bm4d_coloured(noisy: Array, noise: Array, sigma: float, reference: Array) -> Denoised:
    """BM4D for correlated noise (Makinen 2020), told the spectrum of *the very noise* it is to
    remove: the radial mean, over frequencies and slices, of its periodogram; and its level in
    tissue, sigma, for in the room there is less. Nobody could know as much.
    """
    from bm4d import bm4d as package

    found = np.abs(np.fft.fft2(noise, axes=(0, 1))) ** 2
    shape = noise.shape[:2]
    f = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    ring = np.rint(f * min(shape)).astype(int)
    per_ring = np.bincount(ring.ravel(), found.mean(2).ravel()) / np.bincount(ring.ravel())
    # White along z. As the package scales it, a spectrum's mean is the variance times the voxels.
    plane = per_ring[ring] / per_ring[ring].mean() * sigma**2 * noise.size
    psd = np.repeat(plane[..., None], noise.shape[2], 2)

    if not hasattr(np, "trapz"):  # bm4d 4.2.5 calls it by the name it had before NumPy 2.4
        np.trapz = np.trapezoid  # type: ignore[attr-defined]  # noqa: NPY201

    def run() -> Array:
        return np.asarray(package(noisy, psd)).reshape(noisy.shape)

    return _best([("spectrum given", run)], reference)


def _later(run: Callable[[float], Array], strength: float) -> Callable[[], Array]:
    return lambda: run(strength)


def _best(runs: Iterable[tuple[str, Callable[[], Array]]], reference: Array) -> Denoised:
    """The run nearest to the reference within the window: the highest PSNR of `window:<region>`."""
    best, lowest = None, np.inf
    runs = list(runs)
    for number, (setting, run) in enumerate(runs):
        at_end = len(runs) > 1 and number in (0, len(runs) - 1)
        start = time.perf_counter()
        unit = run()
        seconds = time.perf_counter() - start
        squared = np.square(np.clip(unit, -1, 1) - np.clip(reference, -1, 1), dtype=np.float64)
        error = float(squared.mean())
        if best is None or error < lowest:
            best, lowest = Denoised(unit, seconds, setting + " (end of sweep)" * at_end), error
    if best is None:
        raise ValueError("no run to choose from")
    return best
