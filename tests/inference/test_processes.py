"""A model in other processes and threads: forked, spawned, pickled, copied, several at once."""

from __future__ import annotations

import copy
import multiprocessing
import os
import pickle
import subprocess
import sys
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

import denovox
from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.inference.options import RunOptions
from denovox.model import devices, loading, weights

OPTIONS = RunOptions(tile=32)


def scan(seed: int = 0) -> Volume:
    """Water in air, and noise."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 36, 20)), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.6, 40.0, -1000.0)
    hu += 20 * np.random.default_rng(seed).standard_normal(hu.shape)
    return Volume(hu.astype(np.float32), np.diag([3.0, 3.0, 5.0, 1.0]))


def denoised(model: denovox.Model, seed: int = 0) -> np.ndarray:
    """HU of a small scan after the model."""
    return model.denoise(scan(seed), "abdomen", 20.0, options=OPTIONS).hu


FORK = """
import multiprocessing, os, sys
import torch
if "early" in sys.argv: import denovox
x = torch.ones(1, 4, 64, 64, 64)
torch.nn.functional.conv3d(x, torch.ones(4, 4, 3, 3, 3)), x.exp().sum()  # with two threads
if "used" in sys.argv:
    import denovox
    model = denovox.load(sys.argv[1], "cpu")
    model.synthesize("chest", (32, 32, 32), (3, 3, 3), steps=1)
def work(queue):
    import denovox
    own = model if "used" in sys.argv else denovox.load(sys.argv[1], "cpu")
    queue.put(float(own.synthesize("chest", (32, 32, 32), (3, 3, 3), steps=1).hu.std()))
context = multiprocessing.get_context("fork")
queue = context.Queue()
process = context.Process(target=work, args=(queue,), daemon=True)
process.start()
try:
    print(queue.get(timeout=60) > 0)
finally:
    process.kill()
