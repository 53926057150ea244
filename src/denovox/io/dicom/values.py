"""Parse a DICOM object and read its tags; damage is always reported as such.

pydicom parses; `header.py` interprets and validates the values.
"""

from __future__ import annotations

import logging
import math
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from typing import Any, BinaryIO, cast

from pydicom import Dataset
from pydicom.datadict import keyword_for_tag
from pydicom.dataset import FileMetaDataset
from pydicom.filereader import read_dataset, read_partial
from pydicom.tag import BaseTag
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ExplicitVRLittleEndian,
    ImplicitVRLittleEndian,
)

from ...core.errors import InputError, line
from .files import DAMAGE, Bounded, Part

_TALKERS = ("pydicom", "pylibjpeg", "openjpeg", "libjpeg", "jpeg_ls", "PIL")
_PIXELS = range(0x7FE00008, 0x7FE00011)
_UNIQUE = (0x0020, 0x0028, 0x7FE0)  # groups of which nothing may be stated twice
_INFLATED = 2**28  # bytes any deflated object may inflate to; a large one, 64 times its size


@contextmanager
def quiet() -> Iterator[list[warnings.WarningMessage]]:
    """Hide pydicom's warnings and log output; what they are about is checked here."""
    loggers = [logging.getLogger(name) for name in _TALKERS]
    levels = [logger.level for logger in loggers]
    try:
        for logger in loggers:
            logger.setLevel(logging.CRITICAL + 1)
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            yield caught
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)


def dataset(file: Bounded, tags: Sequence[BaseTag] = ()) -> Dataset:
    """A whole DICOM object, or only some tags before its pixels; one of `DAMAGE` if broken."""
    only: list[BaseTag | int] | None = list(tags) or None
    if file.read(132)[128:] == b"DICM":
        meta = read_dataset(
            cast(BinaryIO, file), False, True, stop_when=lambda tag, vr, size: tag.group != 2
        )
        if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
            return _inflated(file.read(), meta, only)
    file.seek(0)
    found = read_partial(cast(BinaryIO, file), _watch(bool(tags)), None, True, only)
    if not found.file_meta.get("TransferSyntaxUID"):  # as pydicom recognised it
        implicit, little = found.original_encoding
        found.file_meta.TransferSyntaxUID = (
            ImplicitVRLittleEndian
            if implicit
            else ExplicitVRLittleEndian
            if little
            else ExplicitVRBigEndian
        )
    return found


def tags_of(part: Part, tags: Sequence[BaseTag]) -> Dataset:
    """Some tags of a file, without pixels; `InputError`, which names it, if it cannot be read."""
    with quiet():
        try:
            with part.open() as file:
                return dataset(file, tags)
        except DAMAGE as error:
            raise InputError(f"{part.name} cannot be read ({line(error)}); copy it again") from None


def _watch(before_pixels: bool) -> Callable[[BaseTag, str | None, int], bool]:
    """Where to stop reading; `ValueError` at a tag that was there before: which of both counts?"""
    known: set[BaseTag] = set()

    def stop(tag: BaseTag, _: str | None, __: int) -> bool:
        if tag in known and tag.group in _UNIQUE:
            raise ValueError(f"it states {keyword_for_tag(tag) or 'its tag'} {tag} twice")
        known.add(tag)
        return before_pixels and tag in _PIXELS

    return stop


def _inflated(packed: bytes, meta: Dataset, tags: list[BaseTag | int] | None) -> Dataset:
    """A deflated object (PS3.5 A.5), up to a size limit: pydicom would inflate any bomb."""
    most = max(_INFLATED, 64 * len(packed))
    machine = zlib.decompressobj(-zlib.MAX_WBITS)
    data = machine.decompress(packed, most)
    if machine.unconsumed_tail:
        raise ValueError(f"it inflates to more than {most >> 20} MiB")
    if not machine.eof:
        raise EOFError("its deflated data are truncated")
    stop = _watch(tags is not None)
    found = read_dataset(BytesIO(data), False, True, stop_when=stop, specific_tags=tags)
    found.file_meta = FileMetaDataset(meta)
    found.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian  # the encoding inside
    return found


def texts(found: Dataset, keyword: str) -> tuple[str, ...]:
    """A tag's values as printable text; none if it is absent, empty or unreadable."""
    try:
        value = found.get(keyword)
    except DAMAGE:
        return ()
    if value is None or value == "":
        return ()
    return tuple(line(one) for one in _many(value))


def _many(value: Any) -> Iterable[Any]:
    """The values of a tag that may have one or more."""
    several = hasattr(value, "__iter__") and not isinstance(value, str | bytes)
    return value if several else [value]


def text(found: Dataset, keyword: str) -> str:
    """A tag's first value as printable text, or an empty string."""
    return next(iter(texts(found, keyword)), "")


def numbers(found: Dataset, keyword: str, count: int) -> tuple[float, ...]:
    """A tag's `count` finite numbers; none if it is absent or empty; `InputError` otherwise."""
    try:
        value = found.get(keyword)
        if value is None or value == "":
            return ()
        found_numbers = tuple(float(one) for one in _many(value))
    except DAMAGE as error:
        raise InputError(f"has an unreadable {keyword} ({line(error)})") from None
    if len(found_numbers) != count or not all(map(math.isfinite, found_numbers)):
        shown = ", ".join(f"{number:g}" for number in found_numbers[:8])
        raise InputError(f"has a {keyword} of {shown or 'nothing'}")
    return found_numbers


def number_or_none(found: Dataset, keyword: str) -> float | None:
    """A tag's single number, or None if there is none that can be read."""
    try:
        return next(iter(numbers(found, keyword, 1)), None)
    except InputError:
        return None
