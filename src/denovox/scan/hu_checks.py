"""Is this a CT in HU? Each finding is one sentence with figures.

The histogram of a CT has landmarks that no scanner shifts far: air at -1000, fat at about -100,
soft tissue from 20 (brain) to 130 (with contrast). The distance from fat to soft tissue is a sixth
of that from air to fat, whatever offset or factor was applied to the values; this distinguishes a
lost intercept from a lost slope, and both from a CT in HU (ours; landmarks: Hounsfield 1980).
"""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from ..core.config import Settings
from ..core.labels import BODY, LUNG, OUTSIDE
from ..core.volume import Volume
from .constant_fill import outside_fill
from .hu_template import COMMON, SHIFTS, Histogram, Transform

Severity = Literal["ok", "note", "doubt", "refuse"]
ORDER: tuple[Severity, ...] = ("ok", "note", "doubt", "refuse")

# Where the landmarks' peaks lie in a CT, HU; the base of a peak must lie inside as well.
PEAKS_HU = {
    "air": (-1060.0, -880.0),
    "lung": (-960.0, -600.0),
    "fat": (-150.0, -50.0),
    "soft": (0.0, 140.0),
}
AIR_HU, FAT_HU, SOFT_HU = -1000.0, -100.0, 50.0
STEP = (0.09, 0.27)  # from fat to soft tissue, as a share of the distance from air to fat
VALLEY = 0.5  # between air and fat, a histogram falls to at most this share of the lower peak
SAMPLES, SEEN = 4_000_000, 250_000  # most voxels in a histogram: for peaks, for the judgement
SPIKE = 0.001  # a larger share of voxels at one end of the range is no coincidence
WRAPPED = 0.02  # share of the voxels
BELOW_AIR_HU, LEAST_BELOW = -1300, 0.05  # noise puts a smaller share of the voxels below this
ABOVE_AIR_HU, LEAST_ABOVE = -700, 0.01  # a smaller share of voxels above this is not a scan
# Gains in log-likelihood per voxel by undoing a transform. Of 846 crops of CT in HU none gains more
# than 0.9, and of 120 scans none gains; with a shift or another scale, all scans gain 0.9 or more.
REFUSE_NATS, DOUBT_NATS = 1.0, 0.3
CHOICE_NATS = 0.25  # of that gain comes from choosing a transform by the peaks
LEAST_RANGE = 100  # from air to soft tissue; less is noise, or too coarse to be processed
UNLIKELY = -9.0  # log-likelihood per voxel of values that no tissue has
ADVICE, LOOK = "convert the original CT again, keeping its HU", "look at the image"


class Finding(Settings):
    """One finding. code: what was checked. advice: what to do, empty if nothing."""

    code: str
    severity: Severity
    sentence: str
    advice: str = ""


class Values(Settings):
    """Facts about the values, in the file's units: HU unless `findings` say otherwise."""

    low: float
    high: float
    whole: bool  # whole numbers only
    peaks_hu: dict[str, float]  # landmark -> HU, for those that were found


def check_values(
    volume: Volume, coarse: UInt8[np.ndarray, "x y z"] | None = None
) -> tuple[Values, tuple[Finding, ...]]:
    """The range and peaks of the values, and whether they are HU.

    coarse: label map from `scan/anatomy.coarse`; peaks are then those of the air outside, the lung
    and the body's tissues. Without it, they are searched for among all voxels.
    """
    hu = _sample(volume.hu, SAMPLES)
    low, high = float(volume.hu.min()) + 0.0, float(volume.hu.max()) + 0.0  # + 0.0 avoids -0
    whole = bool((hu == np.rint(hu)).all())
    peaks = _peaks(hu, None if coarse is None else _sample(coarse, SAMPLES))
    facts = Values(low=low, high=high, whole=whole, peaks_hu=peaks)
    kind = "whole numbers" if whole else "not whole numbers (resampled, or scaled)"
    values = Finding(code="values", severity="ok", sentence=f"values: {low:g} to {high:g}, {kind}")
    wrong = _not_hu(_measured(volume), volume, peaks)
    if wrong is not None:
        return facts, (values, wrong)
    found = ", ".join(f"{name} {at:.0f}" for name, at in peaks.items())
    right = Finding(code="hu", severity="ok", sentence=f"in HU: peaks at {found}")
    return facts, (values, right, *_ends(volume.hu, low, high))


