"""Weights files as a denoiser, ready to use."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from torch import Tensor

from ..core.condition import Condition
from ..core.errors import InputError
from ..core.process import use_one_thread, was_forked
from . import hub, weights
from .controlnet import Control, Controlled
from .cpu_inference import prepare
from .denoiser import Denoiser, Precision, denoiser, use_bfloat16
from .devices import device_named, place
from .expert import by_noise
from .unet import Net


def with_control(base: Net, base_path: Path, path: Path) -> Controlled:
    """A base with the control in a file; `InputError` if the control belongs to another base."""
    from safetensors.torch import load_file

    config, card, _ = weights.describe_control(path)
    digest = weights.sha256(base_path)
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
) -> tuple[Loaded, weights.ModelConfig]:
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
        sources = [
            (_name(path), weights.sha256(path)) for path in (self.path, self.control) if path
        ]
        return _sent, (sources, self.device, self.precision)

    def ready(self) -> tuple[Loaded, weights.ModelConfig]:
        """The same with its network, and the network's configuration."""
        denoise, config = _load(self.path, self.device, self.precision, self.control)
        return replace(self, denoiser=denoise), config


def _name(path: Path) -> str:
    """The name of bundled weights, where others were downloaded from, or their path."""
    return path.stem if weights.is_bundled(path) else hub.source_of(path) or str(path)


def _sent(sources: list[tuple[str, str]], device: str, precision: Precision) -> Loaded:
    """What another process pickled; sources: names as in `locate`, with their sha256."""
    paths = [weights.locate(name) for name, _ in sources]
    for path, (_, digest) in zip(paths, sources, strict=True):
        if weights.sha256(path) != digest:
            raise InputError(
                f"{path}: these are not the weights that the model was sent with (sha256"
                f" {weights.sha256(path)[:12]}, not {digest[:12]}); copy that file here"
            )
    return load(paths[0], device_named(device), precision, *paths[1:])[0]


def _load(
    path: Path, device: str, precision: Precision, control: Path | None
) -> tuple[Denoiser, weights.ModelConfig]:
    config, _, _ = weights.describe(path)
    bfloat16 = use_bfloat16(precision, device)

    def network(expert: bool = False) -> Net:
        net = config.build()
        net.load_state_dict(weights.state_for(path, config, expert))
        return net

    def ready(net: Net | Controlled) -> Denoiser:
        net.eval().requires_grad_(False)
        if device == "cpu":
            prepare(net, bfloat16)
        autocast = bfloat16 and device != "cpu"
        return denoiser(place(net, device), config.noise_schedule, config.prediction, autocast)

    if control is not None:  # tuned to the network that serves high noise, which answers throughout
        return ready(with_control(network(), path, control)), config
    if not config.expert_below:
        return ready(network()), config
    return by_noise(config.expert_below, ready(network(expert=True)), ready(network())), config
