"""A network with its weights, ready to run a task on a volume tile by tile."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float

from ..core.box import Tiling
from ..core.condition import Condition, ControlKind
from ..core.errors import ensure
from ..model import weights
from ..model.denoiser import Denoiser
from ..sampling.interleaved import STEP, interleaved, phase
from ..sampling.sampler import Denoise, Noise
from ..sampling.windowed import windowed
from ..tasks import Task
from .options import RunOptions


@dataclass(frozen=True)
class Engine:
    """A base network, with a control if there is one.

    path: weights file of the base. device: "cpu", "cuda", ... control: what the control is
    conditioned on; control_path: its file.
    """

    denoiser: Denoiser
    config: weights.ModelConfig
    path: Path
    device: str
    control: ControlKind | None = None
    control_path: Path | None = None

    def run(
        self, task: Task, condition: Condition, noise: Noise, options: RunOptions
    ) -> Float[torch.Tensor, "1 1 x y z"]:
        """The task's result, model units; the network is evaluated on overlapping tiles."""
        finished, calls = 0, task.evaluations * (STEP**2 if task.split else 1)

        def progress(share: float) -> None:
            nonlocal finished
            options.progress((finished + share) / calls)
            finished += share == 1

        def denoise_with(condition: Condition) -> Denoise:
            return windowed(
                self.denoiser,
                condition.to(self.device),
                self.tiling(options.tile, task.blend),
                options.batch,
                options.seed,
                progress,
            )

        with torch.inference_mode():
            denoise = denoise_with(condition)
            if task.split:
                denoise = interleaved(lambda i, j: denoise_with(phase(condition, i, j)))
            return task.run(denoise, noise)

    def tiling(self, edge: int, blend: bool) -> Tiling:
        """Tiles of at most `edge` voxels per side, which overlap if `blend` is set."""
        multiple = self.config.net.multiple
        size = max(edge // multiple, 3) * multiple
        return Tiling(size, 2 * multiple if blend else 0, multiple)

    def with_lesion(self, condition: Condition, lesion: Float[torch.Tensor, "x y z"]) -> Condition:
        """The condition with a mask of lesions to draw; `InputError` without a control for them."""
        ensure(
            self.control == "lesion",
            "drawing lesions requires a control trained for them: --control lesion, or"
            " denovox.load('lesion')",
        )
        return replace(condition, control=lesion[None, None])

    def describe(self) -> dict[str, Any]:
        """Model card, sha256 and configuration of the weights; the control's under "control"."""
        config, card, digest = weights.describe(self.path)
        described = {"card": card, "sha256": digest, "config": config.model_dump(mode="json")}
        if self.control_path is not None:
            control_config, card, digest = weights.describe_control(self.control_path)
            described["control"] = {
                "card": card,
                "sha256": digest,
                "config": control_config.model_dump(mode="json"),
            }
        return {"name": self.path.stem, "path": str(self.path), **described}