def not_hu(volume: Volume) -> Finding | None:
    """Why the values are not HU, or may not be; None if there is no reason to doubt it."""
    hu = _measured(volume)
    return _not_hu(hu, volume, _peaks(hu))


def _measured(volume: Volume) -> Float[np.ndarray, "*n"]:
    """Every few voxels of a scan, without those that were filled with a constant."""
    hu, filled = _sample(volume.hu, SEEN), outside_fill(volume.hu)
    return hu if filled is None else hu[~_sample(filled, SEEN)]


def _not_hu(hu: Float[np.ndarray, "*n"], volume: Volume, peaks: dict[str, float]) -> Finding | None:
    low, high = float(volume.hu.min()) + 0.0, float(volume.hu.max()) + 0.0  # + 0.0 avoids -0

    def refuse(code: str, sentence: str, advice: str = ADVICE) -> Finding:
        return Finding(code=code, severity="refuse", sentence=sentence, advice=advice)

    if not np.isfinite([low, high]).all():
        bad = np.argwhere(~np.isfinite(volume.hu)).tolist()
        what = f"{len(bad)} voxels are NaN or infinite, the first at {bad[0]}"
        return refuse("not_finite", what, "put air, -1000 HU, where nothing was measured")
    span = f"values lie in [{low:g}, {high:g}]"
    if low == high:
        return refuse("constant", f"all voxels have the same value, {low:g}")
    every = Histogram.of(hu)
    if min(every.share(64400, 65534), every.share(-1, 4000)) > WRAPPED > every.share(5000, 64400):
        return refuse("wrapped", f"{span}: negative HU were stored as unsigned, -1000 as 64536")
    core = every.without_padding()
    low, high = float(core.values[0]) + 0.0, float(core.values[-1]) + 0.0
    if (low, high) != (every.values[0] + 0.0, every.values[-1] + 0.0):
        span = f"apart from padding and outliers, values lie in [{low:g}, {high:g}]"
    whole = bool((core.values == np.rint(core.values)).all())
    if (high - low <= 4 and low >= -4) or (not whole and low > -15 and high < 25):
        return refuse("normalised", f"{span}: normalised, not HU")
    at_low, at_high = core.share(low, low), core.share(high, high)
    dark = core.share(low, low + 0.05 * (high - low))
    if low >= 0 and high <= 255 and max(dark, at_high) > 0.02:
        return refuse("grey_levels", f"{span}: 8-bit grey levels or labels, not HU")
    fit = core.log_likelihood()
    best, at = _best_transform(hu, core)
    gain = core.log_likelihood(best) - fit - (0 if best in COMMON else CHOICE_NATS)
    cut = at_low > SPIKE and at_low > 8 * core.share(low, low + 20) / 20
    window = f"{span}: a window was applied, {at_low:.0%} of the voxels are at its lower end"
    windowed = refuse("windowed", f"{window}, and air is lost", "export without a window")
    if low > -200 and (min(at_low, at_high) > 0.01 or ("fat" in peaks and cut)):
        return windowed
    if max(gain - REFUSE_NATS, UNLIKELY - fit) > 0 and low > -200 and not core.has_air(best):
        return refuse("no_air", f"{span}, and {at}: there is no air (nothing at or below -200)")
    if gain > REFUSE_NATS:
        return _transformed(best, at)
    if low > -800 and at_low > 0.01 and cut:
        return windowed
    if fit < UNLIKELY:
        return refuse("unlike", f"{span}, and {at}, unlike those of any CT in HU")
    if gain > DOUBT_NATS:
        return _transformed(best, at, sure=False)
    dense, soft = core.share(ABOVE_AIR_HU, np.inf), core.share(-200, 200)
    if dense < LEAST_ABOVE or (core.quantile(0.5) < PEAKS_HU["air"][1] and soft < 0.4 * dense):
        only = f"{span}: hardly anything but air, or HU shifted by about -1024 (intercept twice?)"
        return Finding(code="only_air", severity="doubt", sentence=only, advice=LOOK)
    pair, tissue = {"fat", "soft"} <= peaks.keys(), {"fat", "soft"} & peaks.keys()
    below = core.share(-np.inf, BELOW_AIR_HU)
    sentence = f"{span}, {below:.0%} of them below {BELOW_AIR_HU}, and air is at {AIR_HU:g} HU"
    if below < LEAST_BELOW:
        if gain < -DOUBT_NATS or pair or (tissue and ("air" in peaks or "lung" in peaks)):
            return None
        lacking = "air or lung" if tissue else "fat or soft tissue"
        sentence = f"{span}, without a peak for {lacking} where HU have one"
    return Finding(code="peaks", severity="doubt", sentence=sentence, advice=LOOK)


