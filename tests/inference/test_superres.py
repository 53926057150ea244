"""Super-resolution along z: data consistency, geometry, windows, and sentences for bad input."""

from __future__ import annotations

from pathlib import Path

import dicom_cases as cases
import numpy as np
import pytest
import SimpleITK as sitk

from denovox.core.errors import InputError
from denovox.core.operators.slice_profile import slab_matrix
from denovox.core.operators.thin_slices import thin
from denovox.core.volume import Volume
from denovox.inference.model import (
    Model,
)
from denovox.inference.options import RunOptions
from denovox.inference.superres import superres, thickness_of
from denovox.io import dicom
from denovox.model.presets import PRESETS
from denovox.model.weights import ModelConfig

CONFIG = ModelConfig(net=PRESETS["tiny"], spacing_mm=(0.7, 6.0))


def body(slices=6, mm=(3.0, 3.0, 5.0), shape=(24, 22), seed=0):
    """Water in air with a bone rod that leans along z, and noise."""
    rng = np.random.default_rng(seed)
    x, y, z = np.meshgrid(*(np.linspace(-1, 1, n) for n in (*shape, slices)), indexing="ij")
    hu = np.where(x**2 + y**2 < 0.6, 40.0, -1000.0)
    hu[np.hypot(x - 0.3 * z, y) < 0.2] = 900
    hu += 10 * rng.standard_normal(hu.shape)
    return Volume(hu.astype(np.float32), np.diag([*mm, 1.0]))


def model(denoise=lambda x, sigma, told: x * 0.5):
    """A model around a function (x, sigma, condition) -> x0."""
    return Model(denoise, CONFIG, Path("none"), "cpu")


@pytest.mark.parametrize("region", ["chest", "abdomen", None])
@pytest.mark.parametrize(
    "asked",
    [
        {"factor": 5},
        {"spacing_z_mm": 1.3},
        {"spacing_z_mm": 2, "thickness_mm": 4},
        {"factor": 3, "thickness_mm": 7},
        {"factor": 3, "profile": "gaussian"},
    ],
    ids=str,
)
def test_averaged_back_the_result_is_the_input(region, asked):
    volume = body()
    got = superres(model(), volume, region=region, evaluations=2, **asked)
    told = got.consistency
    interpolated = superres(model(), volume, region=region, evaluations=0, **asked)
    assert not np.allclose(got.hu, interpolated.hu, atol=1)  # the model had its say
    # At its ends a gaussian profile's matrix jumps with the last bit of the lengths: not made anew.
    matrix = thin(volume, CONFIG.spacing_mm, **asked).operator.matrix
    if "profile" not in asked:
        thickness, mm = asked.get("thickness_mm", 5.0), got.spacing_mm[2]
        np.testing.assert_allclose(slab_matrix(got.shape[2], mm, thickness, 5.0), matrix, atol=1e-6)
    off = np.abs(got.hu.astype(np.float64) @ matrix.T - volume.hu)
    assert off.max() < 0.1
    assert told.max_hu == pytest.approx(off.max(), abs=2e-3)
    assert told.rms_hu == pytest.approx(np.sqrt((off**2).mean()), abs=2e-3)


def test_far_outside_the_window_is_the_consistent_interpolation():
    volume = body()
    got = superres(model(), volume, factor=5, region="abdomen", evaluations=2)
    base = superres(model(), volume, factor=5, region="abdomen", evaluations=0)
    far = np.abs(base.hu - 60) > 180 * 1.3
    assert far.mean() > 0.2
    assert np.array_equal(got.hu[far], base.hu[far])


def test_new_slices_lie_where_they_belong():
    mm = (0.8, 0.9, 5.0)
    volume = body(mm=mm)
    affine = volume.affine.copy()
    affine[:3, 3] = (10, -20, 300)
    got = superres(model(), Volume(volume.hu, affine), factor=5, evaluations=0)
    assert got.shape == (*volume.shape[:2], 30)
    assert got.spacing_mm == pytest.approx((*mm[:2], 1.0))
    # The first thick slice is 5 mm around 300: its first thin one lies at 298.
    np.testing.assert_allclose(got.affine[:3, 3], (10, -20, 298))
    assert got.source is None


