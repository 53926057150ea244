"""The contract of deepinv's denoisers, with and without deepinv; its loops where it is installed.

deepinv brings torchvision, so its loops are tested in an environment of their own, and skipped
elsewhere.
"""

from __future__ import annotations

import importlib.util
import itertools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import denovox
from denovox import tasks
from denovox.core.condition import Condition, condition
from denovox.core.errors import InputError
from denovox.core.random_field import field
from denovox.core.regions import REGIONS
from denovox.core.tensors import tensor
from denovox.inference.engine import Engine
from denovox.integrations.deepinv import Denoiser
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig
from denovox.simulate.phantom import chest

MM = (2.0, 2.0, 3.0)
MEAN, VARIANCE = 0.4, 0.05  # of the closed-form prior, in the range of x
HAS_DEEPINV = importlib.util.find_spec("deepinv") is not None
needs_deepinv = pytest.mark.skipif(
    not HAS_DEEPINV, reason="deepinv is not installed (it brings torchvision)"
)


@pytest.fixture
def model(tiny: Path) -> denovox.Model:
    return denovox.load(tiny, device="cpu")


def scans(shape: tuple[int, ...], count: int = 1) -> Tensor:
    """Numbers around the middle of [0, 1]."""
    return 0.5 + 0.2 * torch.cat([field(seed, shape, "cpu")(0) for seed in range(count)])


def gaussian() -> Denoiser:
    """The posterior mean of voxels that are independent and normal, in place of a network."""

    def denoise(x: Tensor, sigma: float, _: Condition) -> Tensor:
        mean, variance = 2 * MEAN - 1, 4 * VARIANCE  # model units are twice as many
        return mean + variance / (variance + sigma**2) * (x - mean)

    config = ModelConfig(net=PRESETS["tiny"])
    return Denoiser(Engine(denoise, config, Path("none"), "cpu"), "chest", MM)


def shrunk(x: Tensor, sigma: Any) -> Tensor:
    """What that denoiser should return."""
    return MEAN + VARIANCE / (VARIANCE + sigma**2) * (x - MEAN)


# ---- the contract -------------------------------------------------------------------------------


def test_it_is_the_model_s_own_x0_tile_by_tile(model: denovox.Model) -> None:
    shape = (40, 28, 20)
    ids = torch.arange(40 * 28 * 20).remainder(118).to(torch.uint8).view(shape)
    x, options = scans(shape), denovox.RunOptions(tile=24, seed=3)
    known = condition(shape, MM, REGIONS["abdomen"].id, ids)
    task = replace(tasks.denoising(2 * x - 1, 0.3), correct=lambda x0, _: x0)
    expected = model.run(task, known, field(0, shape, "cpu"), options)
    denoise = Denoiser(model, "abdomen", MM, ids.numpy(), options=options)
    assert torch.equal(2 * denoise(x, 0.15) - 1, 2 * ((expected + 1) / 2) - 1)
    other = Denoiser(model, "chest", MM, ids.numpy(), options=options)
    assert not torch.equal(denoise(x, 0.15), other(x, 0.15))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16])
def test_each_volume_of_a_batch_has_its_own_sigma(model: denovox.Model, dtype: torch.dtype) -> None:
    x, denoise = scans((16, 12, 8), 3).to(dtype), Denoiser(model, "chest", MM)
    sigmas = torch.tensor([0.3, 0.0, 0.05])
    out = denoise(x, sigmas)
    assert (out.shape, out.dtype, out.device) == (x.shape, dtype, x.device)
    alone = torch.cat([denoise(one[None], float(s)) for one, s in zip(x, sigmas, strict=True)])
    assert torch.equal(out, alone)
    assert torch.equal(out, denoise(x, sigmas.view(3, 1, 1, 1, 1)))
    assert torch.equal(out, denoise(x, sigmas.tolist()))
    assert torch.equal(out[1], x[1])
    assert torch.equal(denoise(x, 0.05), denoise(x, torch.tensor(0.05)))


