"""What a run says of itself: the rows, after a kill too, and the trackers."""

import csv
import importlib.machinery
import importlib.util
import math
import sys
import types
from pathlib import Path

import pytest

from denovox.core.errors import InputError
from denovox.datasets.samples.choice import SampleConfig
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.train import run_log
from denovox.train.config import DataConfig, Recipe, TrainConfig
from denovox.train.loop import Progress
from denovox.train.loss import Ledger
from denovox.train.run_log import COLUMNS, RunLog


def recipe(**train):
    return Recipe(
        name="mine",
        data=DataConfig(sample=SampleConfig(patch=16)),
        model=ModelConfig(net=PRESETS["tiny"]),
        train=TrainConfig(steps=40, samples=6, **train),
    )


def progress(step, loss=1.0, first=1, validation=None, **more):
    """A step that took 2 s, a quarter of it waiting, of a session that began with `first`."""
    passed = 2.0 * (step - first + 1)
    return Progress(step, loss, 0.5, passed, validation, dict, (0.25, 20), passed / 4, **more)


def written(folder, steps, say=print, **train):
    log = RunLog(folder, recipe(**train), Ledger(lambda u: u), say)
    for step in steps:
        log.step(step)
    log.close()
    return rows(folder)


def rows(folder):
    return list(csv.DictReader((folder / run_log.NAME).read_text().splitlines()))


def test_a_row_is_the_mean_of_its_steps(tmp_path):
    told = [progress(n, loss=float(n)) for n in range(1, 21)]
    found = written(tmp_path, told)
    assert [row["step"] for row in found] == ["10", "20"]
    assert [float(row["loss"]) for row in found] == [5.5, 15.5]
    assert tuple(found[0]) == COLUMNS
    for row in found:
        assert float(row["samples_per_s"]) == pytest.approx(3)
        assert float(row["waiting"]) == pytest.approx(0.25)
        assert row["validation"] == ""


def test_validations_and_the_last_step_have_rows_of_their_own(tmp_path):
    told = [progress(n, validation=0.5 if n == 33 else None) for n in range(31, 41)]
    found = written(tmp_path, told)
    assert [row["step"] for row in found] == ["33", "40"]
    assert (found[0]["validation"], found[0]["best"]) == ("0.5", "0.25")


def test_a_skipped_step_does_not_spoil_the_mean(tmp_path):
    told = [progress(n, loss=math.nan if n == 3 else 2.0, skipped=int(n > 2)) for n in range(1, 11)]
    (row,) = written(tmp_path, told)
    assert (row["loss"], row["skipped"]) == ("2", "1")


def test_what_is_done_again_after_a_kill_is_told_once(tmp_path):
    written(tmp_path, [progress(n) for n in range(1, 31)])
    path = tmp_path / run_log.NAME
    path.write_text(path.read_text() + "4")  # of 40, torn by the kill
    found = written(tmp_path, [progress(n, 7.0, first=20) for n in range(20, 31)])
    assert [(row["step"], row["loss"]) for row in found] == [("10", "1"), ("20", "7"), ("30", "7")]


def test_a_full_disk_is_said_once_and_the_run_goes_on(tmp_path, monkeypatch):
    heard = []
    log = RunLog(tmp_path, recipe(), Ledger(lambda u: u), heard.append)
    log.step(progress(1))
    real = Path.open

    def full(path, mode="r", **more):
        if mode == "a":
            raise OSError("no space left on device")
        return real(path, mode, **more)

    monkeypatch.setattr(Path, "open", full)
    for n in range(2, 31):
        log.step(progress(n))
    assert len(heard) == 1
    assert "the run continues" in heard[0]
    monkeypatch.setattr(Path, "open", real)
    for n in range(31, 41):
        log.step(progress(n))
    assert [row["step"] for row in rows(tmp_path)] == ["40"]


def test_a_tracker_that_is_not_there_is_one_sentence(tmp_path, monkeypatch):
    monkeypatch.setattr(run_log, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="wandb, which is not installed: pip install wandb"):
        RunLog(tmp_path, recipe(track=("wandb",)), Ledger(lambda u: u), print)


@pytest.mark.skipif(importlib.util.find_spec("tensorboard") is None, reason="no tensorboard")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # tensorboard's own
def test_tensorboard_is_told_the_same(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    written(tmp_path, [progress(n, float(n)) for n in range(1, 21)], track=("tensorboard",))
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    assert {"loss", "samples_per_s", "waiting"} <= set(events.Tags()["scalars"])
    assert [(e.step, e.value) for e in events.Scalars("loss")] == [(10, 5.5), (20, 15.5)]


def test_a_run_that_goes_on_is_the_same_run_for_wandb(tmp_path, monkeypatch):
    from accelerate import PartialState

    begun, told = [], []

    class Run:
        log = staticmethod(lambda row, step=None, **more: told.append((step, row["loss"])))
        finish = staticmethod(lambda: told.append("finished"))

    stand_in = types.ModuleType("wandb")
    stand_in.__spec__ = importlib.machinery.ModuleSpec("wandb", None)
    Run.config = stand_in.config = types.SimpleNamespace(update=lambda *a, **k: None)
    stand_in.init = lambda **known: begun.append(known) or Run()
    monkeypatch.setitem(sys.modules, "wandb", stand_in)
    PartialState._reset_state()  # as in a process of its own
    written(tmp_path, [progress(n, float(n)) for n in range(1, 11)], track=("wandb",))
    again = [progress(n, float(n), first=11) for n in range(11, 21)]
    written(tmp_path, again, track=("wandb",))
    assert told == [(10, 5.5), "finished", (20, 15.5), "finished"]
    first, second = begun
    assert first == second
    assert (first["project"], first["resume"], first["dir"]) == ("mine", "allow", str(tmp_path))
    written(tmp_path / "other", again, track=("wandb",))
    assert begun[2]["id"] != first["id"]
