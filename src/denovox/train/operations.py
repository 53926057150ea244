"""What torch does, operation by operation: FLOPs, bytes, and what lives in memory meanwhile."""

from __future__ import annotations

import itertools
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils import flop_counter
from torch.utils._python_dispatch import TorchDispatchMode

ATTENTION = "_scaled_dot_product_flash_attention_for_cpu"
Key = tuple[object, ...]


@dataclass(frozen=True)
class TensorSpec:
    """A tensor less its contents."""

    shape: tuple[int, ...]
    stride: tuple[int, ...]
    dtype: torch.dtype

    @property
    def bytes(self) -> int:
        """Of its elements; what is broadcast counts once."""
        sizes = (n for n, step in zip(self.shape, self.stride, strict=True) if step)
        return math.prod(sizes) * self.dtype.itemsize


@dataclass(frozen=True)
class Op:
    """One operation of a step.

    name: torch's, such as "convolution". flops: a multiplication and an addition are two; 0 for
    what only moves or maps numbers. bytes: read and written, each tensor once. key: what decides
    how fast it is, whatever the number of voxels: the name, channels, kernel and type. call,
    arguments, named: as it was called, with a TensorSpec for each tensor; it can be called again.
    """

    name: str
    forward: bool
    flops: int
    bytes: int
    key: Key
    call: Callable[..., Any]
    arguments: tuple[Any, ...]
    named: tuple[tuple[str, Any], ...]


class Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Writes down each operation within the block, and when each tensor's memory comes and goes.

    known: storages that are not to be counted.
    """

    def __init__(self, known: set[int]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.forward = True
        self.ops: list[Op] = []
        self._events: list[tuple[int, int]] = []
        self._alive = set(known)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        named = kwargs or {}
        answer = func(*args, **named)
        made = list(_tensors(answer))
        for tensor in made:
            self._see(tensor)
        if func.namespace == "aten" and not _only_views(func, list(_tensors(args)), made):
            self.ops.append(_op(func, self.forward, args, named, answer))
        return answer

    def _see(self, tensor: Tensor) -> None:
        storage = tensor.untyped_storage()
        key, size = storage._cdata, storage.nbytes()
        if key not in self._alive:
            self._alive.add(key)
            self._events.append((key, size))
            weakref.finalize(storage, self._gone, key, size)

    def _gone(self, key: int, size: int) -> None:
        self._alive.discard(key)
        self._events.append((key, -size))

    def peak(self, without: set[int]) -> int:
        """The most bytes alive at one moment, less storages in `without`, which live to the end."""
        born = {key: n for n, (key, size) in enumerate(self._events) if size > 0}
        skip = {born[key] for key in without if key in born}
        sizes = (size for n, (_, size) in enumerate(self._events) if n not in skip)
        return max(itertools.accumulate(sizes), default=0)


def storage(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def _tensors(tree: Any) -> Iterator[Tensor]:
    if isinstance(tree, Tensor):
        yield tree
    elif isinstance(tree, (list, tuple)):
        for branch in tree:
            yield from _tensors(branch)


def _only_views(func: Any, given: list[Tensor], made: list[Tensor]) -> bool:
    """Whether the operation moves nothing: it makes no tensor, or but new views of what it got."""
    own = {storage(t) for t in given}
    return not func._schema.is_mutable and all(storage(t) in own for t in made)


def _spec(tree: Any) -> Any:
    if isinstance(tree, Tensor):
        return TensorSpec(tuple(tree.shape), tree.stride(), tree.dtype)
    if isinstance(tree, (list, tuple)):
        return tuple(_spec(branch) for branch in tree)
    return tree


def _op(func: Any, forward: bool, args: Any, named: Any, answer: Any) -> Op:
    name = func.overloadpacket.__name__
    given, made = [list(_specs(_spec(tree))) for tree in ((args, named), answer)]
    moved = sum(spec.bytes for spec in (*given, *made))
    flops = _flops(func, name, args, named, answer)
    return Op(name, forward, flops, moved, _key(name, given), func, _spec(args), _named(named))


def _named(given: dict[str, Any]) -> tuple[tuple[str, Any], ...]:
    return tuple((name, _spec(value)) for name, value in given.items())


def _specs(tree: Any) -> Iterator[TensorSpec]:
    if isinstance(tree, TensorSpec):
        yield tree
    elif isinstance(tree, tuple):
        for branch in tree:
            yield from _specs(branch)


def _key(name: str, given: list[TensorSpec]) -> Key:
    """Of a convolution the kernel; of anything else the channels of what it is given."""
    kind = tuple(str(spec.dtype) for spec in given[:1])
    if name.startswith("convolution"):
        weight = given[2 if name.endswith("backward") else 1]
        return (name, weight.shape, *kind)
    channels = tuple(spec.shape[1] for spec in given[:1] if len(spec.shape) == 5)
    return (name, channels, *kind)


def _flops(func: Any, name: str, args: Any, named: Any, answer: Any) -> int:
    """By torch's own formulas, which know another name for the attention that a CPU uses."""
    aten = torch.ops.aten
    packet = {
        ATTENTION: aten._scaled_dot_product_flash_attention,
        f"{ATTENTION}_backward": aten._scaled_dot_product_flash_attention_backward,
    }.get(name, func.overloadpacket)
    formula = flop_counter.flop_registry.get(packet)
    return 0 if formula is None else int(formula(*args, **named, out_val=answer))
