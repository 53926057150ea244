"""denovox.scan.gate: only a CT in HU is read, and what is refused is refused everywhere."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest

import denovox
from denovox.core.errors import InputError
from denovox.core.volume import Volume
from denovox.inference.options import RunOptions
from denovox.inference.scan_context import ScanContext, context_of
from denovox.io.nifti_bytes import save_new
from denovox.scan import gate
from denovox.simulate import phantom

Change = Callable[[np.ndarray], np.ndarray]
SHAPE = (60, 48, 24)


def chest(noise_hu: float = 12.0) -> Volume:
    drawn = _chest(noise_hu)
    return drawn.with_hu(drawn.hu.copy())


@cache
def _chest(noise_hu: float) -> Volume:
    noisy = phantom.add_noise(phantom.chest(SHAPE, 6.0, 0).ct, noise_hu, 0)
    return noisy.with_hu(np.rint(np.clip(noisy.hu, -1024, 3071)))


def file(path: Path, change: Change = lambda hu: hu) -> Path:
    volume = chest()
    save_new(change(volume.hu).astype(np.float32), volume.affine, np.dtype("<f4"), path, False)
    return path


def edge(hu: np.ndarray, value: float) -> np.ndarray:
    """The same with a frame of one value, as a scanner or a registration adds it."""
    framed = np.full_like(hu, value)
    framed[5:-5, 5:-5] = hu[5:-5, 5:-5]
    return framed


def voxels(hu: np.ndarray) -> np.ndarray:
    """The same with three voxels that belong to nothing."""
    stray = hu.copy()
    stray[0, 0, :3] = -2000, -3024, 30000
    return stray


PADDING: dict[str, Change] = {
    "none": lambda hu: hu,
    "-2000": lambda hu: edge(hu, -2000),
    "-3024": lambda hu: edge(hu, -3024),
    "0": lambda hu: edge(hu, 0),
    "65535": lambda hu: edge(hu, 65535),
    "voxels": voxels,
}
WRONG: dict[str, tuple[Change, str]] = {
    "+1024": (lambda hu: hu + 1024, r"shifted by about \+10"),
    "+1000": (lambda hu: hu + 1000, r"shifted by about \+10"),
    "-1024": (lambda hu: hu - 1024, "shifted by about -10"),
    "+32768": (lambda hu: hu + 32768, r"shifted by about \+327"),
    "x0.5": (lambda hu: hu / 2, "scaled by about 0.[45]"),
    "x2": (lambda hu: hu * 2, "scaled by about (2|1.9|2.1)"),
    "/1000": (lambda hu: hu / 1000, "normalised|windowed|a window|no air"),
    "8 bits": (lambda hu: np.rint(np.clip((hu + 1000) / 1400, 0, 1) * 255), "grey|a window"),
    "[0, 1]": (lambda hu: np.clip((hu + 1000) / 1400, 0, 1), "normalised|a window"),
    "window": (lambda hu: np.clip(hu, -160, 240), "a window was applied"),
    "unsigned": (lambda hu: np.where(hu < 0, hu + 65536, hu), "stored as unsigned"),
}


@pytest.mark.parametrize("pad", PADDING)
@pytest.mark.parametrize("name", WRONG)
def test_padding_and_stray_voxels_hide_nothing(name: str, pad: str) -> None:
    change, what = WRONG[name]
    volume = chest()
    wrong = volume.with_hu(PADDING[pad](change(volume.hu).astype(np.float32)))
    with pytest.raises(InputError, match=what) as caught:
        gate.require_ct(wrong, "ct.nii")
    message = str(caught.value)
    assert message.startswith("ct.nii is not in HU: ")
    assert message.endswith("--accept-hu (accept_hu=True in Python) processes it as it is")
    assert "\n" not in message


@pytest.mark.parametrize("noise_hu", [0.0, 12.0, 90.0])
@pytest.mark.parametrize("pad", PADDING)
def test_a_ct_in_hu_passes_whatever_its_padding(pad: str, noise_hu: float) -> None:
    volume = chest(noise_hu)
    said: list[str] = []
    gate.require_ct(volume.with_hu(PADDING[pad](volume.hu)), say=said.append)
    assert said == []


@pytest.mark.parametrize("width", [5, 8, 11])
def test_padding_at_the_value_of_air_does_not_stand_in_for_air(width: int) -> None:
    volume = chest()
    framed = np.full_like(volume.hu, -1024)
    framed[width:-width, width:-width] = volume.hu[width:-width, width:-width] * 2
    said: list[str] = []
    gate.require_ct(volume.with_hu(framed), accept_hu=True, say=said.append)
    (note,) = said
    assert "scaled by about 2" in note or "of them below -1300, and air is at -1000 HU" in note


def test_a_part_of_a_scan_without_air_passes() -> None:
    rng = np.random.default_rng(0)
    hu = np.where(np.indices((40, 40, 40))[0] < 12, -100, 55) + rng.normal(0, 12, (40, 40, 40))
    volume = Volume(np.rint(hu).astype(np.float32), np.eye(4))
    said: list[str] = []
    gate.require_ct(volume, say=said.append)
    assert said == []
    with pytest.raises(InputError, match="no air"):
        gate.require_ct(volume.with_hu(volume.hu + 1024))


def test_what_is_accepted_is_said(tmp_path: Path) -> None:
    path = file(tmp_path / "lost.nii", lambda hu: hu + 1024)
    with pytest.raises(InputError, match="add -1024 to all values"):
        denovox.read(path)
    said: list[str] = []
    volume = denovox.read(path, accept_hu=True, say=said.append)
    assert volume.hu.min() >= 0
    (note,) = said
    assert note.startswith(f"{path} is taken as HU, although HU are shifted by about +10")
    said.clear()
    denovox.read(file(tmp_path / "ct.nii"), say=said.append)
    assert said == []


def test_nan_is_never_accepted() -> None:
    volume = chest()
    volume.hu[1, 2, 3] = np.nan
    with pytest.raises(InputError, match="1 voxels are NaN") as caught:
        gate.require_ct(volume, accept_hu=True)
    assert gate.HOW_TO_ACCEPT not in str(caught.value)


def test_geometry_is_refused_whatever_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = gate.Finding(code="spacing", severity="refuse", sentence="voxels of 3000 mm")
    monkeypatch.setattr(gate, "check_geometry", lambda volume: (None, (refused,)))
    with pytest.raises(InputError, match=r"^the volume: voxels of 3000 mm$"):
        gate.require_ct(chest(), accept_hu=True)


def test_slices_of_two_phases_are_refused_whatever_is_accepted() -> None:
    volume = chest()
    hu = volume.hu.copy()
    hu[..., 1::2] += 90 * (hu[..., 1::2] > -200)
    with pytest.raises(InputError, match=r"^the volume: slices along z alternate: .* series of"):
        gate.require_ct(volume.with_hu(hu), accept_hu=True)


def test_the_api_refuses_an_array_that_is_not_in_hu() -> None:
    lost = Volume.from_numpy(chest().hu + 1024, spacing_mm=6)
    for given in (None, ScanContext(lost)):
        with pytest.raises(InputError, match="the volume is not in HU"):
            context_of(lost, None, None, RunOptions(), given)
    assert context_of(lost, None, None, RunOptions(accept_hu=True), None).volume is lost


@pytest.mark.slow
def test_real_ct_passes_and_so_do_its_parts(data_dir: Path) -> None:
    rng = np.random.default_rng(0)
    for name in ("abdomen_TSexample_sm", "headneck_OpenKBP-pt101_defaced", "chest_RIDER-0117"):
        volume = gate.read(data_dir / f"{name}_ct.nii.gz")
        for edge_voxels in (24, 48, 96):
            size = np.minimum(edge_voxels, volume.shape)
            at = rng.integers(0, np.array(volume.shape) - size + 1)
            x, y, z = (slice(a, a + n) for a, n in zip(at, size, strict=True))
            part = volume.hu[x, y, z]
            if part.min() < part.max():
                gate.require_ct(Volume(part, volume.affine))
        with pytest.raises(InputError, match="shifted by about"):
            gate.require_ct(volume.with_hu(volume.hu + 1024))
