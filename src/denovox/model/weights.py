"""Weights on disk: one safetensors file that includes its configuration and its card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field

from ..core.config import Settings
from ..core.errors import InputError
from ..core.schedule import Schedule
from ..io.atomic import write_file
from . import hub
from .controlnet import ControlConfig
from .denoiser import Prediction
from .expert import parted
from .unet import Net, NetConfig

BUNDLED = "base"
FOLDER = Path(str(files("denovox"))) / "weights"  # of the bundled ones


class ModelConfig(Settings):
    """What is needed to rebuild a denoiser from its weights.

    spacing_mm: smallest and largest voxel size that the model was trained on; scans outside this
        range are resampled first. patch: edge of the training patch, in voxels.
    zero_snr: as in core/schedule.py. distilled_steps: evaluations in which the weights draw a
        sample, at the only noise levels that they know (train/distill.py); 0: any number.
    expert_below: sigma below which an expert answers (model/expert.py); 0: there is none.
    """

    net: NetConfig
    prediction: Prediction = "noise"
    schedule: Literal["cosine", "linear"] = "cosine"
    zero_snr: bool = False
    spacing_mm: tuple[float, float] = (0.7, 6.0)
    patch: int = 32
    distilled_steps: int = Field(0, ge=0)
    expert_below: float = Field(0, ge=0)

    def build(self) -> Net:
        """A newly initialised network of this shape, from torch's global seed."""
        return Net(self.net)

    @property
    def noise_schedule(self) -> Schedule:
        """The schedule that converts sigma to the network's timestep."""
        return Schedule(self.schedule, zero_snr=self.zero_snr)


_KEYS: dict[type[Settings], str] = {ModelConfig: "denovox", ControlConfig: "denovox-control"}
Config = TypeVar("Config", ModelConfig, ControlConfig)


def save(
    path: Path,
    state: dict[str, torch.Tensor],
    config: ModelConfig | ControlConfig,
    card: dict[str, object],
) -> None:
    """Write weights in half precision with config and card included; whole or not at all."""
    from safetensors.torch import save as to_bytes

    half = {name: value.detach().half().contiguous().cpu() for name, value in state.items()}
    own = {_KEYS[type(config)]: config.model_dump_json(), "card": json.dumps(card)}
    path.parent.mkdir(parents=True, exist_ok=True)
    write_file(path, to_bytes(half, {"format": "pt", **own}))


def locate(name: str | Path) -> Path:
    """The path of a safetensors file, given it, a folder with one, a bundled file's name, or
    hf://owner/name@revision, which is downloaded."""
    if hub.is_hub(name):
        return hub.download(str(name))
    path = Path(name)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) == 1:
            return found[0]
        raise InputError(
            f"{path}: a folder of weights must contain one .safetensors file; found {len(found)}"
        )
    if path.is_file():
        return path
    bundled = FOLDER / f"{name}.safetensors"
    if bundled.is_file():
        return bundled
    raise InputError(f"weights '{name}' are neither a file nor bundled with denovox")


def resolve(names: Sequence[str | Path]) -> tuple[Path, Path | None]:
    """(base, control or None) from one or two names, in any order; each as in `locate`.

    For a control alone, the base is found by sha256 among bundled files and those in its folder.
    """
    paths = [locate(name) for name in names]
    controls = [path for path in paths if is_control(path)]
    bases = [path for path in paths if path not in controls]
    if len(controls) > 1 or len(bases) > 1:
        raise InputError(
            f"{', '.join(map(str, names))}: give one base, one control, or one of each"
        )
    if bases or not controls:
        return (bases or [locate(BUNDLED)])[0], next(iter(controls), None)
    return _base_of(controls[0]), controls[0]


def _base_of(control: Path) -> Path:
    config, card, _ = describe_control(control)
    for folder in (control.parent, FOLDER):
        for path in sorted(folder.glob("*.safetensors")):
            if sha256(path) == config.base:
                return path
    raise InputError(
        f"{control}: the base that this control belongs to ({card.get('base', 'unnamed')}, sha256"
        f" {config.base[:12]}) is neither bundled nor in its folder; give it with --weights as well"
    )


def describe(path: Path) -> tuple[ModelConfig, dict[str, object], str]:
    """(config, card, sha256) of a base's weights, without loading the tensors into a network."""
    if is_control(path):
        raise InputError(f"{path}: this is a control, not a base; give it with --control")
    return _described(path, ModelConfig, "these weights have no denovox configuration")


def describe_any(path: Path) -> tuple[ModelConfig | ControlConfig, dict[str, Any], str]:
    """The same for a base or a control."""
    return describe_control(path) if is_control(path) else describe(path)


def describe_control(path: Path) -> tuple[ControlConfig, dict[str, object], str]:
    """The same for a control's weights."""
    return _described(path, ControlConfig, "not the weights of a control (see `denovox finetune`)")


def _described(
    path: Path, kind: type[Config], missing: str
) -> tuple[Config, dict[str, object], str]:
    metadata = _metadata(path)
    if _KEYS[kind] not in metadata:
        raise InputError(f"{path}: {missing}")
    try:
        config = kind.model_validate_json(metadata[_KEYS[kind]])
    except ValueError:
        raise InputError(f"{path}: this version cannot read its configuration") from None
    return config, json.loads(metadata.get("card", "{}")), sha256(path)


def drops_conditions(card: dict[str, Any]) -> bool:
    """Whether weights with this card were trained with dropped conditions."""
    try:
        return float(card["recipe"]["data"]["sample"]["drop"]) > 0
    except (KeyError, TypeError, ValueError):
        return False


def is_bundled(path: Path) -> bool:
    """Whether a file is among the weights that come with denovox."""
    return path.absolute().parent == FOLDER.absolute()


def is_control(path: Path) -> bool:
    """Whether a weights file is that of a control."""
    return _KEYS[ControlConfig] in _metadata(path)


def sha256(path: Path) -> str:
    """The digest by which a control identifies its base, and results identify weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            return opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None


def state_for(path: Path, config: ModelConfig, expert: bool = False) -> dict[str, torch.Tensor]:
    """Float32 weights of a file, to continue from; `InputError` if its network differs.

    expert: those of its expert in low noise, or the same ones if it has none.
    """
    from safetensors.torch import load_file

    if describe(path)[0].net != config.net:
        raise InputError(
            f"{path}: these weights are for a different network from the one requested"
        )
    base, low = parted({name: value.float() for name, value in load_file(path).items()})
    return low if expert and low else base
