"""What all parts of the evidence share: the held-out scans, the model, the rivals, the record."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pydantic import Field

from ...core.config import Settings
from ...core.errors import ensure
from ...core.version import __version__
from ...core.volume import Volume
from ...datasets.samples.choice import is_coarse
from ...datasets.store import Case, cases, split
from ...inference.model import Model
from ...inference.options import RunOptions
from ...io import nifti
from ...metrics.results import Figure, Results
from ...model.weights import describe
from ..inputs import Scan
from ..lesions.hosts import read
from .red_cnn import FILE, NAME, TRAINING, Trained, trained


class EvidenceConfig(Settings):
    """slices: central slices of each scan; None: all. most: scans of the held-out ones; None: all.
    rivals: names of denoisers, see `rivals.available`. red_cnn_minutes: for which RED-CNN is
    trained, if it is a rival and has not been."""

    slices: int | None = None
    most: int | None = None
    rivals: tuple[str, ...] = ()
    red_cnn_minutes: float = Field(10, gt=0)


@dataclass(frozen=True)
class Study:
    """What is the same for every protocol.

    store: of the cases. training, held: its cases by their split, without those that are coarse in
    plane. scans: the held-out ones, as files in `folder`. lesion_model: loads the model with a
    control for lesions, whose sha256 is lesion_control. used: how often each setting of a rival was
    its best. red_cnn: if it is a rival.
    """

    store: Path
    config: EvidenceConfig
    training: Sequence[Case]
    held: Sequence[Case]
    scans: Sequence[Scan]
    folder: Path
    model: Model
    lesion_model: Callable[[], Model]
    lesion_control: str
    options: RunOptions
    used: Counter[str] = field(default_factory=Counter)
    red_cnn: Trained | None = None

    def settings(self, part: str) -> dict[str, Any]:
        """Everything that was chosen for a part, ready for JSON."""
        chosen = self.config.model_dump(mode="json", exclude={"most", "red_cnn_minutes"})
        about = {"weights": describe(self.model.path)[2], "version": __version__}
        about |= {NAME: self.red_cnn.sha256} if self.red_cnn else {}
        about |= {"control": self.lesion_control} if part.startswith("lesion-") else {}
        return {**about, "seed": self.options.seed, **chosen, "scans": len(self.scans)}

    @property
    def notes(self) -> tuple[str, ...]:
        """About rivals that were trained."""
        return (self.red_cnn.note,) if self.red_cnn else ()

    def results(self, name: str, figures: Sequence[Figure], notes: Sequence[str]) -> Results:
        """The table of a protocol."""
        facts = tuple(
            {"case": case.facts.id, "patient": case.facts.patient, "sha256": case.facts.sha256}
            for case in self.held
        )
        best = ", ".join(f"{one} ({count})" for one, count in sorted(self.used.items()))
        self.used.clear()
        every = (*notes, *([f"the rivals' best settings (times): {best}"] if best else ()))
        about = (describe(self.model.path)[2], __version__, every, facts)
        return Results(name, str(self.store), tuple(figures), {}, *about)


def study_of(
    store: Path,
    folder: Path,
    models: tuple[Model, Callable[[], Model], str],
    config: EvidenceConfig,
    options: RunOptions,
    out: Path,
) -> Study:
    """A study of the held-out cases of a store, which are written to `folder`.

    models: the base, what loads it with a control for lesions, and that one's sha256. out: where
    RED-CNN is kept, if it is a rival. `InputError` where no held-out case is fine enough in plane.
    """
    fine = [[case for case in part if not is_coarse(case)] for part in split(cases(store), ())]
    training, held = fine[0], fine[1][: config.most]
    ensure(held, f"{store} has no held-out case whose voxels are fine enough in plane")
    scans, red_cnn = [], None
    if NAME in config.rivals:
        settings = TRAINING.model_copy(
            update={"minutes": config.red_cnn_minutes, "seed": options.seed}
        )
        red_cnn = trained(out / FILE, (fine[0], fine[1]), settings, folder / NAME, options.say)
    for case in held:
        name = case.facts.id.replace("/", "_")
        path = folder / f"{name}.nii.gz"
        nifti.write(central(read(case).volume, config.slices), path)
        scans.append(Scan(name, case.facts.patient, path, case.facts.region))
    return Study(store, config, training, held, scans, folder, *models, options, red_cnn=red_cnn)


def central(volume: Volume, slices: int | None) -> Volume:
    """The central slices of a volume; None: all of it."""
    count = min(slices or volume.shape[2], volume.shape[2])
    first = (volume.shape[2] - count) // 2
    return volume.slices(slice(first, first + count))
