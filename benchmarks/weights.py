"""Bases side by side, on the patients held back: error of x0, realism and Dice of samples.

    python benchmarks/weights.py base .denovox/candidates/base.safetensors

What `denovox ablate` measures of its arms, of any weights, by bundled name or path: 20 boxes of
each level of METHOD 1, fixed noise, samples from the boxes' own anatomy by 10 evaluations, judges
trained in the run. PSNR of x0 is 20 log10(2 / RMSE), the whole window as its peak.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path

from denovox.datasets import store
from denovox.evaluation.ablation.measure import Measures, bench_of, measure
from denovox.model import loading, weights


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("weights", nargs="+")
    parser.add_argument("--store", default=".denovox/store")
    parser.add_argument("--boxes", type=int, default=20, help="of each level")
    told = parser.parse_args()
    measures = Measures(boxes=told.boxes)
    training, held = store.split(store.cases(told.store), ())
    with tempfile.TemporaryDirectory() as scratch:
        bench = bench_of(training, held, 32, measures, Path(scratch))
    levels = ("whole", "2x crop", "crop")
    columns = [f"{level}, sigma {sigma:g}" for level in levels for sigma in measures.sigmas]
    print(
        "| weights | " + " | ".join(columns) + " | realism | " + " | ".join(bench.real.dice) + " |"
    )
    print("|---|" + "---|" * (len(columns) + 1 + len(bench.real.dice)))
    for name in told.weights:
        path = weights.locate(name)
        found = measure(loading.load(path), bench)
        psnr = [20 * math.log10(2 / rmse) for level in found.l2.values() for rmse in level.values()]
        shown = [f"{db:.2f}" for db in psnr] + [f"{found.realism:.1f}"]
        shown += [f"{dice:.3f}" for dice in found.dice.values()]
        print(f"| {name} {weights.sha256(path)[:12]} | " + " | ".join(shown) + " |", flush=True)
    real = [f"{bench.real.realism:.1f}", *(f"{dice:.3f}" for dice in bench.real.dice.values())]
    print("| the scans themselves | " + " | " * len(columns) + " | ".join(real) + " |")


if __name__ == "__main__":
    main()
