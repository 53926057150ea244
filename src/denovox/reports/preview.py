"""Volumes side by side in one PNG, drawn with Pillow alone: training machines have little else.

`figure_sheet.py` draws sheets for readers, with matplotlib; the orientation is the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ..core.volume import Volume, Window
from ..io.atomic import open_file
from ..reports.figure_sheet import PLANES, plane

if TYPE_CHECKING:
    from PIL.Image import Image
    from PIL.ImageDraw import ImageDraw

WIDTH, MARGIN, GAP = 1600, 28, 6  # pixels
TITLE, HEAD, FOOT = 60, 56, 16  # pixels: heights of the text lines, and below a band
INK, QUIET, PAPER = "#1c2430", "#5b6675", "#ffffff"
VIEWS = ("axial", "coronal", "sagittal")


@dataclass(frozen=True)
class Band:
    """One row of the picture: named volumes on one grid, in grey over a window."""

    title: str
    volumes: Mapping[str, Volume]
    window: Window


def preview(bands: Sequence[Band], path: Path, title: str) -> None:
    """Draw the bands below one another into a PNG 1600 pixels wide.

    Each volume is shown in its three middle planes, with the same mm per pixel along both axes.
    The file is written completely or not at all. `OSError` where it cannot be written.
    """
    from PIL import Image, ImageDraw

    heights = [HEAD + _edge(band) + FOOT for band in bands]
    page = Image.new("RGB", (WIDTH, TITLE + sum(heights)), PAPER)
    pen, top = ImageDraw.Draw(page), TITLE
    _write(pen, MARGIN, 18, title, 24)
    for band, height in zip(bands, heights, strict=True):
        _draw(page, pen, band, top)
        top += height
    with open_file(path) as file:
        page.save(file, format="png")


def _edge(band: Band) -> int:
    """Side of the square that each plane is fitted into, in pixels."""
    panels = len(band.volumes) * len(VIEWS)
    return (WIDTH - 2 * MARGIN - GAP * (panels - 1)) // panels


def _draw(page: Image, pen: ImageDraw, band: Band, top: int) -> None:
    from PIL import Image

    edge = _edge(band)
    pen.line([(MARGIN, top), (WIDTH - MARGIN, top)], fill="#d5dae1")
    _write(pen, MARGIN, top + 6, band.title, 17)
    left = MARGIN
    for name, volume in band.volumes.items():
        longest = max(n * mm for n, mm in zip(volume.shape, volume.spacing_mm, strict=True))
        for view in VIEWS:
            axis = PLANES.index(view)
            _write(pen, left, top + 32, f"{name}, {view}", 14, QUIET)
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
