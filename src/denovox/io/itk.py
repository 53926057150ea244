"""NRRD and MetaImage, the formats of ITK and Slicer: one CT each, in the axes closest to RAS.

Parsed here rather than by ITK, whose readers crash on damaged headers (docs/explain/log.md); tests
compare the two. A missing position in space is never made up, and nothing is allocated that the
file cannot fill.
"""

from __future__ import annotations

import math
import os
import stat
import zlib
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

import numpy as np
from jaxtyping import Shaped, UInt8
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation

from ..core.errors import InputError, ensure, line
from ..core.volume import Volume
from .itk_header import AGAIN, MOST_HEAD, Head, is_nrrd, nrrd
from .meta_header import meta
from .missing import fill_missing

_CHUNK = 2**20
_DEFLATE = 1032  # maximum compression ratio of zlib


@dataclass(frozen=True)
class ItkSource:
    """Where a volume came from. kind: NRRD or MetaImage. notes: as of a `NiftiSource`."""

    path: Path
    kind: str
    notes: tuple[str, ...] = ()


def read(path: str | Path, thin: bool = False, padding: float | None = None) -> Volume:
    """Read a .nrrd, .nhdr, .mha or .mhd -> its HU, with an `ItkSource`.

    thin: one slice is enough, as of a label map that was cropped. padding: in place of NaN at the
    border, see `missing.fill_missing`.

    `hu` is float32, or float64 if the file stores that. Raises `InputError` if the file is not one
    3D scalar image with a known position in space, or is incomplete.
    """
    path = Path(path)
    try:
        ensure(stat.S_ISREG(os.stat(path).st_mode), f"{path} is a device; copy it to a file")
        kind, head = _parse(path)
        shown = " x ".join(map(str, head.size))
        solid = thin or min(head.size) > 1
        ensure(solid, f"{path} is not a 3D volume (size {shown}); give one")
        raw = voxels(path, head)
        wide = head.dtype == np.float64
        ornt = io_orientation(head.affine)
        turned = apply_orientation(raw, ornt)
        hu = np.ascontiguousarray(turned, np.float64 if wide else np.float32)
    except OSError as error:
        raise InputError(f"{path} cannot be read ({error.strerror}); check it") from error
    except MemoryError:
        raise InputError(f"{path} does not fit into memory; crop it first") from None
    notes = () if np.isfinite(hu).all() else fill_missing(hu, path, padding)
    source = ItkSource(path, kind, (*head.notes, *notes))
    return Volume(hu, head.affine @ inv_ornt_aff(ornt, raw.shape), source)


def files_of(path: Path) -> tuple[Path, ...]:
    """The files of an image: one, or its header and its data file; `InputError` and `OSError`."""
    _, head = _parse(path)
    return (path,) if head.data == path else (path, head.data)


def _parse(path: Path) -> tuple[str, Head]:
    """NRRD or MetaImage, and the header."""
    with open(path, "rb") as file:
        start = file.read(MOST_HEAD)
    kind, parse = ("NRRD", nrrd) if is_nrrd(start) else ("MetaImage", meta)
    return kind, parse(path, start)


# ---- voxels -------------------------------------------------------------------------------------


def voxels(path: Path, head: Head) -> Shaped[np.ndarray, "x y z"]:
    """Stored values in the file's axes; `InputError` if there are too many or too few."""
    shown = " x ".join(map(str, head.size))
    ensure(min(head.size) > 0, f"{path} has no voxels (size {shown}); {AGAIN}")
    count = math.prod(head.size)
    need = count * head.dtype.itemsize
    length = os.stat(head.data).st_size
    offset = length - need if head.offset < 0 else head.offset
    there = length - max(offset, 0)
    most = {"raw": there, "gzip": _DEFLATE * there, "text": head.dtype.itemsize * (there + 1) // 2}
    cut = f"{head.data} is truncated: {need} bytes of voxels do not fit into its {length}"
    ensure(offset >= 0 and need <= most[head.packing], f"{cut}; copy or export it again")
    if head.packing == "raw":
        more = f"{head.data} holds {there - need} bytes more than {shown} voxels need; {AGAIN}"
        ensure(there == need, more)
    with open(head.data, "rb") as file:
        file.seek(offset)
        if head.packing == "raw":
            raw = np.fromfile(file, head.dtype, count)
        elif head.packing == "gzip":
            raw = _inflated(head.data, file, need).view(head.dtype)
        else:
            raw = _parsed(head, file.read())
    wrong = f"{head.data} holds {raw.size} voxels instead of {count}; {AGAIN}"
    ensure(raw.size == count, wrong)
    return raw.reshape(head.size, order="F")


def _inflated(path: Path, file: BufferedReader, need: int) -> UInt8[np.ndarray, " n"]:
    """Decompress zlib or gzip; `InputError` unless this gives exactly `need` bytes."""
    out, done = np.empty(need, np.uint8), 0  # not committed yet: unfilled pages cost nothing
    machine = zlib.decompressobj(47)  # either kind of header
    while not machine.eof:
        packed = machine.unconsumed_tail or file.read(_CHUNK)
        try:
            got = machine.decompress(packed, _CHUNK)
        except zlib.error as error:
            damage = f"{path} has damaged voxels ({line(error)}); copy or export it again"
            raise InputError(damage) from None
        if (not packed and not got) or done + len(got) > need:
            break
        out[done : done + len(got)] = np.frombuffer(got, np.uint8)
        done += len(got)
    whole = machine.eof and done == need
    ensure(whole, f"{path} does not unpack to the {need} bytes of voxels its header gives; {AGAIN}")
    return out


def _parsed(head: Head, text: bytes) -> Shaped[np.ndarray, " n"]:
    """Parse voxels stored as text; `InputError` if they are malformed."""
    try:
        values = np.array(text.split(), np.float64)
    except ValueError as error:
        raise InputError(f"{head.data} has damaged voxels ({line(error)}); {AGAIN}") from None
    with np.errstate(invalid="ignore", over="ignore"):
        stored = values.astype(head.dtype)
    changed = 0 if head.dtype.kind == "f" else int(np.count_nonzero(stored != values))
    other = f"{head.data} has {changed} voxels that its type, {head.dtype.name}, cannot hold"
    ensure(not changed, f"{other}; {AGAIN}")
    return stored
