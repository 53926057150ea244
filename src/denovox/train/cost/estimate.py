"""What a training run costs, before it is started: FLOPs, memory, seconds a step, hours.

FLOPs and memory are counted (`counting.py`). Seconds are measured on this machine's CPU, by one
real step, and estimated for a GPU from its data sheet. `benchmarks/training_cost.py` compares all
of it with real runs on a CPU. Not included: drawing samples (threads do it meanwhile); validation;
torch.compile; on GPUs the launch of kernels, which bounds small batches, and communication.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch

from ...core.errors import InputError
from ...model.denoiser import use_bfloat16
from ..config import Recipe
from .counting import CPU_ALLOCATOR, GPU_ALLOCATOR, Work, count, time_step

Name = Literal["h200", "a100-80", "rtx3090", "cpu"]

# NVIDIA's data sheets (H200 SXM; A100 80 GB SXM; GA102 whitepaper, tensor cores, float32 sums), all
# without sparsity: FLOP/s of float32 convolutions (TensorFloat-32, torch's default), of bfloat16
# ones, and memory in bytes.
GPUS = {
    "h200": (494.5e12, 989.5e12, 141e9),
    "a100-80": (156e12, 312e12, 80e9),
    "rtx3090": (35.6e12, 71e12, 24e9),
}
EFFICIENCY = 0.15  # share of these FLOP/s that training reaches: assumed
TIMED_FLOPS = 3e11  # of the step that is timed on a CPU, at most: some seconds of one core


@dataclass(frozen=True)
class Cost:
    """A run on `gpus` devices of that name.

    source: where the seconds come from, for a reader. available: bytes of a device. batch_s:
    seconds of a batch, forward and backward; update_s: of what follows once a step.
    """

    recipe: Recipe
    name: Name
    source: str
    available: float
    gpus: int
    work: Work
    batch_s: float
    update_s: float

    @property
    def samples(self) -> int:
        """Of a step, on the device that has most of them."""
        return math.ceil(self.recipe.train.samples / self.gpus)

    @property
    def step_s(self) -> float:
        """Seconds of a step."""
        return self.batch_s * self.samples / self.work.batch + self.update_s

    @property
    def steps(self) -> int:
        """The recipe's, or those that its minutes are enough for."""
        train = self.recipe.train
        in_time = int(60 * train.minutes / self.step_s) if train.minutes else train.steps
        return min(in_time, train.steps or in_time)

    def memory(self, of: Work) -> float:
        """Bytes on each device at the peak of a step of such batches."""
        return of.memory(self.name != "cpu", self.gpus if self.recipe.train.shard else 1)


def work(recipe: Recipe, gpu: bool, gpus: int = 1) -> Work:
    """A batch's work; `InputError` where the network or the processes cannot share it so."""
    train, patch = recipe.train, recipe.data.sample.patch
    if gpus > train.samples:
        raise InputError(
            f"{gpus} GPUs cannot share {train.samples} samples per step: use fewer, or increase"
            " train.samples"
        )
    multiple = recipe.model.net.multiple
    if patch % multiple:
        raise InputError(f"data.sample.patch = {patch} must be a multiple of {multiple}")
    bfloat16 = train.precision != "float32" if gpu else use_bfloat16(train.precision, "cpu")
    mine = math.ceil(train.samples / gpus)
    return count(recipe, min(train.batch or mine, mine), patch, bfloat16, gpu)


def cost(
    recipe: Recipe, name: Name, gpus: int = 1, clock: Callable[[], float] = time.perf_counter
) -> Cost:
    """What the recipe's run costs on `gpus` such devices; "cpu" takes some seconds.

    clock: as `time_step` has it. `InputError` as `work` has it, and for several CPUs.
    """
    if gpus > 1 and name == "cpu":
        raise InputError("--gpus is for GPUs only; on a CPU, a run is a single process")
    one = work(recipe, name != "cpu", gpus)
    if name != "cpu":
        float32, bfloat16, memory = GPUS[name]
        seconds = one.flops / (EFFICIENCY * (bfloat16 if one.bfloat16 else float32))
        source = f"data sheet, {100 * EFFICIENCY:.0f} % of its FLOP/s assumed; never checked on one"
        return Cost(recipe, name, source, memory, gpus, one, seconds, 0.0)
    batch, patch = _timed_size(one, recipe.model.net.multiple)
    batch_s, update_s = time_step(recipe, batch, patch, clock)
    batch_s *= (one.batch / batch) * (one.patch / patch) ** 3
    source = f"a step of {batch} x {patch}^3 timed here, {torch.get_num_threads()} thread(s)"
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Cost(recipe, name, source, memory, 1, one, batch_s, update_s)


