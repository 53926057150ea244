"""Components for MONAI, which the configurations of our bundle name: transforms, inferer, engines.

They are none of MONAI's classes, but are called as those are, so that only a `MetaTensor` needs it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..batch.scans import Finder
from ..core.errors import ensure
from ..core.volume import Volume
from ..inference.model import Model
from ..inference.options import RunOptions
from ..io.nifti import write
from ..scan import gate
from ..train import run as training
from ..train.config import Recipe
from ..train.distributed import joined
from ..train.loop import Session


def scans(dataset_dir: str | Path, output_dir: str | Path) -> list[dict[str, Any]]:
    """The CT scans in a folder, as `denovox batch` finds them, without those in `output_dir`.

    Each is {"image": path, "name": path below the folder without ending, "series": of DICOM}.
    `InputError` where there is none.
    """
    found = [
        scan for scan in Finder([Path(dataset_dir)], Path(output_dir)).find() if not scan.aside
    ]
    ensure(found, f"{dataset_dir} has no CT scans; check the path")
    return [{"image": str(s.path), "name": s.name, "series": s.series} for s in found]


class Read:
    """A transform: "image", the path of a CT in any format, becomes a `MetaTensor` (1, x, y, z) in
    RAS and HU, and "scan" the volume, which knows the header of its file."""

    def __call__(self, item: Mapping[str, Any]) -> dict[str, Any]:
        """`InputError` for what is not a CT in HU."""
        scan = gate.read(item["image"], series=item.get("series"))
        image = scan.to_metatensor()
        image.meta["filename_or_obj"] = str(item["image"])
        return {**item, "image": image, "scan": scan}


@dataclass(frozen=True)
class Denoise:
    """An inferer: a `MetaTensor` in HU to the denoised one, in its own axes, by `Model.denoise`."""

    region: str | None = None
    noise_hu: float | None = None
    seed: int = 0
    tile: int = field(default_factory=lambda: RunOptions().tile)
    accept_hu: bool = False

    def __call__(self, inputs: Any, network: Model) -> Any:
        """inputs: (x, y, z) or (1, x, y, z), from any reader of MONAI; the same shape."""
        options = RunOptions(seed=self.seed, tile=self.tile, accept_hu=self.accept_hu)
        volume = Volume.from_metatensor(inputs)
        result = network.denoise(volume, self.region, self.noise_hu, options=options)
        return result.to_metatensor(like=inputs)


@dataclass(frozen=True)
class Write:
    """A transform: writes "pred" as a NIfTI with the header of the scan that `Read` has read."""

    output_dir: str
    output_postfix: str = "denoised"

    def __call__(self, item: Mapping[str, Any]) -> Mapping[str, Any]:
        """The item, unchanged. An existing file is replaced."""
        path = Path(self.output_dir, f"{item['name']}_{self.output_postfix}.nii.gz")
        path.parent.mkdir(parents=True, exist_ok=True)
        write(item["scan"].with_hu(Volume.from_metatensor(item["pred"]).hu), path, force=True)
        return item


@dataclass(frozen=True)
class Inference:
    """The evaluator: one item of a `monai.data.Dataset` after the other."""

    dataset: Any
    network: Model
    inferer: Any
    postprocessing: Any

    def run(self) -> None:
        """Denoise and write all."""
        for item in self.dataset:
            self.postprocessing({**item, "pred": self.inferer(item["image"], self.network)})


@dataclass(frozen=True)
class Training:
    """The trainer: `denovox pretrain` of a recipe, whose run is the folder `output_dir`."""

    recipe: Recipe
    output_dir: str
    device: str | None = None
    say: Any = print

    def run(self) -> None:
        """Train, or continue a run that was stopped."""
        session = Session(say=self.say, group=joined(self.device))
        for news in training.run(self.recipe, Path(self.output_dir), session):
            if isinstance(news, str):
                self.say(news)
