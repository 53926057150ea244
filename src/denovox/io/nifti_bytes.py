"""NIfTI files as bytes: parsing the header, stored values to HU and back, atomic writing.

Everything before the voxels (header, extensions, byte order) is kept and written back untouched,
and a voxel whose HU did not change gets its stored value back. nibabel interprets the header but
does not write it, because it would normalise it. Other modules use `nifti.py`.
"""

# mypy: allow-untyped-calls
# (nibabel's functions are untyped)

from __future__ import annotations

import itertools
import logging
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import nibabel
import numpy as np
from jaxtyping import Float, Integer, Shaped
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from ..core.errors import InputError, ensure, line
from ..core.on_disk import release
from . import atomic
from .gzip_stream import unpacked, write_packed
from .missing import fill_missing
from .nifti_geometry import geometry

SUFFIXES = (".nii", ".nii.gz")
_RAS = np.array([[0, 1], [1, 1], [2, 1]])
_HEADER = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}  # by the size it states
PLANES = 16  # slices copied at a time: as many as fit in a line of the cache
_MOST_HEAD = 2**26  # bytes before the voxels: the header and its extensions
_log = logging.getLogger(__name__)  # receives nibabel's notes on header repairs
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """What a file contained, so that `write` can reproduce it.

    head: all bytes before the voxels. raw: stored values in the file's own axes, type and byte
    order. HU = raw * slope + inter. affine: of the Volume that was read. ornt: the nibabel
    orientation that takes an array from the Volume's axes to the file's. notes: what the file
    states twice and differently, and what was ignored.
    """

    path: Path
    head: bytes = field(repr=False)
    # Kept because float32 HU do not always map back to it (int32, or a float with a slope).
    raw: Shaped[np.ndarray, "i j k"] = field(repr=False)
    slope: float
    inter: float
    ornt: Integer[np.ndarray, "3 2"]
    affine: Float[np.ndarray, "4 4"]
    notes: tuple[str, ...] = ()

    @property
    def dtype(self) -> np.dtype:
        """The type of the HU: float64 if the file stores that, else float32."""
        wide = self.raw.dtype.kind == "f" and self.raw.dtype.itemsize > 4
        return np.dtype(np.float64 if wide else np.float32)

    @property
    def as_stored(self) -> bool:
        """Whether HU are the stored values: small integers, which float32 holds exactly."""
        small = self.raw.dtype.kind in "iu" and self.raw.dtype.itemsize <= 2
        return small and (self.slope, self.inter) == (1, 0)

    def decode(self, plane: Shaped[np.ndarray, "*ijk"], dtype: np.dtype) -> np.ndarray:
        """Stored values -> HU."""
        if self.as_stored:
            return plane.astype(dtype)
        with np.errstate(over="ignore", invalid="ignore"):  # the reader counts non-finite voxels
            return (plane.astype(np.float64) * self.slope + self.inter).astype(dtype)

    def planes(self, hu: Float[np.ndarray, "x y z"]) -> Iterator[np.ndarray]:
        """The planes of the file for these HU; unchanged voxels keep their stored value."""
        new = apply_orientation(hu, self.ornt)
        for k, plane in enumerate(each_slice(new)):
            raw = self.raw[..., k]
            encoded = _encode(plane, raw.dtype, self.slope, self.inter)
            if not self.as_stored:
                same = plane.astype(self.dtype) == self.decode(raw, self.dtype)
                encoded[same] = raw[same]
            yield encoded


# ---- reading ------------------------------------------------------------------------------------


