"""Training samples drawn on the device of the network: whole batches, from its memory.

Reading, zooming and labelling one sample after another on a CPU keeps a GPU waiting. Here all cases
reside in device memory (int16 HU and labels, all levels of their pyramids), and a batch takes a few
gathers and small matrix products. Samples are planned by `multilevel.plan`, as when reading from a
store: sample n of a seed is the same sample, up to float32 rounding.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Float64, Int64, UInt8
from torch import Tensor

from ...core import labels
from ...core.box import Shape
from ...core.condition import Condition
from ...core.random_field import normals
from ...core.regions import REGIONS
from ...simulate.fbp_noise import coloured
from ..store import Case, Kind, pyramid
from .batch import Batch
from .choice import SampleConfig, chooser
from .control_inputs import low_resolution
from .multilevel import MIRROR, Plan, noise_floor, places, plan, region_id, spacing_mm

STEP = 16  # boxes whose longest edges agree, rounded up to this, are read together


def bytes_of(cases: Sequence[Case], lesions: bool = False) -> int:
    """Memory taken by the cases."""
    voxels = 0
    for case in cases:
        for factors in pyramid(case.facts.shape):
            cells = [-(-n // f) for n, f in zip(case.facts.shape, factors, strict=True)]
            voxels += int(np.prod(cells))
    return voxels * (4 if lesions else 3)


class _Memory:
    """Arrays of one kind, for all cases and levels, concatenated on a device."""

    def __init__(self, cases: Sequence[Case], kind: Kind, device: str) -> None:
        self.begins: dict[tuple[str, int], int] = {}
        parts, total = [], 0
        for case in cases:
            for level in range(len(pyramid(case.facts.shape))):
                array = case.whole(kind, level)
                self.begins[case.facts.id, level] = total
                parts.append(torch.from_numpy(array.ravel()))
                total += array.size
        self.flat = torch.cat(parts).to(device)

    def gather(self, of: _Places, at: Sequence[Int64[Tensor, "b _"]]) -> Tensor:
        """Voxels at x, y, z of the samples' arrays: b nx ny nz."""
        ny, nz = of.shape[:, 1, None], of.shape[:, 2, None]
        x = (of.begins[:, None] + at[0] * ny * nz)[:, :, None, None]
        y, z = (at[1] * nz)[:, None, :, None], at[2][:, None, None, :]
        return self.flat[x + (y + z)]

    def boxes(self, read: Sequence[_Box], edges: Sequence[int]) -> Float[Tensor, "b x y z"]:
        """Boxes of arrays, each zero-padded at the end to these edges."""
        out = torch.zeros((len(read), *edges), device=self.flat.device)
        for whole, box in zip(out, read, strict=True):
            array = self.flat[box.begins : box.begins + math.prod(box.shape)].view(box.shape)
            inner = array[box.voxels]
            whole[tuple(slice(0, n) for n in inner.shape)].copy_(inner)
        return out


@dataclass(frozen=True)
class _Box:
    """A box of voxels in an array that begins at `begins` in memory."""

    begins: int
    shape: Shape
    voxels: tuple[slice, ...]

    @property
    def edges(self) -> list[int]:
        return [s.stop - s.start for s in self.voxels]


