"""NIfTI files as bytes: the header taken in, stored values to HU and back, whole files or none.

Everything before the voxels (header, extensions, byte order) is kept and goes back untouched, and
a voxel whose HU did not change gets its own stored value back. nibabel interprets the header; it
does not write, because it would normalise what it saw. `nifti.py` is what others use.
"""

# mypy: allow-untyped-calls
# (nibabel's functions carry no types)

from __future__ import annotations

import gzip
import logging
import math
import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO

import nibabel
import numpy as np
from jaxtyping import Float, Integer, Shaped
from nibabel.orientations import apply_orientation, inv_ornt_aff, io_orientation, ornt_transform
from nibabel.spatialimages import HeaderDataError

from ..core.errors import InputError, ensure, line
from .gzip_stream import unpacked

SUFFIXES = (".nii", ".nii.gz")
_RAS = np.array([[0, 1], [1, 1], [2, 1]])
_HEADER = {348: nibabel.Nifti1Header, 540: nibabel.Nifti2Header}  # by the size it claims
_MOST_HEAD = 2**26  # bytes before the voxels: the header and its extensions
_log = logging.getLogger(__name__)  # takes what nibabel repaired silently in a header
_log.addHandler(logging.NullHandler())


@dataclass(frozen=True, eq=False)
class NiftiSource:
    """What a file said, so that `write` can say the same again.

    head: all bytes before the voxels. raw: stored values in the file's own axes, type and byte
    order. HU = raw * slope + inter. affine: that of the Volume read. ornt: the nibabel
    orientation that takes an array from the Volume's axes to the file's.
    """

    path: Path
    head: bytes = field(repr=False)
    # Kept, because HU in float32 do not always lead back to it (int32, or a float with a slope).
    raw: Shaped[np.ndarray, "i j k"] = field(repr=False)
    slope: float
    inter: float
    ornt: Integer[np.ndarray, "3 2"]
    affine: Float[np.ndarray, "4 4"]

    @property
    def dtype(self) -> np.dtype:
        """The type of the HU: float64 where the file stores that, else float32."""
        wide = self.raw.dtype.kind == "f" and self.raw.dtype.itemsize > 4
        return np.dtype(np.float64 if wide else np.float32)

    def decode(self, plane: Shaped[np.ndarray, "i j"], dtype: np.dtype) -> np.ndarray:
        """Stored values -> HU."""
        with np.errstate(over="ignore", invalid="ignore"):  # the reader counts what is not finite
            return (plane.astype(np.float64) * self.slope + self.inter).astype(dtype)

    def planes(self, hu: Float[np.ndarray, "x y z"]) -> Iterator[np.ndarray]:
        """The file's planes for these HU; unchanged voxels keep their stored value."""
        new = apply_orientation(hu, self.ornt)
        for k in range(new.shape[2]):
            raw = self.raw[..., k]
            encoded = _encode(new[..., k], raw.dtype, self.slope, self.inter)
            same = new[..., k].astype(self.dtype) == self.decode(raw, self.dtype)
            encoded[same] = raw[same]
            yield encoded


# ---- reading ------------------------------------------------------------------------------------


