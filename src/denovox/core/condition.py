"""What a network is told of its input: region, anatomy, position, spacing, control (METHOD 1)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from .box import Box, Shape, coordinates
from .box import whole as whole_box
from .labels import UNKNOWN
from .regions import UNKNOWN_REGION

ControlKind = Literal["lesion", "low-resolution"]


@dataclass(frozen=True)
class Condition:
    """Conditions of a batch of boxes.

    region: class ids of core/regions, 0 for unknown.
    anatomy: label ids of core/labels at each voxel, 0 for unknown.
    position_x, _y, _z: coordinates of the voxels in the whole volume, -1 to 1 along each axis; the
        map of METHOD 1 is their outer product and is never written out.
    spacing_mm: voxel size along x, y, z. Ours: one network serves many spacings and is told which.
    control: what a ControlNet is told besides (lesion mask, low-resolution image); None: nothing.
    """

    region: Int64[Tensor, " b"]
    anatomy: UInt8[Tensor, "b x y z"]
    position_x: Float[Tensor, "b x"]
    position_y: Float[Tensor, "b y"]
    position_z: Float[Tensor, "b z"]
    spacing_mm: Float[Tensor, "b 3"]
    control: Float[Tensor, "b c x y z"] | None = None

    @property
    def position(self) -> tuple[Tensor, Tensor, Tensor]:
        """Coordinates along x, y, z."""
        return self.position_x, self.position_y, self.position_z

    def crop(self, box: Box) -> Condition:
        """Conditions of a box inside this one; a box that reaches past the end sees the edge go on.

        box: voxels of this condition's own grid.
        """
        picks = [
            torch.arange(a, b, device=self.anatomy.device)
            for a, b in zip(box.start, box.stop, strict=True)
        ]
        x, y, z = (_extend(p, i) for p, i in zip(self.position, picks, strict=True))
        return replace(
            self,
            anatomy=_pick(self.anatomy, picks),
            position_x=x,
            position_y=y,
            position_z=z,
            control=None if self.control is None else _pick(self.control, picks),
        )

    def to(self, device: torch.device | str) -> Condition:
        """The same on another device; a GPU's work is not waited for on the way there."""
        ahead = str(device) != "cpu"
        told = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device, non_blocking=ahead) for k, v in told.items() if v is not None}
        return replace(self, **moved)


def _pick(values: Shaped[Tensor, "*b x y z"], picks: list[Tensor]) -> Shaped[Tensor, "*b u v w"]:
    """Voxels of a map along its last three axes; beyond the end the last one goes on."""
    for axis, pick in enumerate(picks, start=values.dim() - 3):
        values = values.index_select(axis, pick.clamp(max=values.shape[axis] - 1))
    return values


def _extend(position: Float[Tensor, "b n"], pick: Int64[Tensor, " m"]) -> Float[Tensor, "b m"]:
    """Coordinates at voxels `pick`; beyond the last one they go on at the same pace."""
    n = position.shape[1]
    if int(pick[-1]) < n:
        return position[:, pick]
    pace = (position[:, -1:] - position[:, :1]) / max(n - 1, 1)
    return position[:, :1] + pace * pick


def condition(
    shape: Shape,
    spacing_mm: tuple[float, float, float],
    region_id: int = UNKNOWN_REGION,
    anatomy: UInt8[Tensor, "x y z"] | None = None,
) -> Condition:
    """The condition of one whole volume of `shape` voxels; without a label map all is unknown."""
    if anatomy is None:
        anatomy = torch.full(shape, UNKNOWN, dtype=torch.uint8)
    box = whole_box(shape)
    x, y, z = (
        torch.from_numpy(coordinates(a, n, n, n))[None]
        for a, n in zip(box.start, box.size, strict=True)
    )
    spacing = torch.tensor([spacing_mm], dtype=torch.float32)
    return Condition(torch.tensor([region_id]), anatomy[None], x, y, z, spacing)


def batch(conditions: list[Condition]) -> Condition:
    """Conditions of boxes of one shape as one batch; all have a control, or none has."""
    columns = {f.name: [getattr(c, f.name) for c in conditions] for f in fields(Condition)}
    joined = {k: torch.cat(v) for k, v in columns.items() if v[0] is not None}
    return replace(conditions[0], **joined)
