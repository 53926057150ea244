"""Batches of a step: how many at a time, what becomes of it, and what a GPU without room does."""

from __future__ import annotations

import itertools
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import Parameter
from toy import toy

from denovox.core.condition import condition
from denovox.core.errors import InputError
from denovox.datasets.samples.batch import Batch, Sample, batches, collate
from denovox.train.config import TrainConfig
from denovox.train.distributed import Group
from denovox.train.loop import Progress, Session, train

CONFIG = TrainConfig(steps=5, samples=8, batch=8, lr=0.05, ema=3, workers=1)


def go(
    folder: Path, room: int = 10**6, config: TrainConfig = CONFIG, from_sample: int = 0
) -> tuple[list[Progress], Tensor, list[str], list[tuple[str, ...]]]:
    """(steps, what was learnt, what was said, batches that were computed), where no more than
    `room` samples fit from a sample on."""
    torch.manual_seed(0)
    weight = Parameter(torch.randn(27))
    seen: list[tuple[str, ...]] = []

    def predict(samples: Batch) -> Tensor:
        if len(samples.case) > room and int(samples.case[0]) >= from_sample:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB. GPU 0")
        seen.append(samples.case)
        x = samples.x0.flatten(1)
        return ((x * weight).sum(1) - x.square().mean(1)).abs()

    def draw(n: int) -> Sample:
        return toy(torch.randn(27, generator=torch.Generator().manual_seed(n)), str(n))

    heard: list[str] = []
    session = Session(say=heard.append)
    steps = train(predict, {"w": weight}, batches(draw), config, folder, session=session)
    return list(steps), weight.detach(), heard, seen


def cases(*sizes: int, first: int = 0) -> list[tuple[str, ...]]:
    """Batches of these sizes, one after the other."""
    ends = np.cumsum([first, *sizes])
    return [tuple(map(str, range(a, b))) for a, b in itertools.pairwise(ends)]


def same(a: list[Progress], b: list[Progress]) -> bool:
    return [(p.step, p.loss, p.lr) for p in a] == [(p.step, p.loss, p.lr) for p in b] and all(
        torch.equal(p.average["w"], q.average["w"]) for p, q in zip(a[-1:], b[-1:], strict=True)
    )


# ---- room ---------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize(
    ("room", "fits", "said"), [(8, 8, 0), (7, 4, 1), (4, 4, 1), (3, 2, 2), (2, 2, 2), (1, 1, 3)]
)
@pytest.mark.parametrize("batch", [8, 0, 100])
def test_what_does_not_fit_is_halved_until_it_does_and_changes_nothing(
    tmp_path, room, fits, said, batch
):
    got = go(tmp_path / "a", room, CONFIG.model_copy(update={"batch": batch}))
    expected = go(tmp_path / "b", config=CONFIG.model_copy(update={"batch": fits}))
    assert same(got[0], expected[0])
    assert torch.equal(got[1], expected[1])
    assert got[3] == expected[3]
    assert len(got[2]) == said  # once for each halving: it stays so in the steps behind
    assert all("out of memory" in line and "\n" not in line for line in got[2])
    if said:
        assert f"{fits} samples at a time" in got[2][-1]


def test_room_that_is_lost_on_the_way(tmp_path):
    got = go(tmp_path / "a", 4, from_sample=24)
    assert got[3] == [
        *(case for step in range(3) for case in cases(8, first=8 * step)),
        *(case for step in (3, 4) for case in cases(4, 4, first=8 * step)),
    ]
    assert len(got[2]) == 1
    whole = go(tmp_path / "b")
    assert [p.loss for p in got[0][:3]] == [p.loss for p in whole[0][:3]]
    assert [p.loss for p in got[0]] == pytest.approx([p.loss for p in whole[0]], rel=1e-5)


def test_a_batch_of_several_that_do_not_fit_is_cut_by_itself(tmp_path):
    config = CONFIG.model_copy(update={"batch": 5})  # 5 and 3
    got = go(tmp_path, 3, config)
    assert got[3][:3] == cases(3, 2, 3)
    assert len(got[2]) == 1


def test_of_a_step_that_did_not_fit_nothing_is_left(tmp_path):
    """Its second batch does not fit: the first one's gradients are not there twice."""
    config = CONFIG.model_copy(update={"batch": 4})
    got = go(tmp_path / "a", 2, config, from_sample=4)
    expected = go(tmp_path / "b", config=config.model_copy(update={"batch": 2}))
    assert got[3] == cases(4) + expected[3]
    assert same(got[0], expected[0])
    assert torch.equal(got[1], expected[1])


@pytest.mark.parametrize("batch", [0, 1, 3])
def test_one_sample_that_does_not_fit_is_one_sentence(tmp_path, batch):
    with pytest.raises(InputError, match="1 samples at a time do not fit") as told:
        go(tmp_path, 0, CONFIG.model_copy(update={"batch": batch}))
    assert "CUDA out of memory" in str(told.value)
    assert "train.checkpointing" in str(told.value)
    assert "\n" not in str(told.value)


