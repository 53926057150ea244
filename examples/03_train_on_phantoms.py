"""Train a base of your own, from scans to weights to a sample: here a toy, on procedural chests.

    python examples/03_train_on_phantoms.py [FOLDER]

The same three steps train on real scans: `denovox prepare SCANS --out STORE`, `denovox pretrain
RECIPE`, `denovox.load("runs/<name>/<name>.safetensors")`. A minute or two on two cores.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np

import denovox
from denovox.datasets import store
from denovox.simulate.phantom import chest
from denovox.train.config import read_recipe
from denovox.train.run import run

RECIPE = """
name = "phantoms"
card = "A toy, trained on procedural chests."
[data]
store = "{folder}/store"
validation_patients = ["body-3"]
sample = {{ patch = 16 }}
[model]
net = "tiny"
[train]
steps = {steps}
lr = 2e-3
warmup = 10
"""


def main(folder: Path, bodies: int = 4, steps: int = 100) -> None:
    for seed in range(bodies):
        body = chest((56, 48, 40), 6.0, seed)
        facts = store.CaseFacts(
            id=f"body-{seed}", patient=f"body-{seed}", region="chest", spacing_mm=(6, 6, 6)
        )
        store.add(folder / "store", facts, body.ct.hu.astype(np.int16), body.labels)
    store.index(folder / "store")

    recipe = folder / "recipe.toml"
    recipe.write_text(RECIPE.format(folder=folder, steps=steps))
    for news in run(read_recipe(recipe), folder / "run"):
        if isinstance(news, str) or news.validation is not None:
            print(news if isinstance(news, str) else f"validation loss {news.validation:.3f}")

    model = denovox.load(folder / "run" / "phantoms.safetensors")
    sample = model.synthesize("chest", (32, 32, 32), (6.0, 6.0, 6.0), steps=5)
    print(f"a sample of {sample.shape} voxels, mean {sample.hu.mean():.0f} HU")


if __name__ == "__main__":
    main(Path(sys.argv[1] if sys.argv[1:] else tempfile.mkdtemp()))
