"""What the figures of a faithfulness report mean, in plain words."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from ..metrics.residual import Residual
from .types import Change, Check, Errors, Given, Spread, Thresholds, Tissue

WANTED = "detail was to be added here, so what was changed need not be noise"
NO_LEVEL = "the level of the noise was not given, so what was removed cannot be compared with it"
NO_SPECTRUM = (
    "the spectrum of the noise was not given, so the residual's cannot be compared with it"
)


def checks(
    removed: Residual,
    tissues: Sequence[Tissue],
    spread: Spread | None,
    given: Given,
    limits: Thresholds,
) -> tuple[Check, ...]:
    """Every check, in the order in which a reader asks; the names are stable."""
    # A small tissue's mean moves with the noise alone: only what is beyond that counts.
    worst = max(tissues, key=_sure_bias, default=None)
    # What is to add detail changes edges, and in the image's own manner.
    blurs = Residual(removed.voxels) if given.adds_detail else removed

    def unless_wanted(missing: str) -> str:
        return WANTED if given.adds_detail else missing

    against = "the input" if given.reference is None else "the reference"
    return (
        _most(
            "hu_bias",
            None if worst is None else _sure_bias(worst),
            limits.bias_hu,
            "no tissue was large enough to compare its mean",
            lambda v: (
                f"the mean of every tissue is within {limits.bias_hu:g} HU of {against}"
                f" (most in {_name(worst)})"
            ),
            lambda v: (
                f"the mean of {_name(worst)} moved by {v:.1f} HU or more against {against}:"
                " do not read HU there"
            ),
        ),
        _most(
            "removed_ratio",
            blurs.of_noise,
            limits.removed_ratio,
            unless_wanted(NO_LEVEL),
            lambda v: f"what was removed is {v:.2f} times the noise: no more than there was",
            lambda v: f"what was removed is {v:.2f} times the noise: more than there was",
        ),
        _most(
            "edge_ratio",
            blurs.edge_ratio,
            limits.edge_ratio,
            unless_wanted("too little was changed to compare edges with flat places"),
            lambda v: f"at edges, {v:.2f} times as much was removed as in flat places nearby",
            lambda v: (
                f"at edges, {v:.2f} times as much was removed as in flat places nearby:"
                " edges were softened"
            ),
        ),
        _most(
            "structure",
            blurs.structure,
            limits.structure,
            unless_wanted("too little was changed to look for structure in it"),
            lambda v: f"what was removed hardly resembles the image's detail (correlation {v:.2f})",
            lambda v: (
                f"what was removed resembles the image's detail (correlation {v:.2f}):"
                " detail was taken along"
            ),
        ),
        _most(
            "residual_correlation",
            blurs.excess,
            limits.excess,
            unless_wanted(NO_SPECTRUM),
            lambda v: f"what was removed is no smoother than the noise (excess {v:.2f})",
            lambda v: (
                f"what was removed is smoother than the noise (correlation {v:.2f} above it):"
                " it holds shapes"
            ),
        ),
        _most(
            "data_consistency",
            given.data_consistency_hu,
            limits.consistency_hu,
            "this task has no measurement to compare the result with",
            lambda v: f"measured again, the result gives the input within {v:.2f} HU (RMS)",
            lambda v: f"measured again, the result is {v:.2f} HU (RMS) off the input",
        ),
        _coverage(spread, limits.coverage),
    )


def _sure_bias(tissue: Tissue) -> float:
    """How far off the mean is at least, HU."""
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
    """A check whose value is fine up to its threshold."""
    if value is None:
        return Check(name, None, threshold, "not judged", missing)
    if value <= threshold:
        return Check(name, value, threshold, "fine", fine(value))
    return Check(name, value, threshold, "look", look(value))


def _coverage(spread: Spread | None, least: float) -> Check:
    name = "sd_coverage"
    if spread is None:
        return Check(name, None, least, "not judged", "no samples were drawn, so there is no SD")
    if spread.coverage is None:
        text = "without a reference, it is not known whether the SD tells how far off the result is"
        return Check(name, None, least, "not judged", text)
    text = (
        f"{100 * spread.coverage:.0f} % of voxels lie within 2 SD of the reference (95 % if exact)"
    )
    if spread.coverage >= least:
        return Check(name, spread.coverage, least, "fine", text)
    text += ": the SD map is too sure of itself"
    return Check(name, spread.coverage, least, "look", text)


def summary(change: Change, errors: Errors | None, done: Sequence[Check]) -> str:
    """Two to four sentences: what happened, what to look at, what nobody knows."""
    looks = [check for check in done if check.verdict == "look"]
    judged = [check for check in done if check.verdict != "not judged"]
    text = (
        f"Within the body, {100 * (1 - change.untouched):.0f} % of the voxels were changed, by"
        f" {change.rms_hu:.1f} HU (RMS)."
    )
    if errors is not None:
        way = "closer to" if errors.rmse_after_hu < errors.rmse_before_hu else "no closer to"
        text += (
            f" The result is {way} the reference: {errors.rmse_after_hu:.1f} HU (RMS) off it,"
            f" {errors.rmse_before_hu:.1f} HU before."
        )
    if looks:
        text += " Look at: " + "; ".join(check.sentence for check in looks) + "."
    elif judged:
        text += f" All {len(judged)} checks that could be made are fine."
    unknown = len(done) - len(judged)
    if unknown:
        text += f" {unknown} of {len(done)} checks could not be made; the report says why."
    return text
