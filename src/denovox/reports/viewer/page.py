"""One self-contained page that shows a scan and a result with a before/after line.

The page needs no network: NiiVue (BSD-2) and the images, as gzipped NIfTI, are inside it.
"""

from __future__ import annotations

import base64
import html
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import numpy as np
from jaxtyping import Integer, Shaped

from ...core.box import bounding_box
from ...core.display.embedded import averaged, niftis
from ...core.display.planes import planes_png
from ...core.errors import shown
from ...core.labels import OUTSIDE
from ...core.volume import Volume, Window
from ...io.atomic import write_folder
from ...metrics.results import finite
from ...scan.anatomy import coarse

SOFT_TISSUE = Window(400, 40)
PAGE_NAME = "index.html"
MOST_MB = 40.0  # of images in one page; browsers become slow beyond
MARGIN_MM = 10.0  # around the body
Position = tuple[float, float, float]


@dataclass(frozen=True, eq=False)
class Overlay:
    """Values drawn over the images, on the grid of the scan: a mask, z-scores or an SD map.

    colour_map: a name that NiiVue knows. low, high: the values at either end of it; below low,
    the overlay is transparent. negative: a colour map for values from -low to -high, if any.
    """

    name: str
    values: Shaped[np.ndarray, "x y z"]
    colour_map: str = "red"
    low: float = 0.5
    high: float = 1.0
    unit: str = ""
    opacity: float = 0.5
    negative: str = ""


@dataclass(frozen=True)
class Place:
    """A position in the scan to go to, RAS in mm, and what is there."""

    label: str
    position_mm: Position


@dataclass(frozen=True, eq=False)
class View:
    """What a page shows. after: the result, if any, on the grid of `before`; names: of both."""

    before: Volume
    after: Volume | None = None
    overlays: tuple[Overlay, ...] = ()
    places: tuple[Place, ...] = ()
    window: Window = SOFT_TISSUE
    names: tuple[str, str] = ("before", "after")


def page(
    view: View,
    title: str,
    sections: Sequence[str] = (),
    labels: Integer[np.ndarray, "x y z"] | None = None,
) -> str:
    """The page as HTML. sections: HTML to append below the viewer, already escaped.

    labels: anatomy of `before`; None: the coarse anatomy is computed. Images are cropped to the
    body, rounded to integer HU, and averaged onto a coarser grid where they exceed `MOST_MB`; the
    page says so. `InputError` where the images are not on one grid.
    """
    title = shown(title)
    if view.after is not None:
        view.after.grid.require(view.before.grid, view.names[1], view.names[0])
    images, embedded, notes = _embedded(view, coarse(view.before) if labels is None else labels)
    start = view.places[0].position_mm if view.places else _centre(view.before)
    content = {
        "images": images,
        "window": {"width": view.window.width_hu, "level": view.window.level_hu},
        "start_mm": start,
    }
    still = base64.b64encode(planes_png(view.before.hu, view.before.spacing_mm)).decode()
    return Template(_asset("viewer.html")).substitute(
        title=html.escape(title),
        style=_asset("viewer.css"),
        still=f"data:image/png;base64,{still}",
        notes=html.escape(" ".join(filter(None, notes))),
        sections="\n".join([_places(view.places), *sections]),
        view=json.dumps(content).replace("<", "\\u003c"),
        volumes="\n".join(
            f'<script type="text/plain" id="{name}">{base64.b64encode(data).decode()}</script>'
            for name, data in embedded.items()
        ),
        niivue=_asset("niivue.umd.js"),
        script=_asset("viewer.js"),
    )


def write_page(
    folder: Path, view: View, title: str, facts: Mapping[str, Any], force: bool = False
) -> None:
    """Write `index.html` to a new folder. facts: settings, figures and the like, ready for JSON.

    `InputError` as in `page` and `atomic.write_folder`.
    """
    content = html.escape(json.dumps(finite(facts), indent=1, sort_keys=True))
    sections = [f"<h2>Settings and figures</h2>\n<pre>{content}</pre>"]
    write_folder(folder, {PAGE_NAME: page(view, title, sections)}, force)


@cache
def _asset(name: str) -> str:
    return (files(__package__) / name).read_text("utf-8")


def _places(places: Sequence[Place]) -> str:
    if not places:
        return ""
    rows = (
        f'<li><button type="button" data-mm="{json.dumps(place.position_mm)}">'
        f"{html.escape(shown(place.label))}</button></li>"
        for place in places
    )
    return f'<h2>Places</h2>\n<ol id="places">{"".join(rows)}</ol>'


def _centre(volume: Volume) -> Position:
    x, y, z = volume.affine[:3, :3] @ ((np.array(volume.shape) - 1) / 2) + volume.affine[:3, 3]
    return float(x), float(y), float(z)


# ---- images -------------------------------------------------------------------------------------


def _embedded(
    view: View, labels: Integer[np.ndarray, "x y z"]
) -> tuple[list[list[dict[str, object]]], dict[str, bytes], list[str]]:
    """Layers of each image for the script, files by id, and what was done to them, in words."""
    margins = [round(MARGIN_MM / mm) for mm in view.before.spacing_mm]
    crop = bounding_box(labels != OUTSIDE, margins).slices
    affine = view.before.affine.copy()
    affine[:3, 3] += affine[:3, :3] @ np.array([part.start for part in crop])
    scans = [view.before.hu[crop]] + ([] if view.after is None else [view.after.hu[crop]])
    overlays = [overlay.values[crop] for overlay in view.overlays]
    notes = [] if scans[0].shape == view.before.shape else ["Images are cropped to the body."]
    files_, shape = niftis(scans, overlays, affine, MOST_MB)
    notes.append(averaged(scans[0].shape, shape))
    ids = [f"image{i}" for i in range(len(scans))] + [f"overlay{i}" for i in range(len(overlays))]
    layers = [
        _layer(overlay, name)
        for overlay, name in zip(view.overlays, ids[len(scans) :], strict=True)
    ]
    low, high = view.window.low_hu, view.window.high_hu
    images = []
    names = view.names if len(scans) == 2 else ("scan",)
    for name, key in zip(names, ids[: len(scans)], strict=True):
        scan = Overlay(name, scans[0], "gray", low, high, "HU", 1.0)
        images.append([_layer(scan, key), *layers])
    return images, dict(zip(ids, files_, strict=True)), notes


def _layer(overlay: Overlay, key: str) -> dict[str, object]:
    return {
        "id": key,
        "name": overlay.name,
        "unit": overlay.unit,
        "colour_map": overlay.colour_map,
        "colour_map_negative": overlay.negative,
        "low": overlay.low,
        "high": overlay.high,
        "opacity": overlay.opacity,
    }