@dataclass(frozen=True)
class _Places:
    """Where samples are: start and shape of an array in memory, a box in it (first, count), the
    sample's own box in that (inside, length: fractions of voxels), and whether to mirror it."""

    begins: Int64[Tensor, " b"]
    shape: Int64[Tensor, "b 3"]
    first: Int64[Tensor, "b 3"]
    count: Int64[Tensor, "b 3"]
    inside: Float64[Tensor, "b 3"]
    length: Float64[Tensor, "b 3"]
    mirror: Bool[Tensor, " b"]

    def some(self, which: Int64[Tensor, " c"]) -> _Places:
        """Select some samples."""
        return _Places(*(getattr(self, f.name)[which] for f in fields(self)))

    def centres(self, axis: int, patch: int) -> Float64[Tensor, "b p"]:
        """Voxel centres of the samples along an axis, in box voxels; reversed if mirrored."""
        cells = torch.arange(patch, device=self.inside.device) + 0.5
        size = self.length[:, axis, None] / patch
        centres = self.inside[:, axis, None] + cells * size
        return torch.where(self.mirror[:, None], centres.flip(1), centres) if axis == 0 else centres

    def nearest(self, axis: int, patch: int) -> Int64[Tensor, "b p"]:
        """The array voxels nearest to those centres (core/resample.py `nearest`)."""
        last = self.count[:, axis, None] - 1
        inside = self.centres(axis, patch).floor().long().clamp(min=0)
        return self.first[:, axis, None] + torch.minimum(inside, last)

    def weights(self, axis: int, patch: int, edge: int) -> Float[Tensor, "b p edge"]:
        """The weight of each of `edge` voxels of the box in each voxel of a sample.

        A triangle with a half-width of one sample voxel or one box voxel, whichever is larger,
        renormalised within the box (core/resample.py `resize`).
        """
        voxels = torch.arange(edge, device=self.inside.device)
        centres, count = self.centres(axis, patch), self.count[:, axis, None, None]
        reach = (self.length[:, axis] / patch).clamp(min=1)[:, None, None]
        weights = (1 - (voxels + 0.5 - centres[..., None]).abs() / reach).clamp(min=0)
        weights = weights.where(voxels < count, 0)
        nearest = torch.minimum(centres.floor().long().clamp(min=0)[..., None], count - 1)
        weights = torch.where(weights.sum(-1, True) == 0, (voxels == nearest).double(), weights)
        return (weights / weights.sum(-1, True)).float()


