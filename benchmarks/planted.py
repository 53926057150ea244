"""Planted lesions in two patients the model never saw: voxel and scan AUROC, and the sigma* sweep.

    python benchmarks/planted.py --quick       # few boxes, one setting: does it run?
    python benchmarks/planted.py               # the published run: the chosen setting, baselines
    python benchmarks/planted.py --sweep       # sigma*, anatomy told or withheld, sampling

A "scan" is the part of one organ (liver, lung, muscle; found in the healthy scan, as an organ
mask would be) that lies in a box of 60 x 60 x 72 mm: once as it is, once with one planted lesion
in it. --whole-box looks at everything in the box, bone and bowel included. Every method's map is
signed, smoothed, z-scored by a calibration on boxes of the training patients (never the two), and
scored in the same way. Intervals: a bootstrap over boxes, which says nothing of other patients:
there are two.
"""

from __future__ import annotations

import argparse
import datetime
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from denoising import circumstances, weights_file
from scipy import ndimage
from scipy.stats import rankdata

import denovox
from denovox.app.api import Model, Running
from denovox.app.detection import Residual, residual, scan_score, scored, shown
from denovox.core.box import Box
from denovox.core.labels import ID, OUTSIDE
from denovox.core.regions import region
from denovox.core.volume import Volume
from denovox.data import anatomy, nifti
from denovox.data.calibration import Method, empty, merge
from denovox.data.lesions import Fact, Lesions, healthy, plant

HERE = Path(__file__).resolve().parent
SIDE, HEIGHT_MM = 40, 72.0  # voxels and mm of the region of interest; context comes around it
BASES_MM, BASES_EDGE, BASES = 4.0, 12, 64  # PCA: patches of 48 mm, 64 components


@dataclass(frozen=True)
class Group:
    """A region: the patient to test, those to calibrate on, and the tissues planted into."""

    region: str
    test: str
    training: tuple[str, ...]
    tissues: tuple[str, ...]


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


@dataclass(frozen=True)
class Case:
    """A box of a scan; `number` is its lesion's in `lesion`, None: healthy."""

    volume: Volume
    coarse: np.ndarray
    roi: np.ndarray
    lesion: np.ndarray | None
    fact: Fact | None


Map = Callable[[Case, str], Residual]


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
            sick, numbers, facts = plant(inner, organ, Lesions(tissues=(tissue,)), seed)
        except denovox.InputError:
            continue
        hu, lesion = volume.hu.copy(), np.zeros(volume.shape, bool)
        hu[box], lesion[box] = sick.hu, numbers > 0
        planted = volume.with_hu(hu)
        yield (
            Case(volume, coarse, roi, None, None),
            Case(planted, anatomy.coarse(planted), roi, lesion, facts[0]),
        )


# -- methods: each gives a signed residual in HU, smoothed, and what it takes for healthy


def ours(model: Model, method: Method) -> Map:
    return lambda case, name: residual(
        model, case.volume, case.coarse, name, case.roi, method, Running()
    )


def local_mean(reach_mm: float, smooth_mm: float) -> Map:
    """HU - local mean of the organ, within the window."""

    def run(case: Case, name: str) -> Residual:
        unit, box = cut(case, name)
        mm = case.volume.spacing_mm
        body = case.roi[box.slices].astype(np.float32)
        steps = [reach_mm / each for each in mm]
        weight = ndimage.gaussian_filter(body, steps, mode="nearest")
        mean = ndimage.gaussian_filter(unit * body, steps, mode="nearest") / (weight + 1e-6)
        return finished(unit, mean, case, name, box, smooth_mm)

    return run


def pca(basis: tuple[np.ndarray, np.ndarray], smooth_mm: float) -> Map:
    """HU - its projection on principal components of healthy patches, averaged over overlaps."""
    mean, vectors = basis

    def run(case: Case, name: str) -> Residual:
        unit, box = cut(case, name)
        factors = [mm / BASES_MM for mm in case.volume.spacing_mm]
        small = ndimage.zoom(
            ndimage.gaussian_filter(unit, [max(0, 0.5 / f - 0.5) for f in factors]),
            factors,
            order=1,
            grid_mode=True,
            mode="nearest",
        )
        pads = [(0, max(0, BASES_EDGE - n)) for n in small.shape]
        padded = np.pad(small, pads, mode="edge")
        out, weight = np.zeros_like(padded), np.zeros_like(padded)
        for at in corners(padded.shape, 4):
            here = tuple(slice(a, a + BASES_EDGE) for a in at)
            patch = padded[here].ravel() - mean
            back = mean + vectors @ (vectors.T @ patch)
            out[here] += back.reshape((BASES_EDGE,) * 3)
            weight[here] += 1
        back = (out / weight)[tuple(slice(0, n) for n in small.shape)]
        zoom = [n / m for n, m in zip(unit.shape, back.shape, strict=True)]
        healthy_ = ndimage.zoom(back, zoom, order=1, grid_mode=True, mode="nearest")
        fine = ndimage.zoom(small, zoom, order=1, grid_mode=True, mode="nearest")
        # The residual lives on the coarse grid: what 4 mm cannot show is no finding.
        return finished(fine, healthy_, case, name, box, smooth_mm)

    return run


