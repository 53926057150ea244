"""What a network is conditioned on: region, anatomy, position, spacing, control (Method 1)."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace
from typing import Literal

import torch
from jaxtyping import Float, Int64, Shaped, UInt8
from torch import Tensor

from .box import Box, Shape, coordinates
from .labels import UNKNOWN
from .regions import UNKNOWN_REGION

ControlKind = Literal["lesion", "low-resolution"]


@dataclass(frozen=True)
class Condition:
    """Conditions for a batch of boxes.

    region: class ids from core/regions, 0 for unknown.
    anatomy: label ids from core/labels at each voxel, 0 for unknown.
    position_x, _y, _z: coordinates of the voxels in the whole volume, -1 to 1 along each axis; the
        map of Method 1 is their outer product and is never materialised.
    spacing_mm: voxel size along x, y, z. Our addition: one network serves many spacings.
    control: the input of a ControlNet (lesion mask, low-resolution image), or None.
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
        """The conditions of a box inside this one, extrapolated where it extends past the end.

        box: in voxels of this condition's grid.
        """
        ends = list(zip(box.start, box.stop, strict=True))
        x, y, z = (_extend(p, *each) for p, each in zip(self.position, ends, strict=True))
        return replace(
            self,
            anatomy=_pick(self.anatomy, ends),
            position_x=x,
            position_y=y,
            position_z=z,
            control=None if self.control is None else _pick(self.control, ends),
        )

    def rows(self, of: slice | Int64[Tensor, " n"]) -> Condition:
        """The conditions of some members of the batch."""
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        return replace(self, **{k: v[of] for k, v in tensors.items() if v is not None})

    def to(self, device: torch.device | str) -> Condition:
        """The same conditions on another device; transfers to a GPU do not block."""
        gpu = str(device) != "cpu"
        tensors = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device, non_blocking=gpu) for k, v in tensors.items() if v is not None}
        return replace(self, **moved)


def _pick(
    values: Shaped[Tensor, "*b x y z"], ends: list[tuple[int, int]]
) -> Shaped[Tensor, "*b u v w"]:
    """Voxels of a map along its last three axes, as a view; past the end, the last is repeated."""
    first = values.dim() - 3
    for axis, (start, stop) in enumerate(ends, start=first):
        begin = min(start, values.shape[axis] - 1)
        values = values.narrow(axis, begin, min(stop, values.shape[axis]) - begin)
    for axis, (start, stop) in enumerate(ends, start=first):
        if stop - start > values.shape[axis]:
            inside = torch.arange(stop - start, device=values.device)
            values = values.index_select(axis, inside.clamp(max=values.shape[axis] - 1))
    return values


def _extend(position: Float[Tensor, "b n"], start: int, stop: int) -> Float[Tensor, "b m"]:
    """Coordinates at voxels [start, stop), extrapolated linearly beyond the last one."""
    n = position.shape[1]
    if stop <= n:
        return position[:, start:stop]
    step = (position[:, -1:] - position[:, :1]) / max(n - 1, 1)
    return position[:, :1] + step * torch.arange(start, stop, device=position.device)


def condition(
    shape: Shape,
    spacing_mm: tuple[float, float, float],
    region_id: int = UNKNOWN_REGION,
    anatomy: UInt8[Tensor, "x y z"] | None = None,
) -> Condition:
    """The condition of a whole volume of `shape` voxels; anatomy None: unknown everywhere."""
    if anatomy is None:
        anatomy = torch.full((1, 1, 1), UNKNOWN, dtype=torch.uint8).expand(shape)
    x, y, z = (torch.from_numpy(coordinates(0, n, n, n))[None] for n in shape)
    spacing = torch.tensor([spacing_mm], dtype=torch.float32)
    return Condition(torch.tensor([region_id]), anatomy[None], x, y, z, spacing)


def batch(conditions: list[Condition]) -> Condition:
    """Conditions of boxes of the same shape as one batch; either all have a control or none."""
    columns = {f.name: [getattr(c, f.name) for c in conditions] for f in fields(Condition)}
    joined = {k: torch.cat(v) for k, v in columns.items() if v[0] is not None}
    return replace(conditions[0], **joined)
