"""A detection in DICOM: its map, its components and their findings, which refer to each other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from pydicom import Dataset

from ....core.errors import silent
from ....core.volume import Volume
from .. import output
from ..derived.attributes import Processing
from ..reader import DicomSource
from ..values import quiet
from .maps import Z_SCORE, parametric_map
from .report import Finding, report
from .seg import COMPONENTS, How, Numbers, segmentation
from .source import Referred, referred

MAP, SEG, REPORT = "z-scores.dcm", "components.dcm", "findings.dcm"


@dataclass(frozen=True, eq=False)
class Findings:
    """z: in place of HU. numbers: of the components, from 1. found: one for each of them, in this
    order; lines: what they are, in words. score: of the scan."""

    z: Volume
    numbers: Numbers
    found: Sequence[Finding]
    lines: Sequence[str]
    score: float


def write_findings(
    path: str | Path,
    results: Findings,
    processing: Processing,
    force: bool = False,
    like: DicomSource | None = None,
) -> None:
    """Write a detection to a folder or a .zip: a Parametric Map, a SEG (none where there is no
    component) and an SR.

    like: the series that it is about; None: the one that the map's scan was read from. All files
    appear or none. `InputError` if there is no such series, it has changed or is on another grid,
    if the output exists (unless `force`), or if writing fails.
    """
    path = Path(path)
    output.check(path, force)
    source = referred(results.z, path, like)
    with quiet():
        objects = _objects(path, results, source, processing)
        with output.files(path, force) as add:
            for name, found in objects.items():
                add(name, found)


def check(
    path: str | Path,
    volume: Volume,
    force: bool = False,
    say: Callable[[str], None] = silent,
    like: DicomSource | None = None,
) -> None:
    """Raise `InputError` if `write_findings` could not write the detection of a volume; call this
    before computing.

    say: called with a note on each UID that is generated, and on images that are not referenced.
    """
    path = Path(path)
    output.check(path, force)
    source = referred(volume, path, like, say)
    few = Volume(np.zeros((*volume.shape[:2], 1), np.float32), volume.affine)
    one = Finding(0.0, 0.0, 0.0, 0.0, "", "")
    results = Findings(few, np.ones(few.shape, np.uint8), [one], [], 0.0)
    with quiet():
        _objects(path, results, source, Processing("detect"))


def _objects(
    path: Path, results: Findings, source: Referred, processing: Processing
) -> dict[str, Dataset]:
    """File name -> object; the map is the last."""
    made = parametric_map(path, results.z, Z_SCORE, source, processing)
    seg = None
    if results.found:
        how = How(processing, results.lines, COMPONENTS)
        seg = segmentation(path, results.numbers, results.z, source, how)
    text = report(path, results.found, results.score, source, (made, seg), processing)
    return {**({SEG: seg} if seg is not None else {}), REPORT: text, MAP: made}
