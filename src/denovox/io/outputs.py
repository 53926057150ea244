"""Whether all outputs of a command can be written, asked before the computation.

Each by itself: `atomic.check_writable` and `check_folder`. Here: all of them together.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from ..core.errors import ensure
from ..core.volume import Volume
from .nifti_bytes import NiftiSource

TIGHTEST = 10  # gzip packs no CT more tightly; most come to a third


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
            ensure(apart, f"{second} ({outputs[second]}) is in the way of {name}"
                          f" ({outputs[name]}); choose another place for one of them")  # fmt: skip


def least_bytes(path: Path, volume: Volume, times: float = 1.0) -> int:
    """Bytes that a NIfTI file takes at the very least, for `times` the voxels of a volume."""
    source = volume.source
    size = source.raw.dtype.itemsize if isinstance(source, NiftiSource) else 2
    return packed_bytes(path, volume.hu.size * max(times, 0.0) * size)


def packed_bytes(path: Path, size: float) -> int:
    """Bytes that voxels of `size` bytes take at the very least in a file of this name."""
    return int(size / (TIGHTEST if path.name.lower().endswith((".gz", ".zip")) else 1))


def check_space(sizes: Mapping[Path, int]) -> None:
    """Raise `InputError` if files of at least these sizes (bytes) cannot fit on their disks."""
    on: dict[int, list[Path]] = {}
    for path in sizes:
        folder = Path(os.path.realpath(path)).parent
        on.setdefault(os.stat(folder).st_dev, []).append(path)
    for paths in on.values():
        folder = Path(os.path.realpath(paths[0])).parent
        need, free = sum(sizes[path] for path in paths), shutil.disk_usage(folder).free
        names = " and ".join(map(str, paths))
        ensure(
            need <= free,
            f"{names} cannot be written: at least {need / 1e6:.1f} MB are needed, and {folder} has"
            f" {free / 1e6:.1f} MB free; free some space, or choose another place",
        )
