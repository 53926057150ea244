"""CT series that state a thing twice, wrongly or not at all, and every transfer syntax.

Right is what the series was made of; where its statements disagree there is a note, or a refusal.
"""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path
from typing import Any

import dicom_cases as cases
import gdcm
import numpy as np
import pydicom
import pytest
from dicom_variants import again, encoded, variants
from file_variants import outcome
from pydicom import uid
from pydicom.encaps import encapsulate
from pydicom.pixels import pixel_array

from denovox.core.errors import InputError
from denovox.io import dicom

PART = 24  # one variant of so many; the slow test tries all


def check(seed: int, part: int, tmp_path: Path) -> dict[str, list[str]]:
    """The outcomes of one variant of `part`, by group."""
    found: dict[str, list[str]] = {}
    for number, variant in enumerate(variants(seed)):
        if number % part == seed % part:
            kind = variant.what.partition(":")[0]
            found.setdefault(kind, []).append(outcome(variant, tmp_path / str(number)))
    return found


def test_variants_are_read_right_or_refused_and_never_silently(tmp_path: Path) -> None:
    found = check(3, PART, tmp_path)
    assert sum(map(len, found.values())) >= 15
    assert {"right", "refused"} <= {one for kind in found.values() for one in kind}


@pytest.mark.slow
def test_400_variants_are_read_right_or_refused_and_never_silently(tmp_path: Path) -> None:
    found = check(0, 1, tmp_path)
    assert sum(map(len, found.values())) >= 400
    for kind in ("tags", "pixels", "geometry", "enhanced"):
        for one, least in (("right", 10), ("note", 1), ("refused", 10)):
            assert found[kind].count(one) >= least


# ---- transfer syntaxes --------------------------------------------------------------------------

SIZE = (64, 48, 3)


def transcoded(one: Any, kind: int, path: Path) -> None:
    """Compress a slice with GDCM and write it."""
    path.write_bytes(encoded(one))
    reader = gdcm.ImageReader()
    reader.SetFileName(str(path))
    assert reader.Read()
    change = gdcm.ImageChangeTransferSyntax()
    change.SetTransferSyntax(gdcm.TransferSyntax(kind))
    change.SetForce(True)
    change.SetInput(reader.GetImage())
    if kind == gdcm.TransferSyntax.JPEGLSNearLossless:
        codec = gdcm.JPEGLSCodec()
        codec.SetLossless(False)
        codec.SetLossyError(3)
        change.SetUserCodec(codec)
    assert change.Change()
    writer = gdcm.ImageWriter()
    writer.SetFileName(str(path))
    writer.SetFile(reader.GetFile())
    writer.SetImage(change.GetOutput())
    assert writer.Write()


def smooth(k: int, most: int) -> np.ndarray:
    """Stored values of a slice that lossy codecs keep well: columns, rows."""
    x, y = np.indices(SIZE[:2])
    waves = np.sin(x / 9 + k) * np.cos(y / 11) + 1
    return np.rint(waves / 2 * (most - 20) + 10)


GDCM = gdcm.TransferSyntax
LOSSLESS = {
    "JPEG lossless": GDCM.JPEGLosslessProcess14,
    "JPEG lossless SV1": GDCM.JPEGLosslessProcess14_1,
    "JPEG-LS": GDCM.JPEGLSLossless,
    "JPEG 2000": GDCM.JPEG2000Lossless,
    "RLE": GDCM.RLELossless,
}
LOSSY = {  # kind, bits, largest error of the codec in stored values
    "JPEG baseline": (GDCM.JPEGBaselineProcess1, 8, 8),
    "JPEG extended of 8 bits": (GDCM.JPEGExtendedProcess2_4, 8, 8),
    "JPEG-LS near": (GDCM.JPEGLSNearLossless, 12, 3),
    "JPEG 2000 lossy": (GDCM.JPEG2000, 12, 40),
}


