"""Volumes side by side in one PNG, drawn by Pillow alone: where training runs, little is installed.

`sheet.py` draws what a reader is to judge, with matplotlib; its orientation is the same.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.volume import Volume, Window
from ..reports.figure_sheet import PLANES, plane

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

WIDTH, MARGIN, GAP = 1600, 28, 6  # pixels
TITLE, HEAD, FOOT = 60, 56, 16  # pixels: heights of the lines of text, and below a band
INK, QUIET, PAPER = "#1c2430", "#5b6675", "#ffffff"
SHOWN = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Band:
    """A line of the picture: volumes of one grid by their names, in grey over a window."""

    title: str
    volumes: Mapping[str, Volume]
    window: Window


def preview(bands: Sequence[Band], path: Path, title: str) -> None:
    """Draw the bands below one another into a PNG of 1600 pixels' width.

    Each volume is shown in its three middle planes, millimetres along both sides of equal length.
    The file is whole or not there. `OSError` where it cannot be written.
    """
    from PIL import Image, ImageDraw

    heights = [HEAD + _edge(band) + FOOT for band in bands]
    page = Image.new("RGB", (WIDTH, TITLE + sum(heights)), PAPER)
    pen, top = ImageDraw.Draw(page), TITLE
    _write(pen, MARGIN, 18, title, 24)
    for band, height in zip(bands, heights, strict=True):
        _draw(page, pen, band, top)
        top += height
    beside = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        page.save(beside, format="png")
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _edge(band: Band) -> int:
    """The pixels of the square that each plane is fitted into."""
    panels = len(band.volumes) * len(SHOWN)
    return (WIDTH - 2 * MARGIN - GAP * (panels - 1)) // panels


def _draw(page: Image, pen: ImageDraw, band: Band, top: int) -> None:
    from PIL import Image

    edge = _edge(band)
    pen.line([(MARGIN, top), (WIDTH - MARGIN, top)], fill="#d5dae1")
    _write(pen, MARGIN, top + 6, band.title, 17)
    left = MARGIN
    for name, volume in band.volumes.items():
        longest = max(n * mm for n, mm in zip(volume.shape, volume.spacing_mm, strict=True))
        for shown in SHOWN:
            axis = PLANES.index(shown)
            _write(pen, left, top + 32, f"{name}, {shown}", 14, QUIET)
            unit = (band.window.unit(plane(volume, axis)) + 1) / 2
            grey = Image.fromarray((np.clip(unit, 0, 1) * 255).round().astype(np.uint8))
            across, down = (i for i in range(3) if i != axis)
            size = [
                max(1, round(edge * volume.shape[i] * volume.spacing_mm[i] / longest))
                for i in (across, down)
            ]
            page.paste(
                grey.resize((size[0], size[1]), Image.Resampling.BICUBIC), (left, top + HEAD)
            )
            left += edge + GAP


def _write(pen: ImageDraw, left: int, top: int, text: str, size: int, color: str = INK) -> None:
    from PIL import ImageFont

    pen.text((left, top), text, fill=color, font=ImageFont.load_default(size))
