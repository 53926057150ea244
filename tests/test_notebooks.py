"""The notebooks run as they are, on data that they draw; in the repository they have no outputs."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "notebooks"
PAGE = NOTEBOOKS.parent / "docs/get-started/examples.md"
PROMISED = {
    "denoise_your_scan": r"chest \d\d HU of noise.*SD up to \d+ HU",
    "lesions_for_a_segmenter": r"\d\.\d ml at .*imagesTr/case1_0000.nii.gz.*\d+ voxels of lesion",
    "your_own_base": r"mine\.safetensors",
}


def opened(name: str) -> Any:
    nbformat = pytest.importorskip("nbformat", reason="nbformat is not installed (denovox[test])")
    return nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4)


def test_all_notebooks_are_run_and_linked() -> None:
    assert sorted(path.stem for path in NOTEBOOKS.glob("*.ipynb")) == sorted(PROMISED)
    linked = re.findall(r"notebooks/(\w+)\.ipynb\)", PAGE.read_text())
    assert sorted(linked) == sorted(PROMISED)


@pytest.mark.parametrize("name", PROMISED)
def test_a_notebook_is_short_and_has_no_outputs(name: str) -> None:
    notebook = opened(name)
    assert len(notebook.cells) <= 15
    for cell in notebook.cells:
        assert not cell.get("outputs")
        assert cell.get("execution_count") is None


@pytest.mark.slow
@pytest.mark.parametrize("name", PROMISED)
def test_a_notebook_runs(name: str, tmp_path: Path) -> None:
    for package in ("nbclient", "ipykernel"):
        pytest.importorskip(package, reason=f"{package} is not installed (denovox[test])")
    import nbclient

    where = {"metadata": {"path": str(tmp_path)}}
    executed = nbclient.NotebookClient(opened(name), timeout=600, resources=where).execute()
    outputs = [out for cell in executed.cells for out in cell.get("outputs", [])]
    printed = "".join(out.get("text", "") for out in outputs)
    assert re.search(PROMISED[name], printed, re.S), printed
    assert any(
        "image/png" in out.get("data", {}) or "text/html" in out.get("data", {}) for out in outputs
    )