def _timed_size(one: Work, multiple: int) -> tuple[int, int]:
    """(samples, patch) of a step that is short enough to be timed.

    Two samples at least where there are more: torch may compute one by another algorithm.
    """
    batch, patch = one.batch, one.patch
    per_voxel = one.flops / (batch * patch**3)
    while per_voxel * batch * patch**3 > TIMED_FLOPS:
        if batch > 2:
            batch = max(2, batch // 2)
        elif patch % (2 * multiple) == 0 and patch > 2 * multiple:
            patch //= 2
        else:
            break
    return batch, patch


def advice(of: Cost) -> list[str]:
    """What to change so that memory suffices, the least first; empty where nothing we know does."""
    ways = []
    for checkpointing in sorted({of.recipe.train.checkpointing, True}):
        for patch in (of.work.patch, of.work.patch // 2, of.work.patch // 4):
            batch = _batch_that_fits(of, checkpointing, patch)
            changes = {
                f"data.sample.patch = {patch}": patch != of.work.patch,
                f"train.batch = {batch}": batch != of.work.batch,
                "train.checkpointing = true": checkpointing > of.recipe.train.checkpointing,
            }
            if batch:
                ways.append(" and ".join(words for words, is_new in changes.items() if is_new))
                break
    return ways


def _batch_that_fits(of: Cost, checkpointing: bool, patch: int) -> int:
    """Samples at a time, at most those of the recipe; 0 where not one fits."""
    multiple, gpu = of.recipe.model.net.multiple, of.name != "cpu"
    if patch < 2 * multiple or patch % multiple:
        return 0
    train = of.recipe.train.model_copy(update={"checkpointing": checkpointing})
    recipe = of.recipe.model_copy(update={"train": train})
    one = count(recipe, 1, patch, of.work.bfloat16, gpu)
    room = of.available - of.memory(one)
    # A sample more is a peak more, with the allocator's share and a tenth to spare.
    each = 1.1 * one.peak * (GPU_ALLOCATOR if gpu else CPU_ALLOCATOR)
    return min(of.work.batch, 1 + int(room / each)) if room >= 0 else 0


def summary(recipe: Recipe, name: Name, gpus: int = 1) -> list[str]:
    """`table` of the run's cost, which `cost` finds, with its errors."""
    return table(cost(recipe, name, gpus))


def table(of: Cost) -> list[str]:
    """Lines of plain text; the last says what to change where memory does not suffice."""
    one, memory = of.work, of.memory(of.work)
    forward, backward = (flops / one.batch / 1e12 for flops in (one.forward, one.backward))
    precision = "bfloat16 where autocast lets it" if one.bfloat16 else "float32"
    again = ", activations computed again" if of.recipe.train.checkpointing else ""
    several = f" x {of.gpus}" if of.gpus > 1 else ""
    parameters, trained = (f"{n / 1e6:.2f} M" for n in (one.parameters, one.trained))
    rows = {
        "recipe": of.recipe.name,
        "hardware": f"{of.name}{several}: {of.source}",
        "parameters": f"{parameters}, of which {trained} are trained",
        "batch": f"{one.batch} x {one.patch}^3, {precision}{again}",
        "TFLOP a sample": f"{_3(forward + backward)} ({_3(forward)} forward)",
        "GB a sample": f"{_3(one.saved / one.batch / 1e9)} of activations",
        "memory": f"{_3(memory / 1e9)} GB at the peak, of {of.available / 1e9:.0f}",
        "samples/s": _3(of.recipe.train.samples / of.step_s),
        "seconds a step": f"{_3(of.step_s)} ({of.samples} samples on each device)",
        "hours": f"{_3(of.steps * of.step_s / 3600)} for {of.steps} steps",
    }
    if memory > of.available:
        ways = "; or ".join(advice(of)) or "a smaller network; nothing else is small enough"
        rows["too little"] = f"memory is not enough. Set {ways}"
    return [f"{label:<16}{text}" for label, text in rows.items()]


def _3(value: float) -> str:
    """Three digits, without an exponent."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"