def load(path: Path) -> NiftiSource:
    """Read what CT and label maps have in common; `InputError` if the file is unusable.

    Reads no more than the header specifies, and allocates nothing that the file cannot fill.
    """
    with unpacked(path) as file:
        start = file.head(max(_HEADER))
        stated, header = _header(path, start)
        dtype, shape = header.get_data_dtype(), header.get_data_shape()
        volumes = math.prod(shape[3:])
        real = dtype.kind in "iuf"
        ensure(real, f"{path} stores colours or complex numbers; give the original CT")
        ensure(shape and min(shape) > 0, f"{path} has no voxels (shape {shape}); export it again")
        ensure(
            volumes == 1, f"{path} holds {volumes} volumes (shape {shape}); split it and give one"
        )
        solid = len(shape) > 2 and min(shape[:3]) > 1
        ensure(solid, f"{path} is a single 2D slice (shape {shape}); give a whole 3D volume")
        _check_type(path, stated, dtype)
        affine, notes = geometry(path, stated, header)
        # A header may say 0 (unset); voxels never begin before the header ends.
        offset = max(header.get_data_offset(), header.single_vox_offset)
        size = math.prod(shape)  # Python integers: a broken header must not overflow
        file.require(offset + size * dtype.itemsize)
        late = f"{path} states an implausible header size of {offset} bytes; convert it again"
        ensure(offset <= _MOST_HEAD, late)
        start += file.head(max(0, offset - len(start)))
        raw = file.values(size, dtype, start[offset:]).reshape(shape[:3], order="F")
        left, behind = file.check_end()
    left += max(0, len(start) - offset - raw.nbytes)  # of a file as short as a header
    _check_begin(path, start, header, offset, left)
    notes += _left_over(path, raw, left, behind)
    slope, inter = header.get_slope_inter()
    if slope is None:  # 0 or NaN: values are used as stored
        notes += _not_scaled(float(stated["scl_slope"]), float(stated["scl_inter"]))
        slope, inter = 1.0, 0.0
    ornt = io_orientation(affine)
    to_file = ornt_transform(_RAS, ornt).astype(int)
    nearest_ras = affine @ inv_ornt_aff(ornt, raw.shape)
    return NiftiSource(path, start[:offset], raw, slope, inter, to_file, nearest_ras, notes)


