"""torch.compile on trial: kept where it pays, dropped where it does not or fails."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from toy import toy

from denovox.datasets.samples.batch import Batch, batches
from denovox.train import compiling
from denovox.train.compiling import TIMED, WARMING, Compiling
from denovox.train.config import TrainConfig
from denovox.train.loop import Session, train


class Clock:
    """Seconds that pass by themselves only when a step is made."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 0.0
        monkeypatch.setattr(compiling.time, "monotonic", lambda: self.now)


@pytest.mark.parametrize(("with_it", "stays"), [(0.5, True), (0.99, False), (2.0, False)])
def test_it_stays_where_it_pays(monkeypatch, with_it, stays):
    clock, net, said = Clock(monkeypatch), nn.Linear(2, 2), list[str]()
    monkeypatch.setattr(net, "compile", lambda: setattr(net, "_compiled_call_impl", net.forward))
    trial = Compiling(net, lambda: None, said.append)
    for step in range(3 * (WARMING + TIMED)):
        # What a compiler takes for itself is not held against it.
        compiles = step == WARMING + TIMED
        clock.now += with_it if net._compiled_call_impl else 1.0
        clock.now += 100 if compiles else 0
        trial.after_step()
        assert trial.trying == (step + 1 < 2 * (WARMING + TIMED))
    assert (net._compiled_call_impl is not None) == stays
    assert len(said) == 1
    assert ("is no faster" in said[0]) != stays


def test_a_compiler_that_fails_costs_no_step(tmp_path, monkeypatch):
    config = TrainConfig(steps=14, samples=2, batch=2, lr=0.01, precision="float32")

    def run(folder: str, compile_: bool, said: list[str]) -> list[float]:
        torch.manual_seed(0)
        net = nn.Linear(8, 1)

        def predict(batch: Batch) -> torch.Tensor:
            return net(batch.x0.flatten(1))[:, 0] ** 2

        def broken(*_: object) -> torch.Tensor:
            raise RuntimeError("no compiler here. Install one.")

        monkeypatch.setattr(net, "compile", lambda: setattr(net, "_compiled_call_impl", broken))
        settings = config.model_copy(update={"compile": compile_})
        session = Session(say=said.append, net=net)
        parameters = dict(net.named_parameters())
        draw = batches(lambda n: toy(torch.arange(8.0) / (n + 1)))
        steps = train(predict, parameters, draw, settings, tmp_path / folder, session=session)
        return [step.loss for step in steps]

    said: list[str] = []
    assert run("with", True, said) == run("without", False, [])
    assert said == ["torch.compile failed (no compiler here. Install one): continuing without it"]


def test_an_error_of_ones_own_is_not_the_compilers(tmp_path):
    trial = Compiling(nn.Linear(2, 2), lambda: None, print)
    assert not trial.failed(RuntimeError("mine"))
