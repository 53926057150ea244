"""The manifest of a run: what came in, what was decided, and what came out, as one JSON file.

Names are those of files, without their folders, and DICOM is identified by its series alone: a
manifest states nothing about the patient. docs/how-to/scripting.md promises what stays stable.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from jaxtyping import Float
from pydantic import ConfigDict, Field, JsonValue

from ..core.config import Settings
from ..core.errors import InputError, shown
from ..core.volume import spacing_of
from ..io.atomic import check_folder, check_writable
from ..io.dicom.reader import DicomSource
from ..io.itk import files_of

FORMAT: Literal[1] = 1  # incremented when a key is renamed, dropped, or changes its meaning
ENDING = ".json"


class Part(Settings):
    """A part of a manifest. A reader ignores keys that a later version has added."""

    model_config = ConfigDict(extra="ignore", use_attribute_docstrings=True)


class File(Part):
    """A file or a folder."""

    name: str
    """Name, without the folders above it; undecodable and control characters are escaped."""
    sha256: str | None = None
    """SHA-256 of a file. Of a folder, or of a header and its data file: that of the lines that
    `sha256sum` prints for its files, sorted by path. Null where it was not computed."""
    files: int = 1
    """Number of files that sha256 covers."""


class Geometry(Part):
    """Where the voxels of an image are, in the axes nearest to RAS."""

    shape: tuple[int, int, int]
    """Voxels along x, y and z."""
    spacing_mm: tuple[float, float, float]
    """Distance between voxel centres along x, y and z, in mm."""
    affine: tuple[tuple[float, float, float, float], ...]
    """4 x 4 by rows: voxel index to mm in RAS+."""

    @classmethod
    def of(cls, shape: Sequence[int], affine: Float[np.ndarray, "4 4"]) -> Geometry:
        """The geometry of a grid."""
        x, y, z = shape
        rows = tuple((float(a), float(b), float(c), float(d)) for a, b, c, d in affine)
        return cls(shape=(x, y, z), spacing_mm=spacing_of(affine), affine=rows)


class Input(File):
    """A file or a folder that was read."""

    argument: str
    """What it was given as: INPUT, --mask, ..."""
    geometry: Geometry | None = None
    """Of a CT scan, as it was read."""
    modality: str | None = None
    """Of DICOM."""
    series_uid: str | None = None
    """SeriesInstanceUID of DICOM, the only identifier that is taken from its header."""


class RegionFound(Part):
    """A body region along z. Slices are numbered from 0 at the feet."""

    region: str
    first_slice: int
    last_slice: int
    reason: str
    """How it was recognised; "named" where it was given."""


class NoiseAssumed(Part):
    """The noise that was assumed in the slices of a region."""

    region: str
    first_slice: int
    last_slice: int
    sd_hu: float
    coloured: bool
    """Whether its spectrum is not flat."""
    estimated: bool
    """Whether its SD was estimated; otherwise it was given."""


class Decisions(Part):
    """What was decided about a scan."""

    scan: str | None = None
    """Name of the input; null where no scan was read."""
    regions: tuple[RegionFound, ...] = ()
    noise: tuple[NoiseAssumed, ...] = ()
    working_grid: tuple[int, int, int] | None = None
    """Voxels along x, y and z of the grid on which the model ran."""
    tile_borders: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None = None
    """Of a generated scan: along x, y and z, the i of each border between the voxels i and i + 1 at
    which tiles of the last evaluation meet."""


class Weights(File):
    """The weights of a base or a control."""

    source: str | None = None
    """hf://owner/name@commit where they were downloaded from the Hugging Face Hub."""


class Model(Part):
    """Which model ran, and on what."""

    weights: Weights
    control: Weights | None = None
    calibrations: tuple[File, ...] = ()
    """Of `denovox detect`."""
    device: str
    hardware: str
    """Name of the GPU, or architecture of the CPU."""
    precision: Literal["float32", "bfloat16"]
    """Of the network; "auto" is resolved."""


class Versions(Part):
    """Versions of the software."""

    denovox: str
    torch: str
    python: str


class Cost(Part):
    """What the run took."""

    seconds: float
    threads: int | None = None
    """Threads that torch used."""
    peak_memory_mb: float | None = None
    """Largest resident memory of the process; null where the system does not report it."""
    peak_gpu_memory_mb: float | None = None
    """Largest memory that torch has reserved on the GPU since the process started."""


