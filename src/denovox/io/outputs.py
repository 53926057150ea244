"""Whether all outputs of a command can be written, asked before the computation.

Each by itself: `atomic.check_writable` and `check_folder`. Here: all of them together; `space.py`:
whether they fit on the disk.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from ..core.errors import ensure
from ..core.volume import Volume
from .nifti_bytes import NiftiSource
from .space import packed_bytes


def check_apart(outputs: Mapping[str, Path | None], inputs: Mapping[str, Path | None]) -> None:
    """Raise `InputError` if outputs would overwrite an input, or each other.

    Both map what a path is called (OUTPUT, --report) to it; None where it was not given.
    """
    real = {name: Path(os.path.realpath(path)) for name, path in outputs.items() if path}
    for name, path in real.items():
        for source, other in inputs.items():
            same = other is not None and Path(os.path.realpath(other)) == path
            ensure(not same, f"{name} is {source} itself ({other}); choose another place")
        for second, other in real.items():
            apart = second == name or (other != path and path not in other.parents)
            ensure(apart, f"{second} ({outputs[second]}) conflicts with {name}"
                          f" ({outputs[name]}); choose another place for one of them")  # fmt: skip


def least_bytes(path: Path, volume: Volume, times: float = 1.0) -> int:
    """Bytes that a NIfTI file takes at the very least, for `times` the voxels of a volume."""
    source = volume.source
    size = source.raw.dtype.itemsize if isinstance(source, NiftiSource) else 2
    return packed_bytes(path, volume.hu.size * max(times, 0.0) * size)
