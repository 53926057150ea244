"""Metrics of simulated protocols, whose reference is known because the degradation is simulated.

Pure functions of arrays; `evaluation/simulated_tasks.py` simulates and runs the model. These
protocols are not published: a figure compares methods on the same scans at the same settings, and
cannot be compared with a figure of other scans. The reference is the original scan with its own
noise, so that even a perfect method has a finite PSNR; that limit is the same for all methods.
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


@dataclass(frozen=True)
class Scored:
    """A scan's score without a lesion, and with one added. scan: its name, unique."""

    patient: str
    scan: str
    healthy: float
    planted: float


def closeness(truth_hu: Hu, test_hu: Hu, body: Mask, region: str) -> tuple[Value, ...]:
    """PSNR, SSIM and RMSE in the region's window over the body, as the table in protocols.py says.

    `InputError` where a slice, or the body in it, is too small for an SSIM.
    """
    shape = truth_hu.shape
    rim = slice(SSIM_RADIUS, -SSIM_RADIUS)
    few = f"too little of a body in {shape} voxels to measure; give a scan that shows more"
    ensure(min(shape[:2]) > 2 * SSIM_RADIUS and body[rim, rim].any(), few)
    close = fidelity(truth_hu, test_hu, named(f"window:{region}"), mask=body)
    return (
        Value("psnr", close.psnr_db, "dB"),
        Value("ssim", close.ssim),
        Value("rmse", close.rmse_hu, "HU", "lower"),
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
    ensure(slices % slabs == 0, f"{slices} slices cannot be divided among {slabs} slabs")
    inner = slice(slices // slabs, slices - slices // slabs)
    close = closeness(truth_hu[..., inner], test_hu[..., inner], body[..., inner], region)
    back = test_hu.astype(np.float64).reshape(*thick_hu.shape, -1).mean(-1)
    off = np.abs(back - thick_hu)
    return (
        *close,
        Value("averaged back, most", float(off.max()), "HU", "lower"),
        Value("averaged back, RMS", float(np.sqrt(np.mean(off**2))), "HU", "lower"),
    )


def planted_lesions(score: Hu, lesion: Mask, scored: Mask) -> tuple[Value, ...]:
    """Voxel AUROC, average precision, and PRO up to an FPR of 0.3 of one scan with a lesion.

    score: higher where less normal. scored: voxels that count. `InputError` where all of them, or
    none, are of a lesion, or a score is not finite.
    """
    positive, scores = lesion[scored], score[scored]
    weight = lesion_weights(lesion)[0][scored]
    overlap = area(curve(scores, weight, (~positive).astype(np.float64)), PRO_LIMIT)
    return (
        Value("voxel AUROC", auroc(positive, scores)),
        Value("voxel AP", average_precision(positive, scores)),
        Value("PRO at FPR 0.3", overlap),
    )


def interpolations(slabs: int, factor: int) -> dict[str, Float[np.ndarray, "slabs fine"]]:
    """Linear, cubic and Lanczos-3 interpolation along z, as matrices: thick hu @ matrix is thin.

    The centre of thin slice i lies at (i + 1/2) / factor - 1/2 slabs; beyond the outer centres the
    end slabs are repeated. `InputError` where there are fewer than two slabs or the factor is below
    2.
    """
    from scipy.interpolate import make_interp_spline

    if slabs < 2 or factor < 2:
        raise InputError(f"{slabs} slabs and a factor of {factor}: give 2 or more of both")
    pad = 4  # slabs, repeated at each end
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
