"""What the tests of the command line share."""

import sys

import pytest

from denovox.inference import model
from denovox.scan import anatomy


@pytest.fixture
def coarse_calls(monkeypatch):
    """Shapes of the scans whose coarse anatomy is computed, wherever that is."""
    real, calls = anatomy.coarse, []

    def counting(volume):
        calls.append(volume.shape)
        return real(volume)

    for module in list(sys.modules.values()):
        if getattr(module, "coarse", None) is real:
            monkeypatch.setattr(module, "coarse", counting)
    return calls


@pytest.fixture
def idle(monkeypatch):
    """No model may be loaded."""

    def fail(*given: object) -> None:
        raise AssertionError("the model was loaded")

    monkeypatch.setattr(model, "load", fail)
