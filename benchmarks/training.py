"""Samples a second of training: our loop against a plain one around the same MONAI network.

    python benchmarks/training.py [--data ../shared/ct] [--store .denovox/store] [SIZE ...]

A size is preset:BATCHxPATCH. Rows:
  ours           train/loop.py as a recipe runs it: samples of three levels from the store, drawn by
                 threads; conditions; channels last; bfloat16 where the hardware has it; AdamW,
                 clipping, averaged weights.
  ours, float32  the same, without bfloat16.
  plain          MONAI's DiffusionModelUNet of the same channels with its defaults, x alone as its
                 input; float32; Adam; DataLoader from NIfTI with MONAI's usual transforms, a random
                 crop of each scan.
  plain, cached  the same with a CacheDataset, filled beforehand: loading is not the difference.

All take turns, round after round, on the same machine; a round starts its loader anew and does not
count its first step. Samples a second: batch over the median of the rounds' seconds a step. Idle:
what was spent of that time waiting for samples. Memory at 128^3 is counted (train/cost);
`benchmarks/training_cost.py` holds such counts against what processes take.
"""

from __future__ import annotations

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from denovox.datasets import store
from denovox.datasets.samples.batch import batches
from denovox.datasets.samples.choice import SampleConfig
from denovox.datasets.samples.multilevel import sampler
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig, place
from denovox.train.config import DataConfig, Recipe, TrainConfig
from denovox.train.cost import estimate
from denovox.train.distributed import Group
from denovox.train.loop import Session, train
from denovox.train.loss import predictor

HU, MM = (-1000.0, 1000.0), 2.0
Timed = tuple[float, float]  # seconds a step, and of them spent waiting
Round = Callable[[int], Timed]


@dataclass(frozen=True)
class Size:
    """preset:BATCHxPATCH."""

    preset: str
    batch: int
    patch: int

    def recipe(self, precision: str, workers: int, checkpointing: bool = False) -> Recipe:
        """The recipe of this size."""
        train = {"steps": 10**6, "samples": self.batch, "batch": self.batch, "workers": workers}
        more = {"precision": precision, "checkpointing": checkpointing, "checkpoint_minutes": 1e6}
        return Recipe(
            name="benchmark",
            data=DataConfig(sample=SampleConfig(patch=self.patch)),
            model=ModelConfig(net=PRESETS[self.preset], patch=self.patch),
            train=TrainConfig.model_validate(train | more),
        )


def size(text: str) -> Size:
    """From the command line."""
    preset, of = text.split(":")
    batch, patch = map(int, of.split("x"))
    return Size(preset, batch, patch)


def ours(recipe: Recipe, cases: list[store.Case], device: str) -> Round:
    """Our loop; each round a run of its own, with the same network."""
    net = place(recipe.model.build(), device)
    predict = predictor(net, recipe.model, recipe.train, device)
    draw = batches(sampler(cases, recipe.data.sample, 0))
    session = Session(group=Group(device=device), net=net)

    def round_(steps: int) -> Timed:
        with tempfile.TemporaryDirectory() as folder:
            run = train(
                predict,
                dict(net.named_parameters()),
                draw,
                recipe.train,
                Path(folder),
                None,
                session,
            )
            with closing(run):
                first = next(run)
                for _ in range(steps):
                    last = next(run)
            took, waited = last.seconds - first.seconds, last.waited - first.waited
        return took / steps, waited / steps

    return round_


def scans(data: Path, cached: bool) -> torch.utils.data.Dataset:
    """Crops of all scans by MONAI's usual transforms; their size is set later."""
    from monai.data import CacheDataset, Dataset
    from monai.transforms import (
        Compose,
        EnsureChannelFirstd,
        LoadImaged,
        Orientationd,
        ScaleIntensityRanged,
        Spacingd,
    )

    files = [{"image": str(path)} for path in sorted(data.glob("*_ct.nii.gz"))]
    steps = Compose(
        [
            LoadImaged("image"),
            EnsureChannelFirstd("image"),
            Orientationd("image", axcodes="RAS", labels=None),
            Spacingd("image", pixdim=(MM,) * 3),
            ScaleIntensityRanged("image", *HU, -1.0, 1.0, clip=True),
        ]
    )
    if cached:
        return CacheDataset(files, steps, num_workers=1, progress=False)
    return Dataset(files, steps)


class Cropped(torch.utils.data.Dataset):
    """A data set with a random crop behind it."""

    def __init__(self, of: torch.utils.data.Dataset, patch: int) -> None:
        from monai.transforms import Compose, RandSpatialCropd, SpatialPadd

        edge = (patch,) * 3
        self.of = of
        self.crop = Compose([SpatialPadd("image", edge), RandSpatialCropd("image", edge)])

    def __len__(self) -> int:
        return len(self.of)  # type: ignore[arg-type]

    def __getitem__(self, n: int) -> Tensor:
        return self.crop(self.of[n])["image"].as_tensor()