def test_a_ramp_stays_a_ramp_on_an_oblique_grid_as_simpleitk_places_it():
    ramp = np.broadcast_to(np.arange(8.0) * 10, (4, 4, 8)).astype(np.float32)
    turn = np.array([[1, 0, 0], [0, 0.8, -0.6], [0, 0.6, 0.8]])
    affine = np.eye(4)
    affine[:3, :3] = turn @ np.diag([1, 1, 3.0])
    affine[:3, 3] = (1, 2, 3)
    got = superres(model(), Volume(ramp, affine), spacing_z_mm=1.5, evaluations=0)
    image = sitk.GetImageFromArray(ramp.transpose(2, 1, 0))
    image.SetSpacing((1, 1, 3))
    image.SetOrigin((1, 2, 3))
    image.SetDirection(turn.ravel())
    for k in range(4, 12):  # away from the ends
        at = got.affine @ (2, 2, k, 1)
        value = image.EvaluateAtPhysicalPoint(at[:3].tolist(), sitk.sitkLinear)
        assert got.hu[2, 2, k] == pytest.approx(value, abs=0.5)


def test_a_plane_finer_than_the_model_knows_is_worked_on_coarser():
    seen, lines = [], []

    def denoise(x, sigma, told):
        seen.append((x.shape[2:4], told.spacing_mm[0].tolist()))
        return x * 0.5

    volume = body(mm=(0.4, 0.4, 4.0), shape=(48, 40))
    got = superres(
        model(denoise), volume, factor=4, region="chest", evaluations=1,
        options=RunOptions(tile=96, say=lines.append),
    )  # fmt: skip
    assert got.shape == (48, 40, 24)
    assert got.consistency.max_hu < 0.1
    (_, spacing) = seen[0]
    np.testing.assert_allclose(spacing, (0.7, 0.7, 1.0), rtol=0.05)
    assert any(line.startswith("grid: processed at 27 x 23 x 24") for line in lines)


def test_the_model_is_told_the_thin_grid_and_asked_as_often_as_said():
    seen = []

    def denoise(x, sigma, told):
        seen.append((sigma, told.spacing_mm[0].tolist()))
        return x

    superres(model(denoise), body(), factor=5, region="chest", evaluations=3,
             options=RunOptions(tile=96))  # fmt: skip
    sigmas = [s for s, _ in seen]
    assert len(sigmas) == 3
    assert sigmas == sorted(sigmas, reverse=True)
    np.testing.assert_allclose([mm for _, mm in seen], [(3, 3, 1)] * 3)


def test_an_anatomy_on_either_grid_reaches_the_model():
    seen = []

    def denoise(x, sigma, told):
        seen.append(set(told.anatomy.unique().tolist()))
        return x

    volume = body()
    for slices in (6, 30):
        ids = np.full((*volume.shape[:2], slices), 5, np.uint8)
        superres(model(denoise), volume, factor=5, region="chest", evaluations=1, anatomy=ids)
    assert seen
    assert all(labels == {5} for labels in seen)
    with pytest.raises(InputError, match="anatomy's grid"):
        superres(model(), volume, factor=5, anatomy=np.zeros((2, 2, 2), np.uint8))


