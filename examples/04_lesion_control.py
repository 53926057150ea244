"""Lesions with their masks, for training a detector: put one in, and take it out again.

    python examples/04_lesion_control.py [OUT.nii.gz]

The lesion control is a small file beside the base; `denovox.load("lesion")` finds both. About a
minute on two cores.
"""

import sys

import numpy as np

import denovox
from denovox.simulate.phantom import add_noise, chest


def main(output: str = "", diameter_mm: float = 20.0) -> None:
    body = chest((72, 60, 48), 4.0)
    ct = add_noise(body.ct, 15.0, seed=0)
    model = denovox.load("lesion")
    print("trained on:", model.describe()["control"]["card"].get("text", "").strip())

    # Shape and place are drawn from the seed; brightness and texture are the model's.
    edited = model.add_lesions(
        ct,
        organ="lung",
        diameter_mm=diameter_mm,
        anatomy=body.labels,
        region="chest",
        options=denovox.RunOptions(seed=1),
    )
    lesion = edited.numbers > 0
    place = edited.placed[0]
    print(f"{place.volume_ml:.1f} ml at {np.round(place.centre_mm)} mm (RAS)")
    print(f"mean {ct.hu[lesion].mean():.0f} -> {edited.volume.hu[lesion].mean():.0f} HU")
    changed = edited.volume.hu != ct.hu
    print(f"{changed.sum()} voxels changed, {lesion.sum()} of them in the lesion")

    healthy = model.inpaint(edited.volume, changed, region="chest")
    print(f"taken out again: {healthy.hu[lesion].mean():.0f} HU")
    if output:
        denovox.write(edited.volume, output)


if __name__ == "__main__":
    main(*sys.argv[1:2])
