"""DICOM made by pydicom for the tests: series of CT slices, and Enhanced CT. No voxel of a patient.

Everything is said in the file's terms (LPS, rows and columns), so that nothing of the reader is
used to test it.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from pydicom.dataset import Dataset, FileDataset, FileMetaDataset
from pydicom.sequence import Sequence as Items
from pydicom.uid import CTImageStorage, EnhancedCTImageStorage, ExplicitVRLittleEndian

from denovox.core.errors import InputError

ROOT = "1.2.826.0.1.3680043.8.498"
SERIES = f"{ROOT}.1"
UPRIGHT = ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0))
ENHANCED = str(EnhancedCTImageStorage)


def phantom(shape: tuple[int, int, int] = (7, 6, 5), seed: int = 0) -> np.ndarray:
    """HU of random tissue and air: columns, rows, slices; int16."""
    values = np.random.default_rng(seed).integers(-1000, 1000, shape).astype(np.int16)
    values.flat[::7] = -1000
    return values


def image(
    stored: np.ndarray,
    place: Sequence[float] = (0, 0, 0),
    directions: Sequence[Sequence[float]] = UPRIGHT,
    spacing: tuple[float, float] = (0.7, 0.9),
    tags: Mapping[str, Any] | None = None,
) -> FileDataset:
    """One CT slice. stored: columns, rows. spacing: between columns, between rows, mm.

    HU = stored - 1024 unless `tags` say otherwise; any tag of None is left out.
    """
    number = zlib.crc32(np.asarray(place, float).tobytes())  # not hash(): it is salted
    columns, rows = stored.shape
    said = {
        "SOPClassUID": str(CTImageStorage),
        "SOPInstanceUID": f"{ROOT}.9.{number}",
        "SeriesInstanceUID": SERIES,
        "StudyInstanceUID": f"{ROOT}.2",
        "FrameOfReferenceUID": f"{ROOT}.3",
        "Modality": "CT",
        "PatientID": "P7",
        "PatientName": "Doe^Jane",
        "SeriesDescription": "Thorax",
        "Manufacturer": "Maker",
        "ConvolutionKernel": "B30f",
        "KVP": 120,
        "SliceThickness": 2,
        "ImageType": ["ORIGINAL", "PRIMARY", "AXIAL"],
        "InstanceNumber": 1,
        "ImagePositionPatient": [f"{mm:.10g}"[:16] for mm in place],
        "ImageOrientationPatient": [
            f"{v:.12f}"[:16] for direction in directions for v in direction
        ],
        "PixelSpacing": [spacing[1], spacing[0]],
        "Rows": rows,
        "Columns": columns,
        "SamplesPerPixel": 1,
        "PhotometricInterpretation": "MONOCHROME2",
        "BitsAllocated": 8 * stored.dtype.itemsize,
        "BitsStored": 8 * stored.dtype.itemsize,
        "HighBit": 8 * stored.dtype.itemsize - 1,
        "PixelRepresentation": int(stored.dtype.kind == "i"),
        "RescaleSlope": 1,
        "RescaleIntercept": -1024,
    } | dict(tags or {})
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = ExplicitVRLittleEndian
    meta.MediaStorageSOPClassUID = said["SOPClassUID"]
    meta.MediaStorageSOPInstanceUID = said["SOPInstanceUID"]
    made = FileDataset("", {}, file_meta=meta, preamble=bytes(128))
    for keyword, value in said.items():
        if value is not None:
            setattr(made, keyword, value)
    made.PixelData = np.ascontiguousarray(stored.T).tobytes()
    made["PixelData"].VR = "OW"
    return made


def images(
    hu: np.ndarray,
    origin: Sequence[float] = (-20, 30, -40),
    directions: Sequence[Sequence[float]] = UPRIGHT,
    spacing: tuple[float, float, float] = (0.7, 0.9, 2),
    tags: Mapping[str, Any] | None = None,
    along: Sequence[Sequence[float]] | None = None,
) -> list[FileDataset]:
    """A series: HU as columns, rows, slices, stored unsigned.

    along: mm from `origin` to each slice; by default they lie on the normal, evenly.
    """
    normal = np.cross(*directions)
    if along is None:
        along = [k * spacing[2] * normal for k in range(hu.shape[2])]
    return [
        image(
            (hu[..., k] + 1024).astype(np.uint16),
            np.add(origin, step),
            directions,
            spacing[:2],
            {"InstanceNumber": k + 1, **(tags or {})},
        )
        for k, step in enumerate(along)
    ]


def save(folder: Path, made: Sequence[Dataset], seed: int = 0, prefix: str = "") -> list[Path]:
    """Write files whose names say nothing of their order; paths in the order given."""
    folder.mkdir(parents=True, exist_ok=True)
    names = np.random.default_rng(seed).permutation(len(made))
    paths = [folder / f"{prefix}{name:03d}.dcm" for name in names]
    for one, path in zip(made, paths, strict=True):
        one.save_as(path, enforce_file_format=True)
    return paths


def series(folder: Path, hu: np.ndarray, **how: Any) -> list[Path]:
    """`images`, written."""
    return save(folder, images(hu, **how))


def enhanced(made: Sequence[Dataset], own_values: bool = True) -> FileDataset:
    """The same slices as one Enhanced CT; what all share (directions, spacing) said once."""
    first = made[0]
    many = image(
        np.zeros((first.Columns, first.Rows), np.uint16),
        tags={
            "SOPClassUID": ENHANCED,
            **dict.fromkeys(
                "ImagePositionPatient ImageOrientationPatient PixelSpacing RescaleSlope"
                " RescaleIntercept SliceThickness KVP ConvolutionKernel".split()
            ),
            "SeriesInstanceUID": first.SeriesInstanceUID,
            "NumberOfFrames": len(made),
            "PixelRepresentation": first.PixelRepresentation,
        },
    )

    def group(**tags: Any) -> Items:
        item = Dataset()
        for keyword, value in tags.items():
            setattr(item, keyword, value)
        return Items([item])

    def values(one: Dataset) -> Items:
        slope, inter = one.RescaleSlope, one.RescaleIntercept
        return group(RescaleSlope=slope, RescaleIntercept=inter, RescaleType="HU")

    shared = Dataset()
    shared.PlaneOrientationSequence = group(ImageOrientationPatient=first.ImageOrientationPatient)
    shared.PixelMeasuresSequence = group(PixelSpacing=first.PixelSpacing, SliceThickness=2)
    shared.CTImageFrameTypeSequence = group(FrameType=["ORIGINAL", "PRIMARY", "VOLUME", "NONE"])
    if not own_values:
        shared.PixelValueTransformationSequence = values(first)
    frames = []
    for index, one in enumerate(made):
        frame = Dataset()
        frame.PlanePositionSequence = group(ImagePositionPatient=one.ImagePositionPatient)
        frame.FrameContentSequence = group(
            StackID="1",
            TemporalPositionIndex=int(one.get("TemporalPositionIndex", 1)),
            DimensionIndexValues=[1, index + 1],
        )
        if own_values:
            frame.PixelValueTransformationSequence = values(one)
        frames.append(frame)
    many.SharedFunctionalGroupsSequence = Items([shared])
    many.PerFrameFunctionalGroupsSequence = Items(frames)
    many.PixelData = b"".join(one.PixelData for one in made)
    return many


def refused(call: Callable[[], object], *words: str) -> None:
    """An `InputError`, one sentence with these words in it."""
    with pytest.raises(InputError) as caught:
        call()
    said = str(caught.value)
    assert "\n" not in said
    for word in words:
        assert word in said, said
