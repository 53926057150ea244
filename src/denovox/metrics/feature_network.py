"""The network whose features a FID compares: from a file, or from torch.hub.

denovox bundles none. The suffix determines the format, and the number of dimensions determines
which formats a protocol accepts: .pt is TorchScript (2D or 3D), .pth a MedicalNet state dict (3D),
`hub:OWNER/REPO:ENTRY` whatever the repository's hubconf.py builds, by running its code.
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
HEADS = ("fc.", "conv_seg.")  # of a state dict: layers after the features
FAILS = (OSError, RuntimeError, ValueError, ImportError, AttributeError, KeyError, TypeError)


@dataclass(frozen=True)
class FeatureNetwork:
    """A network, unmodified. sha256: of its file; from the hub, of its parameters (`digest`)."""

    net: nn.Module
    sha256: str
    device: str

    def __call__(self, batch: Float32[np.ndarray, "b ..."]) -> Float64[np.ndarray, "b f"]:
        """b channels, space -> b f, averaged over any remaining space; `InputError` if it fails."""
        try:
            with torch.inference_mode():
                found = self.net(torch.from_numpy(batch).to(self.device))
        except RuntimeError as error:
            problem = f"the network does not accept {batch.shape} ({line(error)})"
            raise InputError(f"{problem}; give one with the right dimensions") from None
        if not isinstance(found, Tensor) or found.ndim < 2 or len(found) != len(batch):
            raise InputError(
                "the network does not return one row of features per image; give another"
            )
        rows = found.double()
        return (rows.flatten(2).mean(2) if rows.ndim > 2 else rows).cpu().numpy()


def load(name: str | None, dims: int, protocol: str) -> FeatureNetwork:
    """The network called `name`, ready to run on the best available device.

    dims: 2 or 3. `InputError` where the name is missing, not found, or of the wrong kind.
    """
    if name is None:
        raise InputError(f"{protocol} needs --weights: {KINDS[dims]}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    if name.startswith("hub:"):
        net = _from_hub(name)
        return FeatureNetwork(_ready(net, device), digest(net), device)
    path = Path(name)
    ensure(path.is_file(), f"{path} is not a file; {protocol} needs {KINDS[dims]}")
    if path.suffix == ".pt":
        net = _torchscript(path)
    elif path.suffix == ".pth" and dims == 3:
        net = _medicalnet(path)
    else:
        raise InputError(f"{path} is not what {protocol} needs: {KINDS[dims]}")
    with path.open("rb") as stream:
        sha = hashlib.file_digest(stream, "sha256").hexdigest()
    return FeatureNetwork(_ready(net, device), sha, device)


def _ready(net: nn.Module, device: str) -> nn.Module:
    return net.to(device).eval()


def digest(net: nn.Module) -> str:
    """sha256 of the names and values of a network's state, sorted by name."""
    found = hashlib.sha256()
    for key, value in sorted(net.state_dict().items()):
        found.update(key.encode())
        found.update(value.detach().cpu().contiguous().numpy().tobytes())
    return found.hexdigest()


def _from_hub(name: str) -> nn.Module:
    """hub:OWNER/REPO:ENTRY, or hub:FOLDER:ENTRY for a folder with a hubconf.py."""
    repo, _, entry = name.removeprefix("hub:").rpartition(":")
    ensure(repo and entry, f"'{name}' is not hub:OWNER/REPO:ENTRY")
    hub: Any = torch.hub.load
    try:
        if Path(repo).is_dir():
            net = hub(repo, entry, source="local")
        else:  # the hub: prefix is the user's consent to run its code
            net = hub(repo, entry, trust_repo=True, verbose=False)
    except FAILS as error:
        raise InputError(
            f"{name} could not be loaded ({line(error)}); check the name and the connection, or"
            " give a file"
        ) from None
    ensure(
        isinstance(net, nn.Module), f"{name} does not return a network; check the name of the entry"
    )
    return net


def _torchscript(path: Path) -> nn.Module:
    load_jit: Any = torch.jit.load
    try:
        with warnings.catch_warnings():  # torch 2.13 prefers torch.export, but such files exist
            warnings.simplefilter("ignore", DeprecationWarning)
            return load_jit(str(path), map_location="cpu")
    except FAILS as error:
        problem = f"{path} cannot be read as TorchScript ({line(error)})"
        raise InputError(f"{problem}; save the network with torch.jit.save") from None


def _medicalnet(path: Path) -> nn.Module:
    """MONAI's 3D ResNet-50 without its head, loaded from a state dict: 2048 features."""
    from monai.networks.nets.resnet import resnet50

    try:
        state: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (*FAILS, pickle.UnpicklingError, EOFError) as error:
        raise InputError(f"{path} cannot be read as a state dict ({line(error)})") from None
    state = state.get("state_dict", state) if isinstance(state, Mapping) else None
    ensure(
        state, f"{path} does not contain a state dict; give MedicalNet's resnet_50_23dataset.pth"
    )
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
        problem = f"{path} is not MedicalNet's ResNet-50 ({line(error)})"
        raise InputError(f"{problem}; give resnet_50_23dataset.pth") from None
    return net
