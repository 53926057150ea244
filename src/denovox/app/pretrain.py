"""`denovox pretrain`: a recipe -> a store, a run, a weights file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ..data import store
from ..data.levels import SampleConfig, sample, sampler
from ..data.prepare import prepare
from ..model import weights
from ..train.config import Recipe
from ..train.loop import Progress, train
from ..train.loss import Predict, predictor
from .engines import processes

VALIDATION_SAMPLES = 32


def run(
    recipe: Recipe, folder: Path, max_minutes: float = math.inf, device: str = "cpu"
) -> Iterator[str | Progress]:
    """Prepare, train (or go on training), and write `folder`/<name>.safetensors.

    Yields a line for the user, or the Progress of a step. The weights file holds the averaged
    weights; it is rewritten at each validation and at the end.
    """
    data = recipe.data
    if data.source is not None:
        yield from prepare(data.source, Path(data.store), data.prepare, processes(), data.layout)
    training, held = store.split(store.cases(data.store), data.validation_patients)
    torch.manual_seed(recipe.train.seed)
    net = weights.place(recipe.model.build(), device)
    if recipe.start is not None:  # a checkpoint in `folder`, where there is one, goes before it
        net.load_state_dict(weights.state_for(weights.locate(recipe.start), recipe.model))
    count = sum(p.numel() for p in net.parameters()) / 1e6
    yield f"{count:.2f} M parameters; {len(training)} cases to train on, {len(held)} held back"

    predict = predictor(net, recipe.model, recipe.train, device)
    card = _card(recipe, training)
    steps = train(
        predict,
        dict(net.named_parameters()),
        sampler(training, data.sample, recipe.train.seed),
        recipe.train,
        folder,
        validation(held, predict, data.sample) if held else None,
        max_minutes,
    )
    path = folder / f"{recipe.name}.safetensors"
    last = None
    with closing(steps):  # a consumer that stops early still leaves a checkpoint
        for last in steps:
            if last.validation is not None:
                card["validation_loss"] = round(last.validation, 5)
                card["validated_at_step"] = last.step
                weights.save(path, last.average, recipe.model, card | {"steps": last.step})
            yield last
    if last is None:
        yield "nothing left to do: the run has had all its steps"
        return
    weights.save(path, last.average, recipe.model, card | {"steps": last.step})
    yield f"{path}: averaged weights after step {last.step}"


def validation(
    held: list[store.Case], predict: Predict, config: SampleConfig
) -> Callable[[], float]:
    """The mean loss over fixed boxes, noise and noise levels of the patients held back."""
    plain = config.model_copy(
        update={"zoom": (1, 1), "shift_hu": 0, "gain": 0, "mirror": 0, "drop": 0}
    )
    fixed = []
    for n in range(VALIDATION_SAMPLES):
        one = sample(held[n % len(held)], plain, np.random.default_rng([n]))
        # Noise levels even over the law, not drawn: fewer samples tell as much.
        fixed.append(replace(one, u=(n + 0.5) / VALIDATION_SAMPLES))

    @torch.no_grad()
    def measure() -> float:
        return float(torch.cat([predict([one]) for one in fixed]).mean())

    return measure


def _card(recipe: Recipe, training: list[store.Case]) -> dict[str, object]:
    """What the weights file says of itself."""
    sources = sorted({(case.facts.source, case.facts.licence) for case in training})
    patients = {case.facts.patient for case in training}
    regions: dict[str, int] = {}
    for region in sorted({case.facts.region for case in training}):
        of_it = {case.facts.patient for case in training if case.facts.region == region}
        regions[region] = len(of_it)
    return {
        "name": recipe.name,
        "text": recipe.card,
        "training_patients": len(patients),
        "patients_per_region": regions,
        "validation_patients": list(recipe.data.validation_patients),
        "sources": [f"{source} ({licence})" for source, licence in sources],
        "recipe": recipe.model_dump(mode="json"),
    }