def corners(shape: tuple[int, ...], step: int) -> Iterator[tuple[int, ...]]:
    axes = [sorted({*range(0, n - BASES_EDGE, step), n - BASES_EDGE}) for n in shape]
    return ((int(x), int(y), int(z)) for x in axes[0] for y in axes[1] for z in axes[2])


def bases(data: Path, group: Group, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and principal components of patches of the training patients."""
    rng, found = np.random.default_rng(5), []
    window = region(group.region).window
    for file in group.training:
        volume = nifti.read(data / f"{file}_ct.nii.gz")
        unit = np.clip(window.unit(volume.hu), -1, 1).astype(np.float32)
        factors = [mm / BASES_MM for mm in volume.spacing_mm]
        small = ndimage.zoom(
            ndimage.gaussian_filter(unit, [max(0, 0.5 / f - 0.5) for f in factors]),
            factors,
            order=1,
            grid_mode=True,
            mode="nearest",
        )
        inside = np.argwhere(small > -0.9)
        for at in inside[rng.integers(len(inside), size=count)]:
            first = np.clip(at - BASES_EDGE // 2, 0, np.array(small.shape) - BASES_EDGE)
            if (np.array(small.shape) < BASES_EDGE).any():
                continue
            found.append(small[tuple(slice(a, a + BASES_EDGE) for a in first)].ravel())
    patches = np.array(found)
    mean = patches.mean(0)
    _, vectors = np.linalg.eigh(np.cov((patches - mean).T))
    return mean, vectors[:, ::-1][:, :BASES].astype(np.float32)


def cut(case: Case, name: str) -> tuple[np.ndarray, Box]:
    from denovox.app.detection import _around

    box = _around(case.roi, case.volume.spacing_mm)
    return np.clip(region(name).window.unit(case.volume.hu[box.slices]), -1, 1), box


def finished(
    unit: np.ndarray, back: np.ndarray, case: Case, name: str, box: Box, smooth_mm: float
) -> Residual:
    window = region(name).window
    steps = [smooth_mm / mm for mm in case.volume.spacing_mm]
    left = (unit - back) * case.roi[box.slices] * window.width_hu / 2  # as ours: 0 outside
    left = ndimage.gaussian_filter(left, steps, mode="nearest")
    estimate = Volume(window.hu(back).astype(np.float32), case.volume.affine)
    return Residual(left.astype(np.float32), estimate, box)


# -- figures


@dataclass
class Figures:
    voxel: list[float]
    healthy: list[float]
    sick: list[float]
    facts: list[Fact]
    seconds: float = 0.0


def auroc(healthy_: np.ndarray, sick: np.ndarray) -> float:
    ranks = rankdata(np.concatenate([healthy_, sick]))[len(healthy_) :]
    return float((ranks.sum() - len(sick) * (len(sick) + 1) / 2) / len(sick) / len(healthy_))


def measure(run: Map, calibrating: list[Case], testing: list[tuple[Case, Case]], name: str):
    """z-score and raw figures of one method in one region."""
    like, start = empty(name, Method()), time.perf_counter()
    made = [shown(run(case, name), case.coarse, case.roi, like) for case in calibrating]
    calibration = merge(made)
    both = {"z": Figures([], [], [], []), "raw": Figures([], [], [], [])}
    for pair in testing:
        for case in pair:
            seen = run(case, name)
            inside = case.roi[seen.box.slices] & (case.coarse[seen.box.slices] != OUTSIDE)
            maps = {"z": scored(seen, case.coarse, calibration), "raw": seen.hu}
            for kind, values in maps.items():
                into = both[kind]
                value = np.abs(values) * inside
                score = scan_score(value.astype(np.float32), case.volume.spacing_mm)
                if case.lesion is None:
                    into.healthy.append(score)
                    continue
                lesion = case.lesion[seen.box.slices]
                into.sick.append(score)
                into.voxel.append(auroc(value[inside & ~lesion], value[inside & lesion]))
                into.facts.append(case.fact)
    for into in both.values():
        into.seconds = (time.perf_counter() - start) / (len(calibrating) + 2 * len(testing))
    return both


def line(name: str, what: str, found: list[Figures]) -> str:
    """Voxel AUROC (mean over lesions) and scan AUROC within regions, averaged; 95 % intervals."""

    def figures(picks: list[np.ndarray]) -> tuple[float, float, float]:
        voxel = [np.array(f.voxel)[p].mean() for f, p in zip(found, picks, strict=True)]
        scan = [
            auroc(np.array(f.healthy)[p], np.array(f.sick)[p])
            for f, p in zip(found, picks, strict=True)
        ]
        both = list(zip(found, picks, strict=True))
        won = [(np.array(f.sick) > np.array(f.healthy))[p].mean() for f, p in both]
        return float(np.mean(voxel)), float(np.mean(scan)), float(np.mean(won))

    rng = np.random.default_rng(0)
    whole = figures([np.arange(len(f.voxel)) for f in found])
    draws = [
        figures([rng.integers(len(f.voxel), size=len(f.voxel)) for f in found]) for _ in range(500)
    ]
    low, high = np.percentile(draws, [2.5, 97.5], 0)
    cells = [f"{v:.3f} ({a:.3f}-{b:.3f})" for v, a, b in zip(whole, low, high, strict=True)]
    seconds = np.mean([f.seconds for f in found])
    count = sum(len(f.voxel) for f in found)
    return f"| {name} | {what} | {count} | " + " | ".join(cells) + f" | {seconds:.2f} |"


HEAD = """| method | map | lesions | voxel AUROC | scan AUROC | above its own box | s/box |
|---|---|---:|---|---|---|---:|"""

SWEEP = [
    *(Method(sigma_star=s, seeds=2) for s in (0.2, 0.5, 1, 2)),
    *(Method(sigma_star=s, seeds=2, anatomy=True) for s in (0.5, 1)),
    *(Method(sigma_star=s, seeds=2, steps=5) for s in (0.5, 1)),
]
CHOSEN = [Method(sigma_star=1.0, seeds=2)]


def shown_as(method: Method) -> str:
    way = "mean" if method.steps == 1 else f"DDIM {method.steps}"
    told = "told" if method.anatomy else "withheld"
    return f"ours, sigma* {method.sigma_star:g}, {way}, {method.seeds} seed(s), anatomy {told}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "ct")
    parser.add_argument("--weights", type=Path)
    parser.add_argument("--out", type=Path, help="default: results/<date>-planted.md")
    parser.add_argument("--boxes", type=int, help="of each test patient")
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--whole-box", action="store_true")
    parser.add_argument("--no-ours", action="store_true")
    args = parser.parse_args()
    count = args.boxes or (4 if args.quick else 10 if args.sweep else 12)
    model = denovox.load(args.weights) if args.weights else denovox.load()
    smooth = Method().smooth_mm
    methods = (
        {}
        if args.no_ours
        else {shown_as(m): [ours(model, m)] * 2 for m in (SWEEP if args.sweep else CHOSEN)}
    )
    for reach in (8, 15):
        methods[f"HU - local mean ({reach} mm)"] = [local_mean(reach, smooth)] * 2
    methods["PCA"] = [pca(bases(args.data, g, 400), smooth) for g in GROUPS]
    header = circumstances(weights_file(args.weights))
    print(f"{header}\n\n{HEAD}", flush=True)
    calibrating, testing = [], []
    for group in GROUPS:
        own = []
        for file in group.training:
            volume = nifti.read(args.data / f"{file}_ct.nii.gz")
            coarse = anatomy.coarse(volume)
            sites = boxes(volume, coarse, group.tissues, 4, 2, args.whole_box)
            own += [Case(volume, coarse, roi, None, None) for _, roi in sites]
        calibrating.append(own)
        testing.append(list(cases(args.data, group, count, args.whole_box)))
    lines = []
    for name, maps in methods.items():
        found = [
            measure(run, own, pairs, group.region)
            for run, own, pairs, group in zip(maps, calibrating, testing, GROUPS, strict=True)
        ]
        for kind in ("z", "raw"):
            lines.append(line(name, kind, [each[kind] for each in found]))
            print(lines[-1], flush=True)
            if not args.quick:
                for group, each in zip(GROUPS, found, strict=True):
                    print("   ", line(group.region, kind, [each[kind]]), flush=True)
    name = f"{datetime.date.today().isoformat()}-planted{'-sweep' if args.sweep else ''}.md"
    out = args.out or HERE / "results" / name
    doc = (__doc__ or "").split("\n\n")[-1]
    out.write_text(f"# Planted lesions\n\n{header}\n\n{doc}\n{HEAD}\n" + "\n".join(lines) + "\n")
    print(f"\nwritten to {out}")


if __name__ == "__main__":
    main()
