"""The sheet: which way up every plane is, and a PNG that is whole or not there."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pytest
from PIL import Image

from denovox.core.volume import Volume, Window
from denovox.reports import figure_sheet as module
from denovox.reports.figure_sheet import MARGIN, SIDES, WIDTH, Row, difference_limit, plane, sheet

WINDOW = Window(360, 60)
# 3 x 4 x 5: the value's digits are x, y, z, each growing towards Right, Anterior, Superior.
X, Y, Z = np.meshgrid(range(3), range(4), range(5), indexing="ij")
DIGITS = 100 * X + 10 * Y + Z


def volume(hu: np.ndarray, spacing: tuple[float, float, float] = (1, 1, 1)) -> Volume:
    return Volume(np.asarray(hu, np.float32), np.diag([*spacing, 1.0]))


def row(shape: tuple[int, int, int] = (24, 18, 12), **more: object) -> Row:
    noise = np.random.default_rng(0).normal(60, 40, shape)
    known = {"title": "Denoised", "before": volume(noise), "after": volume(noise / 2 + 30)}
    return Row(**(known | {"window": WINDOW, "caption": "PSNR 22.4 -> 31.8 dB"} | more))  # type: ignore[arg-type]


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path)) / 255


def group_of(count: int) -> float:
    """The width of one of so many groups."""
    return (WIDTH - 2 * MARGIN - (count - 1) * module.GUTTER) / count


# Orientation ----------------------------------------------------------------------------------


def test_axial_has_right_at_the_left_and_anterior_at_the_top() -> None:
    assert plane(DIGITS, 2, 4).tolist() == [
        [234, 134, 34],
        [224, 124, 24],
        [214, 114, 14],
        [204, 104, 4],
    ]


def test_coronal_has_right_at_the_left_and_superior_at_the_top() -> None:
    assert plane(DIGITS, 1, 3).tolist() == [
        [234, 134, 34],
        [233, 133, 33],
        [232, 132, 32],
        [231, 131, 31],
        [230, 130, 30],
    ]


def test_sagittal_has_anterior_at_the_left_and_superior_at_the_top() -> None:
    assert plane(DIGITS, 0, 2).tolist() == [
        [234, 224, 214, 204],
        [233, 223, 213, 203],
        [232, 222, 212, 202],
        [231, 221, 211, 201],
        [230, 220, 210, 200],
    ]


@pytest.mark.parametrize(("axis", "middle"), [(0, 1), (1, 2), (2, 2)])
def test_the_middle_is_shown_unless_another_is_asked_for(axis: int, middle: int) -> None:
    np.testing.assert_array_equal(plane(volume(DIGITS), axis), plane(DIGITS, axis, middle))


def test_the_letters_are_those_of_the_planes() -> None:
    at = {"R": X == 2, "L": X == 0, "A": Y == 3, "P": Y == 0, "S": Z == 4, "I": Z == 0}
    for axis, name in enumerate(module.PLANES):
        for letter, edge in zip(SIDES[name], [np.s_[:, 0], np.s_[:, -1], 0, -1], strict=True):
            shown = plane(at[letter], axis)
            assert shown[edge].all(), (name, letter)
            assert not shown.all(), (name, letter)


def test_no_such_plane() -> None:
    with pytest.raises(ValueError, match="axis"):
        plane(DIGITS, 3)
    with pytest.raises(IndexError):
        plane(DIGITS, 0, 3)


def test_the_png_shows_right_anterior_superior_where_plane_puts_them(tmp_path: Path) -> None:
    hu = np.full((72, 72, 72), -1000.0)
    hu[36:, 36:, 36:] = 1000  # the right anterior superior octant is white
    sheet([row(before=volume(hu), after=volume(hu))], tmp_path / "octant.png", "Octant")
    group = int(group_of(3))
    top = module.TITLE + module.HEAD + module.NAME
    axial = pixels(tmp_path / "octant.png")[top : top + group, MARGIN : MARGIN + group].mean(-1)
    half = group // 2 - 20  # clear of the letters at the middles of the edges
    corners = [axial[40:half, 40:half], axial[40:half, -half:-40], axial[-half:-40, 40:half]]
    assert [round(float(c.mean()), 2) for c in corners] == [1, 0, 0]
    lower = pixels(tmp_path / "octant.png")[top + group + module.GAP + 30 :][:60].mean(-1)
    half = group // 4 - 20
    coronal, sagittal = lower[:, MARGIN:][:, :half], lower[:, MARGIN + group // 2 + 4 :][:, :half]
    assert coronal[:, 30:].mean() == pytest.approx(1, abs=0.01)
    assert sagittal[:, 30:].mean() == pytest.approx(1, abs=0.01)


# The file -------------------------------------------------------------------------------------


def test_two_rows_make_a_png_as_wide_as_promised(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    sheet([row(), row((20, 20, 20), reference=row((20, 20, 20)).after)], str(path), "demo")
    assert path.read_bytes().startswith(b"\x89PNG\r\n\x1a\n")
    height, width, _ = pixels(path).shape
    assert width == 1600
    assert 1000 < height < 2400
    assert 30_000 < path.stat().st_size < 3_000_000
    assert list(tmp_path.iterdir()) == [path]


def test_the_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        sheet([row()], tmp_path / name, "demo")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_millimetres_are_as_long_down_as_across(tmp_path: Path) -> None:
    heights = []
    for number, z in enumerate((1.0, 2.0)):
        spaced = [volume(v.hu, (1, 1, z)) for v in (row().before, row().after)]
        path = tmp_path / f"{number}.png"
        sheet([row(before=spaced[0], after=spaced[1])], path, "demo")
        heights.append(pixels(path).shape[0])
    group = group_of(4)
    # The coronal and sagittal line: 24 + 18 mm across, 12 or 24 mm down.
    assert heights[1] - heights[0] == pytest.approx((group - module.GAP) * 12 / 42, abs=1.5)


@pytest.mark.parametrize(("side", "shown"), [(64, 4), (65, 3)])
def test_small_volumes_are_not_blown_up(tmp_path: Path, side: int, shown: int) -> None:
    sheet([row((side, 10, 10))], tmp_path / "a.png", "demo")
    first = pixels(tmp_path / "a.png")[module.TITLE + module.HEAD + module.NAME + 20]
    wide = np.flatnonzero((first < 1).any(-1))  # the page is white
    assert wide[0] == MARGIN
    assert np.flatnonzero(np.diff(wide) > 1)[0] + 1 == pytest.approx(group_of(shown), abs=1)


def test_colours_are_those_of_the_scale(tmp_path: Path) -> None:
    limit = 100.0
    flat = np.full((80, 80, 80), 60.0)
    rows = [row(before=volume(flat), after=volume(flat + change)) for change in (limit, -limit, 0)]
    sheet(rows, tmp_path / "a.png", "demo")
    left = round(MARGIN + 2 * (group_of(3) + module.GUTTER))
    height = module._Band(rows[0]).height
    for number, colour in enumerate(("67001f", "053061", "f7f7f7")):
        top = module.TITLE + number * height + module.HEAD + module.NAME
        box = pixels(tmp_path / "a.png")[top + 40 : top + 80, left + 40 : left + 80]
        assert bytes.fromhex(colour) == bytes((box[0, 0] * 255).round().astype(np.uint8))
        assert np.ptp(box, (0, 1)).max() == 0


def test_a_failed_write_leaves_the_old_file_and_no_other(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full_disk(self: Image.Image, file: BinaryIO, **more: object) -> None:
        file.write(b"half a PNG")
        raise OSError("No space left on device")

    monkeypatch.setattr(Image.Image, "save", full_disk)
    path = tmp_path / "sheet.png"
    path.write_bytes(b"the old one")
    with pytest.raises(OSError, match="No space"):
        sheet([row()], path, "demo")
    assert path.read_bytes() == b"the old one"
    assert list(tmp_path.iterdir()) == [path]


def test_a_sheet_of_nothing_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one"):
        sheet([], tmp_path / "sheet.png", "demo")


@pytest.mark.parametrize("which", ["after", "reference"])
def test_volumes_on_other_grids_are_refused(which: str) -> None:
    with pytest.raises(ValueError, match="Denoised"):
        row(**{which: volume(np.zeros((24, 18, 11)))})


# The difference's scale -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("difference", "limit"), [(0, 1), (0.3, 1), (1, 1), (1.1, 2), (13, 20), (27, 50), (60, 100)]
)
def test_the_scale_ends_at_a_round_number(difference: float, limit: float) -> None:
    flat = np.full((10, 10, 10), 50.0)
    assert difference_limit(row(before=volume(flat), after=volume(flat - difference))) == limit


def test_neither_outliers_nor_what_the_window_hides_widen_the_scale() -> None:
    flat = np.full((10, 10, 10), 50.0)
    after = flat + 4
    after[0, 0, :3] = 200  # 3 voxels of 1,000
    quiet = row(before=volume(flat), after=volume(after))
    assert difference_limit(quiet) == 5
    flat[5:], after[5:] = 1000, 2000  # bone, beyond the window on both sides
    assert difference_limit(replace(quiet, before=volume(flat), after=volume(after))) == 5