def test_axes_may_be_depth_height_width(model: denovox.Model) -> None:
    x = scans((16, 12, 8))
    ids = np.zeros((16, 12, 8), np.uint8)
    ids[:8] = 5
    xyz, zyx = (Denoiser(model, "chest", MM, ids, axes) for axes in ("xyz", "zyx"))
    assert torch.equal(zyx(x.transpose(2, 4), 0.1), xyz(x, 0.1).transpose(2, 4))


def test_hu_and_the_range_of_x() -> None:
    denoise = gaussian()
    hu = np.array([-1400.0, 400.0, -500.0])
    np.testing.assert_allclose(denoise.from_hu(hu), [0, 1, 0.5])
    np.testing.assert_allclose(denoise.to_hu(denoise.from_hu(hu)), hu)
    assert denoise.sigma_of_hu(18.0) == pytest.approx(0.01)


def test_the_score_is_that_of_the_prior_with_noise() -> None:
    x, sigma = scans((8, 8, 8), 2), torch.tensor([0.1, 0.4])
    variance = VARIANCE + sigma.view(2, 1, 1, 1, 1) ** 2
    torch.testing.assert_close(gaussian().score(x, sigma), (MEAN - x) / variance, atol=1e-4, rtol=0)


def test_the_gradient_is_that_of_finite_differences(model: denovox.Model) -> None:
    """Across seams between tiles, too."""
    x = scans((28, 12, 12)).requires_grad_()
    denoise = Denoiser(model, "chest", MM, options=denovox.RunOptions(tile=16))
    weights, along = field(5, (28, 12, 12), "cpu")(0), field(6, (28, 12, 12), "cpu")(0)
    (grad,) = torch.autograd.grad((weights * denoise(x, 0.2)).sum(), x)
    with torch.no_grad():
        step = 1e-2
        ends = [float((weights * denoise(x + s * along, 0.2)).sum()) for s in (step, -step)]
    expected = (ends[0] - ends[1]) / (2 * step)
    assert float((grad * along).sum()) == pytest.approx(expected, rel=2e-3)


def test_bad_input_is_one_sentence(model: denovox.Model) -> None:
    with pytest.raises(InputError, match=r"^voxels of 2 x 2 x 9 mm are outside the 0.7 to 6 mm"):
        Denoiser(model, "chest", (2, 2, 9))
    Denoiser(model, "chest", (0.69999999, 2, 6.000001))
    with pytest.raises(InputError, match="region 'leg' is not known"):
        Denoiser(model, "leg", MM)
    with pytest.raises(InputError, match="no order of axes 'yxz'"):
        Denoiser(model, "chest", MM, axes="yxz")
    ids = np.zeros((8, 8, 9), np.uint8)
    with pytest.raises(InputError, match=r"anatomy has the shape \(8, 8, 9\), and the volume"):
        Denoiser(model, "chest", MM, ids)(scans((8, 8, 8)), 0.1)
    denoise = gaussian()
    for sigma in (-0.1, float("nan"), [0.1, 0.2]):
        with pytest.raises(ValueError, match="sigma"):
            denoise(scans((8, 8, 8)), sigma)
    with pytest.raises(ValueError, match="sigma above 0"):
        denoise.score(scans((8, 8, 8)), 0)


def test_a_loop_of_k_diffusion_s_kind_ends_at_a_sample_of_the_prior() -> None:
    """Heun's steps of the ODE (Karras et al. 2022, algorithm 1) keep a normal prior normal."""
    denoise, shape = gaussian(), (8, 8, 8)
    sigmas = torch.logspace(1, -3, 100).tolist()
    x = MEAN + sigmas[0] * field(0, shape, "cpu")(0)
    start = x
    for sigma, following in itertools.pairwise(sigmas):
        slope = (x - denoise(x, sigma)) / sigma
        ahead = x + (following - sigma) * slope
        second = (ahead - denoise(ahead, following)) / following
        x = x + (following - sigma) * (slope + second) / 2
    ratio = ((VARIANCE + sigmas[-1] ** 2) / (VARIANCE + sigmas[0] ** 2)) ** 0.5
    torch.testing.assert_close(x, MEAN + ratio * (start - MEAN), atol=2e-3, rtol=0)


