"""denovox.io.nifti against damaged and lying files: a right read, or one clear sentence.

nibabel says what is right. A hang is ended by an alarm, and memory is measured.
"""

from __future__ import annotations

import gzip
import os
import signal
import struct
import tracemalloc
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from nibabel.filebasedimages import ImageFileError
from nibabel.spatialimages import HeaderDataError

from denovox.core.errors import InputError
from denovox.io import gzip_stream, nifti, nifti_bytes

SHAPE = (3, 4, 5)
MIB = 2**20
KINDS = {nib.Nifti1Image: "f", nib.Nifti2Image: "d"}


def honest(rng: np.random.Generator, kind: type = nib.Nifti1Image) -> bytearray:
    """A small oblique file, with an extension half of the time."""
    dtype = rng.choice(["<i2", ">i2", "<u2", "<i4", "<f4", ">f8", "<u1"])
    raw = rng.integers(0, 250, SHAPE).astype(dtype)
    turn, _ = np.linalg.qr(rng.normal(size=(3, 3)))
    affine = np.eye(4)
    affine[:3] = np.c_[turn * rng.uniform(0.3, 7, 3), rng.uniform(-300, 300, 3)]
    image = kind(raw, affine, kind.header_class(endianness="<" if raw.dtype.isnative else ">"))
    image.set_data_dtype(raw.dtype)
    image.header.set_slope_inter(*((1, -1024), (0.5, 3))[rng.integers(2)])
    if rng.random() < 0.5:
        image.header.extensions.append(nib.nifti1.Nifti1Extension("comment", b"from the scanner"))
    return bytearray(image.to_bytes())


def flip(data: bytearray, rng: np.random.Generator) -> bytearray:
    """One to eight bits turned over, anywhere."""
    for at in rng.integers(0, len(data), rng.integers(1, 9)):
        data[at] ^= 1 << int(rng.integers(8))
    return data


def cut(data: bytearray, rng: np.random.Generator) -> bytearray:
    """Its end lost."""
    return data[: rng.integers(0, len(data))]


# Offsets in the two headers, and what a liar writes there.
FIELDS = {
    nib.Nifti1Image: {
        "dim": (40, "8h"),
        "datatype": (70, "h"),
        "bitpix": (72, "h"),
        "pixdim": (76, "8f"),
        "vox_offset": (108, "f"),
        "scale": (112, "2f"),
        "codes": (252, "2h"),
        "quaternion": (256, "6f"),
        "sform": (280, "12f"),
        "extension": (348, "4B2i"),
    },
    nib.Nifti2Image: {
        "dim": (16, "8q"),
        "datatype": (12, "h"),
        "bitpix": (14, "h"),
        "pixdim": (104, "8d"),
        "vox_offset": (168, "q"),
        "scale": (176, "2d"),
        "codes": (344, "2i"),
        "quaternion": (352, "6d"),
        "sform": (400, "12d"),
        "extension": (540, "4B2i"),
    },
}
WHOLE = [0, 1, -1, 2, 3, 4, 7, 8, 64, 100, 512, 32767, -32768]
LONG = [*WHOLE, 2**31, 2**40, 2**62, -(2**63)]
REAL = [0.0, -0.0, 1.0, -1.0, 1e-30, 1e30, -1e30, np.nan, np.inf, -np.inf, 352.5, 1e9]


def lie(data: bytearray, rng: np.random.Generator, kind: type) -> bytearray:
    """One number, or all, of one field, of a kind that breaks readers."""
    name = rng.choice(list(FIELDS[kind]))
    offset, form = FIELDS[kind][name]
    sizes = int.from_bytes(data[:4], "little")
    form = ("<" if sizes in (348, 540) else ">") + form
    if offset + struct.calcsize(form) > len(data):
        return data
    values = list(struct.unpack_from(form, data, offset))
    all_of_them = rng.random() < 0.3
    chosen = range(len(values)) if all_of_them else [int(rng.integers(len(values)))]
    for i in chosen:
        if name == "extension" and i < 4:
            values[i] = int(rng.integers(256))
            continue
        pool = REAL if form[-1] in "fd" else LONG if form[-1] == "q" else WHOLE
        values[i] = pool[rng.integers(len(pool))]
    struct.pack_into(form, data, offset, *values)
    return data


@contextmanager
def watched(seconds: int = 10, mebibytes: float = 16) -> Iterator[None]:
    """Neither hangs nor takes more memory."""

    def ring(*_: object) -> None:
        raise AssertionError(f"still busy after {seconds} s")

    before = signal.signal(signal.SIGALRM, ring)
    signal.alarm(seconds)
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < mebibytes * MIB
    finally:
        tracemalloc.stop()
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def outcome(path: Path) -> str:
    """What became of a file; fails unless it is a right read or a clear sentence."""
    with watched():
        try:
            volume = nifti.read(path)
        except InputError as error:
            said = str(error)
            assert said.startswith(str(path))
            assert "\n" not in said
            assert len(said) < len(str(path)) + 300
            return "refused"
    assert np.isfinite(volume.hu).all()
    assert np.isfinite(volume.affine).all()
    assert abs(np.linalg.det(volume.affine[:3, :3])) > 0
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        # nibabel trusts a name's ending, and we the content.
        packed = path.read_bytes()[:2] == b"\x1f\x8b"
        named = path.with_name("reference.nii" + ".gz" * packed)
        named.write_bytes(path.read_bytes())
        try:
            expected = nib.as_closest_canonical(nib.load(named))
            values = np.asarray(expected.dataobj)
        except (HeaderDataError, ImageFileError, OSError, ValueError, OverflowError):
            return "read, though not by nibabel"
    np.testing.assert_allclose(volume.hu, values.reshape(volume.shape), rtol=1e-6)
    np.testing.assert_allclose(volume.affine, expected.affine, rtol=1e-6, atol=1e-6)
    return "read"


