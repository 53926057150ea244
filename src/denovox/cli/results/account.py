"""From what a run has noted to its manifest."""

from __future__ import annotations

import os
import platform
import re
import sys
import time
from collections.abc import Iterator
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

from ...core.errors import shown
from ...core.process import peak_mb
from ...core.version import __version__
from ...datasets.manifest import NAME
from ...io.atomic import pending
from ...reports import manifest as of
from . import arguments
from .run import Run

_FOLDERS = re.compile(r"(?<![^\s'\"(])/(?:[^\s/:;,'\"()]+/)+")  # of an absolute path


def manifest_of(run: Run) -> of.Manifest:
    """The manifest of a run whose result is complete, if not yet in its place."""
    context = run.context
    inputs = tuple(_inputs(run))
    return of.Manifest(
        command=run.command,
        inputs=inputs,
        decisions=() if run.continues else tuple(_decisions(run)),
        settings=arguments.settings(context),
        seed=context.params.get("seed"),
        model=None if run.model is None else _model(run),
        versions=of.Versions(
            denovox=__version__, torch=version("torch"), python=platform.python_version()
        ),
        cost=_cost(run),
        notes=() if run.continues else tuple(_notes(run)),
        outputs=tuple(_listed(run) if run.continues else _outputs(run)),
    )


# ---- what came in -------------------------------------------------------------------------------


def _inputs(run: Run) -> Iterator[of.Input]:
    for label, path in dict.fromkeys(arguments.read(run.context)):
        listed = path / NAME  # of a store, which may be too large to be read for a digest
        if listed.is_file():
            digest = of.sha256(listed)
            yield of.Input(argument=label, name=shown(f"{of.name_of(path)}/{NAME}"), sha256=digest)
        elif run.continues and path.is_dir():  # a data set, whose files the result lists itself
            yield of.Input(argument=label, name=shown(of.name_of(path)), files=0)
        else:
            yield run.hashed(path)


def _decisions(run: Run) -> Iterator[of.Decisions]:
    for scan, made in run.decisions:
        if made:
            yield of.Decisions(
                scan=scan,
                regions=tuple(
                    of.RegionFound(
                        region=one.region,
                        first_slice=one.start,
                        last_slice=one.stop - 1,
                        reason=one.reason,
                    )
                    for one in made.get("regions", [])
                ),
                noise=tuple(made.get("noise", [])),
                working_grid=next(iter(made.get("working grid", [])), None),
                tile_borders=next(iter(made.get("tile borders", [])), None),
            )


def _model(run: Run) -> of.Model:
    import torch

    from ...model.denoiser import use_bfloat16

    assert run.model is not None
    device, params = run.model.device, run.context.params
    control = run.model.control_path
    given = params.get("calibration", ())
    if "calibration" in params and not given:
        given = sorted((Path(str(files("denovox"))) / "calibrations").glob("*.json"))
    hardware = platform.machine() if _gpu_of(run) is None else torch.cuda.get_device_name(device)
    narrow = use_bfloat16(params.get("precision", "float32"), device)
    return of.Model(
        weights=_weights(run.model.path),
        control=None if control is None else _weights(control),
        calibrations=tuple(map(of.file_at, given)),
        device=device,
        hardware=hardware,
        precision="bfloat16" if narrow else "float32",
    )


def _weights(path: Path) -> of.Weights:
    from ...model.hub import source_of

    return of.Weights(**dict(of.file_at(path)), source=source_of(path.absolute()))


def _cost(run: Run) -> of.Cost:
    torch: Any = sys.modules.get("torch")
    gpu = _gpu_of(run)
    return of.Cost(
        seconds=round(time.monotonic() - run.began, 3),
        threads=None if torch is None else torch.get_num_threads(),
        peak_memory_mb=round(peak_mb(), 1) or None,
        peak_gpu_memory_mb=None if gpu is None else torch.cuda.max_memory_reserved(gpu) / 1e6,
    )


def _gpu_of(run: Run) -> str | None:
    device = None if run.model is None else run.model.device
    return device if device is not None and device.startswith("cuda") else None


def _notes(run: Run) -> Iterator[str]:
    """The lines that were printed, without the folders of the paths in them."""
    given = [path for _, path in arguments.read(run.context)]
    given += [path for path in arguments.written(run.context).values() if path is not None]
    for line in run.notes:
        for path in given:
            for folder in (path.parent, Path(os.path.abspath(path)).parent):
                line = line.replace(f"{shown(folder)}{os.sep}", "")
        yield _FOLDERS.sub("", line)


# ---- what came out ------------------------------------------------------------------------------


def _outputs(run: Run) -> Iterator[of.Written]:
    """Every file that is about to appear, OUTPUT first; a DICOM series as a whole."""
    series = {Path(os.path.realpath(path)): uid for path, uid in run.series.items()}
    images = {Path(os.path.realpath(path)): image for path, image in run.images.items()}
    slices: dict[Path, list[tuple[Path, Path]]] = {}
    main = Path(os.path.realpath(arguments.target(run.context)))
    for place, now in sorted(_files(), key=lambda each: each[0] != main):
        folder = next((each for each in place.parents if each in series), None)
        if folder is not None:
            slices.setdefault(folder, []).append((place.relative_to(folder), now))
            continue
        yield of.Written(
            name=_name(run, place),
            sha256=of.sha256(now),
            geometry=images.get(place),
            series_uid=series.get(place),
        )
    for folder, parts in slices.items():
        digest, count = of.of_several(parts)
        yield of.Written(
            name=_name(run, folder),
            sha256=digest,
            files=count,
            geometry=images.get(folder),
            series_uid=series[folder],
        )


def _files() -> Iterator[tuple[Path, Path]]:
    """(place, where it is now) of every file, also of those in new folders."""
    for place, now in pending():
        if now.is_dir():
            for each in sorted(now.rglob("*")):
                if each.is_file():
                    yield place / each.relative_to(now), each
        else:
            yield place, now


def _name(run: Run, place: Path) -> str:
    """The name of a file; of one in a folder that was asked for, with the name of the folder."""
    for path in arguments.written(run.context).values():
        folder = Path(os.path.realpath(path)) if path is not None else place
        if folder in place.parents:
            return shown(Path(of.name_of(path or place), place.relative_to(folder)).as_posix())
    return shown(place.name)


def _listed(run: Run) -> Iterator[of.Written]:
    """The files at the top of a folder of cases, which list the cases."""
    folder = arguments.target(run.context)
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            name = f"{of.name_of(folder)}/{path.name}"
            yield of.Written(name=shown(name), sha256=of.sha256(path))
