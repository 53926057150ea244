"""A training run as one frozen configuration; recipes/*.toml are its TOML form."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, model_validator

from ..core.config import Settings
from ..core.errors import InputError
from ..datasets.prepare_config import PrepareConfig
from ..datasets.samples.choice import SampleConfig
from ..model.denoiser import Precision
from ..model.weights import ModelConfig, describe, locate


class NoiseConfig(Settings):
    """Which noise levels a run trains on.

    uniform: timesteps even over the schedule (the paper's). lognormal: log sigma normal with this
    mean and deviation (Karras et al. 2022, table 1), which spends the effort where restoring does.
    """

    law: Literal["uniform", "lognormal"] = "uniform"
    mean: float = -1.4
    deviation: float = Field(1.3, gt=0)


class TrainConfig(Settings):
    """The loop's own settings.

    steps, or minutes: how long a run is. With minutes it measures its speed for some seconds, fixes
    the number of its steps from that (at most `steps`, if both are given) and ends in time, its
    last validation and files included. samples: of a step; batch: of them at a time, 0: all, and
    half as many each time that they do not fit into a GPU's memory. decay: the last share of the
    steps, in which the learning rate falls to zero; a run can be lengthened before it has begun.
    optimizer: muon for convolution kernels and adamw for the rest, or adamw alone. compile: by
    torch.compile, where that works and pays.
    ema: half-life of the averaged weights, in steps. clip: gradient norm. patience: stop after this
    many validations without a better one, and keep the best; 0: never, and keep the last.
    min_snr: gamma of Min-SNR weights, for l2 alone (train/loss.py); 0: all noise levels alike.
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
            raise ValueError("give steps, or minutes")
        return self

    @model_validator(mode="after")
    def _weights_are_of_squares(self) -> TrainConfig:
        if self.min_snr and self.loss != "l2":
            raise ValueError("min_snr weighs squared errors; set loss = 'l2', or leave it out")
        return self


class DataConfig(Settings):
    """Where samples come from.

    source: a folder of scans, brought into the store first; layout: of datasets/layouts.py,
    recognised if None. store: a folder, or with no source any URL that fsspec reads.
    validation_patients: held back beside those that the store's own split holds back, and validated
    on in their place. resident: whether the cases lie in the training device's memory and samples
    are drawn there; auto: where they take a third of it at most (datasets/samples/resident.py).
    """

    source: Path | None = None
    layout: str | None = None
    prepare: PrepareConfig = PrepareConfig()
    store: str = ".denovox/store"
    validation_patients: tuple[str, ...] = ()
    sample: SampleConfig = SampleConfig()
    resident: Literal["auto", "always", "never"] = "auto"


class Recipe(Settings):
    """Everything a run is made from. In TOML, model.net may be the name of a preset.

    start: weights to begin from, by bundled name or path; their network must be the recipe's, and
    is it where `model` is left out. With data.sample.control it is these weights that are steered:
    they stay as they are, and a control of `width` (model/controlnet.py) is trained.
    """

    name: str
    data: DataConfig
    model: ModelConfig
    train: TrainConfig
    start: str | None = None
    width: int = Field(16, gt=0)
    card: str = ""

    @model_validator(mode="after")
    def _control_has_a_base(self) -> Recipe:
        if self.data.sample.control is not None and self.start is None:
            raise ValueError("a control is tuned for a base; name it as start")
        return self


def read_recipe(path: Path) -> Recipe:
    """A recipe from TOML; `InputError` with the first thing that is wrong in it.

    Relative paths in a recipe start at the working directory.
    """
    from ..model.presets import PRESETS

    try:
        told = tomllib.loads(path.read_text())
    except FileNotFoundError:
        raise InputError(f"{path}: no such recipe") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not valid TOML ({error})") from None
    model = told.get("model")
    if isinstance(model, dict) and isinstance(model.get("net"), str):
        if model["net"] not in PRESETS:
            known = ", ".join(PRESETS)
            raise InputError(f"{path}: model.net '{model['net']}' is not a preset ({known})")
        model["net"] = PRESETS[model["net"]].model_dump()
    if model is None and isinstance(told.get("start"), str):
        told["model"] = describe(locate(told["start"]))[0]
    try:
        return Recipe.model_validate(told)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"]))
        raise InputError(f"{path}: {where}: {first['msg'].lower()}") from None