# ---- deepinv's loops ----------------------------------------------------------------------------

SHAPE = (8, 8, 8)


def measured(kind: str) -> tuple[Any, Tensor, Tensor]:
    """(physics, its matrix, y) of a draw from the closed-form prior, with noise of SD 0.05."""
    import deepinv

    if kind == "mask":
        mask = (field(9, SHAPE, "cpu")(0)[0] > 0).float()
        physics = deepinv.physics.Inpainting((1, *SHAPE), mask=mask)
    elif kind == "blur":
        kernel = torch.tensor([0.25, 0.5, 0.25])
        blob = torch.einsum("i,j,k->ijk", kernel, kernel, kernel)[None, None]
        physics = deepinv.physics.Blur(filter=blob, padding="circular")
    else:
        physics = deepinv.physics.Denoising()
    count = int(np.prod(SHAPE))
    basis = torch.eye(count).view(count, 1, *SHAPE)
    matrix = physics.A(basis).reshape(count, count).T.double()
    truth = MEAN + VARIANCE**0.5 * field(1, SHAPE, "cpu")(0)
    return physics, matrix, physics.A(truth) + 0.05 * field(2, SHAPE, "cpu")(0)


def solved(matrix: Tensor, y: Tensor, weight: float) -> Tensor:
    """argmin |y - A x|^2 + weight |x - MEAN|^2, by a direct solver."""
    mean = torch.full((len(matrix),), MEAN, dtype=torch.float64)
    left = matrix.T @ matrix + weight * torch.eye(len(matrix), dtype=torch.float64)
    right = matrix.T @ y.double().flatten() + weight * mean
    return torch.linalg.solve(left, right).view(1, 1, *SHAPE).float()


@needs_deepinv
def test_it_is_one_of_deepinv_s_denoisers() -> None:
    from deepinv.models import Denoiser as Theirs

    assert isinstance(gaussian(), Theirs)


@pytest.mark.skipif(HAS_DEEPINV, reason="deepinv is installed")
def test_without_deepinv_it_is_a_module() -> None:
    assert Denoiser.__mro__[1] is torch.nn.Module


@needs_deepinv
@pytest.mark.parametrize("kind", ["mask", "blur", "denoise"])
def test_pgd_ends_at_the_posterior_mean_of_the_closed_form(kind: str) -> None:
    """x = D(x - g At(A x - y)) is the MAP where g = sigma^2 / noise^2: here both are equal."""
    from deepinv.optim import PGD
    from deepinv.optim.data_fidelity import L2
    from deepinv.optim.prior import PnP

    physics, matrix, y = measured(kind)
    algorithm = PGD(
        data_fidelity=L2(), prior=PnP(gaussian()), stepsize=1.0, sigma_denoiser=0.1,
        max_iter=2000, thres_conv=1e-7, early_stop=True,
    )  # fmt: skip
    expected = solved(matrix, y, 0.1**2 / VARIANCE)
    torch.testing.assert_close(algorithm(y, physics), expected, atol=1e-4, rtol=0)


@needs_deepinv
@pytest.mark.parametrize("kind", ["mask", "denoise"])
def test_hqs_ends_at_its_fixed_point_of_the_closed_form(kind: str) -> None:
    """x = D(z), z = prox(x): z minimises g |A z - y|^2 + (1 - gain) |z - MEAN|^2."""
    from deepinv.optim import HQS
    from deepinv.optim.data_fidelity import L2
    from deepinv.optim.prior import PnP

    physics, matrix, y = measured(kind)
    step, gain = 2.0, VARIANCE / (VARIANCE + 0.1**2)
    algorithm = HQS(
        data_fidelity=L2(), prior=PnP(gaussian()), stepsize=step, sigma_denoiser=0.1,
        max_iter=2000, thres_conv=1e-7, early_stop=True,
    )  # fmt: skip
    expected = shrunk(solved(matrix, y, (1 - gain) / step), 0.1)
    torch.testing.assert_close(algorithm(y, physics), expected, atol=1e-4, rtol=0)


