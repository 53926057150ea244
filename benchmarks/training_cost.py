"""How true the cost of training is that `denovox plan` counts: predicted against measured steps.

    OMP_NUM_THREADS=1 python benchmarks/training_cost.py [--rounds 3] [--clock process] [CASE ...]

A case is preset:BATCHxPATCH, with :float32, and :again for activations computed again. Measured is
the step of train/loop.py: the loss, backward, clipping, AdamW and the average, on samples drawn at
random. Hardware is tried before each round and steps are taken after, so that other programs on
the machine disturb both alike; the median of each counts. --clock process: seconds of the processor
that this process had (one thread!), where others run; wall: of the clock. Memory is the process's
at its peak, in a process of its own, against what is counted.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor

from denovox.core.condition import condition
from denovox.core.memory import resident_mb
from denovox.datasets.samples.batch import Sample, collate
from denovox.datasets.samples.choice import SampleConfig
from denovox.model.activation_checkpointing import recompute
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig, place
from denovox.train import cost
from denovox.train.config import DataConfig, Recipe, TrainConfig
from denovox.train.hardware import CPU_ALLOCATOR, CPU_KEPT
from denovox.train.loss import predictor
from denovox.train.run_state import RunState

CASES = (
    "tiny:4x16",
    "base:8x32",
    "base:1x64",
    "base:8x32:float32",
    "paper:1x32",
    "paper:1x48",
    "paper:2x32:float32",
    "base:8x32:again",
)
CLOCKS: dict[str, Callable[[], float]] = {"process": time.process_time, "wall": time.perf_counter}


def recipe(case: str) -> Recipe:
    """The recipe of a case."""
    preset, size, *more = case.split(":")
    batch, patch = map(int, size.split("x"))
    return Recipe(
        name=case,
        data=DataConfig(sample=SampleConfig(patch=patch)),
        model=ModelConfig(net=PRESETS[preset], patch=patch),
        train=TrainConfig(
            steps=1,
            samples=batch,
            batch=batch,
            precision="float32" if "float32" in more else "auto",
            checkpointing="again" in more,
        ),
    )


def step_of(of: Recipe) -> Callable[[], None]:
    """One step of training, as train/loop.py has it, without drawing its samples."""
    net = place(of.model.build(), "cpu")
    if of.train.checkpointing:
        recompute(net)
    parameters = dict(net.named_parameters())
    state = RunState(parameters, of.train)
    predict = predictor(net, of.model, of.train)
    patch = of.data.sample.patch

    def noise() -> Tensor:
        return torch.randn(1, 1, patch, patch, patch)

    told = condition((patch,) * 3, (1.0, 1.0, 1.0), 1)
    samples = collate(
        [Sample(noise().clamp(-1, 1), noise(), 0.5, told, 2) for _ in range(of.train.batch)]
    )

    def step() -> None:
        state.zero_grad()
        loss = predict(samples).sum() / of.train.batch
        torch.autograd.backward(loss)
        norm = torch.nn.utils.clip_grad_norm_(parameters.values(), of.train.clip)
        not_finite = 1 - (torch.isfinite(loss.detach()) & torch.isfinite(norm)).float()
        state.update(of.train.lr, not_finite)
        float(not_finite)
        state.ema.update(1)

    return step


def grown_gb(case: str) -> float | None:
    """What two steps take in a process of its own, GB; None where torch's import took more."""
    done = subprocess.run(
        [sys.executable, __file__, "--memory", case], capture_output=True, check=True, text=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def highest() -> float:
    """The most this process has held, GB (Linux; getrusage would tell of the parent's, too)."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="process")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    told = parser.parse_args()
    if told.memory:
        step_of(recipe("tiny:1x8"))()  # what is imported, is
        before, highest_before = resident_mb() / 1e3, highest()
        step = step_of(recipe(told.memory))
        step()
        step()
        grew = highest() > highest_before + 0.01
        print(json.dumps(highest() - before if grew else None))
        return
    clock = CLOCKS[told.clock]
    print(f"{torch.get_num_threads()} thread(s), {told.clock} seconds, median of {told.rounds}")
    print("| case | predicted s | measured s | ratio | counted GB | measured GB | ratio |")
    print("|---|---|---|---|---|---|---|")
    for case in told.cases:
        row = timed(recipe(case), told.rounds, clock)
        work = cost.work(recipe(case), on_gpu=False)
        held = min(CPU_ALLOCATOR * work.peak, work.peak + CPU_KEPT)
        counted = (work.fixed + held) / 1e9
        grown = None if told.no_memory else grown_gb(case)
        memory = f" {counted:.2f} | " + (
            f"{grown:.2f} | {counted / grown:.2f}" if grown else "- | -"
        )
        print(f"| {case} | {row[0]:.3f} | {row[1]:.3f} | {row[0] / row[1]:.2f} |{memory} |")
        sys.stdout.flush()


def timed(of: Recipe, rounds: int, clock: Callable[[], float]) -> tuple[float, float]:
    """(predicted, measured) seconds of a step, the median of some rounds."""
    step = step_of(of)
    step()  # warms up, and makes the optimizer's state
    predicted, measured = [], []
    for _ in range(rounds):
        predicted.append(cost.cost(of, cost.hardware(of, "cpu", clock)).step_s)
        for _ in range(2):
            began = clock()
            step()
            measured.append(clock() - began)
    return statistics.median(predicted), statistics.median(measured)


if __name__ == "__main__":
    main()
