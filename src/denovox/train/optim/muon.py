"""Muon: steepest descent with orthogonalised updates, for convolution kernels.

Jordan et al. 2024 (https://kellerjordan.github.io/posts/muon), with the step size of Liu et al.
2025 (arXiv 2502.16982, section 2.2), for which the learning rate and weight decay of AdamW can be
used unchanged. torch.optim.Muon takes matrices one by one; here kernels of the same shape are
batched, for efficiency on a GPU, and sharded kernels are gathered first.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import Parameter

from ...model.denoiser import Precision, use_bfloat16
from ..distributed import like, whole

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # Jordan's: singular values end up between 0.68 and 1.14
ITERATIONS = 5
RMS = 0.2  # of a typical AdamW update, which the step size matches


def is_kernel(parameter: Tensor) -> bool:
    """Whether Muon trains it: a 3D convolution with more than 1 output and more than 2 inputs."""
    return parameter.dim() == 5 and parameter.shape[0] > 1 and parameter.shape[1] > 2


def orthogonal(
    matrices: Float[Tensor, "n rows columns"], bfloat16: bool = False
) -> Float[Tensor, "n rows columns"]:
    """Matrices with the same singular vectors and singular values near 1 (Newton-Schulz)."""
    x = matrices / (torch.linalg.matrix_norm(matrices, keepdim=True) + 1e-7)
    x = x.bfloat16() if bfloat16 else x
    tall = x.shape[1] > x.shape[2]
    x = x.mT if tall else x
    a, b, c = COEFFICIENTS
    for _ in range(ITERATIONS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), x, beta=a)
    return (x.mT if tall else x).to(matrices.dtype)


class Muon(torch.optim.Optimizer):
    """Nesterov momentum, orthogonalised, with decoupled weight decay; for 5-dimensional kernels.

    found_inf: as in torch's fused optimizers, a number on the parameters' device; unless it is 0,
    `step` changes nothing. None: gradients are known to be finite. precision: of the
    orthogonalisation.
    """

    found_inf: Tensor | None = None

    def __init__(
        self,
        parameters: Iterable[Parameter],
        lr: float,
        weight_decay: float = 0.0,
        momentum: float = 0.95,
        precision: Precision = "auto",
    ) -> None:
        self.precision = precision
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of all kernels that have a gradient."""
        for group in self.param_groups:
            together: dict[tuple[int, ...], list[Parameter]] = {}
            for kernel in group["params"]:
                if kernel.grad is not None:
                    together.setdefault(tuple(kernel.shape), []).append(kernel)
            for kernels in together.values():
                self._update(kernels, group)

    def _update(self, kernels: list[Parameter], group: dict[str, Any]) -> None:
        """Update kernels of one shape."""
        keep = 1.0 if self.found_inf is None else 1 - self.found_inf
        updates = []
        for kernel in kernels:
            state, gradient = self.state[kernel], kernel.grad
            assert gradient is not None
            if "momentum" not in state:
                state["momentum"] = torch.zeros_like(kernel)
            average = state["momentum"]
            # Interpolating towards itself leaves the average unchanged.
            if self.found_inf is not None:
                gradient = torch.where(self.found_inf > 0, average, gradient)
            average.lerp_(gradient, 1 - group["momentum"])
            updates.append(_flat(whole(gradient.lerp(average, group["momentum"]))))
        rows, columns = updates[0].shape
        size = group["lr"] * RMS * math.sqrt(max(rows, columns))
        bfloat16 = use_bfloat16(self.precision, updates[0].device.type)
        for kernel, update in zip(kernels, orthogonal(torch.stack(updates), bfloat16), strict=True):
            kernel.mul_(1 - group["lr"] * group["weight_decay"] * keep)
            kernel.add_(like(_kernel(update, kernel), kernel) * keep, alpha=-size)


def _flat(kernel: Float[Tensor, "out inner x y z"]) -> Float[Tensor, "out inner*x*y*z"]:
    """A kernel as a matrix; inputs last, the memory order of channels-last kernels."""
    return kernel.permute(0, 2, 3, 4, 1).reshape(len(kernel), -1)


def _kernel(matrix: Float[Tensor, "out columns"], of: Tensor) -> Float[Tensor, "out inner x y z"]:
    """The inverse of `_flat`."""
    out, inputs, x, y, z = of.shape
    return matrix.view(out, x, y, z, inputs).permute(0, 4, 1, 2, 3)
