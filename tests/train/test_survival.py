"""Nothing is lost: kills at any moment, full disks, damaged states, stores that go away, NaN."""

import csv
import itertools
import os
import resource
import signal
import threading
import time

import numpy as np
import pytest
import torch
from tiny_store import make_store
from torch.nn import Parameter
from toy import toy

from denovox.core.errors import InputError
from denovox.datasets import store
from denovox.datasets.samples.batch import batches
from denovox.datasets.samples.choice import SampleConfig
from denovox.datasets.samples.multilevel import sampler
from denovox.train import checkpoint, prefetch
from denovox.train.config import TrainConfig
from denovox.train.loop import Session, train
from denovox.train.step import SKIPPED

# Python 3.12 says of every fork in a process with threads that it may hang; ours hold no lock.
pytestmark = pytest.mark.filterwarnings("ignore:.*fork.*:DeprecationWarning")
if not hasattr(os, "fork"):
    pytest.skip("kills are made with fork", allow_module_level=True)

# Some 2 MB of state, written after every step: about half of a run's time is spent writing.
CONFIG = TrainConfig(
    steps=60, samples=2, lr=0.01, ema=4, precision="float32", checkpoint_minutes=1e-9, workers=1
)


MANY = 46**3


def point(n):
    """A sample of a problem whose parameters are many."""
    return toy(torch.arange(n, n + MANY).sin(), f"case-{n}")


def go(folder, config=CONFIG, predict=None, **session):
    parameters = {"w": Parameter(torch.zeros(MANY))}

    def square(samples):
        return ((parameters["w"] - samples.x0.flatten(1)) ** 2).mean(1)

    if predict is not None:
        predict = predict(square)
    run = train(
        predict or square, parameters, batches(point), config, folder, None, Session(**session)
    )
    return list(run), parameters["w"].detach()


def in_child(work):
    """Run it in a process of its own; its number."""
    pid = os.fork()
    if pid == 0:
        code = 1
        try:
            torch.set_num_threads(1)  # threads of the parent are not in the child
            work()
            code = 0
        finally:
            os._exit(code)
    return pid


def ended(pid):
    """How a child ended: its exit code, or minus the signal."""
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """What a run that nothing happens to comes to."""
    return go(tmp_path_factory.mktemp("whole"))[1]


@pytest.mark.slow
def test_fifty_kills_at_random_moments_change_nothing(tmp_path, whole):
    rng = np.random.default_rng(50)
    kills, torn, runs = 0, 0, itertools.count()
    began = time.monotonic()  # of a run that nothing happens to: as long as the machine is busy
    assert ended(in_child(lambda: go(tmp_path / "timed"))) == 0
    span = time.monotonic() - began
    folder = tmp_path / str(next(runs))
    while kills < 50:
        pid = in_child(lambda folder=folder: go(folder))
        time.sleep(rng.uniform(0, 0.7 * span))
        os.kill(pid, signal.SIGKILL)
        torn += bool(list(folder.glob(".*.part")))
        if ended(pid) == 0:  # it was faster
            assert torch.equal(go(folder)[1], whole)
            folder = tmp_path / str(next(runs))
            continue
        kills += 1
        before = checkpoint.load(folder)[0]  # the last good state is there, once there was one
        assert before is not None or not (folder / checkpoint.NAME).exists()
    assert torch.equal(go(folder)[1], whole)
    assert torn  # about half of the moments are inside a write


MOMENTS = ("opened", "half written", "written", "kept the last", "renamed")


@pytest.mark.slow
@pytest.mark.parametrize("moment", MOMENTS)
def test_a_kill_inside_a_write(tmp_path, whole, monkeypatch, moment):
    def die(*args):
        os.kill(os.getpid(), signal.SIGKILL)

    def half(state, file):
        file.write(b"half of it")
        file.flush()
        die()

    def work():
        said = itertools.count()

        def session_stopped():  # 20 steps go well
            if next(said) == 20:
                patch()
            return False

        def patch():
            replace = checkpoint.Path.replace
            if moment == "opened":
                monkeypatch.setattr(checkpoint, "_write", die)
            elif moment == "half written":
                monkeypatch.setattr(torch, "save", half)
            elif moment == "written":
                monkeypatch.setattr(os, "fsync", die)
            elif moment == "renamed":
                monkeypatch.setattr(checkpoint, "_flush", die)
            else:
                monkeypatch.setattr(
                    checkpoint.Path,
                    "replace",
                    lambda a, b: (replace(a, b), die()) if b.name == checkpoint.BEFORE else None,
                )

        go(tmp_path, stopped=session_stopped)

    assert ended(in_child(work)) == -signal.SIGKILL
    state, said = checkpoint.load(tmp_path)
    assert state["step"] == (21 if moment == "renamed" else 20)
    assert bool(said) == (moment == "kept the last")
    assert torch.equal(go(tmp_path)[1], whole)
    assert not list(tmp_path.glob(".*.part"))  # what was torn is swept away


