"""What a lesion study gathers: figures of scans, appearances of lesions, facts; and their table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from ...core.errors import ensure
from ...core.version import __version__
from ...core.volume import Volume
from ...datasets.store import Case
from ...metrics.bootstrap import Interval
from ...metrics.lesions import CONVENTION, Appearance, appearances, realism_figures
from ...metrics.results import Figure, Measured, Results, Value
from ..protocols import Protocol
from ..tables import measured_figures
from .hosts import Numbers, StudyContext, diameters_mm

WITH_SYNTHETIC = "real, trained with synthetic"


@dataclass
class StudyRows:
    """What a study gathers. real, synthetic: appearances of lesions, by region. facts: for the
    record, ready for JSON. gains: of each segmenter's seed, on each scan."""

    measured: list[Measured] = field(default_factory=list)
    real: dict[str, list[Appearance]] = field(default_factory=dict)
    synthetic: dict[str, list[Appearance]] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)
    gains: dict[int, list[float]] = field(default_factory=dict)

    def add_figures(self, case: Case, method: str, values: tuple[Value, ...]) -> None:
        """Figures of one scan."""
        self.measured.append(Measured(case.facts.patient, case.facts.region, method, values))

    def add_lesions(
        self,
        what: str,
        case: Case,
        volume: Volume,
        numbers: Numbers,
        others: Bool[np.ndarray, "x y z"] | None = None,
    ) -> None:
        """The appearance of the lesions of a scan. what: "real" or "synthetic"."""
        facts = case.facts
        lesions = appearances(volume.hu, numbers, volume.spacing_mm, facts.patient, others)
        of_all = self.real if what == "real" else self.synthetic
        of_all.setdefault(facts.region, []).extend(lesions)
        each = [
            {"diameter_mm": mm, "contrast_hu": one.contrast_hu, "sharpness": one.sharpness}
            for mm, one in zip(diameters_mm(numbers, volume.spacing_mm), lesions, strict=True)
        ]
        scan = {"scan": facts.id, "patient": facts.patient, "region": facts.region}
        self.facts.append({**scan, "sha256": facts.sha256, "what": what, "lesions": each})


def mean(figures: Sequence[tuple[Value, ...]]) -> tuple[Value, ...]:
    """The mean over segmenters of each of their figures."""
    return tuple(
        Value(same[0].name, float(np.mean([v.value for v in same])), same[0].unit, same[0].better)
        for same in zip(*figures, strict=True)
    )


def results(
    row: Protocol, data: str | Path, rows: StudyRows, study: StudyContext, weights: str | None
) -> Results:
    """The table of a study; `InputError` where no lesion could be synthesized."""
    ensure(rows.synthetic, "no scan has room for a synthetic lesion; ask for fewer or smaller ones")
    config, seed = study.config, study.options.seed
    figures = measured_figures(rows.measured, seed)
    if rows.gains:
        figures += (_spread(rows),)
    medians = []
    for region, lesions in rows.synthetic.items():
        real = rows.real.get(region, [])
        if real:
            figures += realism_figures(real, lesions, region, config.method, seed)
            medians += [_medians(region, "real", real), _medians(region, config.method, lesions)]
    return Results(
        row.name,
        str(data),
        figures,
        config.model_dump(mode="json") | {"seed": seed},
        weights,
        __version__,
        (
            f"convention: {CONVENTION}",
            f"methods: {row.convention.replace('--method', config.method)}",
            *medians,
            "scans of a distance are lesions; a scan with synthetic lesions counts as one",
            "the segmenters are trained on few lesions: compare their figures with each other, not"
            " with those of other stores or settings; masks may come from software, see the store's"
            " sources",
        ),
        tuple(rows.facts),
    )


def _spread(rows: StudyRows) -> Figure:
    """The standard deviation over segmenters' seeds of the mean gain; NaN of one seed."""
    means = [float(np.mean(of_seed)) for of_seed in rows.gains.values()]
    rows.facts.append({"lesion_dice_gain_of_seeds": means})
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
    scored = [row for row in rows.measured if row.method == WITH_SYNTHETIC]
    count = len({row.patient for row in scored}), len(scored)
    label, none = "lesion Dice gain, SD over seeds", Interval(None, None)
    return Figure(label, spread, none, *count, method=WITH_SYNTHETIC, better="lower")


def _medians(region: str, method: str, lesions: Sequence[Appearance]) -> str:
    """The medians that the distances compare, in a line."""
    columns = (
        [float(np.median(one.hu)) for one in lesions],
        [one.contrast_hu for one in lesions],
        [one.sharpness for one in lesions],
    )
    known = [[value for value in column if np.isfinite(value)] for column in columns]
    hu, contrast, sharp = (f"{np.median(each):.3g}" if each else "unknown" for each in known)
    return (
        f"{region}, {method}: {len(lesions)} lesions, medians {hu} HU inside, contrast {contrast}"
        f" HU, sharpness {sharp} 1/mm"
    )
