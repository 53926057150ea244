"""The results of a detection as text and JSON, the z-map as a file, and all of it as DICOM."""

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
from ...io.dicom.derived import Processing
from ...io.dicom.evidence import Finding, Findings, write_findings
from ...io.dicom.reader import DicomSource
from ...io.nifti_bytes import NiftiSource, save_new
from ...metrics.results import finite
from .components import Component, numbered
from .detection import Detection

MEANING = (
    "score: the highest mean |z| of a component, 0 if there is none. z: distance from what healthy"
    " training scans show in that tissue and place, scaled so that their RMS is 1 or less; below 0:"
    " darker than the surroundings. components: connected voxels above the threshold, and compact;"
    " what is long or flat, as vessels and the edges of organs are, is in the map alone. Bowel,"
    " implants and anything that few training scans show also score high: a place to look at, not a"
    " diagnosis."
)


def findings(found: Detection, about: Mapping[str, Any]) -> dict[str, Any]:
    """Everything about a detection but the map, for JSON. about: settings, weights, version, ..."""
    return {
        **about,
        "score": found.score,
        "threshold": found.limits.z,
        "compactness": found.limits.compactness,
        "components": [asdict(each) for each in found.components],
        "covered": [asdict(span) for span in found.covered],
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


def summary(found: Detection) -> str:
    """One line: the score, the number of components, and the highest of them."""
    count, limits = len(found.components), found.limits
    kind = "compact component" if limits.compactness else "component"
    many = f"{count or 'no'} {kind}{'s' if count > 1 else ''} above |z| {limits.z:g}"
    if not count:
        return f"score {found.score:.1f}, {many}"
    first = found.components[0]
    x, y, z = first.centre_mm
    return (
        f"score {found.score:.1f}, {many}; the highest: z {first.peak_z:.1f}, {first.volume_ml:.1f}"
        f" mL, {first.mean_hu:.0f} HU in {first.region} ({first.tissue}) at RAS {x:.0f} {y:.0f}"
        f" {z:.0f} mm"
    )


def write_map(z: Volume, path: Path, force: bool = False) -> None:
    """Write the map as float32 NIfTI, in the axes of the scan's own file if that was NIfTI."""
    values, affine = z.hu, z.affine
    if isinstance(z.source, NiftiSource):
        affine = affine @ inv_ornt_aff(z.source.ornt, values.shape)
        values = apply_orientation(values, z.source.ornt)
    save_new(values, affine, np.dtype("<f4"), path, force)


def write_dicom(
    found: Detection,
    path: Path,
    processing: Processing,
    force: bool = False,
    like: DicomSource | None = None,
) -> None:
    """Write the map, the components and their findings as DICOM, to a folder or a .zip.

    like: the series that they are about; None: that of the scan. `InputError` as in
    `io.dicom.evidence.findings.check`, or on failure.
    """
    components = [
        Finding(each.volume_ml, each.mean_z, each.peak_z, each.mean_hu, each.region, each.tissue)
        for each in found.components
    ]
    results = Findings(
        found.z,
        numbered(found.z, found.limits),
        components,
        [describe(each) for each in found.components],
        found.score,
    )
    write_findings(path, results, processing, force, like)


def describe(each: Component) -> str:
    """A component in words, in at most 64 characters."""
    return (
        f"z {each.peak_z:.1f}, {each.volume_ml:.2f} mL, {each.mean_hu:.0f} HU in {each.region}"
        f" ({each.tissue})"
    )[:64]


def check_json(path: Path, force: bool = False) -> None:
    """`InputError` where a report could not be written there; call this before computing."""
    check_writable(path, force, (".json",))


def write_json(content: Mapping[str, Any], path: Path, force: bool = False) -> None:
    """Write strict JSON, complete or not at all; `InputError` as in `check_json`, or on failure."""
    check_json(path, force)
    with user_output(path):
        write_file(path, json.dumps(finite(content), indent=1, allow_nan=False) + "\n")
