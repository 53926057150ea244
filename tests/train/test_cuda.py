"""Training on a GPU: the CPU's curve, no waiting inside a step, NaN that changes nothing."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny_store import make_store

from denovox.datasets.samples.batch import Batch
from denovox.datasets.samples.choice import SampleConfig
from denovox.datasets.samples.resident import Resident
from denovox.model.devices import place
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.train.config import TrainConfig
from denovox.train.distributed import Group
from denovox.train.loop import Session, train
from denovox.train.loss import Predict, predictor
from denovox.train.run_state import RunState
from denovox.train.step import Stepper

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")

CONFIG = TrainConfig(
    steps=8, samples=4, batch=4, lr=1e-3, optimizer="muon", loss="l2", precision="float32"
)
MODEL = ModelConfig(net=PRESETS["tiny"], prediction="v", patch=16)


def learner(folder: Path, device: str) -> tuple[Predict, dict[str, torch.nn.Parameter], Resident]:
    torch.manual_seed(0)
    net = place(MODEL.build(), device)
    cases = make_store(folder)
    draw = Resident(cases, SampleConfig(patch=16, grain=0.5, zoom=(0.8, 1.2)), 0, device)
    return predictor(net, MODEL, CONFIG, device), dict(net.named_parameters()), draw


def curve(folder: Path, device: str) -> list[float]:
    predict, parameters, draw = learner(folder / "store", device)
    session = Session(group=Group(device=device))
    steps = train(predict, parameters, draw, CONFIG, folder / "run", session=session)
    return [step.loss for step in steps]


def test_the_curve_is_the_cpus_one_step_later(tmp_path):
    expected, got = curve(tmp_path / "cpu", "cpu"), curve(tmp_path / "cuda", "cuda")
    assert math.isnan(got[0])  # nobody waited for the first
    assert got[1:] == pytest.approx(expected[:-1], rel=1e-3)


def stepper(folder: Path, nan_at: int = -1) -> tuple[Stepper, RunState, Iterator[Batch]]:
    predict, parameters, draw = learner(folder / "store", "cuda")
    state = RunState(parameters, CONFIG)
    group = Group(device="cuda")

    def batches() -> Iterator[Batch]:
        for n in itertools.count():
            batch = draw(range(4 * n, 4 * n + 4))
            yield replace(batch, x0=batch.x0 * math.nan) if n == nan_at else batch

    return Stepper(predict, state, CONFIG, folder, group, None, print), state, batches()


def test_nothing_is_waited_for_inside_a_step(tmp_path):
    one, _, drawn = stepper(tmp_path)
    for _ in range(3):
        one.learn(drawn, 1e-3)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for _ in range(3):
            one.learn(drawn, 1e-3)
    finally:
        torch.cuda.set_sync_debug_mode("default")


def test_a_step_that_is_not_finite_changes_nothing(tmp_path):
    one, state, drawn = stepper(tmp_path, nan_at=3)
    for _ in range(3):
        one.learn(drawn, 1e-3)
    one.settle()
    before = {name: p.detach().clone() for name, p in state.parameters.items()}
    average = {name: value.clone() for name, value in state.ema.average.items()}
    one.learn(drawn, 1e-3)
    one.settle()
    assert state.skipped == 1
    assert all(torch.equal(p, before[name]) for name, p in state.parameters.items())
    assert all(torch.equal(a, average[name]) for name, a in state.ema.average.items())
    one.learn(drawn, 1e-3)
    one.settle()
    assert all(p.isfinite().all() for p in state.parameters.values())
