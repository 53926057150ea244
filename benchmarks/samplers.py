"""Training samples a second: drawn in memory in batches, and one by one from the store.

    OMP_NUM_THREADS=1 nice python benchmarks/samplers.py

The samples are those of recipes/base.toml, in batches of 8 on a CPU and of 64 on a GPU. On a CPU
seconds are the process's own, so that others on its cores do not count, and both sides have one
thread; on a GPU they are the clock's. The two take turns; the median of the rounds is printed.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable

import torch

from denovox.datasets import store
from denovox.datasets.samples.batch import Draw, batches
from denovox.datasets.samples.choice import SampleConfig
from denovox.datasets.samples.multilevel import sampler
from denovox.datasets.samples.resident import Resident, bytes_of

LAW = {"levels": (0.15, 0.25, 0.6), "zoom": (0.8, 1.25), "shift_hu": 15, "gain": 0.03, "drop": 0.2}


def seconds(draw: Draw, first: int, count: int, batch: int, now: Callable[[], float]) -> float:
    """For `count` samples."""
    began = now()
    for n in range(first, first + count, batch):
        last = draw(range(n, n + batch))
    float(last.x0.sum())  # a GPU's work is done when somebody asks for it
    return now() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--store", default=".denovox/store")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--patches", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--samples", type=int, default=64, help="a round and side")
    given = parser.parse_args()
    on_gpu = given.device != "cpu"
    batch, now = (64, time.monotonic) if on_gpu else (8, time.process_time)
    training, _ = store.split(store.cases(given.store), ())
    print(f"{len(training)} cases, {bytes_of(training) / 1e9:.2f} GB in memory, {given.device}\n")
    print(
        "| patch | noise | store, samples/s | resident, samples/s | ratio |\n|---|---|---|---|---|"
    )
    for patch in given.patches:
        for grain in (0.0, 0.5):
            config = SampleConfig(patch=patch, grain=grain, **LAW)
            sides: list[Draw] = [
                batches(sampler(training, config, 1)),
                Resident(training, config, 1, given.device),
            ]
            took: list[list[float]] = [[], []]
            for number in range(given.rounds + 1):
                for side, draw in zip(took, sides, strict=True):
                    side.append(seconds(draw, number * 1000, given.samples, batch, now))
            # The first round warms up.
            slow, fast = (given.samples / statistics.median(side[1:]) for side in took)
            name = "half coloured" if grain else "white"
            row = f"| {patch}^3 | {name} | {slow:.1f} | {fast:.1f} | {fast / slow:.2f} |"
            print(row, flush=True)


if __name__ == "__main__":
    main()
