"""Planted lesions in two patients the model never saw: voxel and scan AUROC against baselines.

    python benchmarks/planted.py --quick       # few boxes: does it run?
    python benchmarks/planted.py               # the published run, on the validation patients
    python benchmarks/planted.py --tune        # where settings were chosen: on training patients

A "scan" is the part of one organ (liver, lung, muscle; found in the healthy scan, as an organ
mask would be) that lies in a box of 60 x 60 x 72 mm: once as it is, once with one planted lesion
in it. --whole-box looks at everything in the box, bone and bowel included. Every method's map is
signed, smoothed, z-scored by a calibration on boxes of the training patients (never the one that
is tested; --tune leaves each of them out in turn), and scored in the same way; "raw" is the map
before its calibration. Parts of ours alone show what the model adds. Intervals: a bootstrap over
boxes, the same draws for every method, which says nothing of other patients: there are two.
"""

from __future__ import annotations

import argparse
import datetime
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from denoising import circumstances, weights_file
from planted_rivals import Case, Group, Map, alone, bases, local_mean, pca

import denovox
from denovox.core.labels import ID, OUTSIDE
from denovox.core.volume import Volume
from denovox.inference.anomaly.calibration import Method, empty, merge
from denovox.inference.anomaly.detection import scan_score
from denovox.inference.anomaly.maps import Evidence, evidence, scored, shown
from denovox.inference.model import (
    Model,
)
from denovox.inference.options import RunOptions
from denovox.io import nifti
from denovox.metrics.detection import auroc
from denovox.scan import anatomy
from denovox.simulate.planted_lesions import Lesions, healthy, plant

HERE = Path(__file__).resolve().parent
SIDE, HEIGHT_MM = 40, 72.0  # voxels and mm of the region of interest; context comes around it


GROUPS = (
    Group(
        "abdomen",
        "abdomen_CRLM-1006",
        ("abdomen_ACRIN-001", "abdomen_CPTAC-PDA-00189_noisy", "abdomen_TSexample_sm"),
        ("liver", "muscle"),
    ),
    Group(
        "chest",
        "chest_ACRIN-013",
        ("chest_LIDC-0314", "chest_NSCLCRG-R01-001", "chest_4DLung-113"),
        ("lung", "muscle"),
    ),
)


