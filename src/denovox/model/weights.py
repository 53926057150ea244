"""Weights on disk: one safetensors file that carries its configuration and its card."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Sequence
from importlib.resources import files
from pathlib import Path
from typing import Literal, TypeVar

import torch
from torch import nn

from ..core.config import Settings
from ..core.errors import InputError
from ..core.schedule import Schedule
from .controlnet import Control, ControlConfig, Controlled
from .cpu_kernels import quicken
from .denoiser import Denoiser, Precision, Prediction, denoiser, use_bfloat16
from .unet import Net, NetConfig

BUNDLED = "base"
Placed = TypeVar("Placed", bound=nn.Module)


class ModelConfig(Settings):
    """What it takes to rebuild a denoiser from its weights.

    spacing_mm: smallest and largest voxel size the model was trained on; scans outside of it are
        resampled on the way in. patch: the training patch's edge, in voxels.
    zero_snr: of the schedule (core/schedule.py).
    """

    net: NetConfig
    prediction: Prediction = "noise"
    schedule: Literal["cosine", "linear"] = "cosine"
    zero_snr: bool = False
    spacing_mm: tuple[float, float] = (0.7, 6.0)
    patch: int = 32

    def build(self) -> Net:
        """A network of this shape with fresh weights, from torch's global seed."""
        return Net(self.net)

    @property
    def noise_schedule(self) -> Schedule:
        """The schedule that turns sigma into the network's timestep."""
        return Schedule(self.schedule, zero_snr=self.zero_snr)


_KEYS: dict[type[Settings], str] = {ModelConfig: "denovox", ControlConfig: "denovox-control"}
Config = TypeVar("Config", ModelConfig, ControlConfig)


def save(
    path: Path,
    state: dict[str, torch.Tensor],
    config: ModelConfig | ControlConfig,
    card: dict[str, object],
) -> None:
    """Write weights in half precision with config and card inside, whole or not at all."""
    from safetensors.torch import save as to_bytes

    half = {name: value.detach().half().contiguous().cpu() for name, value in state.items()}
    metadata = {"format": "pt", _KEYS[type(config)]: config.model_dump_json()}
    metadata["card"] = json.dumps(card)
    path.parent.mkdir(parents=True, exist_ok=True)
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(to_bytes(half, metadata))
        beside.replace(path)
    finally:
        beside.unlink(missing_ok=True)


def locate(name: str | Path) -> Path:
    """A path to a safetensors file, a folder that holds one, or the name of bundled weights."""
    path = Path(name)
    if path.is_dir():
        found = sorted(path.glob("*.safetensors"))
        if len(found) == 1:
            return found[0]
        raise InputError(
            f"{path}: a folder of weights must hold one .safetensors file, found {len(found)}"
        )
    if path.is_file():
        return path
    bundled = Path(str(files("denovox"))) / "weights" / f"{name}.safetensors"
    if bundled.is_file():
        return bundled
    raise InputError(f"weights '{name}' are neither a file nor bundled with denovox")


def resolve(names: Sequence[str | Path]) -> tuple[Path, Path | None]:
    """(base, control or None) from one or two names, in any order; each as in `locate`.

    A control alone finds its base by sha256, among those bundled and those that lie beside it.
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
    for folder in (control.parent, Path(str(files("denovox"))) / "weights"):
        for path in sorted(folder.glob("*.safetensors")):
            if sha256(path) == config.base:
                return path
    raise InputError(
        f"{control}: the base that this control belongs to ({card.get('base', 'unnamed')}, sha256"
        f" {config.base[:12]}) is neither bundled nor beside it; name it with --weights, too"
    )


def describe(path: Path) -> tuple[ModelConfig, dict[str, object], str]:
    """(config, card, sha256) of a base's weights, without reading the tensors into a network."""
    if is_control(path):
        raise InputError(f"{path}: this is a control, not a base; controls go to --control")
    return _described(path, ModelConfig, "these weights carry no denovox configuration")


def describe_control(path: Path) -> tuple[ControlConfig, dict[str, object], str]:
    """The same of a control's weights."""
    return _described(
        path, ControlConfig, "not a control's weights (`denovox finetune` makes some)"
    )


def _described(
    path: Path, kind: type[Config], missing: str
) -> tuple[Config, dict[str, object], str]:
    metadata = _metadata(path)
    if _KEYS[kind] not in metadata:
        raise InputError(f"{path}: {missing}")
    try:
        config = kind.model_validate_json(metadata[_KEYS[kind]])
    except ValueError:
        raise InputError(f"{path}: its configuration is not one this version knows") from None
    return config, json.loads(metadata.get("card", "{}")), sha256(path)


def is_control(path: Path) -> bool:
    """Whether a weights file is a control's."""
    return _KEYS[ControlConfig] in _metadata(path)


def sha256(path: Path) -> str:
    """The digest by which a control names its base, and figures name weights."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def _metadata(path: Path) -> dict[str, str]:
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            told: dict[str, str] = opened.metadata() or {}
            return told
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None


def place(net: Placed, device: str) -> Placed:
    """The network on a device, as it is fastest there."""
    if device == "cpu":
        quicken(net)
    return channels_last(net.to(device))


def channels_last(net: Placed) -> Placed:
    """The network in the memory layout in which 3D convolutions are fastest."""
    for parameter in net.parameters():
        if parameter.dim() == 5:
            parameter.data = parameter.data.contiguous(memory_format=torch.channels_last_3d)
    return net


def state_for(path: Path, config: ModelConfig) -> dict[str, torch.Tensor]:
    """Float32 weights of a file, to go on from; `InputError` where its network is another."""
    from safetensors.torch import load_file

    if describe(path)[0].net != config.net:
        raise InputError(f"{path}: these weights are of another network than the one asked for")
    return {name: value.float() for name, value in load_file(path).items()}


def with_control(base: Net, base_path: Path, path: Path) -> Controlled:
    """A base with the control of a file; `InputError` where it was born from another base."""
    from safetensors.torch import load_file

    config, card, _ = describe_control(path)
    digest = sha256(base_path)
    if config.base != digest:
        raise InputError(
            f"{path}: this control belongs to a base with sha256 {config.base[:12]}"
            f" ({card.get('base', 'unnamed')}), not to {base_path.name} ({digest[:12]});"
            " give that base as --weights, or tune a control for this one (`denovox finetune`)"
        )
    control = Control(base, config)
    control.load_state_dict({name: value.float() for name, value in load_file(path).items()})
    return Controlled(base, control)


def load(
    path: Path,
    device: str = "cpu",
    precision: Precision = "float32",
    control: Path | None = None,
) -> tuple[Denoiser, ModelConfig]:
    """A denoiser ready to use. precision "auto": bfloat16 where the hardware multiplies it.

    control: weights of one that was born from these.
    """
    config, _, _ = describe(path)
    base = config.build()
    base.load_state_dict(state_for(path, config))
    net: Net | Controlled = base
    if control is not None:
        net = with_control(base, path, control)
    net = place(net.eval().requires_grad_(False), device)
    bfloat16 = use_bfloat16(precision, device)
    return denoiser(net, config.noise_schedule, config.prediction, bfloat16), config
