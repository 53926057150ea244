"""Anatomy of a CT from TotalSegmentator, run as a command: it can have an environment of its own.

TotalSegmentator (Wasserthal et al. 2023, 10.1148/ryai.230024) downloads its weights the first time
it runs, and sends anonymous usage statistics, unless its own settings say otherwise.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from tempfile import TemporaryDirectory

import nibabel
import numpy as np
from jaxtyping import UInt8

from ..core.errors import InputError, ensure, line, silent
from ..core.volume import Volume
from . import label_sets

Say = Callable[[str], None]
COMMAND = "TotalSegmentator"
VARIABLE = "DENOVOX_TOTALSEGMENTATOR"
INSTALL = (
    "install TotalSegmentator (pip install TotalSegmentator, in an environment of its own) and put"
    f" it on the PATH, or set {VARIABLE} to its path"
)
CHECK = "run it by itself to see why"


def command() -> str | None:
    """The program: the one that DENOVOX_TOTALSEGMENTATOR names, or on the PATH, or beside Python.

    None if there is none; `InputError` if the variable names something that cannot be run.
    """
    if named := os.environ.get(VARIABLE):
        found = shutil.which(named)
        ensure(found, f"{VARIABLE} is {named}, which is not a program; set it to the path of one")
        return found
    return shutil.which(COMMAND) or shutil.which(COMMAND, path=str(Path(sys.executable).parent))


def require() -> str:
    """As `command`; `InputError` if there is none."""
    found = command()
    ensure(found, f"no {COMMAND} was found; {INSTALL}")
    return str(found)


def anatomy(
    volume: Volume, where: str | None, device: str | None = None, say: Say = silent
) -> UInt8[np.ndarray, "x y z"] | None:
    """The classes of a scan, 0 where unknown, from a label map: the file `where`.

    "auto": `segment`, where the program is there. None: no label map is asked for, or can be had.
    `InputError` as in `segment` and `label_sets.read`.
    """
    if where is None:
        return None
    if where != "auto":
        return label_sets.read(Path(where), label_sets.bridge("denovox"), volume, say)[0]
    program = command()
    if program is None:
        say("anatomy: by thresholds, since no TotalSegmentator was found")
        return None
    say(f"anatomy: by TotalSegmentator ({program})")
    return segment(volume, device)


def segment(volume: Volume, device: str | None = None) -> UInt8[np.ndarray, "x y z"]:
    """Ids 1 to 117 of core/labels for every voxel of a CT in HU; 0 where it finds no class.

    device: "cpu", "cuda", "cuda:1"; None: a GPU, or the CPU if there is none. `InputError` if the
    program is missing, fails, or returns no label map of its classes on the scan's grid.
    """
    program = require()
    with TemporaryDirectory(prefix="denovox-") as folder:
        scan, found = Path(folder) / "ct.nii.gz", Path(folder) / "anatomy.nii.gz"
        image = nibabel.Nifti1Image(volume.hu.astype(np.float32), volume.affine)
        image.header.set_xyzt_units("mm")
        nibabel.save(image, scan)
        on = (device or "cuda").replace("cuda", "gpu")
        words = ["-i", str(scan), "-o", str(found), "--ml", "--task", "total", "--device", on]
        try:
            done = subprocess.run(
                [program, *words],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                encoding="utf-8",
                errors="replace",
                # It may belong to another Python.
                env={k: v for k, v in os.environ.items() if k not in ("PYTHONPATH", "PYTHONHOME")},
                check=False,
            )
        except OSError as error:
            why = line(error.strerror or error)
            raise InputError(f"{program} could not be started ({why}); {CHECK}") from None
        last = line(next(iter((done.stderr.strip() or done.stdout.strip()).splitlines()[-1:]), ""))
        ended = f"failed with exit code {done.returncode}" if done.returncode else "wrote no file"
        ensure(
            not done.returncode and found.exists(),
            f"{program} {ended}{f' ({last})' if last else ''}; {CHECK}",
        )
        try:
            ids, _, _ = label_sets.read(found, label_sets.bridge("denovox"), volume)
        except InputError as error:
            wrong = str(error).replace(str(found), "it")
            raise InputError(f"the label map of {program} cannot be used: {wrong}") from None
    return ids
