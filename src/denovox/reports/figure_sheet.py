"""One PNG that shows what was done to a volume: before, after and the difference, in three planes.

Every panel is drawn as a radiologist expects it: the patient's right on the left of the image,
anterior at the top of an axial plane, superior at the top of the others, anterior on the left of
a sagittal one; both axes have the same scale in mm.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Shaped, UInt8

from ..core.volume import Volume, Window
from ..io.atomic import open_file

if TYPE_CHECKING:
    from PIL.Image import Image

PLANES = ("sagittal", "coronal", "axial")  # by the axis held fixed: x, y, z
# Letters at the left, right, top and bottom of each plane.
SIDES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}

WIDTH = 1600  # pixels
SMALL = 64  # voxels along the longest axis; up to this, a volume has a quarter of the width
MARGIN, GAP, GUTTER = 28, 6, 32  # pixels: around the sheet, between panels, between groups
TITLE, HEAD, NAME, BAR, FOOT = 64, 62, 30, 58, 20  # pixels: heights of the text lines
Z_LIMIT = 8.0  # z-scores at the ends of their colour scale: twice the threshold of a component
INK, QUIET, PAPER = "#1c2430", "#5b6675", "#ffffff"
SCALES = {  # evenly spaced colours, from the lowest value to the highest
    "gray": ("000000", "ffffff"),
    # RdBu of ColorBrewer (Brewer 2003), reversed
    "blue-red": (
        *("053061", "2166ac", "4393c3", "92c5de", "d1e5f0"),
        *("f7f7f7", "fddbc7", "f4a582", "d6604d", "b2182b", "67001f"),
    ),
}


@dataclass(frozen=True)
class Row:
    """One row of the sheet.

    title, caption: what was done, and its metrics (PSNR, SSIM); one line each.
    before, after: on one grid; the difference shown is after - before, HU. after: None: nothing.
    window: range of the grey scale.
    reference: ground truth, shown between `after` and the difference if given.
    names: titles above before, after and reference.
    scores: z-scores on the grid of `before`, shown beside it if given.
    at: the voxel through which the planes pass; None: the middle.
    """

    title: str
    before: Volume
    after: Volume | None
    window: Window
    caption: str = ""
    reference: Volume | None = None
    names: tuple[str, str, str] = ("before", "after", "reference")
    scores: Volume | None = None
    at: tuple[int, int, int] | None = None

    def __post_init__(self) -> None:
        for other in (self.after, self.reference, self.scores):
            if other is not None and other.shape != self.before.shape:
                shapes = f"{other.shape} and {self.before.shape}"
                raise ValueError(f"'{self.title}': the volumes differ in shape: {shapes}")


def plane(
    volume: Volume | Shaped[np.ndarray, "x y z"], axis: int, index: int | None = None
) -> Shaped[np.ndarray, "rows columns"]:
    """A slice as displayed, row 0 at the top; see the module docstring for the orientation.

    axis: the axis (x, y, z in RAS) held fixed: 0 sagittal, 1 coronal, 2 axial.
    index: slice along it; None: the middle one (of an even number, the one after the middle).
    `ValueError` for any other axis, `IndexError` for an index outside the volume.
    """
    hu = volume.hu if isinstance(volume, Volume) else volume
    if axis not in (0, 1, 2):
        raise ValueError(f"axis must be 0, 1 or 2, not {axis}")
    index = hu.shape[axis] // 2 if index is None else index
    # Both axes of the slice point towards R, A or S, all of which are drawn at the left or top.
    return hu.take(index, axis=axis).T[::-1, ::-1]


def sheet(rows: Sequence[Row], path: str | Path, title: str) -> None:
    """Draw the rows below one another into a PNG 1600 pixels wide at `path`.

    The file is written completely or not at all.
    `ValueError` if there are no rows; `OSError` if the folder is not writable.
    """
    from PIL import Image

    if not rows:
        raise ValueError("a sheet needs at least one row")
    bands = [_Band(row) for row in rows]
    height = TITLE + sum(band.height for band in bands) + MARGIN // 2
    page, top = _Page(Image.new("RGB", (WIDTH, height), PAPER)), TITLE
    page.write(MARGIN, 40, title, 24, bold=True)
    for band in bands:
        band.draw(page, top)
        top += band.height
    with open_file(path) as file:
        page.image.save(file, format="png")


def difference_limit(row: Row) -> float:
    """HU at the ends of the difference's colour scale: 1, 2 or 5 times a power of ten.

    The next such value above the 99.5th percentile of |after - before| in the planes that are
    shown, both clipped to the window, and at least 1 HU: neither a few outliers nor air and bone
    beyond the window wash out the rest.
    """
    limits = row.window.low_hu, row.window.high_hu
    before, after = (
        np.concatenate([np.clip(shown, *limits).ravel() for shown in _planes(one, row.at)])
        for one in (row.before, row.after or row.before)
    )
    least = max(float(np.percentile(np.abs(after - before), 99.5)), 1.0)
    power = 10.0 ** math.floor(math.log10(least))
    return next(step * power for step in (1, 2, 5, 10) if step * power >= least * (1 - 1e-9))


def _planes(volume: Volume, at: tuple[int, int, int] | None) -> list[Float[np.ndarray, "_ _"]]:
    """The slices that are shown, by the axis held fixed, as float32."""
    index: Sequence[int | None] = at or (None, None, None)
    return [plane(volume, axis, index[axis]).astype(np.float32) for axis in range(3)]


@dataclass(frozen=True)
class _Panel:
    """One group of the sheet: planes of a volume, or of a difference. scale: of `SCALES`, ends."""

    name: str
    planes: Sequence[Float[np.ndarray, "_ _"]]
    scale: tuple[str, float, float]
    label: str

    def colours(self, values: Float[np.ndarray, "_ _"]) -> UInt8[np.ndarray, "_ _ 3"]:
        """Values on the scale; those beyond its ends have the colours of the ends."""
        name, low, high = self.scale
        stops = np.array([list(bytes.fromhex(one)) for one in SCALES[name]], float)
        at = np.linspace(low, high, len(stops))
        channels = [np.interp(values, at, channel) for channel in stops.T]
        return np.stack(channels, -1).round().astype(np.uint8)


def _panels(row: Row) -> list[_Panel]:
    grey = ("gray", row.window.low_hu, row.window.high_hu)
    window = f"HU (window {row.window.width_hu:g}, level {row.window.level_hu:g})"
    volumes = zip(row.names, (row.before, row.after, row.reference), strict=True)
    found = [
        _Panel(name, _planes(volume, row.at), grey, window)
        for name, volume in volumes
        if volume is not None
    ]
    if row.scores is not None:
        scale = ("blue-red", -Z_LIMIT, Z_LIMIT)
        found.append(_Panel("z-scores", _planes(row.scores, row.at), scale, "z-score"))
    if row.after is not None:
        limit = difference_limit(row)
        change = [b - a for a, b in zip(found[0].planes, found[1].planes, strict=True)]
        name = f"{row.names[1]} minus {row.names[0]}"
        found.append(_Panel(name, change, ("blue-red", -limit, limit), "difference, HU"))
    return found


class _Page:
    """The image, and what is drawn into it at places in pixels from its top-left corner."""

    def __init__(self, image: Image) -> None:
        from PIL import ImageDraw

        self.image, self._pen = image, ImageDraw.Draw(image)

    def write(
        self, x: float, y: float, text: str, size: float, color: str = INK, bold: bool = False,
        anchor: str = "ls", **more: Any,
    ) -> None:  # fmt: skip
        """One line of text. anchor: which point of it is at x, y; by default, its baseline's left
        end."""
        from PIL import ImageFont

        font = ImageFont.load_default(size)
        for shift in (0, 0.6) if bold else (0,):  # Pillow's own font has no bold face
            self._pen.text((round(x) + shift, y), text, color, font, anchor, **more)

    def rule(self, top: float) -> None:
        """A line across the page."""
        self._pen.line([(MARGIN, top), (WIDTH - MARGIN, top)], fill="#d5dae1")

    def show(
        self,
        panel: _Panel,
        values: Float[np.ndarray, "_ _"],
        box: tuple[float, float, float, float],
    ) -> None:
        """Values of a panel, interpolated, in a box: left, top, width, height."""
        from PIL import Image

        left, top, width, height = map(round, box)
        size = max(1, width), max(1, height)
        scaled = Image.fromarray(values).resize(size, Image.Resampling.BICUBIC)
        self.image.paste(Image.fromarray(panel.colours(np.asarray(scaled))), (left, top))


class _Band:
    """Layout of a row: groups side by side, each an axial panel over a coronal and a sagittal."""

    def __init__(self, row: Row) -> None:
        self.row, self.panels = row, _panels(row)
        count = max(len(self.panels), 2 if max(row.before.shape) > SMALL else 4)
        self.group = (WIDTH - 2 * MARGIN - GUTTER * (count - 1)) / count
        x, y, z = (n * mm for n, mm in zip(row.before.shape, row.before.spacing_mm, strict=True))
        # Coronal and sagittal share one height; no panel is taller than a group is wide.
        self.lower = min((self.group - GAP) / ((x + y) / z), self.group)
        self.upper = min(self.group * y / x, self.group)
        self.size = {  # width, height in pixels; the same mm per pixel in both directions
            "axial": (self.upper * x / y, self.upper),
            "coronal": (self.lower * x / z, self.lower),
            "sagittal": (self.lower * y / z, self.lower),
        }
        self.height = math.ceil(HEAD + NAME + self.upper + GAP + self.lower + 12 + BAR + FOOT)

    def draw(self, page: _Page, top: float) -> None:
        """Draw the whole band, from `top` (pixels) down."""
        row = self.row
        page.rule(top)
        page.write(MARGIN, top + 30, row.title, 18, bold=True)
        page.write(MARGIN, top + 52, row.caption, 15, QUIET)
        bars = top + HEAD + NAME + self.upper + GAP + self.lower + 12
        labelled = ""
        for number, panel in enumerate(self.panels):
            left = MARGIN + number * (self.group + GUTTER)
            page.write(left, top + HEAD + 20, panel.name, 15, bold=True)
            self._planes(page, panel, left, top + HEAD + NAME)
            if panel.label != labelled:  # volumes in HU share a bar
                self._bar(page, panel, left, bars)
            labelled = panel.label

    def _planes(self, page: _Page, panel: _Panel, left: float, top: float) -> None:
        """Draw the three planes of one volume, with their letters."""
        below = top + self.upper + GAP
        aside = (self.group - self.size["coronal"][0] - GAP - self.size["sagittal"][0]) / 2
        corner = {
            "axial": (left + (self.group - self.size["axial"][0]) / 2, top),
            "coronal": (left + aside, below),
            "sagittal": (left + aside + self.size["coronal"][0] + GAP, below),
        }
        dark = panel.scale[0] == "gray"
        ink, edge = ("#ffd866", "black") if dark else (INK, "white")
        for axis, name in enumerate(PLANES):
            (x, y), (w, h) = corner[name], self.size[name]
            page.show(panel, panel.planes[axis], (x, y, w, h))
            places = ((x + 7, y + h / 2), (x + w - 7, y + h / 2), (x + w / 2, y + 7),
                      (x + w / 2, y + h - 7))  # fmt: skip
            for letter, place, anchor in zip(
                SIDES[name], places, ("lm", "rm", "mt", "mb"), strict=True
            ):
                page.write(*place, letter, 13, ink, anchor=anchor, stroke_width=2, stroke_fill=edge)

    def _bar(self, page: _Page, panel: _Panel, left: float, top: float) -> None:
        """A colour bar with the values at its ends and in its middle, and its label below."""
        _, low, high = panel.scale
        page.show(panel, np.linspace(low, high, 256, dtype=np.float32)[None],
                  (left, top, self.group, 10))  # fmt: skip
        for share, anchor in ((0, "lt"), (0.5, "mt"), (1, "rt")):
            value = f"{low + share * (high - low):g}"
            page.write(left + share * self.group, top + 15, value, 12, QUIET, anchor=anchor)
        page.write(left + self.group / 2, top + 31, panel.label, 12, QUIET, anchor="mt")
