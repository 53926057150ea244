"""Where a command writes a scan: to a NIfTI file, or as a DICOM series."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from .commands import option
from .options import FILE
from .progress import say

if TYPE_CHECKING:
    from ..core.volume import Volume
    from ..inference.model import Model
    from ..io.dicom.derived import Processing
    from ..io.dicom.reader import DicomSource

like_option = option(
    "--like",
    type=FILE,
    group="Output",
    help="DICOM series on the same grid, whose patient and study an OUTPUT in DICOM takes."
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

        written = {"OUTPUT": self.path, **(more or {}), "--report": self.report}
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
        from ..io.outputs import check_space, least_bytes

        check_space({path: least_bytes(path, volume, times) for path in (self.path, *more)})
        if is_series(self.path):
            like = self._source(volume)
            derived.check_writable(volume, self.path, _processing(""), like=like, force=self.force)

    def write(self, result: Volume, model: Model, scan: Volume | None = None) -> None:
        """Write a result. scan: what it was computed from."""
        from ..io import nifti
        from ..io.dicom import derived
        from ..model.weights import describe

        if not is_series(self.path):
            nifti.write(result, self.path, self.force)
            return
        processing = _processing(describe(model.path)[2])
        like = None if scan is None else self._source(scan)
        uid = derived.write_series(
            result, self.path, processing, like=like, force=self.force, say=say
        )
        say(f"{self.path}: DICOM series {uid}")

    def _source(self, volume: Volume) -> DicomSource | None:
        """The series to take the patient and the study from; None if there is none."""
        from ..io.dicom import derived
        from ..io.dicom.reader import DicomSource

        if self.like is not None:
            return derived.like_series(self.like)
        return volume.source if isinstance(volume.source, DicomSource) else None


def _processing(weights: str) -> Processing:
    """This command and its settings, for the header of a series; weights: their sha256."""
    from ..io.dicom.derived import Processing

    command = click.get_current_context()
    return Processing(str(command.info_name), _settings(command.params), weights)


# Settings that do not change the result, or that another part of the header states.
_ELSEWHERE = ("input", "output", "force", "like", "report", "weights", "device", "batch")


def _settings(params: dict[str, Any]) -> str:
    """The settings of a command in words; of files, only their names, which travel further."""
    from ..core.errors import shown

    given = {
        name: value
        for name, value in params.items()
        if name not in _ELSEWHERE and value is not None and value is not False
    }
    words = {name: v.name if isinstance(v, Path) else str(v) for name, v in given.items()}
    return "; ".join(f"{name} {shown(words[name])}" for name in sorted(words))