def load(path: Path) -> NiftiSource:
    """Everything about a file that is common to CT and label maps; `InputError`.

    Reads no more than the header asks for, and nothing that the file is too small to hold.
    """
    with unpacked(path) as file:
        start = file.head(max(_HEADER))
        header = _header(path, start)
        dtype, shape = header.get_data_dtype(), header.get_data_shape()
        volumes = math.prod(shape[3:])
        real = dtype.kind in "iuf"
        ensure(real, f"{path} stores colours or complex numbers; give the original CT")
        ensure(shape and min(shape) > 0, f"{path} has no voxels (shape {shape}); export it again")
        ensure(volumes == 1, f"{path} holds {volumes} volumes (shape {shape}); split it, give one")
        solid = len(shape) > 2 and min(shape[:3]) > 1
        ensure(solid, f"{path} is a single 2D slice (shape {shape}); give a whole 3D volume")
        affine = _affine(path, header)
        # A header may say 0 (unset); voxels never begin before the header ends.
        offset = max(header.get_data_offset(), header.single_vox_offset)
        size = math.prod(shape)  # Python integers: a broken header must not overflow
        file.require(offset + size * dtype.itemsize)
        late = f"{path} tells of {offset} bytes of header, more than any has; convert it again"
        ensure(offset <= _MOST_HEAD, late)
        start += file.head(max(0, offset - len(start)))
        raw = file.values(size, dtype, start[offset:]).reshape(shape[:3], order="F")
        file.check_end()
    slope, inter = header.get_slope_inter()
    if slope is None:  # 0 or NaN: the values are meant as stored
        slope, inter = 1.0, 0.0
    ornt = io_orientation(affine)
    to_file = ornt_transform(_RAS, ornt).astype(int)
    nearest_ras = affine @ inv_ornt_aff(ornt, raw.shape)
    return NiftiSource(path, start[:offset], raw, slope, inter, to_file, nearest_ras)


def _header(path: Path, data: bytes) -> nibabel.Nifti1Header:
    """The header as nibabel understands it; its repairs do not reach the bytes we keep."""
    claims = {int.from_bytes(data[:4], "little"), int.from_bytes(data[:4], "big")}
    size = next((size for size in _HEADER if size in claims), 0)
    known = size and len(data) >= size
    ensure(known, f"{path} is not a NIfTI file; convert it to .nii or .nii.gz")
    try:
        header = _HEADER[size](data[:size], check=False)
        header.check_fix(logger=_log)
        header.get_data_dtype(), header.get_data_shape(), header.get_data_offset()
        header.get_slope_inter(), header.get_best_affine()  # asked later; broken ones raise
    except (HeaderDataError, ValueError, OverflowError) as error:
        broken = f"{path} is not a valid NIfTI file ({line(error)}); convert it again"
        raise InputError(broken) from error
    single = header["magic"].item() == header.single_magic
    ensure(single, f"{path} is half of a .hdr/.img pair; convert it to one .nii file")
    return header


def _affine(path: Path, header: nibabel.Nifti1Header) -> Float[np.ndarray, "4 4"]:
    """Voxel index of the file -> mm in RAS+; `InputError` where the file does not say."""
    again = "convert it again from the original"
    placed = header["sform_code"] != 0 or header["qform_code"] != 0
    ensure(
        placed, f"{path} does not say how it lies in space (qform and sform codes are 0); {again}"
    )
    affine = np.asarray(header.get_best_affine(), np.float64)
    finite = np.isfinite(affine).all() and np.array_equal(affine[3], [0, 0, 0, 1])
    # Relative to the voxel's size, so that small voxels pass and flat ones do not.
    with np.errstate(over="ignore"):  # NIfTI-2 can say 1e300 mm: inf > inf is refused, too
        flat = 1e-6 * np.prod(np.linalg.norm(affine[:3, :3], axis=0))
        solid = finite and abs(np.linalg.det(affine[:3, :3])) > flat
    ensure(solid, f"{path} has a geometry (affine) that cannot be inverted; {again}")
    unit = {1: "metres", 3: "micrometres"}.get(int(header["xyzt_units"]) & 7)
    ensure(not unit, f"{path} measures in {unit}; convert it to millimetres")
    return affine


def decoded(source: NiftiSource, dtype: np.dtype) -> Float[np.ndarray, "x y z"]:
    """All values of a file, contiguous, in the axes nearest to RAS; `InputError` if not finite."""
    values = np.empty([source.raw.shape[axis] for axis in source.ornt[:, 0]], dtype)
    in_file = apply_orientation(values, source.ornt)  # a view: filling it fills `values`
    bad = 0
    for k in range(source.raw.shape[2]):  # plane by plane: no second copy of the volume
        plane = in_file[..., k] = source.decode(source.raw[..., k], dtype)
        bad += plane.size - int(np.count_nonzero(np.isfinite(plane)))
    ensure(not bad, f"{source.path} has {bad} voxels that are NaN or infinite; replace them")
    return values


