"""Weights on disk: one safetensors file that carries its configuration and its card."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path
from typing import Literal

import torch

from ..core.errors import InputError
from ..core.schedule import Schedule
from ..core.settings import Settings
from .denoiser import Denoiser, Precision, Prediction, denoiser, use_bfloat16
from .net import Net, NetConfig

BUNDLED = "base"


class ModelConfig(Settings):
    """What it takes to rebuild a denoiser from its weights.

    spacing_mm: smallest and largest voxel size the model was trained on; scans outside of it are
        resampled on the way in. patch: the training patch's edge, in voxels.
    """

    net: NetConfig
    prediction: Prediction = "noise"
    schedule: Literal["cosine", "linear"] = "cosine"
    spacing_mm: tuple[float, float] = (0.7, 6.0)
    patch: int = 32

    def build(self) -> Net:
        """A network of this shape with fresh weights, from torch's global seed."""
        return Net(self.net)

    @property
    def noise_schedule(self) -> Schedule:
        """The schedule that turns sigma into the network's timestep."""
        return Schedule(self.schedule)


def save(
    path: Path, state: dict[str, torch.Tensor], config: ModelConfig, card: dict[str, object]
) -> None:
    """Write weights in half precision with config and card inside, whole or not at all."""
    from safetensors.torch import save as to_bytes

    half = {name: value.detach().half().contiguous().cpu() for name, value in state.items()}
    metadata = {"format": "pt", "denovox": config.model_dump_json(), "card": json.dumps(card)}
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


def describe(path: Path) -> tuple[ModelConfig, dict[str, object], str]:
    """(config, card, sha256) of a weights file, without reading the tensors into a network."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as opened:
            metadata = opened.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: not a readable safetensors file ({error})") from None
    if "denovox" not in metadata:
        raise InputError(f"{path}: these weights carry no denovox configuration")
    try:
        config = ModelConfig.model_validate_json(metadata["denovox"])
    except ValueError:
        raise InputError(f"{path}: its configuration is not one this version knows") from None
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return config, json.loads(metadata.get("card", "{}")), digest


def place(net: Net, device: str) -> Net:
    """The network on a device, in the memory layout in which 3D convolutions are fastest."""
    net.to(device)
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


def load(
    path: Path, device: str = "cpu", precision: Precision = "float32"
) -> tuple[Denoiser, ModelConfig]:
    """A denoiser ready to use. precision "auto": bfloat16 where the hardware multiplies it."""
    config, _, _ = describe(path)
    net = config.build()
    net.load_state_dict(state_for(path, config))
    net = place(net.eval().requires_grad_(False), device)
    bfloat16 = use_bfloat16(precision, device)
    return denoiser(net, config.noise_schedule, config.prediction, bfloat16), config
