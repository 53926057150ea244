"""What tests of the commands share."""

import pytest
import torch

from denovox.model import weights
from denovox.model.presets import PRESETS


@pytest.fixture
def tiny(tmp_path):
    """A weights file of the tiny preset, with numbers that are not zero."""
    config = weights.ModelConfig(net=PRESETS["tiny"])
    torch.manual_seed(0)
    state = {n: torch.randn_like(p) * 0.05 for n, p in config.build().named_parameters()}
    path = tmp_path / "weights" / "tiny.safetensors"
    weights.save(path, state, config, {"text": "for tests"})
    return path
