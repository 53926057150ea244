"""A MONAI bundle that denoises (docs.monai.io/en/stable/mb_specification.html)."""

from __future__ import annotations

import json
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..core.version import __version__
from ..inference.options import RunOptions
from ..model import weights
from ..model.hub import source_of
from ..train.config import DataConfig, Recipe, TrainConfig
from .hub import LIMITS, licence_of

_SCHEMA = "https://project-monai.github.io/schema/meta_schema_20240725.json"
_PARTS = "denovox.integrations.monai"  # whose classes the configurations name
_MODEL, _TEXTS = "models/model.safetensors", "docs"  # in a bundle


def bundle(name: str | Path, licence: str | None = None) -> dict[str, bytes | str]:
    """The files of a bundle: path -> content. name: of a base, as `denovox.load` takes it.

    licence: of the weights; as in `hub.repository`. `InputError` for a control.
    """
    path = weights.locate(name)
    config, card, digest = weights.describe(path)
    licence = licence_of(path, licence)
    settings = {
        "metadata": _metadata(config, card),
        "inference": _inference(),
        "train": _train(_recipe(config, card)),
    }
    configs = {f"configs/{n}.json": json.dumps(c, indent=4) + "\n" for n, c in settings.items()}
    return {
        **configs,
        _MODEL: path.read_bytes(),
        "large_files.yml": _large_files(source_of(path.absolute()), digest),
        f"{_TEXTS}/README.md": _README.format(
            text=card.get("text", ""), limits=LIMITS, sha256=digest
        ),
        "LICENSE": f"Configurations: Apache-2.0, as denovox. Weights: {licence}.\n",
    }


def _metadata(config: weights.ModelConfig, card: Mapping[str, Any]) -> dict[str, Any]:
    image = {
        "type": "image",
        "format": "hounsfield",
        "modality": "CT",
        "num_channels": 1,
        "spatial_shape": ["*", "*", "*"],
        "dtype": "float32",
        "value_range": [-1024, 3071],
        "is_patch_data": False,
        "channel_def": {"0": "CT in Hounsfield units"},
    }
    low, high = config.spacing_mm
    return {
        "schema": _SCHEMA,
        "version": __version__,
        "changelog": {__version__: f"written by denovox {__version__}"},
        "monai_version": _installed("monai", "1.5.0"),
        "pytorch_version": _installed("torch"),
        "numpy_version": _installed("numpy"),
        "required_packages_version": {"denovox": __version__},
        "name": "CT denoising by a diffusion prior",
        "task": "Noise reduction in CT scans of the head, chest and abdomen",
        "description": str(card.get("text", "")) or "A diffusion model of CT scans.",
        "authors": "the authors of the weights",
        "copyright": "see LICENSE",
        "data_source": "; ".join(map(str, card.get("sources", []))) or "not stated",
        "data_type": "NIfTI, DICOM, NRRD or MetaImage",
        "image_classes": "CT in Hounsfield units",
        "pred_classes": "the scan without noise, in Hounsfield units, on its own grid",
        "intended_use": f"Research. Voxels of {low:g} to {high:g} mm. {LIMITS}",
        "references": ["MedDiff-FM, https://arxiv.org/abs/2410.15432"],
        "network_data_format": {"inputs": {"image": image}, "outputs": {"pred": image}},
    }


def _installed(package: str, otherwise: str = "") -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return otherwise


def _inference() -> dict[str, Any]:
    return {
        "imports": ["$import torch"],
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/eval'",
        "output_postfix": "denoised",
        "device": "$'cuda' if torch.cuda.is_available() else 'cpu'",
        "region": "auto",
        "seed": 0,
        "tile": RunOptions().tile,
        "dataset": {
            "_target_": "Dataset",
            "data": {
                "_target_": f"{_PARTS}.scans",
                "dataset_dir": "@dataset_dir",
                "output_dir": "@output_dir",
            },
            "transform": "@preprocessing",
        },
        "network_def": {
            "_target_": "denovox.load",
            "name": f"$@bundle_root + '/{_MODEL}'",
            "device": "@device",
        },
        "preprocessing": {"_target_": "Compose", "transforms": [{"_target_": f"{_PARTS}.Read"}]},
        "inferer": {
            "_target_": f"{_PARTS}.Denoise",
            "region": "@region",
            "seed": "@seed",
            "tile": "@tile",
        },
        "postprocessing": {
            "_target_": "Compose",
            "transforms": [
                {
                    "_target_": f"{_PARTS}.Write",
                    "output_dir": "@output_dir",
                    "output_postfix": "@output_postfix",
                }
            ],
        },
        "evaluator": {
            "_target_": f"{_PARTS}.Inference",
            "dataset": "@dataset",
            "network": "@network_def",
            "inferer": "@inferer",
            "postprocessing": "@postprocessing",
        },
        "run": ["$@evaluator.run()"],
    }


def _train(recipe: Recipe) -> dict[str, Any]:
    content = recipe.model_dump(mode="json")
    content["data"] |= {"source": "@dataset_dir", "store": "$@output_dir + '/store'"}
    content["start"] = f"$@bundle_root + '/{_MODEL}'"
    return {
        "bundle_root": ".",
        "dataset_dir": "$@bundle_root + '/data'",
        "output_dir": "$@bundle_root + '/models/run'",
        "device": None,
        "recipe": {"_target_": "denovox.train.config.Recipe", **content},
        "train": {
            "trainer": {
                "_target_": f"{_PARTS}.Training",
                "recipe": "@recipe",
                "output_dir": "@output_dir",
                "device": "@device",
            }
        },
        "run": ["$@train#trainer.run()"],
    }


def _recipe(config: weights.ModelConfig, card: Mapping[str, Any]) -> Recipe:
    """How to train these weights further: as they were trained, on other data."""
    try:
        known = Recipe.model_validate(card.get("recipe"))
        data, train, expert = DataConfig(sample=known.data.sample), known.train, known.expert
    except ValueError:  # of an earlier version, or none
        data, train, expert = DataConfig(), TrainConfig(steps=1000), None
    return Recipe(name="model", data=data, model=config, train=train, start=_MODEL, expert=expert)


def _large_files(source: str | None, digest: str) -> str:
    """Where the weights can be downloaded again: nowhere, unless they are from the Hub."""
    if source is None:
        return f"large_files: []  # {_MODEL} is in the bundle\n"
    id, _, commit = source.removeprefix("hf://").partition("@")
    return (
        "large_files:\n"
        f"- path: {_MODEL}\n"
        f"  url: https://huggingface.co/{id}/resolve/{commit}/model.safetensors\n"
        f"  hash_val: {digest}\n"
        "  hash_type: sha256\n"
    )


_README = """# CT denoising by a diffusion prior

{text}

{limits}

    pip install 'denovox[monai]'
    cd BUNDLE
    python -m monai.bundle run --config_file configs/inference.json --dataset_dir SCANS

SCANS is a folder of CT scans in HU: NIfTI, DICOM, NRRD or MetaImage. Each result is in eval/, as
`denovox denoise` writes it, bit for bit. `--output_dir`, `--device`, `--region` (auto, headneck,
chest, abdomen) and `--tile` override the settings.

    python -m monai.bundle run --config_file configs/train.json --dataset_dir SCANS

trains these weights further, as `denovox pretrain` does, and writes models/run/model.safetensors.
Change the recipe in configs/train.json, or on the command line: `--recipe#train#steps 100`.

sha256 of models/model.safetensors: `{sha256}`
"""
