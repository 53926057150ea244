"""What the trials of lesions work with: scans that have some, scans with made ones, and a judge.

The judge is a small network, trained on patients other than the one whose scans it judges.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, UInt8
from pydantic import Field
from scipy import ndimage

from ...core.config import Settings
from ...core.errors import InputError, ensure
from ...core.regions import REGIONS
from ...core.volume import Volume
from ...datasets import store
from ...datasets.samples.batch import batches
from ...datasets.samples.choice import SampleConfig
from ...datasets.samples.control_inputs import ControlConfig
from ...datasets.samples.multilevel import sampler
from ...datasets.store import Case
from ...inference.options import RunOptions
from ...model.segmenter import Segmenter, SegmenterConfig, lesion_share
from ...simulate.lesion_placement import Wanted, place
from ...train.config import TrainConfig
from ...train.loop import train
from ...train.segmentation import predictor

Make = Callable[[Volume, UInt8[np.ndarray, "x y z"], int], Volume]
Remove = Callable[[Volume, Bool[np.ndarray, "x y z"], int], Volume]
Mask = Bool[np.ndarray, "x y z"]
Numbers = UInt8[np.ndarray, "x y z"]

LEAST_MM = 4.0  # no lesion is made smaller
SMALLER = 1.0, 0.7, 0.5  # of the size wanted, where it has no room
# Crops of the voxels as they are, since a scan is judged on its own grid.
SAMPLES = SampleConfig(
    levels=(0, 0, 1),
    zoom=(0.8, 1.25),
    shift_hu=20,
    gain=0.05,
    drop=0,
    control=ControlConfig(kind="lesion", on_lesion=0.7),
)


class LesionTrials(Settings):
    """How large a trial is, and what is made in it.

    folds: patients held out, one at a time, at most so many. steps, batch, lr, net: of each judge;
    seeds: judges trained for each fold, their figures averaged. copies: of each scan, with made
    lesions in them; lesions: in each copy, all of one size, drawn from the patient's own (others',
    where it has none) up to largest_mm. hosts: whose scans get them, those that have lesions or
    all. organs: where, by region. planted: entries of the store whose names end so hold lesions
    that are not real, and are left out. method: whose lesions these are.
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
    hosts: Literal["sick", "all"] = "sick"
    organs: dict[str, str] = Field(
        default={"headneck": "muscle", "chest": "lung", "abdomen": "liver"}
    )
    planted: str = "_planted"
    method: str = "denovox"


@dataclass(frozen=True)
class Sick:
    """A scan at full size. numbers: its connected lesions, from 1 on."""

    case: Case
    volume: Volume
    numbers: Numbers

    @property
    def diameters_mm(self) -> list[float]:
        """Of the ball of each lesion's volume."""
        return diameters_mm(self.numbers, self.volume.spacing_mm)


@dataclass(frozen=True)
class Copy:
    """A scan with made lesions, beside its own: a case to train on, and their numbers."""

    case: Case
    host: Case
    numbers: Numbers


@dataclass(frozen=True)
class Bench:
    """What every part of a trial is given. folder: for what is made on the way. tick: called when
    another part is done."""

    config: LesionTrials
    options: RunOptions
    folder: Path
    tick: Callable[[], None]

    def seed(self, *names: object) -> int:
        """One that depends on the trial's seed and these names, and on nothing else."""
        return zlib.crc32(" ".join(map(str, (self.options.seed, *names))).encode())


def cases_of(data: str | Path, config: LesionTrials) -> tuple[list[Case], list[Case]]:
    """(cases with real lesions, cases without any) of a store; `InputError` where fewer than two
    patients have some."""
    every = [
        case
        for case in store.cases(data)
        if not (config.planted and entry_of(case).endswith(config.planted))
    ]
    sick = [case for case in every if case.facts.lesions]
    patients = {case.facts.patient for case in sick}
    ensure(
        len(patients) >= 2,
        f"{data}: {len(patients)} patients have lesions, and two or more are needed, to train on"
        " some and judge another; make a store by `denovox prepare` of scans that have masks of"
        " lesions beside them (SCAN_lesion.nii.gz)",
    )
    return sick, [case for case in every if case.facts.patient not in patients]


def entry_of(case: Case) -> str:
    """The name of the scan that a case is a region of."""
    return case.facts.id.rsplit("/", 1)[0]


