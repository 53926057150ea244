"""A network with its weights, ready to run a task on a volume tile by tile."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float

from ..core.box import Shape, Tiling, tilings
from ..core.condition import Condition, ControlKind
from ..core.errors import ensure
from ..model import weights
from ..model.denoiser import Denoiser
from ..sampling.sampler import Noise
from ..sampling.windowed import Layers, Needed, NoiseLevels, Slices, Tilings, layout, windowed
from ..tasks import Task
from .options import RunOptions

OVERLAP = 4  # voxels that two tiles share where they are blended
# Their edge as a share of the largest: tiles of 64^3 voxels would take 2.4 times the memory for
# .02 dB less (heads) to .07 more (abdomens; docs/explain/log.md).
BLENDED = 0.75
MOST_TILES = 64  # at once on a GPU, where no number is given


@dataclass(frozen=True)
class Evaluation:
    """An evaluation of the network on a volume, at noise level sigma.

    number: of it within its task, which moves the seams; blend: as in `tasks.Task`.
    """

    sigma: float | NoiseLevels
    number: int = 0
    blend: bool = True


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
        self,
        task: Task,
        condition: Condition,
        noise: Noise,
        options: RunOptions,
        needed: Bool[torch.Tensor, "x y z"] | None = None,
    ) -> Float[torch.Tensor, "1 1 x y z"]:
        """The task's result, model units; the network is evaluated on overlapping tiles.

        needed: for a task of one evaluation, the voxels whose result matters; tiles without any are
        skipped.
        """
        finished = 0
        if needed is not None and task.evaluations > 1:
            raise ValueError("what a later evaluation needs of an earlier one is not known")
        self._require(task.sigmas)

        def progress(share: float) -> None:
            nonlocal finished
            options.progress((finished + share) / task.evaluations)
            finished += share == 1

        whole = windowed(
            self.denoiser,
            condition.to(self.device),
            self.tilings(_shape(condition), options.tile, task.blend),
            self._batch(options),
            options.seed,
            progress,
            None if needed is None else (lambda z: needed[..., z]),
        )
        with torch.inference_mode():
            return task.run(whole, noise)

    def means(
        self,
        x: Slices,
        sigma: float | NoiseLevels,
        condition: Condition,
        options: RunOptions,
        needed: Needed | None = None,
    ) -> Iterator[tuple[slice, Float[torch.Tensor, "1 1 x y z"]]]:
        """The posterior mean of a volume at noise level sigma, as finished slices in order.

        The same as `run` of `tasks.denoising`, but x is called for the slices of one layer of tiles
        at a time, so that neither the volume nor the result is in memory. needed: as in `run`.
        """
        for z, x0 in self.stream(x, Evaluation(sigma), condition, options, needed):
            yield z, x0.clamp(-1, 1)

    def stream(
        self,
        x: Slices,
        of: Evaluation,
        condition: Condition,
        options: RunOptions,
        needed: Needed | None = None,
        control: Slices | None = None,
    ) -> Iterator[tuple[slice, Float[torch.Tensor, "1 1 x y z"]]]:
        """An evaluation of the network on a volume, as in `means`; not clipped.

        control: the condition's, for the slices of one layer of tiles at a time.
        """
        self._require(of.sigma.sigmas if isinstance(of.sigma, NoiseLevels) else (of.sigma,))
        shape = _shape(condition)
        tilings = self.tilings(shape, options.tile, of.blend)
        axes = layout(shape, tilings, options.seed, of.number)
        layers = Layers(
            self.denoiser,
            condition.to(self.device),
            axes,
            self._batch(options),
            options.progress,
            control,
        ).run(x, of.sigma, shape[2], needed)
        while True:
            with torch.inference_mode():  # not around `yield`: the caller would compute in it
                found = next(layers, None)
            if found is None:
                return
            z, x0 = found
            del found
            yield z, x0

    def _require(self, sigmas: Sequence[float]) -> None:
        """`InputError` unless the weights know these noise levels; only distilled ones may not."""
        steps = self.config.distilled_steps
        ensure(
            not steps or {*sigmas} <= {*self.config.noise_schedule.from_noise(steps)},
            f"the weights {self.path.name} are distilled to generate scans in {steps} steps and"
            " support nothing else; use other weights, such as those of their teacher",
        )

    def _batch(self, options: RunOptions) -> int:
        """How many tiles to evaluate at once."""
        return options.batch or (1 if self.device == "cpu" else MOST_TILES)

    def tilings(self, shape: Shape, edge: int, blend: bool = True) -> Tilings:
        """Tiles of at most `edge` for a volume; smaller, and overlapping, if `blend` is set.

        Networks see little beyond a tile's border: its outer two voxels differ from those of a
        larger tile by more than the others do, so tiles overlap by four (docs/explain/log.md).
        """
        multiple = self.config.net.multiple
        if not blend:
            return (Tiling(max(edge // multiple, 3) * multiple, 0, multiple),) * 3
        size = max(int(BLENDED * edge) // multiple, 3) * multiple
        return tilings(shape, size, max(OVERLAP, multiple // 2), multiple)

    def with_lesion(self, condition: Condition, lesion: Float[torch.Tensor, "x y z"]) -> Condition:
        """The condition with a mask of lesions to draw; `InputError` without a control for them."""
        self.require_lesions()
        return replace(condition, control=lesion[None, None])

    def require_lesions(self) -> None:
        """`InputError` without a control for lesions."""
        ensure(
            self.control == "lesion",
            "drawing lesions requires a control trained for them: --control lesion, or"
            " denovox.load('lesion')",
        )

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


def _shape(condition: Condition) -> Shape:
    """Voxels along x, y, z."""
    _, x, y, z = condition.anatomy.shape
    return x, y, z