def stored_as(bits: int) -> tuple[type, dict[str, int]]:
    return (np.uint8 if bits == 8 else np.uint16), {"BitsStored": bits, "HighBit": bits - 1}


@pytest.mark.parametrize("bits", [12, 16])
@pytest.mark.parametrize("name", LOSSLESS)
def test_lossless_syntaxes_of_gdcm(tmp_path: Path, name: str, bits: int) -> None:
    hu = cases.phantom(SIZE)
    for k in range(3):
        stored = (hu[..., k] + 1024).astype(np.uint16)
        one = cases.image(stored, (0, 0, 2 * k), tags=stored_as(bits)[1])
        transcoded(one, LOSSLESS[name], tmp_path / f"{k}.dcm")
        assert pydicom.dcmread(tmp_path / f"{k}.dcm").file_meta.TransferSyntaxUID.is_compressed
    assert np.array_equal(dicom.read(tmp_path).hu, np.flip(hu, (0, 1)))


@pytest.mark.parametrize("name", LOSSY)
def test_lossy_syntaxes_of_gdcm(tmp_path: Path, name: str) -> None:
    kind, bits, error = LOSSY[name]
    dtype, tags = stored_as(bits)
    truth = np.stack([smooth(k, (1 << bits) - 1) for k in range(3)], 2)
    decoded = np.empty_like(truth)
    for k in range(3):
        one = cases.image(truth[..., k].astype(dtype), (0, 0, 2 * k), tags=tags)
        one["PixelData"].VR = "OB" if bits == 8 else "OW"
        transcoded(one, kind, tmp_path / f"{k}.dcm")
        assert pydicom.dcmread(tmp_path / f"{k}.dcm").file_meta.TransferSyntaxUID.is_compressed
        decoded[..., k] = pixel_array(tmp_path / f"{k}.dcm", raw=True).T
    assert np.abs(decoded - truth).max() <= error
    assert np.array_equal(dicom.read(tmp_path).hu, np.flip(decoded - 1024, (0, 1)))


def test_jpeg_of_12_bits_which_no_decoder_supports_is_refused(tmp_path: Path) -> None:
    for k in range(3):
        one = cases.image(smooth(k, 4095).astype(np.uint16), (0, 0, 2 * k), tags=stored_as(12)[1])
        transcoded(one, GDCM.JPEGExtendedProcess2_4, tmp_path / f"{k}.dcm")
    with pytest.raises(InputError, match=r"JPEG Extended.*12-bit") as caught:
        dicom.read(tmp_path)
    assert "\n" not in str(caught.value)


# Columns 40, rows 30 higher each, from 0: compressed by OpenJPH 0.26.3 (imagecodecs), reversible.
HTJ2K = (
    "/0//UQApQAAAAAAYAAAAFAAAAAAAAAAAAAAAGAAAABQAAAAAAAAAAAABDwEB/1AACAACAAAACv9SAAwAAgABAAUE"
    "BEAB/1wAEyCIkJCQkJCQkJCQkJCQiIiI/2QAFwABT3BlbkpQSCBWZXIgMC4yNi4zLv+QAAoAAAAAAKAAAf+TwAAm"
    "gfsFB3QAwAATQAASgFr9Aod0ANgCB3QAwAATQAARgG37AAt0ABIzAMAAFVAABMBs2dj+gY/hi3YA/38Dd1QAwAAV"
    "kAAFcDKZTCb73EI6cQJ3AIaGhoaGhvQQ3iEBvrgAwAAtGAAFro7jOI7jOI7z8/p6enpwgnkAutZaa6211vr/TAAA"
    "Hv2AAHv2AAHsvwD/2Q=="
)


