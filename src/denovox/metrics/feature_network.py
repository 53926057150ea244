"""The network whose features a FID compares: from a file, or from torch.hub.

None comes with denovox. What a file holds is told by its end, and which of them a protocol takes
by the number of its dimensions: .pt is TorchScript (2D or 3D), .pth a MedicalNet state dict (3D),
`hub:OWNER/REPO:ENTRY` whatever the repository's hubconf.py builds: that is code, and it is run.
"""

from __future__ import annotations

import hashlib
import pickle
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from torch import Tensor, nn

from ..core.errors import InputError, ensure, line

KINDS = {
    2: "a TorchScript file (.pt), or hub:OWNER/REPO:ENTRY"
    " (hub:Warvito/radimagenet-models:radimagenet_resnet50)",
    3: "MedicalNet's resnet_50_23dataset.pth, a TorchScript file (.pt), or hub:OWNER/REPO:ENTRY",
}
HEADS = ("fc.", "conv_seg.")  # of a state dict: behind the features
FAILS = (OSError, RuntimeError, ValueError, ImportError, AttributeError, KeyError, TypeError)


@dataclass(frozen=True)
class FeatureNetwork:
    """A network, as it is. sha256: of its file; from the hub, of its numbers (`digest`)."""

    net: nn.Module
    sha256: str
    device: str

    def __call__(self, batch: Float32[np.ndarray, "b ..."]) -> Float64[np.ndarray, "b f"]:
        """b channels and space -> b f, averaged over whatever space is left; `InputError`."""
        try:
            with torch.inference_mode():
                found = self.net(torch.from_numpy(batch).to(self.device))
        except RuntimeError as error:
            told = f"the network does not take {batch.shape} ({line(error)})"
            raise InputError(f"{told}; give one of the right dimensions") from None
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(batch):
            raise InputError("the network gives no row of features for each image; give another")
        return found.double().flatten(2).mean(2).cpu().numpy() if found.ndim > 2 else _rows(found)


def _rows(found: Tensor) -> Float64[np.ndarray, "b f"]:
    return found.double().cpu().numpy()


def load(name: str | None, dims: int, protocol: str) -> FeatureNetwork:
    """The network that `name` says, ready to run on the best device there is.

    dims: 2 or 3. `InputError` where none is named, it is not there, or is of the wrong kind.
    """
    if name is None:
        raise InputError(f"{protocol} needs --weights: {KINDS[dims]}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("hub:"):
        net = _from_hub(name)
        return FeatureNetwork(_ready(net, device), digest(net), device)
    path = Path(name)
    ensure(path.is_file(), f"{path} is no file; {protocol} needs {KINDS[dims]}")
    if path.suffix == ".pt":
        net = _torchscript(path)
    elif path.suffix == ".pth" and dims == 3:
        net = _medicalnet(path)
    else:
        raise InputError(f"{path} is not what {protocol} takes: {KINDS[dims]}")
    with path.open("rb") as stream:
        sha = hashlib.file_digest(stream, "sha256").hexdigest()
    return FeatureNetwork(_ready(net, device), sha, device)


def _ready(net: nn.Module, device: str) -> nn.Module:
    return net.to(device).eval()


def digest(net: nn.Module) -> str:
    """sha256 of the names and numbers of a network, in order of names."""
    found = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        found.update(key.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _from_hub(name: str) -> nn.Module:
    """hub:OWNER/REPO:ENTRY, or hub:FOLDER:ENTRY of a folder with a hubconf.py."""
    repo, _, entry = name.removeprefix("hub:").rpartition(":")
    ensure(repo and entry, f"'{name}' is not hub:OWNER/REPO:ENTRY")
    hub: Any = torch.hub.load
    try:
        if Path(repo).is_dir():
            net = hub(repo, entry, source="local")
        else:  # whoever writes hub: has said that its code may run
            net = hub(repo, entry, trust_repo=True, verbose=False)
    except FAILS as error:
        raise InputError(
            f"{name} could not be loaded ({line(error)}); check its name and the connection, or"
            " give a file"
        ) from None
    ensure(isinstance(net, nn.Module), f"{name} gives no network; check the entry's name")
    return net


def _torchscript(path: Path) -> nn.Module:
    load_jit: Any = torch.jit.load
    try:
        with warnings.catch_warnings():  # torch 2.13 would have torch.export; such files remain
            warnings.simplefilter("ignore", DeprecationWarning)
            return load_jit(str(path), map_location="cpu")
    except FAILS as error:
        told = f"{path} cannot be read as TorchScript ({line(error)})"
        raise InputError(f"{told}; save the network with torch.jit.save") from None


def _medicalnet(path: Path) -> nn.Module:
    """MONAI's 3D ResNet-50 without its head, filled from a state dict: 2048 features."""
    from monai.networks.nets.resnet import resnet50

    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (*FAILS, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{path} cannot be read as a state dict ({line(error)})") from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else None
    ensure(state, f"{path} holds no state dict; give MedicalNet's resnet_50_23dataset.pth")
    net = resnet50(
        spatial_dims=3,
        n_input_channels=1,
        conv1_t_stride=2,
        shortcut_type="B",
        feed_forward=False,
        bias_downsample=False,
    )
    bare = {str(key).removeprefix("module."): value for key, value in state.items()}
    body = {key: value for key, value in bare.items() if not key.startswith(HEADS)}
    try:
        net.load_state_dict(body)
    except RuntimeError as error:
        told = f"{path} is not MedicalNet's ResNet-50 ({line(error)})"
        raise InputError(f"{told}; give resnet_50_23dataset.pth") from None
    return net
