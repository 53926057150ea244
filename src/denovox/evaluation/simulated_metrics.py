"""Protocols whose truth is at hand because the damage was made: they run on any CT.

Each is a pure function of arrays; making the damage and running a model is
`evaluation/simulated.py`'s. None is published: a figure here tells methods apart on the same scans,
at the same settings, and cannot be set beside a figure of other scans. The truth is the scan as it
came, its own noise included, so that even a perfect method has no infinite PSNR; that limit is the
same for all methods.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, UInt8

from ..core.errors import InputError, ensure
from ..core.volume import Volume
from ..metrics.detection import (
    PRO_LIMIT,
    area,
    auroc,
    average_precision,
    curve,
    lesion_weights,
)
from ..metrics.fidelity import SSIM_RADIUS, fidelity, named
from ..metrics.results import Value
from ..reports.faithfulness import tissues

Hu = Float[np.ndarray, "x y z"]
Mask = Bool[np.ndarray, "x y z"]

_CLOSE = (
    "both volumes cut to the window of the region, peak = its width; all voxels of the body"
    " (anatomy.coarse of the truth) at once; SSIM: 2D, 11 x 11, sigma 1.5, mean over a slice's"
    " body, then over slices, 5 voxels at the rim left out"
)
LESION_PROTOCOLS = ("lesion-generation", "lesion-inpainting")  # metrics/lesions.py
SIMULATED = {  # name -> its convention
    "simulated-dose": f"{_CLOSE}; bias: mean of (result - truth) in HU, uncut, of the voxels of a"
    " tissue in the truth, away from edges (reports/faithfulness.tissues)",
    "simulated-slab": f"{_CLOSE}; the first and last thick slice are left out, where all methods"
    " extrapolate; averaged back: |mean over each slab - the slab| in HU, uncut, all voxels",
    "planted-lesions": "score: |z| of the anomaly map, over all voxels of the body in the slices of"
    " the region; AUROC, average precision and PRO (area to FPR 0.3, over 0.3; each lesion counts"
    " as one) of each planted scan, then their mean; scan AUROC: one score a scan, planted against"
    " as it came; found: share of planted scans that score above the same scan as it came",
}


@dataclass(frozen=True)
class Scored:
    """A scan's score as it came, and with a lesion planted in it. scan: its name, once each."""

    patient: str
    scan: str
    healthy: float
    planted: float


def closeness(truth_hu: Hu, test_hu: Hu, body: Mask, region: str) -> tuple[Value, ...]:
    """PSNR, SSIM and RMSE in the region's window over the body, as `SIMULATED` says.

    `InputError` where a slice, or the body in it, is too small for an SSIM.
    """
    shape = truth_hu.shape
    rim = slice(SSIM_RADIUS, -SSIM_RADIUS)
    told = f"too little of a body in {shape} voxels to measure; give a scan that shows more"
    ensure(min(shape[:2]) > 2 * SSIM_RADIUS and body[rim, rim].any(), told)
    found = fidelity(truth_hu, test_hu, named(f"window:{region}"), mask=body)
    return (
        Value("psnr", found.psnr_db, "dB"),
        Value("ssim", found.ssim),
        Value("rmse", found.rmse_hu, "HU", "lower"),
    )


def simulated_dose(
    truth: Volume, test: Volume, labels: UInt8[np.ndarray, "x y z"], body: Mask, region: str
) -> tuple[Value, ...]:
    """Closeness, and the bias of every tissue with 500 voxels. labels: core/labels ids."""
    biases = tissues(truth, test, labels, truth)
    return (
        *closeness(truth.hu, test.hu, body, region),
        *(Value(f"bias {one.name}", one.bias_hu, "HU", "zero") for one in biases),
    )


def simulated_slab(
    truth_hu: Hu,
    test_hu: Hu,
    thick_hu: Float[np.ndarray, "x y slabs"],
    body: Mask,
    region: str,
) -> tuple[Value, ...]:
    """Closeness without the slices of the first and last slab, and how far off it averages back.

    truth_hu, test_hu: thin; the same number of them makes each slab. `InputError` where there are
    fewer than three slabs, or the slices are no multiple of them.
    """
    slabs, slices = thick_hu.shape[2], truth_hu.shape[2]
    ensure(slabs >= 3, f"{slabs} thick slices are too few: the first and the last are left out")
    ensure(slices % slabs == 0, f"{slices} slices cannot be shared out to {slabs} slabs")
    inner = slice(slices // slabs, slices - slices // slabs)
    close = closeness(truth_hu[..., inner], test_hu[..., inner], body[..., inner], region)
    back = test_hu.astype(np.float64).reshape(*thick_hu.shape, -1).mean(-1)
    off = np.abs(back - thick_hu)
    return (
        *close,
        Value("averaged back, most", float(off.max()), "HU", "lower"),
        Value("averaged back, RMS", float(np.sqrt(np.mean(off**2))), "HU", "lower"),
    )


def planted_lesions(score: Hu, lesion: Mask, judged: Mask) -> tuple[Value, ...]:
    """Voxel AUROC, average precision, and PRO up to an FPR of 0.3 of one planted scan.

    score: higher where less normal. judged: voxels that count. `InputError` where all of them, or
    none, are of a lesion, or a score is not finite.
    """
    sick, found = lesion[judged], score[judged]
    weight = lesion_weights(lesion)[0][judged]
    overlap = area(curve(found, weight, (~sick).astype(np.float64)), PRO_LIMIT)
    return (
        Value("voxel AUROC", auroc(sick, found)),
        Value("voxel AP", average_precision(sick, found)),
        Value("PRO at FPR 0.3", overlap),
    )


def interpolations(slabs: int, factor: int) -> dict[str, Float[np.ndarray, "slabs fine"]]:
    """Linear, cubic and Lanczos-3 interpolation along z, as matrices: thick hu @ matrix is thin.

    The centre of thin slice i lies at (i + 1/2) / factor - 1/2 slabs; beyond the outer centres the
    end slabs go on. `InputError` where there are fewer than two slabs or the factor is below 2.
    """
    from scipy.interpolate import make_interp_spline

    if slabs < 2 or factor < 2:
        raise InputError(f"{slabs} slabs and a factor of {factor}: give 2 or more of both")
    pad = 4  # slabs, repeated at either end
    knots = np.arange(-pad, slabs + pad)
    ends = np.eye(slabs)[np.clip(knots, 0, slabs - 1)]
    at = (np.arange(slabs * factor) + 0.5) / factor - 0.5
    far = at[:, None] - knots
    lanczos = np.sinc(far) * np.sinc(far / 3) * (np.abs(far) < 3)
    return {
        "linear": np.asarray(make_interp_spline(knots, ends, 1)(at).T),
        "cubic": np.asarray(make_interp_spline(knots, ends, 3)(at).T),
        "Lanczos-3": np.asarray((lanczos / lanczos.sum(1, keepdims=True) @ ends).T),
    }