def _header(path: Path, data: bytes) -> tuple[nibabel.Nifti1Header, nibabel.Nifti1Header]:
    """The header as it is, and as repaired by nibabel, which does not affect the bytes we keep."""
    claims = {int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")}
    size = next((size for size in _HEADER if size in claims), 0)
    known = size and len(data) >= size
    ensure(known, f"{path} is not a NIfTI file; convert it to .nii or .nii.gz")
    order = "<" if int.from_bytes(data[:4], "little") == size else ">"
    try:
        header = _HEADER[size](data[:size], order, check=False)
        axes = int(header["dim"][0])
        ensure(0 <= axes < 8, f"{path} states that it has {axes} axes; convert it again")
        stated = header.copy()
        header.check_fix(logger=_log)
        header.get_data_dtype(), header.get_data_shape(), header.get_data_offset()
        header.get_slope_inter(), header.get_best_affine()  # used later; broken ones raise here
    except (HeaderDataError, ValueError, OverflowError) as error:
        broken = f"{path} is not a valid NIfTI file ({line(error)}); convert it again"
        raise InputError(broken) from error
    single = header["magic"].item() == header.single_magic
    ensure(single, f"{path} is half of a .hdr/.img pair; convert it to one .nii file")
    return stated, header


def _check_type(path: Path, stated: nibabel.Nifti1Header, dtype: np.dtype) -> None:
    """`InputError` if the header states another number of bits than its data type has."""
    bits, own = int(stated["bitpix"]), 8 * dtype.itemsize
    two = f"{path} states two data types: {dtype.name}, of {own} bits, and {bits} bits (bitpix)"
    ensure(bits in (0, own), f"{two}; convert it again")


def _check_begin(
    path: Path, start: bytes, header: nibabel.Nifti1Header, offset: int, left: int
) -> None:
    """`InputError` if the voxels are said to begin within an extension of the header."""
    first = at = header.single_vox_offset
    if not start[first - 4]:  # no extensions
        return
    order: Literal["little", "big"] = "little" if header.endianness == "<" else "big"
    while at + 8 <= offset:
        size = int.from_bytes(start[at : at + 4], order)
        if size < 8:
            break
        at += size
    within = f"{path} states that its voxels begin at byte {offset}, within an extension of its"
    ensure(at <= offset and (offset > first or not left), f"{within} header; convert it again")


def _not_scaled(slope: float, inter: float) -> tuple[str, ...]:
    """A note on a slope or an intercept that is not used, unless both are plainly unset."""
    added = math.isfinite(inter) and inter != 0
    if not (added or math.isinf(slope)):
        return ()
    stated = f"its slope is {slope:g} and its intercept {inter:g}"
    return (f"{stated}: values were taken as stored, since such a slope means unset in NIfTI",)


def _left_over(
    path: Path, raw: Shaped[np.ndarray, "i j k"], left: int, behind: int
) -> tuple[str, ...]:
    """A note on bytes after the voxels; `InputError` if these are enough for more voxels.

    left: bytes after the voxels. behind: bytes after the last gzip member.
    """
    layer = raw.nbytes // max(raw.shape)
    shown = f"{' x '.join(map(str, raw.shape))} voxels of {raw.dtype.name}"
    more = f"{path} holds {left} bytes more than the {shown} that its header states"
    ensure(left < layer, f"{more}; convert it again")
    return (f"{left + behind} bytes after the voxels were ignored",) if left + behind else ()


def decoded(
    source: NiftiSource, dtype: np.dtype, padding: float | None = None
) -> tuple[Float[np.ndarray, "x y z"], tuple[str, ...]]:
    """All values of a file, contiguous, in the axes closest to RAS, and notes on what is missing.

    padding, `InputError`: as of `missing.fill_missing`.
    """
    values = np.empty([source.raw.shape[axis] for axis in source.ornt[:, 0]], dtype)
    in_file = apply_orientation(values, source.ornt)  # a view: filling it fills `values`
    bad = False
    for k in range(0, source.raw.shape[2], PLANES):  # no second copy of the volume
        some = slice(k, k + PLANES)
        planes = in_file[..., some] = source.decode(source.raw[..., some], dtype)
        if not source.as_stored:
            bad = bad or not np.isfinite(planes).all()
    return values, fill_missing(values, source.path, padding) if bad else ()


# ---- writing ------------------------------------------------------------------------------------


def check_writable(path: str | Path, force: bool = False) -> None:
    """Raise `InputError` if a file could not be written; call this before the computation."""
    atomic.check_writable(path, force, SUFFIXES)


def _encode(
    plane: np.ndarray, dtype: np.dtype, slope: float = 1.0, inter: float = 0.0
) -> Shaped[np.ndarray, "i j"]:
    """HU -> stored values: rounded for integer types, clipped to the range of the type."""
    as_stored = (slope, inter) == (1, 0)
    if as_stored and plane.dtype == dtype:
        return plane
    # float32 holds every integer of 16 bits.
    narrow = plane.dtype == np.float32 and dtype.kind in "iu" and dtype.itemsize <= 2
    values = plane if as_stored and narrow else (plane.astype(np.float64) - inter) / slope
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    high = float(limits.max)
    if dtype.kind != "f":
        values = np.rint(values)
        high = high if dtype.itemsize < 8 else float(np.nextafter(high, 0))  # 2**63 - 1
    return np.clip(values, float(limits.min), high).astype(dtype)


def each_slice(array: Shaped[np.ndarray, "x y z"]) -> Iterator[Shaped[np.ndarray, "x y"]]:
    """Its slices, copied a few at a time: each is scattered over all of its memory."""
    for k in range(0, array.shape[2], PLANES):
        yield from np.moveaxis(array[..., k : k + PLANES], 2, 0).copy()
        release(array)


def save_new(
    array: Shaped[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    dtype: np.dtype,
    path: str | Path,
    force: bool,
) -> None:
    """Write an array in RAS without a source file, as NIfTI-1 of an integer type."""
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(array.shape)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)  # drops shears, which a quaternion cannot express; sform keeps them
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    header["vox_offset"] = header.single_vox_offset
    head = bytes(header.binaryblock) + bytes(4)  # four zeros: no extensions
    save(path, force, head, (_encode(plane, dtype) for plane in each_slice(array)))


def save(path: str | Path, force: bool, head: bytes, planes: Iterator[np.ndarray]) -> None:
    """Write a file in full or not at all; `InputError` if that fails."""
    check_writable(path, force)
    parts = itertools.chain([head], (plane.tobytes("F") for plane in planes))
    with atomic.user_output(path), atomic.open_file(path) as file:
        if str(path).lower().endswith(".gz"):
            write_packed(file, parts)
        else:
            file.writelines(parts)