@needs_deepinv
def test_diffpir_draws_what_is_not_measured_from_the_prior() -> None:
    """And keeps to the measurement where there is one."""
    import deepinv

    physics, _, y = measured("mask")
    known = physics.mask.bool().expand(y.shape)
    physics.noise_model = deepinv.physics.GaussianNoise(0.05)
    fidelity = deepinv.optim.data_fidelity.L2()
    loop = deepinv.sampling.DiffPIR(
        gaussian(), fidelity, sigma=0.05, max_iter=200, lambda_=1.0, zeta=1.0
    )
    x = loop(y, physics, seed=1)
    off = x[known] - shrunk(y[known], 0.05)  # of a posterior whose SD is .049
    assert abs(float(off.mean())) < 4 * 0.05 / len(off) ** 0.5
    assert float(off.std()) < 0.06
    free = x[~known]
    assert abs(float(free.mean()) - MEAN) < 4 * (VARIANCE / len(free)) ** 0.5
    assert 0.6 < float(free.std()) / VARIANCE**0.5 < 1.2


@needs_deepinv
@pytest.mark.slow
@pytest.mark.parametrize("loop", ["hqs", "diffpir"])
def test_the_bundled_base_restores_masked_voxels_of_a_phantom(loop: str) -> None:
    import deepinv

    body = chest((48, 40, 16), 5.0)
    denoise = Denoiser(denovox.load(device="cpu"), "chest", (5.0, 5.0, 5.0), body.labels)
    truth = denoise.from_hu(tensor(body.ct.hu)).clamp(0, 1)
    mask = (field(9, body.ct.shape, "cpu")(0)[0] > 0).float()
    physics = deepinv.physics.Inpainting(
        (1, *body.ct.shape), mask=mask, noise_model=deepinv.physics.GaussianNoise(0.02)
    )
    y = mask * (truth + 0.02 * field(2, body.ct.shape, "cpu")(0))
    fidelity = deepinv.optim.data_fidelity.L2()
    if loop == "hqs":
        steps = torch.logspace(0, -1.7, 12)
        algorithm = deepinv.optim.HQS(
            data_fidelity=fidelity, prior=deepinv.optim.prior.PnP(denoise), max_iter=12,
            sigma_denoiser=steps.tolist(), stepsize=(steps**2 / 0.02**2).tolist(),
        )  # fmt: skip
    else:
        algorithm = deepinv.sampling.DiffPIR(denoise, fidelity, sigma=0.02, max_iter=20)
    torch.manual_seed(0)  # DiffPIR draws
    with torch.no_grad():
        x = algorithm(y, physics)
    psnr = deepinv.metric.PSNR()
    before, after = (float(psnr(v.clamp(0, 1), truth)) for v in (mean_of_the_known(y, mask), x))
    assert after > before + (2 if loop == "hqs" else 0.5)  # a sample is farther off than the mean


def mean_of_the_known(y: Tensor, mask: Tensor) -> Tensor:
    """Where nothing is measured, the mean of the measured neighbours."""
    pool = torch.nn.functional.avg_pool3d
    near = [pool(v, 3, 1, 1, count_include_pad=False) for v in (y, mask[None])]
    return torch.where(mask[None] > 0, y, near[0] / near[1].clamp(min=1e-6))


def test_the_code_of_the_page_runs() -> None:
    """docs/how-to/reconstruction.md: the second block needs deepinv."""
    page = Path(__file__).parents[2] / "docs/how-to/reconstruction.md"
    first, second = re.findall(r"^```python\n(.*?)^```", page.read_text(), re.M | re.S)
    names = {"ct": chest((24, 20, 16), 5.0).ct}
    exec(compile(first, page.name, "exec"), names)
    x, x0 = names["x"], names["x0"]
    assert x0.shape == (1, 1, 24, 20, 16)
    assert bool(names["gradient"].isfinite().all())
    if HAS_DEEPINV:
        exec(compile(second, page.name, "exec"), names)
        off = [float((v - x).square().mean()) for v in (names["y"], names["restored"])]
        assert off[1] < off[0] / 4
