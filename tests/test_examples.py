"""Every example runs, at a size that takes seconds, and prints what it promises."""

import re
import runpy
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"
PAGE = EXAMPLES.parent / "docs/get-started/examples.md"
RUNS = {
    "01_denoise_a_scan": ({"slices": 8}, r"noise: \d+\.\d HU.*mean change \d"),
    "02_gaussian_prior_every_task": ({}, r"RMSE 0\.200 -> 0\.0[67]"),
    "03_train_on_phantoms": ({"steps": 12}, r"validation loss \d.*a sample of \(32, 32, 32\)"),
    "04_lesion_control": ({"diameter_mm": 24.0}, r"1?\d\.\d ml at.*HU.*taken out again"),
    "05_your_own_operator": ({"steps": 2, "slices": 9}, r"repeated slices.*with the prior"),
    "06_sparse_view_ct": (
        {"views": 15, "slices": 4},
        r"projection +PSNR 2[01]\.\d dB.*denovox +PSNR (2[6-9]|3\d)\.\d dB",
    ),
}


def test_all_examples_are_run_and_shown_and_are_short():
    files = sorted(EXAMPLES.glob("*.py"))
    assert [file.stem for file in files] == sorted(RUNS)
    for file in files:
        assert len(file.read_text().splitlines()) < 60, file.name
        assert f'\n--8<-- "{file.name}"\n' in PAGE.read_text(), file.name


@pytest.mark.slow
@pytest.mark.parametrize("name", RUNS)
def test_example(name, tmp_path, capsys):
    settings, words = RUNS[name]
    main = runpy.run_path(str(EXAMPLES / f"{name}.py"))["main"]
    main(*([tmp_path] if name.startswith("03") else []), **settings)
    assert re.search(words, capsys.readouterr().out, re.S)
