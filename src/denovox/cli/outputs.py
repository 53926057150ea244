"""Where a command writes a scan: to a NIfTI file, or as a DICOM series."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .commands import option
from .options import FILE, beside
from .progress import say
from .results.arguments import plain
from .results.run import note, note_series

if TYPE_CHECKING:
    from ..core.volume import Volume
    from ..inference.anomaly.detection import Detection
    from ..inference.model import Model
    from ..io.dicom.derived import Processing
    from ..io.dicom.reader import DicomSource

like_option = option(
    "--like",
    type=FILE,
    group="Output",
    help="DICOM series on the same grid, from which a DICOM OUTPUT takes patient and study."
    "  [default: INPUT]",
)


def is_series(path: Path) -> bool:
    """Whether an output is a DICOM series: a ZIP archive, or a folder, whose name has no ending."""
    return path.suffix.lower() in ("", ".zip") or os.path.isdir(path)


@dataclass(frozen=True)
class Output:
    """OUTPUT of a command. like: a DICOM series to take the patient and the study from. report: the
    folder of a page."""

    path: Path
    force: bool
    like: Path | None = None
    report: Path | None = None

    def check(
        self, inputs: Mapping[str, Path | None], more: Mapping[str, Path] | None = None
    ) -> None:
        """Raise `InputError` where the output cannot be written, before anything is read.

        inputs: what the command reads; more: what it writes besides, which its caller checks. Both
        map what a path is called to it.
        """
        from ..core.errors import ensure
        from ..io import nifti
        from ..io.atomic import check_folder, check_writable
        from ..io.outputs import check_apart

        written = {"OUTPUT": self.path, "--report": self.report, **(more or {})}
        check_apart(written, {**inputs, "--like": self.like})
        if not is_series(self.path):
            unused = "--like is for an OUTPUT in DICOM: a folder or a .zip"
            ensure(self.like is None, unused)
            nifti.check_writable(self.path, self.force)
        elif self.path.suffix.lower() == ".zip":
            check_writable(self.path, self.force, (".zip",))
        else:
            check_folder(self.path, self.force)
        if self.report is not None:
            check_folder(self.report, self.force)

    def check_scan(self, volume: Volume, times: float = 1.0, more: Sequence[Path] = ()) -> None:
        """As `check`, for the result of a scan that has been read; volume: that scan.

        times: voxels of the result per voxel of the scan. more: further volumes of that size.
        """
        from ..io.dicom import derived
        from ..io.dicom.evidence import maps
        from ..io.outputs import least_bytes
        from ..io.space import check_space

        check_space({path: least_bytes(path, volume, times) for path in (self.path, *more)})
        if is_series(self.path):
            like = self.series_of(volume)
            derived.check_writable(volume, self.path, processing(), like=like, force=self.force)
            for path in more:
                maps.check(path, volume, self.force, like)

    def check_findings(self, volume: Volume) -> None:
        """As `check_scan`, for the map and the findings of a detection."""
        from ..io.dicom import derived
        from ..io.dicom.evidence import findings
        from ..io.space import check_space, packed_bytes

        if not self.path.name.lower().endswith((".gz", ".zip")):  # a map packs to next to nothing
            check_space({self.path: packed_bytes(self.path, 4.0 * volume.hu.size)})
        if is_series(self.path):
            like = self.series_of(volume)
            derived.check_writable(volume, self.path, processing(), like=like, force=self.force)
            findings.check(self.path, volume, self.force, say, like)

    def write_findings(self, found: Detection, model: Model, scan: Volume) -> None:
        """Write a detection: its map as NIfTI, or the map, the components and their figures."""
        from ..inference.anomaly import findings

        note(self.path, found.z, scan, scores=True)
        if not is_series(self.path):
            findings.write_map(found.z, self.path, self.force)
            return
        like = self.series_of(scan)
        findings.write_dicom(found, self.path, processing(model), self.force, like)

    def map_beside(self, end: str) -> Path:
        """The path of a map that goes with OUTPUT, in the same format; `InputError` where it cannot
        be written. end: of its name."""
        from ..io import nifti
        from ..io.atomic import check_writable

        if is_series(self.path):
            path = beside(self.path, f"{end}.dcm")
            check_writable(path, self.force, (".dcm",))
        else:
            path = beside(self.path, f"{end}.nii.gz")
            nifti.check_writable(path, self.force)
        return path

    def write_sd(self, sd: Volume, path: Path, model: Model, scan: Volume) -> None:
        """Write a map of SDs to the path of `map_beside`. scan: what it was computed from."""
        from ..io import nifti
        from ..io.dicom.evidence import SD, maps

        if not is_series(self.path):
            nifti.write(sd, path, self.force)
            return
        maps.write(path, sd, SD, processing(model), self.force, self.series_of(scan))

    def write(
        self,
        result: Volume,
        model: Model | None,
        scan: Volume | None = None,
        thickness_mm: float | None = None,
    ) -> None:
        """Write a result. scan: what it was computed from. thickness_mm: of slices, where new."""
        from ..io import nifti
        from ..io.dicom import derived

        note(self.path, result, scan)
        if not is_series(self.path):
            nifti.write(result, self.path, self.force)
            return
        how = replace(processing(model), thickness_mm=thickness_mm)
        like = None if scan is None else self.series_of(scan)
        uid = derived.write_series(result, self.path, how, like=like, force=self.force, say=say)
        note_series(self.path, uid)
        say(f"{self.path}: DICOM series {uid}")

    def series_of(self, volume: Volume) -> DicomSource | None:
        """The series to take the patient and the study from; None if there is none."""
        from ..io.dicom.reader import DicomSource

        if self.like is not None:
            return self._like
        return volume.source if isinstance(volume.source, DicomSource) else None

    @cached_property
    def _like(self) -> DicomSource:
        """The series of --like; notes on it go to stderr, once."""
        from ..io.dicom import derived

        source = derived.like_series(str(self.like))
        for text in source.notes:
            say(f"{self.like}: {text}")
        return source


def processing(model: Model | None = None) -> Processing:
    """This command and its settings, with the weights of the model, for the header of a series."""
    from ..io.dicom.derived import Processing
    from ..model.weights import describe

    command = click.get_current_context()
    words = [str(command.info_name)]
    if command.parent is not None and command.parent.parent is not None:  # simulate low-dose
        words.insert(0, str(command.parent.info_name))
    weights = "" if model is None else describe(model.path)[2]
    return Processing(" ".join(words), _settings(command.params), weights)


# Settings that do not change the result, or that another part of the header states.
_ELSEWHERE = ("input", "output", "force", "like", "report", "weights", "device", "batch", "memory")


def _settings(params: dict[str, Any]) -> str:
    """The settings of a command in words; of files, only their names, which travel further."""
    from ..core.errors import shown

    given = {
        name: value
        for name, value in params.items()
        if name not in _ELSEWHERE and value is not None and value is not False and value != ()
    }
    words = {name: _word(value) for name, value in given.items()}
    return "; ".join(f"{name} {shown(words[name])}" for name in sorted(words))


def _word(value: Any) -> str:
    if isinstance(value, tuple):
        return ", ".join(map(_word, value))
    return str(plain(value))
