"""The run of a command that writes a result: what was asked for besides it, and what it notes."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from ...core.errors import shown
from ...reports import recorder
from . import arguments

if TYPE_CHECKING:
    from ...core.volume import Volume, Window
    from ...inference.model import Model
    from ...reports import manifest as of

SOFT_TISSUE = (400.0, 40.0)  # width and level of a window, HU


@dataclass(kw_only=True)
class Run(recorder.Recorder):
    """manifest, png: files to write, if any. as_json: print the manifest, and nothing else, on
    stdout. plain: print progress as lines. continues: the command completes a folder that earlier
    runs have begun.

    inputs: by path, once they have been hashed. images, series: of what was written, by path, the
    geometry and, of DICOM, the SeriesInstanceUID. began: as of `time.monotonic`. percent: the last
    that was printed.
    """

    context: click.Context
    manifest: Path | None
    as_json: bool
    png: Path | None
    plain: bool
    continues: bool = False
    inputs: dict[Path, of.Input] = field(default_factory=dict)
    images: dict[Path, of.Geometry] = field(default_factory=dict)
    series: dict[Path, str] = field(default_factory=dict)
    model: Model | None = None
    began: float = field(default_factory=time.monotonic)
    percent: int = -1
    checked: bool = False

    @property
    def command(self) -> str:
        """Its words, such as "simulate low-dose"."""
        words = self.context.command_path.split(" ")
        return " ".join(words[1:]) or words[0]

    @property
    def force(self) -> bool:
        """Whether existing files may be replaced."""
        return bool(self.context.params.get("force"))

    @property
    def window(self) -> Window:
        """The HU window of the region that most slices show."""
        from ...core.regions import REGIONS
        from ...core.volume import Window

        spans = [one for _, made in self.decisions for one in made.get("regions", [])]
        named = self.context.params.get("region")
        if spans:
            named = max(spans, key=lambda one: int(one.stop - one.start)).region
        return REGIONS[named].window if named in REGIONS else Window(*SOFT_TISSUE)

    def check(self) -> None:
        """As `check_extras`; once."""
        from ...io.atomic import check_writable
        from ...io.outputs import check_apart
        from ...reports import manifest as of

        if self.checked:
            return
        self.checked = True
        inputs = {f"{label} {path}": path for label, path in arguments.read(self.context)}
        outputs = {**arguments.written(self.context), "--png": self.png}
        check_apart({**outputs, "its manifest": self.manifest}, inputs)
        if self.manifest is not None:
            of.check(self.manifest, self.force, self.command if self.continues else "")
        if self.png is not None:
            check_writable(self.png, self.force, (".png",))

    def read(self, path: Path, volume: Volume) -> None:
        """Note a CT scan that has been read."""
        from ...reports import manifest as of

        known = self.hashed(path)
        modality, series_uid = of.series_of(volume.source)
        facts: dict[str, Any] = {"modality": modality, "series_uid": series_uid}
        facts["geometry"] = of.Geometry.of(volume.shape, volume.affine)
        self.inputs[path] = known.model_copy(update=facts)
        self.begin_scan(known.name)

    def hashed(self, path: Path) -> of.Input:
        """An input, hashed when it is first asked for: it may change, or go, while we compute."""
        from ...reports import manifest as of

        if path not in self.inputs:
            labels = {each: label for label, each in reversed([*arguments.read(self.context)])}
            argument = labels.get(path, "")
            self.inputs[path] = of.Input(argument=argument, **dict(of.file_at(path)))
        return self.inputs[path]

    def loaded(self, model: Model) -> None:
        """Note the model. By now everything but the scans of a list has been read."""
        self.model = model
        for _, path in arguments.read(self.context):
            if path.is_file():
                self.hashed(path)

    def share(self, share: float, note: str = "") -> None:
        """Print the share of the work that is done as a line `NN %`, where it has grown.

        100 % is left to the end of the command, when the result is on disk.
        """
        percent = min(int(100 * share), 99)
        if percent > self.percent:
            self.percent = percent
            click.echo(f"{percent} %", err=True)


def current_run() -> Run | None:
    """The run of the command that is running, if it writes a result."""
    run = recorder.current()
    return run if isinstance(run, Run) else None


def check_extras() -> None:
    """`InputError` where the manifest or the preview of the command could not be written.

    Called where the work begins, after the command has checked OUTPUT itself.
    """
    if (run := current_run()) is not None:
        run.check()


def note(path: Path, result: Volume, scan: Volume | None = None, scores: bool = False) -> None:
    """Note the image that is OUTPUT, and draw the preview, if one was asked for.

    scan: what it was computed from, if anything. scores: the image has z-scores, not HU.
    """
    from ...io.atomic import user_output
    from ...reports import manifest as of
    from ...reports.result_sheet import result_sheet

    if (run := current_run()) is None:
        return
    run.images[path] = of.Geometry.of(result.shape, result.affine)
    if run.png is not None:
        subject = next(iter(run.inputs), path)
        title = f"denovox {run.command}: {shown(of.name_of(subject))}"
        with user_output(run.png):
            result_sheet(run.png, title, result, scan, run.window, scores)


def note_series(path: Path, uid: str) -> None:
    """Note that what was written is a DICOM series."""
    if (run := current_run()) is not None:
        run.series[path] = uid
