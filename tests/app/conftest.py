"""What tests of the commands share."""

import pytest
import torch

from denovox.model import weights
from denovox.model.presets import PRESETS

# A third level: MONAI's middle always attends, and at half of a scan's size that takes minutes.
NET = PRESETS["tiny"].model_copy(update={"channels": (8, 8, 16), "attention": (False,) * 3})


@pytest.fixture
def tiny(tmp_path):
    """A weights file of a tiny network, with numbers that are not zero."""
    config = weights.ModelConfig(net=NET)
    torch.manual_seed(0)
    state = {n: torch.randn_like(p) * 0.05 for n, p in config.build().named_parameters()}
    path = tmp_path / "weights" / "tiny.safetensors"
    weights.save(path, state, config, {"text": "for tests"})
    return path


def steer(base, path, kind):
    """A control file for a tiny base, with numbers that are not zero."""
    from denovox.model.control import Control, ControlConfig

    net = weights.describe(base)[0].build()
    control = Control(net, ControlConfig(kind=kind, base=weights.sha256(base), width=4))
    torch.manual_seed(1)
    state = {n: torch.randn_like(p) * 0.05 for n, p in control.named_parameters()}
    weights.save(path, state, control.config, {"text": "for tests", "base": "tiny"})
    return path


@pytest.fixture
def tiny_lesion(tiny):
    """A control for lesions, beside its base."""
    return steer(tiny, tiny.with_name("lesion.safetensors"), "lesion")


@pytest.fixture
def tiny_superres(tiny):
    """A control for super-resolution, beside its base."""
    return steer(tiny, tiny.with_name("superres.safetensors"), "low-resolution")
