"""Pairs without a patient: complete after any stop, and as nnU-Net wants them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from denovox.batch.phantoms import ALL, Pair, contiguous, fill, label_values
from denovox.core.errors import InputError
from denovox.core.labels import BODY, ID, OUTSIDE
from denovox.datasets import nnunet
from denovox.datasets.anatomy import read
from denovox.simulate.phantom import Phantom, draw

SETTINGS: dict[str, Any] = {"steps": 2}
MM = (12.0, 12.0, 12.0)


def wanted(count: int, *regions: str) -> list[Pair]:
    regions = regions or ALL
    return [Pair(regions[k % len(regions)], k, None, MM) for k in range(count)]


class Painter:
    """Stands in for a model: the phantom's own HU. stop: the number of a pair that fails."""

    def __init__(self, stop: int | None = None, more_hu: float = 0) -> None:
        self.stop, self.more_hu = stop, more_hu
        self.seen: list[str] = []

    def __call__(self, pair: Pair, phantom: Phantom, number: int, count: int) -> Any:
        if number == self.stop:
            raise KeyboardInterrupt
        self.seen.append(pair.name)
        return phantom.ct.with_hu(phantom.ct.hu + np.float32(self.more_hu))


def run(folder: Path, pairs: list[Pair], force: bool = False, **more: Any) -> list[str]:
    painter = Painter()
    list(fill(folder, pairs, painter, SETTINGS | more, force))
    return painter.seen


def test_a_data_set_of_all_regions(tmp_path: Path) -> None:
    assert run(tmp_path, wanted(3)) == ["chest_0000", "abdomen_0001", "headneck_0002"]
    listed = json.loads((tmp_path / "dataset.json").read_text())
    labels = listed["labels"]
    assert listed["numTraining"] == 3
    assert listed["channel_names"] == {"0": "CT"}
    assert labels["background"] == 0
    assert sorted(labels.values()) == list(range(len(labels)))
    for pair in wanted(3):
        image, label = map(nibabel.load, nnunet.paths(tmp_path, pair.name))
        assert image.get_data_dtype() == np.int16
        assert np.array_equal(image.affine, label.affine)
        phantom = draw(pair.region, None, MM, pair.seed)
        assert np.array_equal(np.asarray(image.dataobj), np.rint(phantom.ct.hu))
        values = np.asarray(label.dataobj)
        assert np.array_equal(values == 0, phantom.labels == OUTSIDE)
        # nnU-Net's names lead back to the vocabulary; its background is unknown to us.
        ids, _ = read(nnunet.paths(tmp_path, pair.name)[1])
        assert np.array_equal(ids, np.where(phantom.labels == OUTSIDE, 0, phantom.labels))


def test_what_was_stopped_is_completed_and_more_can_be_added(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        list(fill(tmp_path, wanted(3, "chest"), Painter(stop=1), SETTINGS, False))
    assert nnunet.names(tmp_path) == ["chest_0000"]
    assert run(tmp_path, wanted(3, "chest")) == ["chest_0001", "chest_0002"]
    assert run(tmp_path, wanted(3, "chest")) == []
    nnunet.paths(tmp_path, "chest_0001")[1].unlink()
    assert run(tmp_path, wanted(4, "chest")) == ["chest_0001", "chest_0003"]
    rows = [json.loads(line) for line in (tmp_path / "manifest.jsonl").read_text().splitlines()]
    assert [row["status"] for row in rows] == ["done"] * 4
    assert json.loads((tmp_path / "dataset.json").read_text())["numTraining"] == 4


def test_other_settings_need_force_and_make_all_again(tmp_path: Path) -> None:
    run(tmp_path, wanted(2, "chest"))
    with pytest.raises(InputError, match="steps 2, now 3"):
        run(tmp_path, wanted(2, "chest"), steps=3)
    again = Painter(more_hu=5)
    list(fill(tmp_path, wanted(2, "chest"), again, {"steps": 3}, True))
    assert again.seen == ["chest_0000", "chest_0001"]
    new = np.asarray(nibabel.load(nnunet.paths(tmp_path, "chest_0001")[0]).dataobj)
    assert np.array_equal(new, np.rint(draw("chest", None, MM, 1).ct.hu + 5))


def test_files_of_somebody_else_are_not_touched(tmp_path: Path) -> None:
    image, _ = nnunet.paths(tmp_path, "chest_0000")
    image.parent.mkdir()
    image.write_bytes(b"mine")
    with pytest.raises(InputError, match="already exists"):
        run(tmp_path, wanted(1, "chest"))
    assert image.read_bytes() == b"mine"


def test_a_class_without_a_value_is_part_of_another() -> None:
    labels = {"background": 0, "body": 1, "bone": 2}
    ids = np.array([[[OUTSIDE, BODY, ID["rib_left_3"], ID["liver"], 0]]], np.uint8)
    assert contiguous(ids, labels).tolist() == [[[0, 1, 2, 1, 1]]]
    assert "outside" not in label_values({"headneck"})
