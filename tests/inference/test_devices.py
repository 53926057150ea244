"""Tiles on several devices, and as many of them at once as a GPU holds, give the same result."""

from __future__ import annotations

import copy
import pickle
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch

import denovox
from denovox.core.condition import batch, condition
from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.inference.large.sharing import Fitting, Shared
from denovox.inference.options import RunOptions
from denovox.model import devices


def body(shape=(70, 60, 40)) -> Volume:
    """Water in air, and noise."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.6, 40.0, -1000.0)
    hu += 20 * np.random.default_rng(0).standard_normal(hu.shape)
    return Volume(hu.astype(np.float32), np.diag([3.0, 3.0, 5.0, 1.0]))


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As each of the processes has: sums over more threads round differently."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.slow
def test_two_processes_give_the_bits_of_one(tiny: Path, one_thread: None) -> None:
    options, results = RunOptions(tile=32), []
    for device in ("cpu", "cpu,cpu"):
        model = denovox.load(tiny, device, "float32")
        assert model.device == "cpu"
        denoised = model.denoise(body(), "abdomen", 20.0, options=options).hu
        thin = model.superres(body(), 2, region="abdomen", evaluations=1, options=options).hu
        results.append((denoised, thin))
    for one, two in zip(*results, strict=True):
        assert np.array_equal(one, two)


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="fewer than two CUDA devices here")
def test_two_gpus_agree_with_one(tiny: Path) -> None:
    one, two = (
        denovox.load(tiny, device, "float32").denoise(body(), "abdomen", 20.0).hu
        for device in ("cuda:0", "cuda:0,cuda:1")
    )
    np.testing.assert_allclose(one, two, atol=0.05)


def test_results_come_in_order_from_devices_that_are_free() -> None:
    """The slow one takes few tiles, and holds up none of the others."""
    taken: dict[str, list[float]] = {"slow": [], "fast": []}
    left = threading.Event()

    def slow(x, sigma, of):
        taken["slow"].append(sigma)
        left.wait(5)
        return x * sigma

    def fast(x, sigma, of):
        taken["fast"].append(sigma)
        time.sleep(0.01)
        if len(taken["fast"]) == 3:
            left.set()
        return x * sigma

    shared = Shared([slow, fast], ("cpu", "meta"))
    shared.__dict__["devices"] = ("cpu", "cpu")  # threads, as for GPUs
    shared.__dict__["_pool"] = Shared([slow, fast], ("cuda:0", "cuda:1"))._pool
    cond, x = condition((2, 2, 2), (1, 1, 1)), torch.ones(1, 1, 2, 2, 2)
    found = [float(each.max()) for each in shared.each((x, float(k), cond) for k in range(9))]
    assert found == list(range(9))
    assert sorted(taken["slow"] + taken["fast"]) == list(range(9))
    assert (taken["slow"][0], taken["fast"][:3]) == (0, [1, 2, 3])


def test_an_error_on_a_device_is_not_lost() -> None:
    def fails(x, sigma, of):
        raise ValueError("broken")

    shared = Shared([fails, fails], ("cuda:0", "cuda:1"))
    shared.__dict__["devices"] = ("cpu", "cpu")
    shared.__dict__["_pool"] = Shared([fails, fails], ("cuda:0", "cuda:1"))._pool
    call = (torch.ones(1, 1, 2, 2, 2), 1.0, condition((2, 2, 2), (1, 1, 1)))
    with pytest.raises(ValueError, match="broken"):
        list(shared.each([call] * 3))


def test_a_shared_model_can_be_sent(tiny: Path) -> None:
    model = denovox.load(tiny, "cpu,cpu")
    again = pickle.loads(pickle.dumps(model))
    assert again.denoiser.devices == ("cpu", "cpu")
    assert copy.deepcopy(model).denoiser is model.denoiser


def test_fewer_tiles_at_a_time_where_the_memory_of_a_gpu_runs_out() -> None:
    sizes, freed = [], []

    def at_most_two(x, sigma, of):
        sizes.append(len(x))
        assert len(of.region) == len(of.anatomy) == len(x)
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return x * sigma + of.region.view(-1, 1, 1, 1, 1)

    fitting = Fitting(at_most_two, forget=lambda: freed.append(1))
    x = torch.randn(7, 1, 2, 2, 2)
    regions = batch([condition((2, 2, 2), (1, 1, 1), k) for k in range(7)])
    want = x * 0.5 + torch.arange(7).view(-1, 1, 1, 1, 1)
    assert torch.equal(fitting(x, 0.5, regions), want)
    assert sizes == [7, 3, *[1] * 7]
    assert len(freed) == 2


def test_one_tile_that_does_not_fit_is_an_error() -> None:
    def never(x, sigma, of):
        raise torch.OutOfMemoryError("CUDA out of memory.")

    fitting = Fitting(never, forget=lambda: None)
    with pytest.raises(torch.OutOfMemoryError):
        fitting(torch.ones(4, 1, 2, 2, 2), 0.5, batch([condition((2, 2, 2), (1, 1, 1))] * 4))


def test_lists_of_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    assert devices.devices_named("cpu, cpu") == ("cpu", "cpu")
    assert devices.devices_named(None) == (devices.device_named(None),)
    with pytest.raises(InputError, match="there is no device 'gpu' on this machine"):
        devices.devices_named("cpu,gpu")
    monkeypatch.setattr(devices, "device_named", lambda name: name)
    assert devices.devices_named("cuda:0,cuda:1") == ("cuda:0", "cuda:1")
    with pytest.raises(InputError, match="names cuda:0 twice; name each GPU once"):
        devices.devices_named("cuda:0,cuda:0")
