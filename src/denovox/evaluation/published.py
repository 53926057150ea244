"""Published evaluations: each is a small pure function that follows its convention to the letter.

Their figures cannot be compared with each other: clipping, the peak, the order of averages and how
an SSIM treats the rim of a slice all change them. Method 4, Facts 5.5 to 5.7; the authors' own code
was read where it is public, and where it differs from a paper's summary, the code is followed,
since it produced the published numbers.

No library's SSIM matches any of the four: skimage averages only windows that lie within the slice
(so does `fidelity.ssim`), MONAI and torchmetrics pad by reflection or not at all; RED-CNN, CoreDiff
and RPLHR-CT pad with zeros and average the rim too; FoundDiff reflects, and clips each voxel's SSIM
to 0 to 1 before the mean. `slice_ssim` has all of these, and agrees with skimage away from the rim.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float, Num, Shaped

from ..core.errors import InputError
from ..metrics.detection import PRO_LIMIT, auroc, pro
from ..metrics.fidelity import CONVENTIONS, Convention, Rim, Slice, slice_ssim

Hu = Num[np.ndarray, "_ _ _"]  # x y z; that two have one shape is checked by `_alike`

REDCNN = CONVENTIONS["mayo16-redcnn"]
FOUNDDIFF = Convention("mayo16-founddiff", -1000, 2000, 3000)
REDCNN_HU, FOUNDDIFF_HU = ((of.low_hu or 0.0, of.high_hu or 0.0) for of in (REDCNN, FOUNDDIFF))
STORED_HU = (-1024.0, 3072.0)  # what the RED-CNN line of code keeps of a slice
COREDIFF_HU, COREDIFF_LEVELS = (-1000.0, 1000.0), 255.0
RPLHR_END, RPLHR_SAME_DB = 5, 40.0  # slices left out at each end; the PSNR of equal volumes
BMAD_THRESHOLDS = 200


@dataclass(frozen=True)
class SliceScores:
    """A scan's figures, slice by slice: these protocols average over all slices of all scans."""

    psnr_db: Float[np.ndarray, " slices"]
    ssim: Float[np.ndarray, " slices"]
    rmse_hu: Float[np.ndarray, " slices"]


@dataclass(frozen=True)
class VolumeScore:
    """A scan's figures, where a protocol averages over scans."""

    psnr_db: float
    ssim: float


@dataclass(frozen=True)
class DetectionScore:
    """Figures of all images of a test set together; PRO as in `detection.pro`, up to FPR 0.3."""

    image_auroc: float
    pixel_auroc: float
    pro: float


# -- denoising ------------------------------------------------------------------------------------


def cut_to(hu: Hu, low: float, high: float) -> bool:
    """Whether a volume was cut to this window of HU before it was saved, as many scripts do.

    Its lowest value is the window's lower end, and nothing is above its upper end, within 5 % of
    the width: networks overshoot. Cutting it again then changes no figure beyond that.
    """
    slack = 0.05 * (high - low)
    least, most = float(hu.min()), float(hu.max())
    return abs(least - low) <= slack and low < most <= high + slack


def mayo16_redcnn(reference_hu: Hu, test_hu: Hu) -> SliceScores:
    """Cut to [-160, 240] HU; peak 400 HU; SSIM of HU values, padded with zeros (that is, 0 HU).

    reference_hu, test_hu: x y z; z are the slices. `InputError` where the shapes differ.
    """
    return _by_slice(
        reference_hu,
        test_hu,
        REDCNN.cut,
        lambda reference: REDCNN.data_range_hu,
        hu_per_unit=1.0,
        rim="zeros",
    )


def mayo16_corediff(reference_hu: Hu, test_hu: Hu) -> SliceScores:
    """Cut to [-1000, 1000] HU, as 0 to 255; peak = highest - lowest of the reference slice.

    The authors' peak is of the reference batch, and their test batches are one slice
    (test_batch_size=1). A scan's first and last slice are no targets: their network sees three.
    SSIM is padded with zeros (here -1000 HU) and takes the same peak; RMSE is in HU.
    reference_hu, test_hu: x y z, at least three slices. `InputError` where the shapes differ, there
    are fewer, or a slice of the reference is constant.
    """
    _alike(reference_hu, test_hu, slices=3)
    low, high = COREDIFF_HU

    def levels(hu: Num[np.ndarray, "x y"]) -> Slice:
        stored = np.clip(hu.astype(np.float64), *STORED_HU)
        return COREDIFF_LEVELS * (np.clip(stored, low, high) - low) / (high - low)

    return _by_slice(
        reference_hu[:, :, 1:-1],
        test_hu[:, :, 1:-1],
        levels,
        lambda reference: float(reference.max() - reference.min()),
        hu_per_unit=(high - low) / COREDIFF_LEVELS,
        rim="zeros",
    )