def spoilt(part: int, number: int) -> bytes:
    """A file with damage: before it is packed, after it, or without packing."""
    rng = np.random.default_rng([part, number])
    kind = list(KINDS)[number % 4 == 3]
    data = honest(rng, kind)
    damage = [flip, cut, lie, lie, lie][rng.integers(5)]
    packed, after = rng.random(2) < 0.5
    if damage is lie:
        data, after = lie(data, rng, kind), True
    elif not packed or not after:
        data = damage(data, rng)
    if not packed:
        return bytes(data)
    data = bytearray(gzip.compress(bytes(data), mtime=0))
    return bytes(damage(data, rng) if after and damage is not lie else data)


@pytest.mark.parametrize("part", range(10))
def test_a_damaged_file_is_read_right_or_refused(tmp_path: Path, part: int) -> None:
    outcomes = []
    for number in range(20):
        path = tmp_path / f"{part}-{number}.nii"
        path.write_bytes(spoilt(part, number))
        outcomes.append(outcome(path))
    assert outcomes.count("refused") >= 3
    assert outcomes.count("read") >= 3  # so the comparison with nibabel did happen


def whole(kind: type = nib.Nifti1Image, **fields: object) -> bytes:
    """A straight file of 60 int16 voxels; `fields` are set in its header as they are."""
    image = kind(np.arange(60, dtype="<i2").reshape(SHAPE), np.diag([1, 2, 3, 1]))
    data = bytearray(image.to_bytes())
    for name, values in fields.items():
        offset, form = FIELDS[kind][name]
        struct.pack_into("<" + form, data, offset, *np.atleast_1d(values).tolist())
    return bytes(data)


def bomb(head: bytes, mebibytes: int) -> bytes:
    """A gzip of `head` and so many MiB of zeros behind it, a thousandth of that in size."""
    squeeze = zlib.compressobj(9, zlib.DEFLATED, 31)
    zeros = squeeze.compress(bytes(MIB)) + squeeze.flush()
    return gzip.compress(head, mtime=0) + zeros * mebibytes  # members, read as one stream


@pytest.mark.parametrize(
    ("head", "what"),
    [
        (whole(), "has more than 64 MiB"),
        (whole(dim=[3, 30000, 30000, 30000, 1, 1, 1, 1]), "is truncated: at most"),
        (whole(vox_offset=1e9), "header size of 1000000000 bytes"),
        (whole(nib.Nifti2Image, vox_offset=2**62), "is truncated: at most"),
        (b"no header", "is not a NIfTI file"),
    ],
    ids=["small", "dims", "offset", "endless offset", "zeros"],
)
def test_a_bomb_of_a_gibibyte_is_not_unpacked(tmp_path: Path, head: bytes, what: str) -> None:
    path = tmp_path / "bomb.nii.gz"
    path.write_bytes(bomb(head, 1024))
    assert path.stat().st_size < 1.1 * MIB
    with watched(mebibytes=8), pytest.raises(InputError, match=what) as caught:
        nifti.read(path)
    assert str(caught.value).startswith(str(path))


def test_a_header_cannot_ask_for_more_than_the_file_holds(tmp_path: Path) -> None:
    path = tmp_path / "ct.nii"
    for data in (
        whole(dim=[7] + [32767] * 7),
        whole(dim=[3] + [32767] * 3 + [1] * 4),
        whole(nib.Nifti2Image, dim=[7] + [2**62] * 7),
        whole(nib.Nifti2Image, dim=[3] + [2**62] * 3 + [1] * 4),
    ):
        for content in (data, gzip.compress(data)):
            path.write_bytes(content)
            assert outcome(path) == "refused"


def test_bytes_left_over_are_nobodys_and_the_checksum_still_counts(tmp_path: Path) -> None:
    path = tmp_path / "ct.nii.gz"
    path.write_bytes(gzip.compress(whole() + bytes(16)))  # less than a layer of voxels
    volume = nifti.read(path)
    assert np.array_equal(volume.hu, np.arange(60).reshape(SHAPE))
    assert volume.source.notes == ("16 bytes after the voxels were ignored",)
    data = bytearray(path.read_bytes())
    data[-6] ^= 1
    path.write_bytes(data)
    with pytest.raises(InputError, match="damaged gzip"):
        nifti.read(path)


def test_memory_is_the_voxels_and_their_hu(tmp_path: Path) -> None:
    image = nib.Nifti1Image(np.zeros((128, 128, 128), np.int16), np.eye(4))
    for name in ("ct.nii", "ct.nii.gz"):
        nib.save(image, tmp_path / name)
        # As stored, and float32; and what is decoded at a time.
        slices = 128 * (2 + 4) + nifti_bytes.PLANES * 8
        with watched(mebibytes=1.1 * 128**2 * slices / MIB):
            nifti.read(tmp_path / name)


def test_where_there_is_no_memory_that_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "ct.nii").write_bytes(whole())

    def full(*_: object) -> None:
        raise MemoryError

    monkeypatch.setattr(gzip_stream.np, "empty", full)
    with pytest.raises(InputError, match="GiB of memory"):
        nifti.read(tmp_path / "ct.nii")


def test_a_pipe_and_a_device_are_not_waited_for(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.nii")
    for path in (tmp_path / "pipe.nii", Path("/dev/zero")):
        assert outcome(path) == "refused"
