"""denovox.scan.hu_checks and checkup_view: what is told of a phantom whose faults are known."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest

from denovox.core.labels import OUTSIDE
from denovox.core.volume import Volume
from denovox.io import nifti
from denovox.scan import anatomy
from denovox.scan.geometry_checks import check_geometry, check_view
from denovox.scan.hu_checks import Finding, check_values, landmarks
from denovox.simulate import phantom

Change = Callable[[np.ndarray], np.ndarray]
SHAPE = (76, 56, 36)
MM = 5.0


def chest(seed: int = 0, noise_hu: float = 12.0, mm: float = MM) -> Volume:
    body = phantom.chest(SHAPE, mm, seed).ct
    noisy = phantom.add_noise(body, noise_hu, seed)
    return noisy.with_hu(np.rint(np.clip(noisy.hu, -1024, 3071)))


def codes(findings: tuple[Finding, ...]) -> dict[str, str]:
    return {one.code: one.severity for one in findings}


def changed(volume: Volume, change: Change) -> Volume:
    return volume.with_hu(change(volume.hu).astype(np.float32))


def sentence(findings: tuple[Finding, ...], code: str) -> str:
    (said,) = [one.sentence for one in findings if one.code == code]
    return said


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(4))
def test_peaks_lie_where_the_phantom_has_them(seed: int) -> None:
    volume = chest(seed)
    coarse = anatomy.coarse(volume)
    for labels in (None, coarse):
        facts, findings = check_values(volume, labels)
        assert codes(findings) == {"values": "ok", "hu": "ok"}
        assert abs(facts.peaks_hu["air"] + 1000) < 8  # clipped at -1024, two SDs away
        assert abs(facts.peaks_hu["fat"] + 100) < 15
        assert 20 < facts.peaks_hu["soft"] < 80
        assert facts.whole
    # Inside the body alone: lung's own mode is far from that of the air around.
    assert -900 < facts.peaks_hu["lung"] < -750


WRONG: dict[str, tuple[Change, str, str]] = {
    "intercept lost": (lambda hu: hu + 1024, "shifted", "about +1024"),
    "intercept lost, clipped": (lambda hu: np.clip(hu + 1024, 0, 4095), "shifted", "about +1024"),
    "intercept twice": (lambda hu: hu - 1024, "shifted", "about -1024"),
    "padding, intercept lost": (
        lambda hu: np.where(np.indices(hu.shape)[0] < 4, -2000, hu + 1024),
        "shifted",
        "about +1024",
    ),
    "another shift": (lambda hu: hu + 300, "shifted", "about +3"),
    "ten times": (lambda hu: 10 * hu, "scaled", "about 10"),
    "a half, and more": (lambda hu: hu / 2 + 500, "scaled", "about 0.5"),
    "[0, 1]": (lambda hu: (hu + 1024) / 4095, "normalised", "[0, "),
    "[-1, 1]": (lambda hu: np.clip(hu / 1000, -1, 1), "normalised", "[-1, "),
    "8 bits": (lambda hu: np.rint(np.clip((hu + 1000) / 8, 0, 255)), "grey_levels", "8-bit"),
    "a window": (lambda hu: np.clip(hu, -160, 240), "windowed", "lower end"),
    "a narrow window": (lambda hu: np.clip(hu, 0, 80) - 40, "windowed", "lower end"),
    "no air": (
        lambda hu: np.random.default_rng(0).normal(300, 60, hu.shape),
        "no_air",
        "there is no air",
    ),
    "unsigned": (lambda hu: np.where(hu < 0, hu + 65536, hu), "wrapped", "64536"),
    "nothing": (lambda hu: 0 * hu, "constant", "same value, 0"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_hu_is_refused_with_the_reason(name: str) -> None:
    change, code, said = WRONG[name]
    for seed in range(2):
        _, findings = check_values(changed(chest(seed), change))
        assert codes(findings) == {"values": "ok", code: "refuse"}
        assert said in sentence(findings, code)
        assert findings[-1].advice


@pytest.mark.parametrize("top", [240, 400, 1000])
def test_clipping_above_is_a_doubt(top: float) -> None:
    volume = changed(chest(), lambda hu: np.clip(hu, -1024, top))
    if top < 500:
        _, findings = check_values(volume)
        assert codes(findings) == {"values": "ok", "hu": "ok", "clipped": "doubt"}
        share = (volume.hu == top).mean()
        assert f"clipped at {top:g} HU: {share:.1%}" in sentence(findings, "clipped")
    else:  # as high as the phantom's bone goes: nothing was lost
        assert "clipped" not in codes(check_values(volume)[1])


@pytest.mark.parametrize("pad", [-2000, -3024, -32768])
def test_padding_is_noted_and_spoils_nothing(pad: float) -> None:
    volume = changed(chest(), lambda hu: np.where(np.indices(hu.shape)[0] < 5, pad, hu))
    facts, findings = check_values(volume)
    assert codes(findings) == {"values": "ok", "hu": "ok", "padding": "note"}
    assert f"{5 / SHAPE[0]:.1%}" in sentence(findings, "padding")
    assert f"down to {pad:g}" in sentence(findings, "padding")
    assert facts.low == pad


def test_metal_and_values_beyond_12_bits() -> None:
    volume = chest()
    volume.hu[30, 20, 10] = 3071
    assert "1 voxels are at 3071 HU" in sentence(check_values(volume)[1], "metal")
    volume.hu[30, 20, 10] = 8000
    assert codes(check_values(volume)[1])["metal"] == "note"
    volume.hu[30, 20, 10] = 30000
    assert codes(check_values(volume)[1])["metal"] == "doubt"


def test_values_that_are_not_whole_are_told() -> None:
    facts, findings = check_values(changed(chest(), lambda hu: hu + 0.25))
    assert not facts.whole
    assert "not whole numbers" in sentence(findings, "values")


@pytest.mark.parametrize(("scale", "shift"), [(1, 0), (1, 1024), (0.002, 1), (16, -300)])
def test_landmarks_come_along_with_scale_and_shift(scale: float, shift: float) -> None:
    found = landmarks(chest().hu * scale + shift)
    assert found is not None
    air, fat, soft = (np.array(found) - shift) / scale
    assert abs(air + 1000) < 15
    assert abs(fat + 100) < 25
    assert 20 < soft < 80


def brain(bone: float) -> Volume:
    """A crop of brain, with this share of skull; no air, no fat."""
    rng = np.random.default_rng(0)
    hu = rng.normal(np.where(rng.random((30, 30, 20)) < 0.4, 28, 38), 8)
    skull = rng.random(hu.shape) < bone
    return Volume(np.rint(np.where(skull, rng.uniform(300, 1500, hu.shape), hu)), np.eye(4))


@pytest.mark.parametrize("shift", [-1000, -1024])
@pytest.mark.parametrize("bone", [0.0, 0.06, 0.15])
def test_soft_tissue_that_was_shifted_to_where_air_is_is_a_doubt(bone: float, shift: int) -> None:
    """Nothing but its place on the scale tells it from air, so it cannot be refused."""
    assert "only_air" not in codes(check_values(brain(bone))[1])
    shifted = changed(brain(bone), lambda hu: hu + shift)
    (said,) = (one for one in check_values(shifted)[1] if one.severity == "doubt")
    assert said.code in ("only_air", "uncertain")
    assert "shifted by about -1024" in said.sentence


def test_the_air_around_a_little_of_the_body_is_no_doubt() -> None:
    edge = np.random.default_rng(0).normal(-1000, 15, (30, 30, 20))
    edge[:, :2] += 900
    edge[:, :1] += 150
    assert "only_air" not in codes(check_values(Volume(np.rint(edge), np.eye(4)))[1])


def test_noise_has_no_landmarks() -> None:
    white = np.random.default_rng(0).normal(0, 100, (40, 40, 40)).astype(np.float32)
    _, findings = check_values(Volume(white, np.eye(4)))
    assert codes(findings)["peaks"] == "doubt"


@pytest.mark.slow
def test_real_ct_is_in_hu_and_shifted_ct_is_not(data_dir: Path) -> None:
    for name in ("abdomen_TSexample_sm", "limb_STS-003", "chest_RIDER-0117", "chest_TSaorta"):
        volume = nifti.read(data_dir / f"{name}_ct.nii.gz")
        for coarse in (None, anatomy.coarse(volume)):
            facts, findings = check_values(volume, coarse)
            assert {"refuse", "doubt"}.isdisjoint(codes(findings).values())
            assert abs(facts.peaks_hu["fat"] + 95) < 25
        _, findings = check_values(changed(volume, lambda hu: hu + 1024))
        assert "+1024" in sentence(findings, "shifted")


# ---- the grid -----------------------------------------------------------------------------------


def turned(degrees: float) -> np.ndarray:
    c, s = np.cos(np.radians(degrees)), np.sin(np.radians(degrees))
    affine = np.eye(4)
    affine[:3, :3] = [[1, 0, 0], [0, c, -s], [0, s, c]]
    return affine


@pytest.mark.parametrize("degrees", [0.0, 0.1, 5.0, 30.0])
def test_obliqueness_is_the_angle_turned(degrees: float) -> None:
    volume = Volume(np.zeros((50, 60, 70), np.float32), turned(degrees) @ np.diag([1, 1, 1, 1]))
    facts, findings = check_geometry(volume)
    assert facts.oblique_degrees == pytest.approx(degrees, abs=1e-5)
    assert facts.sheared_degrees == pytest.approx(0, abs=1e-5)
    assert ("oblique" in codes(findings)) == (degrees > 0.5)
    assert facts.extent_mm == pytest.approx((50, 60, 70))


@pytest.mark.parametrize("degrees", [0.0, 18.5])
def test_a_shear_is_told_as_an_angle(degrees: float) -> None:
    affine = np.diag([1.0, 1, 4, 1])
    affine[1, 2] = 4 * np.tan(np.radians(degrees))
    facts, findings = check_geometry(Volume(np.zeros((50, 60, 70), np.float32), affine))
    assert facts.sheared_degrees == pytest.approx(degrees, abs=1e-5)
    assert ("sheared" in codes(findings)) == bool(degrees)


def test_thick_uneven_and_short_volumes() -> None:
    def of(shape: tuple[int, ...], mm: list[float]) -> set[str]:
        return set(codes(check_geometry(Volume(np.zeros(shape, "f4"), np.diag([*mm, 1.0])))[1]))

    assert of((50, 50, 50), [1, 1, 1]) == {"grid"}
    assert of((50, 50, 50), [2, 2, 5]) == {"grid", "thick"}
    assert of((99, 99, 50), [0.5, 0.5, 2.5]) == {"grid", "uneven"}
    assert of((99, 99, 12), [1, 1, 3]) == {"grid", "short"}


@pytest.mark.parametrize("axes", ["LPS", "RAS", "SRP", "PIL"])
def test_the_files_own_axes_are_told(tmp_path: Path, axes: str) -> None:
    ornt = nib.orientations.axcodes2ornt(tuple(axes))
    affine = np.linalg.inv(nib.orientations.inv_ornt_aff(ornt, (3, 4, 5)))
    assert "".join(nib.aff2axcodes(affine)) == axes
    nib.save(nib.Nifti1Image(np.zeros((3, 4, 5), np.int16), affine), tmp_path / "ct.nii")
    facts, findings = check_geometry(nifti.read(tmp_path / "ct.nii"))
    assert facts.file_axes == axes
    assert f"stored as {axes}" in sentence(findings, "grid")
    assert check_geometry(Volume(np.zeros((3, 4, 5), "f4"), np.eye(4)))[0].file_axes is None


# ---- the field of view --------------------------------------------------------------------------


def cylinder(radius_mm: float, pad: float | None = None, view_mm: float = 120) -> Volume:
    """Water in air along z, voxels of 4 mm; outside the round field of view `pad`, if given."""
    x, y, _ = np.indices((60, 60, 12)) * 4.0 - 118
    distance = np.hypot(x, y)
    noise = np.random.default_rng(0).normal(0, 5, x.shape)
    hu = np.where(distance < radius_mm, 40, -1000) + noise
    if pad is not None:
        hu = np.where(distance > view_mm, pad, hu)
    return Volume(hu.astype(np.float32), np.diag([4.0, 4, 4, 1]))


@pytest.mark.parametrize("pad", [None, -1024.0, -2000.0, -3024.0])
@pytest.mark.parametrize(("radius", "cut"), [(60, 0), (90, 0), (150, 12)])
def test_a_body_cut_by_the_field_of_view(radius: float, cut: int, pad: float | None) -> None:
    volume = cylinder(radius, pad)
    body = (volume.hu > -300).astype(np.uint8)
    coarse = np.where(body, 118, OUTSIDE).astype(np.uint8)
    view, findings = check_view(volume, coarse)
    assert view.cut_slices == cut
    assert ("cut" in codes(findings)) == bool(cut)
    assert view.body_share == pytest.approx(body.mean())
    if pad is None:
        assert view.round_mm is None
    else:
        assert view.round_mm == pytest.approx(240, abs=8)


@pytest.mark.parametrize(("radius", "cut"), [(60, 0), (110, 12)])
def test_a_round_field_of_view_cuts_where_the_array_does_not(radius: float, cut: int) -> None:
    volume = cylinder(radius, -1024, view_mm=90)
    coarse = np.where(volume.hu > -300, 118, OUTSIDE).astype(np.uint8)
    view, findings = check_view(volume, coarse)
    assert view.cut_slices == cut
    assert view.round_mm == pytest.approx(180, abs=8)
    assert codes(findings)["round"] == "note"


def test_a_body_at_one_side_only_is_cut_in_those_slices() -> None:
    volume = cylinder(60)
    volume.hu[:20, 25:35, 3:7] = 40
    coarse = np.where(volume.hu > -300, 118, OUTSIDE).astype(np.uint8)
    assert check_view(volume, coarse)[0].cut_slices == 4


def test_a_table_behind_the_body() -> None:
    volume = cylinder(60)
    coarse = np.where(volume.hu > -300, 118, OUTSIDE).astype(np.uint8)
    assert not check_view(volume, coarse)[0].table
    volume.hu[8:52, 10:12] = -200  # 176 mm wide; y grows to the front
    assert check_view(volume, coarse)[0].table
    front = volume.with_hu(volume.hu[:, ::-1].copy())
    assert not check_view(front, coarse[:, ::-1].copy())[0].table


def test_no_body_is_a_doubt() -> None:
    empty = cylinder(0)
    view, findings = check_view(empty, np.full(empty.shape, OUTSIDE, np.uint8))
    assert (view.body_share, view.cut_slices) == (0, 0)
    assert codes(findings) == {"body": "doubt"}
