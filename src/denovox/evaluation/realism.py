"""`denovox evaluate` for sets that are no pairs: are made scans like real ones, and are they new?

Real, made and, for copies, training scans come as files; any method's can be judged.
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64

from .. import __version__
from ..core.config import Settings
from ..core.errors import InputError, ensure, line
from ..core.labels import OUTSIDE
from ..core.regions import REGIONS
from ..core.volume import Volume
from ..io.new_folder import check_folder
from ..metrics import medicalnet, slices25d, texture
from ..metrics.results import Figure, Results, write
from ..metrics.set_distance import Features, by_scan, memorised, scale_of, standardised
from ..scan import anatomy
from .inputs import Scan, scans_of, sha256
from .realism_figures import NOTES, REALISM, View, copy_figures, distance_figures

FOLDERS = {"real": "reference", "made": "test", "training": "training"}
Say = Callable[[str], None]
Seen = dict[str, Float64[np.ndarray, "_ _"]]  # view -> rows of features of one scan
Look = Callable[[Scan, Volume], Seen]
Sets = dict[str, dict[str, Features]]  # view -> set -> features


class RealismConfig(Settings):
    """network: whose features are compared, see `feature_network.load`. region: of all scans."""

    method: str = "denovox"
    seed: int = 0
    network: str | None = None
    region: str | None = None


def evaluate(
    name: str,
    data: Path,
    out: Path,
    config: RealismConfig,
    force: bool = False,
    say: Say = lambda text: None,
) -> Results:
    """Compare made scans with real ones and write `figures.json` and `figures.md` to `out`.

    data: a folder with reference/ (real), test/ (made) and maybe training/, each read as
    `scans_of` does; or a CSV with patient, set (real, made or training), scan and maybe region.
    `InputError` where a set has fewer than two scans, a real patient was trained on, or a scan or
    the network cannot be used.
    """
    ensure(name in REALISM, f"'{name}' is no protocol of realism; {', '.join(REALISM)} are")
    check_folder(out, force)
    ensure(name == "radiomic" or config.region is None, f"--region is of radiomic, not of {name}")
    sets = sets_of(data, config.region, say)
    look, network = _look(name, config, say)
    sha, files = _facts(sets)
    features = _features(sets, look, files, say)
    views, without = _views(features)
    ensure(views, f"no view has two real and two made scans ({'; '.join(without)}); give more")
    notes = [f"convention: {REALISM[name]}", *NOTES, *without]
    if name == "radiomic":
        notes += [_furthest(view) for view in views]
        features, views = _in_sds(features, views)
    average = "" if len(slices25d.PLANES) == len(views) and name == "fid25d-maisi" else None
    figures = distance_figures(views, config.method, config.seed, average)
    copies, told = _copies(name, features, config)
    settings = config.model_dump() | {kind: len(scans) for kind, scans in sets.items()}
    spread = _spacings(files)
    results = Results(
        name,
        str(data),
        figures + copies,
        settings,
        network,
        __version__,
        (*notes, *told, *spread, *sha),
        tuple(files),
    )
    write(results, out, force)
    return results


# -- scans ----------------------------------------------------------------------------------------


def sets_of(data: Path, region: str | None, say: Say) -> dict[str, list[Scan]]:
    """set -> its scans; `InputError` where real or made are fewer than two."""
    if data.is_dir():
        sets = {
            kind: scans_of(data / folder, region, say)
            for kind, folder in FOLDERS.items()
            if kind != "training" or (data / folder).is_dir()
        }
    else:
        sets = _of_csv(data, region)
    for kind in ("real", "made"):
        count = len(sets.get(kind, ()))
        ensure(count >= 2, f"{data} has {count} {kind} scans; a set needs two or more")
    return sets


def _of_csv(data: Path, region: str | None) -> dict[str, list[Scan]]:
    try:
        with data.open(newline="", encoding="utf-8-sig") as file:
            rows = list(csv.DictReader(file))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise InputError(f"{data} cannot be read as a CSV of sets ({line(error)})") from None
    sets: dict[str, list[Scan]] = {}
    for number, row in enumerate(rows, 2):
        where = f"{data}, line {number}"
        lacks = [name for name in ("patient", "set", "scan") if not row.get(name)]
        ensure(not lacks, f"{where}: no {' and no '.join(lacks)}")
        kind, own = row["set"], row.get("region") or region
        ensure(kind in FOLDERS, f"{where}: set '{kind}' is none of {', '.join(FOLDERS)}")
        own = None if own == "auto" else own
        told = f"{where}: region '{own}' is none of {', '.join(REGIONS)}"
        ensure(own is None or own in REGIONS, told)
        scans = sets.setdefault(kind, [])
        ensure(row["scan"] not in [scan.id for scan in scans], f"{where}: {row['scan']} is twice")
        scans.append(Scan(row["scan"], row["patient"], data.parent / row["scan"], own))
    return sets


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
    told = []
    for one, other in (("real", "made"), ("training", "made"), ("training", "real")):
        by_sha = {row["sha256"]: row["scan"] for row in rows if row["set"] == one}
        same = [row for row in rows if row["set"] == other and row["sha256"] in by_sha]
        ensure(
            not same or other == "made",
            f"{same[0]['scan'] if same else ''} is in training too, so it is not held out from it",
        )
        told += [f"{row['scan']} ({other}) is {by_sha[row['sha256']]} ({one})" for row in same]
    return told, rows


# -- features -------------------------------------------------------------------------------------


def _look(name: str, config: RealismConfig, say: Say) -> tuple[Look, str | None]:
    """What makes features of a scan, and the sha256 of the network that does."""
    if name == "radiomic":
        told = "radiomic needs no network; leave --weights out"
        ensure(config.network is None, told)
        from ..inference.model import region_spans_of

        def grain(scan: Scan, volume: Volume) -> Seen:
            coarse = anatomy.coarse(volume)
            found = {}
            for slab in region_spans_of(volume, coarse, scan.region, say):
                if slab.stop - slab.start < texture.LEAST:
                    say(f"{scan.id}: {slab.region} is {slab.stop - slab.start} slices, left out")
                    continue
                hu, inside = (a[:, :, slab.start : slab.stop] for a in (volume.hu, coarse))
                window = REGIONS[slab.region].window
                found[slab.region] = texture.texture(hu, window, inside != OUTSIDE)[None]
            return found

        return grain, None
    from ..metrics.feature_network import load

    network = load(config.network, 2 if name == "fid25d-maisi" else 3, name)
    if name == "fid25d-maisi":
        size = slices25d.SIZE
        return lambda scan, volume: slices25d.features(volume, network, size), network.sha256
    edge = medicalnet.SIZE
    return lambda _, scan: {"": network(medicalnet.prepare(scan, edge)[None])}, network.sha256


def _features(
    sets: Mapping[str, Sequence[Scan]], look: Look, files: Sequence[dict[str, Any]], say: Say
) -> Sets:
    """Read and look at every scan, one after the other; its file's row is told what was seen."""
    rows: dict[str, dict[str, list[tuple[Scan, Float64[np.ndarray, "_ _"]]]]] = {}
    every = [(kind, scan) for kind, scans in sets.items() for scan in scans]
    for number, ((kind, scan), facts) in enumerate(zip(every, files, strict=True), 1):
        say(f"{kind} {scan.id}: {number} of {len(every)}")
        volume = scan.read(say)
        try:
            seen = look(scan, volume)
        except InputError as error:
            raise InputError(f"{scan.path}: {error}") from None
        facts["shape"] = list(volume.shape)
        facts["spacing_mm"] = [round(mm, 4) for mm in volume.spacing_mm]
        facts["views"] = list(seen)
        for view, values in seen.items():
            rows.setdefault(view, {}).setdefault(kind, []).append((scan, values))
    return {
        view: {kind: _stacked(found) for kind, found in kinds.items()}
        for view, kinds in rows.items()
    }