# ---- writing ------------------------------------------------------------------------------------


def check_writable(path: str | Path, force: bool = False, ends: tuple[str, ...] = SUFFIXES) -> None:
    """`InputError` where a file could not be put there; to be asked before the computing."""
    path = Path(path)
    folder = Path(os.path.realpath(path)).parent
    no = f"{path} cannot be written:"
    named = path.name.lower().endswith(ends)
    ensure(named, f"{no} name an output that ends in {' or '.join(ends)}")
    ensure(os.path.isdir(folder), f"{no} {folder} is not a directory; create it first")
    ensure(not os.path.isdir(path), f"{no} it is a directory; name a file in it")
    ensure(force or not os.path.exists(path), f"{path} already exists; name another, or force it")
    ensure(os.access(folder, os.W_OK | os.X_OK), f"{no} no permission to write into {folder}")


def _encode(
    plane: np.ndarray, dtype: np.dtype, slope: float = 1.0, inter: float = 0.0
) -> Shaped[np.ndarray, "i j"]:
    """HU -> the values a file stores: rounded if integer, clipped to what its type holds."""
    values = (plane.astype(np.float64) - inter) / slope
    limits = np.finfo(dtype) if dtype.kind == "f" else np.iinfo(dtype)
    high = float(limits.max)
    if dtype.kind != "f":
        values = np.rint(values)
        high = high if dtype.itemsize < 8 else float(np.nextafter(high, 0))  # 2**63 - 1
    return np.clip(values, float(limits.min), high).astype(dtype)


def save_new(
    array: Shaped[np.ndarray, "x y z"],
    affine: Float[np.ndarray, "4 4"],
    dtype: np.dtype,
    path: str | Path,
    force: bool,
) -> None:
    """Write an array in RAS that never was a file, as NIfTI-1 of an integer type."""
    header = nibabel.Nifti1Header(endianness="<")
    header.set_data_dtype(dtype)
    header.set_data_shape(array.shape)
    header.set_sform(affine, 1)
    header.set_qform(affine, 1)  # strips shears, which a quaternion cannot say; sform has them
    header.set_xyzt_units("mm")
    header.set_slope_inter(1, 0)
    header["vox_offset"] = header.single_vox_offset
    head = bytes(header.binaryblock) + bytes(4)  # four zeros: no extensions
    save(path, force, head, (_encode(array[..., k], dtype) for k in range(array.shape[2])))


def save(path: str | Path, force: bool, head: bytes, planes: Iterator[np.ndarray]) -> None:
    """Write beside the target, then rename: readers see the old file or the new one."""
    check_writable(path, force)
    packed = str(path).lower().endswith(".gz")
    with whole(path, SUFFIXES[packed]) as file:
        # No name and no time inside: equal volumes give equal files.
        out = gzip.GzipFile("", "wb", 6, file, mtime=0) if packed else nullcontext(file)
        with out as stream:
            stream.write(head)
            for plane in planes:
                stream.write(plane.tobytes("F"))


@contextmanager
def whole(path: str | Path, end: str) -> Iterator[BinaryIO]:
    """A file to fill, which takes the name `path` when the block ends without an error.

    end: of its name until then. `InputError` where the disk does not take it.
    """
    target = Path(os.path.realpath(path))  # the file itself, where `path` is a link to it
    # Not tempfile: its files are private (0600), and would stay so after the renaming.
    temp = target.with_name(f".{uuid.uuid4().hex}{end}")
    try:
        with open(temp, "xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temp, target)
    except OSError as error:
        raise InputError(
            f"{path} could not be written ({error.strerror or line(error)}); check the disk"
        ) from error
    finally:
        temp.unlink(missing_ok=True)
