"""What a lesion study works with: scans with real lesions, with synthetic ones, and a segmenter.

The segmenter is a small network, trained on patients other than the one whose scans it is given.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np
from jaxtyping import Bool, UInt8
from pydantic import Field
from scipy import ndimage

from ...core.config import Settings
from ...core.errors import InputError, ensure
from ...core.regions import REGIONS
from ...core.volume import Volume
from ...datasets import store
from ...datasets.samples.choice import SampleConfig
from ...datasets.samples.control_inputs import ControlConfig
from ...datasets.samples.multilevel import sampler
from ...datasets.store import Case
from ...inference.options import RunOptions
from ...model.segmenter import Segmenter, SegmenterConfig, lesion_share
from ...simulate.lesion_placement import LesionRequest, place
from ...train.segmentation import train_segmenter

Add = Callable[[Volume, UInt8[np.ndarray, "x y z"], int], Volume]
Remove = Callable[[Volume, Bool[np.ndarray, "x y z"], int], Volume]
Mask = Bool[np.ndarray, "x y z"]
Numbers = UInt8[np.ndarray, "x y z"]

LEAST_MM = 4.0  # synthetic lesions are not smaller
SMALLER = 1.0, 0.7, 0.5  # of the size wanted, where it has no room
# Crops on the scan's own grid, since whole scans are segmented on it.
SAMPLES = SampleConfig(
    levels=(0, 0, 1),
    zoom=(0.8, 1.25),
    shift_hu=20,
    gain=0.05,
    drop=0,
    control=ControlConfig(kind="lesion", on_lesion=0.7),
)


class LesionStudyConfig(Settings):
    """How large a study is, and what is synthesized in it.

    folds: patients held out, one at a time, at most so many. steps, batch, lr, net: of each
    segmenter; seeds: segmenters trained for each fold, their figures averaged. copies: of each
    scan, with synthetic lesions in them; lesions: in each copy, all of one size, drawn from the
    patient's own (others', where it has none) up to largest_mm. hosts: whose scans get them, those
    with lesions or all. organs: where, by region. planted: entries of the store whose names end so
    have lesions that are not real, and are left out. method: its name in the table.
    """

    folds: int = Field(3, ge=1)
    steps: int = Field(300, ge=1)
    batch: int = Field(4, ge=1)
    lr: float = Field(5e-3, gt=0)
    net: SegmenterConfig = SegmenterConfig()
    seeds: int = Field(2, ge=1)
    copies: int = Field(1, ge=1)
    lesions: int = Field(3, ge=1, le=255)
    largest_mm: float = Field(30, ge=LEAST_MM)
    hosts: Literal["with lesions", "all"] = "with lesions"
    organs: dict[str, str] = Field(
        default={"headneck": "muscle", "chest": "lung", "abdomen": "liver"}
    )
    planted: str = "_planted"
    method: str = "denovox"


@dataclass(frozen=True)
class LesionCase:
    """A scan at full size. numbers: its connected lesions, from 1 on."""

    case: Case
    volume: Volume
    numbers: Numbers

    @property
    def diameters_mm(self) -> list[float]:
        """Of the ball of each lesion's volume."""
        return diameters_mm(self.numbers, self.volume.spacing_mm)


@dataclass(frozen=True)
class AugmentedCase:
    """A scan with synthetic lesions besides its own: a case to train on, and their numbers."""

    case: Case
    host: Case
    numbers: Numbers


@dataclass(frozen=True)
class StudyContext:
    """What is the same for every part of a study. folder: for intermediate files. tick: called
    when another part is done."""

    config: LesionStudyConfig
    options: RunOptions
    folder: Path
    tick: Callable[[], None]

    def seed(self, *names: object) -> int:
        """One that depends on the study's seed and these names alone."""
        return zlib.crc32(" ".join(map(str, (self.options.seed, *names))).encode())

    def with_parts(self, count: int) -> StudyContext:
        """The same, with a `tick` that reports the share of `count` parts."""
        done = itertools.count(1)
        return replace(self, tick=lambda: self.options.progress(next(done) / count))


def cases_of(data: str | Path, config: LesionStudyConfig) -> tuple[list[Case], list[Case]]:
    """(cases with real lesions, cases without any) of a store; `InputError` where fewer than two
    patients have some."""
    every = [
        case
        for case in store.cases(data)
        if not (config.planted and entry_of(case).endswith(config.planted))
    ]
    lesions = [case for case in every if case.facts.lesions]
    patients = {case.facts.patient for case in lesions}
    ensure(
        len(patients) >= 2,
        f"{data}: {len(patients)} patients have lesions, and two or more are needed, to train on"
        " some and hold out another; write a store with `denovox prepare` from scans that have"
        " masks of lesions beside them (SCAN_lesion.nii.gz)",
    )
    return lesions, [case for case in every if case.facts.patient not in patients]


