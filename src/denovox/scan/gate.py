"""The gate of every command and of the Python API: only a CT in HU, on the grid of a CT, passes.

What it refuses is what `denovox doctor` refuses (`hu_checks`, `geometry_checks`), in its words.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

from ..core.errors import InputError, silent
from ..core.volume import Volume
from ..io import formats
from .constant_fill import PADDING_HU, fill_sentence, outside_fill
from .geometry_checks import check_geometry
from .hu_checks import Finding, not_hu
from .slice_checks import check_slices

HOW_TO_ACCEPT = "--accept-hu (accept_hu=True in Python) processes it as it is"


def read(
    path: str | Path,
    *,
    series: str | None = None,
    straighten: bool = False,
    accept_hu: bool = False,
    say: Callable[[str], None] = silent,
) -> Volume:
    """Read a CT of any format -> HU in the axes closest to RAS, with the reader's source.

    series: which series of a DICOM folder to read (a SeriesInstanceUID, or the end of one).
    straighten: resample DICOM that is tilted or unevenly spaced; other formats are regular grids
    already. accept_hu: read a scan whose values do not look like HU. say: called with a note on
    anything left out or doubted; NaN that reaches the sides of slices is padding. `hu` of the
    Volume is float32, or float64 if the file stores that. Raises `InputError` if there is not
    exactly one CT volume, its grid is not that of a CT, or (unless `accept_hu`) its values are not
    Hounsfield units.
    """
    volume = formats.read(path, series=series, straighten=straighten, padding=PADDING_HU, say=say)
    require_ct(volume, str(path), accept_hu, say)
    filled = outside_fill(volume.hu)
    if filled is not None:
        say(f"{path}: {fill_sentence(volume.hu, filled)}")
    return volume


def require_ct(
    volume: Volume,
    name: str = "the volume",
    accept_hu: bool = False,
    say: Callable[[str], None] = silent,
) -> None:
    """Raise `InputError`, with the evidence, if `name` is not a CT in HU on the grid of a CT.

    accept_hu: what is wrong with the values is passed to `say` instead, and so is any doubt.
    """
    _require(check_geometry(volume)[1], name, say)
    values = not_hu(volume)
    if values is not None and values.severity == "doubt":
        say(f"{name} may not be in HU: {_sentence('', values)}")
    elif values is not None and accept_hu and values.code != "not_finite":
        say(f"{name} is taken as HU, although {_sentence('', values)}")
    elif values is not None:
        accept = "" if values.code == "not_finite" else f"; {HOW_TO_ACCEPT}"
        raise InputError(f"{name} is not in HU: {_sentence('', values)}{accept}")
    _require(check_slices(volume), name, say)  # whose limits are in HU


def _require(findings: Iterable[Finding], name: str, say: Callable[[str], None]) -> None:
    for one in findings:
        if one.severity == "refuse":
            raise InputError(_sentence(name, one))
        if one.severity == "doubt":
            say(_sentence(name, one))


def _sentence(name: str, one: Finding) -> str:
    advice = f"; {one.advice}" if one.advice else ""
    return f"{name}: {one.sentence}{advice}".removeprefix(": ")
