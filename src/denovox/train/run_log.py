"""Logging during a run: log.csv, and the trackers named in the recipe."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from ..core.errors import InputError, line
from ..core.process import resident_mb
from ..io.atomic import write_file
from .config import Recipe
from .loop import Progress
from .loss import BAND_NAMES, LEVELS, Ledger

NAME = "log.csv"
EVERY = 10  # steps per row
COLUMNS = (
    *("step", "loss", "validation", "best", "lr", "samples_per_s", "waiting", "memory_mb"),
    *("skipped", *LEVELS, *BAND_NAMES),
)


class RunLog:
    """One row per `EVERY` steps, appended to `folder`/log.csv and sent to the recipe's trackers.

    A run resumed after a kill repeats steps and logs them again, so rows after the resumed state
    are removed first. loss and its parts are means over the row's steps; waiting: fraction of time
    spent waiting for samples; memory_mb: of the process, or the peak on its GPU.
    """

    def __init__(self, folder: Path, recipe: Recipe, ledger: Ledger, say: Callable[[str], None]):
        self._path, self._recipe, self._ledger, self._say = folder / NAME, recipe, ledger, say
        self._trackers: list[Any] | None = None
        self._losses: list[float] = []
        self._before: tuple[int, float, float] = (0, 0.0, 0.0)  # step, seconds, waited
        self._broken = False
        for name in recipe.train.track:
            if find_spec(name) is None:
                raise InputError(
                    f"train.track names {name}, which is not installed: pip install {name}"
                )

    def step(self, progress: Progress) -> None:
        """Record a step."""
        if self._trackers is None:
            self._begin(progress)
        self._losses.append(progress.loss)
        last = progress.step == progress.steps
        if progress.step % EVERY and progress.validation is None and not last:
            return
        step, seconds, waited = self._before
        passed = max(progress.seconds - seconds, 1e-9)
        finite = [loss for loss in self._losses if loss == loss]
        row: dict[str, float] = {
            "step": progress.step,
            "lr": progress.lr,
            "samples_per_s": (progress.step - step) * self._recipe.train.samples / passed,
            "waiting": (progress.waited - waited) / passed,
            "memory_mb": memory_mb(),
            "skipped": progress.skipped,
            **self._ledger.close(),
        }
        if finite:
            row["loss"] = sum(finite) / len(finite)
        if progress.validation is not None:
            row |= {"validation": progress.validation, "best": progress.best[0]}
        self._losses.clear()
        self._before = (progress.step, progress.seconds, progress.waited)
        self._append(row)
        for tracker in self._trackers or ():
            tracker.log({k: v for k, v in row.items() if k != "step"}, step=progress.step)

    def close(self) -> None:
        """Close the trackers."""
        for tracker in self._trackers or ():
            tracker.finish()

    def _begin(self, progress: Progress) -> None:
        """Remove rows of steps that will be repeated, and open the trackers."""
        self._before = (progress.step - 1, 0.0, 0.0)
        kept: list[dict[str, str]] = []
        if self._path.exists():
            with self._path.open(newline="") as file:
                # A row cut off by a kill lacks its number, or some columns.
                rows = [r for r in csv.DictReader(file) if None not in r.values()]
            kept = [r for r in rows if r["step"].isdigit() and int(r["step"]) < progress.step]
        self._path.parent.mkdir(parents=True, exist_ok=True)
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        writer.writerows(kept)
        write_file(self._path, text.getvalue())
        self._trackers = [self._tracker(name, progress.step) for name in self._recipe.train.track]

    def _tracker(self, name: str, first: int) -> Any:
        from accelerate import PartialState, tracking

        PartialState()  # required by accelerate's trackers, even with a single process
        run, folder = self._recipe.name, self._path.parent.resolve()
        same = sha256(str(folder).encode()).hexdigest()[:12]
        opened: Any
        if name == "tensorboard":
            opened = tracking.TensorBoardTracker("tensorboard", folder, purge_step=first)
        elif name == "wandb":  # a resumed run is the same run there
            settings = {"id": same, "name": folder.name, "dir": str(folder), "resume": "allow"}
            opened = tracking.WandBTracker(run, **settings)
        else:
            opened = tracking.TrackioTracker(run, name=f"{folder.name}-{same}", resume="allow")
        opened.start()
        if name != "tensorboard":  # which only takes flat configurations; the model card has it too
            opened.store_init_configuration(self._recipe.model_dump(mode="json"))
        return opened

    def _append(self, row: dict[str, float]) -> None:
        try:
            with self._path.open("a", newline="") as file:
                csv.DictWriter(file, COLUMNS).writerow(
                    {k: v if isinstance(v, int) else f"{v:.6g}" for k, v in row.items()}
                )
            self._broken = False
        except OSError as error:  # a logging failure must not end a run
            if not self._broken:
                self._say(f"{self._path} cannot be written ({line(error)}); the run continues")
            self._broken = True


def memory_mb() -> float:
    """Memory of the process, or the peak on its GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1e6
    return resident_mb()
