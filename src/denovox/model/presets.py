"""Named network shapes."""

from __future__ import annotations

from .unet import NetConfig

PRESETS: dict[str, NetConfig] = {
    # For tests: a forward pass takes milliseconds.
    "tiny": NetConfig(
        channels=(8, 16),
        attention=(False, True),
        groups=4,
        head_channels=8,
        anatomy_channels=4,
        position_channels=4,
        frequencies=3,
    ),
    # For two CPU cores. The bundled weights have this shape.
    "small": NetConfig(
        channels=(16, 32, 64, 96), attention=(False, False, False, True), detail=True
    ),
    # For a next base: better x0 after as many steps, each of 1.13 times the time; 1.2 times as long
    # in inference. Whether it denoises better is open (docs/explain/log.md).
    "base": NetConfig(
        channels=(16, 48, 96, 160),
        attention=(False, False, False, True),
        narrow=True,
        detail=True,
    ),
    # Method 1: 32 base channels, one residual block per level, attention at 16^3 of 128^3.
    "paper": NetConfig(
        channels=(32, 64, 128, 256),
        attention=(False, False, False, True),
        groups=32,
        head_channels=32,
        anatomy_channels=16,
        position_channels=16,
        frequencies=10,
    ),
}
