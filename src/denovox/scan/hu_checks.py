"""Is this a CT in HU? Each finding is one sentence with figures.

The histogram of a CT has landmarks that no scanner shifts far: air at -1000, fat at about -100,
soft tissue from 20 (brain) to 130 (with contrast). The distance from fat to soft tissue is a sixth
of that from air to fat, whatever offset or factor was applied to the values; this distinguishes a
lost intercept from a lost slope, and both from a CT in HU (ours; landmarks: Hounsfield 1980).
"""

from __future__ import annotations

import itertools
from typing import Literal

import numpy as np
from jaxtyping import Float, UInt8
from scipy import ndimage

from ..core.config import Settings
from ..core.labels import BODY, LUNG, OUTSIDE
from ..core.volume import Volume

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
SHIFTS = (1024.0, 1000.0, -1024.0)  # the most common offsets in files, HU
SAMPLES = 4_000_000  # maximum number of voxels in a histogram
SPIKE = 0.001  # a larger share of voxels at one end of the range is no coincidence
ADVICE = "convert the original CT again, keeping its HU"


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
    hu = _sample(volume.hu)
    low, high = float(volume.hu.min()) + 0.0, float(volume.hu.max()) + 0.0  # + 0.0 avoids -0
    whole = bool((hu == np.rint(hu)).all())
    labels = None if coarse is None else _sample(coarse)
    places = {"air": OUTSIDE, "lung": LUNG, "fat": BODY, "soft": BODY}
    peaks = {
        name: at
        for name, span in PEAKS_HU.items()
        if (at := _peak(hu if labels is None else hu[labels == places[name]], span)) is not None
    }
    facts = Values(low=low, high=high, whole=whole, peaks_hu=peaks)
    kind = "whole numbers" if whole else "not whole numbers (resampled, or scaled)"
    values = Finding(code="values", severity="ok", sentence=f"values: {low:g} to {high:g}, {kind}")
    wrong = _not_hu(hu, low, high, peaks)
    if wrong is not None:
        return facts, (values, wrong)
    found = ", ".join(f"{name} {at:.0f}" for name, at in peaks.items())
    right = Finding(code="hu", severity="ok", sentence=f"in HU: peaks at {found}")
    return facts, (values, right, *_ends(volume.hu, low, high))


def _not_hu(
    hu: Float[np.ndarray, "x y z"], low: float, high: float, peaks: dict[str, float]
) -> Finding | None:
    """Why the values are not HU; None if they may be."""

    def refuse(code: str, sentence: str, advice: str = ADVICE) -> Finding:
        return Finding(code=code, severity="refuse", sentence=sentence, advice=advice)

    span = f"values lie in [{low:g}, {high:g}]"
    if low == high:
        return refuse("constant", f"all voxels have the same value, {low:g}")
    if high - low <= 4:
        return refuse("normalised", f"{span}: normalised, not HU")
    if low >= 0 and high <= 255:
        return refuse("grey_levels", f"{span}: 8-bit grey levels or labels, not HU")
    if high > 30000 and low >= -1100:
        return refuse("wrapped", f"{span}: negative HU were stored as unsigned, -1000 as 64536")
    tissue = "soft" in peaks or "fat" in peaks
    if tissue and ("air" in peaks or ("lung" in peaks and low <= -200)):
        return None
    spike = float((hu == low).mean())
    both = spike > 0.01 and float((hu == high).mean()) > 0.01
    if low > -200 and (both or ("fat" in peaks and spike > SPIKE)):
        window = f"{span}: a window was applied, {spike:.0%} of the voxels are at its lower end"
        return refuse("windowed", f"{window}, and air is lost", "export without a window")
    found = landmarks(hu)
    if found is not None:
        air, fat, soft = found
        scale = (soft - air) / (SOFT_HU - AIR_HU)
        at = f"air, fat and soft tissue peak at {air:.4g}, {fat:.4g} and {soft:.4g}"
        if not 0.78 < scale < 1.25:  # in a crop without air, lung may stand in for it
            return refuse("scaled", f"HU are scaled by about {scale:.3g}: {at} (slope lost?)")
        shift = next((s for s in SHIFTS if abs(fat - FAT_HU - s) < 40), round(fat - FAT_HU, -1))
        if abs(shift) > 40:
            lost = f"HU are shifted by about {shift:+.0f}: {at} (intercept lost?)"
            return refuse("shifted", lost, f"add {-shift:+.0f} to all values, or {ADVICE}")
    if low > -200:
        return refuse("no_air", f"{span}: there is no air (nothing at or below -200)")
    lacking = "air or lung" if tissue else "fat or soft tissue"
    sentence = f"{span}, without a peak for {lacking} where HU have one"
    return Finding(code="peaks", severity="doubt", sentence=sentence, advice="look at the image")


def landmarks(hu: Float[np.ndarray, "x y z"]) -> tuple[float, float, float] | None:
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
    at_top = float((hu == high).mean())
    near = float(((hu < high) & (hu >= high - 20)).mean()) / 20
    if high < 2900 and at_top > SPIKE and at_top > 8 * near:
        found.append(
            Finding(
                code="clipped",
                severity="doubt",
                sentence=f"clipped at {high:g} HU: {at_top:.1%} of the voxels have this value",
                advice="anything denser is lost; export without a window",
            )
        )
    at_low = float((hu == low).mean())
    if low > -900 and at_low > SPIKE:
        found.append(
            Finding(
                code="clipped_low",
                severity="doubt",
                sentence=f"clipped at {low:g} HU: {at_low:.1%} of the voxels have this value",
                advice="lung and air are lost; export without a window",
            )
        )
    padded = float((hu < -1100).mean())
    if padded:
        text = f"padding: {padded:.1%} of the voxels lie below -1100 HU, down to {low:g}"
        found.append(Finding(code="padding", severity="note", sentence=text))
    if high > 3071:
        dense = float((hu > 3071).mean())
        text = f"beyond 12 bits: {dense:.2%} of the voxels lie above 3071 HU, up to {high:g}"
        found.append(
            Finding(
                code="metal",
                severity="doubt" if high > 20000 else "note",
                sentence=text,
                advice="metal, or values that wrapped around; check these voxels",
            )
        )
    elif high in (3071, 3070, 3072) and at_top > 1e-6:
        count = round(at_top * hu.size)
        text = f"{count} voxels are at {high:g} HU, the 12-bit limit: metal, or dense bone"
        found.append(Finding(code="metal", severity="note", sentence=text))
    return tuple(found)


def _sample(array: np.ndarray) -> np.ndarray:
    """Every few voxels along each axis, which makes a histogram cheap."""
    step = max(1, int(np.ceil((array.size / SAMPLES) ** (1 / 3))))
    return array[::step, ::step, ::step]
