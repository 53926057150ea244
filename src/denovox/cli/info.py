"""`denovox info`."""

from __future__ import annotations

import json
import platform
from importlib.metadata import version
from importlib.resources import files
from pathlib import Path
from typing import Any

import click

from ..core.version import __version__
from .commands import Command, option


@click.command(cls=Command)
@option("--json", "as_json", is_flag=True, group="Output", help="Print JSON.")
def info(as_json: bool) -> None:
    """Show versions, devices and the cards of the bundled weights."""
    content = facts()
    click.echo(json.dumps(content, indent=1) if as_json else prose(content))


def facts() -> dict[str, Any]:
    """Versions, devices and bundled weights, as JSON types."""
    import torch

    from ..model.denoiser import use_bfloat16
    from ..model.weights import describe, describe_control, is_control

    devices = ["cpu"]
    devices += [
        f"cuda:{i} {torch.cuda.get_device_name(i)}" for i in range(torch.cuda.device_count())
    ]
    bundled = []
    for path in sorted((Path(str(files("denovox"))) / "weights").glob("*.safetensors")):
        of = describe_control if is_control(path) else describe
        config, card, digest = of(path)
        bundled.append(
            {
                "name": path.stem,
                "path": str(path),
                "megabytes": round(path.stat().st_size / 1e6, 1),
                "sha256": digest,
                "config": config.model_dump(mode="json"),
                "card": card,
            }
        )
    return {
        "version": __version__,
        "python": platform.python_version(),
        "torch": version("torch"),
        "monai": version("monai"),
        "devices": devices,
        "threads": torch.get_num_threads(),
        "bfloat16_on_cpu": use_bfloat16("auto", "cpu"),
        "weights": bundled,
    }


def prose(content: dict[str, Any]) -> str:
    """The facts as text."""
    lines = [
        f"denovox {content['version']}  (Python {content['python']}, torch {content['torch']},"
        f" MONAI {content['monai']})",
        f"devices: {', '.join(content['devices'])}; {content['threads']} CPU threads",
    ]
    for one in content["weights"]:
        card = one["card"]
        parts = [earlier.get("steps", 0) for earlier in card.get("history", [])]
        steps = sum(parts, card.get("steps", 0))
        lines += [
            "",
            f"weights '{one['name']}': {one['megabytes']} MB, sha256 {one['sha256'][:12]}",
            f"  {card.get('text', '').strip()}",
            f"  trained for {steps} steps on {card.get('training_patients')} patients"
            f" ({_counts(card.get('patients_per_region', {}))});"
            f" validation loss {card.get('validation_loss')}",
            "  sources: " + "; ".join(card.get("sources", [])),
        ]
    return "\n".join(lines)


def _counts(regions: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in regions.items())
