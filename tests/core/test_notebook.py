"""How Jupyter shows scans: in NiiVue where ipyniivue is installed, as planes where it is not."""

from __future__ import annotations

import gzip
import sys
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from denovox.core.display import notebook
from denovox.core.errors import InputError
from denovox.core.volume import Volume

WIDGET = "application/vnd.jupyter.widget-view+json"
CELLS = (
    "import numpy as np\n"
    "from denovox.core.volume import Volume\n"
    "hu = np.full((40, 32, 24), -1000, np.float32)\n"
    "hu[5:35, 5:27] = 40 + np.arange(24)\n"
    "ct = Volume.from_numpy(hu, spacing_mm=(2, 2, 3))\n"
    "clean = ct.with_hu(hu + 25)",
    "ct",
    "clean.compared_with(ct)",
    "from denovox.core.display import notebook\nnotebook.MOST_MB = 0.0003\nct",
    "import sys\nsys.modules['ipyniivue'] = None\nclean.compared_with(ct)",
)


def scan() -> Volume:
    """What the notebook's first cell makes."""
    hu = np.full((40, 32, 24), -1000, np.float32)
    hu[5:35, 5:27] = 40 + np.arange(24)
    return Volume.from_numpy(hu, spacing_mm=(2, 2, 3))


@pytest.fixture(scope="module")
def executed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    """The notebook after a run of its cells in a kernel of this Python."""
    for name in ("nbclient", "ipykernel", "ipyniivue"):
        pytest.importorskip(name, reason=f"{name} is not installed")
    import nbclient
    import nbformat

    cells = [nbformat.v4.new_code_cell(cell) for cell in CELLS]
    made = nbformat.v4.new_notebook(cells=cells)
    folder: Path = tmp_path_factory.mktemp("notebook")
    client = nbclient.NotebookClient(
        made, timeout=120, resources={"metadata": {"path": str(folder)}}
    )
    return client.execute()


def shown(executed: Any, cell: int) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The output of a cell, and the state of its widgets: the box's parts in order."""
    (output,) = executed.cells[cell].outputs
    widgets = executed.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    if WIDGET not in output.data:
        return output.data, []
    box = widgets[output.data[WIDGET]["model_id"]]["state"]
    return output.data, [part(widgets, one) for one in box["children"]]


def part(widgets: dict[str, Any], reference: str) -> dict[str, Any]:
    """The state of a widget; of NiiVue, with those of its volumes."""
    state = dict(widgets[reference.removeprefix("IPY_MODEL_")]["state"])
    state["volumes"] = [
        {**widgets[one.removeprefix("IPY_MODEL_")], "name": one}
        for one in state.get("volumes") or []
    ]
    return state


def image(volume: dict[str, Any]) -> nibabel.Nifti1Image:
    """The NIfTI file that a widget contains."""
    import base64

    (data,) = (one["data"] for one in volume["buffers"] if one["path"] == ["data"])
    return nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data)))


@pytest.mark.slow
def test_a_notebook_shows_a_scan_in_niivue(executed: Any) -> None:
    data, (viewer,) = shown(executed, 1)
    assert "<figure>" in data["text/html"]  # for readers without widgets
    assert data["text/plain"].startswith("Volume(")
    assert viewer["opts"]["isRadiologicalConvention"]
    (volume,) = viewer["volumes"]
    assert (volume["state"]["cal_min"], volume["state"]["cal_max"]) == (-160, 240)
    assert np.array_equal(np.asarray(image(volume).dataobj), scan().hu)
    assert np.array_equal(image(volume).affine, scan().affine)


@pytest.mark.slow
def test_a_notebook_compares_before_and_after_with_a_slider(executed: Any) -> None:
    _, (viewer, slider) = shown(executed, 2)
    before, after = viewer["volumes"]
    difference = np.asarray(image(after).dataobj) - np.asarray(image(before).dataobj)
    assert np.all(difference == 25)
    assert (slider["min"], slider["max"], slider["value"]) == (0, 1, 0.5)
    assert after["state"]["opacity"] == 0.5
    widgets = executed.metadata["widgets"]["application/vnd.jupyter.widget-state+json"]["state"]
    (link,) = [w["state"] for w in widgets.values() if w["model_name"] == "LinkModel"]
    assert link["target"] == [after["name"], "opacity"]


@pytest.mark.slow
def test_a_notebook_contains_no_more_than_its_limit(executed: Any) -> None:
    _, (viewer, label) = shown(executed, 3)
    (volume,) = viewer["volumes"]
    (size,) = (len(one["data"]) for one in volume["buffers"])
    assert size * 3 / 4 <= 300  # in base64
    assert max(image(volume).shape) < 40
    assert label["value"].startswith("Images are averaged from 40 x 32 x 24 onto")


@pytest.mark.slow
def test_a_notebook_without_ipyniivue_shows_planes(executed: Any) -> None:
    data, parts = shown(executed, 4)
    assert parts == []
    assert data["text/html"].count("<figure>") == 2


def test_outside_jupyter_there_is_no_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "ipykernel", raising=False)
    assert scan()._repr_mimebundle_() is None
    assert scan().compared_with(scan())._repr_mimebundle_() is None


def test_without_ipyniivue_there_is_no_widget(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ipykernel", notebook)
    monkeypatch.setattr(notebook, "find_spec", lambda name: None)
    assert scan()._repr_mimebundle_() is None
    html = scan().compared_with(scan())._repr_html_()
    assert html.index("before") < html.index("after")
    assert html.count("40 x 32 x 24 voxels of 2 x 2 x 3 mm") == 2


def test_scans_on_two_grids_cannot_be_compared() -> None:
    other = Volume.from_numpy(np.zeros((40, 32, 23)), spacing_mm=(2, 2, 3))
    with pytest.raises(InputError, match="the scan before is not on the grid of the scan after"):
        scan().compared_with(other)
