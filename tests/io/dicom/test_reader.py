"""denovox.io.dicom: slices become one volume in its right place, or a sentence says why not.

Right is what a linear function of millimetres says, or SimpleITK's own reader.
"""

from __future__ import annotations

import io
import itertools
import logging
import os
import warnings
import zipfile
import zlib
from pathlib import Path

import dicom_cases as cases
import numpy as np
import pydicom
import pytest
import SimpleITK as sitk
from pydicom.uid import (
    DeflatedExplicitVRLittleEndian,
    ExplicitVRBigEndian,
    ImplicitVRLittleEndian,
    JPEG2000Lossless,
    JPEGLosslessSV1,
    JPEGLSLossless,
    RLELossless,
)

from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.io import dicom, nifti
from denovox.io.dicom import files as dicom_parts
from denovox.io.dicom import pixels as dicom_pixels
from denovox.io.dicom import values as dicom_values

LINEAR = np.array([3.0, -5.0, 2.0])  # HU per mm along R, A, S


def linear(mm_ras: np.ndarray) -> np.ndarray:
    """The closed form that volumes are made of."""
    return mm_ras @ LINEAR - 100


def ramp(
    shape: tuple[int, int, int], origin: np.ndarray, steps: list[np.ndarray], along: np.ndarray
) -> np.ndarray:
    """HU of `linear` where the file's pixels are (LPS): rounded."""
    i, j = np.indices(shape[:2])
    plane = origin + i[..., None] * steps[0] + j[..., None] * steps[1]
    lps = plane[:, :, None] + along
    return np.rint(linear(lps * [-1, -1, 1])).astype(np.int16)


def places(volume: Volume) -> np.ndarray:
    """RAS mm of every voxel."""
    index = np.moveaxis(np.indices(volume.shape), 0, -1)
    return index @ volume.affine[:3, :3].T + volume.affine[:3, 3]


def refused(path: Path, *parts: str, **how: object) -> str:
    """The sentence, which names the path and says all of `parts`."""
    with pytest.raises(InputError) as caught:
        dicom.read(path, **how)
    said = str(caught.value)
    assert said.startswith(str(path))
    assert "\n" not in said
    for part in parts:
        assert part in said, said
    return said


SIGNED = [s * axis for axis in np.eye(3) for s in (1.0, -1.0)]
PAIRS = [(a, b) for a, b in itertools.product(SIGNED, SIGNED) if not a @ b]


@pytest.mark.slow
@pytest.mark.parametrize("backwards", [False, True])
def test_every_axis_order_and_flip_lands_where_it_is(tmp_path: Path, backwards: bool) -> None:
    assert len(PAIRS) == 24  # and two ways of stacking each: 48
    origin, shape, spacing = np.array([-20.0, 31.0, -43.0]), (5, 4, 3), (0.7, 0.9, 2.0)
    for number, (row, column) in enumerate(PAIRS):
        normal = np.cross(row, column) * (-1 if backwards else 1)
        along = np.arange(3)[:, None] * 2.0 * normal
        hu = ramp(shape, origin, [0.7 * row, 0.9 * column], along)
        folder = tmp_path / str(number)
        made = cases.images(hu, origin, (row, column), spacing, along=along)
        cases.save(folder, made, number)
        volume = dicom.read(folder)
        np.testing.assert_allclose(volume.hu, linear(places(volume)), atol=0.5001)
        assert np.array_equal(np.sign(np.diag(volume.affine)), [1, 1, 1, 1])
        assert sorted(volume.spacing_mm) == pytest.approx(spacing)
        assert volume.hu.flags.c_contiguous


