"""Regions along z of real scans: the share of slices that are right.

    python benchmarks/regions.py [folder of CTs]      # about 3 minutes

Right is the region of the truth, or within 2 cm of one of its borders. Whole scans; crops along z
of at least 60 mm, seeded; the same cropped in the plane to a box that holds parts of both lungs.
The coarse map is made anew for every crop, as it would be for such a file.

The truth was read, not computed: apex, dome of the diaphragm and deepest recess from organ masks
where there are any (CCTH-A01, TSexample), else from coronal sections. The border between abdomen
and chest is half way between dome and recess. The thresholds of `scan/body_regions.py` were
chosen with these scans, whole and in 70 mm windows, at hand, about eight settings compared: the
figures are not those of unseen patients. Where the dome lies above the scan (ACRIN-001's abdomen,
TSexample) the truth is the rule itself, lung at a tenth of the section.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path

import nibabel
import numpy as np

from denovox.core.volume import Volume
from denovox.scan.anatomy import coarse
from denovox.scan.body_regions import ORDER, RegionSpan, region_spans

NEAR_MM = 20.0
HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Truth:
    """Slice indices, inferior to superior: where the chest begins and where the neck begins.

    Beyond the scan where the border is: -1000, 1000.
    """

    chest: int
    neck: int


NONE_BELOW, NONE_ABOVE = -1000, 1000
TRUTH = {
    "abdomen_ACRIN-001": Truth(94, NONE_ABOVE),  # the dome lies above: where lung is a tenth
    "abdomen_CPTAC-PDA-00189_noisy": Truth(24, NONE_ABOVE),  # dome 32, recess 16
    "abdomen_CRLM-1006": Truth(32, NONE_ABOVE),  # dome 40, recess 24
    "abdomen_TSexample_sm": Truth(28, NONE_ABOVE),  # the dome lies above: where lung is a tenth
    "chest_4DLung-113": Truth(38, 94),  # dome 45, recess 31
    "chest_ACRIN-013": Truth(13, NONE_ABOVE),  # dome 20, recess 5
    "chest_LIDC-0314": Truth(19, 125),  # dome 31 (the left one stands high), recess 7
    "chest_LIDC-0314_1mm-crop": Truth(0, NONE_ABOVE),  # the same patient
    "chest_NSCLCRG-R01-001": Truth(30, 145),  # dome 44, recess 15
    "chest_NSCLCRG-R01-001_1mm-crop": Truth(4, NONE_ABOVE),  # the same patient
    "chest_RIDER-0117": Truth(NONE_BELOW, NONE_ABOVE),  # dome 38, no recess in the scan
    "chest_TSaorta": Truth(27, NONE_ABOVE),  # dome 49, recess about 5
    "headneck_ACRIN-001_defaced": Truth(NONE_BELOW, 23),
    "torso_CCTH-A01": Truth(178, 242),  # liver to 188, lung from 168 to 241
    "torso_TSexample": Truth(110, NONE_ABOVE),  # the dome lies above: where lung is a tenth
}


def read(path: Path) -> Volume:
    """A scan as an array in RAS."""
    image = nibabel.as_closest_canonical(nibabel.load(path))
    return Volume(np.asarray(image.dataobj, np.float32), image.affine)


def right(slabs: tuple[RegionSpan, ...], truth: Truth, first: int, z_mm: float) -> np.ndarray:
    """Per slice; first: the index in the whole scan of the crop's first slice."""
    found = np.concatenate([np.full(s.stop - s.start, ORDER.index(s.region)) for s in slabs])
    at = first + np.arange(len(found))
    true = (at >= truth.chest).astype(int) + (at >= truth.neck)
    # The distance of a slice's centre from the border, which lies between two slices.
    near = [np.abs(at + 0.5 - border) * z_mm <= NEAR_MM for border in (truth.chest, truth.neck)]
    # A border's neighbourhood excuses its own two regions, not the third.
    below, above = near[0] & (found <= 1), near[1] & (found >= 1)
    return (found == true) | below | above


def crops(
    volume: Volume, count: int, in_plane: bool, rng: np.random.Generator
) -> list[tuple[Volume, int]]:
    """Random parts along z, each with the index of its first slice."""
    x, y, n = volume.shape
    least = min(n, int(np.ceil(60 / volume.spacing_mm[2])))
    out = []
    for _ in range(count):
        size = int(rng.integers(least, n + 1))
        first = int(rng.integers(0, n - size + 1))
        box = [slice(0, x), slice(0, y)]
        if in_plane:
            for axis, (length, mm) in enumerate(zip((x, y), volume.spacing_mm, strict=False)):
                side = min(length, round(rng.uniform(180, 240) / mm))
                start = (length - side) // 2 + round(rng.uniform(-40, 40) / mm)
                start = int(np.clip(start, 0, length - side))
                box[axis] = slice(start, start + side)
        part = volume.hu[box[0], box[1], first : first + size]
        out.append((Volume(np.ascontiguousarray(part), volume.affine), first))
    return out


def shares(volume: Volume, truth: Truth, count: int, seed: int) -> dict[str, list[np.ndarray]]:
    """Per slice right or not: the whole scan; crops along z; crops in the plane, too."""
    rng = np.random.default_rng(seed)
    out = {}
    for name, parts in (
        ("whole", [(volume, 0)]),
        ("along z", crops(volume, count, False, rng)),
        ("in plane", crops(volume, count, True, rng)),
    ):
        out[name] = [
            right(region_spans(part, coarse(part)), truth, first, volume.spacing_mm[2])
            for part, first in parts
        ]
    return out


def main() -> None:
    """The table, a line a scan."""
    folder = Path(sys.argv[1] if len(sys.argv) > 1 else HERE / "../../shared/ct")
    kinds = ("whole", "along z", "in plane")
    total: dict[str, list[np.ndarray]] = {kind: [] for kind in kinds}
    print(f"{'scan':32}{''.join(f'{kind:>10}' for kind in kinds)}")
    for seed, (name, truth) in enumerate(TRUTH.items()):
        found = shares(read(folder / f"{name}_ct.nii.gz"), truth, 8, seed)
        print(f"{name:32}{''.join(f'{np.concatenate(found[k]).mean():10.1%}' for k in kinds)}")
        for kind in kinds:
            total[kind] += found[kind]
    print(f"{'all slices':32}{''.join(f'{np.concatenate(total[k]).mean():10.1%}' for k in kinds)}")
    means = [np.mean([part.mean() for part in total[kind]]) for kind in kinds]
    print(f"{'mean of scans or crops':32}{''.join(f'{mean:10.1%}' for mean in means)}")


if __name__ == "__main__":
    main()