def _best_transform(hu: Float[np.ndarray, "*n"], core: Histogram) -> tuple[Transform, str]:
    """The transform that explains the values best, if they are HU after it; the evidence."""
    best = max(COMMON, key=core.log_likelihood)
    quarter, three = core.quantile(0.25), core.quantile(0.75)
    at = f"half of the voxels lie in [{quarter:.4g}, {three:.4g}]"
    found = landmarks(hu[(hu >= core.values[0]) & (hu <= core.values[-1])])
    if found is None:
        return best, at
    air, fat, soft = found
    scale = (soft - air) / (SOFT_HU - AIR_HU)
    near = 0.78 < scale < 1.25  # in a crop without air, lung may stand in for it
    if soft - air < LEAST_RANGE:
        return best, at
    by_peaks = Transform(1, fat - FAT_HU) if near else Transform(scale, air - scale * AIR_HU)
    if near and abs(by_peaks.shift) < 40:
        return best, at
    if core.log_likelihood(by_peaks) - CHOICE_NATS < core.log_likelihood(best):
        return best, at
    return by_peaks, f"air, fat and soft tissue peak at {air:.4g}, {fat:.4g} and {soft:.4g}"


def _transformed(of: Transform, at: str, sure: bool = True) -> Finding:
    """The finding for HU that were shifted or scaled; not `sure`: that may have been."""
    if of.scale != 1:
        code, what, lost, advice = "scaled", f"scaled by about {of.scale:.3g}", "slope", ADVICE
    else:
        shift = next((s for s in SHIFTS if abs(of.shift - s) < 40), round(of.shift, -1))
        code, what, lost = "shifted", f"shifted by about {shift:+.0f}", "intercept"
        advice = f"add {-shift:+.0f} to all values, or {ADVICE}"
    if sure:
        sentence = f"HU are {what}: {at} ({lost} lost?)"
        return Finding(code=code, severity="refuse", sentence=sentence, advice=advice)
    sentence = f"HU may be {what} ({at}), but too little is visible to decide"
    return Finding(code="uncertain", severity="doubt", sentence=sentence, advice=LOOK)


def landmarks(hu: Float[np.ndarray, "*n"]) -> tuple[float, float, float] | None:
    """(air, fat, soft tissue) in arbitrary units: peaks spaced in the proportions of a CT.

    Of all such triples, the one that explains most voxels; None if there is none.
    """
    low, high = np.percentile(hu, [0.01, 99.9])
    above = hu[(hu > low) & (hu <= high)]
    padded = above.size and above.min() > low + 0.1 * (high - low)
    inside = above if padded else hu[(hu >= low) & (hu <= high)]
    if not low < high:
        return None
    counts, edges = np.histogram(inside, 800)
    # Whole numbers fall unevenly into bins of fractional width, which this smooths over 3 bins.
    smooth = ndimage.gaussian_filter1d(np.append(counts, 0).astype(float), 3, mode="constant")
    before = np.append(0, smooth[:-1])
    tops = np.flatnonzero((smooth[:-1] > before[:-1]) & (smooth[:-1] >= smooth[1:]))
    tops = tops[smooth[tops] > 0.0003 * inside.size]
    tops = np.sort(tops[np.argsort(smooth[tops])[-16:]])
    at = (edges[:-1] + edges[1:]) / 2
    best, most = None, 0.0
    for a, f, s in itertools.combinations(tops.tolist(), 3):
        valley = smooth[a:f].min() / min(smooth[a], smooth[f])
        if valley < VALLEY and STEP[0] < (at[s] - at[f]) / (at[f] - at[a]) < STEP[1]:
            explained = smooth[[a, f, s]].sum()
            if explained > most:
                best, most = (float(at[a]), float(at[f]), float(at[s])), explained
    return best


