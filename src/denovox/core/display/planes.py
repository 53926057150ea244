"""A preview of a volume for notebooks: its middle axial, coronal and sagittal planes."""

from __future__ import annotations

import base64
import io

import numpy as np
from jaxtyping import Float, UInt8

HEIGHT = 240  # of each plane, pixels
WIDTH_HU, LEVEL_HU = 400.0, 40.0  # soft tissue


def planes_png(hu: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> bytes:
    """The three planes side by side in the soft-tissue window, in radiological convention: the
    patient's right on the left, anterior and superior at the top."""
    from PIL import Image

    x, y, z = (n // 2 for n in hu.shape)
    mm_x, mm_y, mm_z = spacing_mm
    views = (
        (hu[::-1, ::-1, z].T, mm_x, mm_y),
        (hu[::-1, y, ::-1].T, mm_x, mm_z),
        (hu[x, ::-1, ::-1].T, mm_y, mm_z),
    )
    tiles = []
    for plane, across_mm, down_mm in views:
        width = round(HEIGHT * plane.shape[1] * across_mm / (plane.shape[0] * down_mm))
        size = min(max(1, width), 3 * HEIGHT), HEIGHT
        tiles.append(
            np.asarray(Image.fromarray(_grey(plane)).resize(size, Image.Resampling.BILINEAR))
        )
    out = io.BytesIO()
    Image.fromarray(np.concatenate(tiles, axis=1)).save(out, "PNG")
    return out.getvalue()


def html(hu: Float[np.ndarray, "x y z"], spacing_mm: tuple[float, float, float]) -> str:
    """The planes with a caption that describes the grid, as self-contained HTML."""
    picture = base64.b64encode(planes_png(hu, spacing_mm)).decode()
    shape, mm = " x ".join(map(str, hu.shape)), " x ".join(f"{n:.3g}" for n in spacing_mm)
    facts = (
        f"{shape} voxels of {mm} mm, {float(hu.min()):.0f} to {float(hu.max()):.0f} HU"
        f" (window {WIDTH_HU:.0f}, level {LEVEL_HU:.0f})"
    )
    alt = "Middle axial, coronal and sagittal planes"
    return (
        f'<figure><img alt="{alt}" src="data:image/png;base64,{picture}">'
        f"<figcaption>{facts}</figcaption></figure>"
    )


def _grey(hu: Float[np.ndarray, "a b"]) -> UInt8[np.ndarray, "a b"]:
    unit = (np.nan_to_num(hu) - (LEVEL_HU - WIDTH_HU / 2)) / WIDTH_HU
    return (255 * np.clip(unit, 0, 1)).astype(np.uint8)
