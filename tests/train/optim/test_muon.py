"""Muon against its singular values, torch's own, and itself: laid out, together, stopped."""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import Parameter
from toy import toy

from denovox.core.errors import InputError
from denovox.datasets.samples.batch import Batch, batches
from denovox.train import checkpoint
from denovox.train.config import TrainConfig
from denovox.train.loop import Progress, train
from denovox.train.optim import muon
from denovox.train.optim.muon import COEFFICIENTS, ITERATIONS, Muon, is_kernel, orthogonal
from denovox.train.run_state import RunState

LAST = torch.channels_last_3d
SIZES = [(8, 8), (8, 30), (30, 8)]


def rng(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def randn(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=rng(seed), dtype=torch.float64)


@pytest.fixture
def exact(monkeypatch):
    """No bfloat16, in our iteration or in torch's: what differs then is no rounding."""
    monkeypatch.setattr(muon, "use_bfloat16", lambda *_: False)
    monkeypatch.setattr(Tensor, "bfloat16", lambda x: x)


# ---- orthogonal ---------------------------------------------------------------------------------


def well_conditioned(rows: int, columns: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(matrix, u, s, v): singular values from 1 to 4."""
    u, _, v = torch.linalg.svd(randn(rows, columns), full_matrices=False)
    s = torch.linspace(4, 1, min(rows, columns), dtype=torch.float64)
    return (u * s) @ v, u, s, v


def polynomial(s: Tensor) -> Tensor:
    """What becomes of singular values."""
    a, b, c = COEFFICIENTS
    s = s / (s.norm() + 1e-7)
    for _ in range(ITERATIONS):
        s = a * s + b * s**3 + c * s**5
    return s


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_singular_vectors_stay_and_values_go_through_the_polynomial(exact, rows, columns):
    matrix, u, s, v = well_conditioned(rows, columns)
    got = orthogonal(matrix[None])[0]
    torch.testing.assert_close(got, (u * polynomial(s)) @ v, rtol=0, atol=1e-12)
    values = torch.linalg.svdvals(got)
    assert values.min() > 0.68
    assert values.max() < 1.14


@pytest.mark.parametrize(("rows", "columns"), SIZES)
def test_in_bfloat16_they_stay_to_its_rounding(rows, columns):
    matrix, u, s, v = well_conditioned(rows, columns)
    got = orthogonal(matrix[None].float(), bfloat16=True)[0]
    assert got.dtype == torch.float32
    # Five iterations of three products, each good to 2^-9: their sum, if all went one way, is 2^-5;
    # what the first ones lose grows by the polynomial's slope meanwhile.
    away = torch.linalg.matrix_norm(got.double() - (u * polynomial(s)) @ v, 2)
    assert away < 2**-4
    assert away > 1e-5  # it was bfloat16
    turned = u.T @ got.double() @ v.T  # as u v' is turned into the identity
    assert (turned.diagonal() - 1).abs().max() < 0.32 + 2**-4
    assert (turned - turned.diagonal().diag()).abs().max() < 2**-4


def test_scale_does_not_matter(exact):
    matrix = 1e3 * randn(3, 6, 20)
    torch.testing.assert_close(orthogonal(1e4 * matrix), orthogonal(matrix), rtol=1e-9, atol=1e-10)


def test_tall_is_wide_transposed_and_many_are_one_by_one(exact):
    wide = randn(3, 6, 20)
    got = orthogonal(wide)
    torch.testing.assert_close(orthogonal(wide.mT.contiguous()), got.mT, rtol=0, atol=1e-12)
    for n in range(3):
        torch.testing.assert_close(orthogonal(wide[n : n + 1])[0], got[n], rtol=0, atol=1e-12)


def test_nothing_becomes_nothing():
    assert not orthogonal(torch.zeros(2, 3, 4)).any()


# ---- updates ------------------------------------------------------------------------------------

SHAPES = [(4, 3, 3, 3, 3), (2, 5, 1, 1, 1), (4, 3, 3, 3, 3), (30, 4, 1, 2, 1)]


def learning(layout: torch.memory_format = torch.contiguous_format) -> list[Parameter]:
    return [
        Parameter(randn(*shape, seed=n).contiguous(memory_format=layout))
        for n, shape in enumerate(SHAPES)
    ]


def gradients(step: int) -> list[Tensor]:
    return [randn(*shape, seed=100 * step + n) for n, shape in enumerate(SHAPES)]


def stepped(kernels: list[Parameter], optimizers: list[Muon], steps: int = 3) -> list[Tensor]:
    """The kernels after some steps."""
    for step in range(1, steps + 1):
        for kernel, gradient in zip(kernels, gradients(step), strict=True):
            kernel.grad = torch.empty_like(kernel).copy_(gradient)
        for optimizer in optimizers:
            optimizer.step()
    return [kernel.detach().clone() for kernel in kernels]


def flat(kernel: Tensor) -> Tensor:
    """A row for each output: the inputs of a place, place after place."""
    return kernel.detach().movedim(1, -1).flatten(1).clone()


@pytest.mark.skipif(not hasattr(torch.optim, "Muon"), reason="torch before 2.9 has none")
def test_updates_are_those_of_torchs_muon(exact):
    kernels = learning()
    ours = Muon(kernels, lr=0.02, weight_decay=0.3)
    matrices = [Parameter(flat(kernel)) for kernel in kernels]
    theirs = torch.optim.Muon(
        matrices, lr=0.02, weight_decay=0.3, nesterov=True, adjust_lr_fn="match_rms_adamw"
    )
    assert theirs.defaults["momentum"] == ours.defaults["momentum"]
    assert theirs.defaults["ns_coefficients"] == COEFFICIENTS
    assert theirs.defaults["ns_steps"] == ITERATIONS
    for step in range(1, 6):
        for of in (ours, theirs):
            of.param_groups[0]["lr"] = 0.02 / step
        for kernel, matrix, gradient in zip(kernels, matrices, gradients(step), strict=True):
            kernel.grad, matrix.grad = gradient, flat(gradient)
        ours.step()
        theirs.step()
        for kernel, matrix in zip(kernels, matrices, strict=True):
            # The norm is kept from zero by an addition here, and by a clamp there: 1e-7 of it.
            torch.testing.assert_close(flat(kernel), matrix.detach(), rtol=0, atol=1e-8)


def test_the_layout_in_memory_does_not_matter():
    plain, last = learning(), learning(LAST)
    assert plain[0].stride() != last[0].stride()
    got = stepped(last, [Muon(last, lr=0.02, weight_decay=0.1)])
    expected = stepped(plain, [Muon(plain, lr=0.02, weight_decay=0.1)])
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))
    assert last[0].is_contiguous(memory_format=LAST)


def test_kernels_of_one_shape_go_together_as_one_by_one(exact):
    together, alone = learning(), learning()
    got = stepped(together, [Muon(together, lr=0.02)])
    expected = stepped(alone, [Muon([kernel], lr=0.02) for kernel in alone])
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=1e-12)


def test_a_kernel_without_a_gradient_stays():
    kernels = learning()
    before = kernels[0].detach().clone()
    kernels[2].grad = gradients(1)[2]
    Muon(kernels, lr=0.02, weight_decay=0.1).step()
    assert torch.equal(kernels[0], before)


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_where_a_step_is_not_finite_nothing_changes_bit_for_bit(steps, bad):
    kernels = [Parameter(kernel.float()) for kernel in learning(LAST)]
    optimizer = Muon(kernels, lr=0.02, weight_decay=0.1)
    stepped(kernels, [optimizer], steps)

    def all_of_it() -> list[Tensor]:
        states = [optimizer.state[kernel].get("momentum") for kernel in kernels]
        zeros = [torch.zeros_like(k) if s is None else s for k, s in zip(kernels, states)]  # noqa: B905
        return [tensor.detach().clone() for tensor in (*kernels, *zeros)]

    before = all_of_it()
    for kernel in kernels:
        kernel.grad = torch.full_like(kernel, bad)
    optimizer.found_inf = torch.ones(())
    optimizer.step()
    assert all(torch.equal(a, b) for a, b in zip(all_of_it(), before, strict=True))


def test_a_step_that_is_known_to_be_finite_is_a_step():
    told, plain = learning(), learning()
    optimizer = Muon(told, lr=0.02, weight_decay=0.1)
    optimizer.found_inf = torch.zeros((), dtype=torch.float64)
    got = stepped(told, [optimizer])
    expected = stepped(plain, [Muon(plain, lr=0.02, weight_decay=0.1)])
    assert all(torch.equal(a, b) for a, b in zip(got, expected, strict=True))


@pytest.mark.parametrize(
    ("shape", "is_one"),
    [
        ((2, 3, 3, 3, 3), True),
        ((8, 16, 1, 1, 1), True),
        ((1, 16, 3, 3, 3), False),  # the last convolution
        ((16, 2, 3, 3, 3), False),  # the first: the image, and maybe its control
        ((16, 16), False),
        ((16,), False),
        ((16, 16, 3, 3), False),
    ],
)
def test_which_parameters_are_kernels(shape, is_one):
    assert is_kernel(Parameter(torch.zeros(shape))) is is_one


# ---- the loop -----------------------------------------------------------------------------------

CONFIG = TrainConfig(
    steps=7, samples=2, batch=2, optimizer="muon", lr=0.02, weight_decay=0.1, decay=0.5, ema=3
)


def finish(
    folder: Path, config: TrainConfig = CONFIG, stop_after: int | None = None
) -> tuple[list[Progress], dict[str, Parameter]]:
    """A small network that learns to blur."""
    torch.manual_seed(0)
    net = nn.Sequential(
        nn.Conv3d(1, 4, 3, padding=1), nn.SiLU(), nn.Conv3d(4, 4, 3, padding=1), nn.SiLU(),
        nn.Conv3d(4, 4, 3, padding=1), nn.Conv3d(4, 1, 1),
    ).to(memory_format=LAST)  # fmt: skip
    parameters = dict(net.named_parameters())

    def predict(samples: Batch) -> Tensor:
        blurred = nn.functional.avg_pool3d(samples.x0, 3, 1, 1)
        return (net(samples.x0) - blurred).square().mean((1, 2, 3, 4))

    draw = batches(lambda n: toy(torch.randn(4**3, generator=rng(n))))
    steps = train(predict, parameters, draw, config, folder)
    said = list(itertools.islice(steps, stop_after))
    steps.close()
    return said, parameters


def test_a_stopped_run_goes_on_bit_for_bit(tmp_path):
    whole, expected = finish(tmp_path / "whole")
    for stop in (1, 3):
        finish(tmp_path / "parts", stop_after=stop)
    rest, got = finish(tmp_path / "parts")
    assert [p.loss for p in rest] == [p.loss for p in whole[4:]]
    for name in expected:
        assert torch.equal(got[name], expected[name])
        assert torch.equal(rest[-1].average[name], whole[-1].average[name])
    a, b = (checkpoint.load(tmp_path / name)[0] for name in ("whole", "parts"))
    for number, of in a["muon"]["state"].items():
        assert torch.equal(of["momentum"], b["muon"]["state"][number]["momentum"])


def test_kernels_are_muons_and_the_rest_is_adamws(tmp_path):
    _, parameters = finish(tmp_path)
    state = RunState(parameters, CONFIG)
    names = {id(parameter): name for name, parameter in parameters.items()}
    mine = {
        kind: {names[id(p)] for p in optimizer.param_groups[0]["params"]}
        for kind, optimizer in state.optimizers.items()
    }
    assert mine["muon"] == {"2.weight", "4.weight"}
    assert mine["optimizer"] == set(parameters) - mine["muon"]
    assert all(o.param_groups[0]["weight_decay"] == 0.1 for o in state.optimizers.values())


def test_both_learn_at_the_rate_that_is_told():
    torch.manual_seed(0)
    parameters = {"kernel": Parameter(torch.randn(4, 4, 1, 1, 1)), "bias": Parameter(torch.ones(4))}
    before = {name: p.detach().clone() for name, p in parameters.items()}
    state = RunState(parameters, CONFIG)
    for lr, not_finite, moves in ((0.0, 0, False), (0.1, 1, False), (0.1, 0, True)):
        for parameter in parameters.values():
            parameter.grad = torch.full_like(parameter, float("nan") if not_finite else 1.0)
        state.update(lr, torch.tensor(float(not_finite)))
        for name, parameter in parameters.items():
            assert torch.equal(parameter, before[name]) is not moves


def test_it_learns_faster_than_it_forgets(tmp_path):
    said, _ = finish(tmp_path, CONFIG.model_copy(update={"steps": 60}))
    assert said[-1].loss < 0.1 * said[0].loss


@pytest.mark.parametrize(("first", "then"), [("muon", "adamw"), ("adamw", "muon")])
def test_a_state_of_the_other_optimizer_is_one_sentence(tmp_path, first, then):
    finish(tmp_path, CONFIG.model_copy(update={"optimizer": first}), stop_after=1)
    before = (tmp_path / checkpoint.NAME).read_bytes()
    with pytest.raises(InputError, match=r"a different optimizer.*train\.optimizer") as told:
        finish(tmp_path, CONFIG.model_copy(update={"optimizer": then}))
    assert "\n" not in str(told.value)
    assert (tmp_path / checkpoint.NAME).read_bytes() == before
