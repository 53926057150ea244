"""`denovox pretrain` and `finetune`: a recipe -> a store, a run, a weights file."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch.nn import Parameter

from ..core.errors import InputError
from ..data import store
from ..data.levels import SampleConfig, sample, sampler
from ..data.prepare import prepare
from ..model import weights
from ..model.control import Control, ControlConfig, Controlled
from ..model.net import Net
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
    weights; it is rewritten at each validation and at the end or, with `patience`, at each
    validation that is the best so far. With a control in the recipe it holds the control alone.
    """
    data = recipe.data
    if data.source is not None:
        yield from prepare(data.source, Path(data.store), data.prepare, processes(), data.layout)
    training, held = store.split(store.cases(data.store), data.validation_patients)
    if _lacks_lesions(recipe, training):
        raise InputError(
            f"no case of {data.store} that trains has a lesion; bring masks beside the scans"
            " (SCAN_lesion.nii.gz), or plant some (benchmarks/lesion_data.py)"
        )
    net, trained, config = _network(recipe, device)
    count = sum(p.numel() for p in trained.values()) / 1e6
    yield f"{count:.2f} M parameters; {len(training)} cases to train on, {len(held)} held back"

    predict = predictor(net, recipe.model, recipe.train, device)
    card = _card(recipe, training)
    steps = train(
        predict,
        trained,
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
            if last.validation is not None and _is_kept(last, recipe):
                card["validation_loss"] = round(last.validation, 5)
                card["validated_at_step"] = last.step
                weights.save(path, last.average, config, card | {"steps": last.step})
            yield last
    if last is None:
        yield "nothing left to do: the run has had all its steps"
        return
    loss, step = last.best
    if recipe.train.patience and step:
        yield f"{path}: averaged weights after step {step}, the best (validation {loss:.4f})"
        return
    weights.save(path, last.average, config, card | {"steps": last.step})
    yield f"{path}: averaged weights after step {last.step}"


def _is_kept(progress: Progress, recipe: Recipe) -> bool:
    return not recipe.train.patience or progress.best[1] == progress.step


def _lacks_lesions(recipe: Recipe, training: list[store.Case]) -> bool:
    control = recipe.data.sample.control
    lesions = control is not None and control.kind == "lesion"
    return lesions and not any(case.facts.lesions for case in training)


def _network(
    recipe: Recipe, device: str
) -> tuple[Net | Controlled, dict[str, Parameter], weights.ModelConfig | ControlConfig]:
    """(what answers, what is trained of it, the configuration that goes into the file)."""
    torch.manual_seed(recipe.train.seed)
    base = recipe.model.build()
    if recipe.start is not None:  # a checkpoint of the run, where there is one, goes before it
        base.load_state_dict(weights.state_for(weights.locate(recipe.start), recipe.model))
    control = recipe.data.sample.control
    if control is None or recipe.start is None:
        net = weights.place(base, device)
        return net, dict(net.named_parameters()), recipe.model
    digest = weights.sha256(weights.locate(recipe.start))
    config = ControlConfig(kind=control.kind, base=digest, width=recipe.width)
    whole = weights.place(Controlled(base.requires_grad_(False), Control(base, config)), device)
    return whole, dict(whole.control.named_parameters()), config


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
        **({} if recipe.start is None else {"base": recipe.start}),
        "text": recipe.card,
        "training_patients": len(patients),
        "patients_per_region": regions,
        "validation_patients": list(recipe.data.validation_patients),
        "sources": [f"{source} ({licence})" for source, licence in sources],
        "recipe": recipe.model_dump(mode="json"),
    }