class Written(File):
    """A file or a DICOM series that was written."""

    geometry: Geometry | None = None
    """Of OUTPUT."""
    series_uid: str | None = None
    """SeriesInstanceUID of a DICOM series."""


class Manifest(Part):
    """A run of a denovox command that succeeded."""

    format: Literal[1] = FORMAT
    """Version of this format; see docs/how-to/scripting.md."""
    command: str
    """Words of the command, such as "denoise" or "simulate low-dose"."""
    inputs: tuple[Input, ...] = ()
    decisions: tuple[Decisions, ...] = ()
    settings: dict[str, JsonValue] = Field(default_factory=dict)
    """Every option that is not a path, under its name; null where it was left to the program."""
    seed: int | None = None
    model: Model | None = None
    versions: Versions
    cost: Cost
    notes: tuple[str, ...] = ()
    """What was printed on stderr besides the progress."""
    outputs: tuple[Written, ...] = ()


# ---- names and digests --------------------------------------------------------------------------


def beside(output: Path) -> Path:
    """Where the manifest of an output is: beside it, under its whole name and .json.

    It is never inside an output that is a folder, so it cannot replace what the folder contains.
    """
    return output.with_name(name_of(output) + ENDING)


def name_of(path: Path) -> str:
    """The name of a file or folder, also of "." and of "..", as it is on the disk."""
    return Path(os.path.abspath(path)).name


def file_at(path: Path) -> File:
    """A file, a header with its data file, or all files in a folder, with their digest; without it
    if they cannot be read. A path may end in `:NAME`, as of a label map."""
    if not path.exists() and (file := str(path).rpartition(":")[0]):
        path = Path(file)
    name = shown(name_of(path))
    try:
        if path.is_dir():
            within = ((each.relative_to(path), each) for each in path.rglob("*") if each.is_file())
            digest, count = of_several(within)
        elif path.suffix.lower() in (".mhd", ".nhdr") and len(parts := files_of(path)) > 1:
            digest, count = of_several((Path(name_of(each)), each) for each in parts)
        else:
            digest, count = sha256(path), 1
    except (OSError, InputError):
        return File(name=name)
    return File(name=name, sha256=digest, files=count)


def sha256(path: Path) -> str:
    """Of a file's content."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def of_several(files: Iterable[tuple[Path, Path]]) -> tuple[str, int]:
    """(digest, count) of files: (name to sort and list it by, where it is now)."""
    lines = sorted((os.fsencode(name.as_posix()), sha256(path)) for name, path in files)
    total = hashlib.sha256(b"".join(f"{hex}  ".encode() + name + b"\n" for name, hex in lines))
    return total.hexdigest(), len(lines)


def series_of(source: Any) -> tuple[str | None, str | None]:
    """(modality, series UID) of the record of a reader; None for other formats than DICOM."""
    if not isinstance(source, DicomSource):
        return None, None
    return source.facts.modality or None, source.series_uid


# ---- the file -----------------------------------------------------------------------------------


def check(path: Path, force: bool, command: str = "") -> None:
    """`InputError` where a manifest could not be written; call this before the computation.

    command: one that fills the folder beside it, created with all above it; where that continues an
    earlier run, it may replace the manifest of that run.
    """
    if command and not os.path.lexists(path.parent):
        check_folder(path.parent, parents=True)
        return
    check_writable(path, force or (bool(command) and _is_of(path, command)), (ENDING,))


def _is_of(path: Path, command: str) -> bool:
    """Whether a file is the manifest of an earlier run of a command."""
    try:
        return read(path).command == command
    except (InputError, OSError):
        return False


def read(path: Path) -> Manifest:
    """A manifest; `InputError` for another file, `OSError` where there is none."""
    try:
        return Manifest.model_validate_json(path.read_bytes())
    except ValueError:
        raise InputError(f"{path} is not a manifest of denovox; give one") from None


def as_text(manifest: Manifest) -> str:
    """The manifest as JSON, with every key."""
    return manifest.model_dump_json(indent=1) + "\n"


def schema() -> str:
    """The JSON schema of a manifest, as in docs/reference/manifest.schema.json."""
    return json.dumps(Manifest.model_json_schema(mode="serialization"), indent=1) + "\n"