@pytest.mark.parametrize("syntax", [uid.HTJ2KLossless, uid.HTJ2K], ids=lambda one: one.name)
def test_htj2k(tmp_path: Path, syntax: uid.UID) -> None:
    x, y = np.indices((24, 20))
    values = 40 * x + 30 * y
    for k in range(3):
        one = cases.image(values.astype(np.uint16), (0, 0, k), tags={"RescaleIntercept": -k})
        one.PixelData = encapsulate([b64decode(HTJ2K)])
        one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
        (tmp_path / f"{k}.dcm").write_bytes(encoded(one, syntax))
    expected = np.stack([values - k for k in range(3)], 2)
    assert np.array_equal(dicom.read(tmp_path).hu, np.flip(expected, (0, 1)))


# ---- what was not tested one by one -------------------------------------------------------------


@pytest.mark.parametrize("keyword", ["RescaleIntercept", "Rows", "PixelSpacing"])
def test_a_tag_stated_twice_is_refused(tmp_path: Path, keyword: str) -> None:
    for k, one in enumerate(cases.images(cases.phantom())):
        data = encoded(one)
        (tmp_path / f"{k}.dcm").write_bytes(again(keyword, b"9\\9 ")(data) if k == 2 else data)
    with pytest.raises(InputError, match=rf"2\.dcm.*states {keyword} \(.*\) twice"):
        dicom.read(tmp_path)


def test_big_endian_without_file_meta_is_read_as_such(tmp_path: Path) -> None:
    hu = cases.phantom()
    for k, one in enumerate(cases.images(hu)):
        (tmp_path / f"{k}").write_bytes(encoded(one, uid.ExplicitVRBigEndian, bare=True))
    assert np.array_equal(dicom.read(tmp_path).hu, np.flip(hu, (0, 1)))


@pytest.mark.parametrize("many", [False, True])
def test_a_slope_in_only_some_slices_is_refused(tmp_path: Path, many: bool) -> None:
    made = cases.images(cases.phantom())
    if many:
        one = cases.enhanced(made, own_values=True)
        for frame in one.PerFrameFunctionalGroupsSequence[:2]:
            del frame.PixelValueTransformationSequence
        made = [one]
    else:
        for one in made[:2]:
            del one.RescaleSlope, one.RescaleIntercept
    cases.save(tmp_path, made)
    with pytest.raises(InputError, match="has no RescaleSlope in 2 of 5 slices"):
        dicom.read(tmp_path)


def test_an_intercept_without_a_slope_is_refused(tmp_path: Path) -> None:
    cases.series(tmp_path, cases.phantom(), tags={"RescaleSlope": None})
    with pytest.raises(InputError, match="RescaleIntercept of -1024 but no RescaleSlope"):
        dicom.read(tmp_path)


@pytest.mark.parametrize(
    ("where", "keyword", "value"),
    [
        ("PixelMeasuresSequence", "PixelSpacing", [1, 1]),
        ("PlaneOrientationSequence", "ImageOrientationPatient", [0, 1, 0, 1, 0, 0]),
        ("PixelValueTransformationSequence", "RescaleSlope", 2),
        ("PixelValueTransformationSequence", "RescaleIntercept", 0),
    ],
)
def test_frame_and_shared_groups_that_differ_are_refused(
    tmp_path: Path, where: str, keyword: str, value: Any
) -> None:
    one = cases.enhanced(cases.images(cases.phantom()), own_values=False)
    item = pydicom.Dataset()
    setattr(item, keyword, value)
    setattr(one.PerFrameFunctionalGroupsSequence[3], where, pydicom.Sequence([item]))
    cases.save(tmp_path, [one])
    with pytest.raises(InputError, match=rf"states a {keyword} of .* for frame 4, but .* for all"):
        dicom.read(tmp_path)


