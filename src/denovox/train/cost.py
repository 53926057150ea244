"""What a training run would cost: FLOPs, memory, hours, from the recipe's own network.

The work is counted (`trace.py`), its speed is the hardware's (`hardware.py`);
`benchmarks/training_cost.py` measures how true the sum is on a CPU. Not counted: drawing samples,
which threads do meanwhile, validation, torch.compile, what several GPUs tell each other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ..core.errors import InputError
from ..model.denoiser import use_bfloat16
from .config import Recipe
from .hardware import Hardware, Name, cpu, gpu
from .trace import Work, trace


@dataclass(frozen=True)
class Cost:
    """A run on `gpus` devices. batch_s: forward and backward of a batch; update_s: the rest of a
    step. memory: bytes on each device at the peak of a step."""

    recipe: Recipe
    hardware: Hardware
    gpus: int
    work: Work
    batch_s: float
    update_s: float
    memory: float

    @property
    def step_s(self) -> float:
        """Seconds of a step, on the device that has most samples of it."""
        mine = math.ceil(self.recipe.train.samples / self.gpus)
        return self.batch_s * mine / self.work.batch + self.update_s

    @property
    def samples_per_s(self) -> float:
        """Of all devices together."""
        return self.recipe.train.samples / self.step_s

    @property
    def steps(self) -> int:
        """The recipe's, or those that its minutes are enough for."""
        train = self.recipe.train
        in_time = int(60 * train.minutes / self.step_s) if train.minutes else train.steps
        return min(in_time, train.steps or in_time)

    @property
    def hours(self) -> float:
        """Of all steps."""
        return self.steps * self.step_s / 3600

    @property
    def fits(self) -> bool:
        """Whether memory suffices."""
        return self.memory <= self.hardware.memory


def hardware(
    recipe: Recipe, name: Name, clock: Callable[[], float] = time.perf_counter
) -> Hardware:
    """A device of the table; "cpu" tries what this recipe's network does, for some seconds.

    clock: as `hardware.cpu` has it.
    """
    return cpu(_works(recipe), clock) if name == "cpu" else gpu(name)


def work(recipe: Recipe, on_gpu: bool, gpus: int = 1) -> Work:
    """A batch's work; `InputError` where the network or the processes cannot share it so."""
    train, patch = recipe.train, recipe.data.sample.patch
    if gpus > train.samples:
        raise InputError(
            f"{gpus} GPUs cannot share {train.samples} samples a step: take fewer, or raise"
            " train.samples"
        )
    multiple = recipe.model.net.multiple
    if patch % multiple:
        raise InputError(f"data.sample.patch = {patch} must be a multiple of {multiple}")
    bfloat16 = train.precision != "float32" if on_gpu else use_bfloat16(train.precision, "cpu")
    mine = math.ceil(train.samples / gpus)
    batch = min(train.batch or mine, mine)
    return trace(recipe, batch, patch, bfloat16, train.checkpointing, on_gpu)


def cost(recipe: Recipe, device: Hardware, gpus: int = 1) -> Cost:
    """What the recipe's run would cost on `gpus` such devices, each with its share of a step."""
    one = work(recipe, device.gpu, gpus)
    parts = gpus if recipe.train.shard else 1
    memory = device.needs(one) - one.fixed * (1 - 1 / parts)
    return Cost(recipe, device, gpus, one, device.seconds(one), device.update(one) / parts, memory)


