"""`denovox ablate`: what each part of Method 1 is worth, at equal compute and over several seeds.

An arm is a recipe with one part changed; all arms of a seed see the same samples, as far as their
steps go. Equal compute: each arm is trained for as many floating-point operations (forward and
backward, counted, not timed) as the paper's arm takes for the steps of the recipe.
"""

from __future__ import annotations

import itertools
import json
import math
import tempfile
import time
from collections.abc import Generator, Iterator
from contextlib import closing
from pathlib import Path
from typing import Literal

import torch
from pydantic import Field

from ...core.config import Settings
from ...core.errors import InputError, ensure
from ...datasets import store
from ...datasets.executors import processes
from ...datasets.prepare import prepare
from ...datasets.samples.batch import batches
from ...datasets.samples.multilevel import sampler
from ...io.atomic import write_file
from ...model import devices, loading, weights
from ...model.unet import NetConfig
from ...train.config import Recipe
from ...train.cost.counting import count
from ...train.distributed import Group
from ...train.loop import Progress, Session, train
from ...train.loss import predictor
from .measure import Bench, Measures, bench_of, measure
from .table import Figures, Measured, as_markdown

WEIGHTS = "weights.safetensors"


class Arm(Settings):
    """What a recipe becomes in this arm; what is not named is as in the paper.

    key: of its folders. levels: whether training shows all levels as the recipe has them, or crops
    alone. against: the arm that it differs from by one part. zero_snr: the schedule ends there, and
    sampling begins there. The rest: as in NetConfig, ModelConfig and TrainConfig.
    """

    key: str
    text: str
    against: str | None = None
    levels: bool = True
    position: Literal["none", "coordinates", "embedding"] = "embedding"
    stem: Literal["plain", "unshuffle2"] = "plain"
    prediction: Literal["noise", "v"] = "noise"
    loss: Literal["l1", "l2"] = "l1"
    min_snr: float = 0
    zero_snr: bool = False

    def recipe(self, base: Recipe, seed: int) -> Recipe:
        """The recipe of this arm and seed, still with the steps of `base`."""
        sample, net, train = base.data.sample, base.model.net, base.train
        if not self.levels:
            sample = sample.model_copy(update={"levels": (0.0, 0.0, 1.0)})
        net = net.model_copy(update={"position": self.position, "stem": self.stem})
        changes = {"net": net, "prediction": self.prediction, "zero_snr": self.zero_snr}
        changed = {"loss": self.loss, "min_snr": self.min_snr, "seed": seed}
        return base.model_copy(
            update={
                "name": f"{self.key}-{seed}",
                "data": base.data.model_copy(update={"source": None, "sample": sample}),
                "model": base.model.model_copy(update=changes),
                "train": train.model_copy(update=changed),
            }
        )


PAPER = "embedding"  # the arm with all that the paper has, and the steps of the recipe
ARMS = (
    Arm(key="patch", text="patch only", levels=False, position="none"),
    Arm(key="levels", text="+ multi-level", against="patch", position="none"),
    Arm(key="coordinates", text="+ coordinates", against="levels", position="coordinates"),
    Arm(key=PAPER, text="+ embedding (the paper's)", against="coordinates"),
    Arm(key="unshuffle2", text="its stem: unshuffle2", against=PAPER, stem="unshuffle2"),
    Arm(key="v-l2", text="its loss: v, L2", against=PAPER, prediction="v", loss="l2"),
    Arm(
        key="min-snr",
        text="v, L2, min-SNR 5",
        against="v-l2",
        prediction="v",
        loss="l2",
        min_snr=5,
    ),
    Arm(
        key="zero-snr",
        text="v, L2, zero terminal SNR",
        against="v-l2",
        prediction="v",
        loss="l2",
        zero_snr=True,
    ),
)


class Ablation(Settings):
    """seeds: runs of each arm. measures: what is measured of each run."""

    seeds: int = Field(3, ge=1)
    measures: Measures = Measures()


class Plan(Settings):
    """The plan behind a folder of results; results of another plan are not mixed in."""

    recipe: Recipe
    measures: Measures
    steps: dict[str, int]


