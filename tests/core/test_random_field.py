"""Noise: Philox's published answers, the normal law, and independence of how it is asked for."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from denovox.core import random_field
from denovox.core.box import Box
from denovox.core.random_field import field, normal

# Random123's kat_vectors: philox4x32, 10 rounds; counter, key, answer, words from low to high.
KAT = [
    [
        "00000000 00000000 00000000 00000000",
        "00000000 00000000",
        "6627e8d5 e169c58d bc57ac4c 9b00dbd8",
    ],
    [
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ],
    [
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ],
]
MANY = (64, 64, 64)


def words(text: str) -> list[int]:
    return [int(word, 16) for word in text.split()]


def join(low: int, high: int) -> int:
    return low | high << 32


@pytest.mark.parametrize(("counter", "key", "answer"), KAT)
def test_philox_gives_the_published_answers(counter, key, answer):
    c = words(counter)
    low = np.array([join(*c[:2])], np.uint64).view(np.int64)
    got = random_field._philox(torch.from_numpy(low), join(*c[2:]), join(*words(key)))
    assert [int(word) for word in got] == words(answer)


def test_normals_are_box_muller_of_the_words():
    a, b, c, d = words(KAT[0][2])
    expected = [
        math.sqrt(-2 * math.log((u + 0.5) / 2**32)) * turn(2 * math.pi * v / 2**32)
        for u, v in ((a, b), (c, d))
        for turn in (math.cos, math.sin)
    ]
    got = normal(0, 0, (2, 1, 2))
    assert got.shape == (1, 1, 2, 1, 2)
    assert got.dtype == torch.float32
    assert got.flatten().tolist() == pytest.approx(expected, rel=1e-6)


@st.composite
def boxes(draw):
    """(shape, box inside it); sizes that are no multiples of the four words of a counter."""
    shape, start, size = [], [], []
    for _ in range(3):
        n = draw(st.integers(1, 9))
        a = draw(st.integers(0, n - 1))
        shape.append(n)
        start.append(a)
        size.append(draw(st.integers(1, n - a)))
    return tuple(shape), Box(tuple(start), tuple(size))


@given(boxes(), st.integers(0, 2**64 - 1), st.integers(0, 2**40))
def test_noise_of_a_box_is_the_box_of_the_noise(shape_and_box, seed, stream):
    shape, box = shape_and_box
    whole = normal(seed, stream, shape)
    assert whole.shape == (1, 1, *shape)
    assert torch.equal(normal(seed, stream, shape, box), whole[(..., *box.slices)])


@pytest.mark.parametrize("slab", [4, 8, 20, 1 << 20])
def test_slabs_change_nothing(monkeypatch, slab):
    shape = (3, 5, 7)  # 105 voxels: no multiple of 4
    before = normal(3, 1, shape)
    monkeypatch.setattr(random_field, "_SLAB", slab)
    assert torch.equal(normal(3, 1, shape), before)


def test_field_asks_for_a_stream_of_the_whole():
    assert torch.equal(field(5, (3, 4, 5))(2), normal(5, 2, (3, 4, 5)))


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ((0, 0), (1, 0)),
        ((0, 0), (0, 1)),
        ((0, 0), (2**32, 0)),
        ((0, 0), (0, 2**32)),
        ((0, 1), (1, 0)),
    ],
    ids=["seed", "stream", "high seed", "high stream", "seed for stream"],
)
def test_another_seed_or_stream_is_other_noise(one, other):
    a, b = (normal(*key, MANY).flatten() for key in (one, other))
    # Independent: a correlation of 0 with SD 1/sqrt(n).
    assert abs(float((a * b).mean())) < 4 / math.sqrt(a.numel())


def test_the_law_is_normal():
    drawn = normal(0, 1, MANY).flatten().double().numpy()
    n = drawn.size
    # Four standard errors of each moment of a normal law (Kendall and Stuart).
    assert abs(drawn.mean()) < 4 * math.sqrt(1 / n)
    assert abs(drawn.var() - 1) < 4 * math.sqrt(2 / n)
    assert abs(stats.skew(drawn)) < 4 * math.sqrt(6 / n)
    assert abs(stats.kurtosis(drawn)) < 4 * math.sqrt(24 / n)
    assert stats.kstest(drawn, "norm").pvalue > 1e-3


def test_each_of_the_four_normals_of_a_counter_is_normal():
    drawn = normal(0, 1, MANY).view(-1, 4).double().numpy()
    assert all(stats.kstest(column, "norm").pvalue > 1e-3 for column in drawn.T)
    close = np.abs(np.corrcoef(drawn.T) - np.eye(4))
    assert close.max() < 4 / math.sqrt(len(drawn))


@pytest.mark.parametrize("axis", [0, 1, 2])
@pytest.mark.parametrize("distance", [1, 2])
def test_neighbours_are_uncorrelated(axis, distance):
    drawn = normal(7, 1, MANY)[0, 0].double()
    length = MANY[axis] - distance
    a, b = drawn.narrow(axis, 0, length), drawn.narrow(axis, distance, length)
    for f in (lambda v: v, lambda v: (v**2 - 1) / math.sqrt(2)):
        assert abs(float((f(a) * f(b)).mean())) < 4 / math.sqrt(a.numel())


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_draws_the_same_noise():
    shape, box = (33, 17, 21), Box((5, 3, 2), (20, 9, 13))
    on_gpu = normal(11, 4, shape, device="cuda")
    assert on_gpu.device.type == "cuda"
    torch.testing.assert_close(on_gpu.cpu(), normal(11, 4, shape), rtol=1e-6, atol=1e-7)
    part = normal(11, 4, shape, box, device="cuda")
    assert torch.equal(part, on_gpu[(..., *box.slices)])
