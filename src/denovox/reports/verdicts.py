"""What the numbers of a faithfulness report mean, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..metrics.residual import Residual
from .types import Change, Check, Errors, Given, Spread, Thresholds, Tissue

DETAIL_ADDED = "this task is meant to add detail, so the change need not be noise"
NO_LEVEL = "the noise level was not given, so what was removed cannot be compared with it"
NO_SPECTRUM = (
    "the noise spectrum was not given, so the spectrum of the residual cannot be compared with it"
)


def checks(
    removed: Residual,
    tissues: Sequence[Tissue],
    spread: Spread | None,
    given: Given,
    limits: Thresholds,
) -> tuple[Check, ...]:
    """All checks, in the order in which a reader would ask for them; the names are stable."""
    # The mean of a small tissue varies with the noise alone: only what exceeds that counts.
    worst = max(tissues, key=_sure_bias, default=None)
    # A task that adds detail changes edges by design, and its change resembles the image.
    blurs = Residual(removed.voxels) if given.adds_detail else removed

    def unless_detail_added(missing: str) -> str:
        return DETAIL_ADDED if given.adds_detail else missing

    against = "the input" if given.reference is None else "the reference"
    return (
        _most(
            "hu_bias",
            None if worst is None else _sure_bias(worst),
            limits.bias_hu,
            "no tissue was large enough for its mean to be compared",
            lambda v: (
                f"the mean of every tissue is within {limits.bias_hu:g} HU of {against}"
                f" (largest difference: {_name(worst)})"
            ),
            lambda v: (
                f"the mean of {_name(worst)} is at least {v:.1f} HU away from {against}:"
                " do not rely on HU there"
            ),
        ),
        _most(
            "removed_ratio",
            blurs.of_noise,
            limits.removed_ratio,
            unless_detail_added(NO_LEVEL),
            lambda v: f"what was removed is {v:.2f} times the noise level: no more than the noise",
            lambda v: f"what was removed is {v:.2f} times the noise level: more than the noise",
        ),
        _most(
            "edge_ratio",
            blurs.edge_ratio,
            limits.edge_ratio,
            unless_detail_added("too little changed to compare edges with flat regions"),
            lambda v: f"{v:.2f} times as much was removed at edges as in flat regions nearby",
            lambda v: (
                f"{v:.2f} times as much was removed at edges as in flat regions nearby:"
                " edges were softened"
            ),
        ),
        _most(
            "structure",
            blurs.structure,
            limits.structure,
            unless_detail_added("too little changed to look for structure in the residual"),
            lambda v: f"what was removed hardly resembles image detail (correlation {v:.2f})",
            lambda v: (
                f"what was removed resembles image detail (correlation {v:.2f}):"
                " detail was removed with the noise"
            ),
        ),
        _most(
            "residual_correlation",
            blurs.excess,
            limits.excess,
            unless_detail_added(NO_SPECTRUM),
            lambda v: (
                f"what was removed is no smoother than the noise (excess correlation {v:.2f})"
            ),
            lambda v: (
                f"what was removed is smoother than the noise (excess correlation {v:.2f}):"
                " it contains shapes"
            ),
        ),
        _most(
            "data_consistency",
            given.data_consistency_hu,
            limits.consistency_hu,
            "this task has no measurement to compare the result with",
            lambda v: f"measured again, the result reproduces the input to within {v:.2f} HU (RMS)",
            lambda v: f"measured again, the result differs from the input by {v:.2f} HU (RMS)",
        ),
        _coverage(spread, limits.coverage),
    )


def _sure_bias(tissue: Tissue) -> float:
    """Lower bound on the bias of the mean, HU: what exceeds its error."""
    return max(abs(tissue.bias_hu) - tissue.error_hu, 0.0)


def _name(tissue: Tissue | None) -> str:
    return "" if tissue is None else tissue.name


def _most(
    name: str,
    value: float | None,
    threshold: float,
    missing: str,
    fine: Callable[[float], str],
    look: Callable[[float], str],
) -> Check:
    """A check that is fine up to its threshold."""
    if value is None:
        return Check(name, None, threshold, "not evaluated", missing)
    if value <= threshold:
        return Check(name, value, threshold, "fine", fine(value))
    return Check(name, value, threshold, "look", look(value))


def _coverage(spread: Spread | None, least: float) -> Check:
    name = "sd_coverage"
    if spread is None:
        return Check(name, None, least, "not evaluated", "no samples were drawn, so there is no SD")
    if spread.coverage is None:
        text = "without a reference, whether the SD matches the actual error is unknown"
        return Check(name, None, least, "not evaluated", text)
    text = (
        f"{100 * spread.coverage:.0f} % of voxels are within 2 SD of the reference (ideally 95 %)"
    )
    if spread.coverage >= least:
        return Check(name, spread.coverage, least, "fine", text)
    text += ": the SD map is overconfident"
    return Check(name, spread.coverage, least, "look", text)


def summary(change: Change, errors: Errors | None, results: Sequence[Check]) -> str:
    """Two to four sentences: what changed, what to look at, what remains unknown."""
    looks = [check for check in results if check.verdict == "look"]
    evaluated = [check for check in results if check.verdict != "not evaluated"]
    text = (
        f"Within the body, {100 * (1 - change.untouched):.0f} % of voxels changed; the RMS change"
        f" is {change.rms_hu:.1f} HU."
    )
    if errors is not None:
        closer = "closer to" if errors.rmse_after_hu < errors.rmse_before_hu else "no closer to"
        text += (
            f" The result is {closer} the reference than the input: its RMSE is"
            f" {errors.rmse_after_hu:.1f} HU, against {errors.rmse_before_hu:.1f} HU before."
        )
    if looks:
        text += " Look at: " + "; ".join(check.sentence for check in looks) + "."
    elif evaluated:
        text += f" All {len(evaluated)} checks that could be run are fine."
    unknown = len(results) - len(evaluated)
    if unknown:
        text += f" {unknown} of {len(results)} checks could not be run; the report says why."
    return text