def oblique(seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Two perpendicular directions."""
    turn, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(3, 3)))
    return turn[0], turn[1]


@pytest.mark.parametrize("seed", range(6))
def test_oblique_slices_agree_with_simpleitk(tmp_path: Path, seed: int) -> None:
    paths = cases.series(tmp_path, cases.phantom(seed=seed), directions=oblique(seed))
    volume = dicom.read(tmp_path)
    agrees_with_itk(volume, [str(path) for path in paths])


def agrees_with_itk(volume: Volume, names: list[str]) -> None:
    """Same HU at the same place, for every voxel."""
    reader = sitk.ImageSeriesReader()
    reader.SetFileNames(names)
    image = reader.Execute()
    values = sitk.GetArrayFromImage(image).T
    assert sorted(values.shape) == sorted(volume.shape)
    direction = np.reshape(image.GetDirection(), (3, 3)) * image.GetSpacing()
    index = np.moveaxis(np.indices(values.shape), 0, -1)
    ras = (index @ direction.T + image.GetOrigin()) * [-1, -1, 1]
    there = (ras - volume.affine[:3, 3]) @ np.linalg.inv(volume.affine[:3, :3]).T
    assert np.abs(there - np.rint(there)).max() < 1e-3
    there = np.rint(there).astype(int)
    assert np.array_equal(volume.hu[tuple(np.moveaxis(there, -1, 0))], values)


@pytest.mark.slow
def test_real_slices_agree_with_simpleitk(data_dir: Path) -> None:
    folder = data_dir.parent / "dicom" / "kits-00072"
    names = sitk.ImageSeriesReader.GetGDCMSeriesFileNames(str(folder))
    volume = dicom.read(folder)
    agrees_with_itk(volume, list(names))
    assert volume.spacing_mm == pytest.approx((0.6640625, 0.6640625, 2.5))
    assert volume.source.facts.manufacturer == "SIEMENS"


def test_a_real_tilted_head_is_refused_with_its_figures_and_straightened(data_dir: Path) -> None:
    folder = data_dir.parent / "dicom" / "ge-head-tilted"
    said = refused(folder, "18.5 degrees", "--straighten", "4 mm x 13, 1.08 mm x 1, 7 mm x 13")
    assert "missing" not in said
    notes: list[str] = []
    volume = dicom.read(folder, straighten=True, say=notes.append)
    assert volume.spacing_mm == pytest.approx((0.4882812, 0.4882812, 4.002), abs=1e-3)
    assert volume.shape == (512, 611, 37)
    gram = volume.affine[:3, :3].T @ volume.affine[:3, :3]
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-9)
    assert any("13 gaps of up to 6.999 mm were interpolated" in note for note in notes)


# ---- values -------------------------------------------------------------------------------------


def test_each_slice_has_its_own_rescale(tmp_path: Path) -> None:
    made = cases.images(cases.phantom())
    for k, one in enumerate(made):
        one.RescaleSlope, one.RescaleIntercept = 1 + 0.5 * k, -1024 - k
    cases.save(tmp_path, made)
    stored = cases.phantom() + 1024.0
    k = np.arange(5)
    expected = np.flip(stored * (1 + 0.5 * k) - 1024 - k, (0, 1))  # L, P -> R, A
    assert np.array_equal(dicom.read(tmp_path).hu, expected.astype(np.float32))


@pytest.mark.parametrize("garbage", [0, 0xF000, 0x5000])
@pytest.mark.parametrize("kind", ["u", "i"])
def test_only_the_bits_stored_count(tmp_path: Path, kind: str, garbage: int) -> None:
    signed = kind == "i"
    low = -2048 if signed else 0
    values = np.random.default_rng(1).integers(low, low + 4096, (4, 3, 3))
    values.flat[:2] = low, low + 4095
    words = ((values & 0x0FFF) | garbage).astype(np.uint16)
    tags = {"BitsStored": 12, "HighBit": 11, "PixelRepresentation": int(signed)}
    made = [
        cases.image(words[..., k], (0, 0, k), tags={**tags, "RescaleIntercept": 0})
        for k in range(3)
    ]
    cases.save(tmp_path, made)
    assert np.array_equal(dicom.read(tmp_path).hu, np.flip(values, (0, 1)))


@pytest.mark.parametrize(
    ("stored", "padding", "limit", "air"),
    [
        (np.uint16, 0, None, [0]),
        (np.uint16, 63536, None, [63536]),
        (np.int16, -2000, None, [-2000]),
        (np.int16, 63536, None, [-2000]),  # the same bits, said unsigned
        (np.int16, -2000, -1998, [-2000, -1999, -1998]),
        (np.int16, -1998, -2000, [-2000, -1999, -1998]),
    ],
)
def test_padding_is_air_whatever_the_rescale(
    tmp_path: Path, stored: type, padding: int, limit: int | None, air: list[int]
) -> None:
    values = np.full((4, 3, 3), 1000, stored)
    values[0, : len(air), 1] = air
    values[1, 0, 0] = 999
    tags = {"RescaleIntercept": -1007}
    made = [cases.image(values[..., k], (0, 0, k), tags=tags) for k in range(3)]
    for one in made:
        for keyword, value in (("PixelPaddingValue", padding), ("PixelPaddingRangeLimit", limit)):
            if value is not None:
                one.add_new(keyword, "US" if value >= 0 else "SS", value)
    cases.save(tmp_path, made)
    expected = values - 1007.0
    expected[np.isin(values, air)] = -1024
    assert np.array_equal(dicom.read(tmp_path).hu, np.flip(expected, (0, 1)))


def test_padding_may_lie_in_bits_that_are_not_stored(tmp_path: Path) -> None:
    values = np.full((4, 3, 3), 63536 & 0xFFF, np.uint16)  # 2096, a real value of 12 bits
    values[0, 0, 0] = 63536
    tags = {"BitsStored": 12, "HighBit": 11, "PixelPaddingValue": 63536}
    cases.save(tmp_path, [cases.image(values[..., k], (0, 0, k), tags=tags) for k in range(3)])
    hu = dicom.read(tmp_path).hu
    assert np.count_nonzero(hu == -1024) == 1
    assert np.count_nonzero(hu == 2096 - 1024) == 35


@pytest.mark.parametrize(
    ("tags", "what"),
    [
        ({"RescaleType": "HU_MOD"}, "in units of HU_MOD"),
        ({"RescaleType": "MGML"}, "in units of MGML"),
        ({"RescaleSlope": 0}, "rescale slope of 0"),
        ({"PixelSpacing": [0, 1]}, "pixels of 1 x 0 mm"),
        ({"ImageOrientationPatient": [1, 0, 0, 1, 0, 0]}, "not two perpendicular directions"),
        ({"ImagePositionPatient": None}, "has no ImagePositionPatient"),
        ({"HighBit": 14}, "a bit layout that no CT uses"),
        ({"BitsStored": 17}, "a bit layout that no CT uses"),
        ({"Rows": 7}, "bytes of pixels instead of"),
        ({"NumberOfFrames": 2}, "holds 2 frames"),
        ({"SamplesPerPixel": 3}, "several samples"),
        ({"PixelSpacing": None}, "has no PixelSpacing"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_what_no_ct_says_is_refused(tmp_path: Path, tags: dict[str, object], what: str) -> None:
    cases.series(tmp_path, cases.phantom(), tags=tags)
    refused(tmp_path, what)


def test_a_table_instead_of_a_slope_is_refused(tmp_path: Path) -> None:
    made = cases.images(cases.phantom())
    made[2].ModalityLUTSequence = pydicom.Sequence([pydicom.Dataset()])
    cases.save(tmp_path, made)
    refused(tmp_path, "through a table (Modality LUT)")


def test_a_unit_that_nobody_named_is_taken_for_hu_and_said(tmp_path: Path) -> None:
    cases.series(tmp_path, cases.phantom(), tags={"RescaleType": "US"})
    assert any("unspecified (US)" in note for note in dicom.read(tmp_path).source.notes)


def test_monochrome1_changes_no_hu(tmp_path: Path) -> None:
    cases.series(tmp_path / "a", cases.phantom())
    cases.series(tmp_path / "b", cases.phantom(), tags={"PhotometricInterpretation": "MONOCHROME1"})
    volume = dicom.read(tmp_path / "b")
    assert np.array_equal(volume.hu, dicom.read(tmp_path / "a").hu)
    assert any("MONOCHROME1" in note for note in volume.source.notes)


# ---- how it is packed ---------------------------------------------------------------------------


def jpeg_lossless(one: pydicom.FileDataset, stored: np.ndarray, scratch: Path) -> None:
    """Replace the pixels by JPEG lossless, which of all that is installed only GDCM writes."""
    writer = sitk.ImageFileWriter()
    writer.UseCompressionOn()
    writer.SetCompressor("JPEG")
    writer.SetFileName(str(scratch))
    writer.Execute(sitk.GetImageFromArray(np.ascontiguousarray(stored.T)[None]))
    packed = pydicom.dcmread(scratch)
    one.file_meta.TransferSyntaxUID = packed.file_meta.TransferSyntaxUID
    one.PixelData = packed.PixelData
    one["PixelData"].VR, one["PixelData"].is_undefined_length = "OB", True
    scratch.unlink()


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize(
    "syntax",
    [
        ImplicitVRLittleEndian,
        ExplicitVRBigEndian,
        DeflatedExplicitVRLittleEndian,
        RLELossless,
        JPEGLSLossless,
        JPEG2000Lossless,
        JPEGLosslessSV1,
    ],
    ids=lambda syntax: getattr(syntax, "name", syntax),
)
def test_every_transfer_syntax_decodes(
    tmp_path: Path, syntax: pydicom.uid.UID, signed: bool
) -> None:
    hu = cases.phantom((64, 48, 3))
    for k in range(3):
        stored = hu[..., k] if signed else (hu[..., k] + 1024).astype(np.uint16)
        one = cases.image(stored, (0, 0, k), tags={"RescaleIntercept": 0 if signed else -1024})
        path = tmp_path / f"{k}.dcm"
        if syntax == JPEGLosslessSV1:
            jpeg_lossless(one, stored, tmp_path / "scratch.dcm")
        elif syntax in (RLELossless, JPEGLSLossless, JPEG2000Lossless):
            one.compress(syntax, generate_instance_uid=False)
        elif syntax == ExplicitVRBigEndian:
            one.PixelData = np.ascontiguousarray(stored.T).byteswap().tobytes()
        one.file_meta.TransferSyntaxUID = syntax
        little, implicit = syntax.is_little_endian, syntax.is_implicit_VR
        pydicom.dcmwrite(
            path,
            one,
            implicit_vr=implicit,
            little_endian=little,
            force_encoding=True,
        )
        assert pydicom.dcmread(path).file_meta.TransferSyntaxUID == syntax
    volume = dicom.read(tmp_path)
    assert np.array_equal(volume.hu, np.flip(hu, (0, 1)))


def test_a_missing_decoder_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cases.images(cases.phantom((64, 48, 3)))
    for one in made:
        one.compress(JPEG2000Lossless, generate_instance_uid=False)
    cases.save(tmp_path, made)
    decoder = dicom_pixels.get_decoder(JPEG2000Lossless)
    monkeypatch.setattr(decoder, "_available", {})
    refused(tmp_path, "JPEG 2000", "no decoder is installed", "pip install 'denovox[dicom]'")


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    for k, path in enumerate(cases.series(tmp_path, cases.phantom())):
        one = pydicom.dcmread(path)
        del one.file_meta
        bare = io.BytesIO()
        one.preamble = None
        pydicom.dcmwrite(bare, one, implicit_vr=True, little_endian=True, force_encoding=True)
        path.with_name(f"{k}").write_bytes(bare.getvalue())
        path.unlink()
        assert bare.getvalue()[:4] == bytes([8, 0, 8, 0])
    assert np.array_equal(dicom.read(tmp_path).hu, np.flip(cases.phantom(), (0, 1)))


# ---- what belongs together ----------------------------------------------------------------------

OTHER = f"{cases.ROOT}.12"


def test_several_series_are_listed_and_one_is_chosen(tmp_path: Path) -> None:
    cases.series(tmp_path / "a", cases.phantom(seed=1))
    tags = {"SeriesInstanceUID": OTHER, "SeriesDescription": "Abdomen", "PatientID": None}
    cases.series(tmp_path / "b" / "c", cases.phantom((7, 6, 4), seed=2), tags=tags)
    said = refused(tmp_path, "2 CT series", "--series", cases.SERIES, OTHER, "Thorax", "Abdomen")
    assert "4 slices of 7 x 6, 0.7 x 0.9 x 2 mm, 2 mm thick" in said
    notes: list[str] = []
    for name in (OTHER, "12", ".12"):
        chosen = dicom.read(tmp_path, series=name, say=notes.append)
        assert chosen.source.series_uid == OTHER
        assert chosen.shape == (7, 6, 4)
    assert any(f"left out: series {cases.SERIES}" in note for note in notes)
    assert dicom.read(tmp_path, series=cases.SERIES).source.patient_id == "P7"
    refused(tmp_path, "no series matching 77", series="77")
    third = {"SeriesInstanceUID": f"{cases.ROOT}.112"}
    cases.series(tmp_path / "d", cases.phantom(seed=3), tags=third)
    refused(tmp_path, "2 series matching 12", series="12")


def test_what_is_no_ct_volume_is_left_out_and_said(tmp_path: Path) -> None:
    hu = cases.phantom()
    cases.series(tmp_path, hu)
    others = {
        "a localiser": {"ImageType": ["ORIGINAL", "PRIMARY", "LOCALIZER"]},
        "SR, not CT": {"Modality": "SR", "SeriesInstanceUID": OTHER},
        "Secondary Capture": {"SOPClassUID": "1.2.840.10008.5.1.4.1.1.7"},
        "not greyscale (RGB)": {"PhotometricInterpretation": "RGB"},
        "only 2 slices": {"SeriesInstanceUID": f"{OTHER}.1"},
        "another orientation": {"ImageOrientationPatient": [0, 1, 0, 0, 0, -1]},
        "ImagePositionPatient": {
            "SeriesInstanceUID": f"{OTHER}.2",
            "ImagePositionPatient": None,
        },
    }
    for number, tags in enumerate(others.values()):
        made = cases.images(cases.phantom(seed=9)[..., :2], origin=(1, 2, 3), tags=tags)
        cases.save(tmp_path / str(number), made)
    (tmp_path / "README.txt").write_text("not DICOM")
    (tmp_path / "._000.dcm").write_text("macOS")
    notes: list[str] = []
    volume = dicom.read(tmp_path, say=notes.append)
    assert np.array_equal(volume.hu, np.flip(hu, (0, 1)))
    for what in (*others, "README.txt"):
        assert any(what in note for note in notes), what
    assert all(note.startswith(str(tmp_path)) for note in notes)
    assert len(notes) == len(volume.source.notes)


def test_a_dicomdir_is_no_image(tmp_path: Path) -> None:
    cases.series(tmp_path, cases.phantom())
    made = cases.image(cases.phantom()[..., 0].astype(np.uint16))
    made.SOPClassUID = made.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.1.3.10"
    del made.SeriesInstanceUID
    made.save_as(tmp_path / "DICOMDIR")
    assert dicom.read(tmp_path).shape == (7, 6, 5)


def test_the_same_slice_twice_is_dropped_and_a_different_one_refused(tmp_path: Path) -> None:
    hu = cases.phantom()
    made = cases.images(hu)
    cases.save(tmp_path, made)
    cases.save(tmp_path, made[1:3], prefix="again")
    volume = dicom.read(tmp_path)
    assert np.array_equal(volume.hu, np.flip(hu, (0, 1)))
    assert any("2 duplicate slices" in note for note in volume.source.notes)
    made[2].PixelData = bytes(1) + made[2].PixelData[1:]
    made[2].InstanceNumber = 99
    cases.save(tmp_path, made[1:3], prefix="again")
    refused(tmp_path, "different images at one place", "InstanceNumber")


@pytest.mark.parametrize(
    "tag", ["AcquisitionNumber", "TemporalPositionIdentifier", "KVP", "ConvolutionKernel"]
)
def test_phases_of_one_series_are_never_mixed(tmp_path: Path, tag: str) -> None:
    for phase in (1, 2):
        tags = {tag: f"{phase}"}
        cases.series(tmp_path / str(phase), cases.phantom(seed=phase), tags=tags)
    said = refused(tmp_path, "2 stacks of slices that interleave", f"5 with {tag} 1", f"{tag} 2")
    assert f"--series {cases.SERIES}#1" in said
    for phase in (1, 2):
        volume = dicom.read(tmp_path, series=f"{cases.SERIES}#{phase}")
        assert np.array_equal(volume.hu, np.flip(cases.phantom(seed=phase), (0, 1)))
        assert any("left out: series" in note for note in volume.source.notes)


def test_a_series_of_two_grids_is_refused_with_both(tmp_path: Path) -> None:
    cases.series(tmp_path / "a", cases.phantom())
    cases.series(tmp_path / "b", cases.phantom((5, 6, 1)), origin=(0, 0, 99))
    refused(tmp_path, "mixes slices on 2 grids", "5 of 7 x 6 pixels", "1 of 5 x 6 pixels")


def test_a_slice_alone_is_refused(tmp_path: Path) -> None:
    path = cases.series(tmp_path, cases.phantom())[0]
    refused(path, "is one file of a series", "give the folder")


def test_damage_names_its_file(tmp_path: Path) -> None:
    for keep, what in (
        (0.9, ""),
        (0.3, ""),
        (140, "damaged DICOM"),
        (10, "not (10 bytes"),
        (0, "not (0"),
    ):
        folder = tmp_path / str(keep)
        paths = cases.series(folder, cases.phantom())
        data = paths[2].read_bytes()
        paths[2].write_bytes(data[: int(keep * len(data)) if keep < 1 else keep])
        said = refused(folder, what)
        assert str(paths[2]) in said


def test_nothing_but_a_sentence_reaches_the_user(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    made = cases.images(cases.phantom())
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        made[0].add_new("PatientID", "LO", "far too long for a LO " * 9)
        made[0].add_new("SeriesInstanceUID", "UI", cases.SERIES)
        made[1].PixelData += bytes(2)
        cases.save(tmp_path, made)
    caplog.set_level(logging.DEBUG)
    caplog.clear()
    dicom.read(tmp_path)  # warnings are errors here
    assert not caplog.records
    assert capfd.readouterr() == ("", "")


# ---- geometry -----------------------------------------------------------------------------------


def test_a_missing_slice_is_named_with_its_place(tmp_path: Path) -> None:
    paths = cases.series(tmp_path, cases.phantom((7, 6, 9)))
    paths[3].unlink()
    paths[6].unlink()
    refused(tmp_path, "2 mm x 4, 4 mm x 2", "missing at z = -34.00, -28.00 mm", "--straighten")


@pytest.mark.parametrize("jitter", [0.004, 0.3])
def test_rounded_places_are_even_and_moved_ones_are_not(tmp_path: Path, jitter: float) -> None:
    along = [[0, 0, 2 * k + jitter * (k == 2)] for k in range(5)]
    cases.series(tmp_path, cases.phantom(), along=along)
    if jitter > 0.1:
        refused(tmp_path, "2 mm x 2, 2.3 mm x 1, 1.7 mm x 1")
    else:
        assert dicom.read(tmp_path).spacing_mm[2] == pytest.approx(2)


def test_a_sideways_jump_is_refused_and_straightened(tmp_path: Path) -> None:
    along = [[5.0 * (k == 2), 0, 2 * k] for k in range(5)]
    cases.series(tmp_path, cases.phantom(), along=along)
    refused(tmp_path, "shifted sideways against each other by up to 5.00 mm")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("tilt", [(0.0, 0.33), (-0.2, 0.0), (0.1, -0.3)])
def test_straightening_keeps_what_is_linear_in_mm(
    tmp_path: Path, tilt: tuple[float, float], seed: int
) -> None:
    row, column = oblique(seed)
    normal = np.cross(row, column)
    at = np.cumsum([0, 4, 4, 1.1, 4, 7, 9, 4])[:, None]
    along = at * (normal + tilt[0] * row + tilt[1] * column)
    origin = np.array([-12.3, 4.5, 60.1])
    shape = (40, 36, len(at))
    hu = ramp(shape, origin, [0.7 * row, 0.9 * column], along)
    cases.series(tmp_path, hu, origin=origin, directions=(row, column), along=along)
    degrees = np.degrees(np.arctan(np.hypot(*tilt)))
    refused(tmp_path, f"{degrees:.1f} degrees", "4 mm x 4", "1.1 mm x 1", "7 mm x 1", "9 mm x 1")
    notes: list[str] = []
    volume = dicom.read(tmp_path, straighten=True, say=notes.append)
    inside = volume.hu != -1024
    assert np.count_nonzero(inside) > 0.8 * 40 * 36 * 8
    np.testing.assert_allclose(volume.hu[inside], linear(places(volume))[inside], atol=0.51)
    gram = volume.affine[:3, :3].T @ volume.affine[:3, :3]
    np.testing.assert_allclose(gram, np.diag(np.diag(gram)), atol=1e-6)
    assert np.linalg.norm(volume.affine[:3, :3], axis=0) == pytest.approx(
        sorted(volume.spacing_mm, key=list(volume.spacing_mm).index)
    )
    assert 33.1 / 8 in [pytest.approx(mm, abs=1e-3) for mm in volume.spacing_mm]
    assert any("2 gaps of up to 9 mm were interpolated" in note for note in notes)
    assert volume.source.straightened
    assert volume.source.tilt_degrees == pytest.approx(degrees, abs=0.01)
    assert volume.source.gaps_mm == ((4.0, 4), (1.1, 1), (7.0, 1), (9.0, 1))


def test_straightening_rests_on_the_slices_that_are_there(tmp_path: Path) -> None:
    hu = cases.phantom((7, 6, 9))
    paths = cases.series(tmp_path, hu)
    upright = dicom.read(tmp_path, straighten=True)
    assert not upright.source.straightened
    paths[3].unlink()
    volume = dicom.read(tmp_path, straighten=True)
    np.testing.assert_allclose(volume.affine, upright.affine, atol=1e-9)
    kept = [0, 1, 2, 4, 5, 6, 7, 8]
    assert np.array_equal(volume.hu[..., kept], upright.hu[..., kept])
    expected = (upright.hu[..., 2] + upright.hu[..., 4]) / 2
    np.testing.assert_allclose(volume.hu[..., 3], expected, atol=1e-3)


def test_a_gantry_tag_that_disagrees_is_said(tmp_path: Path) -> None:
    cases.series(tmp_path, cases.phantom(), tags={"GantryDetectorTilt": 12})
    assert any("GantryDetectorTilt is 12" in n for n in dicom.read(tmp_path).source.notes)


def test_wild_places_ask_for_no_memory(tmp_path: Path) -> None:
    along = [[0, 0, k] for k in range(4)] + [[0, 0, 90000]]
    cases.series(tmp_path / "far", cases.phantom(), along=along)
    refused(tmp_path / "far", "too far off to be straightened", straighten=True)
    along = [[0, 9000.0 * (k == 2), k] for k in range(5)]
    cases.series(tmp_path / "aside", cases.phantom(), along=along)
    refused(tmp_path / "aside", "too far off to be straightened", straighten=True)


# ---- Enhanced CT --------------------------------------------------------------------------------


@pytest.mark.parametrize("own_values", [False, True])
def test_an_enhanced_ct_is_the_same_volume(tmp_path: Path, own_values: bool) -> None:
    made = cases.images(cases.phantom(), directions=oblique(3))
    if own_values:
        for k, one in enumerate(made):
            one.RescaleSlope = 1 + k
    cases.save(tmp_path / "classic", made)
    shuffled = [made[k] for k in (3, 0, 4, 2, 1)]
    cases.enhanced(shuffled, own_values).save_as(tmp_path / "many.dcm", enforce_file_format=True)
    expected, volume = dicom.read(tmp_path / "classic"), dicom.read(tmp_path / "many.dcm")
    assert np.array_equal(volume.hu, expected.hu)
    np.testing.assert_allclose(volume.affine, expected.affine, atol=1e-9)
    packed = pydicom.dcmread(tmp_path / "many.dcm")
    packed.compress(RLELossless, generate_instance_uid=False)
    packed.save_as(tmp_path / "packed.dcm")
    assert np.array_equal(dicom.read(tmp_path / "packed.dcm").hu, expected.hu)


def test_phases_of_an_enhanced_ct_are_refused(tmp_path: Path) -> None:
    made = cases.images(cases.phantom()) + cases.images(
        cases.phantom(seed=1), tags={"TemporalPositionIndex": 2}
    )
    path = tmp_path / "many.dcm"
    cases.enhanced(made).save_as(path)
    refused(path, "stacks of slices that interleave", "5 with TemporalPositionIndex 2")
    second = dicom.read(path, series="#2")
    assert np.array_equal(second.hu, np.flip(cases.phantom(seed=1), (0, 1)))


def test_an_enhanced_ct_that_miscounts_is_refused(tmp_path: Path) -> None:
    many = cases.enhanced(cases.images(cases.phantom()))
    many.NumberOfFrames = 2**31 - 1
    many.save_as(tmp_path / "many.dcm")
    refused(tmp_path / "many.dcm", "describes 5 frames")


# ---- where it lies ------------------------------------------------------------------------------


def pack(folder: Path, path: Path, prefix: str = "") -> Path:
    """A ZIP of a folder's files."""
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for file in sorted(folder.iterdir()):
            archive.write(file, prefix + file.name)
    return path


def test_a_zip_is_its_folder_and_is_unpacked_nowhere(tmp_path: Path) -> None:
    cases.series(tmp_path / "a", cases.phantom())
    path = pack(tmp_path / "a", tmp_path / "a.zip", "../../outside/")
    before = sorted(tmp_path.rglob("*"))
    assert np.array_equal(dicom.read(path).hu, dicom.read(tmp_path / "a").hu)
    assert sorted(tmp_path.rglob("*")) == before


def test_zip_bombs_and_locked_zips_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cases.series(tmp_path / "a", cases.phantom())
    path = pack(tmp_path / "a", tmp_path / "a.zip")
    monkeypatch.setattr(dicom_parts, "MOST_UNPACKED", 1000)
    refused(path, "more than any CT")
    monkeypatch.undo()
    data = bytearray(path.read_bytes())
    data[data.index(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(data)
    refused(path, "password-protected")
    path.write_bytes(data[: len(data) // 2])
    refused(path, "damaged ZIP")


def test_a_deflated_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dicom_values, "_INFLATED", 2**23)
    one = cases.images(cases.phantom())[0]
    one.file_meta.TransferSyntaxUID = DeflatedExplicitVRLittleEndian
    buffer = io.BytesIO()
    one.PixelData = b""
    one.save_as(buffer, enforce_file_format=True)
    data = buffer.getvalue()
    meta = data[: 132 + 12 + int.from_bytes(data[140:144], "little")]
    squeeze = zlib.compressobj(9, zlib.DEFLATED, -15)
    bomb = b"".join(squeeze.compress(bytes(2**20)) for _ in range(9)) + squeeze.flush()
    (tmp_path / "bomb.dcm").write_bytes(meta + bomb)
    refused(tmp_path / "bomb.dcm", "inflates to more than 8 MiB")


def test_links_in_circles_and_pipes_are_passed_by(tmp_path: Path) -> None:
    cases.series(tmp_path / "a" / "b", cases.phantom())
    (tmp_path / "a" / "b" / "up").symlink_to(tmp_path)
    (tmp_path / "a" / "loop").symlink_to(tmp_path / "a" / "loop")
    (tmp_path / "a" / "gone").symlink_to(tmp_path / "nowhere")
    os.mkfifo(tmp_path / "a" / "pipe.dcm")
    volume = dicom.read(tmp_path)
    assert volume.shape == (7, 6, 5)
    assert volume.source.notes == ()  # nothing was met twice


# ---- facts, and what becomes of it --------------------------------------------------------------


def test_facts_are_known_without_pixels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made = cases.images(cases.phantom((7, 6, 8)))
    del made[4]
    cases.save(
        tmp_path, [*made, *cases.images(cases.phantom()[..., :1], tags={"InstanceNumber": 9})]
    )

    def never(*_: object) -> None:
        raise AssertionError("pixels were decoded")

    monkeypatch.setattr("denovox.io.dicom.reader.planes_hu", never)
    (found,) = dicom.series_in(tmp_path)
    assert (found.uid, found.count, found.repeated) == (cases.SERIES, 7, 1)
    assert found.shape == (7, 6, 7)
    assert found.spacing_mm == pytest.approx((0.7, 0.9, 2))
    assert found.gaps_mm == ((2.0, 5), (4.0, 1))
    assert "missing at z = -32.00" in found.fault
    assert found.tilt_degrees == pytest.approx(0)
    facts = found.facts
    assert (facts.patient_id, facts.manufacturer, facts.kernel) == ("P7", "Maker", "B30f")
    assert (facts.kvp, facts.thickness_mm, facts.description) == (120, 2, "Thorax")
    assert "Doe" not in repr(found)


def test_it_is_written_as_nifti(tmp_path: Path) -> None:
    cases.series(tmp_path / "a", cases.phantom(), directions=oblique(5))
    volume = dicom.read(tmp_path / "a")
    nifti.write(volume, tmp_path / "ct.nii.gz")
    back = nifti.read(tmp_path / "ct.nii.gz")
    assert back.source.raw.dtype == np.int16
    assert np.array_equal(back.hu, volume.hu)
    np.testing.assert_allclose(back.affine, volume.affine, atol=1e-4)
