"""`denovox evaluate realism`: how near synthetic scans are to real ones, and to training scans.

Real, synthetic and, to recognise copies, training scans are files; any method's can be measured.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from ..core.config import Settings
from ..core.errors import InputError, ensure
from ..core.labels import OUTSIDE
from ..core.regions import REGIONS
from ..core.version import __version__
from ..core.volume import Volume
from ..inference.scan_context import Labels, spans_in
from ..metrics import medicalnet, slices25d, texture
from ..metrics.results import Figure, Results
from ..metrics.set_distance import Features, by_scan, memorised, scale_of, standardised
from ..scan import anatomy
from .inputs import SETS, Say, Scan, sets_of, sha256
from .protocols import protocol
from .realism_coherence import Whole, whole, whole_figures
from .realism_figures import NOTES, View, copy_figures, distance_figures

Rows = Float64[np.ndarray, "_ _"]  # of features of one scan
Extract = Callable[[Scan, Volume, Labels], dict[str, Rows]]  # view -> rows
Sets = dict[str, dict[str, Features]]  # view -> set -> features


class RealismConfig(Settings):
    """network: whose features are compared, see `feature_network.load`. region: of all scans.

    accept_hu: as in `gate.read`.
    """

    method: str = "denovox"
    seed: int = 0
    network: str | None = None
    region: str | None = None
    accept_hu: bool = False


def evaluate_realism(
    name: str, data: Path, config: RealismConfig, say: Say = lambda text: None
) -> Results:
    """Compare the synthetic set of `data` with the real one, see `sets_of`.

    `InputError` where a set has fewer than two scans, a real patient is in the training set, or a
    scan or the network cannot be used.
    """
    row = protocol(name, "realism")
    sets = sets_of(data, config.region, say)
    extract, network_sha = row.run(config.network, say)
    copied, files = _facts(sets)
    features, wholes = _features(sets, extract, files, say, config.accept_hu)
    views, skipped = _views(features)
    ensure(views, f"no view has two real and two synthetic scans ({'; '.join(skipped)})")
    notes = [f"convention: {row.convention}", f"source: {row.source}", *NOTES, *skipped]
    if row.name == "radiomic":
        notes += [_furthest(view) for view in views]
        features, views = _in_sds(features, views)
    average = "" if len(slices25d.PLANES) == len(views) and row.name == "fid25d-maisi" else None
    figures = distance_figures(views, config.method, config.seed, average)
    copies, closest = _copies(row.name == "radiomic", features, config)
    settings = config.model_dump() | {kind: len(scans) for kind, scans in sets.items()}
    held, found = whole_figures(wholes, config.method, config.seed)
    notes += [*closest, *found, *_spacings(files), *copied]
    every = figures + copies + held
    return Results(
        row.name, str(data), every, settings, network_sha, __version__, tuple(notes), tuple(files)
    )


def _facts(sets: Mapping[str, Sequence[Scan]]) -> tuple[list[str], list[dict[str, Any]]]:
    """What is the same file in two sets (a sentence each), and a row for every scan."""
    rows: list[dict[str, Any]] = [
        {
            "set": kind,
            "scan": str(scan.path),
            "patient": scan.patient,
            "sha256": sha256(scan.path, scan.series),
        }
        for kind, scans in sets.items()
        for scan in scans
    ]
    notes = []
    for one, other in (("real", "synthetic"), ("training", "synthetic"), ("training", "real")):
        by_sha = {row["sha256"]: row["scan"] for row in rows if row["set"] == one}
        same = [row for row in rows if row["set"] == other and row["sha256"] in by_sha]
        ensure(
            not same or other == "synthetic",
            f"{same[0]['scan'] if same else ''} is in training too, so it is not held out from it",
        )
        notes += [f"{row['scan']} ({other}) is {by_sha[row['sha256']]} ({one})" for row in same]
    return notes, rows


# -- features -------------------------------------------------------------------------------------


def radiomic(network: str | None, say: Say) -> tuple[Extract, None]:
    """Features of texture in each region; there is no network."""

    def extract(scan: Scan, volume: Volume, coarse: Labels) -> dict[str, Rows]:
        rows = {}
        for span in spans_in(volume, coarse, scan.region, say):
            if span.stop - span.start < texture.LEAST:
                say(f"{scan.id}: {span.region} is {span.stop - span.start} slices, left out")
                continue
            hu, inside = (a[:, :, span.start : span.stop] for a in (volume.hu, coarse))
            window = REGIONS[span.region].window
            rows[span.region] = texture.texture(hu, window, inside != OUTSIDE)[None]
        return rows

    return extract, None


def _of_network(
    name: str, dimensions: int, features: Callable[[Any, Volume], dict[str, Rows]],
    network: str | None, say: Say,
) -> tuple[Extract, str]:  # fmt: skip
    from ..metrics.feature_network import load

    net = load(network, dimensions, name)
    return lambda _, volume, found: features(net, volume), net.sha256


fid25d = partial(
    _of_network,
    "fid25d-maisi",
    2,
    lambda net, volume: slices25d.features(volume, net, slices25d.SIZE),
)
fid3d = partial(
    _of_network,
    "fid3d-medicalnet",
    3,
    lambda net, volume: {"": net(medicalnet.prepare(volume, medicalnet.SIZE)[None])},
)


def _features(
    sets: Mapping[str, Sequence[Scan]],
    extract: Extract,
    files: Sequence[dict[str, Any]],
    say: Say,
    accept_hu: bool,
) -> tuple[Sets, dict[str, list[Whole]]]:
    """The features of every scan, one after the other, and of each set its scans as wholes; the row
    of a scan's file records grid and views."""
    rows: dict[str, dict[str, list[tuple[Scan, Rows]]]] = {}
    wholes: dict[str, list[Whole]] = {}
    every = [(kind, scan) for kind, scans in sets.items() for scan in scans]
    for number, ((kind, scan), facts) in enumerate(zip(every, files, strict=True), 1):
        say(f"{kind} {scan.id}: {number} of {len(every)}")
        volume = scan.read(say, accept_hu)
        coarse = anatomy.coarse(volume)
        wholes.setdefault(kind, []).append(whole(scan, volume, coarse, say))
        try:
            views = extract(scan, volume, coarse)
        except InputError as error:
            raise InputError(f"{scan.path}: {error}") from None
        facts["shape"] = list(volume.shape)
        facts["spacing_mm"] = [round(mm, 4) for mm in volume.spacing_mm]
        facts["views"] = list(views)
        for view, values in views.items():
            rows.setdefault(view, {}).setdefault(kind, []).append((scan, values))
    stacked = {
        view: {kind: _stacked(scans) for kind, scans in kinds.items()}
        for view, kinds in rows.items()
    }
    return stacked, wholes