"""


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork on this system")
@pytest.mark.parametrize("how", ["used", "early", "late"])  # when the parent imports denovox
def test_a_forked_worker_runs_after_its_parent_used_several_threads(how: str, tiny: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", FORK, str(tiny), how],
        env={**os.environ, "OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("True\n", "")


@pytest.mark.slow
def test_a_spawned_worker_gets_the_model_and_gives_the_same_bits(
    tiny: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", str(torch.get_num_threads()))
    model = denovox.load(tiny, "cpu", "float32")
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        (there,) = pool.map(denoised, [model])
    assert np.array_equal(there, denoised(model))


def test_a_model_is_pickled_by_its_paths(tiny: Path, tiny_lesion: Path) -> None:
    model = denovox.load(tiny, "cpu", "bfloat16", tiny_lesion)
    data = pickle.dumps(model)
    assert len(data) < 10_000  # no weights
    again = pickle.loads(data)
    for name in ("config", "path", "device", "control", "control_path"):
        assert getattr(again, name) == getattr(model, name)
    assert again.denoiser.precision == "bfloat16"
    assert again.denoiser.control == tiny_lesion
    assert copy.deepcopy(model).denoiser is model.denoiser


def test_other_weights_at_that_path_are_refused(tiny: Path) -> None:
    data = pickle.dumps(denovox.load(tiny, "cpu"))
    config, card, _ = weights.describe(tiny)
    weights.save(tiny, config.build().state_dict(), config, card)
    with pytest.raises(InputError, match="not the weights that the model was sent with"):
        pickle.loads(data)
    tiny.unlink()
    with pytest.raises(InputError, match="neither a file nor bundled"):
        pickle.loads(data)


def test_a_denoiser_of_ones_own_is_not_lost(tiny: Path) -> None:
    """A model around another function is not silently replaced by the one on disk."""
    model = replace(denovox.load(tiny, "cpu"), denoiser=lambda x, sigma, condition: x)
    with pytest.raises((pickle.PicklingError, AttributeError)):
        pickle.dumps(model)


def test_bundled_weights_are_sent_by_name() -> None:
    sent = loading.Loaded(weights.locate("base").absolute(), "cpu", "float32", None)
    (((name, _),), *_) = sent.__reduce__()[1]
    assert name == "base"


@pytest.mark.slow
def test_three_threads_at_once_give_the_same_bits_as_one_after_the_other(tiny: Path) -> None:
    model = denovox.load(tiny, "cpu")
    one_by_one = [denoised(model, seed) for seed in range(3)]
    assert not np.array_equal(one_by_one[0], one_by_one[1])
    with ThreadPoolExecutor(3) as pool:
        together = list(pool.map(denoised, [model] * 6, [0, 1, 2] * 2))
    for number, result in enumerate(together):
        assert np.array_equal(result, one_by_one[number % 3])


# ---- devices ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "device",
    ["cuda:7", "gpu", "CPU", "CUDA:7", " cpu ", torch.device("cuda", 7), 7, True, "", "cpu:1", 1.5],
)
def test_a_device_that_is_not_there_is_one_sentence_with_those_that_are(
    device: object, tiny: Path
) -> None:
    with pytest.raises(InputError, match=r"there is no device '.*' on this machine; choose cpu"):
        devices.device_named(device)


@pytest.mark.parametrize("device", ["cpu", "cpu:0", torch.device("cpu")])
def test_names_of_the_cpu(device: object) -> None:
    assert devices.device_named(device) == "cpu"


def test_gpus_are_named_as_torch_names_them(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: False)
    given = (None, "cuda", 1, torch.device("cuda", 1), "cuda:0")
    assert [devices.device_named(each) for each in given] == [
        *("cuda", "cuda", "cuda:1", "cuda:1", "cuda:0")
    ]
    with pytest.raises(InputError, match=r"no device 'cuda:2' .*choose cpu, cuda, cuda:0, cuda:1"):
        devices.device_named(2)
    monkeypatch.setattr(torch.cuda, "_is_in_bad_fork", lambda: True)
    with pytest.raises(InputError, match="was forked after the GPU had been used"):
        devices.device_named("cuda")
    assert devices.device_named("cpu") == "cpu"


def test_load_refuses_another_device_or_precision(tiny: Path) -> None:
    with pytest.raises(InputError, match="no device 'gpu'"):
        denovox.load(tiny, "gpu")
    assert denovox.load(tiny, torch.device("cpu")).device == "cpu"


# ---- what users pass to the Python API ----------------------------------------------------------

API = """
import sys
import numpy as np, torch, nibabel
import denovox
from denovox import InputError, RunOptions, Volume
model = denovox.load(sys.argv[1], "cpu")
x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in (40, 36, 20)), indexing="ij")
hu = np.where(x**2 + y**2 < 0.6, 40.0, -1000.0)
hu = (hu + 20 * np.random.default_rng(0).standard_normal(hu.shape)).astype(np.float32)
mm = np.diag([3.0, 3, 5, 1])
scan, nan = Volume(hu, mm), hu.copy()
nan[3, 3, 3] = np.nan
mask = np.zeros(hu.shape, bool)
mask[18:22, 16:20, 9:11] = True
o = RunOptions(tile=32, accept_hu=True)
calls = {
    "denoise": lambda v: model.denoise(v, "abdomen", 20.0, options=o),
    "posterior": lambda v: model.posterior(v, 2, "abdomen", 20.0, options=o),
    "superres": lambda v: model.superres(v, 2, region="abdomen", evaluations=1, options=o),
    "detect": lambda v: model.detect(v, mask, "abdomen", options=o),
    "add_lesions": lambda v: model.add_lesions(v, mask, region="abdomen", options=o),
    "inpaint": lambda v: model.inpaint(v, mask, region="abdomen", options=o),
}
wrong = {
    "path": "ct.nii.gz", "none": None, "array": hu, "tensor": torch.from_numpy(hu),
    "nibabel": nibabel.Nifti1Image(hu, mm), "integers": Volume(hu.astype(np.int16), mm),
    "a tensor inside": Volume(torch.from_numpy(hu), mm), "2D": Volume(hu[0], mm),
    "4D": Volume(hu[None], mm), "empty": Volume(hu[:0], mm), "NaN": Volume(nan, mm),
}
tries = {(n, k): (lambda c=c, v=v: c(v)) for n, c in calls.items() for k, v in wrong.items()}
tries |= {
    "method": lambda: model.denoise(scan, method="dpm"),
    "method None": lambda: model.denoise(scan, method=None),
    "solver": lambda: model.synthesize("chest", (32, 32, 32), (3, 3, 3), solver="euler"),
    "profile": lambda: model.superres(scan, 2, profile="round"),
    "region": lambda: model.denoise(scan, "limb", 20.0),
    "mask": lambda: model.inpaint(scan, mask.T),
    "precision": lambda: denovox.load(sys.argv[1], "cpu", "float16"),
    "tile": lambda: RunOptions(tile=0), "seed": lambda: RunOptions(seed=-1),
    "batch": lambda: RunOptions(batch=-1), "words": lambda: RunOptions(tile="64"),
    "fraction": lambda: RunOptions(tile=48.5), "truth": lambda: RunOptions(batch=True),
    "2D numpy": lambda: Volume.from_numpy(hu[0], mm), "text": lambda: Volume.from_numpy("a", mm),
    "complex": lambda: Volume.from_numpy(hu + 1j, mm), "no place": lambda: Volume.from_numpy(hu),
    "bad numpy": lambda: Volume.from_numpy(nan, mm),
}
for name, call in tries.items():
    try:
        call()
        print("silent:", name)
    except InputError as error:
        lines = str(error).splitlines()
        if len(lines) != 1 or len(lines[0]) < 20: print("unclear:", name, error)
    except Exception as error:
        print("raised:", name, type(error).__name__, error)
right = calls["denoise"](scan).hu
frozen = hu.copy()
frozen.setflags(write=False)
same = {
    "read only": Volume(frozen, mm), "Fortran": Volume(np.asfortranarray(hu), mm),
    "a view": Volume(np.repeat(hu, 2, 0)[::2], mm), "float64": Volume(hu.astype(float), mm),
    "tensor": Volume.from_numpy(torch.from_numpy(hu), mm),
    "zyx": Volume.from_numpy(hu.T, mm, axes="zyx"),
    "LPS": Volume.from_numpy(hu[::-1, ::-1], [[-3, 0, 0, 117], [0, -3, 0, 105], [0, 0, 5, 0],
                                              [0, 0, 0, 1]]),
}
for name, volume in same.items():
    result = calls["denoise"](volume).hu.astype(np.float32)
    if not np.array_equal(result, right): print("differs:", name)
print("tried", len(tries), len(same))
"""


@pytest.mark.slow
def test_every_wrong_argument_is_one_sentence_and_every_right_one_right(tiny: Path) -> None:
    """In a Python without the type checks of the tests, as users have it."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", API, str(tiny)],
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert (done.stdout, done.stderr) == ("tried 84 7\n", "")