def mayo16_founddiff(reference_hu: Hu, test_hu: Hu) -> SliceScores:
    """[-1000, 2000] HU as 0 to 1, peak 1 (3000 HU); SSIM reflects at the rim, each voxel 0 to 1.

    The authors' window of [-160, 240] HU is for their pictures alone: their PSNR, SSIM and RMSE are
    of the whole range. RMSE is theirs times 3000, in HU.
    reference_hu, test_hu: x y z. `InputError` where the shapes differ.
    """
    span = FOUNDDIFF.data_range_hu

    def unit(hu: Num[np.ndarray, "x y"]) -> Slice:
        return (FOUNDDIFF.cut(hu) - (FOUNDDIFF.low_hu or 0.0)) / span

    return _by_slice(
        reference_hu, test_hu, unit, lambda reference: 1.0, hu_per_unit=span, rim="reflect"
    )


def _by_slice(
    reference_hu: Hu,
    test_hu: Hu,
    scaled: Callable[[Num[np.ndarray, "x y"]], Slice],
    peak: Callable[[Slice], float],
    *,
    hu_per_unit: float,
    rim: Rim,
) -> SliceScores:
    """PSNR, SSIM and RMSE of every axial slice, of values that `scaled` makes of HU."""
    _alike(reference_hu, test_hu)
    rows = []
    for z in range(reference_hu.shape[2]):
        a, b = scaled(reference_hu[:, :, z]), scaled(test_hu[:, :, z])
        data_range = peak(a)
        if not data_range > 0:
            raise InputError(f"slice {z} of the reference is constant; leave it out")
        rmse = math.sqrt(float(np.mean((a - b) ** 2)))
        rows.append(
            (
                math.inf if rmse == 0 else 20 * math.log10(data_range / rmse),
                slice_ssim(a, b, data_range, rim),
                rmse * hu_per_unit,
            )
        )
    psnr, ssim, rmses = np.array(rows).T
    return SliceScores(psnr, ssim, rmses)


# -- super-resolution -----------------------------------------------------------------------------


def rplhr(reference: Hu, test: Hu) -> VolumeScore:
    """[0, 1] data, 5 slices less at each end; PSNR of the whole rest, peak 1; mean 2D SSIM.

    The restored volume is cut to 0 to 1, the reference is not; equal volumes have 40 dB, as in the
    authors' code. SSIM is padded with zeros.
    reference, test: x y z as released, [0, 1], not HU. `InputError` where the shapes differ, fewer
    than 11 slices are there, or the reference is plainly not in [0, 1].
    """
    _alike(reference, test, slices=2 * RPLHR_END + 1)
    low, high = float(reference.min()), float(reference.max())
    if low < -0.5 or high > 1.5:
        raise InputError(
            f"the reference has values from {low:g} to {high:g}, so it is not the [0, 1] of"
            " RPLHR-CT's files; scale both volumes alike first, and say how"
        )
    inner = slice(RPLHR_END, -RPLHR_END)
    a = reference[:, :, inner].astype(np.float64)
    b = np.clip(test[:, :, inner].astype(np.float64), 0, 1)
    mse = float(np.mean((a - b) ** 2))
    ssim = [slice_ssim(a[:, :, z], b[:, :, z], 1.0, "zeros") for z in range(a.shape[2])]
    return VolumeScore(RPLHR_SAME_DB if mse == 0 else -10 * math.log10(mse), float(np.mean(ssim)))


# -- detection ------------------------------------------------------------------------------------


def bmad_liver(
    maps: Sequence[Shaped[np.ndarray, "*_"]],
    masks: Sequence[Shaped[np.ndarray, "*_"]],
    scores: Sequence[float] | None = None,
) -> DetectionScore:
    """Image AUROC, pixel AUROC, and PRO up to an FPR of 0.3 at 200 thresholds, of all test images.

    maps: an anomaly map an image, higher where less normal. masks: what is not 0 is a lesion; an
    image without any is a normal one. scores: one an image; the highest of its map if not given.
    All images make one curve each. BMAD's own PRO fails under pandas 2 and divides by the largest
    FPR that occurs below 0.3; this one, as anomalib's, interpolates to 0.3 and divides by it.
    `InputError` where an image has no mask, shapes differ, or all images are normal or none is.
    """
    if len(maps) != len(masks) or not maps:
        raise InputError(f"{len(masks)} masks for {len(maps)} anomaly maps; give one for each")
    lesions: list[Bool[np.ndarray, "*_"]] = [mask != 0 for mask in masks]
    best = [float(each.max()) for each in maps] if scores is None else list(scores)
    area = pro(lesions, maps, PRO_LIMIT, BMAD_THRESHOLDS)  # first: it checks the shapes
    return DetectionScore(
        auroc(np.array([mask.any() for mask in lesions]), np.array(best)),
        auroc(
            np.concatenate([mask.ravel() for mask in lesions]),
            np.concatenate([each.ravel() for each in maps]),
        ),
        area,
    )


def _alike(reference: Hu, test: Hu, slices: int = 1) -> None:
    """`InputError` unless both have one shape, enough slices and finite values."""
    if reference.shape != test.shape:
        raise InputError(
            f"the reference is {reference.shape}, the restored volume {test.shape}; they must lie"
            " on one grid"
        )
    if reference.size == 0 or reference.shape[2] < slices:
        raise InputError(f"{reference.shape} has too little: this needs {slices} slices or more")
    for name, values in (("reference", reference), ("restored volume", test)):
        if not np.isfinite(values).all():
            raise InputError(f"the {name} has voxels that are NaN or infinite; replace them")