@pytest.mark.parametrize("total", [2, 3])
def test_a_concatenation_is_read_whole_or_not_at_all(tmp_path: Path, total: int) -> None:
    hu = cases.phantom((7, 6, 8))
    made = cases.images(hu)
    for number, part in enumerate((made[:4], made[4:]), 1):
        one = cases.enhanced(part)
        one.ConcatenationUID, one.InConcatenationNumber = f"{cases.ROOT}.5", number
        one.InConcatenationTotalNumber = total
        cases.save(tmp_path / str(number), [one])
    if total == 2:
        assert np.array_equal(dicom.read(tmp_path).hu, np.flip(hu, (0, 1)))
    else:
        with pytest.raises(InputError, match="is only 2 of the 3 files of a concatenation"):
            dicom.read(tmp_path)


@pytest.mark.parametrize(
    ("locations", "what"),
    [
        (np.arange(5) * -2.0, ""),
        (np.arange(5) * 2.05, "SliceLocation advances by 2.05 mm per slice, but the positions by"),
        (np.array([0, 2, 6, 4, 8.0]), "SliceLocation sorts slices differently"),
    ],
)
def test_slice_locations_are_compared(tmp_path: Path, locations: np.ndarray, what: str) -> None:
    made = cases.images(cases.phantom())
    for one, mm in zip(made, locations, strict=True):
        one.SliceLocation = mm
    cases.save(tmp_path, made)
    (*notes,) = dicom.read(tmp_path).source.notes
    assert (len(notes) == 1 and what in notes[0]) if what else not notes


@pytest.mark.parametrize("row", [1.0, -1.0])
def test_a_mirrored_orientation_is_noted(tmp_path: Path, row: float) -> None:
    cases.series(tmp_path, cases.phantom(), directions=((row, 0, 0), (0, 1, 0)),
                 tags={"PatientPosition": "HFS"})  # fmt: skip
    notes = dicom.read(tmp_path).source.notes
    if row > 0:
        assert not notes
    else:
        assert (
            "PatientPosition is HFS, but the slices are shown from the head, mirrored" in notes[0]
        )


@pytest.mark.parametrize("keyword", ["PatientID", "FrameOfReferenceUID", "KVP"])
def test_what_changes_within_a_series_is_noted(tmp_path: Path, keyword: str) -> None:
    made = cases.images(cases.phantom((7, 6, 8)))
    for k, one in enumerate(made):
        setattr(one, keyword, "80" if k < 4 else "140")
    cases.save(tmp_path, made)
    (note,) = dicom.read(tmp_path).source.notes
    assert note.startswith(f"{keyword} changes within the series (140")


def test_a_file_without_photometric_interpretation_is_not_left_out(tmp_path: Path) -> None:
    made = cases.images(cases.phantom())
    del made[0].PhotometricInterpretation
    cases.save(tmp_path, made)
    with pytest.raises(InputError, match="has no PhotometricInterpretation"):
        dicom.read(tmp_path)


@pytest.mark.parametrize(("kind", "dtype"), [("Float", "<f4"), ("DoubleFloat", "<f8")])
def test_pixels_that_are_real_numbers_are_called_that(
    tmp_path: Path, kind: str, dtype: str
) -> None:
    """NaN among them or not: such an object is a Parametric Map, not a CT."""
    made = cases.images(cases.phantom())
    for one in made:
        del one.PixelData
        setattr(one, f"{kind}PixelData", np.full((one.Rows, one.Columns), np.nan, dtype).tobytes())
    cases.save(tmp_path, made)
    with pytest.raises(InputError, match=rf"stores real numbers \({kind}PixelData\)"):
        dicom.read(tmp_path)


def test_a_group_of_a_vendor_is_not_read(tmp_path: Path) -> None:
    hu = cases.phantom()
    one = cases.enhanced(cases.images(hu))
    for frame in one.PerFrameFunctionalGroupsSequence:
        item = pydicom.Dataset()
        item.PixelSpacing, item.RescaleSlope = [9, 9], 7
        frame.add_new(0x00090010, "LO", "VENDOR")
        frame.add_new(0x00091001, "SQ", pydicom.Sequence([item]))
    cases.save(tmp_path, [one])
    assert np.array_equal(dicom.read(tmp_path).hu, np.flip(hu, (0, 1)))