def test_a_damaged_state_is_passed_over_for_the_one_before(tmp_path, whole):
    go(
        tmp_path,
        CONFIG.model_copy(update={"steps": 60}),
        stopped=iter([False] * 30 + [True] * 9).__next__,
    )
    path = tmp_path / checkpoint.NAME
    step = checkpoint.load(tmp_path)[0]["step"]
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1  # a single bit, where only a checksum sees it
    path.write_bytes(data)
    state, said = checkpoint.load(tmp_path)
    assert state["step"] < step
    assert "resuming from the previous state" in said
    heard = []
    assert torch.equal(go(tmp_path, say=heard.append)[1], whole)
    assert heard == [said]


@pytest.mark.parametrize("cut", [0, 100, 0.5, 0.999])
def test_a_torn_state_is_passed_over(tmp_path, cut):
    for step in (1, 2):
        checkpoint.save(tmp_path, {"step": step, "w": torch.ones(1000)})
    path = tmp_path / checkpoint.NAME
    data = path.read_bytes()
    path.write_bytes(data[: int(cut * len(data)) if cut < 1 else cut])
    assert checkpoint.load(tmp_path)[0]["step"] == 1
    (tmp_path / checkpoint.BEFORE).write_bytes(b"")
    with pytest.raises(InputError, match="not a readable checkpoint"):
        checkpoint.load(tmp_path)


@pytest.mark.slow
def test_a_full_disk_keeps_the_last_state_and_the_run(tmp_path, whole):
    """The system itself refuses: files may not grow beyond a limit, as on a disk with a quota."""
    go(tmp_path / "full", stopped=iter([False] * 10 + [True] * 9).__next__)
    before = checkpoint.load(tmp_path / "full")[0]["step"]
    size = (tmp_path / "full" / checkpoint.NAME).stat().st_size

    def work():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size // 2, resource.RLIM_INFINITY))
        heard = []
        with pytest.raises(InputError, match=r"could not be written.*resume from the last one"):
            go(tmp_path / "full", say=heard.append)
        assert len(heard) == 60 - before  # at every checkpoint, and the run went on
        assert all("the last one is kept" in told for told in heard)

    assert ended(in_child(work)) == 0
    assert checkpoint.load(tmp_path / "full")[0]["step"] == before
    assert not list((tmp_path / "full").glob(".*.part"))
    assert torch.equal(go(tmp_path / "full")[1], whole)


# ---- the store ----------------------------------------------------------------------------------


def test_a_store_that_is_gone_is_an_error_and_no_air(tmp_path):
    case = make_store(tmp_path / "store")[0]
    good = case.read([0] * 3, [20] * 3, (20, 20, 20))[0]
    (tmp_path / "store").rename(tmp_path / "away")
    with pytest.raises(OSError, match=r"zarr\.json"):
        case.read([0] * 3, [20] * 3, (20, 20, 20))
    (tmp_path / "away").rename(tmp_path / "store")
    assert np.array_equal(case.read([0] * 3, [20] * 3, (20, 20, 20))[0], good)


def test_a_store_that_comes_back_while_it_is_read_is_an_error_too(tmp_path, monkeypatch):
    case = make_store(tmp_path / "store")[0]
    (tmp_path / "store").rename(tmp_path / "away")

    class Air:
        """What zarr makes of chunks that are not there; the disk is back right after."""

        def __getitem__(self, where):
            (tmp_path / "away").rename(tmp_path / "store")
            return np.full((20, 20, 20), store.AIR_HU, np.int16)

    monkeypatch.setattr(store.Case, "voxels", lambda *which: Air())
    with pytest.raises(OSError, match=r"zarr\.json"):
        case.read([0] * 3, [20] * 3, (20, 20, 20))


def learn(cases, folder, monkeypatch, say, **more):
    monkeypatch.setattr(prefetch, "PAUSE_S", 0.02)
    config = TrainConfig(steps=40, samples=2, lr=0.01, ema=4, precision="float32", **more)
    parameters = {"w": Parameter(torch.zeros(()))}
    draw = batches(sampler(cases, SampleConfig(patch=16), 3))

    def predict(samples):
        time.sleep(0.01)  # long enough for the store to go and come
        return (parameters["w"] - samples.x0.mean((1, 2, 3, 4))) ** 2

    list(train(predict, parameters, draw, config, folder, None, Session(say=say)))
    return float(parameters["w"].detach())


@pytest.mark.slow
def test_a_store_that_vanishes_for_a_while_changes_nothing(tmp_path, monkeypatch):
    cases = make_store(tmp_path / "store")
    expected = learn(cases, tmp_path / "calm", monkeypatch, print)
    heard = []

    def vanish():
        time.sleep(0.1)
        (tmp_path / "store").rename(tmp_path / "away")
        while not heard:  # until the run has noticed, and then a while
            time.sleep(0.01)
        time.sleep(0.3)
        (tmp_path / "away").rename(tmp_path / "store")

    thief = threading.Thread(target=vanish)
    thief.start()
    got = learn(cases, tmp_path / "robbed", monkeypatch, heard.append, workers=4)
    thief.join()
    assert got == expected
    assert len(heard) == 1  # whatever the number of threads
    assert "retrying" in heard[0]
    assert "\n" not in heard[0]


