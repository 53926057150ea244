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
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Float, Shaped

from ..core.volume import Volume, Window
from ..io.atomic import open_file

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from matplotlib.image import AxesImage

PLANES = ("sagittal", "coronal", "axial")  # by the axis held fixed: x, y, z
# Letters at the left, right, top and bottom of each plane.
SIDES = {"axial": "RLAP", "coronal": "RLSI", "sagittal": "APSI"}

WIDTH, DPI = 1600, 100  # pixels, pixels per inch
MARGIN, GAP, GUTTER = 28, 6, 32  # pixels: around the sheet, between panels, between groups
TITLE, HEAD, NAME, BAR, FOOT = 64, 62, 30, 58, 20  # pixels: heights of the text lines
Z_LIMIT = 8.0  # z-scores at the ends of their colour scale: twice the threshold of a component
INK, QUIET, PAPER = "#1c2430", "#5b6675", "#ffffff"


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
    if not rows:
        raise ValueError("a sheet needs at least one row")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    bands = [_Band(row) for row in rows]
    height = TITLE + sum(band.height for band in bands) + MARGIN // 2
    figure = Figure(figsize=(WIDTH / DPI, height / DPI), dpi=DPI, facecolor=PAPER)
    FigureCanvasAgg(figure)
    page = _Page(figure, WIDTH, height)
    page.write(MARGIN, 40, title, size=17, weight="bold")
    top = TITLE
    for band in bands:
        band.draw(page, top)
        top += band.height
    with open_file(path) as file:
        figure.savefig(file, format="png", metadata={"Software": "denovox"})


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
    """One group of the sheet: planes of a volume, or of a difference. scale: colour map, ends."""

    name: str
    planes: Sequence[Float[np.ndarray, "_ _"]]
    scale: tuple[str, float, float]
    label: str


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
        scale = ("RdBu_r", -Z_LIMIT, Z_LIMIT)
        found.append(_Panel("z-scores", _planes(row.scores, row.at), scale, "z-score"))
    if row.after is not None:
        limit = difference_limit(row)
        change = [b - a for a, b in zip(found[0].planes, found[1].planes, strict=True)]
        name = f"{row.names[1]} minus {row.names[0]}"
        found.append(_Panel(name, change, ("RdBu_r", -limit, limit), "difference, HU"))
    return found


class _Page:
    """A figure addressed in pixels from its top-left corner."""

    def __init__(self, figure: Figure, width: float, height: float) -> None:
        self.figure, self.width, self.height = figure, width, height

    def box(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes without ticks at that position."""
        bottom = self.height - top - height
        w, h = self.width, self.height
        axes = self.figure.add_axes((left / w, bottom / h, width / w, height / h))
        axes.set(xticks=[], yticks=[])
        for spine in axes.spines.values():
            spine.set_visible(False)
        return axes

    def write(
        self,
        left: float,
        baseline: float,
        text: str,
        *,
        size: float,
        weight: str = "normal",
        color: str = INK,
    ) -> None:
        """One line of text; a "$" is printed as it is."""
        self.figure.text(
            left / self.width,
            1 - baseline / self.height,
            text,
            size=size,
            weight=weight,
            color=color,
            parse_math=False,
        )

    def bar(self, image: AxesImage, left: float, top: float, width: float, label: str) -> None:
        """A horizontal colour bar for an image, with its label below."""
        axes = self.box(left, top, width, 10)
        bar = self.figure.colorbar(image, cax=axes, orientation="horizontal", extend="both")
        bar.outline.set(edgecolor="#b9c1cb", linewidth=0.6)
        bar.ax.tick_params(labelsize=8.5, colors=QUIET, length=3, width=0.6, pad=2)
        bar.set_label(label, size=8.5, color=QUIET, labelpad=1)


class _Band:
    """Layout of a row: groups side by side, each an axial panel over a coronal and a sagittal."""

    def __init__(self, row: Row) -> None:
        self.row, self.panels = row, _panels(row)
        count = max(len(self.panels), 2)  # a single one would be as tall as the sheet is wide
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
        page.box(MARGIN, top, WIDTH - 2 * MARGIN, 1).set_facecolor("#d5dae1")
        page.write(MARGIN, top + 30, row.title, size=13, weight="bold")
        page.write(MARGIN, top + 52, row.caption, size=10.5, color=QUIET)
        bars = top + HEAD + NAME + self.upper + GAP + self.lower + 12
        labelled = ""
        for number, panel in enumerate(self.panels):
            left = MARGIN + number * (self.group + GUTTER)
            page.write(left, top + HEAD + 20, panel.name, size=11, weight="bold")
            image = self._group(page, panel, left, top + HEAD + NAME)
            if panel.label != labelled:  # volumes in HU share a bar
                page.bar(image, left, bars, self.group, panel.label)
            labelled = panel.label

    def _group(self, page: _Page, panel: _Panel, left: float, top: float) -> AxesImage:
        """Draw the three panels of one volume; returns one of their images, for a colour bar."""
        below = top + self.upper + GAP
        aside = (self.group - self.size["coronal"][0] - GAP - self.size["sagittal"][0]) / 2
        corner = {
            "axial": (left + (self.group - self.size["axial"][0]) / 2, top),
            "coronal": (left + aside, below),
            "sagittal": (left + aside + self.size["coronal"][0] + GAP, below),
        }
        for axis, name in enumerate(PLANES):
            axes = page.box(*corner[name], *self.size[name])
            cmap, low, high = panel.scale
            image = axes.imshow(
                panel.planes[axis],
                cmap=cmap,
                vmin=low,
                vmax=high,
                aspect="auto",
                interpolation="auto",
            )
            _letters(axes, SIDES[name], dark=cmap == "gray")
        return image


def _letters(axes: Axes, sides: str, *, dark: bool) -> None:
    """The four letters of a plane at the middle of its left, right, top and bottom edges."""
    from matplotlib.patheffects import withStroke

    ink, edge = ("#ffd866", "black") if dark else (INK, "white")
    places = [(0.015, 0.5), (0.985, 0.5), (0.5, 0.98), (0.5, 0.02)]
    across = ["left", "right", "center", "center"]
    down = ["center", "center", "top", "bottom"]
    for letter, (x, y), ha, va in zip(sides, places, across, down, strict=True):
        axes.text(
            x,
            y,
            letter,
            transform=axes.transAxes,
            ha=ha,
            va=va,
            size=9,
            weight="bold",
            color=ink,
            path_effects=[withStroke(linewidth=1.6, foreground=edge)],
        )
