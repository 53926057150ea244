"""Anatomy of a CT from TotalSegmentator, where it is installed (the `[anatomy]` extra).

The network's weights are its user's to fetch: nothing is downloaded here, and where they are
missing one sentence says where they go. TotalSegmentator (Wasserthal et al. 2023,
10.1148/ryai.230024) sends anonymous usage statistics unless its own config.json forbids it.
"""

# mypy: allow-untyped-calls
# (nibabel's functions carry no types)

from __future__ import annotations

import importlib
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
from jaxtyping import UInt8

from ..core.errors import InputError
from ..core.labels import TOTALSEGMENTATOR_V2
from ..core.volume import Volume

PARTS, FAST = (291, 292, 293, 294, 295), (297,)  # its numbers of "total" at 1.5 mm and at 3 mm


def weights_folder() -> Path:
    """Where TotalSegmentator looks for its weights, by the rules of its own config.py."""
    if named := os.environ.get("TOTALSEG_WEIGHTS_PATH"):
        return Path(named)
    home = os.environ.get("TOTALSEG_HOME_DIR")
    return (Path(home) if home else Path.home() / ".totalsegmentator") / "nnunet/results"


def segment(volume: Volume, fast: bool = False, device: str = "gpu") -> UInt8[np.ndarray, "x y z"]:
    """Ids 1 to 117 of core/labels for every voxel of a CT in HU; 0 where it finds no class.

    fast: the 3 mm model. device: "gpu" (the CPU where there is none), "cpu", "gpu:1".
    `InputError` where the package or its weights are missing, or its classes are not those of v2.
    """
    run = _ready(FAST if fast else PARTS)
    image = nibabel.Nifti1Image(volume.hu.astype(np.float32), volume.affine)
    image.header.set_xyzt_units("mm")
    with redirect_stdout(sys.stderr):  # it talks, and standard output is a command's own
        found = run(image, None, ml=True, task="total", fast=fast, device=device, quiet=True)
    # It answers in the axes it was given; the nearest to RAS are the Volume's own in any case.
    found = nibabel.as_closest_canonical(found)
    if found.shape != volume.shape or not np.allclose(found.affine, volume.affine, atol=1e-2):
        raise InputError(
            f"TotalSegmentator answered on another grid ({found.shape}, CT {volume.shape});"
            " give its label map with --anatomy instead"
        )
    return np.asarray(found.dataobj).astype(np.uint8)


def require(fast: bool = False) -> None:
    """`InputError` where `segment` would have to say that something is missing."""
    _ready(FAST if fast else PARTS)


def _ready(numbers: tuple[int, ...]) -> Any:
    """TotalSegmentator's function, if it can run without a download; else `InputError`."""
    try:
        api = importlib.import_module("totalsegmentator.python_api")
        classes = importlib.import_module("totalsegmentator.map_to_binary").class_map["total"]
    except ImportError as error:
        raise InputError(
            "anatomy by TotalSegmentator needs the package (pip install 'denovox[anatomy]') and"
            f" its weights in {weights_folder()} (or TOTALSEG_WEIGHTS_PATH); {error}"
        ) from None
    if classes != dict(enumerate(TOTALSEGMENTATOR_V2, 1)):
        raise InputError(
            "this TotalSegmentator does not have the 117 classes of v2 (task 'total'); install"
            " version 2 (pip install 'denovox[anatomy]')"
        )
    folder = weights_folder()
    pattern = "Dataset{}_*/*/fold_0/checkpoint_final.pth"
    missing = [n for n in numbers if not any(folder.glob(pattern.format(n)))]
    if missing:
        raise InputError(
            f"TotalSegmentator's weights (datasets {', '.join(map(str, missing))}) are not in"
            f" {folder}; fetch them once with totalseg_download_weights, or unpack them there or"
            " where TOTALSEG_WEIGHTS_PATH says"
        )
    return api.totalsegmentator
