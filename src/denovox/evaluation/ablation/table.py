"""The figures of an ablation, and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import mean

from pydantic import Field

from ...core.config import Settings

LEVELS = "whole", "2x crop", "crop"


class Figures(Settings):
    """Figures of one model, or of the real boxes (whose errors are empty).

    l1, l2: mean absolute and root mean square error of x0, model units, by level and sigma; x0 is
    clipped to [-1, 1], as in sampling. realism: Frechet distance of texture features, each in units
    of its SD over real boxes. dice: of the segmentation with the labels of the boxes, by group;
    voxels of all boxes.
    """

    l1: dict[str, dict[str, float]] = Field(default={})
    l2: dict[str, dict[str, float]] = Field(default={})
    realism: float
    dice: dict[str, float]

    def error(self, level: str) -> float:
        """Mean absolute error over the sigmas."""
        return mean(self.l1[level].values())

    def line(self) -> str:
        """For the terminal."""
        errors = ", ".join(f"{level} {self.error(level):.4f}" for level in self.l1)
        dice = ", ".join(f"{group} {value:.3f}" for group, value in self.dice.items())
        return f"error of x0: {errors}; realism {self.realism:.2f}; Dice: {dice}"


@dataclass(frozen=True)
class Measured:
    """An arm and the figures of its runs, by seed."""

    key: str
    text: str
    against: str | None
    steps: int
    runs: dict[int, Figures]


def as_markdown(arms: Sequence[Measured], real: Figures) -> str:
    """A row per arm: mean over seeds, followed by the lowest and the highest value."""
    heads = [*(f"error, {level}" for level in LEVELS), "realism"]
    heads += [f"Dice, {group}" for group in real.dice]
    lines = [
        "| arm | against | seeds | steps | " + " | ".join(heads) + " |",
        "|---|---|---|---|" + "---|" * len(heads),
    ]
    for arm in arms:
        runs = list(arm.runs.values())
        cells = [_cell([run.error(level) for run in runs], 4) for level in LEVELS]
        cells.append(_cell([run.realism for run in runs], 2))
        cells += [_cell([run.dice[group] for run in runs], 3) for group in real.dice]
        cells_of = [arm.text, arm.against or "", str(len(runs)), str(arm.steps), *cells]
        lines.append("| " + " | ".join(cells_of) + " |")
    own = [f"{real.realism:.2f}", *(f"{value:.3f}" for value in real.dice.values())]
    lines.append("| the scans themselves |  |  |  |" + "  |" * len(LEVELS) + " "
                 + " | ".join(own) + " |")  # fmt: skip
    return "\n".join([*lines, "", *_NOTES, ""])


_NOTES = (
    "Mean over seeds (lowest to highest). Error: mean absolute error of x0, clipped to [-1, 1],",
    "model units, mean over the noise levels; realism: Frechet distance of texture features",
    "between samples and real boxes; Dice: of segmenters on samples, with the labels that the",
    "samples were made from. Equal compute: floating-point operations, forward and backward.",
)


def _cell(values: Sequence[float], digits: int) -> str:
    low, high = min(values), max(values)
    if len(values) == 1:
        return f"{low:.{digits}f}"
    return f"{mean(values):.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"
