"""denovox: a diffusion foundation model for CT.

    model = denovox.load()
    ct = denovox.read("ct.nii.gz")
    denovox.write(model.denoise(ct), "clean.nii.gz")

Names are imported when first used, so that `import denovox` stays fast.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .core.errors import InputError
    from .core.volume import Volume
    from .inference.model import Model, load
    from .inference.options import RunOptions
    from .io.formats import read
    from .io.nifti import write

__version__ = "0.1.0"
__all__ = ["InputError", "Model", "RunOptions", "Volume", "__version__", "load", "read", "write"]

_HOMES = {
    "Model": "inference.model",
    "RunOptions": "inference.options",
    "load": "inference.model",
    "InputError": "core.errors",
    "Volume": "core.volume",
    "read": "io.formats",
    "write": "io.nifti",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'denovox' has no attribute '{name}'")
    from importlib import import_module

    return getattr(import_module(f".{_HOMES[name]}", __name__), name)
