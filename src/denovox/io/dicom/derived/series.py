"""DICOM series of processed and synthesised CT: single-frame CT Images (PS3.3 A.3).

A result keeps the patient, the study, the frame of reference and the acquisition of its source
series; where its grid is that of the source, every slice has the position of its source, in the
same order. Everything new is a function of the result, its source and the settings: the same
call writes the same bytes, UIDs included. For that reason there is no ContentDate, SeriesDate or
InstanceCreationDate (types 2C and 3): a clock would give different objects the same UID.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import numpy as np
from jaxtyping import Float
from pydicom import Dataset
from pydicom.uid import generate_uid

from ....core.errors import InputError, ensure, line, silent
from ....core.version import __version__
from ....core.volume import Volume
from .. import output
from ..reader import DicomSource
from ..values import quiet
from .attributes import Processing, describe, identify, locate, store, uid
from .origin import Origin, opened
from .slices import Rescale, Slices, rescale, slices_of

_INSTEAD = "choose an output ending in .nii.gz"


def check_writable(
    volume: Volume,
    path: str | Path,
    processing: Processing,
    *,
    like: DicomSource | None = None,
    force: bool = False,
) -> None:
    """Raise `InputError` if `write_series` could not write; call this before the computation.

    volume: the input of the computation. Arguments and errors as for `write_series`.
    """
    path = Path(path)
    source = _source(path, volume, processing, like)
    _check_output(path, force, source)
    if source is not None:
        with opened(source) as origin:
            _aligned(path, volume, origin, grid_is_new=False)


def write_series(
    volume: Volume,
    path: str | Path,
    processing: Processing,
    *,
    like: DicomSource | None = None,
    force: bool = False,
    say: Callable[[str], None] = silent,
) -> str:
    """Write a volume as a derived CT series; returns its SeriesInstanceUID.

    path: a folder, or a .zip. like: the series to inherit from; None: the one that the volume was
    read from. A synthesised volume that was not read from anything becomes a study of its own,
    without a patient. say: called with a note on each UID that the source lacks. All files appear
    or none, and the source is only read. Beside the volume, a few slices are in memory.

    Values are rounded to what the source resolves (mostly 1 HU) and never clipped. Raises
    `InputError` if the output exists (unless `force`) or is the source; if there is no series to
    inherit from, or it has changed, mixes patients, studies or frames of reference, or is on
    another grid; if the volume's grid is sheared; if 16 bits do not hold the values; or if writing
    fails.
    """
    path = Path(path)
    source = _source(path, volume, processing, like)
    _check_output(path, force, source)
    with ExitStack() as held:
        held.enter_context(quiet())
        origin = held.enter_context(opened(source)) if source is not None else None
        slices = _aligned(path, volume, origin, grid_is_new=processing.derivation.new_grid)
        try:
            scale = rescale(volume.hu, origin.scale if origin is not None else (1.0, 0.0))
        except InputError as error:
            raise InputError(f"{path} was not written: {error}; {_INSTEAD}") from None
        series = _series_uid(volume.hu, slices, processing, scale, origin)
        study = _study(series, origin, say)
        try:
            with output.files(path, force) as add:
                for k, stored in enumerate(slices.stored(scale)):
                    near = None
                    if origin is not None:
                        near = origin.near(slices, k, processing.thickness_mm)
                    image = near.header if near is not None else Dataset()
                    describe(image, processing, near)
                    locate(image, slices, k, near, processing.thickness_mm)
                    store(image, stored, scale)
                    identify(image, series, k)
                    image.update(study)
                    add(f"{series[-8:]}-{k + 1:04d}.dcm", image)
        except ValueError as error:
            what = f"its header does not give a valid CT image ({line(error)})"
            raise InputError(f"{path} was not written: {what}; {_INSTEAD}") from error
    return series


def _source(
    path: Path, volume: Volume, processing: Processing, like: DicomSource | None
) -> DicomSource | None:
    """The series to inherit from; None for a synthesised volume; `InputError` if there is none."""
    if like is not None:
        return like
    if isinstance(volume.source, DicomSource):
        return volume.source
    ensure(
        volume.source is None and processing.derivation.synthetic,
        f"{path} was not written: a DICOM series takes patient and study from another series, and"
        f" this scan is not DICOM; give a series with --like, or {_INSTEAD}",
    )
    return None


# ---- the grid -----------------------------------------------------------------------------------


def _aligned(path: Path, volume: Volume, origin: Origin | None, grid_is_new: bool) -> Slices:
    """The slices of the volume, in the order of its origin; `InputError` if they do not fit it.

    grid_is_new: only the field of view has to be that of the origin.
    """
    try:
        slices = origin.slices(volume) if origin is not None else slices_of(volume)
    except InputError as error:
        raise InputError(f"{path} was not written: {error}; {_INSTEAD}") from None
    if origin is None or volume.source == origin.source or origin.source.straightened:
        return slices
    name, fault = origin.source.path, origin.series.fault
    ensure(not fault, f"{path} was not written: {name} {fault}, so it does not define a grid")
    prefix = f"{path} was not written: the scan"
    if grid_is_new:
        ensure(origin.covers(slices), slices.grid.unlike(origin.grid, prefix, name))
        return slices
    slices.grid.require(origin.grid, prefix, name)
    return replace(slices, affine=origin.affine)


# ---- names --------------------------------------------------------------------------------------


def _series_uid(
    hu: Float[np.ndarray, "x y z"],
    slices: Slices,
    processing: Processing,
    scale: Rescale,
    origin: Origin | None,
) -> str:
    """A UID that is a function of everything that is written."""
    pixels = hashlib.sha256()
    for plane in hu:  # as they are in memory, which is faster than slice by slice
        pixels.update(scale.stored(plane).tobytes())
    geometry = (slices.affine.round(6) + 0.0).tobytes() + repr(slices.hu.shape).encode()
    facts = [__version__, repr(processing), repr(scale)]
    if origin is not None:
        instances = sorted(instance for _, instance in origin.images.values())
        facts += [origin.series.uid, *origin.shared.values(), *instances]
    return uid(*facts, geometry, pixels.digest())


def _study(series: str, origin: Origin | None, say: Callable[[str], None]) -> Dataset:
    """Study and frame of reference; UIDs of their own where the source has none (type 1)."""
    found = Dataset()
    for keyword in ("StudyInstanceUID", "FrameOfReferenceUID"):
        known = origin.shared[keyword] if origin is not None else ""
        if origin is not None and not known:
            say(f"{origin.source.path}: there is no valid {keyword}; the new series gets a new one")
        entropy = [origin.series.uid if origin is not None else series, keyword]  # as in `seg.py`
        setattr(found, keyword, known or generate_uid(entropy_srcs=entropy))
    return found


# ---- files --------------------------------------------------------------------------------------


def _check_output(path: Path, force: bool, source: DicomSource | None) -> None:
    """`InputError` if the output cannot be written, or is where the source is."""
    output.check(path, force)
    ensure(
        source is None or os.path.realpath(path) != os.path.realpath(source.path),
        f"{path} was not written: it is the source series itself; choose another output",
    )
