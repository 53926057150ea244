"""What healthy scans show: mean and covariance of a few maps by tissue and place, in JSON.

The difference between a scan and its surroundings or a healthy estimate
(`inference/anomaly/maps.py`, HU) is not noise of a single level: edges of organs, vessels and bowel
differ more than the middle of a liver. A calibration holds the statistics of healthy scans, and
turns the maps of another scan into one z-score (Method 3). Cells hold sums over volume in mL, so
calibrations of single scans add up, whatever their spacing.
"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Float, UInt8
from pydantic import Field, ValidationError
from scipy import ndimage

from ...core.box import Box, bounding_box
from ...core.config import Settings
from ...core.errors import InputError, ensure, line
from ...core.labels import BONE, OUTSIDE
from ...core.volume import Volume
from ...io.atomic import user_output, write_file

# Each tissue has an inside and a rim (within RIM_MM of another tissue): 2 i and 2 i + 1.
TISSUES = ("outside", "gas", "lung", "fat", "soft", "bone")
CLASSES = 2 * len(TISSUES)
MAPS = 2  # the scan minus its surroundings, and minus the healthy estimate
GAS_HU, FAT_HU = -200.0, -20.0  # of voxels labelled body: below is gas, in between is fat
SMOOTH_MM, RIM_MM = 2.0, 4.0
PRIOR_ML = 50.0  # weight of a tissue's statistics over all places, relative to those of a cell
MIN_SPREAD_HU = 0.5  # smaller spreads are too good to be true
# SD. The residual of healthy scans has heavy tails, and few lesions lie in them.
MOST_RESIDUAL = 2.0
LAYOUT = 2  # of the cells; 1: a nodule in the lung counted as soft tissue

Cells = tuple[float, ...]


class AnomalyMethod(Settings):
    """How the maps were computed; statistics for one method do not apply to another.

    sigma_star: noise added to the scan, model units. steps: evaluations for removing it; 1 is the
    posterior mean. seeds: results averaged, in pairs of opposite noise. anatomy: whether the
    model gets the coarse label map. reach_mm: SD of the Gaussian that defines the surroundings.
    clip_hu: larger differences from them are clipped to this. smooth_mm: SD of the Gaussian that
    smooths the maps.
    """

    sigma_star: float = Field(default=0.1, gt=0)
    steps: int = Field(default=1, ge=1)
    seeds: int = Field(default=2, ge=1)
    anatomy: bool = False
    reach_mm: float = Field(default=25.0, gt=0)
    clip_hu: float = Field(default=400.0, gt=0)
    smooth_mm: float = Field(default=3.0, gt=0)


class Calibration(Settings):
    """Sums over healthy voxels of one region in cells of class x place, class slowest.

    weights: sha256 of the model file. bins: places along x, y, z of the body's bounding box.
    millilitres, sums, products: volume seen; sums of HU mL of each map; sums of HU^2 mL of each
    pair of maps. scans: their number. patient: if all are of one that is named. layout: `LAYOUT`
    when it was made.
    """

    layout: int = 1
    region: str
    patient: str = ""
    method: AnomalyMethod
    weights: str = ""
    bins: tuple[int, int, int] = (2, 2, 2)
    millilitres: Cells
    sums: Cells
    products: Cells
    scans: int = Field(default=1, ge=1)

    @property
    def cells(self) -> tuple[int, int]:
        """Numbers of classes and places."""
        return CLASSES, int(np.prod(self.bins))

    def moments(
        self,
    ) -> tuple[Float[np.ndarray, "classes places k"], Float[np.ndarray, "classes places k k"]]:
        """Mean and covariance of the maps in every cell, HU and HU^2.

        A cell with little volume is shrunk towards its class over all places, a class towards all
        classes: each is pooled with `PRIOR_ML` of the coarser level (empirical Bayes by
        pseudo-counts).
        """
        ml = np.reshape(self.millilitres, self.cells)
        ensure(ml.sum() > 0, "the calibration contains no voxels; create it again from whole scans")

        def joined(sums: Cells, count: int) -> Float[np.ndarray, "classes places n"]:
            cells = np.reshape(sums, (*self.cells, count))
            everything = cells.sum((0, 1)) / ml.sum()
            by_class = cells.sum(1) + PRIOR_ML * everything
            by_class /= ml.sum(1)[:, None] + PRIOR_ML
            return (cells + PRIOR_ML * by_class[:, None]) / (ml[..., None] + PRIOR_ML)

        mean = joined(self.sums, MAPS)
        second = joined(self.products, MAPS**2).reshape(*self.cells, MAPS, MAPS)
        least = MIN_SPREAD_HU**2 * np.eye(MAPS)
        return mean, second - mean[..., None] * mean[..., None, :] + least

    def z(
        self,
        maps_hu: Float[np.ndarray, "x y z k"],
        classes: UInt8[np.ndarray, "x y z"],
        places: UInt8[np.ndarray, "x y z"],
    ) -> Float[np.ndarray, "x y z"]:
        """Mahalanobis distance of the maps from what healthy scans show.

        Its part that the contrast does not explain, the residual's, counts up to `MOST_RESIDUAL`.
        Divided by the root of the number of maps, so that healthy voxels have an RMS of at most 1;
        its sign is that of the first map, the scan's contrast: below 0 is darker than the
        surroundings.
        """
        mean, covariance = self.moments()
        white = np.linalg.inv(np.linalg.cholesky(covariance)).astype(np.float32)
        centre = mean.astype(np.float32)
        out = np.empty(classes.shape, np.float32)
        for k in range(classes.shape[2]):  # slice by slice: matrices for all voxels would be large
            cell = classes[..., k], places[..., k]
            off = maps_hu[..., k, :] - centre[cell]
            far = np.einsum("xyij,xyj->xyi", white[cell], off)
            far[..., 1:] = np.clip(far[..., 1:], -MOST_RESIDUAL, MOST_RESIDUAL)
            size = np.sqrt(np.square(far).sum(-1) / MAPS)
            out[..., k] = np.copysign(size, off[..., 0])
        return out


def measured(
    maps_hu: Float[np.ndarray, "x y z k"],
    classes: UInt8[np.ndarray, "x y z"],
    places: UInt8[np.ndarray, "x y z"],
    keep: Bool[np.ndarray, "x y z"],
    voxel_ml: float,
    like: Calibration,
) -> Calibration:
    """The calibration from one healthy scan; keep: voxels to use (no known disease).

    like: provides region, method, weights and bins (see `empty`).
    """
    cell = (classes.astype(np.int64) * like.cells[1] + places)[keep]
    value = maps_hu[keep].astype(np.float64)
    count = like.cells[0] * like.cells[1]

    def add(*weights: Float[np.ndarray, " n"]) -> Cells:
        found = [np.bincount(cell, each * voxel_ml, minlength=count) for each in weights]
        return tuple(np.stack(found, -1).ravel().tolist())

    pairs = [value[:, i] * value[:, j] for i in range(MAPS) for j in range(MAPS)]
    sums = {"millilitres": add(np.ones(len(value))), "sums": add(*value.T), "products": add(*pairs)}
    return like.model_copy(update={**sums, "scans": 1})


def empty(
    region: str, method: AnomalyMethod, weights: str = "", bins: tuple[int, int, int] = (2, 2, 2)
) -> Calibration:
    """An empty calibration, as a template for `measured`."""
    none = (0.0,) * (CLASSES * int(np.prod(bins)))
    return Calibration(
        layout=LAYOUT,
        region=region,
        method=method,
        weights=weights,
        bins=bins,
        millilitres=none,
        sums=none * MAPS,
        products=none * MAPS**2,
    )


def merge(calibrations: Sequence[Calibration]) -> Calibration:
    """One calibration of all the scans; `InputError` where they are of different kinds."""
    ensure(calibrations, "no calibration to merge: give at least one")
    first = calibrations[0]
    for other in calibrations[1:]:
        for name in ("region", "method", "weights", "bins"):
            here, there = getattr(first, name), getattr(other, name)
            ensure(
                here == there,
                f"calibrations of different kinds cannot be merged: {name} is {here} in one and"
                f" {there} in another; create them again in one run",
            )

    def add(name: str) -> Cells:
        return tuple(np.sum([getattr(each, name) for each in calibrations], 0).tolist())

    names = ("millilitres", "sums", "products")
    scans = sum(each.scans for each in calibrations)
    patient = first.patient if {each.patient for each in calibrations} == {first.patient} else ""
    totals = {name: add(name) for name in names}
    return first.model_copy(update={**totals, "scans": scans, "patient": patient})


def write(calibration: Calibration, path: str | Path) -> None:
    """Write JSON, complete or not at all; `InputError` where the file cannot be written."""
    with user_output(path):
        write_file(path, calibration.model_dump_json() + "\n")


def read(path: str | Path) -> Calibration:
    """Read JSON; `InputError` where it is not a calibration, or has another version's cells."""
    try:
        found = Calibration.model_validate_json(Path(path).read_text())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror})") from None
    except (ValidationError, UnicodeDecodeError) as error:
        raise InputError(
            f"{path} is not a calibration ({line(error)}); create one with denovox calibrate"
        ) from None
    ensure(
        found.layout == LAYOUT,
        f"{path} was made by an earlier version of denovox, which divided tissues differently;"
        " create it again with denovox calibrate",
    )
    count = found.cells[0] * found.cells[1]
    for name, each in (("millilitres", 1), ("sums", MAPS), ("products", MAPS**2)):
        has = len(getattr(found, name))
        ensure(
            has == count * each,
            f"{path}: {name} has {has} numbers instead of {count * each}; create it again with"
            " denovox calibrate",
        )
    return found


