"""The picture of a result: which volumes it shows, and through which voxel."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from denovox.core.volume import Volume, Window
from denovox.reports import result_sheet as module
from denovox.reports.figure_sheet import Row, _panels, plane
from denovox.reports.result_sheet import result_sheet

WINDOW = Window(400, 40)
SHAPE = (16, 14, 12)


@pytest.fixture
def rows(monkeypatch):
    """The rows that would be drawn."""
    drawn: list[Row] = []
    monkeypatch.setattr(module, "sheet", lambda made, path, title: drawn.extend(made))
    return drawn


def volume(hu: np.ndarray, mm: float = 3.0) -> Volume:
    return Volume(hu.astype(np.float32), np.diag([2.0, 2.0, mm, 1.0]))


def noise(seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(40, 30, SHAPE)


def test_a_change_everywhere_is_shown_in_the_middle(rows):
    scan, result = volume(noise()), volume(noise(1))
    result_sheet(Path("a.png"), "t", result, scan, WINDOW)
    (row,) = rows
    assert (row.before, row.after, row.at) == (scan, result, None)
    names = [panel.name for panel in _panels(row)]
    assert names == ["scan", "result", "result minus scan"]
    change = plane(result, 2, 6) - plane(scan, 2, 6)
    np.testing.assert_array_equal(_panels(row)[2].planes[2], change)


def test_a_local_change_is_shown_where_it_is(rows):
    hu = noise()
    edited = hu.copy()
    edited[2:5, 9, 3] += 100
    edited[3, 8:11, 3] += 100
    edited[3, 9, 2:5] += 100
    result_sheet(Path("a.png"), "t", volume(edited), volume(hu), WINDOW)
    (row,) = rows
    assert row.at == (3, 9, 3)
    assert _panels(row)[2].planes[0].max() == pytest.approx(300, abs=1e-3)


def test_an_unchanged_scan_is_shown_in_the_middle(rows):
    result_sheet(Path("a.png"), "t", volume(noise()), volume(noise()), WINDOW)
    assert rows[0].at is None


def test_another_grid_is_interpolated(rows):
    """A ramp along z, whose interpolation is exact between the centres of the slices."""
    ramp = np.broadcast_to(10.0 * np.arange(12), SHAPE)
    scan = volume(ramp)
    fine = Volume(np.zeros((16, 14, 23), np.float32), np.diag([2.0, 2.0, 1.5, 1.0]))
    result_sheet(Path("a.png"), "t", fine, scan, WINDOW)
    (row,) = rows
    assert row.names[0] == "scan, interpolated"
    np.testing.assert_allclose(row.before.hu[5, 5], 5.0 * np.arange(23), atol=1e-4)


def test_scores_are_shown_beside_the_scan_where_they_are_large(rows):
    z = np.zeros(SHAPE)
    z[4, 5, 6], z[9, 10, 2] = 2.9, -3.1
    result_sheet(Path("a.png"), "t", volume(z), volume(noise()), WINDOW, scores=True)
    (row,) = rows
    assert row.at == (9, 10, 2)
    scan, scores = _panels(row)
    assert (scan.name, scores.name, scores.scale) == ("scan", "z-scores", ("blue-red", -8, 8))
    assert scores.planes[2].min() == pytest.approx(-3.1)


def test_a_single_volume_and_scores_are_drawn(tmp_path):
    scan = volume(noise())
    result_sheet(tmp_path / "a.png", "synthesised", scan, None, WINDOW)
    z = volume(np.zeros(SHAPE))
    result_sheet(tmp_path / "b.png", "detected", z, scan, WINDOW, scores=True)
    heights = [len(np.asarray(Image.open(tmp_path / name))) for name in ("a.png", "b.png")]
    assert heights[0] == heights[1] < 1600
