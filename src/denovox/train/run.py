"""`denovox pretrain` and `finetune`: a recipe -> a store, a run, a weights file."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch import nn

from ..core.errors import InputError, line
from ..datasets import store
from ..datasets.samples.batch import Draw, batches, collate
from ..datasets.samples.multilevel import sampler
from ..datasets.samples.resident import Resident, bytes_of
from ..io.atomic import user_output
from ..io.space import check_space, size_of
from ..model import devices, loading, weights
from ..model.activation_checkpointing import recompute
from ..model.controlnet import Control, ControlConfig, Controlled
from ..model.denoiser import denoiser
from ..model.expert import by_noise, joined
from ..model.unet import Net
from . import checkpoint, previews
from .config import Recipe, TrainConfig
from .distill import Teacher, teacher_of
from .distributed import Group, device_memory, distributed
from .loop import Progress, Session, train
from .loss import Ledger, noise_levels, predictor
from .run_log import RunLog
from .run_state import state_bytes
from .validation import fixed_samples, validation


def run(recipe: Recipe, folder: Path, session: Session | None = None) -> Iterator[str | Progress]:
    """Prepare, train (or resume training), and write `folder`/<name>.safetensors.

    Yields a line for the user, or the Progress of a step. The weights file holds the averaged
    weights; it is rewritten at each validation and at the end or, with `patience`, at each
    validation that is the best so far. With a control in the recipe it holds only the control.
    Alongside it: log.csv, and samples/<step>.png at each checkpoint. All processes of a group run
    this together; only the main one prepares and writes.
    """
    session = session or Session()
    data, group = recipe.data, session.group
    teacher = teacher_of(recipe, group.device)
    # The weights to start from may have an expert; those written do if the run trains one.
    of_run: dict[str, float] = {"expert_below": recipe.expert.below if recipe.expert else 0}
    if teacher is not None:
        of_run["distilled_steps"] = len(teacher.sigmas) - 1
    recipe = recipe.model_copy(update={"model": recipe.model.model_copy(update=of_run)})
    if data.source is not None:
        # These import all readers, which an existing store does not need.
        from ..datasets.executors import processes
        from ..datasets.prepare import prepare

        with group.first() as here:
            if here:
                yield from prepare(
                    data.source, Path(data.store), data.prepare, processes(), data.layout
                )
    training, held = store.split(store.cases(data.store), data.validation_patients)
    if _lacks_lesions(recipe, training):
        raise InputError(
            f"no training case in {data.store} has a lesion; add masks next to the scans"
            " (SCAN_lesion.nii.gz), or insert lesions (benchmarks/lesion_data.py)"
        )
    unmeasured = sum(case.facts.noise_hu is None for case in training)
    if data.sample.noise_floor and unmeasured:
        yield (
            f"the noise of {unmeasured} of {len(training)} training cases was not measured, so they"
            " are trained at all noise levels; `denovox prepare` measures it in a new store"
        )
    learner = _learner(recipe, group.device)
    if group.main:
        require_space(recipe.train, folder, learner.part)
    if recipe.train.checkpointing:
        recompute(learner.net)
    if recipe.train.compile and group.count > 1:  # one process tries it first (compiling.py)
        learner.net.compile()
    net = distributed(learner.net, group, recipe.train.shard)
    count = sum(p.numel() for p in learner.part.parameters()) / 1e6
    shared = f", on {group.count} processes" if group.count > 1 else ""
    yield (
        f"{count:.2f} M parameters; {len(training)} training cases, {len(held)} held out{shared}"
    )
    with checkpoint.only_run(folder) if group.main else nullcontext():
        yield from _train(
            recipe, folder, replace(session, net=net), learner, (training, held), teacher
        )


def require_space(config: TrainConfig, folder: Path, part: nn.Module) -> None:
    """`InputError` unless the states of a run fit on the disk: two, and the one being written."""
    parameters = list(part.parameters())
    state = state_bytes(parameters, config)
    there = sum(size_of(folder / name) for name in (checkpoint.NAME, checkpoint.BEFORE))
    weights_too = 4 * sum(p.numel() for p in parameters)
    check_space({folder / checkpoint.NAME: max(state, 3 * state - there) + weights_too})


def _train(
    recipe: Recipe,
    folder: Path,
    session: Session,
    learner: Learner,
    cases: tuple[list[store.Case], list[store.Case]],
    teacher: Teacher | None,
) -> Iterator[str | Progress]:
    """Train `session.net` on the first cases, validate on the second, and write to `folder`."""
    net, group = session.net, session.group
    assert net is not None
    data, (training, held) = recipe.data, cases
    trained = dict(learner.part.named_parameters())
    predict = predictor(net, recipe.model, recipe.train, group.device, teacher)
    ledger = Ledger(noise_levels(recipe.model, recipe.train, teacher))
    fixed = fixed_samples(held or training, data.sample)
    steps = train(
        ledger.watched(predict),
        trained,
        _draw(recipe, training, group, session.say),
        recipe.train,
        folder,
        validation([collate([one.sample]) for one in fixed], predict, group) if held else None,
        session,
    )
    writer = _WeightsWriter(recipe, folder, learner.config, _card(recipe, training), group)
    log = RunLog(folder, recipe, ledger, session.say) if group.main else None
    last = None
    with closing(steps):  # leaves a checkpoint even if the consumer stops early
        for last in steps:
            if log is not None:
                log.step(last)
            best = not recipe.train.patience or last.best[1] == last.step
            if last.validation is not None and best:
                writer.validated(last)
                try:
                    writer.write(last)
                except InputError as error:
                    session.say(f"{error}; the run continues")
            if last.saves:
                _preview(recipe, last, fixed, folder, session)
            yield last
    if log is not None:
        log.close()
    if last is None:
        yield "nothing left to do: the run has completed all its steps"
        return
    if not last.saves:
        _preview(recipe, last, fixed, folder, session)
    loss, step = last.best
    if recipe.train.patience and step:
        yield (
            f"{writer.path}: averaged weights after step {step}, the best (validation {loss:.4f})"
        )
        return
    writer.write(last)
    yield f"{writer.path}: averaged weights after step {last.step}"


def _draw(
    recipe: Recipe, training: list[store.Case], group: Group, say: Callable[[str], None]
) -> Draw:
    """Draw samples from device memory, or from the store."""
    data, seed = recipe.data, recipe.train.seed
    control = data.sample.control
    size = bytes_of(training, lesions=control is not None and control.kind == "lesion")
    if data.resident == "never" or (
        data.resident == "auto" and size > device_memory(group.device) / 3
    ):
        return batches(sampler(training, data.sample, seed))
    if group.main:
        say(f"samples are drawn in memory ({size / 1e9:.2f} GB, {group.device})")
    try:
        return Resident(training, data.sample, seed, group.device)
    except OSError as error:
        raise InputError(f"{data.store} cannot be read ({line(error)})") from None


@dataclass
class _WeightsWriter:
    """Writes the weights of a run and their model card."""

    recipe: Recipe
    folder: Path
    config: weights.ModelConfig | ControlConfig
    card: dict[str, object]
    group: Group

    @property
    def path(self) -> Path:
        """The weights file."""
        return self.folder / f"{self.recipe.name}.safetensors"

    def validated(self, progress: Progress) -> None:
        """Record the last validation that counted in the model card."""
        assert progress.validation is not None
        self.card["validation_loss"] = round(progress.validation, 5)
        self.card["validated_at_step"] = progress.step

    def write(self, progress: Progress) -> None:
        """Write the averaged weights; `InputError` if that fails."""
        average, recipe = progress.average, self.recipe
        if self.group.main:
            if recipe.expert is not None and recipe.start is not None:
                base = weights.state_for(weights.locate(recipe.start), recipe.model)
                average = joined(base, average)
            with user_output(self.path):
                weights.save(self.path, average, self.config, self.card | {"steps": progress.step})


def _lacks_lesions(recipe: Recipe, training: list[store.Case]) -> bool:
    control = recipe.data.sample.control
    lesions = control is not None and control.kind == "lesion"
    return lesions and not any(case.facts.lesions for case in training)


@dataclass(frozen=True)
class Learner:
    """net: the whole network; part: the module in it that is trained; config: of its weights."""

    net: Net | Controlled
    part: nn.Module
    config: weights.ModelConfig | ControlConfig


def _learner(recipe: Recipe, device: str) -> Learner:
    torch.manual_seed(recipe.train.seed)
    base = recipe.model.build()
    if recipe.start is not None:  # overridden by a checkpoint of the run, if any
        start = weights.locate(recipe.start)
        base.load_state_dict(weights.state_for(start, recipe.model, recipe.expert is not None))
    control = recipe.data.sample.control
    if control is None or recipe.start is None:
        net = devices.place(base, device)
        return Learner(net, net, recipe.model)
    digest = weights.sha256(weights.locate(recipe.start))
    config = ControlConfig(kind=control.kind, base=digest, width=recipe.width)
    whole = devices.place(Controlled(base.requires_grad_(False), Control(base, config)), device)
    return Learner(whole, whole.control, config)


def _preview(
    recipe: Recipe,
    progress: Progress,
    fixed: Sequence[previews.PreviewSample],
    folder: Path,
    session: Session,
) -> None:
    """Write a sheet of samples from the averaged weights; a failure must not end the run."""
    average = progress.average
    if not session.group.main:
        return
    own = _learner(recipe, session.group.device)
    own.part.load_state_dict(average)
    ask = denoiser(own.net.eval(), recipe.model.noise_schedule, recipe.model.prediction)
    if recipe.expert is not None and recipe.start is not None:
        start = loading.load(weights.locate(recipe.start), session.group.device)[0]
        ask = by_noise(recipe.expert.below, ask, start)
    path = folder / "samples" / f"{progress.step:07d}.png"
    title = f"{recipe.name}, step {progress.step}"
    chosen = previews.preview_samples(fixed)
    try:
        previews.draw(ask, recipe.model, chosen, path, title, session.group.device)
    except OSError as error:
        session.say(f"{path} could not be written ({line(error)}); the run continues")


def _before(start: str) -> list[dict[str, object]]:
    """The runs that led to these weights, earliest first, from their model cards."""
    _, card, digest = weights.describe(weights.locate(start))
    history = card.get("history", [])
    assert isinstance(history, list)
    kept = ("text", "steps", "validation_loss", "recipe")
    return [*history, {"sha256": digest} | {key: card[key] for key in kept if key in card}]


def _card(recipe: Recipe, training: list[store.Case]) -> dict[str, object]:
    """The model card in the weights file."""
    control = recipe.data.sample.control
    sources = sorted({(case.facts.source, case.facts.licence) for case in training})
    patients = {case.facts.patient for case in training}
    regions: dict[str, int] = {}
    for region in sorted({case.facts.region for case in training}):
        of_it = {case.facts.patient for case in training if case.facts.region == region}
        regions[region] = len(of_it)
    return {
        "name": recipe.name,
        **({} if recipe.start is None else {"base": recipe.start}),
        **({"history": _before(recipe.start)} if recipe.start and control is None else {}),
        "text": recipe.card,
        "training_patients": len(patients),
        "patients_per_region": regions,
        "validation_patients": list(recipe.data.validation_patients),
        "sources": [f"{source} ({licence})" for source, licence in sources],
        "recipe": recipe.model_dump(mode="json"),
    }
