"""A training run as one frozen configuration; recipes/*.toml hold it as TOML."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from ..core.config import Settings
from ..core.errors import InputError, ensure
from ..datasets.prepare_config import PrepareConfig
from ..datasets.samples.choice import SampleConfig
from ..io.tables import text_of
from ..model.denoiser import Precision
from ..model.weights import ModelConfig, describe, locate


class NoiseConfig(Settings):
    """Which noise levels a run trains on.

    law: uniform: timesteps uniform over the schedule (as in the paper); lognormal: log sigma normal
    with this mean and deviation (Karras et al. 2022, table 1), which concentrates on the levels
    that matter in restoration.
    """

    law: Literal["uniform", "lognormal"] = "uniform"
    mean: float = -1.4
    deviation: float = Field(1.3, gt=0)


class TrainConfig(Settings):
    """Settings of the training loop.

    steps or minutes: length of the run. With minutes, a run measures its speed for some seconds,
    fixes its number of steps from that (at most `steps`, if both are given) and ends in time,
    including the last validation and files. samples: per step; batch: how many of them at a time
    (0: all), halved whenever they do not fit into GPU memory. decay: the last fraction of the
    steps, in which the learning rate falls to zero; a run can be extended until that begins.
    optimizer: muon for convolution kernels with adamw for the rest, or adamw alone. compile: use
    torch.compile if it works and is faster. ema: half-life of the averaged weights, in steps. clip:
    gradient norm. patience: stop after this many validations without improvement, keeping the best
    weights; 0: never stop, and keep the last. min_snr: gamma of Min-SNR weights, for l2 only
    (train/loss.py); 0: all noise levels equal.
    """

    steps: int = Field(0, ge=0)
    minutes: float = Field(0, ge=0)
    samples: int = Field(4, gt=0)
    batch: int = Field(1, ge=0)
    workers: int = Field(2, gt=0)
    optimizer: Literal["adamw", "muon"] = "adamw"
    lr: float = Field(1e-4, gt=0)
    warmup: int = Field(0, ge=0)
    decay: float = Field(0.0, ge=0, le=1)
    weight_decay: float = Field(0.0, ge=0)
    clip: float = Field(1.0, gt=0)
    ema: float = Field(1000, gt=0)
    loss: Literal["l1", "l2"] = "l1"
    min_snr: float = Field(0, ge=0)
    noise: NoiseConfig = NoiseConfig()
    precision: Precision = "auto"
    checkpointing: bool = False
    compile: bool = False
    shard: bool = False
    seed: int = 0
    checkpoint_minutes: float = Field(5, gt=0)
    validate_every: int = Field(200, gt=0)
    patience: int = Field(0, ge=0)
    track: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    max_skipped: int = Field(10, gt=0)
    wait_minutes: float = Field(10, ge=0)

    @model_validator(mode="after")
    def _has_an_end(self) -> TrainConfig:
        if not self.steps and not self.minutes:
            raise ValueError("give steps or minutes")
        return self

    @model_validator(mode="after")
    def _weights_are_of_squares(self) -> TrainConfig:
        if self.min_snr and self.loss != "l2":
            raise ValueError("min_snr weights squared errors; set loss = 'l2', or omit it")
        return self


class DataConfig(Settings):
    """Where samples come from.

    source: a folder of scans, added to the store first; layout: from datasets/layouts.py,
    recognised if None. store: a folder or, without a source, any URL that fsspec can read.
    validation_patients: held out in addition to the store's own held-out patients, and used for
    validation in their place. resident: whether cases are kept in the memory of the training device
    and samples drawn there; auto: if they take at most a third of it
    (datasets/samples/resident.py).
    """

    source: Path | None = None
    layout: str | None = None
    prepare: PrepareConfig = PrepareConfig()
    store: str = ".denovox/store"
    validation_patients: tuple[str, ...] = ()
    sample: SampleConfig = SampleConfig()
    resident: Literal["auto", "always", "never"] = "auto"


class DistillConfig(Settings):
    """A student that samples in a few steps (train/distill.py), for `denovox synthesize` alone.

    teacher: weights of a base, a bundled name or a path. steps: evaluations of the student per
    sample. substeps: of the teacher, for each of these. guidance: weight with which the teacher is
    guided, which the student then need not be; 1: none.
    """

    teacher: str
    steps: int = Field(4, gt=0)
    substeps: int = Field(5, gt=0)
    guidance: float = Field(2.0, ge=0)


class ExpertConfig(Settings):
    """A run that trains an expert in low noise (model/expert.py) for the weights of `start`.

    below: sigma, in model units, below which the expert answers instead of `start`'s own network,
    from which it is trained, unless `start` has an expert already. train.noise should be a law of
    such noise levels. The file that the run writes holds both networks.
    """

    below: float = Field(0.6, gt=0)


class Recipe(Settings):
    """Everything that defines a run. In TOML, model.net may be the name of a preset.

    start: weights to start from, a bundled name or a path; their network must match `model`, which
    may be omitted. With data.sample.control, these weights are frozen, and a control of `width`
    (model/controlnet.py) that steers them is trained. distill: learn from a teacher, which is also
    the start if none is given; train.noise and data.sample.noise_floor then play no part. expert:
    train an expert in low noise for `start`.
    """

    name: str = Field(pattern=r"^[^/\x00-\x1f]{1,200}$")  # of files
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    start: str | None = None
    distill: DistillConfig | None = None
    expert: ExpertConfig | None = None
    width: int = Field(16, gt=0)
    card: str = ""

    @model_validator(mode="after")
    def _control_has_a_base(self) -> Recipe:
        if self.data.sample.control is not None and self.start is None:
            raise ValueError(
                "a control is trained for a base; give the weights of that base as start"
            )
        return self

    @model_validator(mode="after")
    def _expert_has_a_start(self) -> Recipe:
        if self.expert is None:
            return self
        if self.start is None:
            raise ValueError("an expert serves given weights; name them as start")
        if self.distill is not None or self.data.sample.control is not None:
            raise ValueError("a run trains an expert, a control or a student; choose one")
        return self

    @model_validator(mode="after")
    def _distilled_weights_have_a_teacher(self) -> Recipe:
        if self.distill is not None and self.data.sample.control is not None:
            raise ValueError("a control cannot be distilled; leave out one of the two")
        if self.distill is None and self.model.distilled_steps:
            raise ValueError(
                "distilled weights only learn from their teacher; add [distill], or start from it"
            )
        return self


def read_recipe(path: Path) -> Recipe:
    """Read a recipe from TOML; `InputError` gives the first problem in it.

    Relative paths in a recipe are relative to the working directory.
    """
    from ..model.presets import PRESETS

    ensure(path.exists(), f"{path}: no such recipe")
    try:
        content = tomllib.loads(text_of(path).replace("\r\n", "\n"))
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None
    distill = content.get("distill")
    if isinstance(distill, dict) and isinstance(distill.get("teacher"), str):
        content.setdefault("start", distill["teacher"])
    model = content.get("model")
    if isinstance(model, dict) and isinstance(model.get("net"), str):
        if model["net"] not in PRESETS:
            known = ", ".join(PRESETS)
            raise InputError(f"{path}: model.net '{model['net']}' is not a preset ({known})")
        model["net"] = PRESETS[model["net"]].model_dump()
    if model is None and isinstance(content.get("start"), str):
        content["model"] = describe(locate(content["start"]))[0]
    try:
        return Recipe.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where}: {first['msg'].lower()}") from None
