"""A CT volume in Hounsfield units, and the window that converts between HU and model units.

Everywhere in denovox, an array's axes are x, y, z in the orientation nearest to RAS: indices
increase towards the patient's Right, Anterior and Superior. Only `io/nifti.py` knows how a file
stores them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from .errors import ensure

if TYPE_CHECKING:
    from .display.notebook import Comparison

# Corners of one grid may differ by this much. float32 headers and decimals in text round to less
# (about 1e-3 mm), and a real misplacement is at least a large part of a voxel (0.1 mm or more).
GRID_TOLERANCE_MM = 0.01
# Lengths may differ by this share: voxels of 0.7 mm may come back from a file as 0.69999999
# (float32 in a NIfTI header) or as 0.6998 (decimals in text).
LENGTH_TOLERANCE = 1e-3


def within(length: float, low: float, high: float = math.inf) -> bool:
    """Whether a length is from low to high (in its unit), except for what files round."""
    return bool(low * (1 - LENGTH_TOLERANCE) <= length <= high * (1 + LENGTH_TOLERANCE))


def spacing_of(affine: Float[np.ndarray, "4 4"]) -> tuple[float, float, float]:
    """Distance in mm between voxel centres along the three axes of an affine."""
    x, y, z = np.linalg.norm(affine[:3, :3], axis=0)
    return float(x), float(y), float(z)


@dataclass(frozen=True, eq=False)
class Grid:
    """Where voxels are. affine: 4x4, voxel index -> millimetres in RAS+."""

    shape: tuple[int, ...]
    affine: Float[np.ndarray, "4 4"]

    @property
    def corners(self) -> Float[np.ndarray, "8 3"]:
        """Positions of the 8 corner voxels, mm."""
        index = np.indices((2, 2, 2)).reshape(3, 8).T * (np.array(self.shape) - 1)
        return index @ self.affine[:3, :3].T + self.affine[:3, 3]

    def __str__(self) -> str:
        """In words, for messages that compare two."""
        first, last = (", ".join(f"{mm:.2f}" for mm in at) for at in self.corners[[0, 7]])
        mm = " x ".join(f"{step:.4g}" for step in spacing_of(self.affine))
        voxels = " x ".join(map(str, self.shape))
        return f"{voxels} voxels of {mm} mm from ({first}) to ({last}) mm"

    def matches(self, other: Grid) -> bool:
        """Whether these are the same voxels: no corner is off by more than the tolerance."""
        if self.shape != other.shape:
            return False
        apart = np.linalg.norm(self.corners - other.corners, axis=1)
        return bool(apart.max() <= GRID_TOLERANCE_MM)

    def require(self, like: Grid, name: object, other: object = "its CT") -> None:
        """`InputError`, with both geometries, unless the voxels of `name` are those of `other`."""
        ensure(self.matches(like), self.unlike(like, name, other))

    def unlike(self, like: Grid, name: object, other: object = "its CT") -> str:
        """The sentence for two grids that differ."""
        both = f"it has {self}, and {other} has {like}"
        return f"{name} is not on the grid of {other}: {both}; resample one of them to the other"


@dataclass(frozen=True)
class Volume:
    """HU on a grid in space.

    hu: float array, x y z nearest to RAS, Hounsfield units.
    affine: 4x4, voxel index of `hu` -> millimetres in RAS+.
    source: the reader's record of the file, which is passed on to the writer; None for a volume
        that was not read from a file.
    """

    hu: Float[np.ndarray, "x y z"]
    affine: Float[np.ndarray, "4 4"]
    source: Any = None

    @property
    def shape(self) -> tuple[int, int, int]:
        """Voxels along x, y, z."""
        x, y, z = self.hu.shape
        return x, y, z

    @property
    def spacing_mm(self) -> tuple[float, float, float]:
        """Distance between voxel centres along x, y, z."""
        return spacing_of(self.affine)

    @property
    def grid(self) -> Grid:
        """Where its voxels are."""
        return Grid(self.shape, self.affine)

    @classmethod
    def from_numpy(
        cls, values: Any, affine: Any = None, *, spacing_mm: Any = None, axes: str = "xyz"
    ) -> Volume:
        """A 3D array in HU.

        affine: 4 x 4, voxel index (x, y, z) -> mm in RAS+, regardless of the order of the array's
        axes; or spacing_mm: one voxel size or three, x y z, for axes that point to Right, Anterior
        and Superior. axes: order of the array's axes, "xyz" or "zyx" (as in ITK). `InputError` if
        it is not a single finite 3D array with a valid geometry.
        """
        from .conversions import from_numpy

        return cls(*from_numpy(values, affine, spacing_mm, axes))

    @classmethod
    def from_nibabel(cls, image: Any) -> Volume:
        """A nibabel image in HU; `InputError` if it is not a single finite 3D image."""
        from .conversions import from_nibabel

        return cls(*from_nibabel(image))

    def to_nibabel(self) -> Any:
        """A nibabel `Nifti1Image` in RAS."""
        from .conversions import to_nibabel

        return to_nibabel(self.hu, self.affine)

    @classmethod
    def from_sitk(cls, image: Any) -> Volume:
        """A SimpleITK image in HU; `InputError` if it is not a single finite 3D scalar image."""
        from .conversions import from_sitk

        return cls(*from_sitk(image))

    def to_sitk(self) -> Any:
        """A SimpleITK image; `InputError` if the axes are not perpendicular."""
        from .conversions import to_sitk

        return to_sitk(self.hu, self.affine)

    @classmethod
    def from_metatensor(cls, tensor: Any) -> Volume:
        """A MONAI `MetaTensor` in HU, (x, y, z) or (1, x, y, z); `InputError` otherwise."""
        from .conversions import from_metatensor

        return cls(*from_metatensor(tensor))

    def to_metatensor(self, like: Any = None) -> Any:
        """A MONAI `MetaTensor` (1, x, y, z), its affine in RAS mm.

        like: the `MetaTensor` that this volume was computed from, whose axes, shape, metadata and
        applied transforms the result has; `InputError` where it has another number of voxels.
        """
        from .conversions import to_metatensor

        return to_metatensor(self.hu, self.affine, like)

    def _repr_html_(self) -> str:
        """Three planes and the grid, for Jupyter."""
        from .display.planes import html

        return html(self.hu, self.spacing_mm)

    def _repr_mimebundle_(self, include: Any = None, exclude: Any = None) -> Any:
        """A viewer of the planes, for Jupyter with ipyniivue; None without."""
        from .display.notebook import mimebundle

        return mimebundle(self)

    def compared_with(self, before: Volume) -> Comparison:
        """This scan and the one it was computed from, for Jupyter to show: with ipyniivue (the
        extra `notebook`) in a viewer with a before/after slider, else three planes of each.

        `InputError` where they are not on one grid.
        """
        from .display.notebook import Comparison

        before.grid.require(self.grid, "the scan before", "the scan after")
        return Comparison(before, self)

    def with_hu(self, hu: Float[np.ndarray, "x y z"]) -> Volume:
        """The same grid and source with new values; `ValueError` if the shape differs."""
        if hu.shape != self.hu.shape:
            raise ValueError(f"shape {hu.shape} does not match the grid's {self.hu.shape}")
        return replace(self, hu=hu)

    def slices(self, z: slice) -> Volume:
        """Consecutive axial slices at the same place in space: a view, not a copy.

        Without the source, which describes the whole file. `ValueError` for a step other than 1.
        """
        start, _, step = z.indices(self.hu.shape[2])
        if step != 1:
            raise ValueError(f"slices must be consecutive, not in steps of {step}")
        affine = self.affine.copy()
        affine[:3, 3] += start * self.affine[:3, 2]
        return Volume(self.hu[..., z], affine)


@dataclass(frozen=True)
class Window:
    """An HU window; [low, high] HU is [-1, 1] in model units (Method 1)."""

    width_hu: float
    level_hu: float

    @property
    def low_hu(self) -> float:
        """The HU value of -1 in model units."""
        return self.level_hu - self.width_hu / 2

    @property
    def high_hu(self) -> float:
        """The HU value of +1 in model units."""
        return self.level_hu + self.width_hu / 2

    def unit(self, hu: Any) -> Any:
        """HU (array or tensor) -> model units, not clipped."""
        return (hu - self.level_hu) / (self.width_hu / 2)

    def hu(self, unit: Any) -> Any:
        """Model units (array or tensor) -> HU; the inverse of `unit`."""
        return unit * (self.width_hu / 2) + self.level_hu

    def sigma(self, noise_hu: float) -> float:
        """A standard deviation in HU -> model units (Method 3: width/2 HU is 1 unit)."""
        return noise_hu / (self.width_hu / 2)
