"""How well `denovox plan` foresees training on a CPU: estimated against measured steps.

    OMP_NUM_THREADS=1 python benchmarks/training_cost.py [--rounds 3] [--clock process] [CASE ...]

A case is preset:BATCHxPATCH, with :float32, and :again for activations computed again. Measured is
the step of train/loop.py: the loss, backward, clipping, AdamW and the average, on random samples.
An estimate and two steps take turns, so that other programs on the machine disturb both alike; the
median of each counts. An estimate of a small case times such a step itself; of a large case (more
than `TIMED_FLOPS`) a smaller one, which is what is tested then. --clock process: seconds of
the processor that this process had (one thread!), where others run; wall: of the clock. Memory is
that of a process of its own at its peak, without what it had before the step.
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

from denovox.core.condition import condition
from denovox.core.process import resident_mb
from denovox.datasets.samples.batch import Sample, collate
from denovox.datasets.samples.choice import SampleConfig
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.train.config import DataConfig, Recipe, TrainConfig
from denovox.train.cost import counting, estimate
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
    net, patch = counting.network(of, fast=True), of.data.sample.patch
    parameters = dict(net.named_parameters())
    state, predict = RunState(parameters, of.train), predictor(net, of.model, of.train)
    known = condition((patch,) * 3, (1.0, 1.0, 1.0), 1)
    x0, noise = torch.randn(2, of.train.batch, 1, 1, patch, patch, patch).unbind()
    samples = collate(
        [Sample(x.clamp(-1, 1), n, 0.5, known, 2) for x, n in zip(x0, noise, strict=True)]
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


def print_memory(case: str) -> None:
    """`grown_gb`, in that process."""
    step_of(recipe("tiny:1x8"))()  # imports whatever a step imports
    before, highest_before = resident_mb() / 1e3, highest()
    step = step_of(recipe(case))
    step()
    step()
    print(json.dumps(highest() - before if highest() > highest_before + 0.01 else None))


def highest() -> float:
    """The most this process has held, GB (Linux; getrusage would count the parent's, too)."""
    status = Path("/proc/self/status").read_text()
    return float(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e9


def timed(of: Recipe, rounds: int, clock: Callable[[], float]) -> tuple[float, float]:
    """(estimated, measured) seconds of a step, the median of some rounds."""
    step = step_of(of)
    step()  # warms up, and allocates the optimizer's state
    estimated, measured = [], []
    for _ in range(rounds):
        estimated.append(estimate.cost(of, "cpu", clock=clock).step_s)
        for _ in range(2):
            began = clock()
            step()
            measured.append(clock() - began)
    return statistics.median(estimated), statistics.median(measured)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("cases", nargs="*", default=CASES)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--clock", choices=sorted(CLOCKS), default="process")
    parser.add_argument("--no-memory", action="store_true")
    parser.add_argument("--memory", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory:
        print_memory(options.memory)
        return
    threads, clock = torch.get_num_threads(), options.clock
    print(f"{threads} thread(s), {clock} seconds, median of {options.rounds}")
    print("| case | estimated s | measured s | ratio | estimated GB | measured GB | ratio |")
    print("|---|---|---|---|---|---|---|")
    for case in options.cases:
        row = timed(recipe(case), options.rounds, CLOCKS[clock])
        gb = (
            estimate.work(recipe(case), gpu=False).memory(gpu=False) - counting.CPU_OVERHEAD
        ) / 1e9
        grown = None if options.no_memory else grown_gb(case)
        memory = f"{gb:.2f} | {grown:.2f} | {gb / grown:.2f}" if grown else f"{gb:.2f} | - | -"
        print(f"| {case} | {row[0]:.3f} | {row[1]:.3f} | {row[0] / row[1]:.2f} | {memory} |")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
