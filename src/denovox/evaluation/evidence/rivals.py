"""Other methods, which `denovox evaluate all` compares with.

Each denoiser without a network is given the true SD of the noise, and each but BM4D (which has no
other parameter) is run at several strengths, of which the one with the best PSNR *against the
reference* counts. No user could choose so well: every doubt is settled in the rival's favour.
RED-CNN is trained here (red_cnn.py). Arrays are x y z in model units: a region's window is [-1, 1]
(Method 1).

Detection: the difference from a local mean. Super-resolution: `evaluate simulated slab` has linear,
cubic and Lanczos interpolation itself.
"""

from __future__ import annotations

import importlib.util
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial

import numpy as np
from jaxtyping import Float
from scipy import ndimage

from ...core.regions import REGIONS
from ...core.volume import Volume
from ...scan.body_regions import RegionSpan
from .red_cnn import CUT, NAME, Trained

Array = Float[np.ndarray, "x y z"]

# Wide on purpose: where the best strength is the first or the last one, a better one may lie
# beyond, and the report says so.
NLM_STRENGTHS = (0.1, 0.2, 0.4, 0.6)  # h / sigma
TV_STRENGTHS = (0.2, 0.4, 0.6, 0.8, 1.0, 1.25, 1.5)  # weight / sigma
NLM_PATCH, NLM_DISTANCE = 3, 5  # voxels, along every axis
TOP_ML = 0.3


@dataclass(frozen=True)
class Denoised:
    """A rival's result. setting: the best strength. seconds: of the run with it."""

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
        return np.asarray(denoise_tv_chambolle(noisy, weight=strength * sigma))

    return _best(((f"weight = {s:g} sigma", _later(run, s)) for s in TV_STRENGTHS), reference)


def bm4d(noisy: Array, sigma: float, reference: Array) -> Denoised:
    """BM4D (Maggioni 2013), the authors' package and default profile, given the true sigma.

    noisy, reference: model units. sigma: standard deviation of the noise, model units.
    """
    from bm4d import bm4d as package

    def run() -> Array:
        return np.asarray(package(noisy, sigma)).reshape(noisy.shape)

    return _best([("sigma given", run)], reference)


COLOURED = "bm4d-coloured"
DENOISERS: dict[str, Callable[[Array, float, Array], Denoised]] = {
    "nlm": nlm,
    "tv": tv,
    "bm4d": bm4d,
}


def bm4d_coloured(noisy: Array, noise: Array, sigma: float, reference: Array) -> Denoised:
    """BM4D for correlated noise (Makinen 2020), given the spectrum of the very noise to remove.

    The spectrum is the radial mean, over frequencies and slices, of the noise's periodogram; sigma
    is its SD in tissue, since there is less of it in air. No user could know as much.
    """
    from bm4d import bm4d as package

    power = np.abs(np.fft.fft2(noise, axes=(0, 1))) ** 2
    shape = noise.shape[:2]
    f = np.hypot(np.fft.fftfreq(shape[0])[:, None], np.fft.fftfreq(shape[1]))
    ring = np.rint(f * min(shape)).astype(int)
    per_ring = np.bincount(ring.ravel(), power.mean(2).ravel()) / np.bincount(ring.ravel())
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


def available() -> list[str]:
    """Names of the denoisers that are installed here."""
    packages = {"nlm": "skimage", "tv": "skimage", "bm4d": "bm4d", COLOURED: "bm4d"}
    return [name for name, package in packages.items() if importlib.util.find_spec(package)]


def denoised(
    name: str,
    noisy: Volume,
    truth: Volume,
    spans: Iterable[RegionSpan],
    red_cnn: Trained | None = None,
) -> tuple[Volume, float, list[str]]:
    """(the scan, each region denoised in its own window; seconds; the best setting of each).

    red_cnn: needed for the rival of that name, which has no setting.
    """
    hu, seconds, settings = noisy.hu.astype(np.float32), 0.0, []
    for span in spans:
        z, window = slice(span.start, span.stop), REGIONS[span.region].window
        clean, noise = truth.hu[..., z], noisy.hu[..., z] - truth.hu[..., z]
        soft = (clean > -100) & (clean < 200)
        sigma = window.sigma(float((noise[soft] if soft.any() else noise).std()))
        unit = np.clip(window.unit(noisy.hu[..., z]), -CUT, CUT).astype(np.float32)
        if name == NAME and red_cnn is not None:
            best = _best([("", partial(red_cnn, unit))], window.unit(clean))
        elif name == COLOURED:
            in_units = (noise / (window.width_hu / 2)).astype(np.float32)
            best = bm4d_coloured(unit, in_units, sigma, window.unit(clean))
        else:
            best = DENOISERS[name](unit, sigma, window.unit(clean))
        # What was cut off comes back, as it is.
        hu[..., z] += window.hu(best.unit) - window.hu(unit)
        seconds += best.seconds
        settings += [best.setting] * bool(best.setting)
    return noisy.with_hu(hu), seconds, settings


def local_mean_difference(
    volume: Volume, inside: np.ndarray, region: str, reach_mm: float, smooth_mm: float = 3.0
) -> Array:
    """|HU - local mean| of the voxels inside, clipped to the region's window, smoothed.

    reach_mm: SD of the Gaussian that averages. What is not inside is 0.
    """
    window = REGIONS[region].window
    hu = np.clip(volume.hu, window.low_hu, window.high_hu)
    wide, narrow = ([mm / each for each in volume.spacing_mm] for mm in (reach_mm, smooth_mm))
    weight = ndimage.gaussian_filter(inside.astype(np.float32), wide, mode="nearest")
    mean = ndimage.gaussian_filter(hu * inside, wide, mode="nearest") / (weight + 1e-6)
    left = ((hu - mean) * inside).astype(np.float32)
    return np.abs(ndimage.gaussian_filter(left, narrow, mode="nearest")) * inside


def scan_score(score: Array, spacing_mm: tuple[float, float, float]) -> float:
    """Of a scan: the mean over its highest `TOP_ML`, which is more robust than the maximum."""
    count = min(score.size, max(1, round(TOP_ML * 1000 / float(np.prod(spacing_mm)))))
    return float(np.partition(score.ravel(), -count)[-count:].mean())