class Resident:
    """A `batch.Draw` on a device: numbers -> the same samples as `multilevel.sampler`."""

    def __init__(
        self, cases: Sequence[Case], config: SampleConfig, seed: int, device: str = "cpu"
    ) -> None:
        """Read all cases; `OSError` if the store cannot be read."""
        self.config, self.seed, self.device = config, seed, device
        self.choose = chooser(cases, config)
        self.ct, self.anatomy = (_Memory(cases, kind, device) for kind in ("ct", "anatomy"))
        control = config.control
        lesions = control is not None and control.kind == "lesion"
        self.lesion = _Memory(cases, "lesion", device) if lesions else None
        self.mirrored = torch.from_numpy(MIRROR).to(device)

    def __call__(self, numbers: Sequence[int]) -> Batch:
        """The samples with these numbers."""
        chosen = []
        for n in numbers:
            rng = np.random.default_rng([self.seed, n])
            case = self.choose(rng)
            chosen.append((case, plan(case, self.config, rng)))
        where, read = self._places(chosen)
        unit = self._unit(chosen, where, read)
        x0 = unit.clamp(-1, 1)
        given, weight, begun = self._control(chosen, where, unit)
        patch = self.config.patch
        axes = self._put([places(case, of, patch) for case, of in chosen]).float()
        x, y, z = (axis.contiguous() for axis in axes.unbind(1))
        return Batch(
            x0,
            self._noise([of for _, of in chosen]),
            np.array([of.u for _, of in chosen]),
            Condition(
                self._put([region_id(case, of) for case, of in chosen]).long(),
                self._anatomy(chosen, where),
                x,
                y,
                z,
                self._put([spacing_mm(case, of, patch) for case, of in chosen]).float(),
                given,
            ),
            tuple(of.level for _, of in chosen),
            weight,
            begun,
            tuple(case.facts.id for case, _ in chosen),
            tuple(noise_floor(case, of, self.config) for case, of in chosen),
        )

    def _put(self, rows: Any) -> Float64[Tensor, "*rows"]:
        """Copy numbers to the device without waiting."""
        values = torch.from_numpy(np.asarray(rows, np.float64))
        pinned = values.pin_memory() if self.device.startswith("cuda") else values
        return pinned.to(self.device, non_blocking=True)

    def _places(self, chosen: list[tuple[Case, Plan]]) -> tuple[_Places, list[_Box]]:
        """Where the samples lie in memory, and the boxes to read there."""
        rows, read = [], []
        for case, of in chosen:
            level, voxels, inside, length = case.reach(of.start, of.size, self.config.grid)
            box = _Box(self.ct.begins[case.facts.id, level], case.shape_of(level), voxels)
            first = [s.start for s in voxels]
            rows.append([box.begins, *box.shape, *first, *box.edges, *inside, *length, of.mirror])
            read.append(box)
        table = self._put(rows)
        whole = table[:, :10].long()
        where = _Places(
            begins=whole[:, 0],
            shape=whole[:, 1:4],
            first=whole[:, 4:7],
            count=whole[:, 7:],
            inside=table[:, 10:13],
            length=table[:, 13:16],
            mirror=table[:, 16] > 0,
        )
        return where, read

    def _unit(
        self, chosen: list[tuple[Case, Plan]], where: _Places, read: list[_Box]
    ) -> Float[Tensor, "b 1 p p p"]:
        """The image of each sample, in model units, not clipped."""
        windows = [REGIONS[case.facts.region].window for case, _ in chosen]
        jitter = [
            (of.factor, of.offset_hu, w.level_hu, w.width_hu / 2)
            for w, (_, of) in zip(windows, chosen, strict=True)
        ]
        factor, offset, level, half = self._put(jitter).float().T[..., None, None, None, None]
        # Group boxes of similar size, so that little padding is needed.
        alike = np.array([-(-max(box.edges) // STEP) for box in read])
        hu = torch.empty((len(chosen), 1, *self.config.grid), device=self.device)
        for size in np.unique(alike):
            some = np.flatnonzero(alike == size)
            which = self._put(some).long()
            hu[which, 0] = self._resized(where.some(which), [read[i] for i in some])
        return (hu * factor + offset - level) / half

    def _resized(self, where: _Places, read: list[_Box]) -> Float[Tensor, "b p p p"]:
        """HU of boxes on the samples' grid."""
        edges = np.max([box.edges for box in read], axis=0).tolist()
        patch = self.config.patch
        x, y, z = (where.weights(axis, patch, edge) for axis, edge in enumerate(edges))
        box = y[:, None] @ (self.ct.boxes(read, edges) @ z.mT[:, None])
        return (x @ box.flatten(2)).view(-1, *self.config.grid)

    def _anatomy(self, chosen: list[tuple[Case, Plan]], where: _Places) -> UInt8[Tensor, "b p p p"]:
        at = [where.nearest(axis, self.config.patch) for axis in range(3)]
        ids = self.anatomy.gather(where, at)
        sides = self._put([i for i, (_, of) in enumerate(chosen) if of.mirror]).long()
        ids[sides] = self.mirrored[ids[sides].int()]
        hidden = self._put([i for i, (_, of) in enumerate(chosen) if not of.show_anatomy]).long()
        ids[hidden] = labels.UNKNOWN
        return ids

    def _control(
        self, chosen: list[tuple[Case, Plan]], where: _Places, unit: Float[Tensor, "b 1 p p p"]
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """(control input, weight of the loss, what noise is added to)."""
        control = self.config.control
        if control is None:
            return None, None, None
        if self.lesion is not None:
            at = [where.nearest(axis, self.config.patch) for axis in range(3)]
            given = self.lesion.gather(where, at).float()[:, None]
            near = F.max_pool3d(given, 3, 1, 1)  # one voxel around them, as in `loss_weight`
            return given, 1 + (control.weight - 1) * near, None
        # Averaging and interpolating are linear along z: one matrix per sample.
        each = np.eye(self.config.patch, dtype=np.float32)[:, None]
        matrices = self._put([low_resolution(each, *of.thick)[:, 0] for _, of in chosen]).float()
        given = (unit @ matrices[:, None, None]).clamp(-1, 1)
        begun = [of.begun for _, of in chosen]
        here = (self._put(begun) > 0).view(-1, 1, 1, 1, 1)
        return given, None, torch.where(here, given, unit.clamp(-1, 1)) if any(begun) else None

    def _noise(self, plans: list[Plan]) -> Float[Tensor, "b 1 p p p"]:
        """White or coloured, as planned; the same numbers as `multilevel.noise_of`."""
        grid = self.config.grid
        noise = torch.empty((len(plans), 1, *grid), device=self.device)
        for is_white in (True, False):
            some = [i for i, of in enumerate(plans) if (of.grain is None) == is_white]
            if not some:
                continue
            seeds = [plans[i].noise for i in some]
            grains = [grain for i in some if (grain := plans[i].grain) is not None]
            which = self._put(some).long()
            noise[which] = (
                normals(seeds, grid, self.device)
                if is_white
                else coloured(grains, seeds, grid, self.device)
            )
        return noise
