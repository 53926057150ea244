"""A table of results: every figure with its N, its interval, and how it was measured."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from ..core.errors import InputError, encodable, shown
from ..io.atomic import write_folder
from .bootstrap import Drawn, Interval, bootstrap

JSON_NAME, MARKDOWN_NAME = "figures.json", "figures.md"
Better = Literal["higher", "lower", "zero"]


@dataclass(frozen=True)
class Figure:
    """One number and everything needed to read it.

    name, unit: "psnr", "dB"; the unit "" is for bare numbers. method: whose output was measured.
    value: NaN where it is not defined, which is null in JSON.
    patients, scans: N; the interval is over patients.
    better: which way is better; "zero": as close to 0 as possible.
    """

    name: str
    value: float
    interval: Interval
    patients: int
    scans: int
    unit: str = ""
    method: str = "denovox"
    better: Better = "higher"

    @property
    def shown(self) -> str:
        """The value and its interval, to three decimal places."""
        low, high = self.interval.low, self.interval.high
        if low is None or high is None:
            return f"{self.value:.3f}"
        return f"{self.value:.3f} [{low:.3f}, {high:.3f}]"


@dataclass(frozen=True)
class Value:
    """One number of one output, and how to read it."""

    name: str
    value: float
    unit: str = ""
    better: Better = "higher"


@dataclass(frozen=True)
class Measured:
    """Values for one method's output on one part of a scan (the slices of one region)."""

    patient: str
    region: str
    method: str
    values: tuple[Value, ...]


def gains(
    ours: tuple[Value, ...], others: dict[str, tuple[Value, ...]], name: str = "psnr"
) -> tuple[Value, ...]:
    """How much higher our value is than that of each other method on the same part."""

    def of(values: tuple[Value, ...]) -> Value:
        return next(one for one in values if one.name == name)

    best = of(ours)
    return tuple(
        Value(f"{name} gain over {other}", best.value - of(values).value, best.unit)
        for other, values in others.items()
    )


def over_patients(
    name: str,
    patients: Sequence[str],
    figure: Callable[[Drawn], float],
    *,
    unit: str = "",
    method: str = "denovox",
    better: Better = "higher",
    seed: int = 0,
    value: float | None = None,
) -> Figure:
    """A figure of all scans, with its bootstrap interval over patients.

    patients: the patient of each scan. figure: indices of scans -> the figure, as in `bootstrap`.
    value: the figure itself, if known more exactly than from `figure`.
    `InputError` where there is no scan.
    """
    import numpy as np

    if not patients:
        raise InputError("there is no scan to measure; check the list of pairs")
    return Figure(
        name,
        figure(np.arange(len(patients))) if value is None else value,
        bootstrap(patients, figure, seed=seed),
        len(set(patients)),
        len(patients),
        unit,
        method,
        better,
    )


@dataclass(frozen=True)
class Results:
    """The results of one run of a protocol.

    settings: all choices, ready for JSON. weights: sha256 of the model file; None where there is
    no model, or its weights are not known. notes: what a reader must know for comparisons. files:
    what was evaluated, one entry per scan, with paths and their sha256; in the JSON only.
    """

    protocol: str
    data: str
    figures: tuple[Figure, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    weights: str | None = None
    version: str = ""
    notes: tuple[str, ...] = ()
    files: tuple[Mapping[str, Any], ...] = ()


def as_json(results: Results) -> str:
    """The results as strict JSON: keys sorted, NaN and infinities as null."""
    return json.dumps(finite(asdict(results)), indent=1, sort_keys=True, allow_nan=False) + "\n"


def finite(value: Any) -> Any:
    """Nested dicts and sequences ready for JSON: tuples become lists, non-finite numbers None."""
    if isinstance(value, Mapping):
        return {str(key): finite(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(inner) for inner in value]
    if isinstance(value, str):
        return encodable(value)
    return None if isinstance(value, float) and not math.isfinite(value) else value


def as_markdown(results: Results) -> str:
    """The results as a Markdown table, followed by what is needed to reproduce them."""
    lines = [
        f"# {results.protocol}: {shown(results.data)}",
        "",
        "| method | figure | value [95 % interval over patients] | better | patients | scans |",
        "|---|---|---|---|---|---|",
    ]
    lines += [
        "| "
        + " | ".join(
            shown(cell).replace("|", "\\|")
            for cell in (
                figure.method,
                f"{figure.name} ({figure.unit})" if figure.unit else figure.name,
                figure.shown,
                figure.better,
                str(figure.patients),
                str(figure.scans),
            )
        )
        + " |"
        for figure in results.figures
    ]
    settings = json.dumps(finite(results.settings), sort_keys=True)
    lines += [
        "",
        f"- weights: {'none' if results.weights is None else 'sha256 ' + results.weights}",
        f"- settings: `{settings}`",
        f"- denovox {results.version or 'of unknown version'}",
    ]
    return "\n".join([*lines, *(f"- {shown(note)}" for note in results.notes)]) + "\n"


def write(results: Results, folder: str | Path, force: bool = False) -> None:
    """Write `figures.json` and `figures.md`, both or neither, to a folder; see `write_folder`."""
    files = {JSON_NAME: as_json(results), MARKDOWN_NAME: as_markdown(results)}
    write_folder(folder, files, force)