def _stacked(rows: Sequence[tuple[Scan, Rows]]) -> Features:
    counts = [len(values) for _, values in rows]
    scans = [scan.id for (scan, _), n in zip(rows, counts, strict=True) for _ in range(n)]
    patients = [scan.patient for (scan, _), n in zip(rows, counts, strict=True) for _ in range(n)]
    return Features(np.concatenate([v for _, v in rows]), tuple(scans), tuple(patients))


def _views(features: Sets) -> tuple[list[View], list[str]]:
    """What can be compared, and a sentence on each view that cannot."""
    views, skipped = [], []
    for name, kinds in features.items():
        counts = {
            kind: len(set(kinds[kind].scans)) if kind in kinds else 0
            for kind in ("real", "synthetic")
        }
        if min(counts.values()) < 2:
            shown = " and ".join(f"{count} {kind}" for kind, count in counts.items())
            skipped.append(f"{name}: {shown} scans, not compared")
            continue
        views.append(View(name, kinds["real"], kinds["synthetic"]))
    return views, skipped


def _in_sds(features: Sets, views: Sequence[View]) -> tuple[Sets, list[View]]:
    """Every set of every view in SDs of its real set."""
    scaled = {
        view.name: {
            kind: Features(standardised(f.values, view.real.values), f.scans, f.patients)
            for kind, f in features[view.name].items()
        }
        for view in views
    }
    return scaled, [View(n, kinds["real"], kinds["synthetic"]) for n, kinds in scaled.items()]


def _furthest(view: View, count: int = 3) -> str:
    """Which features' means differ most, in SDs of the real set."""
    means = standardised(view.synthetic.values.mean(0)[None], view.real.values)[0]
    names = np.array(texture.NAMES)[scale_of(view.real.values) > 0]
    order = np.argsort(-np.abs(means), kind="stable")[:count]
    shown = ", ".join(f"{names[i]} {means[i]:+.1f} SD" for i in order)
    same = ", ".join(sorted(set(texture.NAMES) - set(names)))
    return f"{view.name}, furthest from real: {shown}" + (
        f"; left out, one value in all real scans: {same}" if same else ""
    )


# -- copies ---------------------------------------------------------------------------------------


def _copies(
    by_view: bool, features: Sets, config: RealismConfig
) -> tuple[tuple[Figure, ...], list[str]]:
    """Figures and closest pairs where there is a training set: by view, or of all views at once."""
    if by_view:
        groups = {view: [kinds] for view, kinds in features.items() if len(kinds) == len(SETS)}
    else:
        whole = all(len(kinds) == len(SETS) for kinds in features.values())
        groups = {"": list(features.values())} if whole else {}
    figures: tuple[Figure, ...] = ()
    notes = []
    for view, planes in groups.items():
        synthetic, real, training = (
            by_scan([kinds[kind] for kinds in planes]) for kind in ("synthetic", "real", "training")
        )
        near = memorised(synthetic, real, training)
        figures += copy_figures(near, synthetic.patients, view, config.method, config.seed)
        pairs = ", ".join(f"{a} and {b} ({d:.3g})" for a, b, d in near.closest())
        notes.append(
            f"{view} closest synthetic and training scans: {pairs}; 5 % of {len(real.scans)}"
            f" held-out scans are nearer to training than {near.limit:.3g}".strip()
        )
    return figures, notes


def _spacings(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning where the sets' voxels differ: their grids, not their content, may be compared."""
    medians = {
        kind: np.median([row["spacing_mm"] for row in files if row["set"] == kind], axis=0)
        for kind in ("real", "synthetic")
    }
    if np.allclose(medians["real"], medians["synthetic"], rtol=0.1):
        return []
    shown = " and ".join(
        f"{kind} {' x '.join(f'{mm:.3g}' for mm in median)} mm" for kind, median in medians.items()
    )
    return [f"median voxels differ ({shown}), which the distances measure too; resample first"]