def entry_of(case: Case) -> str:
    """The name of the scan that a case is a region of."""
    return case.facts.id.rsplit("/", 1)[0]


def read(case: Case) -> LesionCase:
    """A case with its lesions; `InputError` where they are in more than 255 pieces."""
    flat = case.facts.affine
    affine = np.array(flat, float).reshape(4, 4) if flat else np.diag([*case.facts.spacing_mm, 1.0])
    volume = Volume(np.asarray(case.voxels()[...], np.float32), affine)
    if not case.facts.lesions:
        return LesionCase(case, volume, np.zeros(volume.shape, np.uint8))
    numbers, count = ndimage.label(np.asarray(case.voxels("lesion")[...]) > 0)
    pieces = f"{case.facts.id}: its lesions are in {count} pieces, and 255 are the most"
    ensure(count <= 255, f"{pieces}; smooth its mask")
    return LesionCase(case, volume, numbers.astype(np.uint8))


def diameters_mm(numbers: Numbers, spacing_mm: tuple[float, float, float]) -> list[float]:
    """Of the ball of each lesion's volume, in order of their numbers."""
    mm3 = np.bincount(numbers.ravel())[1:] * np.prod(spacing_mm)
    return [float((6 * each / np.pi) ** (1 / 3)) for each in mm3 if each]


def synthesized(volume: Volume, numbers: Numbers, seed: int, add: Add) -> Volume:
    """The result of `add`; `InputError` where it is on another grid, or not finite."""
    result = add(volume, numbers, seed)
    fine = result.shape == volume.shape and np.isfinite(result.hu).all()
    ensure(fine, "the method returned another grid, or values that are not finite")
    return result


# ---- lesions where there were none --------------------------------------------------------------


def augmented_case(
    host: LesionCase, sizes_mm: Sequence[float], number: int, add: Add, study: StudyContext
) -> AugmentedCase:
    """Copy `number` of a scan, with lesions added away from its own; `InputError`: no room.

    It is stored as a case in the study's folder, so that a segmenter can train on it.
    """
    facts, config = host.case.facts, study.config
    seed = study.seed(facts.id, number)
    rng = np.random.default_rng(seed)
    labels = np.asarray(host.case.voxels("anatomy")[...])
    wanted_mm = min(float(rng.choice(sizes_mm)), config.largest_mm)
    organ = config.organs.get(facts.region, "")
    ensure(organ, f"organs names none for the region {facts.region}")
    numbers = _placed(
        host, labels, LesionRequest(organ=organ, count=config.lesions), wanted_mm, seed
    )
    result = synthesized(host.volume, numbers, seed, add)
    hu = np.rint(np.clip(result.hu, -32768, 32767)).astype(np.int16)
    both = ((numbers > 0) | (host.numbers > 0)).astype(np.uint8)
    name = f"{entry_of(host.case)}_{facts.region}_synthetic{number}"
    row = store.add(study.folder, facts.model_copy(update={"id": name}), hu, labels, both)
    return AugmentedCase(Case(str(study.folder), row), host.case, numbers)


def _placed(
    host: LesionCase, labels: Numbers, wanted: LesionRequest, diameter_mm: float, seed: int
) -> Numbers:
    """Their numbered masks; smaller, and then half as many, where there is no room for as many."""
    count = 2 * wanted.count
    while count > 1:
        count //= 2
        for share in SMALLER:
            mm = max(share * diameter_mm, LEAST_MM)
            asked = wanted.model_copy(update={"diameter_mm": mm, "count": count})
            try:
                return place(host.volume, labels, asked, seed, host.numbers > 0)[0]
            except InputError as error:
                why = error
    raise why


def cut_out(volume: Volume, hole: Mask) -> Volume:
    """The scan without what is in a hole: each voxel of it takes the nearest one outside."""
    _, index = ndimage.distance_transform_edt(hole, volume.spacing_mm, return_indices=True)
    return volume.with_hu(volume.hu[tuple(index)])


# ---- the segmenter ------------------------------------------------------------------------------


def trained_segmenter(
    cases: Sequence[Case], number: int, study: StudyContext, name: str
) -> Segmenter:
    """A segmenter trained on these cases. number: of its seed; steps, samples' numbers and first
    weights do not depend on the cases. name: of its run, unique."""
    config, seed = study.config, study.seed("judge", number)  # a name that earlier results had
    draw, folder = sampler(list(cases), SAMPLES, seed), study.folder / f".runs-{name}"
    net = train_segmenter(config.net, draw, folder, seed, config.steps, config.batch, config.lr)
    study.tick()
    return net


def outline(net: Segmenter, volume: Volume, region: str) -> Mask:
    """The segmenter's mask of lesions."""
    return lesion_share(net, volume.hu, REGIONS[region]) > 0.5