def read(case: Case) -> Sick:
    """A case with its lesions; `InputError` where they are in more than 255 pieces."""
    told = case.facts.affine
    affine = np.array(told, float).reshape(4, 4) if told else np.diag([*case.facts.spacing_mm, 1.0])
    volume = Volume(np.asarray(case.voxels()[...], np.float32), affine)
    if not case.facts.lesions:
        return Sick(case, volume, np.zeros(volume.shape, np.uint8))
    numbers, count = ndimage.label(np.asarray(case.voxels("lesion")[...]) > 0)
    told_count = f"{case.facts.id}: its lesions are in {count} pieces, and 255 are the most"
    ensure(count <= 255, f"{told_count}; smooth its mask")
    return Sick(case, volume, numbers.astype(np.uint8))


def diameters_mm(numbers: Numbers, spacing_mm: tuple[float, float, float]) -> list[float]:
    """Of the ball of each lesion's volume, in order of their numbers."""
    mm3 = np.bincount(numbers.ravel())[1:] * np.prod(spacing_mm)
    return [float((6 * each / np.pi) ** (1 / 3)) for each in mm3 if each]


def made(volume: Volume, numbers: Numbers, seed: int, make: Make) -> Volume:
    """What `make` gives; `InputError` where that is on another grid, or not finite."""
    result = make(volume, numbers, seed)
    fine = result.shape == volume.shape and np.isfinite(result.hu).all()
    ensure(fine, "what makes lesions gave another grid, or values that are no HU")
    return result


# ---- lesions where there were none --------------------------------------------------------------


def copy_of(sick: Sick, sizes_mm: Sequence[float], number: int, make: Make, bench: Bench) -> Copy:
    """Copy `number` of a scan, with lesions made away from its own; `InputError`: no room.

    It is kept as a case beside others in the bench's folder, so that a judge can train on it.
    """
    facts, config = sick.case.facts, bench.config
    seed = bench.seed(facts.id, number)
    rng = np.random.default_rng(seed)
    labels = np.asarray(sick.case.voxels("anatomy")[...])
    wanted_mm = min(float(rng.choice(sizes_mm)), config.largest_mm)
    organ = config.organs.get(facts.region, "")
    ensure(organ, f"organs names none for the region {facts.region}")
    numbers = _placed(sick, labels, Wanted(organ=organ, count=config.lesions), wanted_mm, seed)
    result = made(sick.volume, numbers, seed, make)
    hu = np.rint(np.clip(result.hu, -32768, 32767)).astype(np.int16)
    both = ((numbers > 0) | (sick.numbers > 0)).astype(np.uint8)
    name = f"{entry_of(sick.case)}_{facts.region}_made{number}"
    row = store.add(bench.folder, facts.model_copy(update={"id": name}), hu, labels, both)
    return Copy(Case(str(bench.folder), row), sick.case, numbers)


def _placed(sick: Sick, labels: Numbers, wanted: Wanted, diameter_mm: float, seed: int) -> Numbers:
    """Where they are to be; smaller, and then half as many, where there is no room for as many."""
    count = 2 * wanted.count
    while count > 1:
        count //= 2
        for share in SMALLER:
            mm = max(share * diameter_mm, LEAST_MM)
            asked = wanted.model_copy(update={"diameter_mm": mm, "count": count})
            try:
                return place(sick.volume, labels, asked, seed, sick.numbers > 0)[0]
            except InputError as error:
                why = error
    raise why


def cut_out(volume: Volume, hole: Mask) -> Volume:
    """The scan without what is in a hole: each voxel of it takes the nearest one outside."""
    _, index = ndimage.distance_transform_edt(hole, volume.spacing_mm, return_indices=True)
    return volume.with_hu(volume.hu[tuple(index)])


# ---- the judge ----------------------------------------------------------------------------------


def judge(cases: Sequence[Case], number: int, bench: Bench, name: str) -> Segmenter:
    """A segmenter trained on these cases. number: of its seed; the same steps, samples' numbers and
    fresh weights whatever the cases are. name: of its run, unlike any other's."""
    config = bench.config
    recipe = TrainConfig(
        steps=config.steps,
        samples=config.batch,
        batch=config.batch,
        lr=config.lr,
        warmup=min(20, config.steps),
        decay=0.4,
        weight_decay=0.01,
        ema=max(1.0, config.steps / 20),
    )
    seed = bench.seed("judge", number)
    torch.manual_seed(seed)
    net = Segmenter(config.net)
    parameters = dict(net.named_parameters())
    draw = batches(sampler(list(cases), SAMPLES, seed))
    for step in train(predictor(net), parameters, draw, recipe, bench.folder / f".runs-{name}"):
        average = step.average
    with torch.no_grad():
        for key, parameter in parameters.items():
            parameter.copy_(average[key])
    bench.tick()
    return net.eval()


def outline(net: Segmenter, volume: Volume, region: str) -> Mask:
    """What a judge takes for lesions."""
    return lesion_share(net, volume.hu, REGIONS[region]) > 0.5
