"""What an ablation measures of a model: the error of its x0, and samples made from anatomy.

Training losses with different targets and weights cannot be compared. Errors are therefore those
of x0, on fixed boxes of held-out patients, with fixed noise at fixed levels. Samples are drawn from
the label maps of fixed boxes as well, and are compared with the scans of those boxes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool, Float
from pydantic import Field
from torch import Tensor

from ...core.condition import batch
from ...core.config import Settings
from ...core.labels import ID, NAMES, path
from ...core.random_field import field
from ...core.regions import REGIONS
from ...datasets.samples.batch import Sample
from ...datasets.samples.choice import SampleConfig, in_turn
from ...datasets.samples.multilevel import sample, sampler
from ...datasets.store import Case
from ...metrics.lesions import dice
from ...metrics.set_distance import frechet
from ...metrics.texture import texture
from ...model.denoiser import Denoiser
from ...model.segmenter import Segmenter, SegmenterConfig
from ...model.weights import ModelConfig
from ...sampling.corrections import clip
from ...sampling.sampler import ddim
from ...tasks import Task
from ...train.segmentation import train_segmenter
from .table import LEVELS, Figures

WINDOWS = {region.id: region.window for region in REGIONS.values()}
TOGETHER = 4  # boxes evaluated in one batch


class Measures(Settings):
    """How much is measured.

    boxes: of each level; sigmas: noise levels at which the error of x0 is measured. evaluations: of
    DPM-Solver++(2M) for a sample, evenly in timestep (the paper's spacing), from sigma 80 or, with
    zero terminal SNR, from the schedule's end. reference: real boxes of each level that samples are
    compared with. groups: classes that are segmented, each by a network of its own, trained for
    judge_steps of judge_batch crops.
    """

    boxes: int = Field(10, ge=2)
    sigmas: tuple[float, ...] = (0.1, 0.4, 1.6, 6.4)
    evaluations: int = Field(10, ge=1)
    reference: int = Field(32, ge=2)
    groups: tuple[str, ...] = ("lung", "bone")
    judge: SegmenterConfig = SegmenterConfig(channels=(8, 16, 32))
    judge_steps: int = Field(400, ge=1)
    judge_batch: int = Field(4, ge=1)


@dataclass(frozen=True)
class Bench:
    """What every model is measured against. boxes: of all levels, in order; real: figures of those
    boxes in the scans themselves; reference: texture of other real boxes without constant features,
    divided by `scale`.
    """

    measures: Measures
    boxes: list[Sample]
    judges: dict[str, Segmenter]
    reference: Float[np.ndarray, "n f"]
    scale: Float[np.ndarray, " g"]
    real: Figures
    device: str


def bench_of(
    training: list[Case],
    held: list[Case],
    patch: int,
    measures: Measures,
    folder: Path,
    device: str = "cpu",
) -> Bench:
    """Fixed boxes of the held-out cases, and segmenters trained on the others; always the same."""
    boxes = boxes_of(held, patch, measures.boxes, 0)
    judges = {group: judge(training, patch, group, measures, folder) for group in measures.groups}
    others = boxes_of(held, patch, measures.reference, 1)
    raw = textures(torch.cat([s.x0 for s in others]), others)
    scale = raw.std(0)
    scale[scale <= 1e-9 * np.abs(raw).max(0)] = 0  # one value, up to rounding
    x0 = torch.cat([s.x0 for s in boxes])
    reference = _scaled(raw, scale)
    real = Figures(
        realism=frechet(reference, _scaled(textures(x0, boxes), scale)),
        dice={group: group_dice(net, group, x0, boxes) for group, net in judges.items()},
    )
    return Bench(measures, boxes, judges, reference, scale, real, device)


def measure(model: tuple[Denoiser, ModelConfig], bench: Bench) -> Figures:
    """The figures of a model."""
    denoise, config = model
    l1, l2 = errors(denoise, bench)
    made = samples(denoise, config, bench)
    return Figures(
        l1=l1,
        l2=l2,
        realism=frechet(bench.reference, _scaled(textures(made, bench.boxes), bench.scale)),
        dice={
            group: group_dice(net, group, made, bench.boxes) for group, net in bench.judges.items()
        },
    )


# ---- boxes --------------------------------------------------------------------------------------


def boxes_of(held: Sequence[Case], patch: int, count: int, stream: int) -> list[Sample]:
    """`count` boxes of each level, of the cases in turn, half of them mirrored."""
    found = []
    for level in range(len(LEVELS)):
        whole, double, crop = (float(level == other) for other in range(len(LEVELS)))
        config = SampleConfig(patch=patch, levels=(whole, double, crop), mirror=0, drop=0)
        for n, case in enumerate(in_turn(held, config, count)):
            mirrored = config.model_copy(update={"mirror": n // len(held) % 2})
            rng = np.random.default_rng([stream, level, n])
            found.append(sample(case, mirrored, rng))
    return found


def inside(labels: Tensor, group: str) -> Bool[Tensor, "b x y z"]:
    """Where a label map (b x y z) names the class `group`, or a finer one of it."""
    of_it = torch.tensor([group in path(name) for name in NAMES])
    return of_it[labels.long()]


# ---- errors of x0 -------------------------------------------------------------------------------


@torch.no_grad()
def errors(
    denoise: Denoiser, bench: Bench
) -> tuple[dict[str, dict[str, float]], dict[str, dict[str, float]]]:
    """(mean absolute, root mean square) error of x0, by level and sigma."""
    l1: dict[str, dict[str, float]] = {}
    l2: dict[str, dict[str, float]] = {}
    for number, level in enumerate(LEVELS):
        mine = [box for box in bench.boxes if box.level == number]
        x0, noise = (torch.cat([getattr(s, name) for s in mine]) for name in ("x0", "noise"))
        l1[level], l2[level] = {}, {}
        for sigma in bench.measures.sigmas:

            def ask(x: Tensor, some: list[Sample], sigma: float = sigma) -> Tensor:
                conditions = batch([s.condition for s in some]).to(bench.device)
                return denoise(x.to(bench.device), sigma, conditions).clamp(-1, 1).cpu()

            wrong = _in_parts(ask, x0 + sigma * noise, mine) - x0
            l1[level][str(sigma)] = float(wrong.abs().mean())
            l2[level][str(sigma)] = float(wrong.square().mean().sqrt())
    return l1, l2


def _in_parts(
    ask: Callable[[Tensor, list[Sample]], Tensor], x: Tensor, boxes: list[Sample]
) -> Float[Tensor, "b 1 x y z"]:
    parts = range(0, len(boxes), TOGETHER)
    return torch.cat([ask(x[i : i + TOGETHER], boxes[i : i + TOGETHER]) for i in parts])


# ---- samples from anatomy -----------------------------------------------------------------------


@torch.no_grad()
def samples(denoise: Denoiser, config: ModelConfig, bench: Bench) -> Float[Tensor, "b 1 x y z"]:
    """A sample from the conditions of each box (Method 4), model units, each from its own noise."""
    schedule = config.noise_schedule
    start = float(schedule.sigmas[-1]) if schedule.zero_snr else 80.0
    sigmas = schedule.descend(bench.measures.evaluations, "uniform", start=start)
    shape = bench.boxes[0].x0.shape[2:]
    white = [field(n, (shape[0], shape[1], shape[2])) for n in range(len(bench.boxes))]

    def make(x: Tensor, some: list[Sample]) -> Tensor:
        conditions = batch([s.condition for s in some]).to(bench.device)
        task = Task(x.to(bench.device), sigmas, clip, ddim, order=2)
        return task.run(lambda x, sigma: denoise(x, sigma, conditions), lambda stream: x).cpu()

    noise = torch.cat([each(0) for each in white])
    return _in_parts(make, sigmas[0] * noise, bench.boxes).clamp(-1, 1)


def textures(x0: Float[Tensor, "b 1 x y z"], boxes: Sequence[Sample]) -> Float[np.ndarray, "b f"]:
    """Texture features of crops, each in its region's window, over all voxels."""
    rows = []
    for unit, box in zip(x0[:, 0].numpy(), boxes, strict=True):
        window = WINDOWS[int(box.condition.region)]
        rows.append(texture(window.hu(unit), window, np.ones(unit.shape, bool)))
    return np.stack(rows)


def _scaled(
    raw: Float[np.ndarray, "b f"], scale: Float[np.ndarray, " f"]
) -> Float[np.ndarray, "b g"]:
    return raw[:, scale > 0] / scale[scale > 0]


# ---- segmenters ---------------------------------------------------------------------------------


def judge(
    training: list[Case], patch: int, group: str, measures: Measures, folder: Path
) -> Segmenter:
    """A segmenter of one group, trained on real samples of every level."""
    draw = sampler(training, SampleConfig(patch=patch, zoom=(0.8, 1.25), drop=0), ID[group])

    def with_mask(n: int) -> Sample:
        one = draw(n)
        mask = inside(one.condition.anatomy, group)[:, None].float()
        return replace(one, condition=replace(one.condition, control=mask))

    steps, batch = measures.judge_steps, measures.judge_batch
    return train_segmenter(measures.judge, with_mask, folder / group, ID[group], steps, batch)


@torch.no_grad()
def group_dice(net: torch.nn.Module, group: str, x0: Tensor, boxes: list[Sample]) -> float:
    """Dice of a segmenter's mask of x0 and the labels of its boxes, over all voxels of all boxes.

    1 where both are empty.
    """

    def ask(x: Tensor, some: list[Sample]) -> Tensor:
        return net(x, torch.cat([s.condition.region for s in some]))

    mask = _in_parts(ask, x0, boxes)[:, 0] > 0
    truth = inside(torch.cat([s.condition.anatomy for s in boxes]), group)
    return dice(mask.numpy(), truth.numpy()) if mask.any() or truth.any() else 1.0
