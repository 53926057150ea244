"""DICOM stored values -> HU, plane by plane (PS3.5 8).

pydicom's plugins decompress; `padding.py` handles bits, signs, padding and rescaling.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import count

import numpy as np
from jaxtyping import Float, Shaped
from pydicom import Dataset
from pydicom.encaps import generate_frames
from pydicom.pixels.decoders.base import get_decoder
from pydicom.uid import (
    UID,
    ExplicitVRBigEndian,
    JPEG2000TransferSyntaxes,
    JPEGLSTransferSyntaxes,
    JPEGTransferSyntaxes,
)

from ...core.errors import InputError, ensure, line
from .files import DAMAGE, Part
from .padding import Layout, Marks
from .planes import Plane
from .values import dataset, numbers, quiet, text

_SOF = {*range(0xC0, 0xD0), 0xF7} - {0xC4, 0xC8, 0xCC}  # frame headers of JPEG and JPEG-LS


def planes_hu(
    part: Part, wanted: Sequence[Plane], marks: Marks
) -> Iterator[tuple[Plane, Float[np.ndarray, "columns rows"]]]:
    """HU of planes of one file, in file order; `InputError` names the file.

    marks: collects what the series' words hold besides HU, for `Marks.settle`.
    """
    by_frame = {plane.frame: plane for plane in wanted}
    with quiet():
        try:
            with part.open() as file:
                found = dataset(file)
            layout = _layout(found)
            size = wanted[0].size
            for frame, words in zip(count(), _words(found, layout, size), strict=False):
                plane = by_frame.pop(frame, None)
                if plane is not None:
                    yield plane, marks.hu(words, layout, plane)
            if by_frame:
                raise InputError(f"lacks the pixels of {len(by_frame)} frames")
        except InputError as error:
            raise InputError(f"{part.name} {error}; copy or export it again") from None
        except DAMAGE as error:
            raise InputError(
                f"{part.name} has damaged pixels ({line(error)}); copy or export it again"
            ) from None


def _layout(found: Dataset) -> Layout:
    """How a file stores its values; `InputError` if this is not valid for CT."""
    needed = ("BitsAllocated", "BitsStored", "PixelRepresentation")
    values = [numbers(found, keyword, 1) for keyword in needed]
    if not all(values):
        raise InputError("does not specify how its pixels are stored (BitsAllocated, ...)")
    allocated, stored, signed = (int(value) for (value,) in values)
    high = numbers(found, "HighBit", 1)
    fine = allocated in (8, 16, 32) and 1 <= stored <= allocated and signed in (0, 1)
    if not fine or high not in ((), (stored - 1,)):
        raise InputError(
            f"has a bit layout that no CT uses ({allocated} allocated, {stored} stored,"
            f" high bit {high[0] if high else 'none'}, representation {signed})"
        )
    padding = None
    if first := numbers(found, "PixelPaddingValue", 1):
        last = numbers(found, "PixelPaddingRangeLimit", 1) or first
        ends = sorted(_signed(int(end), allocated, signed) for (end,) in (first, last))
        padding = (ends[0], ends[1])
    return Layout(allocated, stored, bool(signed), padding, _overlays(found, stored))


def _overlays(found: Dataset, stored: int) -> int:
    """Bits above the used ones that hold overlay planes (groups 60xx), shifted down to bit 0."""
    bits = 0
    for group in range(0x6000, 0x6020, 2):
        position = found.get((group, 0x0102))
        if position is not None and (group, 0x3000) not in found:
            bits |= 1 << int(position.value or 0) >> stored
    return bits


def _signed(value: int, bits: int, signed: int) -> int:
    """A value wrapped to a word of `bits`: files write -2000 as 63536, and vice versa."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if signed and value >> (bits - 1) else value


def _words(
    found: Dataset, layout: Layout, size: tuple[int, int]
) -> Iterator[Shaped[np.ndarray, "rows columns"]]:
    """Each frame's words, as stored. Raises one of `DAMAGE`, or `InputError`."""
    columns, rows = size
    syntax = UID(text(getattr(found, "file_meta", Dataset()), "TransferSyntaxUID"))
    frames = int((numbers(found, "NumberOfFrames", 1) or (1.0,))[0])
    pixels = found.get("PixelData")
    if not pixels:
        real = [name for name in ("FloatPixelData", "DoubleFloatPixelData") if name in found]
        ensure(not real, f"stores real numbers ({', '.join(real)}), which no CT image does")
        raise InputError("has no pixels (PixelData)")
    if not syntax or not syntax.is_compressed:  # missing in files older than Part 10
        order = ">" if syntax == ExplicitVRBigEndian else "<"
        dtype = np.dtype(f"{order}u{layout.allocated // 8}")
        need = columns * rows * frames * dtype.itemsize
        if len(pixels) < need or len(pixels) > need + 2 * dtype.itemsize:
            raise InputError(f"has {len(pixels)} bytes of pixels instead of {need}")
        whole = np.frombuffer(pixels, dtype, columns * rows * frames)
        yield from whole.reshape(frames, rows, columns)
        return
    decoder = get_decoder(syntax)
    if not decoder.is_available:
        raise InputError(
            f"is compressed as {syntax.name}, and no decoder is installed for that (pip install"
            " 'denovox[dicom]'; for HTJ2K pylibjpeg pylibjpeg-openjpeg)"
        )
    packed = generate_frames(pixels, number_of_frames=frames)
    unpacked = decoder.iter_array(found, raw=True)
    for frame in packed:
        claim = _claimed(frame, syntax)
        if claim not in (None, (columns, rows, 1)):
            raise InputError(f"holds a compressed image that is not {columns} x {rows}")
        words, _ = next(unpacked)
        yield words


def _claimed(frame: bytes, syntax: UID) -> tuple[int, int, int] | None:
    """(columns, rows, colours) from a frame's own header, which decoders use; None for RLE."""
    if syntax in JPEG2000TransferSyntaxes:
        at = frame.find(b"\xff\x4f\xff\x51")  # SOC SIZ; a JP2 box may precede it
        if at < 0:
            raise ValueError("no JPEG 2000 codestream")
        x, y, x0, y0 = (int.from_bytes(frame[i : i + 4], "big") for i in range(at + 8, at + 24, 4))
        return x - x0, y - y0, int.from_bytes(frame[at + 40 : at + 42], "big")
    if syntax not in (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes):
        return None
    at = 2
    while at + 9 < len(frame):
        if frame[at] != 0xFF:
            break
        if frame[at + 1] in _SOF:
            rows, columns = (int.from_bytes(frame[i : i + 2], "big") for i in (at + 5, at + 7))
            return columns, rows, frame[at + 9]
        at += 1 if frame[at + 1] == 0xFF else 2 + int.from_bytes(frame[at + 2 : at + 4], "big")
    raise ValueError("no JPEG frame header")