def test_same_seed_same_bits():
    one, two, other = (
        superres(model(), body(), factor=5, evaluations=2, options=RunOptions(seed=seed)).hu
        for seed in (3, 3, 4)
    )
    assert np.array_equal(one, two)
    assert not np.array_equal(one, other)


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({}, "either a factor or the spacing"),
        ({"factor": 2, "spacing_z_mm": 1}, "not both"),
        ({"factor": 1}, "does not make slices thinner"),
        ({"factor": float("nan")}, "does not make slices thinner"),
        ({"factor": 10}, r"0.5 mm apart .* from 0.7 to 6 mm; the largest factor here is 7.14"),
        ({"spacing_z_mm": float("nan")}, "model supports spacings"),
        ({"spacing_z_mm": -1}, "model supports spacings"),
        ({"spacing_z_mm": 5.5}, "not finer than the scan's own, 5 mm"),
        ({"spacing_z_mm": 2, "thickness_mm": 1}, "thinner than the requested ones"),
        ({"factor": 2, "evaluations": -1}, "give 0 or more"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_said(asked, sentence):
    with pytest.raises(InputError, match=sentence):
        superres(model(), body(), **asked)


def test_one_slice_is_too_few():
    with pytest.raises(InputError, match="needs at least two"):
        superres(model(), body(slices=1), factor=5)


@pytest.mark.parametrize("mm", [5.0, float(np.float32(3.27)), 2.9999998])
def test_rounded_lengths_cost_no_slice(mm):
    fine = thin(body(slices=7, mm=(1.0, 1.0, mm)), (0.7, 6.0), factor=3)
    assert fine.count == 21
    assert len(fine.operator.matrix) == 7


# ---- thickness of the slices --------------------------------------------------------------------

CORONAL = ((1, 0, 0), (0, 0, -1))


def thick_scan(folder, thickness, directions=cases.UPRIGHT):
    """A DICOM series with slices 4 mm apart, whose header says this thickness."""
    hu = np.rint(body(mm=(3.0, 3.0, 4.0)).hu).astype(np.int16)
    tags = {"SliceThickness": thickness}
    cases.series(folder, hu, directions=directions, spacing=(3, 3, 4), tags=tags)
    return dicom.read(folder)


@pytest.mark.parametrize(
    ("header", "used", "says"),
    [
        (8, 8.0, "8 mm (from the DICOM header; --thickness overrides)"),
        (3, 3.0, "3 mm (from the DICOM header"),
        (4, None, "4 mm (from the DICOM header"),
        ("4.000001", None, "4 mm (from the DICOM header"),
        ("1.99999", 1.99999, "1.99999 mm (from the DICOM header"),
        ("20.0001", 20.0001, "20.0001 mm (from the DICOM header"),
        (None, None, "taken as the slice spacing, 4 mm (the DICOM header has none; --thickness"),
        (0, None, "the 0 mm of the DICOM header are less than 0.5 times that"),
        (1.25, None, "the 1.25 mm of the DICOM header are less than 0.5 times that"),
        (40, None, "the 40 mm of the DICOM header are over 5 times that"),
    ],
)
def test_the_thickness_is_that_of_the_header_if_credible(tmp_path, header, used, says):
    thickness, why = thickness_of(thick_scan(tmp_path / "ct", header))
    assert thickness == used
    assert says in why


def test_slices_that_are_not_axial_have_no_thickness_along_z(tmp_path):
    thickness, why = thickness_of(thick_scan(tmp_path / "ct", 8, CORONAL))
    assert thickness is None
    assert why.startswith("taken as the slice spacing, 3 mm (the slices of the DICOM series are")


def test_a_file_without_a_thickness_has_that_of_its_spacing():
    assert thickness_of(body()) == (
        None,
        "taken as the slice spacing, 5 mm (--thickness overrides)",
    )


def test_headers_thickness_is_used_and_told_and_a_given_one_wins(tmp_path):
    volume = thick_scan(tmp_path / "ct", 8)
    said = []
    how = {"factor": 2, "evaluations": 0, "options": RunOptions(say=said.append)}
    by_header = superres(model(), volume, **how)
    assert said[0] == "slice thickness: 8 mm (from the DICOM header; --thickness overrides)"
    given = superres(model(), volume, thickness_mm=8, **how)
    assert np.array_equal(by_header.hu, given.hu)
    assert by_header.shape[2] == 14  # 5 x 4 mm and 8 mm, in slices of 2 mm
    other = superres(model(), volume, thickness_mm=4, **how)
    assert other.shape[2] == 12
    assert not any("overrides" in line for line in said[2:])
    superres(model(), volume, thickness_mm=21, **how)
    assert "slice thickness: 21 mm, as given, is over 5 times the slice spacing, 4 mm" in said


def test_thin_slices_far_apart_are_no_reason_to_refuse(tmp_path):
    volume = thick_scan(tmp_path / "ct", 2.5)
    got = superres(model(), volume, factor=1.3, evaluations=0)  # slices of 3.1 mm
    assert got.spacing_mm[2] == pytest.approx(4 / 1.3, rel=0.05)
    with pytest.raises(InputError, match=r"2\.5 mm thick, are thinner than the requested ones"):
        superres(model(), volume, factor=1.3, evaluations=0, thickness_mm=2.5)


def test_a_frame_of_tissue_is_air_to_the_model_and_stays_what_it_is():
    inner = body(8, shape=(36, 34))
    seen = {}
    for fill in (0.0, -1024.0):
        hu = np.pad(inner.hu, ((5, 0), (5, 5), (0, 0)), constant_values=fill)
        got = superres(model(), Volume(hu, inner.affine), factor=3, region="chest", evaluations=2)
        seen[fill] = got.hu[5:, 5:-5]
        assert fill != 0 or np.abs(got.hu[:5]).max() < 1e-3
        assert got.consistency.max_hu < 0.1
    np.testing.assert_allclose(seen[0.0], seen[-1024.0], rtol=0, atol=1e-3)
