"""Options that say what is drawn, and how."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import click

from ..commands import option
from ..options import triple

if TYPE_CHECKING:
    from ...inference.model import Model

shape_option = option(
    "--shape", metavar="NxNxN", help="Number of SLICESxROWSxCOLUMNS, e.g. 128x160x160."
)
_SPACING = "Voxel size in mm: one number, or SLICESxROWSxCOLUMNS."
spacing_option = option("--spacing", metavar="MM", help=_SPACING)
spacing_of_phantoms = option(
    "--spacing", metavar="MM", default="3", show_default=True, help=_SPACING
)


def sampling_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options of how a model draws."""
    for decorate in reversed(_SAMPLING):
        command = decorate(command)
    return command


_SAMPLING = (
    option(
        "--steps",
        default=10,
        show_default=True,
        type=click.IntRange(2),
        help="Evaluations of the model at each level, by DPM-Solver++(2M).",
    ),
    option(
        "--levels",
        type=click.IntRange(1),
        help="1 generates all at once; more generate the whole on a coarse grid first and refine"
        " it."
        "  [default: 1 with --anatomy unless the volume is very large, else as many as fit]",
    ),
    option(
        "--guidance",
        type=float,
        metavar="WEIGHT",
        help="How far to follow region and anatomy; 1: as trained, without guidance."
        "  [default: 2, or 1 for weights that do not support it]",
    ),
    option(
        "--guide",
        group="Model",
        metavar="WEIGHTS",
        help="Weaker weights to guide away from, in place of --weights without region and anatomy.",
    ),
)


def weaker(guide: str | None, run: dict[str, Any]) -> Model | None:
    """The model of --guide."""
    from ...core.errors import ensure
    from ...inference.model import load

    if guide is None:
        return None
    model = load(guide, run["device"], run["precision"])
    fine = f"{guide} is a control; --guide takes the weights of a base"
    ensure(model.control is None, fine)
    return model


def grid(shape: str | None, spacing: str) -> tuple[Any, tuple[float, float, float]]:
    """(shape or None, spacing in mm) along x, y, z."""
    size = None if shape is None else triple(shape, int, "--shape")[::-1]
    return size, triple(spacing, float, "--spacing")[::-1]
