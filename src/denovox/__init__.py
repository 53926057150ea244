"""denovox: a diffusion foundation model for CT.

    model = denovox.load()
    ct = denovox.read("ct.nii.gz")
    denovox.write(model.denoise(ct), "clean.nii.gz")

Names are imported when first used, so that `import denovox` stays fast.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .core.process import use_huge_pages, watch_forks
from .core.version import __version__

if TYPE_CHECKING:
    from . import simulate
    from .core.errors import InputError
    from .core.volume import Volume
    from .inference.anomaly.components import Component, ComponentLimits
    from .inference.anomaly.detection import Detection
    from .inference.doctor import examine as inspect
    from .inference.lesions import Edited
    from .inference.model import Model, load
    from .inference.options import RunOptions
    from .inference.posterior import Posterior
    from .inference.scan_context import ScanContext
    from .inference.superres import ThinSlices
    from .io.label_maps import read_labels
    from .io.nifti import write
    from .reports.faithfulness import report
    from .reports.types import Report
    from .scan.anatomy import coarse as coarse_anatomy
    from .scan.gate import read

__all__ = [
    "Component",
    "ComponentLimits",
    "Detection",
    "Edited",
    "InputError",
    "Model",
    "Posterior",
    "Report",
    "RunOptions",
    "ScanContext",
    "ThinSlices",
    "Volume",
    "__version__",
    "coarse_anatomy",
    "inspect",
    "load",
    "read",
    "read_labels",
    "report",
    "simulate",
    "write",
]

_HOMES = {  # public name -> module, and the name it has there where that is another
    "Component": "inference.anomaly.components",
    "ComponentLimits": "inference.anomaly.components",
    "Detection": "inference.anomaly.detection",
    "Edited": "inference.lesions",
    "InputError": "core.errors",
    "Model": "inference.model",
    "Posterior": "inference.posterior",
    "Report": "reports.types",
    "RunOptions": "inference.options",
    "ScanContext": "inference.scan_context",
    "ThinSlices": "inference.superres",
    "Volume": "core.volume",
    "coarse_anatomy": "scan.anatomy:coarse",
    "inspect": "inference.doctor:examine",
    "load": "inference.model",
    "read": "scan.gate",
    "read_labels": "io.label_maps",
    "report": "reports.faithfulness",
    "write": "io.nifti",
}

watch_forks()
use_huge_pages()


def __getattr__(name: str) -> Any:
    if name == "simulate":
        return import_module(".simulate", __name__)
    if name not in _HOMES:
        raise AttributeError(f"module 'denovox' has no attribute '{name}'")
    home, _, known_as = _HOMES[name].partition(":")
    return getattr(import_module(f".{home}", __name__), known_as or name)


def __dir__() -> list[str]:
    return sorted(__all__)
