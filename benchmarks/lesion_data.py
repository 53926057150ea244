"""The tuning set of the bundled lesion control: real lesions, and planted ones.

    python benchmarks/lesion_data.py [SOURCE] [OUT]      (default: ../shared/ct .denovox/lesions)

OUT gets an index.json as SOURCE has one. Scans with lesion masks are in it as they are, and again
with planted lesions besides (`simulate/planted_lesions.py`), unless a tumour is most of the scan;
other fine scans of chest and abdomen with planted ones alone. Planted lesions are as dense as real
ones (`simulate/lesion_density.py`), but no disease.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from denovox.core.errors import InputError
from denovox.core.resample import interpolated
from denovox.core.volume import Volume
from denovox.datasets import label_sets, source_scans
from denovox.io import formats, label_maps, nifti
from denovox.scan import anatomy
from denovox.simulate import planted_lesions

REGIONS = ("chest", "abdomen", "torso")  # of the lesions; none is known in a head
LEFT_OUT = ("CCTH-A01",)  # its neck would be the only one, and drawn each third time
CROP = "_1mm-crop"  # ends the id of a finer crop of another scan, which has that one's masks
LARGE = 0.01  # of a scan: a crop around a tumour, without healthy organs for others

KINDS = (
    # -150 to 100 HU in a lung of -850, of a texture as in the cores of real nodules (21 to 37 HU).
    planted_lesions.Lesions(
        tissues=("lung",), contrast_hu=(700, 950), signs=(1,), number=3, texture=0.03
    ),
    # Darker than their surroundings, as most metastases are: told of both signs, a small network
    # learns their mean, which is no lesion at all (docs/explain/log.md).
    planted_lesions.Lesions(tissues=("liver",), contrast_hu=(20, 80), signs=(-1,), number=3),
    planted_lesions.Lesions(tissues=("muscle",), contrast_hu=(15, 60), signs=(-1,), number=3),
)


def planted(volume: Volume, real: np.ndarray, seed: int) -> tuple[Volume, np.ndarray, list]:
    """A scan with as many lesions of each kind as it has room for, their mask, and the facts."""
    labels = anatomy.coarse(volume)
    mask, facts = real.astype(np.uint8), []
    for number, kind in enumerate(KINDS):
        for count in range(kind.number, 0, -1):
            fewer = kind.model_copy(update={"number": count})
            try:
                volume, numbers, found = planted_lesions.plant(volume, labels, fewer, seed + number)
            except InputError:
                continue
            mask |= (numbers > 0).astype(np.uint8)
            facts += [asdict(fact) for fact in found]
            break
    return volume, mask, facts


def marked(entry: source_scans.Entry, volume: Volume) -> np.ndarray:
    """Where the masks of a scan mark lesions."""
    real = np.zeros(volume.shape, bool)
    for mask in entry.masks:
        real |= label_sets.lesion(label_maps.on_grid(mask.path, volume), mask.bridge)
    return real


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    table = {row["id"]: row for row in json.loads((source / "index.json").read_text())}
    entries = {entry.id: entry for entry in source_scans.indexed(source)}

    def add(row: dict, volume: Volume, lesions: np.ndarray, of: dict) -> None:
        name = of["id"]
        nifti.write(volume, out / f"{name}_ct.nii.gz", force=True)
        nifti.write_labels(lesions, volume.affine, out / f"{name}_lesion.nii.gz", force=True)
        for mask in entries[row["id"]].masks:
            if not (link := out / mask.path.name).is_symlink():
                link.symlink_to(os.path.relpath(mask.path, out))
        masks = {**row.get("masks", {}), f"{name}_lesion": {"1": "lesion"}}
        rows.append({**row, **of, "file": f"{name}_ct.nii.gz", "masks": masks})

    for seed, entry in enumerate(entries.values()):
        row = table[entry.id]
        if row["region"] not in REGIONS or row["patient"] in LEFT_OUT:
            continue
        volume = formats.read(entry.scan)
        real = marked(entry, volume)
        if entry.id.endswith(CROP):
            whole = entries[entry.id.removesuffix(CROP)]
            scan = formats.read(whole.scan)
            share = scan.with_hu(marked(whole, scan).astype(np.float32))
            real = interpolated(share, volume).hu > 0.5
        if real.any():
            add(row, volume, real.astype(np.uint8), {"id": entry.id})
            print(entry.id, "real,", int(real.sum()), "voxels", flush=True)
        if real.mean() > LARGE or entry.id.endswith(CROP):
            continue
        sick, mask, facts = planted(volume, real, 100 * seed)
        if facts:
            add(row, sick, mask, {"id": f"{entry.id}_planted", "planted": facts})
            print(entry.id, len(facts), "planted,", int(mask.sum()), "voxels", flush=True)
    (out / "index.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    given = [Path(each) for each in sys.argv[1:]]
    defaults = [Path("../shared/ct"), Path(".denovox/lesions")]
    main(*(given + defaults[len(given) :]))