def advice(cost_: Cost) -> list[str]:
    """What to change so that memory suffices, the least first; empty where nothing we know does."""
    recipe, device, gpus = cost_.recipe, cost_.hardware, cost_.gpus
    said = []
    patch, least = recipe.data.sample.patch, recipe.model.net.multiple
    for checkpointing in sorted({recipe.train.checkpointing, True}):
        for edge in (patch, patch // 2, patch // 4):
            if edge < 2 * least or edge % least:
                continue
            sample = recipe.data.sample.model_copy(update={"patch": edge})
            changed = _with(recipe, checkpointing, 1)
            data = recipe.data.model_copy(update={"sample": sample})
            tried = cost(changed.model_copy(update={"data": data}), device, gpus)
            if not tried.fits:
                continue
            room = (device.memory - tried.memory) / max(1, tried.work.peak)
            batch = min(cost_.work.batch, 1 + int(room / (1.1 * device.held)))
            words = [f"data.sample.patch = {edge}"] if edge != patch else []
            words += [f"train.batch = {batch}"] if batch != cost_.work.batch else []
            words += ["train.checkpointing = true"] * (checkpointing > recipe.train.checkpointing)
            said.append(" and ".join(words))
            break
    return said


def summary(recipe: Recipe, name: Name, gpus: int = 1) -> list[str]:
    """The run's cost as lines of a plain table; "cpu" takes some seconds to try this machine."""
    if gpus > 1 and name == "cpu":
        raise InputError("--gpus is of GPUs; on a CPU a run is one process")
    return table(cost(recipe, hardware(recipe, name), gpus))


def table(of: Cost) -> list[str]:
    """`summary` of a cost that is known."""
    work_, device = of.work, of.hardware
    per = 1 / work_.batch
    forward, backward = work_.flops(True) * per / 1e12, work_.flops(False) * per / 1e12
    precision = "bfloat16 where autocast lets it" if work_.bfloat16 else "float32"
    again = ", activations computed again" if of.recipe.train.checkpointing else ""
    several = f" x {of.gpus}" if of.gpus > 1 else ""
    mine = math.ceil(of.recipe.train.samples / of.gpus)
    rows = [
        ("recipe", of.recipe.name),
        ("hardware", f"{device.name}{several}: {device.said}"),
        ("parameters", f"{_count(work_.parameters)}, of which {_count(work_.trained)} are trained"),
        ("batch", f"{work_.batch} x {work_.patch}^3, {precision}{again}"),
        ("TFLOP a sample", f"{_3(forward + backward)} ({_3(forward)} forward)"),
        ("GB a sample", f"{_3(work_.saved * per / 1e9)} of activations"),
        ("memory", f"{_3(of.memory / 1e9)} GB at the peak, of {device.memory / 1e9:.0f}"),
        ("samples/s", f"{_3(of.samples_per_s)}"),
        ("seconds a step", f"{_3(of.step_s)} ({mine} samples on each device)"),
        ("hours", f"{_3(of.hours)} for {of.steps} steps"),
    ]
    lines = [f"{label:<16}{said}" for label, said in rows]
    if not of.fits:
        ways = advice(of)
        told = "; or ".join(ways) if ways else "a smaller network; nothing else is small enough"
        lines.append(f"{'too little':<16}memory does not suffice. Set {told}")
    return lines


def _works(recipe: Recipe) -> Iterator[Work]:
    """The recipe's batch, then ever smaller ones; not one sample for several, which torch may
    compute by another algorithm."""
    now = recipe
    while True:
        one = work(now, on_gpu=False)
        yield one
        patch, least = now.data.sample.patch, now.model.net.multiple
        if one.batch > 2:
            now = _with(now, now.train.checkpointing, 2)
        elif patch // 2 >= 2 * least and patch // 2 % least == 0:
            sample = now.data.sample.model_copy(update={"patch": patch // 2})
            data = now.data.model_copy(update={"sample": sample})
            now = now.model_copy(update={"data": data})
        else:
            return


def _with(recipe: Recipe, checkpointing: bool, batch: int) -> Recipe:
    train = recipe.train.model_copy(update={"checkpointing": checkpointing, "batch": batch})
    return recipe.model_copy(update={"train": train})


def _count(parameters: int) -> str:
    return f"{parameters / 1e6:.2f} M"


def _3(value: float) -> str:
    """Three digits, without an exponent."""
    digits = max(0, 2 - math.floor(math.log10(value))) if value > 0 else 0
    return f"{value:.{digits}f}"
