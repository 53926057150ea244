"""Anatomy of a CT from TotalSegmentator, if it is installed (the `[anatomy]` extra).

Users download the network's weights themselves: nothing is downloaded here, and if they are
missing, one sentence says where to put them. TotalSegmentator (Wasserthal et al. 2023,
10.1148/ryai.230024) sends anonymous usage statistics unless its config.json disables this.
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
from ..core.volume import Grid, Volume

PARTS, FAST = (291, 292, 293, 294, 295), (297,)  # data set numbers of "total" at 1.5 and 3 mm


def weights_folder() -> Path:
    """Where TotalSegmentator looks for its weights, following the rules of its config.py."""
    if named := os.environ.get("TOTALSEG_WEIGHTS_PATH"):
        return Path(named)
    home = os.environ.get("TOTALSEG_HOME_DIR")
    return (Path(home) if home else Path.home() / ".totalsegmentator") / "nnunet/results"


def segment(volume: Volume, fast: bool = False, device: str = "gpu") -> UInt8[np.ndarray, "x y z"]:
    """Ids 1 to 117 of core/labels for every voxel of a CT in HU; 0 where it finds no class.

    fast: the 3 mm model. device: "gpu" (the CPU if there is none), "cpu", "gpu:1".
    `InputError` if the package or its weights are missing, or its classes are not those of v2.
    """
    run = _ready(FAST if fast else PARTS)
    image = nibabel.Nifti1Image(volume.hu.astype(np.float32), volume.affine)
    image.header.set_xyzt_units("mm")
    with redirect_stdout(sys.stderr):  # standard output is reserved for our command's results
        found = run(image, None, ml=True, task="total", fast=fast, device=device, quiet=True)
    # The result has the input's axes; a Volume's are always the nearest to RAS.
    found = nibabel.as_closest_canonical(found)
    if not Grid(found.shape, found.affine).matches(volume.grid):
        raise InputError(
            f"TotalSegmentator returned another grid ({Grid(found.shape, found.affine)}; the CT has"
            f" {volume.grid}); give its label map with --anatomy instead"
        )
    return np.asarray(found.dataobj).astype(np.uint8)


def require(fast: bool = False) -> None:
    """`InputError` if something that `segment` needs is missing."""
    _ready(FAST if fast else PARTS)


def _ready(numbers: tuple[int, ...]) -> Any:
    """TotalSegmentator's function if it can run without a download, otherwise `InputError`."""
    try:
        api = importlib.import_module("totalsegmentator.python_api")
        classes = importlib.import_module("totalsegmentator.map_to_binary").class_map["total"]
    except ImportError as error:
        raise InputError(
            "anatomy from TotalSegmentator needs the package (pip install 'denovox[anatomy]') and"
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
            f" {folder}; download them once with totalseg_download_weights, or unpack them there"
            " or in the folder that TOTALSEG_WEIGHTS_PATH names"
        )
    return api.totalsegmentator
