"""What a detection says, for people and programs; the z-map as a file."""

# mypy: allow-untyped-calls
# (nibabel's functions carry no types)

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
from nibabel.orientations import apply_orientation, inv_ornt_aff

from ...core.volume import Volume
from ...io.atomic import check_writable, user_output, write_file
from ...io.nifti_bytes import NiftiSource, save_new
from ...metrics.results import finite
from .detection import TOP_ML, Detection

MEANING = (
    f"score: mean of |z| over the highest {TOP_ML:g} mL of what was judged. z: distance from what"
    " healthy training scans show at that tissue and place, in units in which their RMS is 1; below"
    " 0: darker than the surroundings. Vessels' ends, bowel, implants and what few training scans"
    " show score high, too: a place to look at, no diagnosis."
)


def findings(found: Detection, threshold: float, told: Mapping[str, Any]) -> dict[str, Any]:
    """All of a detection but the map, ready for JSON. told: settings, weights, version, ..."""
    return {
        **told,
        "score": found.score,
        "threshold": threshold,
        "components": [asdict(each) for each in found.components],
        "judged": [asdict(slab) for slab in found.judged],
        "left_out": list(found.left_out),
        "calibrations": [
            {
                "region": each.region,
                "scans": each.scans,
                "litres": sum(each.millilitres) / 1000,
                "weights": each.weights,
                "method": each.method.model_dump(),
            }
            for each in found.calibrations
        ],
        "meaning": MEANING,
    }


def summary(found: Detection, threshold: float) -> str:
    """One line: the score, how many components, and the first of them."""
    count = len(found.components)
    many = f"{count} component{'' if count == 1 else 's'} above |z| {threshold:g}"
    if not count:
        return f"score {found.score:.1f}, no component above |z| {threshold:g}"
    first = found.components[0]
    x, y, z = first.centre_mm
    return (
        f"score {found.score:.1f}, {many}; the highest: z {first.peak_z:.1f}, {first.volume_ml:.1f}"
        f" mL, {first.mean_hu:.0f} HU in {first.region} ({first.tissue}) at RAS {x:.0f} {y:.0f}"
        f" {z:.0f} mm"
    )


def write_map(z: Volume, path: Path, force: bool = False) -> None:
    """The map as float32 NIfTI, in the axes of the scan's own file where that was NIfTI."""
    values, affine = z.hu, z.affine
    if isinstance(z.source, NiftiSource):
        affine = affine @ inv_ornt_aff(z.source.ornt, values.shape)
        values = apply_orientation(values, z.source.ornt)
    save_new(values, affine, np.dtype("<f4"), path, force)


def check_json(path: Path, force: bool = False) -> None:
    """`InputError` where a report could not be put there; to be asked before the computing."""
    check_writable(path, force, (".json",))


def write_json(told: Mapping[str, Any], path: Path, force: bool = False) -> None:
    """Strict JSON, whole or not at all; `InputError` as `check_json`, or where writing fails."""
    check_json(path, force)
    with user_output(path):
        write_file(path, json.dumps(finite(told), indent=1, allow_nan=False) + "\n")