def run(
    recipe: Recipe,
    folder: Path,
    config: Ablation | None = None,
    max_minutes: float = math.inf,
    device: str = "cpu",
) -> Iterator[str | float]:
    """Train and measure every arm and seed that `folder` does not have yet, seed by seed.

    Yields a line for the user, or the share of all runs that is done. figures.json and figures.md
    are rewritten after each run. A run that was stopped goes on where it was. `InputError` where
    the folder belongs to another plan, or no patient is held out.
    """
    config = config or Ablation()
    began = time.monotonic()
    data = recipe.data
    if data.source is not None:
        yield from prepare(data.source, Path(data.store), data.prepare, processes(), data.layout)
    training, held = store.split(store.cases(data.store), data.validation_patients)
    ensure(training and held, "an ablation is measured on patients held back; name some in"
           " data.validation_patients, and leave some to train on")  # fmt: skip
    plan = _plan(recipe, config.measures)
    _claim(folder, plan)
    yield f"steps at equal compute: {', '.join(f'{k} {n}' for k, n in plan.steps.items())}"
    every = list(itertools.product(range(config.seeds), ARMS))
    bench: Bench | None = None
    for number, (seed, arm) in enumerate(every):
        own = _recipe(plan, arm, seed)
        place = folder / own.name
        if (place / "figures.json").is_file():
            continue
        left = max_minutes - (time.monotonic() - began) / 60
        with closing(_train(own, training, place, left, device)) as steps:
            for step in steps:
                yield (number + step.step / own.train.steps) / len(every)
        if not (place / WEIGHTS).is_file():
            yield f"stopped in {own.name}; the same command goes on from there"
            return
        if bench is None:
            yield "training the segmenters that judge samples"
            bench = _bench(training, held, recipe, config.measures, device)
        figures = measure(loading.load(place / WEIGHTS, device), bench)
        write_file(place / "figures.json", figures.model_dump_json(indent=1))  # marks it done
        yield f"{own.name}: {figures.line()}"
        _write(folder, plan, bench.real)
    yield f"{folder / 'figures.md'}: all {len(every)} runs"


def _train(
    recipe: Recipe, training: list[store.Case], folder: Path, max_minutes: float, device: str
) -> Generator[Progress, None, None]:
    """One run, or the rest of it; its weights file appears once all steps are done."""
    if (folder / WEIGHTS).is_file():
        return
    torch.manual_seed(recipe.train.seed)
    net = devices.place(recipe.model.build(), device)
    session = Session(max_minutes=max_minutes, group=Group(device=device))
    steps = train(
        predictor(net, recipe.model, recipe.train, device),
        dict(net.named_parameters()),
        batches(sampler(training, recipe.data.sample, recipe.train.seed)),
        recipe.train,
        folder,
        session=session,
    )
    with closing(steps):  # a consumer that stops early still leaves a checkpoint
        for step in steps:
            if step.step == recipe.train.steps:  # before the loop saves that it was
                card = {"name": recipe.name, "text": "an arm of an ablation; not for use"}
                weights.save(folder / WEIGHTS, step.average, recipe.model, dict(card))
            yield step


def steps_of(recipe: Recipe) -> dict[str, int]:
    """Steps of each arm that cost as many FLOPs as the recipe's steps do in the paper's arm."""
    nets = {arm.key: arm.recipe(recipe, 0).model.net for arm in ARMS}
    flops: dict[NetConfig, int] = {}
    for net in nets.values():
        if net not in flops:
            model = recipe.model.model_copy(update={"net": net})
            changed = recipe.model_copy(update={"model": model})
            flops[net] = count(changed, 1, recipe.data.sample.patch).flops
    most = recipe.train.steps * flops[nets[PAPER]]
    return {key: max(1, round(most / flops[net])) for key, net in nets.items()}


def _plan(recipe: Recipe, measures: Measures) -> Plan:
    ensure(
        recipe.start is None and recipe.data.sample.control is None,
        "an ablation trains bases from nothing; leave out start and data.sample.control",
    )
    ensure(
        recipe.train.steps and not recipe.train.minutes,
        "an ablation compares arms at equal compute, which is counted in steps; give train.steps",
    )
    return Plan(recipe=recipe, measures=measures, steps=steps_of(recipe))


def _recipe(plan: Plan, arm: Arm, seed: int) -> Recipe:
    own = arm.recipe(plan.recipe, seed)
    steps = plan.steps[arm.key]
    return own.model_copy(update={"train": own.train.model_copy(update={"steps": steps})})


def _claim(folder: Path, plan: Plan) -> None:
    path = folder / "plan.json"
    text = plan.model_dump_json(indent=1)
    if path.is_file() and json.loads(path.read_text()) != json.loads(text):
        raise InputError(f"{folder} holds an ablation of another recipe; give another --out")
    folder.mkdir(parents=True, exist_ok=True)
    write_file(path, text)


def _bench(
    training: list[store.Case],
    held: list[store.Case],
    recipe: Recipe,
    measures: Measures,
    device: str,
) -> Bench:
    with tempfile.TemporaryDirectory() as scratch:
        return bench_of(training, held, recipe.data.sample.patch, measures, Path(scratch), device)


def _write(folder: Path, plan: Plan, real: Figures) -> None:
    """All results so far, by arm."""
    found = []
    for arm in ARMS:
        paths = sorted(folder.glob(f"{arm.key}-*/figures.json"))
        runs = {
            int(path.parent.name.rsplit("-", 1)[1]): Figures.model_validate_json(path.read_text())
            for path in paths
        }
        if runs:
            found.append(Measured(arm.key, arm.text, arm.against, plan.steps[arm.key], runs))
    content = {
        "plan": plan.model_dump(mode="json"),
        "real": real.model_dump(mode="json"),
        "arms": {
            one.key: {str(seed): each.model_dump(mode="json") for seed, each in one.runs.items()}
            for one in found
        },
    }
    write_file(folder / "figures.json", json.dumps(content, indent=1))
    write_file(folder / "figures.md", as_markdown(found, real))
