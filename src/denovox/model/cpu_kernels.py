"""Layers with torch's arithmetic that are faster on a CPU (benchmarks/results).

Group norms: torch's own backward is three to five times slower than its arithmetic requires with
channels last in memory, and a third of a training step with bfloat16. The forward is torch's:
outputs do not change, bit for bit.

Convolutions: for a single small volume in float32, torch bypasses oneDNN in favour of a path
(slow_conv3d) that takes up to four times as long. One tile of a scan is such a volume in the deeper
half of the network.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

LAST = torch.channels_last_3d
ONEDNN = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]


class _GroupNorm(torch.autograd.Function):
    """Wu and He 2018, with gradients in closed form."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, groups: int, weight: Tensor, bias: Tensor, eps: float) -> Any:
        n, c = x.shape[:2]
        voxels = x[0, 0].numel()
        y, mean, scale = torch.native_group_norm(x, weight, bias, n, c, voxels, groups, eps)
        ctx.save_for_backward(x, mean, scale, weight)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Any:
        x, mean, scale, weight = ctx.saved_tensors
        n, c = x.shape[:2]
        groups, voxels = mean.shape[1], x[0, 0].numel()
        wide = torch.promote_types(x.dtype, torch.float32)
        # Channels last: a row is a voxel, and no data are moved.
        x_, g_ = (t.permute(0, 2, 3, 4, 1).reshape(n, voxels, c).to(wide) for t in (x, grad))

        def each(of: Tensor) -> Tensor:
            """Values per group -> values per channel."""
            return of.to(wide).view(n, groups).repeat_interleave(c // groups, 1)

        def group_mean(of: Tensor) -> Tensor:
            """Sums per channel -> the mean over all elements of its group, per channel."""
            return each(of.view(n, groups, -1).sum(2) / (voxels * c // groups))

        mean_, scale_, weight_ = each(mean), each(scale), weight.to(wide)
        plain = g_.sum(1)
        along = ((x_ * g_).sum(1) - mean_ * plain) * scale_  # the gradient along the normalised x
        # d x = s (w g - mean(w g) - xhat mean(w g xhat)), as a linear function of g and x.
        pull = scale_**2 * group_mean(weight_ * along)
        rest = pull * mean_ - scale_ * group_mean(weight_ * plain)
        d_x = torch.addcmul(rest[:, None], g_, (scale_ * weight_)[:, None])
        d_x = d_x.addcmul_(x_, -pull[:, None]).to(x.dtype)
        d_x = d_x.view(n, *x.shape[2:], c).permute(0, 4, 1, 2, 3)
        return d_x, None, along.sum(0).to(weight.dtype), plain.sum(0).to(weight.dtype), None


def group_norm(module: nn.GroupNorm, x: Float[Tensor, "b c x y z"]) -> Float[Tensor, "b c x y z"]:
    """The module's output; except on a CPU with channels last, gradients are torch's own."""
    if (
        x.is_cpu
        and x.dim() == 5
        and torch.is_grad_enabled()
        and x.is_contiguous(memory_format=LAST)
        and x.stride(0) == x[0].numel()  # one sample may have any; torch then takes it for another
    ):
        apply: Any = _GroupNorm.apply
        return apply(x, module.num_groups, module.weight, module.bias, module.eps)
    return F.group_norm(x, module.num_groups, module.weight, module.bias, module.eps)


def convolution(
    module: nn.Conv3d, x: Float[Tensor, "b c x y z"], bias: Tensor | None = None
) -> Float[Tensor, "b d u v w"]:
    """The module's output, up to float32 rounding; by torch's own path where gradients flow.

    bias: in place of the module's.
    """
    bias = module.bias if bias is None else bias
    half = x.dtype == torch.bfloat16 or torch.is_autocast_enabled("cpu")
    if half and x.is_cpu and x.dim() == 5 and x.shape[4] == module.stride[2] == 2:
        # Where its result is one voxel deep, oneDNN's bfloat16 kernel reads beyond its input.
        return convolution(module, F.pad(x, (0, 2)), bias)[..., :1].contiguous(memory_format=LAST)
    same = (module.kernel_size[0], module.padding, module.stride[0]) == (3, (1, 1, 1), 1)
    if half and x.is_cpu and same and x.shape[2] == 2 and torch.is_grad_enabled():
        # Of two planes, its gradient of the weights is whatever was in memory (AVX512-BF16).
        whole = convolution(module, F.pad(x, (0, 0, 0, 0, 0, 2)), bias)
        return whole[:, :, :2].contiguous(memory_format=LAST)
    if (
        not torch.is_grad_enabled()
        and not torch.is_autocast_enabled("cpu")
        and x.is_cpu
        and x.dim() == 5
        and x.dtype == module.weight.dtype == torch.float32
        and module.padding_mode == "zeros"
        and not isinstance(module.padding, str)
        and ONEDNN
    ):
        sizes = (module.padding, module.stride, module.dilation, module.groups)
        return torch.mkldnn_convolution(x, module.weight, bias, *sizes)
    return module._conv_forward(x, module.weight, bias)


def use_fast_kernels(net: nn.Module) -> None:
    """Change a network in place: its group norms and convolutions use those of this module."""
    for module in net.modules():
        if isinstance(module, nn.GroupNorm):
            module.forward = partial(group_norm, module)  # type: ignore[method-assign]
        elif isinstance(module, nn.Conv3d):
            module.forward = partial(convolution, module)  # type: ignore[method-assign]
