"""Networks from files and from a hub's folder, with tiny stand-ins; what is no network is told."""

from __future__ import annotations

import hashlib
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from denovox.core.errors import InputError
from denovox.metrics import feature_network as f


class Small(nn.Module):
    """Two features of each place: the first channel's value, and its square."""

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor([1.0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.stack([self.gain * x[:, 0], x[:, 0] ** 2], 1)


@pytest.fixture
def script(tmp_path) -> Path:
    path = tmp_path / "small.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.trace(Small(), torch.zeros(1, 3, 4, 5)), str(path))
    return path


@pytest.fixture
def hub(tmp_path) -> Path:
    """A repository as torch.hub knows them."""
    folder = tmp_path / "repo"
    folder.mkdir()
    text = """
import torch
from torch import nn

def small():
    torch.manual_seed(0)
    return nn.Conv2d(3, 2, 1)

def words():
    return "no network"

def broken():
    raise RuntimeError("no route to host")
"""
    (folder / "hubconf.py").write_text(text)
    return folder


def test_torchscript_is_averaged_over_space(script):
    net = f.load(str(script), 2, "fid25d-maisi")
    assert net.sha256 == hashlib.sha256(script.read_bytes()).hexdigest()
    batch = np.random.default_rng(0).standard_normal((2, 3, 4, 5)).astype(np.float32)
    found = net(batch)
    first = batch[:, 0].astype(np.float64)
    expected = np.stack([first.mean((1, 2)), (first**2).mean((1, 2))], 1)
    assert found == pytest.approx(expected, rel=1e-5)


def test_a_network_of_the_hub(hub):
    net = f.load(f"hub:{hub}:small", 2, "fid25d-maisi")
    assert net(np.zeros((4, 3, 2, 2), np.float32)).shape == (4, 2)
    assert net.sha256 == f.load(f"hub:{hub}:small", 2, "fid25d-maisi").sha256
    with torch.no_grad():
        net.net.bias += 1e-3
    assert f.digest(net.net) != net.sha256
    with pytest.raises(InputError, match="does not return a network"):
        f.load(f"hub:{hub}:words", 2, "fid25d-maisi")
    with pytest.raises(InputError, match=r"no route to host.*connection"):
        f.load(f"hub:{hub}:broken", 2, "fid25d-maisi")
    with pytest.raises(InputError, match="could not be loaded"):
        f.load(f"hub:{hub}:other", 2, "fid25d-maisi")
    with pytest.raises(InputError, match="hub:OWNER/REPO:ENTRY"):
        f.load("hub:radimagenet", 2, "fid25d-maisi")


def test_a_repository_is_asked_for_by_name(monkeypatch):
    asked: list[object] = []

    def load(*given: object, **named: object) -> nn.Module:
        asked.extend([given, named])
        return nn.Identity()

    monkeypatch.setattr(torch.hub, "load", load)
    f.load("hub:Warvito/radimagenet-models:radimagenet_resnet50", 2, "fid25d-maisi")
    told = {"trust_repo": True, "verbose": False}
    assert asked == [("Warvito/radimagenet-models", "radimagenet_resnet50"), told]


def test_medicalnet_with_or_without_its_prefix(tmp_path, monkeypatch):
    from monai.networks.nets import resnet

    # Four levels of one block of a few channels: the real one is 46 million numbers.
    def small(**told: object) -> nn.Module:
        asked.append(told)
        torch.manual_seed(len(asked))
        return resnet.ResNet("bottleneck", [1, 1, 1, 1], [2, 2, 2, 2], **told)

    asked: list[dict[str, object]] = []
    monkeypatch.setattr(resnet, "resnet50", small)
    told = {"spatial_dims": 3, "n_input_channels": 1, "conv1_t_stride": 2}
    told |= {"shortcut_type": "B", "feed_forward": False, "bias_downsample": False}
    state = small(**told).state_dict()
    image = np.random.default_rng(0).standard_normal((1, 1, 33, 33, 33)).astype(np.float32)
    found = []
    for name, prefix in (("bare", ""), ("parallel", "module.")):
        path = tmp_path / f"{name}.pth"
        kept = {prefix + key: value for key, value in state.items()}
        kept[f"{prefix}conv_seg.0.weight"] = torch.zeros(3)
        torch.save({"state_dict": kept} if prefix else kept, path)
        net = f.load(str(path), 3, "fid3d-medicalnet")
        found.append(net(image))
    assert asked[-1] == told
    assert found[0].shape == (1, 8)
    assert np.array_equal(found[0], found[1])
    other = small(**told).eval()
    assert not np.allclose(f.FeatureNetwork(other, "", "cpu")(image), found[0], rtol=1e-3)
    del state["layer4.0.conv1.weight"]
    torch.save(state, tmp_path / "part.pth")
    with pytest.raises(InputError, match="not MedicalNet's ResNet-50"):
        f.load(str(tmp_path / "part.pth"), 3, "fid3d-medicalnet")


def test_what_is_no_network_is_one_sentence(script, tmp_path):
    with pytest.raises(InputError, match=r"needs --weights: a TorchScript.*radimagenet"):
        f.load(None, 2, "fid25d-maisi")
    with pytest.raises(InputError, match=r"needs --weights: MedicalNet"):
        f.load(None, 3, "fid3d-medicalnet")
    with pytest.raises(InputError, match="is not a file"):
        f.load(str(tmp_path / "none.pt"), 2, "fid25d-maisi")
    for name in ("state.pth", "text.pt", "list.pth"):
        (tmp_path / name).write_bytes(b"neither")
    with pytest.raises(InputError, match="not what fid25d-maisi needs"):
        f.load(str(tmp_path / "state.pth"), 2, "fid25d-maisi")
    with pytest.raises(InputError, match="cannot be read as TorchScript"):
        f.load(str(tmp_path / "text.pt"), 2, "fid25d-maisi")
    with pytest.raises(InputError, match="cannot be read as a state dict"):
        f.load(str(tmp_path / "state.pth"), 3, "fid3d-medicalnet")
    torch.save([1, 2], tmp_path / "list.pth")
    with pytest.raises(InputError, match="does not contain a state dict"):
        f.load(str(tmp_path / "list.pth"), 3, "fid3d-medicalnet")
    net = f.FeatureNetwork(nn.Conv3d(1, 1, 1), "", "cpu")
    with pytest.raises(InputError, match="does not accept"):
        net(np.zeros((2, 3, 4, 4), np.float32))
    with pytest.raises(InputError, match="one row of features"):
        f.FeatureNetwork(nn.Flatten(0), "", "cpu")(np.zeros((2, 3), np.float32))
