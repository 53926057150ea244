"""`denovox adapt`: a base goes on learning on a few scans of one scanner, and does not forget.

A run of minutes from the base at a low rate, then the mixture (1 - a) base + a adapted of both
weights (Wortsman et al. 2022, arXiv 2109.01903) that best denoises a held-out patient. a = 0, the
base, is among the candidates. The loss does not choose: denoising can get worse while it falls
(docs/explain/log.md).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ...core.errors import ensure
from ...datasets import manifest, store
from ...datasets.samples.choice import SampleConfig
from ...model import devices, loading, weights
from ...model.denoiser import denoiser, use_bfloat16
from ...model.expert import State, by_noise, joined
from ...model.weights import ModelConfig
from ..config import DataConfig, ExpertConfig, NoiseConfig, Recipe, TrainConfig
from ..loop import Progress, Session
from ..run import run
from .denoising import crops, psnr

NAME = "adapted"
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)  # of the adapted weights, in the mixture
ALONE_SHARE = 0.5  # where no patient is held out
PATCH, SAMPLES = 32, 8
LOW = NoiseConfig(law="lognormal", mean=-2.1, deviation=1.1)  # for an expert in low noise


@dataclass(frozen=True)
class Wanted:
    """What to adapt to. scans: a folder of scans, or a store. start: weights. minutes: of training.
    held: patients to validate on; none: the last by name, where there are several."""

    scans: Path
    start: str
    minutes: float
    held: tuple[str, ...] = ()


def adapt(wanted: Wanted, folder: Path, session: Session) -> Iterator[str | Progress]:
    """Write folder/adapted.safetensors; yields lines for the user and the progress of each step.

    A run that was stopped is not mixed, and continues when it is called again. `InputError` where
    no scan can be used, or every patient is held out.
    """
    root = wanted.scans if (wanted.scans / manifest.NAME).is_file() else folder / "store"
    if root != wanted.scans:
        yield from _prepared(wanted.scans, root)
    cases = store.cases(root)
    patients = sorted({case.facts.patient for case in cases})
    held = wanted.held or (tuple(patients[-1:]) if len(patients) > 1 else ())
    ensure(set(patients) - set(held), "every patient is held out; leave one or more to adapt to")
    recipe, path = recipe_for(wanted, root, held), folder / f"{NAME}.safetensors"
    session = replace(session, began=0.0)  # the minutes are those of training
    began, unfinished = time.monotonic(), False
    for news in run(recipe, folder, session):
        if isinstance(news, Progress):
            unfinished = news.step != news.steps
        yield news
    # A run on a machine that becomes slower ends in time, before its last step: it was not stopped.
    late = time.monotonic() - began >= 60 * session.max_minutes
    ensure(path.is_file(), "the time was too short for a single step; give more minutes")
    if not (unfinished and (late or session.stopped())):
        own = [case for case in cases if case.facts.patient in held]
        yield _mixed(path, weights.locate(wanted.start), own)


def _prepared(scans: Path, root: Path) -> Iterator[str]:
    """Add the scans to the store of the run, in which nobody is held out by name: a store does so
    with one patient in ten, and here are few."""
    from ...datasets.executors import processes
    from ...datasets.prepare import prepare
    from ...datasets.prepare_config import PrepareConfig

    layout = "index" if (scans / "index.json").is_file() else "folder"
    yield from prepare(scans, root, PrepareConfig(), processes(), layout)
    for path in root.glob("*/entry.json"):
        rows = [manifest.CaseFacts(**fields) for fields in json.loads(path.read_text())]
        store.finish(path.parent, [row.model_copy(update={"split": "train"}) for row in rows])
    store.index(root)


def recipe_for(wanted: Wanted, root: Path, held: tuple[str, ...]) -> Recipe:
    """The run: few minutes, at a tenth of the rate of a base, falling to zero.

    Of weights with an expert in low noise, which restores, that expert alone is adapted.
    """
    path = weights.locate(wanted.start)
    config, card, _ = weights.describe(path)
    ensure(
        not config.distilled_steps,
        f"{path.name}: distilled weights cannot be adapted; adapt their teacher",
    )
    expert = ExpertConfig(below=config.expert_below) if config.expert_below else None
    train = TrainConfig(
        minutes=wanted.minutes,
        samples=SAMPLES,
        batch=0 if torch.cuda.is_available() else SAMPLES,
        optimizer="muon",
        lr=2e-4,
        warmup=20,
        decay=1.0,
        weight_decay=0.01,
        ema=50,
        loss="l2",
        noise=NoiseConfig(law="lognormal", mean=-1.3, deviation=1.9) if expert is None else LOW,
        validate_every=50,
    )
    sample = SampleConfig(
        patch=PATCH,
        levels=(0.15, 0.25, 0.6),
        zoom=(0.8, 1.25),
        shift_hu=15,
        gain=0.03,
        mirror=0.5,
        drop=0.2,
        grain=0.5,
        noise_floor=True,  # the noise of these scans is not to be learnt
    )
    data = DataConfig(store=str(root), validation_patients=held, sample=sample)
    text = f"{card.get('text', '')} Adapted to a user's own scans for {wanted.minutes:g} minutes."
    return Recipe(
        name=NAME,
        data=data,
        model=config,
        train=train,
        start=wanted.start,
        expert=expert,
        card=text.strip(),
    )


def _mixed(path: Path, start: Path, held: Sequence[store.Case]) -> str:
    """Replace adapted weights by the best mixture with those that they started from."""
    config, card, _ = weights.describe(path)
    if "share_of_adapted" in card:
        return f"{path}: complete"
    part = config.expert_below > 0
    before, after = (weights.state_for(each, config, part) for each in (start, path))
    gains = _gains(before, after, held, config, start) if held else {}
    best = max(gains, key=gains.__getitem__) if gains else ALONE_SHARE
    figures = {f"{share:g}": round(gain, 4) for share, gain in gains.items()}
    card = {**card, "share_of_adapted": best, "gain_db_by_share": figures}
    mixed = mixture(before, after, best)
    if part:
        mixed = joined(weights.state_for(start, config), mixed)
    weights.save(path, mixed, config, card)
    if not gains:
        return (
            f"{path}: half base, half adapted; give a second patient, with 16 slices or more of"
            " the body, and the share is chosen"
        )
    if not best:
        return (
            f"{path}: the base's own weights; no adapted ones denoise {held[0].facts.patient}, held"
            " out, better"
        )
    return (
        f"{path}: {best:.0%} adapted weights, which denoise {held[0].facts.patient}, held out,"
        f" {gains[best]:.2f} dB better than the base's"
    )


def _gains(
    before: State, after: State, held: Sequence[store.Case], config: ModelConfig, start: Path
) -> dict[float, float]:
    """Share -> by how much that mixture denoises held-out scans better than the base, in dB, over
    all kinds of noise of `denoising.crops`; empty if no scan is large enough."""
    some = list(crops(held))
    if not some:
        return {}
    net = devices.place(config.build(), "cpu").eval().requires_grad_(False)
    ask = denoiser(net, config.noise_schedule, config.prediction, use_bfloat16("auto", "cpu"))
    if config.expert_below:
        ask = by_noise(config.expert_below, ask, loading.load(start, "cpu")[0])
    found = {}
    for share in SHARES:
        net.load_state_dict(mixture(before, after, share))
        found[share] = sum(psnr(ask, crop)[1] for crop in some) / len(some)
    return {share: db - found[0.0] for share, db in found.items()}


def mixture(before: State, after: State, share: float) -> State:
    """(1 - share) before + share after, of each tensor."""
    return {name: torch.lerp(before[name].float(), after[name].float(), share) for name in before}
