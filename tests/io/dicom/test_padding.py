"""Padding and bits above those declared: decided by what they are, and never without a word."""

from __future__ import annotations

from pathlib import Path

import dicom_cases as cases
import numpy as np
import pytest

from denovox.core.errors import InputError
from denovox.io import dicom

SHAPE = (16, 14, 6)
CORNERS = np.add.outer(np.abs(np.arange(16) - 7.5), np.abs(np.arange(14) - 6.5)) > 10


def tissue(low: int = -30, high: int = 30) -> np.ndarray:
    """HU with noise, among them 0: columns, rows, slices."""
    return np.random.default_rng(0).integers(low, high, SHAPE)


def read(folder: Path, stored: np.ndarray, **tags: object) -> tuple[np.ndarray, str]:
    """HU as columns, rows, slices, and the notes of the reader, of stored values."""
    made = []
    for k in range(stored.shape[2]):
        one = cases.image(stored[..., k], (0, 0, k), tags={"RescaleIntercept": 0, **tags})
        made.append(one)
    cases.save(folder, made)
    said: list[str] = []
    return np.flip(dicom.read(folder, say=said.append).hu, (0, 1)), "\n".join(said)


def signed(hu: np.ndarray) -> np.ndarray:
    return hu.astype(np.int16)


def test_a_padding_value_of_tissue_leaves_tissue_alone(tmp_path):
    hu = tissue()
    got, said = read(tmp_path, signed(hu), PixelPaddingValue=0)
    assert np.array_equal(got, hu)
    assert f"{np.count_nonzero(hu == 0)} voxels with the padding value 0 were kept" in said


def test_but_where_it_fills_the_corners_of_the_slices_it_is_padding(tmp_path):
    hu = tissue()
    hu[8, 7, 3] = 0  # and in the middle it is not
    hu[CORNERS] = 0
    got, said = read(tmp_path, signed(hu), PixelPaddingValue=0)
    assert (got[CORNERS] == -1024).all()
    assert np.array_equal(got[4:12, 4:10], hu[4:12, 4:10])
    assert "were read as air" in said
    assert "were kept" in said
    air = int(np.count_nonzero(got == -1024))
    assert f"padding: {air} voxels" in said


def test_all_slices_decide_together(tmp_path):
    hu = tissue()
    hu[:4] = 0
    hu[:4, :, 2:4] = tissue(1)[:4, :, 2:4]  # the region ends here and starts again
    got, _ = read(tmp_path, signed(hu), PixelPaddingValue=0)
    assert (got[:3, :, :2] == -1024).all()
    assert (got[:3, :, 4:] == -1024).all()
    assert np.array_equal(got[:3, :, 2:4], hu[:3, :, 2:4])
    alone = tissue()
    alone[:4, :, 3] = 0  # one slice of it is not three voxels thick
    got, _ = read(tmp_path / "alone", signed(alone), PixelPaddingValue=0)
    assert np.array_equal(got, alone)


@pytest.mark.parametrize("value", [-2000, -1024, -1000])
def test_values_of_air_and_below_are_padding_wherever_they_are(tmp_path, value):
    hu = tissue()
    hu[8, 7, 3] = hu[2, 2, 2] = value
    got, said = read(tmp_path, signed(hu), PixelPaddingValue=value)
    assert np.count_nonzero(got == -1024) == 2
    assert ("2 voxels" in said and f"padding value {value} " in said) == (value != -1024)
    got, said = read(tmp_path / "none", signed(tissue()), PixelPaddingValue=value)
    assert "padding" not in said


def test_a_range_is_padding_where_it_is_below_air(tmp_path):
    hu = tissue()
    hu[3, 3, 3], hu[9, 9, 3], hu[9, 3, 3] = -2000, -1500, -900
    got, said = read(tmp_path, signed(hu), PixelPaddingValue=-2000, PixelPaddingRangeLimit=-500)
    assert got[3, 3, 3] == got[9, 9, 3] == -1024
    assert got[9, 3, 3] == -900
    assert "2 voxels" in said
    assert "1 voxels with the padding value -2000 to -500 were kept" in said


# ---- bits ---------------------------------------------------------------------------------------

TWELVE = {"BitsStored": 12, "HighBit": 11}


def smooth(top: int) -> np.ndarray:
    """A slope from 0 to `top` along rows, with noise."""
    ramp = np.linspace(0, top, SHAPE[1])[None, :, None]
    return np.rint(ramp + tissue(0, 20)).astype(int)


def test_values_of_more_bits_than_declared_are_refused(tmp_path):
    with pytest.raises(InputError, match=r"more than the 12 bits .* export it again"):
        read(tmp_path / "u", smooth(16000).astype(np.uint16), **TWELVE)
    with pytest.raises(InputError, match="more than the 12 bits"):
        read(tmp_path / "i", signed(smooth(5000) - 2000), **TWELVE)


def test_a_few_such_values_are_counted(tmp_path):
    values = smooth(2000)
    values[7, 7, 3] = 5000
    got, said = read(tmp_path, values.astype(np.uint16), **TWELVE)
    assert got[7, 7, 3] == 5000 & 0xFFF
    assert "1 voxels (0.07%) use bits above the 12 that are stated (BitsStored)" in said


def test_the_sign_of_negative_values_is_no_such_bit(tmp_path):
    values = smooth(3000) - 1024
    got, said = read(tmp_path, signed(values), **TWELVE)  # with the sign in the bits above
    assert np.array_equal(np.where(values > 2047, values - 4096, values), got)
    assert ("bits" in said) == bool((values > 2047).any())
    values = smooth(2000) - 1024
    for name, words in (("above", signed(values)), ("not above", signed(values & 0xFFF))):
        got, said = read(tmp_path / name, words, **TWELVE)
        assert np.array_equal(got, values)
        assert not said


def test_overlays_in_the_bits_above_are_ignored(tmp_path):
    values = smooth(2000)
    drawn = values | np.where(CORNERS, 0x8000, 0)[..., None]
    got, said = read(tmp_path / "undeclared", drawn.astype(np.uint16), **TWELVE)
    assert np.array_equal(got, values)
    assert "use bits above" in said
    overlay = {"OverlayBitPosition": 15, "OverlayBitsAllocated": 16}
    folder = tmp_path / "declared"
    made = []
    for k in range(SHAPE[2]):
        one = cases.image(drawn[..., k].astype(np.uint16), (0, 0, k), tags=TWELVE)
        one.add_new(0x60000100, "US", overlay["OverlayBitsAllocated"])
        one.add_new(0x60000102, "US", overlay["OverlayBitPosition"])
        made.append(one)
    cases.save(folder, made)
    said = []
    got = np.flip(dicom.read(folder, say=said.append).hu, (0, 1))
    assert np.array_equal(got, values - 1024.0)
    assert not said


def test_padding_above_the_bits_stored_is_not_counted(tmp_path):
    values = smooth(2000).astype(np.uint16)
    values[CORNERS] = 63536
    got, said = read(tmp_path, values, **TWELVE, PixelPaddingValue=63536)
    assert (got[CORNERS] == -1024).all()
    assert "use bits" not in said
    assert f"{np.count_nonzero(CORNERS) * SHAPE[2]} voxels" in said
