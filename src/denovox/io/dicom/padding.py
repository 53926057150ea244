"""What the words of a DICOM series hold besides HU: padding, and bits above those declared.

A stated padding value (PS3.3 C.7.5.1.1.2) may be that of a tissue: 0 where HU are stored directly.
Whether voxels with this value are padding is decided by what they are, over the whole series.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from jaxtyping import Bool, Float, Shaped, UInt8

from ...core.errors import InputError
from ...core.morphology import reaching
from .geometry import AIR_HU
from .planes import Plane

MEASURED_HU = (-1000.0, 3071.0)  # above the first and up to the second, a value may be measured
MANY = 0.01  # share of the voxels beyond which lost bits destroy an image
SMOOTH = 1 / 8  # of the range of values: neighbours mostly differ by less


@dataclass(frozen=True)
class Layout:
    """How values are stored. allocated: bits per word; stored: low bits used. padding: inclusive
    range of (signed) stored values; None if there is none. overlays: bits above that hold some."""

    allocated: int
    stored: int
    signed: bool
    padding: tuple[int, int] | None
    overlays: int = 0

    def values(self, words: Shaped[np.ndarray, "*s"]) -> Shaped[np.ndarray, "*s"]:
        """Stored words -> numbers; bits above those used are ignored (old overlays)."""
        return self._numbers(words, self.stored)

    @property
    def distinct(self) -> bool:
        """Whether padding lies outside the range of the used bits, in the bits above."""
        low, high = self.padding or (0, 0)
        sign = 1 << (self.stored - 1)
        least, most = (-sign, sign - 1) if self.signed else (0, 2 * sign - 1)
        return not (least <= low and high <= most)

    def padded(self, words: Shaped[np.ndarray, "*s"]) -> Bool[np.ndarray, "*s"] | None:
        """Where a plane is marked as padding."""
        if self.padding is None:
            return None
        low, high = self.padding
        values = self._numbers(words, self.allocated if self.distinct else self.stored)
        return (values >= low) & (values <= high)

    def beyond(self, words: Shaped[np.ndarray, "*s"]) -> Shaped[np.ndarray, "*s"] | None:
        """What the bits above those used hold; 0 for nothing, overlays or the sign; None: all 0."""
        if self.stored == self.allocated:
            return None
        above = (1 << (self.allocated - self.stored)) - 1 & ~self.overlays
        upper = words >> self.stored & above
        if self.signed:
            negative = words >> (self.stored - 1) & 1 == 1
            extended = negative & (upper == above)
            if extended.any():  # then a negative value without the sign above is a positive one
                upper[negative & (upper == 0)] = above + 1
            upper[extended] = 0
        return upper if upper.any() else None

    def _numbers(self, words: Shaped[np.ndarray, "*s"], bits: int) -> Shaped[np.ndarray, "*s"]:
        wide = np.int64 if words.itemsize > 2 else np.int32
        plain = np.bitwise_and(words.astype(wide), (1 << bits) - 1)
        return (plain ^ (1 << (bits - 1))) - (1 << (bits - 1)) if self.signed else plain


@dataclass
class Marks:
    """What was found in the words of a series, plane by plane; `settle` draws the conclusions."""

    voxels: int = 0
    padded: int = 0  # voxels that became air
    padding: set[tuple[int, int]] = field(default_factory=set)
    doubtful: dict[Plane, UInt8[np.ndarray, " n"]] = field(default_factory=dict)
    stored: int = 0  # bits
    beyond: int = 0  # voxels
    edges: int = 0  # pairs of neighbours that differ in the bits above,
    smooth: int = 0  # and those of them that hardly differ in the bits below

    def hu(
        self, words: Shaped[np.ndarray, "rows columns"], layout: Layout, plane: Plane
    ) -> Float[np.ndarray, "columns rows"]:
        """Stored values of a plane -> HU; what is certainly padding becomes air."""
        values = layout.values(words)
        hu = (values * plane.slope + plane.inter).astype(np.float32)
        padded = layout.padded(words)
        self.voxels += hu.size
        self._note_beyond(words, values, layout, padded)
        if padded is not None and layout.padding is not None and padded.any():
            low, high = MEASURED_HU
            measured = padded & (hu > low) & (hu <= high)
            if measured.any() and not layout.distinct:
                self.doubtful[plane] = np.packbits(measured.T)
                padded &= ~measured
                self.padding.add(layout.padding)
            elif (hu[padded] != AIR_HU).any():
                self.padding.add(layout.padding)
            self.padded += int(np.count_nonzero(hu[padded] != AIR_HU))
            hu[padded] = AIR_HU
        return hu.T

    def _note_beyond(
        self,
        words: Shaped[np.ndarray, "rows columns"],
        values: Shaped[np.ndarray, "rows columns"],
        layout: Layout,
        padded: Bool[np.ndarray, "rows columns"] | None,
    ) -> None:
        upper = layout.beyond(words)
        if upper is None:
            return
        if padded is not None:
            upper[padded] = 0
        self.stored = layout.stored
        self.beyond += int(np.count_nonzero(upper))
        raw = words >> layout.stored
        differ = (upper[1:] != upper[:-1]) & (raw.min() < raw.max())  # if constant, no value
        if padded is not None:
            differ &= ~(padded[1:] | padded[:-1])
        jumps = np.abs(values[1:].astype(np.int64) - values[:-1])[differ]
        self.edges += jumps.size
        self.smooth += int(np.count_nonzero(jumps < (1 << layout.stored) * SMOOTH))

    def settle(
        self, out: Float[np.ndarray, "columns rows slices"], k_of: dict[Plane, int]
    ) -> list[str]:
        """Turn the rest of the padding in a series' HU into air; notes on what was done.

        Doubtful voxels are padding if they form regions three voxels thick that reach the sides of
        the slices: measured tissue has noise. `InputError` where bits above those declared belong
        to the values.
        """
        notes = self._bits()
        doubtful, reached, values = 0, 0, (0.0, 0.0)
        if self.doubtful:
            mask = np.zeros(out.shape, bool)
            for plane, bits in self.doubtful.items():
                flat = np.unpackbits(bits, count=out[..., 0].size).view(bool)
                mask[..., k_of[plane]] = flat.reshape(out.shape[:2])
            values = float(out[mask].min()), float(out[mask].max())
            doubtful = int(np.count_nonzero(mask))
            mask = reaching(mask, (0, 1))
            reached = int(np.count_nonzero(mask))
            out[mask] = AIR_HU
        stated = ", ".join(_range(*ends) for ends in sorted(self.padding))
        if total := self.padded + reached:
            share = f"{total} voxels ({total / self.voxels:.2%})"
            notes.append(f"padding: {share} with the padding value {stated} were read as air")
        if doubtful > reached:
            notes.append(
                f"padding: {doubtful - reached} voxels with the padding value {stated} were kept:"
                f" it is {_range(*values)} HU, a value of tissue, and they do not"
                " form a border of the slices"
            )
        return notes

    def _bits(self) -> list[str]:
        if not self.beyond:
            return []
        share = self.beyond / self.voxels
        if share >= MANY and self.smooth < self.edges / 2:
            raise InputError(
                f"has values of more than the {self.stored} bits that it states (BitsStored), in"
                f" {share:.1%} of its voxels; export it again"
            )
        return [
            f"{self.beyond} voxels ({share:.2%}) use bits above the {self.stored} that are stated"
            " (BitsStored); these bits were ignored"
        ]


def _range(low: float, high: float) -> str:
    return f"{low:g}" if low == high else f"{low:g} to {high:g}"