def plain(of: Size, data: torch.utils.data.Dataset, workers: int, device: str) -> Round:
    """A plain loop, as tutorials have it."""
    from monai.networks.nets.diffusion_model_unet import DiffusionModelUNet
    from monai.networks.schedulers import DDPMScheduler
    from torch.utils.data import DataLoader, RandomSampler

    shape = PRESETS[of.preset]
    net = DiffusionModelUNet(
        spatial_dims=3,
        in_channels=1,
        out_channels=1,
        num_res_blocks=shape.res_blocks,
        channels=shape.channels,
        attention_levels=shape.attention,
        norm_num_groups=shape.groups,
        num_head_channels=shape.head_channels,
    ).to(device)
    optimizer = torch.optim.Adam(net.parameters(), lr=1e-4)
    schedule = DDPMScheduler(num_train_timesteps=1000)
    crops = Cropped(data, of.patch)

    def batches() -> Iterator[Tensor]:
        order = RandomSampler(crops, replacement=True, num_samples=10**6)
        yield from DataLoader(crops, of.batch, sampler=order, num_workers=workers)

    def step(x0: Tensor) -> None:
        x0 = x0.to(device)
        noise = torch.randn_like(x0)
        t = torch.randint(0, 1000, (len(x0),), device=device)
        said = net(schedule.add_noise(original_samples=x0, noise=noise, timesteps=t), timesteps=t)
        loss = F.l1_loss(said, noise)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        float(loss.detach())

    def round_(steps: int) -> Timed:
        with closing(batches()) as loader:
            step(next(loader))
            began, waited = time.perf_counter(), 0.0
            for _ in range(steps):
                asked = time.perf_counter()
                x0 = next(loader)
                waited += time.perf_counter() - asked
                step(x0)
            return (time.perf_counter() - began) / steps, waited / steps

    return round_


def memory() -> None:
    """What training the paper's network takes at 128^3, one sample at a time, as it is counted."""
    print("\nPaper's network, 1 x 128^3, counted (parameters, gradients, Adam, average: fixed):")
    print("| precision | activations | fixed GB | peak of a step GB | with overheads, on a GPU |")
    print("|---|---|---|---|---|")
    for precision in ("float32", "bfloat16"):
        for again in (False, True):
            work = estimate.work(Size("paper", 1, 128).recipe(precision, 1, again), gpu=True)
            total, needs = (work.fixed + work.peak) / 1e9, work.memory(gpu=True) / 1e9
            kept = "computed again" if again else "kept"
            print(f"| {precision} | {kept} | {work.fixed / 1e9:.2f} | {total:.2f} | {needs:.2f} |")


def main() -> None:
    gpu_here = torch.cuda.is_available()
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    usual = ["base:32x32", "paper:1x128"] if gpu_here else ["base:8x32", "paper:2x32"]
    parser.add_argument("sizes", nargs="*", default=usual)
    parser.add_argument("--data", type=Path, default=Path("../shared/ct"))
    parser.add_argument("--store", default=".denovox/store")
    parser.add_argument("--workers", type=int, default=2, help="of both sides")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="a round")
    told = parser.parse_args()
    device = "cuda" if gpu_here else "cpu"
    where = torch.cuda.get_device_name() if gpu_here else "CPU"
    print(f"{where}, {torch.get_num_threads()} threads, load {os.getloadavg()[0]:.1f};", end=" ")
    print(f"{told.workers} workers, {told.rounds} rounds of {told.steps} steps, wall time")
    cases = store.cases(told.store)
    began = time.perf_counter()
    loaded = scans(told.data, cached=True)
    print(f"filling the CacheDataset took {time.perf_counter() - began:.1f} s, not counted below\n")
    print("| size | loop | samples/s | times plain | times plain, cached | idle % | peak GB |")
    print("|---|---|---|---|---|---|---|")
    for text in told.sizes:
        of = size(text)
        sides = {
            "ours": ours(of.recipe("auto", told.workers), cases, device),
            "ours, float32": ours(of.recipe("float32", told.workers), cases, device),
            "plain": plain(of, scans(told.data, cached=False), told.workers, device),
            "plain, cached": plain(of, loaded, told.workers, device),
        }
        took: dict[str, list[Timed]] = {name: [] for name in sides}
        peaks = dict.fromkeys(sides, "-")
        for _ in range(told.rounds):
            for name, side in sides.items():
                if gpu_here:
                    torch.cuda.reset_peak_memory_stats()
                took[name].append(side(told.steps))
                if gpu_here:  # all four networks lie there meanwhile
                    peaks[name] = f"{torch.cuda.max_memory_allocated() / 1e9:.2f}"
        speed = {n: of.batch / statistics.median(s for s, _ in took[n]) for n in sides}
        for name in sides:
            idle = 100 * sum(w for _, w in took[name]) / sum(s for s, _ in took[name])
            ratios = (f"{speed[name] / speed[to]:.2f}" for to in ("plain", "plain, cached"))
            row = (text, name, f"{speed[name]:.3f}", *ratios, f"{idle:.1f}", peaks[name])
            print("| " + " | ".join(row) + " |", flush=True)
    memory()


if __name__ == "__main__":
    main()
