"""One training step of a recipe without its numbers: which operations, how much work and memory.

The network runs forward and backward on tensors that have shapes and no contents (torch's fake
tensors), so a step that would need a large GPU is counted in seconds on any machine.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ..core.condition import Condition
from ..core.labels import UNKNOWN
from ..core.regions import UNKNOWN_REGION
from ..model.activation_checkpointing import recompute
from ..model.controlnet import Control, ControlConfig, Controlled
from ..model.cpu_kernels import quicken
from ..model.unet import Net
from ..model.weights import channels_last
from .config import Recipe
from .operations import Op, Recorder, storage


@dataclass(frozen=True)
class Work:
    """A step's work on one batch.

    parameters: all of them; trained: those that learn. saved: bytes of activations kept from the
    forward for the backward pass, each storage once. peak: the most bytes that lived at one moment
    besides parameters, their gradients and the optimizer's state.
    """

    batch: int
    patch: int
    bfloat16: bool
    parameters: int
    trained: int
    ops: tuple[Op, ...]
    saved: int
    peak: int

    def flops(self, forward: bool) -> int:
        """Of the batch, in one direction; what is computed again counts as backward."""
        return sum(op.flops for op in self.ops if op.forward is forward)

    @property
    def fixed(self) -> int:
        """Bytes in float32: parameters; for the trained also gradient, two moments, average."""
        return 4 * (self.parameters + 4 * self.trained)


def trace(
    recipe: Recipe,
    batch: int,
    patch: int,
    bfloat16: bool = False,
    checkpointing: bool = False,
    gpu: bool = False,
) -> Work:
    """The work of one batch of the recipe's network, forward and backward.

    batch: samples at a time; patch: edge in voxels, a multiple of the network's own. bfloat16:
    under autocast. gpu: by autocast's rules for CUDA, where a group norm answers in float32.
    """
    from torch._subclasses.fake_tensor import FakeTensorMode

    with FakeTensorMode(), torch.random.fork_rng(devices=[]):
        net = _network(recipe)  # fake tensors have no device to be placed on
        if not gpu:
            quicken(net)
        channels_last(net)
        trained: list[Tensor] = [p for p in net.parameters() if p.requires_grad]
        if gpu and bfloat16:
            for module in net.modules():
                if isinstance(module, nn.GroupNorm):
                    module.register_forward_pre_hook(_in_float32)
        if checkpointing:
            recompute(net)
        return _traced(net, trained, _inputs(recipe, batch, patch), bfloat16)


def _network(recipe: Recipe) -> Net | Controlled:
    base = recipe.model.build()
    control = recipe.data.sample.control
    if control is None:
        return base
    config = ControlConfig(kind=control.kind, base="", width=recipe.width)
    return Controlled(base.requires_grad_(False), Control(base, config))


def _in_float32(module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(each.float() for each in inputs)


def _inputs(recipe: Recipe, batch: int, patch: int) -> tuple[Tensor, Tensor, Tensor, Condition]:
    shape = (batch, 1, patch, patch, patch)
    steered = recipe.data.sample.control is not None
    axis = torch.zeros(batch, patch)
    told = Condition(
        torch.full((batch,), UNKNOWN_REGION),
        torch.full((batch, patch, patch, patch), UNKNOWN, dtype=torch.uint8),
        axis,
        axis,
        axis,
        torch.ones(batch, 3),
        torch.zeros(shape) if steered else None,
    )
    return torch.zeros(shape), torch.ones(batch), torch.ones(batch), told


def _traced(
    net: nn.Module,
    trained: list[Tensor],
    inputs: tuple[Tensor, Tensor, Tensor, Condition],
    bfloat16: bool,
) -> Work:
    own = {storage(p) for p in (*net.parameters(), *net.buffers())}
    saved: dict[int, int] = {}

    def pack(tensor: Tensor) -> Tensor:
        if storage(tensor) not in own:
            saved[storage(tensor)] = tensor.untyped_storage().nbytes()
        return tensor

    target = torch.zeros_like(inputs[0])
    recorder = Recorder(own | {storage(t) for t in (*inputs[:3], target)})
    with recorder:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            with torch.autocast("cpu", torch.bfloat16, enabled=bfloat16):
                said = net(*inputs)
            loss = (said.float() - target).abs().mean()
        recorder.forward = False
        del said
        torch.autograd.backward(loss)
    gradients = {storage(p.grad) for p in trained if p.grad is not None}
    batch, patch = inputs[0].shape[0], inputs[0].shape[-1]
    count = sum(p.numel() for p in net.parameters())
    learning = sum(p.numel() for p in trained)
    ops, peak = tuple(recorder.ops), recorder.peak(gradients)
    return Work(batch, patch, bfloat16, count, learning, ops, sum(saved.values()), peak)
