"""A GPU that is not there: tensors that are on it by their own account, computed by the CPU.

Operations on tensors of both kinds are refused, as CUDA does, and so is a view of them as an array.
The numbers are the CPU's, so that results can be compared bit for bit. torch's own fake tensors
would find the same mistakes, but they have no numbers, on which tiles depend.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

GPU = "meta"  # torch needs no hardware for it
MOVES = (torch.ops.aten.copy_.default, torch.ops.aten._to_copy.default)


class OnGpu(Tensor):
    """held: what stands for it."""

    held: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, held: Tensor) -> OnGpu:
        layout = (held.size(), held.stride(), held.storage_offset())
        made: OnGpu = Tensor._make_wrapper_subclass(cls, *layout, dtype=held.dtype, device=GPU)
        made.held = held
        return made

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        return _computed(func, args, kwargs or {})


class PretendGpu(TorchDispatchMode):
    """Within it, `GPU` is a device. moved: tensors that were sent there. waits: how often a number
    or a tensor was fetched from there, for which CUDA finishes all that it has to do."""

    moved = waits = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = _computed(func, args, kwargs or {})
        was, is_ = (
            any(isinstance(each, OnGpu) for each in tree_leaves(of)) for of in (args, result)
        )
        self.moved += func in MOVES and is_ > was
        self.waits += was > is_
        return result


def _computed(func: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    given = [each for each in tree_leaves((args, kwargs)) if isinstance(each, Tensor)]
    there = [each for each in given if isinstance(each, OnGpu)]
    # CUDA, too, takes single numbers and indices from the CPU.
    here = [each for each in given if not isinstance(each, OnGpu) and each.dim()]
    if there and here and func not in MOVES and "index" not in func.__name__:
        raise RuntimeError(f"{func}: {tuple(here[0].shape)} is on the CPU, others on the GPU")
    on_gpu = isinstance(args[0], OnGpu) if func is MOVES[0] else bool(there)
    if kwargs.get("device") is not None:
        on_gpu = torch.device(kwargs["device"]).type == GPU
        kwargs = {**kwargs, "device": "cpu"}
    plain, named = tree_map(lambda x: x.held if isinstance(x, OnGpu) else x, (args, kwargs))
    known = {id(each.held): each for each in there}

    def marked(x: Any) -> Any:
        if not on_gpu or not isinstance(x, Tensor):
            return x
        return known[id(x)] if id(x) in known else OnGpu(x)  # what is changed in place stays itself

    return tree_map(marked, func(*plain, **named))
