"""What a trial of lesions has found: rows, looks and facts, and the table they become."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool

from ... import __version__
from ...core.errors import ensure
from ...core.volume import Volume
from ...datasets.store import Case
from ...metrics.bootstrap import Interval
from ...metrics.lesions import CONVENTION, Look, looks, realism_figures
from ...metrics.results import Figure, Measured, Results, Value
from ..tables import measured_figures
from .hosts import Bench, Numbers, diameters_mm

LESION_TRIALS = {  # name -> what its methods are
    "lesion-generation": "METHOD: lesions made in scans of the patient held out, away from real"
    " ones; untouched: the same places of the same scans; real: the patient's own lesions; real,"
    " trained with made: the same, by a judge that was trained on made lesions besides",
    "lesion-inpainting": "METHOD: the patient's own lesions, cut out with what lies within 4 mm and"
    " made again from their masks; removed: the same holes filled without a lesion; cut out: filled"
    " with the nearest voxels outside; real: the scan as it came; left: what the judge outlines in"
    " the holes, as a share of the lesions",
}
WITH_MADE = "real, trained with made"


@dataclass
class Found:
    """What a trial gathers. real, made: looks, by region. facts: for the record, ready for JSON.
    gains: of each judge's seed, on each scan."""

    rows: list[Measured] = field(default_factory=list)
    real: dict[str, list[Look]] = field(default_factory=dict)
    made: dict[str, list[Look]] = field(default_factory=dict)
    facts: list[dict[str, Any]] = field(default_factory=list)
    gains: dict[int, list[float]] = field(default_factory=dict)

    def row(self, case: Case, method: str, values: tuple[Value, ...]) -> None:
        """Figures of one scan."""
        self.rows.append(Measured(case.facts.patient, case.facts.region, method, values))

    def look(
        self,
        what: str,
        case: Case,
        volume: Volume,
        numbers: Numbers,
        others: Bool[np.ndarray, "x y z"] | None = None,
    ) -> None:
        """How the lesions of a scan look. what: "real" or "made"."""
        facts = case.facts
        seen = looks(volume.hu, numbers, volume.spacing_mm, facts.patient, others)
        of_all = self.real if what == "real" else self.made
        of_all.setdefault(facts.region, []).extend(seen)
        each = [
            {"diameter_mm": mm, "contrast_hu": one.contrast_hu, "sharpness": one.sharpness}
            for mm, one in zip(diameters_mm(numbers, volume.spacing_mm), seen, strict=True)
        ]
        told = {"scan": facts.id, "patient": facts.patient, "region": facts.region}
        self.facts.append({**told, "sha256": facts.sha256, "what": what, "lesions": each})


def mean(judged: Sequence[tuple[Value, ...]]) -> tuple[Value, ...]:
    """The mean over judges of each of their figures."""
    return tuple(
        Value(same[0].name, float(np.mean([v.value for v in same])), same[0].unit, same[0].better)
        for same in zip(*judged, strict=True)
    )


def results(
    name: str, data: str | Path, found: Found, bench: Bench, weights: str | None
) -> Results:
    """The table of a trial; `InputError` where no lesion was made."""
    ensure(found.made, "no lesion could be made: no scan has room; ask for fewer or smaller ones")
    config, seed = bench.config, bench.options.seed
    figures = measured_figures(found.rows, seed)
    if found.gains:
        figures += (_spread(found),)
    seen = []
    for region in found.made:
        real, mine = found.real.get(region, []), found.made[region]
        if real:
            figures += realism_figures(real, mine, region, config.method, seed)
            seen += [_medians(region, "real", real), _medians(region, config.method, mine)]
    return Results(
        name,
        str(data),
        figures,
        config.model_dump(mode="json") | {"seed": seed},
        weights,
        __version__,
        (
            f"convention: {CONVENTION}",
            f"methods: {LESION_TRIALS[name].replace('METHOD', config.method)}",
            *seen,
            "scans of a distance are lesions; a scan with made lesions counts as one",
            "a judge has seen few lesions: its figures are compared with each other, not with those"
            " of other stores or settings; masks may be of software, see the store's sources",
        ),
        tuple(found.facts),
    )


def _spread(found: Found) -> Figure:
    """The standard deviation over judges' seeds of the mean gain; NaN of one seed."""
    means = [float(np.mean(of_seed)) for of_seed in found.gains.values()]
    found.facts.append({"lesion_dice_gain_of_seeds": means})
    spread = float(np.std(means, ddof=1)) if len(means) > 1 else float("nan")
    judged = [row for row in found.rows if row.method == WITH_MADE]
    count = len({row.patient for row in judged}), len(judged)
    label, none = "lesion Dice gain over real alone, SD over seeds", Interval(None, None)
    return Figure(label, spread, none, *count, method=WITH_MADE, better="lower")


def _medians(region: str, method: str, lesions: Sequence[Look]) -> str:
    """What the distances are between, in a line."""
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
