"""The faithfulness report: what a restoration changed, and whether that change can be trusted.

It needs no reference. With one, bias and errors are measured against it; without, the mean of what
was removed stands in for the bias, since noise has zero mean.
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, Integer
from scipy import ndimage

from ..core.errors import InputError
from ..core.labels import AIRWAY, BODY, BONE, ID, LUNG, OUTSIDE, path_matrix
from ..core.volume import Volume
from ..io.atomic import check_folder, write_folder
from ..metrics.residual import LEAST, residual, sd_along
from ..metrics.results import finite
from ..scan.anatomy import coarse
from .types import Change, Errors, Given, Report, Spread, Thresholds, Tissue
from .verdicts import checks, summary

JSON_NAME, HTML_NAME = "report.json", "index.html"
GUIDE_SMOOTH, GUIDE_STEEP = 2.0, 15.0  # voxels; HU per voxel: tissues are segmented away from edges

# name; HU of the smoothed image, from and to; its label; labels whose descendants are excluded
TISSUES: tuple[tuple[str, float, float, int, tuple[int, ...]], ...] = (
    ("lung", -980, -600, LUNG, ()),
    ("fat", -140, -60, BODY, (LUNG, AIRWAY, BONE)),
    ("muscle and organs", 0, 90, BODY, (LUNG, AIRWAY, BONE)),
    ("contrast-filled vessels and organs", 110, 400, BODY, (LUNG, AIRWAY, BONE)),
    ("liver", -20, 250, ID["liver"], ()),
    ("bone", 200, 2500, BONE, ()),
)


def report(
    before: Volume, after: Volume, given: Given | None = None, thresholds: Thresholds | None = None
) -> Report:
    """All measurements and checks of a restoration.

    before: the input; after: the output, on the same grid; for super-resolution, `before` is the
    interpolated input. `InputError` where grids differ or the body has fewer than 500 voxels.
    """
    given, limits = given or Given(), thresholds or Thresholds()
    require_alike(before, after, given)
    labels = coarse(before) if given.labels is None else given.labels
    inside = labels != OUTSIDE
    require_body(labels)
    change = _change(before, after, inside)
    removed = residual(before.hu, after.hu, inside, before.spacing_mm, given.noise)
    found = tissues(before, after, labels, given.reference)
    spread, errors = _spread(after, inside, given), _errors(before, after, inside, given.reference)
    results = checks(removed, found, spread, given, limits)
    return Report(
        change,
        removed,
        found,
        given.data_consistency_hu,
        _noise_hu(given, before.shape[2]),
        given.noise,
        spread,
        errors,
        results,
        summary(change, errors, results),
        limits,
        given.weights,
        given.settings,
        given.version,
    )


def require_body(labels: Integer[np.ndarray, "x y z"]) -> None:
    """`InputError` if the body has too few voxels for a report; call this before restoring."""
    count = np.count_nonzero(labels != OUTSIDE)
    if count < LEAST:
        raise InputError(
            f"a report needs {LEAST} voxels within the body, but the scan has {count}; leave out"
            " the report"
        )


def _change(before: Volume, after: Volume, inside: Bool[np.ndarray, "x y z"]) -> Change:
    size = _apart(after, before, inside)
    np.abs(size, out=size)
    return Change(
        float(size.mean()),
        float(np.sqrt(np.mean(size**2))),
        float(np.percentile(size, 99)),
        float(size.max()),
        float(np.mean(size == 0)),
    )


def _apart(
    one: Volume, other: Volume, where: Bool[np.ndarray, "x y z"]
) -> Float[np.ndarray, " voxels"]:
    """Their difference in a mask, in float64."""
    return one.hu[where].astype(np.float64) - other.hu[where]


def _noise_hu(given: Given, slices: int) -> float | None:
    """RMS over the slices of the SD of the assumed noise."""
    if not given.noise:
        return None
    return float(np.sqrt(np.mean(sd_along(given.noise, slices) ** 2)))


def require_alike(before: Volume, after: Volume, given: Given) -> None:
    """`InputError` where anything is on a different grid from `before`, or is not finite."""
    for name, volume in (("the restored volume", after), ("the reference", given.reference)):
        if volume is not None:
            volume.grid.require(before.grid, name, "the input")
    others = {
        "the restored volume": after.hu,
        "the reference": None if given.reference is None else given.reference.hu,
        "the SD map": given.sd_hu,
        "the anatomy": given.labels,
    }
    for name, values in others.items():
        if values is None:
            continue
        if values.shape != before.hu.shape:
            raise InputError(
                f"{name} is {values.shape}, the input {before.hu.shape}; put both on one grid"
            )
        if not np.isfinite(values).all():
            raise InputError(f"{name} has voxels that are NaN or infinite; replace them")


def tissues(
    before: Volume,
    after: Volume,
    labels: Integer[np.ndarray, "x y z"],
    reference: Volume | None = None,
) -> tuple[Tissue, ...]:
    """Mean HU before and after, for each tissue with at least 500 voxels.

    A tissue is where the anatomy allows it and a smoothed image (of the reference if there is one)
    has its HU and no edge. The restored image would select the voxels that changed.
    """
    guide = (before if reference is None else reference).hu
    smooth, steep = np.empty(guide.shape, np.float32), np.empty(guide.shape, np.float32)
    for z in range(guide.shape[2]):
        smooth[:, :, z] = ndimage.gaussian_filter(guide[:, :, z].astype(np.float32), GUIDE_SMOOTH)
        steep[:, :, z] = np.hypot(*np.gradient(smooth[:, :, z]))
    calm = steep < GUIDE_STEEP
    on_path = path_matrix() > 0
    out = []
    for name, low, high, label, excluded in TISSUES:
        allowed = on_path[:, label] & ~on_path[:, list(excluded)].any(axis=1)
        mask = allowed[labels] & calm & (smooth >= low) & (smooth <= high)
        count = int(np.count_nonzero(mask))
        if count < LEAST:
            continue
        was, now = _mean(before.hu, mask), _mean(after.hu, mask)
        off = _apart(after, before if reference is None else reference, mask)
        error = 2 * float(off.std()) / np.sqrt(count)
        out.append(Tissue(name, count, was, now, float(off.mean()), float(error)))
    return tuple(out)


def _mean(hu: Float[np.ndarray, "x y z"], where: Bool[np.ndarray, "x y z"]) -> float:
    return float(hu[where].mean(dtype=np.float64))


def _spread(after: Volume, inside: Bool[np.ndarray, "x y z"], given: Given) -> Spread | None:
    if given.sd_hu is None:
        return None
    sd, coverage = given.sd_hu[inside].astype(np.float64), None
    if given.reference is not None:
        error = np.abs(_apart(after, given.reference, inside))
        uncertain = sd > 0  # where nothing was sampled, no uncertainty was claimed
        coverage = (
            float(np.mean(error[uncertain] <= 2 * sd[uncertain])) if uncertain.any() else None
        )
    return Spread(float(sd.mean()), float(np.percentile(sd, 95)), coverage)


def _errors(
    before: Volume, after: Volume, inside: Bool[np.ndarray, "x y z"], reference: Volume | None
) -> Errors | None:
    if reference is None:
        return None

    def rmse(volume: Volume) -> float:
        return float(np.sqrt(np.mean(_apart(volume, reference, inside) ** 2)))

    return Errors(rmse(before), rmse(after))


def as_json(result: Report) -> str:
    """The report as strict JSON with stable keys; NaN and infinities become null."""
    return json.dumps(finite(asdict(result)), indent=1, sort_keys=True, allow_nan=False) + "\n"


def write_report(
    folder: str | Path,
    before: Volume,
    after: Volume,
    given: Given | None = None,
    title: str = "restoration",
    force: bool = False,
) -> Report:
    """Write `report.json` and `index.html` to a new folder, both or neither; see `write_folder`.

    `InputError` as in `report` and `write_folder`.
    """
    from .html import as_html  # nibabel is slow to import

    check_folder(folder, force)
    given = given or Given()
    result = report(before, after, given)
    files = {JSON_NAME: as_json(result), HTML_NAME: as_html(result, before, after, given, title)}
    write_folder(folder, files, force)
    return result