def _stacked(found: Sequence[tuple[Scan, Float64[np.ndarray, "_ _"]]]) -> Features:
    counts = [len(values) for _, values in found]
    scans = [scan.id for (scan, _), n in zip(found, counts, strict=True) for _ in range(n)]
    patients = [scan.patient for (scan, _), n in zip(found, counts, strict=True) for _ in range(n)]
    return Features(np.concatenate([v for _, v in found]), tuple(scans), tuple(patients))


def _views(features: Sets) -> tuple[list[View], list[str]]:
    """What can be compared, and a sentence on each view that cannot."""
    views, without = [], []
    for name, kinds in features.items():
        counts = {
            kind: len(set(kinds[kind].scans)) if kind in kinds else 0 for kind in ("real", "made")
        }
        if min(counts.values()) < 2:
            of = " and ".join(f"{count} {kind}" for kind, count in counts.items())
            without.append(f"{name}: {of} scans, not compared")
            continue
        views.append(View(name, kinds["real"], kinds["made"]))
    return views, without


def _in_sds(features: Sets, views: Sequence[View]) -> tuple[Sets, list[View]]:
    """Every set of every view in SDs of its real set."""
    scaled = {
        view.name: {
            kind: Features(standardised(f.values, view.real.values), f.scans, f.patients)
            for kind, f in features[view.name].items()
        }
        for view in views
    }
    return scaled, [View(n, kinds["real"], kinds["made"]) for n, kinds in scaled.items()]