def boxes(
    volume: Volume,
    coarse: np.ndarray,
    tissues: tuple[str, ...],
    count: int,
    seed: int,
    whole: bool,
):
    """Regions of interest around healthy sites: centre voxel off the site by a third of a side."""
    rng = np.random.default_rng([seed, 77])
    half = np.array([SIDE // 2, SIDE // 2, round(HEIGHT_MM / volume.spacing_mm[2] / 2)])
    organs = {tissue: healthy(volume, coarse, tissue) for tissue in tissues}
    places = {tissue: np.argwhere(organ) for tissue, organ in organs.items()}
    for number in range(count):
        tissue = tissues[number % len(tissues)]
        if not len(places[tissue]):
            continue
        at = places[tissue][rng.integers(len(places[tissue]))] + rng.integers(-half // 3, half // 3)
        first = np.clip(at - half, 0, np.maximum(np.array(volume.shape) - 2 * half, 0))
        roi = np.zeros(volume.shape, bool)
        roi[tuple(slice(a, a + 2 * h) for a, h in zip(first, half, strict=True))] = True
        if (roi & organs[tissue]).sum() * np.prod(volume.spacing_mm) < 20_000:
            continue  # less than 20 mL of the organ
        yield tissue, roi if whole else roi & organs[tissue]


def cases(data: Path, group: Group, count: int, whole: bool) -> Iterator[tuple[Case, Case]]:
    """Pairs of the test patient: a box as it is, and the same with one lesion."""
    volume = nifti.read(data / f"{group.test}_ct.nii.gz")
    coarse = anatomy.coarse(volume)
    for seed, (tissue, roi) in enumerate(boxes(volume, coarse, group.tissues, count, 1, whole)):
        at = [np.flatnonzero(roi.any(tuple(a for a in range(3) if a != axis))) for axis in range(3)]
        box = tuple(slice(int(i[0]), int(i[-1]) + 1) for i in at)
        inner = Volume(volume.hu[box], volume.affine)
        organ = np.where(roi[box], np.uint8(ID[tissue]), np.uint8(OUTSIDE))
        try:
            sick, numbers, _ = plant(inner, organ, Lesions(tissues=(tissue,)), seed)
        except denovox.InputError:
            continue
        hu, lesion = volume.hu.copy(), np.zeros(volume.shape, bool)
        hu[box], lesion[box] = sick.hu, numbers > 0
        planted = volume.with_hu(hu)
        yield (
            Case(volume, coarse, roi, None),
            Case(planted, anatomy.coarse(planted), roi, lesion),
        )


# -- methods: each gives signed maps in HU, smoothed, and what it takes for healthy; ours here


def ours(model: Model, method: Method) -> tuple[Map, Map, Map]:
    """Both maps; the contrast alone; the residual alone."""
    made: dict[int, Evidence] = {}

    def both(case: Case, name: str) -> Evidence:
        if id(case) not in made:
            made[id(case)] = evidence(
                model, case.volume, case.coarse, name, case.roi, method, RunOptions()
            )
        return made[id(case)]

    def only(part: int) -> Map:
        def run(case: Case, name: str) -> Evidence:
            seen = both(case, name)
            return Evidence(alone(seen.maps_hu[..., part]), seen.estimate, seen.box)

        return run

    return both, only(0), only(1)


# -- figures


@dataclass
class Figures:
    """Of one method on one patient: voxel AUROC of each lesion, scores of both of each pair."""

    voxel: list[float] = field(default_factory=list)
    healthy: list[float] = field(default_factory=list)
    sick: list[float] = field(default_factory=list)

    def of(self, pick: np.ndarray) -> tuple[float, float]:
        """Mean voxel AUROC, and scan AUROC, of some pairs."""
        healthy_, sick = np.array(self.healthy)[pick], np.array(self.sick)[pick]
        is_sick = np.repeat([False, True], len(pick))
        scan = auroc(is_sick, np.concatenate([healthy_, sick]))
        return float(np.array(self.voxel)[pick].mean()), scan


def measure(
    run: Map, calibrating: list[Case], testing: list[tuple[Case, Case]], name: str
) -> dict[str, Figures]:
    """Figures of the z-score, and of the first map as it is."""
    like = empty(name, Method())
    calibration = merge([shown(run(c, name), c.coarse, c.roi, like) for c in calibrating])
    both = {"z": Figures(), "raw": Figures()}
    for pair in testing:
        for case in pair:
            seen = run(case, name)
            inside = case.roi[seen.box.slices] & (case.coarse[seen.box.slices] != OUTSIDE)
            maps = {"z": scored(seen, case.coarse, calibration), "raw": seen.maps_hu[..., 0]}
            for kind, values in maps.items():
                value = np.abs(values * inside)
                score = scan_score(value, case.volume.spacing_mm)
                if case.lesion is None:
                    both[kind].healthy.append(score)
                    continue
                both[kind].sick.append(score)
                sick = case.lesion[seen.box.slices][inside]
                both[kind].voxel.append(auroc(sick, value[inside]))
    return both


def drawn(found: list[Figures], draws: int = 500) -> np.ndarray:
    """(voxel, scan) AUROC, averaged over patients: of all pairs first, then of each draw."""
    rng = np.random.default_rng(0)
    picks = [[np.arange(len(f.voxel)) for f in found]]
    picks += [[rng.integers(len(f.voxel), size=len(f.voxel)) for f in found] for _ in range(draws)]
    return np.array(
        [np.mean([f.of(p) for f, p in zip(found, pick, strict=True)], 0) for pick in picks]
    )


def line(name: str, what: str, count: int, values: np.ndarray) -> str:
    low, high = np.percentile(values[1:], [2.5, 97.5], 0)
    rows = zip(values[0], low, high, strict=True)
    cells = [f"{v:.3f} ({a:.3f} to {b:.3f})" for v, a, b in rows]
    return f"| {name} | {what} | {count} | " + " | ".join(cells) + " |"


HEAD = """| method | map | lesions | voxel AUROC | scan AUROC |
|---|---|---:|---|---|"""


def left_out() -> tuple[Group, ...]:
    """Each training patient in turn, calibrated on the others of its region."""
    return tuple(
        Group(g.region, one, tuple(other for other in g.training if other != one), g.tissues)
        for g in GROUPS
        for one in g.training
    )


def methods(model: Model, args: argparse.Namespace, groups: tuple[Group, ...]):
    """Name -> one map a group."""
    sigmas = args.sigma or [Method().sigma_star]
    found: dict[str, list[Map]] = {}
    for sigma in sigmas:
        both, contrast, residual = ours(model, Method(sigma_star=sigma))
        found[f"ours, sigma* {sigma:g}"] = [both] * len(groups)
        found[f"its residual alone, sigma* {sigma:g}"] = [residual] * len(groups)
    found["its contrast alone"] = [contrast] * len(groups)
    smooth = Method().smooth_mm
    for reach in (8, 15, 25):
        found[f"HU - local mean ({reach} mm)"] = [local_mean(reach, smooth)] * len(groups)
    found["PCA"] = [pca(bases(args.data, g, 400), smooth) for g in groups]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "ct")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, help="default: results/<date>-planted.md")
    parser.add_argument("--boxes", type=int, help="of each test patient")
    parser.add_argument("--sigma", type=float, nargs="*", help="sigma* of ours")
    for flag in ("--tune", "--quick", "--whole-box"):
        parser.add_argument(flag, action="store_true")
    args = parser.parse_args()
    count = args.boxes or (4 if args.quick else 8 if args.tune else 12)
    groups = left_out() if args.tune else GROUPS
    model = denovox.load(args.weights) if args.weights else denovox.load()
    header = circumstances(weights_file(args.weights))
    print(f"{header}\n\n{HEAD}", flush=True)
    calibrating, testing = [], []
    for group in groups:
        own = []
        for file in group.training:
            volume = nifti.read(args.data / f"{file}_ct.nii.gz")
            coarse = anatomy.coarse(volume)
            sites = boxes(volume, coarse, group.tissues, 4, 2, args.whole_box)
            own += [Case(volume, coarse, roi, None) for _, roi in sites]
        calibrating.append(own)
        testing.append(list(cases(args.data, group, count, args.whole_box)))
    lines, everything = [], {}
    for name, maps in methods(model, args, groups).items():
        found = [
            measure(run, own, pairs, group.region)
            for run, own, pairs, group in zip(maps, calibrating, testing, groups, strict=True)
        ]
        for kind in ("z", "raw") if "ours" not in name else ("z",):
            rows = {"": [each[kind] for each in found]}
            for one in GROUPS:
                pick = [g.region == one.region for g in groups]
                rows[f", {one.region}"] = [f for f, p in zip(rows[""], pick, strict=True) if p]
            for where, row in rows.items():
                values = drawn(row)
                everything[name, kind, where] = values
                lines.append(line(name, kind + where, sum(len(f.voxel) for f in row), values))
                print(lines[-1], flush=True)
    first = next(iter(everything))[0]
    rivals = [key for key in everything if key[0].startswith(("HU", "PCA")) and key[2] == ""]
    for axis, figure in enumerate(("voxel", "scan")):
        best = max(rivals, key=lambda key: everything[key][0, axis])
        ahead = everything[first, "z", ""] - everything[best]
        lines.append(line(f"{first}, less {best[0]} (best by {figure})", best[1], "", ahead))
        print(lines[-1], flush=True)
    what = "".join(f"-{flag}" for flag in ("tune", "quick") if getattr(args, flag))
    out = args.out or HERE / "results" / f"{datetime.date.today().isoformat()}-planted{what}.md"
    doc = (__doc__ or "").split("\n\n")[-1]
    out.write_text(f"# Planted lesions\n\n{header}\n\n{doc}\n{HEAD}\n" + "\n".join(lines) + "\n")
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
