"""One run of denovox for the module: its arguments, its messages, and its result.

Neither Slicer nor denovox is imported. Older versions of Slicer have Python 3.9, where denovox of
another environment can be used: so this has to run there, too.
"""

from __future__ import annotations

import json
import re
import shlex
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from scipy import ndimage

REGIONS = ("auto", "headneck", "chest", "abdomen")
DEVICES = ("auto", "cpu", "cuda")
INPUT, MASK, RESULT, FINDINGS = "input.nrrd", "mask.nrrd", "result.nii.gz", "findings.json"
EVERYWHERE = np.ones((3, 3, 3))  # voxels touch at faces, edges and corners
_PERCENT = re.compile(r"(\d+) %")


class Refused(Exception):
    """What is wrong and what to do, as one sentence for the user."""


@dataclass(frozen=True)
class Task:
    """A command of denovox. title: in the list of tasks. region, factor: whether it has these
    options. mask: the option for a mask, if any. needs_mask: whether it has to be given."""

    title: str
    region: bool = True
    factor: bool = False
    mask: str = ""
    needs_mask: bool = False


TASKS = {
    "denoise": Task("Denoise"),
    "superres": Task("Thin slices from thick ones", factor=True),
    "detect": Task("Map anomalies", mask="--roi"),
    "inpaint": Task("Replace by healthy tissue", region=False, mask="--mask", needs_mask=True),
}


@dataclass(frozen=True)
class Request:
    """What is asked for. command: a key of TASKS. masked: whether there is a mask. extra: further
    options, as they are typed in a terminal."""

    command: str
    region: str = "auto"
    device: str = "auto"
    factor: float = 2.0
    masked: bool = False
    extra: str = ""

    def words(self, folder: Path) -> list[str]:
        """Arguments of `denovox`. folder: has the input and the mask, and receives the result.

        Raises `Refused` where they do not fit together.
        """
        task = TASKS[self.command]
        if task.needs_mask and not self.masked:
            raise Refused("Choose a segmentation of what is to be replaced.")
        try:
            extra = shlex.split(self.extra)
        except ValueError as error:
            raise Refused(f"The extra options are not valid ({error}); check them.") from None
        words = [self.command, str(folder / INPUT), str(folder / RESULT)]
        words += ["--json", "--progress", "plain"]
        if task.region:
            words += ["--region", self.region]
        if task.factor:
            words += ["--factor", f"{self.factor:g}"]
        if task.mask and self.masked:
            words += [task.mask, str(folder / MASK)]
        if self.command == "detect":
            words += ["--report", str(folder / FINDINGS)]
        if self.device != "auto":
            words += ["--device", self.device]
        return words + extra


@dataclass
class Messages:
    """What denovox prints on stderr, as it arrives. percent: that is done. lines: the others."""

    percent: int = 0
    lines: list[str] = field(default_factory=list)
    rest: str = ""

    def feed(self, text: str) -> list[str]:
        """Take a further piece of text; the lines that it completes, except for progress."""
        *complete, self.rest = (self.rest + text).split("\n")
        new = []
        for each in complete:
            line = each.strip()
            share = _PERCENT.fullmatch(line)
            if share:
                self.percent = max(self.percent, int(share[1]))
            elif line:
                new.append(line)
        self.lines += new
        return new

    def failure(self, code: int) -> str:
        """The sentence for an exit code other than 0."""
        last = self.lines[-1] if self.lines else "it printed nothing"
        if code == 2:
            return last[len("denovox: ") :] if last.startswith("denovox: ") else last
        if last.endswith("No module named denovox"):
            return "denovox is not installed in this Python; press Apply again to install it."
        return f"denovox failed with exit code {code} ({last}); the log has the details."


def manifest(printed: str) -> dict:
    """The manifest that `--json` has printed; `Refused` where there is none."""
    try:
        found = json.loads(printed)
    except ValueError:
        found = None
    if not isinstance(found, dict):
        raise Refused("denovox printed no manifest; the log has the details.")
    return found


def findings(folder: Path) -> dict:
    """The findings of `denovox detect`."""
    return dict(json.loads((folder / FINDINGS).read_text("utf-8")))


def pieces(z: np.ndarray, voxel_ml: float, found: dict) -> list[tuple[str, np.ndarray]]:
    """(name, mask) of the components that findings list, in their order.

    z: the map, in any order of the axes. voxel_ml: volume of a voxel. found: the findings.
    """
    at = {}  # by peak and size, which no two components share
    for sign in (1, -1):
        numbers, count = ndimage.label(sign * z > found["threshold"], EVERYWHERE)
        peaks = sign * ndimage.maximum(sign * z, numbers, np.arange(1, count + 1))
        for number, size in enumerate(np.bincount(numbers.ravel())[1:], 1):
            at[np.float32(peaks[number - 1]), size] = numbers, number
    masks = []
    for i, each in enumerate(found["components"], 1):
        key = np.float32(each["peak_z"]), round(each["volume_ml"] / voxel_ml)
        if key not in at:
            raise Refused("The map and the list of findings do not belong together; run it again.")
        name = f"z {each['peak_z']:.1f}, {each['volume_ml']:.1f} mL, {each['mean_hu']:.0f} HU"
        numbers, number = at[key]
        masks.append((f"{i}: {name} ({each['tissue']})", numbers == number))
    return masks
