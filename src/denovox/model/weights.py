"""Weights on disk: one safetensors file that includes its configuration and its card."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar

import torch
from pydantic import Field
from torch import Tensor

from ..core.condition import Condition
from ..core.config import Settings
from ..core.errors import InputError
from ..core.process import use_one_thread, was_forked
from ..core.schedule import Schedule
from ..io.atomic import write_file
from . import hub
from .controlnet import Control, ControlConfig, Controlled
from .cpu_inference import prepare
from .denoiser import Denoiser, Precision, Prediction, denoiser, use_bfloat16
from .devices import device_named, place
from .unet import Net, NetConfig

BUNDLED = "base"
FOLDER = Path(str(files("denovox"))) / "weights"  # of the bundled ones


class ModelConfig(Settings):
    """What is needed to rebuild a denoiser from its weights.

    spacing_mm: smallest and largest voxel size that the model was trained on; scans outside this
        range are resampled first. patch: edge of the training patch, in voxels.
    zero_snr: as in core/schedule.py. distilled_steps: evaluations in which the weights draw a
        sample, at the only noise levels that they know (train/distill.py); 0: any number.
    """

    net: NetConfig
    prediction: Prediction = "noise"
    schedule: Literal["cosine", "linear"] = "cosine"
    zero_snr: bool = False
    spacing_mm: tuple[float, float] = (0.7, 6.0)
    patch: int = 32
    distilled_steps: int = Field(0, ge=0)

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


def state_for(path: Path, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Float32 weights of a file, to continue from; `InputError` if its network differs."""
    from safetensors.torch import load_file

    if describe(path)[0].net != config.net:
        raise InputError(
            f"{path}: these weights are for a different network from the one requested"
        )
    return {name: value.float() for name, value in load_file(path).items()}


def with_control(base: Net, base_path: Path, path: Path) -> Controlled:
    """A base with the control in a file; `InputError` if the control belongs to another base."""
    from safetensors.torch import load_file

    config, card, _ = describe_control(path)
    digest = sha256(base_path)
    if config.base != digest:
        raise InputError(
            f"{path}: this control belongs to a base with sha256 {config.base[:12]}"
            f" ({card.get('base', 'unnamed')}), not to {base_path.name} ({digest[:12]});"
            " give that base with --weights, or tune a control for this one (`denovox finetune`)"
        )
    control = Control(base, config)
    control.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return Controlled(base, control)


def load(
    path: Path, device: str = "cpu", precision: Precision = "float32", control: Path | None = None
) -> tuple[Loaded, ModelConfig]:
    """A denoiser, ready to use. precision "auto": bfloat16 if the hardware supports it natively.

    control: weights of a control that was tuned from these.
    """
    if was_forked():  # perhaps by a process that did not import denovox before
        use_one_thread()
    return Loaded(path.absolute(), device, precision, control and control.absolute()).ready()


@dataclass(frozen=True, eq=False)
class Loaded:
    """A `Denoiser` of files. Pickled, it is their paths, and the receiver loads them again.

    Bundled weights are sent by name, those of the Hub by commit, so that other machines find their
    own. `InputError` where a receiver's files are not there or differ, or it lacks the device.
    """

    path: Path
    device: str
    precision: Precision
    control: Path | None
    denoiser: Denoiser | None = None

    def __call__(self, x: Tensor, sigma: float, condition: Condition) -> Tensor:
        """x0."""
        assert self.denoiser is not None
        return self.denoiser(x, sigma, condition)

    def __deepcopy__(self, memo: dict[int, Any]) -> Loaded:
        return self  # weights never change

    def __reduce__(self) -> tuple[Any, ...]:
        sources = [(_name(path), sha256(path)) for path in (self.path, self.control) if path]
        return _sent, (sources, self.device, self.precision)

    def ready(self) -> tuple[Loaded, ModelConfig]:
        """The same with its network, and the network's configuration."""
        denoise, config = _load(self.path, self.device, self.precision, self.control)
        return replace(self, denoiser=denoise), config


def _name(path: Path) -> str:
    """The name of bundled weights, where others were downloaded from, or their path."""
    return path.stem if is_bundled(path) else hub.source_of(path) or str(path)


def _sent(sources: list[tuple[str, str]], device: str, precision: Precision) -> Loaded:
    """What another process pickled; sources: names as in `locate`, with their sha256."""
    paths = [locate(name) for name, _ in sources]
    for path, (_, digest) in zip(paths, sources, strict=True):
        if sha256(path) != digest:
            raise InputError(
                f"{path}: these are not the weights that the model was sent with (sha256"
                f" {sha256(path)[:12]}, not {digest[:12]}); copy that file here"
            )
    return load(paths[0], device_named(device), precision, *paths[1:])[0]


def _load(
    path: Path, device: str, precision: Precision, control: Path | None
) -> tuple[Denoiser, ModelConfig]:
    config, _, _ = describe(path)
    base = config.build()
    base.load_state_dict(state_for(path, config))
    net: Net | Controlled = base
    if control is not None:
        net = with_control(base, path, control)
    bfloat16 = use_bfloat16(precision, device)
    net.eval().requires_grad_(False)
    if device == "cpu":
        prepare(net, bfloat16)
    autocast = bfloat16 and device != "cpu"
    net = place(net, device)
    return denoiser(net, config.noise_schedule, config.prediction, autocast), config
