"""Few lesions: a control tuned from the base against the same network from scratch.

    python benchmarks/fewshot.py real|planted [STEPS] [SEEDS] [STORE]

STORE: as `denovox finetune recipes/lesion.toml` makes it (.denovox/lesion-store). real: two
patients train, and RIDER-0117's three nodules are held out. planted: the planted copies of all
patients but ACRIN-013 and CRLM-1006 train, and ACRIN-013's planted lung lesions are held out. Both
arms see the same samples of a seed for as many steps at the same rate; from scratch all parameters
are trained, from the base those of the control. Then each makes the held-out lesions again, from
their masks alone, in holes 4 mm wider. Figures of an arm: validation loss (held-out patients, fixed
samples), Dice of a judge that was trained on other patients, and how far the HU of the made lesions
are from those of the held-out ones (Wasserstein-1). Prints JSON.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from denovox.datasets import store
from denovox.datasets.samples.batch import batches, collate
from denovox.datasets.samples.multilevel import sampler
from denovox.evaluation.lesions import hosts
from denovox.inference.inpaint import Edit, around, edit
from denovox.inference.model import (
    Model,
)
from denovox.inference.options import RunOptions
from denovox.metrics.lesions import appearances, dice, distance
from denovox.model import devices, weights
from denovox.model.controlnet import Control, ControlConfig, Controlled
from denovox.model.denoiser import denoiser
from denovox.train.config import TrainConfig, read_recipe
from denovox.train.loop import train
from denovox.train.loss import predictor
from denovox.train.validation import fixed_samples, validation

HELD = {"real": ("RIDER-0117",), "planted": ("ACRIN-013", "CRLM-1006")}
JUDGED = {"real": "RIDER-0117", "planted": "ACRIN-013"}
MOST = 4  # lesions made again: those in the lung, the largest first


def cases_of(kind: str, root: str) -> tuple[list, list, list]:
    """(to train on, held out, for the judge to be trained on)."""
    every = [case for case in store.cases(root) if case.facts.lesions]
    mine = [c for c in every if ("_planted" in c.facts.id) == (kind == "planted")]
    held = [c for c in mine if c.facts.patient in HELD[kind]]
    away = {patient for patients in HELD.values() for patient in patients}
    others = [c for c in every if c.facts.patient not in away and c.facts.region == "chest"]
    return [c for c in mine if c.facts.patient not in away], held, others


def trained(arm: str, seed: int, config: TrainConfig, recipe, cases: list) -> Controlled:
    """The averaged network after `config.steps`."""
    torch.manual_seed(seed)
    base = recipe.model.build()
    if arm == "base":
        base.load_state_dict(weights.state_for(weights.locate("base"), recipe.model))
        base.requires_grad_(False)
    net = devices.place(
        Controlled(base, Control(base, ControlConfig(kind="lesion", base=""))), "cpu"
    )
    learns = dict((net.control if arm == "base" else net).named_parameters())
    draw = batches(sampler(cases, recipe.data.sample, seed))
    with tempfile.TemporaryDirectory() as folder:
        run = train(predictor(net, recipe.model, config), learns, draw, config, Path(folder))
        for step in run:
            average = step.average
    with torch.no_grad():
        for name, parameter in learns.items():
            parameter.copy_(average[name])
    return net.eval().requires_grad_(False)


def main(kind: str, steps: int = 120, seeds: int = 3, root: str = ".denovox/lesion-store") -> None:
    recipe = read_recipe(Path("recipes/lesion.toml"))
    config = recipe.train.model_copy(
        update={
            "steps": steps,
            "samples": 4,
            "batch": 4,
            "patience": 0,
            "ema": max(1.0, steps / 20),
        }
    )
    cases, held, others = cases_of(kind, root)
    scan = next(hosts.read(c) for c in held if c.facts.patient == JUDGED[kind]
                and c.facts.region == "chest")  # fmt: skip
    numbers = _in_lung(scan)
    with tempfile.TemporaryDirectory() as folder:
        study = hosts.StudyContext(
            hosts.LesionStudyConfig(steps=800), RunOptions(), Path(folder), lambda: None
        )
        judge = hosts.trained_segmenter(others, 0, study, "judge")
    told = {"kind": kind, "steps": steps, "seeds": seeds, "train": [c.facts.id for c in cases],
            "held": scan.case.facts.id, "lesions": int(numbers.max()), "arms": {}}  # fmt: skip
    region, spacing = scan.case.facts.region, scan.volume.spacing_mm
    real = appearances(scan.volume.hu, numbers, spacing, "held")
    found = hosts.outline(judge, scan.volume, region)
    near = around(numbers > 0, spacing)
    told["judge_on_held_lesions_dice"] = dice(found & near, numbers > 0)
    print(json.dumps(told), file=sys.stderr, flush=True)
    for arm in ("base", "scratch"):
        for seed in range(seeds):
            begun = time.monotonic()
            net = trained(arm, seed, config, recipe, cases)
            predict = predictor(net, recipe.model, config)
            fixed = [collate([one.sample]) for one in fixed_samples(held, recipe.data.sample)]
            loss = validation(fixed, predict)()
            denoise = denoiser(net, recipe.model.noise_schedule, recipe.model.prediction)
            model = Model(denoise, recipe.model, weights.locate("base"), "cpu", "lesion")
            hole = near
            empty = hosts.cut_out(scan.volume, hole)
            again = edit(
                model, empty, Edit(hole, numbers > 0, region=region), RunOptions(seed=seed)
            )
            there = hosts.outline(judge, again, region)
            made = appearances(again.hu, numbers, spacing, "made")
            figures = {
                "loss": loss,
                "dice": dice(there & hole, numbers > 0),
                "hu_distance": distance([one.hu for one in made], [one.hu for one in real]),
                "hu": [float(np.median(one.hu)) for one in made],
                "seconds": time.monotonic() - begun,
            }
            told["arms"].setdefault(arm, []).append(figures)
            print(arm, seed, json.dumps(figures), file=sys.stderr, flush=True)
    told["hu_held"] = [float(np.median(one.hu)) for one in real]
    print(json.dumps(told, indent=1))


def _in_lung(scan: hosts.LesionCase) -> np.ndarray:
    """The largest lesions that stand in air, numbered from 1."""
    ring = around(scan.numbers > 0, scan.volume.spacing_mm) & (scan.numbers == 0)
    in_air = []
    for number in range(1, int(scan.numbers.max()) + 1):
        own = around(scan.numbers == number, scan.volume.spacing_mm) & ring
        if own.any() and np.median(scan.volume.hu[own]) < -600:
            in_air.append((int((scan.numbers == number).sum()), number))
    out = np.zeros_like(scan.numbers)
    for new, (_, old) in enumerate(sorted(in_air, reverse=True)[:MOST], 1):
        out[scan.numbers == old] = new
    return out


if __name__ == "__main__":
    given = sys.argv[1:]
    main(given[0], *(int(n) for n in given[1:3]), *given[3:4])
