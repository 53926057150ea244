"""The picture of a command's result (`--png`), with the scan that it was computed from."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from jaxtyping import Bool

from ..core.resample import interpolated
from ..core.volume import Volume, Window
from .figure_sheet import Row, sheet

LOCAL = 0.1  # share of the voxels; if fewer were changed, the planes pass through them
Z_LARGE = 3.0  # |z| of a component
MIDDLE = "Through the middle"
CAPTION = "For research; not a medical device."


def result_sheet(
    path: Path,
    title: str,
    result: Volume,
    scan: Volume | None,
    window: Window,
    scores: bool = False,
) -> None:
    """Draw a result, the scan, and the difference, as a PNG.

    scan: what the result was computed from, if anything; on another grid it is interpolated.
    scores: the result has z-scores, on the grid of the scan. The planes pass through the middle, or
    where most was changed, if little was, or through the components of large z-scores.
    `OSError` where the file cannot be written.
    """
    if scan is None:
        row = Row(MIDDLE, result, None, window, CAPTION, names=("result", "", ""))
    elif scores:
        at = _middle_of(np.abs(result.hu) > Z_LARGE)
        where = MIDDLE if at is None else f"Through most voxels with |z| above {Z_LARGE:g}"
        row = Row(where, scan, None, window, CAPTION, names=("scan", "", ""), scores=result, at=at)
    else:
        name, before = "scan", scan
        if not scan.grid.matches(result.grid):
            name, before = "scan, interpolated", interpolated(scan, result)
        changed = result.hu != before.hu
        local = np.count_nonzero(changed) < LOCAL * changed.size
        at = _middle_of(changed) if local else None
        names = (name, "result", "")
        where = MIDDLE if at is None else "Through most of the voxels that were changed"
        row = Row(where, before, result, window, CAPTION, names=names, at=at)
    sheet([row], path, title)


def _middle_of(where: Bool[np.ndarray, "x y z"]) -> tuple[int, int, int] | None:
    """The plane across each axis that shows most of a mask; None if it is empty."""
    if not where.any():
        return None
    x, y, z = (
        int(np.argmax(np.count_nonzero(where, axis=tuple(i for i in range(3) if i != axis))))
        for axis in range(3)
    )
    return x, y, z
