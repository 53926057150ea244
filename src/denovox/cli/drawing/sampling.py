"""Options that determine what is generated, and how."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ..commands import option
from ..options import all_of, triple

if TYPE_CHECKING:
    from ...inference.model import Model

shape_option = option(
    "--shape", metavar="NxNxN", help="Voxels: SLICESxROWSxCOLUMNS, e.g. 128x160x160."
)
_SPACING = "Voxel size in mm: one number, or SLICESxROWSxCOLUMNS."
spacing_option = option("--spacing", metavar="MM", help=_SPACING)
spacing_of_phantoms = option("--spacing", metavar="MM", default="3", help=_SPACING)
sampling_options = all_of(
    option(
        "--steps",
        type=click.IntRange(2),
        help="Evaluations of the model at each level (DPM-Solver++(2M))."
        "  [default: 5, or the number that distilled weights were trained for]",
    ),
    option(
        "--levels",
        type=click.IntRange(1),
        help="1: generate the volume at once; more: on a coarse grid first, then refine it."
        "  [default: 1 with a label map unless the volume is very large, otherwise as many as fit]",
    ),
    option(
        "--guidance",
        type=float,
        metavar="WEIGHT",
        help="How strongly to follow region and anatomy; 1: as trained, without guidance."
        "  [default: 2, or 1 for weights that do not support it]",
    ),
    option(
        "--guide",
        group="Model",
        metavar="WEIGHTS",
        help="Weaker weights to guide away from, in place of --weights without region and anatomy.",
    ),
)


def sampling(run: dict[str, Any]) -> dict[str, Any]:
    """The `sampling_options` among the options of a command, but for --guide."""
    return {name: run[name] for name in ("steps", "levels", "guidance")}


def weaker(run: dict[str, Any]) -> Model | None:
    """The model of --guide."""
    from ...core.errors import ensure
    from ...inference.model import load

    if (guide := run["guide"]) is None:
        return None
    model = load(guide, run["device"], run["precision"])
    fine = f"{guide} is a control; --guide takes the weights of a base"
    ensure(model.control is None, fine)
    return model


def grid(shape: str | None, spacing: str) -> tuple[Any, tuple[float, float, float]]:
    """(shape or None, spacing in mm) along x, y, z."""
    size = None if shape is None else triple(shape, int, "--shape")[::-1]
    return size, triple(spacing, float, "--spacing")[::-1]
