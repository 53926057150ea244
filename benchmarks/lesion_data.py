"""The tuning set of the bundled lesion control: real lesions, and planted ones in every scan.

    python benchmarks/lesion_data.py [SOURCE] [OUT]      (default: ../shared/ct .denovox/lesions)

OUT gets an index.json as SOURCE has one: every scan whose masks mark lesions as it is, and a copy
of every scan of a region with planted lesions (`simulate/planted_lesions.py`), which bear its real
ones too. Contrasts are of the kind that solid nodules and metastases have; planted lesions are no
disease.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np

from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.datasets import label_sets, source_scans
from denovox.io import formats, label_maps, nifti
from denovox.scan import anatomy
from denovox.simulate import planted_lesions

KINDS = (
    planted_lesions.Lesions(tissues=("lung",), contrast_hu=(400, 850), signs=(1,), number=4),
    # Darker than their surroundings, as most metastases are: told of both signs, a small network
    # learns their mean, which is no lesion at all (docs/explain/log.md).
    planted_lesions.Lesions(tissues=("liver",), contrast_hu=(30, 90), signs=(-1,), number=4),
    planted_lesions.Lesions(tissues=("muscle",), contrast_hu=(30, 90), signs=(-1,), number=4),
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


def main(source: Path, out: Path) -> None:
    out.mkdir(parents=True, exist_ok=True)
    rows = []
    table = {row["id"]: row for row in json.loads((source / "index.json").read_text())}
    for seed, entry in enumerate(source_scans.indexed(source)):
        row = table[entry.id]
        if row["region"] == "limb":
            continue
        volume = formats.read(entry.scan)
        real = np.zeros(volume.shape, bool)
        for mask in entry.masks:
            real |= label_sets.lesion(label_maps.on_grid(mask.path, volume), mask.bridge)
            link = out / mask.path.name
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(mask.path, out))
        if real.any():
            link = out / entry.scan.name
            if not link.is_symlink():
                link.symlink_to(os.path.relpath(entry.scan, out))
            rows.append(row)
        name = f"{entry.id}_planted"
        sick, mask, facts = planted(volume, real, 100 * seed)
        if not facts:
            continue
        nifti.write(sick, out / f"{name}_ct.nii.gz", force=True)
        nifti.write_labels(mask, volume.affine, out / f"{name}_lesion.nii.gz", force=True)
        of = {**row.get("masks", {}), f"{name}_lesion": {"1": "lesion"}}
        rows.append({**row, "id": name, "file": f"{name}_ct.nii.gz", "masks": of, "planted": facts})
        print(name, len(facts), "planted,", int(mask.sum()), "voxels", flush=True)
    (out / "index.json").write_text(json.dumps(rows, indent=1))


if __name__ == "__main__":
    given = [Path(each) for each in sys.argv[1:]]
    defaults = [Path("../shared/ct"), Path(".denovox/lesions")]
    main(*(given + defaults[len(given) :]))