def test_processes_that_wait_for_each_other_are_told_at_once(tmp_path, monkeypatch):
    for collective in ("sum", "any", "broadcast"):
        monkeypatch.setattr(Group, collective, lambda group, value: value)
    torch.manual_seed(0)

    def predict(samples: Batch) -> Tensor:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried")

    steps = train(
        predict, {"w": Parameter(torch.ones(1))}, batches(lambda n: toy(torch.ones(1))), CONFIG,
        tmp_path, session=Session(group=Group(0, 2)),
    )  # fmt: skip
    with pytest.raises(InputError, match="4 samples at a time do not fit into the memory of cpu"):
        next(steps)


# ---- how many at a time -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("batch", "sizes"), [(0, (8,)), (1, (1,) * 8), (3, (3, 3, 2)), (8, (8,)), (9, (8,))]
)
def test_batches_of_a_step(tmp_path, batch, sizes):
    config = CONFIG.model_copy(update={"batch": batch, "steps": 2})
    steps, _, heard, seen = go(tmp_path / "a", config=config)
    assert seen == cases(*sizes) + cases(*sizes, first=8)
    assert heard == []
    at_once = go(tmp_path / "b", config=config.model_copy(update={"batch": 8}))[0]
    assert [p.loss for p in steps] == pytest.approx([p.loss for p in at_once], rel=1e-6)


# ---- batches ------------------------------------------------------------------------------------


def sample(n: int, **more: object) -> Sample:
    """A sample whose every number is another's."""
    g = torch.Generator().manual_seed(n)
    told = condition((2, 2, 2), (1.0 + n, 2.0, 3.0), n % 5)
    known = replace(
        told,
        anatomy=torch.randint(0, 99, (1, 2, 2, 2), generator=g, dtype=torch.uint8),
        position_x=torch.randn(1, 2, generator=g),
        position_y=torch.randn(1, 2, generator=g),
        position_z=torch.randn(1, 2, generator=g),
        control=torch.randn(1, 1, 2, 2, 2, generator=g) if "weight" in more else None,
    )
    x0, noise = (torch.randn(1, 1, 2, 2, 2, generator=g) for _ in range(2))
    return Sample(x0, noise, (n + 0.1) / 11, known, n % 3, case=f"case-{n}", **more)


def cube(n: int) -> Tensor:
    return torch.randn(1, 1, 2, 2, 2, generator=torch.Generator().manual_seed(100 + n))


KINDS = {
    "base": lambda n: sample(n),
    "control": lambda n: sample(n, weight=cube(n)),
    "begun": lambda n: sample(n, weight=cube(n), start=cube(50 + n)),
}


def equal(a: Batch, b: Batch) -> bool:
    """Field by field, bit for bit, with their types."""
    for x, y in ((a, b), (a.condition, b.condition)):
        for field in fields(x):
            mine, theirs = getattr(x, field.name), getattr(y, field.name)
            if isinstance(mine, Tensor):
                if mine.dtype != theirs.dtype or not torch.equal(mine, theirs):
                    return False
            elif isinstance(mine, np.ndarray):
                if mine.dtype != theirs.dtype or not np.array_equal(mine, theirs):
                    return False
            elif field.name != "condition" and mine != theirs:
                return False
    return True


@pytest.mark.parametrize("kind", KINDS)
def test_parts_of_a_batch_are_batches_of_its_samples(kind):
    samples = [KINDS[kind](n) for n in range(5)]
    whole = collate(samples)
    for first, stop in ((0, 5), (0, 2), (2, 5), (3, 4), (4, 9)):
        assert equal(whole.part(first, stop), collate(samples[first:stop]))
    assert not equal(whole.part(0, 2), collate(samples[1:3]))


@pytest.mark.parametrize("kind", KINDS)
def test_a_batch_holds_its_samples(kind):
    samples = [KINDS[kind](n) for n in range(3)]
    whole = collate(samples)
    assert whole.u.tolist() == [s.u for s in samples]
    assert whole.level == (0, 1, 2)
    assert whole.case == ("case-0", "case-1", "case-2")
    for n, one in enumerate(samples):
        for name in ("x0", "noise", "weight", "start"):
            mine, joined = getattr(one, name), getattr(whole, name)
            assert (mine is None) == (joined is None)
            assert mine is None or torch.equal(mine[0], joined[n])
        for field in fields(one.condition):
            mine, joined = (getattr(of.condition, field.name) for of in (one, whole))
            assert (mine is None) == (joined is None)
            assert mine is None or torch.equal(mine[0], joined[n])


def test_of_samples_of_which_some_have_a_start_the_others_begin_at_x0():
    begun, plain = KINDS["begun"](0), KINDS["control"](1)
    both = collate([begun, plain])
    assert both.start is not None
    assert torch.equal(both.start, torch.cat([begun.start, plain.x0]))


def test_a_draw_of_several_is_that_of_each():
    draw = batches(KINDS["begun"])
    assert equal(draw([4, 1, 2]), collate([KINDS["begun"](n) for n in (4, 1, 2)]))
