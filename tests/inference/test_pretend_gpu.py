"""Every task on a GPU that is pretended: nothing of the CPU meets it, and the bits are the CPU's.

On a machine with CUDA, the same tasks run on its GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import pytest
import torch
from pretend_gpu import GPU, PretendGpu
from torch import Tensor

from denovox.core.box import Tiling
from denovox.core.condition import batch, condition
from denovox.core.labels import BODY, ID, OUTSIDE
from denovox.core.tensors import tensor
from denovox.core.volume import Volume
from denovox.inference.anomaly import detection
from denovox.inference.anomaly.calibration import AnomalyMethod
from denovox.inference.model import Model
from denovox.inference.options import RunOptions
from denovox.inference.scan_context import ScanContext
from denovox.model import loading, weights
from denovox.model.presets import PRESETS
from denovox.sampling.windowed import windowed

CONFIG = weights.ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0), patch=16)
OPTIONS = RunOptions(tile=32)
SHAPE, MM = (40, 36, 28), (3.0, 3.0, 3.0)
FINE = (60, 40, 20), (0.5, 3.0, 3.0)  # is resampled along x


def conditioned(x: Tensor, sigma: float, told: object) -> Tensor:
    """A denoiser that uses all that it is given."""
    lesion = 0 if told.control is None else 0.1 * told.control
    place = 0.1 * told.position_z[:, None, None, None] * told.region.view(-1, 1, 1, 1, 1)
    tissue = 0.01 * told.anatomy[:, None] * told.spacing_mm[:, :1].view(-1, 1, 1, 1, 1)
    return 0.5 * x.roll(1, 2) + 0.2 * x.roll(1, 4) + 0.1 * sigma + lesion + place + tissue


def body(shape=SHAPE, mm=MM) -> Volume:
    """Water in air, with noise that is stronger on one side."""
    x, y, _ = np.meshgrid(*(np.linspace(-1, 1, n) for n in shape), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.6, 40.0, -1000.0)
    hu += (10 + 40 * (x > 0)) * np.random.default_rng(0).standard_normal(shape)
    return Volume(hu.astype(np.float32), np.diag([*mm, 1.0]))


def hole() -> np.ndarray:
    out = np.zeros(SHAPE, bool)
    out[18:23, 16:21, 12:16] = True
    return out


def labels(shape=(40, 32, 16)) -> np.ndarray:
    ids = np.full(shape, OUTSIDE, np.uint8)
    ids[3:-3, 3:-3] = BODY
    ids[6:-6, 6:-6, 2:-2] = ID["liver"]
    return ids


def anomalies(model: Model, steps: int) -> np.ndarray:
    method, scan = AnomalyMethod(steps=steps, anatomy=True), body()
    healthy = detection.calibrate(model, ScanContext(scan, "abdomen"), method, None, OPTIONS)
    ill = scan.with_hu(np.where(hole(), scan.hu + 150, scan.hu))
    return detection.detect(model, ScanContext(ill, "abdomen"), healthy, options=OPTIONS).z.hu


def thin(model: Model, *of) -> np.ndarray:
    return model.superres(body(*of), 2, region="abdomen", evaluations=2, options=OPTIONS).hu


def denoised(model: Model, *of) -> np.ndarray:
    return model.denoise(body(*of), "abdomen", 20.0, options=OPTIONS).hu


def sampled(model: Model) -> np.ndarray:
    return model.posterior(body(), 2, "abdomen", 20.0, options=OPTIONS).sd.hu


def with_lesion(model: Model) -> np.ndarray:
    model.__dict__["control"] = "lesion"
    return model.add_lesions(body(), hole(), region="abdomen", options=OPTIONS).volume.hu


def synthesized(model: Model) -> np.ndarray:
    ids = labels()
    asked = {"levels": 2, "steps": 3, "options": OPTIONS}
    return model.synthesize("abdomen", ids.shape, (3.0, 3.0, 5.0), ids, **asked).hu


TASKS: dict[str, Callable[[Model], np.ndarray]] = {
    "denoise": denoised,
    "denoise on another grid": lambda model: denoised(model, *FINE),
    "samples": sampled,
    "superres": thin,
    "superres on another grid": lambda model: thin(model, *FINE),
    "detect": lambda model: anomalies(model, 1),
    "detect in steps": lambda model: anomalies(model, 2),
    "lesion": with_lesion,
    "synthesize": synthesized,
}


@pytest.fixture
def gpu(monkeypatch) -> Iterator[PretendGpu]:
    # Views of a subclass's tensors are not possible in it, nor has a pretended GPU an autocast.
    monkeypatch.setattr(torch, "inference_mode", lambda on=True: torch.set_grad_enabled(not on))
    monkeypatch.setattr(torch, "autocast", lambda *given, **also: nullcontext())
    with PretendGpu() as device:
        yield device


def model_on(device: str, path: Path) -> Model:
    return Model(conditioned, CONFIG, path, device)


@pytest.mark.slow
@pytest.mark.parametrize("task", TASKS)
def test_a_task_has_the_bits_of_the_cpu(task, tiny, gpu):
    want = TASKS[task](model_on("cpu", tiny))
    assert gpu.moved == 0
    got = TASKS[task](model_on(GPU, tiny))
    assert gpu.moved > 0
    # Loops over another order of voxels in memory round the last bit (of 1000 HU) differently.
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-4)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device here")
@pytest.mark.parametrize("task", TASKS)
def test_a_task_on_cuda_agrees_with_the_cpu(task, tiny):
    want, got = (TASKS[task](model_on(device, tiny)) for device in ("cpu", "cuda"))
    np.testing.assert_allclose(got, want, rtol=0, atol=0.05)


def test_a_network_is_where_its_input_is(tiny, gpu):
    x, told = torch.randn(2, 1, 16, 12, 16), batch([condition((16, 12, 16), MM, k) for k in (1, 2)])
    want = loading.load(tiny, "cpu", "float32")[0](x, 0.5, told)
    got = loading.load(tiny, GPU, "float32")[0](x.to(GPU), 0.5, told.to(GPU))
    torch.testing.assert_close(got.cpu(), want)


def test_the_next_tiles_are_cut_while_the_network_computes(gpu):
    """Reading a number from a GPU waits for all that it has been asked to do."""
    x = torch.zeros(1, 1, 31, 17, 45).to(GPU)
    told = condition((31, 17, 45), MM).to(GPU)
    windowed(conditioned, told, Tiling(size=24, overlap=8, multiple=4))(x, 1.0)
    assert gpu.waits == 0


def test_what_would_fail_on_cuda_fails(gpu):
    there, here = torch.ones(3, device=GPU), torch.ones(3)
    with pytest.raises(RuntimeError, match="is on the CPU"):
        there + here
    with pytest.raises(RuntimeError, match="numpy"):
        there.numpy()
    assert (there + 1 + torch.ones(())).sum() == 9
    assert gpu.waits == 1
    assert torch.equal(there.cpu(), here)
    assert gpu.waits == 2


def test_volumes_travel_to_cuda_from_pinned_memory(monkeypatch):
    seen = []
    monkeypatch.setattr(Tensor, "pin_memory", lambda x: seen.append("pinned") or x)
    monkeypatch.setattr(Tensor, "to", lambda x, *given, **also: seen.append((*given, also)) or x)
    tensor(np.zeros((2, 3, 4)), "cuda:0")
    assert seen == ["pinned", ("cuda:0", {"non_blocking": True})]
    seen.clear()
    tensor(np.zeros((2, 3, 4)))
    assert seen == [("cpu", {"non_blocking": False})]