@pytest.mark.slow
def test_a_store_that_stays_away_ends_the_run_with_its_state_saved(tmp_path, monkeypatch):
    cases = make_store(tmp_path / "store")
    expected = learn(cases, tmp_path / "calm", monkeypatch, print)
    real, asked = store.Case.read, itertools.count()

    def read(case, *where):
        if next(asked) > 30:
            raise FileNotFoundError("the disk is gone")
        return real(case, *where)

    monkeypatch.setattr(store.Case, "read", read)
    with pytest.raises(InputError, match="make the store available and run the same command again"):
        learn(cases, tmp_path / "run", monkeypatch, print, wait_minutes=0.001)
    assert 5 <= checkpoint.load(tmp_path / "run")[0]["step"] < 20
    monkeypatch.setattr(store.Case, "read", real)
    assert learn(cases, tmp_path / "run", monkeypatch, print) == expected


# ---- losses that are not finite -----------------------------------------------------------------


def spoilt(bad, what=float("nan")):
    """`predict`, whose loss is `what` for samples of these numbers."""

    def of(predict):
        def spoiling(samples):
            names = [f"case-{n}" for n in bad]
            factor = torch.tensor([what if case in names else 1.0 for case in samples.case])
            return predict(samples) * factor

        return spoiling

    return of


@pytest.mark.parametrize("what", [float("nan"), float("inf")])
def test_a_step_that_is_not_finite_is_skipped_counted_and_written_down(tmp_path, what):
    steps, w = go(tmp_path, predict=spoilt((7, 30), what))
    assert [p.step for p in steps if p.loss != p.loss] == [4, 16]
    assert steps[-1].skipped == 2
    assert torch.isfinite(w).all()
    rows = list(csv.DictReader((tmp_path / SKIPPED).read_text().splitlines()))
    assert [(r["step"], r["sample"], r["case"]) for r in rows] == [
        ("4", "6", "case-6"),
        ("4", "7", "case-7"),
        ("16", "30", "case-30"),
        ("16", "31", "case-31"),
    ]


def test_a_skipped_step_leaves_no_trace_in_what_is_learnt(tmp_path):
    """Steps 1 to 3, then one that is lost: the weights are those after step 3."""
    steps, w = go(tmp_path / "a", CONFIG.model_copy(update={"steps": 4}), spoilt((6,)))
    _, expected = go(tmp_path / "b", CONFIG.model_copy(update={"steps": 3}))
    assert steps[-1].skipped == 1
    assert torch.equal(w, expected)


def test_too_many_in_a_row_end_the_run_and_what_was_learnt_before_them_stays(tmp_path):
    config = CONFIG.model_copy(update={"max_skipped": 3})
    with pytest.raises(InputError, match="3 steps in a row, up to step 13") as told:
        go(tmp_path, config, spoilt(range(20, 99)))
    assert str(tmp_path / SKIPPED) in str(told.value)
    state = checkpoint.load(tmp_path)[0]
    assert (state["step"], state["skipped"]) == (13, 3)
    _, expected = go(tmp_path / "b", CONFIG.model_copy(update={"steps": 10}))
    assert torch.equal(state["parameters"]["w"], expected)


def test_steps_between_begin_the_row_anew(tmp_path):
    config = CONFIG.model_copy(update={"max_skipped": 3})
    steps, _ = go(tmp_path, config, spoilt((20, 22, 26, 28)))
    assert steps[-1].skipped == 4


def test_the_average_begins_with_the_first_step_that_counts(tmp_path):
    steps, w = go(tmp_path, CONFIG.model_copy(update={"steps": 2}), spoilt((0,)))
    assert torch.equal(steps[-1].average["w"], w)


def test_the_count_goes_on_after_a_stop(tmp_path):
    spoil = spoilt((7, 30))
    go(tmp_path, predict=spoil, stopped=iter([False] * 8 + [True] * 9).__next__)
    steps, _ = go(tmp_path, predict=spoil)
    assert steps[-1].skipped == 2


# ---- drawing ahead ------------------------------------------------------------------------------


def test_samples_come_in_order_whatever_the_threads_do():
    rng = np.random.default_rng(0)
    delays = rng.uniform(0, 0.01, 60)

    def slow(numbers):
        time.sleep(delays[numbers[0]])
        return numbers

    batches = [[3 * k, 3 * k + 1, 3 * k + 2] for k in range(20)]
    assert list(prefetch.prefetch(slow, iter(batches), workers=4)) == batches


def test_no_more_is_drawn_ahead_than_is_said():
    drawn = []
    gathered = prefetch.prefetch(drawn.append, ([n] for n in range(1000)), workers=2)
    next(gathered)
    time.sleep(0.05)
    assert len(drawn) <= 2 * prefetch.AHEAD + 1
    gathered.close()
