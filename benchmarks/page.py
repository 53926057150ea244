"""How large the viewer's page is, how long it takes to write, and until Chromium draws it.

    python benchmarks/page.py [--shape 512x512x300]

The scan is a procedural chest with noise of 20 HU, which compresses about as badly as a patient's;
the result is the same chest with noise of 5 HU. Chromium draws with a software renderer.
"""

from __future__ import annotations

import argparse
import re
import shutil
import tempfile
import time
from pathlib import Path

import numpy as np
from playwright.sync_api import sync_playwright

from denovox.core.resample import resize
from denovox.core.volume import Volume
from denovox.reports.viewer.page import View, page
from denovox.simulate import phantom

BODY_MM = 350.0


def scans(shape: tuple[int, int, int]) -> tuple[Volume, Volume]:
    """The noisy chest and the cleaner one, on a grid of that shape."""
    mm = BODY_MM / shape[0]
    coarse = phantom.chest(tuple(max(24, n // 4) for n in shape), 4 * mm).ct
    hu = resize(coarse.hu.astype(np.float32), shape)
    random = np.random.default_rng(0)
    noise = random.standard_normal(shape, dtype=np.float32)
    affine = np.diag([mm, mm, mm, 1.0])
    return Volume(hu + 20 * noise, affine), Volume(hu + 5 * noise, affine)


def first_picture_s(path: Path) -> float:
    """Seconds from the start of loading until the viewer is ready."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    flags = ["--no-sandbox", "--use-angle=swiftshader", "--enable-unsafe-swiftshader"]
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=flags)
        opened = browser.new_page(viewport={"width": 1200, "height": 900})
        start = time.perf_counter()
        opened.goto(path.as_uri(), timeout=300_000)
        opened.wait_for_selector('#viewer[data-state="ready"]', timeout=300_000)
        seconds = time.perf_counter() - start
        browser.close()
    return seconds


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--shape", default="512x512x300")
    x, y, z = (int(n) for n in parser.parse_args().shape.split("x"))
    before, after = scans((x, y, z))
    start = time.perf_counter()
    text = page(View(before, after), "benchmark")
    wrote = time.perf_counter() - start
    said = re.findall(r"Images are averaged[^<]*", text)
    print(f"{x} x {y} x {z}, before and after: {len(text) / 1e6:.1f} MB, {wrote:.1f} s to compose")
    print(f"the page says: {said}", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "index.html"
        path.write_text(text, "utf-8")
        drawn = first_picture_s(path)
    print(f"first picture in Chromium after {drawn:.1f} s")


if __name__ == "__main__":
    main()