def bundled(without: str = "", folder: Path | None = None) -> tuple[Calibration, ...]:
    """The calibrations bundled with denovox, one per region; their `weights` identify the model.

    without: a patient to leave out, whose scans can then be evaluated. folder: of other files.
    """
    folder = folder or Path(str(files("denovox"))) / "calibrations"
    by_region: dict[str, list[Calibration]] = {}
    for path in sorted(folder.glob("*.json")):
        part = read(path)
        if not without or part.patient != without:
            by_region.setdefault(part.region, []).append(part)
    return tuple(merge(parts) for parts in by_region.values())


# -- the cell of a voxel


def classes_of(
    estimate: Volume, coarse: UInt8[np.ndarray, "x y z"], airy: Bool[np.ndarray, "x y z"]
) -> UInt8[np.ndarray, "x y z"]:
    """Tissue class of every voxel, with rims separate, from the *healthy* estimate in HU.

    A lesion must not select what it is compared with. So the estimate is used, not the scan; and
    since the estimate keeps most of a nodule, all that the lung encloses is lung. airy: the lung,
    its airways, and what they enclose. coarse: core/labels ids; body is split by the estimate's HU.
    """
    spacing = estimate.spacing_mm
    steps = [SMOOTH_MM / mm for mm in spacing]
    hu = ndimage.gaussian_filter(estimate.hu.astype(np.float32), steps, mode="nearest")
    tissue = np.full(hu.shape, TISSUES.index("gas"), np.uint8)
    tissue[hu >= GAS_HU] = TISSUES.index("fat")
    tissue[hu >= FAT_HU] = TISSUES.index("soft")
    tissue[airy] = TISSUES.index("lung")
    tissue[coarse == BONE] = TISSUES.index("bone")
    tissue[coarse == OUTSIDE] = 0
    steps_in = [max(1, round(RIM_MM / mm)) for mm in spacing]
    size = tuple(2 * n + 1 for n in steps_in)
    rim = ndimage.minimum_filter(tissue, size) != ndimage.maximum_filter(tissue, size)
    return np.asarray(2 * tissue + rim, np.uint8)


def body_box(coarse: UInt8[np.ndarray, "x y z"]) -> Box:
    """The body's bounding box."""
    return bounding_box(coarse != OUTSIDE)


def places_of(body: Box, box: Box, bins: tuple[int, int, int]) -> UInt8[np.ndarray, "x y z"]:
    """Place of every voxel of a box, numbered x slowest: equal parts of the body's box."""
    place = np.zeros(box.size, np.uint8)
    for axis, parts in enumerate(bins):
        voxels = np.arange(box.start[axis], box.stop[axis])
        way = (voxels + 0.5 - body.start[axis]) / body.size[axis]
        number = np.clip((way * parts).astype(int), 0, parts - 1).astype(np.uint8)
        shape = [1, 1, 1]
        shape[axis] = -1
        place *= np.uint8(parts)
        place += number.reshape(shape)
    return place