def _furthest(view: View, count: int = 3) -> str:
    """Which features' means differ most, in SDs of the real set."""
    means = standardised(view.made.values.mean(0)[None], view.real.values)[0]
    names = np.array(texture.NAMES)[scale_of(view.real.values) > 0]
    order = np.argsort(-np.abs(means), kind="stable")[:count]
    told = ", ".join(f"{names[i]} {means[i]:+.1f} SD" for i in order)
    same = ", ".join(sorted(set(texture.NAMES) - set(names)))
    return f"{view.name}, furthest from real: {told}" + (
        f"; left out, one value in all real scans: {same}" if same else ""
    )


# -- copies ---------------------------------------------------------------------------------------


def _copies(
    name: str, features: Sets, config: RealismConfig
) -> tuple[tuple[Figure, ...], list[str]]:
    """Figures and closest pairs where there is a training set: by region, or all planes at once."""
    if name == "radiomic":
        groups = {view: [kinds] for view, kinds in features.items() if len(kinds) == len(FOLDERS)}
    else:
        whole = all(len(kinds) == len(FOLDERS) for kinds in features.values())
        groups = {"": list(features.values())} if whole else {}
    figures: tuple[Figure, ...] = ()
    told = []
    for view, planes in groups.items():
        made, real, training = (
            by_scan([kinds[kind] for kinds in planes]) for kind in ("made", "real", "training")
        )
        found = memorised(made, real, training)
        figures += copy_figures(found, made.patients, view, config.method, config.seed)
        pairs = ", ".join(f"{a} and {b} ({d:.3g})" for a, b, d in found.closest())
        told.append(
            f"{view} closest made and training scans: {pairs}; 5 % of {len(real.scans)} held-out"
            f" scans are nearer to training than {found.limit:.3g}".strip()
        )
    return figures, told


def _spacings(files: Sequence[Mapping[str, Any]]) -> list[str]:
    """A warning where the sets' voxels differ: then their grids, not their looks, may be judged."""
    medians = {
        kind: np.median([row["spacing_mm"] for row in files if row["set"] == kind], axis=0)
        for kind in ("real", "made")
    }
    if np.allclose(medians["real"], medians["made"], rtol=0.1):
        return []
    shown = " and ".join(
        f"{kind} {' x '.join(f'{mm:.3g}' for mm in found)} mm" for kind, found in medians.items()
    )
    return [f"median voxels differ ({shown}): grids are compared with the scans; resample first"]