def _peaks(
    hu: Float[np.ndarray, "*n"], coarse: UInt8[np.ndarray, "*n"] | None = None
) -> dict[str, float]:
    """landmark -> HU of its peak, for those that were found; coarse: where to look for each."""
    places = {"air": OUTSIDE, "lung": LUNG, "fat": BODY, "soft": BODY}
    return {
        name: at
        for name, span in PEAKS_HU.items()
        if (at := _peak(hu if coarse is None else hu[coarse == places[name]], span)) is not None
    }


def _peak(hu: Float[np.ndarray, "*n"], span: tuple[float, float]) -> float | None:
    """The highest peak of the smoothed histogram of a span; None if it is nearly empty."""
    inside = hu[(hu >= span[0]) & (hu < span[1])]
    if inside.size < max(50, 0.002 * hu.size):
        return None
    counts = np.histogram(inside, round(span[1] - span[0]), (span[0] - 0.5, span[1] - 0.5))[0]
    smooth = ndimage.gaussian_filter1d(counts.astype(float), 6, mode="nearest")
    inner = smooth[1:-1]
    tops = np.flatnonzero((inner > smooth[:-2]) & (inner >= smooth[2:]))
    # A bump on the slope of something else is not a peak.
    tops = tops[inner[tops] > 0.3 * smooth.max()]
    return span[0] + 1 + float(tops[inner[tops].argmax()]) if tops.size else None


def _ends(hu: Float[np.ndarray, "x y z"], low: float, high: float) -> tuple[Finding, ...]:
    """Clipping, padding and values beyond 12 bits in a volume in HU."""
    found = []
    at_top = _share(hu, lambda plane: plane == high)
    near = _share(hu, lambda plane: (plane < high) & (plane >= high - 20)) / 20
    if high < 2900 and at_top > SPIKE and at_top > 8 * near:
        text = f"clipped at {high:g} HU: {at_top:.1%} of the voxels have this value"
        lost = "anything denser is lost; export without a window"
        found.append(Finding(code="clipped", severity="doubt", sentence=text, advice=lost))
    at_low = _share(hu, lambda plane: plane == low)
    if low > -900 and at_low > SPIKE:
        text = f"clipped at {low:g} HU: {at_low:.1%} of the voxels have this value"
        lost = "lung and air are lost; export without a window"
        found.append(Finding(code="clipped_low", severity="doubt", sentence=text, advice=lost))
    padded = _share(hu, lambda plane: plane < -1100)
    if padded:
        text = f"padding: {padded:.1%} of the voxels lie below -1100 HU, down to {low:g}"
        found.append(Finding(code="padding", severity="note", sentence=text))
    if high > 3071:
        dense = _share(hu, lambda plane: plane > 3071)
        text = f"beyond 12 bits: {dense:.2%} of the voxels lie above 3071 HU, up to {high:g}"
        severity: Severity = "doubt" if high > 20000 else "note"
        wraps = "metal, or values that wrapped around; check these voxels"
        found.append(Finding(code="metal", severity=severity, sentence=text, advice=wraps))
    elif high in (3071, 3070, 3072) and at_top > 1e-6:
        count = round(at_top * hu.size)
        text = f"{count} voxels are at {high:g} HU, the 12-bit limit: metal, or dense bone"
        found.append(Finding(code="metal", severity="note", sentence=text))
    return tuple(found)


def _share(hu: Float[np.ndarray, "x y z"], which: Callable[[np.ndarray], np.ndarray]) -> float:
    """Share of the voxels; plane by plane, without masks of the whole scan."""
    return sum(int(np.count_nonzero(which(plane))) for plane in hu) / hu.size


def _sample(array: np.ndarray, most: int) -> np.ndarray:
    """Every few voxels along each axis, which makes a histogram cheap."""
    step = max(1, int(np.ceil((array.size / most) ** (1 / 3))))
    return array[::step, ::step, ::step]
