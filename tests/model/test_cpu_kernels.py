"""Layers in less time: torch's answers, and its gradients."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from denovox.model.cpu_kernels import (
    LAST,
    ONEDNN,
    _GroupNorm,
    convolution,
    group_norm,
    use_fast_kernels,
)


def drawn(shape, dtype, mean=0.0, spread=1.0):
    torch.manual_seed(0)
    x = (mean + spread * torch.randn(shape)).to(dtype).contiguous(memory_format=LAST)
    return x.requires_grad_(), torch.randn(shape).to(dtype).contiguous(memory_format=LAST)


def norm(channels, groups, dtype=torch.float32):
    module = nn.GroupNorm(groups, channels).to(dtype)
    with torch.no_grad():
        module.weight.normal_(1, 0.5)
        module.bias.normal_()
    return module


@pytest.mark.parametrize(("channels", "groups"), [(6, 3), (4, 4), (4, 1)])
def test_gradients_are_those_of_finite_differences(channels, groups):
    x, _ = drawn((2, channels, 3, 2, 2), torch.float64, mean=0.5)
    weight = torch.randn(channels, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(channels, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda x, w, b: _GroupNorm.apply(x, groups, w, b, 1e-6), (x, weight, bias)
    )


def gradients(y, given, grad):
    return torch.autograd.grad(y, given, grad)


@pytest.mark.parametrize("mean", [0.0, 20.0])
def test_torch_agrees(mean):
    module = norm(32, 16)
    x, grad = drawn((2, 32, 6, 5, 4), torch.float32, mean)
    ours = group_norm(module, x)
    theirs = F.group_norm(x, 16, module.weight, module.bias, module.eps)
    assert torch.equal(ours, theirs)
    given = (x, module.weight, module.bias)
    for a, b in zip(gradients(ours, given, grad), gradients(theirs, given, grad), strict=True):
        torch.testing.assert_close(a, b, rtol=2e-4, atol=2e-4)


def test_one_sample_with_any_stride_along_the_batch():
    """As `x[0][None]` makes it: channels last, and for torch something else."""
    module = norm(8, 4)
    x, grad = drawn((1, 8, 3, 2, 4), torch.float32)
    other = x[0][None]
    assert other.is_contiguous(memory_format=LAST)
    assert other.stride(0) != x.stride(0)
    ours, theirs = group_norm(module, other), group_norm(module, x)
    torch.testing.assert_close(ours, theirs)
    for a, b in zip(gradients(ours, [x], grad), gradients(theirs, [x], grad), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("mean", [0.0, 4.0])
def test_bfloat16_is_as_near_to_the_truth_as_torch_is(mean):
    module = norm(32, 16)
    x, grad = drawn((2, 32, 6, 5, 4), torch.bfloat16, mean)
    exact = x.detach().double().requires_grad_()
    double = [p.detach().double() for p in (module.weight, module.bias)]
    (truth,) = gradients(F.group_norm(exact, 16, *double, module.eps), exact, grad.double())
    theirs = F.group_norm(x, 16, module.weight, module.bias, module.eps)
    far = [
        float((gradients(y, x, grad)[0].double() - truth).abs().mean())
        for y in (group_norm(module, x), theirs)
    ]
    assert far[0] <= 1.05 * far[1]


def test_where_it_does_not_serve_torch_does():
    module = norm(8, 4)
    plain = torch.randn(2, 8, 4, 4, 4, requires_grad=True)
    assert "GroupNormBackward" in type(group_norm(module, plain).grad_fn).__name__
    assert "_GroupNorm" not in type(group_norm(module, plain).grad_fn).__name__
    last = plain.detach().contiguous(memory_format=LAST).requires_grad_()
    assert "_GroupNorm" in type(group_norm(module, last).grad_fn).__name__
    with torch.no_grad():
        assert group_norm(module, last).grad_fn is None


def test_a_network_keeps_its_names_and_its_layout():
    net = nn.Sequential(nn.Conv3d(4, 8, 3), norm(8, 4)).to(memory_format=LAST)
    before = list(net.state_dict())
    use_fast_kernels(net)
    assert list(net.state_dict()) == before
    x, _ = drawn((2, 4, 6, 6, 6), torch.float32)
    y = net(x)
    assert "_GroupNorm" in type(y.grad_fn).__name__
    y.square().mean().backward()
    assert x.grad.is_contiguous(memory_format=LAST)


SHAPES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": 3, "padding": 1, "stride": 2},
    {"kernel_size": 3, "padding": 2, "dilation": 2, "groups": 2},
    {"kernel_size": 1, "bias": False},
    {"kernel_size": (1, 3, 3), "padding": (0, 1, 2), "stride": (1, 2, 1)},
]


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("layout", [torch.contiguous_format, LAST])
def test_convolutions_answer_what_float64_answers(shape, layout):
    torch.manual_seed(0)
    module = nn.Conv3d(8, 6, **shape)
    x = torch.randn(1, 8, 9, 8, 7).contiguous(memory_format=layout)
    with torch.no_grad():
        quick, slow = convolution(module, x), module(x)
        double = copy.deepcopy(module).double()
        exact = double(x.double())
        for parameter in double.parameters():
            parameter.abs_()
        summed = double(x.double().abs())  # rounding is a share of the sum of magnitudes
    assert quick.shape == slow.shape
    assert quick.dtype == torch.float32
    assert bool(((quick - exact).abs() <= 4 * torch.finfo(torch.float32).eps * summed).all())
    if layout is LAST:
        assert quick.is_contiguous(memory_format=LAST)


def ran(call):
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        call()
    return {event.key for event in profile.key_averages()}


@pytest.mark.skipif(not ONEDNN, reason="this torch has no oneDNN")
def test_one_small_window_takes_the_quick_path():
    module = nn.Conv3d(16, 16, 3, padding=1)
    x = torch.randn(1, 16, 8, 8, 8).contiguous(memory_format=LAST)
    with torch.no_grad():
        assert "aten::slow_conv3d" in ran(lambda: module(x))  # else torch has learnt it
        use_fast_kernels(module)
        assert "aten::slow_conv3d" not in ran(lambda: module(x))


def test_convolutions_with_gradients_autocast_or_other_padding_are_torchs():
    module = nn.Conv3d(4, 4, 3, padding=1)
    x = torch.randn(1, 4, 6, 6, 6)
    assert type(convolution(module, x).grad_fn).__name__ == "ConvolutionBackward0"
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert convolution(module, x).dtype == torch.bfloat16
    for odd in (
        nn.Conv3d(4, 4, 3, padding=1, padding_mode="circular"),
        nn.Conv3d(4, 4, 3, padding="same"),
    ):
        with torch.no_grad():
            assert torch.equal(convolution(odd, x), odd(x))


def test_a_strided_convolution_of_two_slices_reads_nothing_else():
    """In bfloat16, where oneDNN does, the result is that of whatever memory holds."""
    module = nn.Conv3d(64, 64, 3, 2, 1).to(torch.bfloat16).requires_grad_(False)
    x, _ = drawn((1, 64, 24, 20, 2), torch.bfloat16)
    expected = F.conv3d(x.float(), module.weight.float(), module.bias.float(), 2, 1)
    with torch.inference_mode():
        for _ in range(8):
            waste = [torch.full((1, 64, 64, 64, 2), float("nan")).bfloat16() for _ in range(4)]
            del waste
            ours = convolution(module, x).float()
            torch.testing.assert_close(ours, expected, atol=0.02, rtol=0)


@pytest.mark.parametrize("shape", [(2, 2, 2), (2, 5, 4)])
@pytest.mark.parametrize("stride", [1, 2])
def test_gradients_of_two_planes_are_not_what_was_in_memory(shape, stride):
    """In bfloat16, on CPUs with AVX512-BF16."""
    torch.manual_seed(0)
    module = nn.Conv3d(16, 16, 3, stride, 1)
    x = torch.randn(2, 16, *shape).contiguous(memory_format=LAST).requires_grad_()
    exact = copy.deepcopy(module).bfloat16().double()
    seen = x.detach().bfloat16().double().requires_grad_()
    expected = exact(seen)
    pull = torch.randn_like(expected).bfloat16().double()
    expected.backward(pull)
    for _ in range(4):
        module.zero_grad()
        x.grad = None
        with torch.autocast("cpu", torch.bfloat16):
            got = convolution(module, x)
        assert got.is_contiguous(memory_format=LAST)
        torch.testing.assert_close(got.double(), expected.detach(), atol=0.02, rtol=0)
        got.backward(pull.to(got.dtype))
        pairs = (module.weight, exact.weight), (module.bias, exact.bias), (x, seen)
        for one, other in pairs:
            off = (one.grad.double() - other.grad).norm() / other.grad.norm()
            assert off < 0.01
        waste = [torch.full((1_000_000,), float("inf")) for _ in range(4)]
        del waste
