"""The viewer's page: what is embedded, and what a browser without a network shows of it."""

from __future__ import annotations

import base64
import gzip
import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest

from denovox.core.volume import Volume, Window
from denovox.reports.viewer import page as module
from denovox.reports.viewer.page import Overlay, Place, View, page

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
SHAPE = (40, 32, 24)
AFFINE = np.array([[2.0, 0, 0, -40], [0, 2, 0, -30], [0, 0, 3, 100], [0, 0, 0, 1]])


def scan() -> Volume:
    """A body of 40 to 60 HU that fills most of the volume; every voxel of it differs in x and z."""
    x, y, z = np.indices(SHAPE)
    inside = ((x - 19.5) / 17) ** 2 + ((y - 15.5) / 13) ** 2 < 1
    return Volume(np.where(inside, 40 + x + 3 * z, -1000).astype(np.float32), AFFINE)


def view(**more: Any) -> View:
    """A scan, a result that is 25 HU brighter, a mask and signed z-scores."""
    before = scan()
    mask = np.zeros(SHAPE, np.uint8)
    mask[10:14, 14:18, 10:14] = 1
    scores = np.zeros(SHAPE, np.float32)
    scores[24:28, 14:18, 10:14] = -4.25
    known: dict[str, Any] = {
        "before": before,
        "after": before.with_hu(before.hu + 25),
        "overlays": (
            Overlay("lesion", mask),
            Overlay("z-score", scores, "warm", 3, 8, negative="winter"),
        ),
        "places": (Place("component 1", position(25, 15, 12)),),
    }
    return View(**(known | more))


def position(*voxel: int) -> tuple[float, float, float]:
    """RAS in mm of a voxel."""
    x, y, z = AFFINE[:3, :3] @ voxel + AFFINE[:3, 3]
    return float(x), float(y), float(z)


def embedded(text: str) -> dict[str, nibabel.Nifti1Image]:
    """The images in a page, by their ids."""
    found = re.findall(r'<script type="text/plain" id="(\w+)">([^<]*)</script>', text)
    return {
        name: nibabel.Nifti1Image.from_bytes(gzip.decompress(base64.b64decode(data)))
        for name, data in found
    }


def test_the_images_are_the_scan_and_the_result_at_their_place() -> None:
    shown = view()
    images = embedded(page(shown, "a scan"))
    assert list(images) == ["image0", "image1", "overlay0", "overlay1"]
    values = [shown.before.hu, shown.after.hu, *(one.values for one in shown.overlays)]  # type: ignore[union-attr]
    for image, expected in zip(images.values(), values, strict=True):
        # cropped to the body and a margin of 10 mm, which reaches the ends of x, y and z here
        assert np.allclose(np.asarray(image.dataobj), expected, atol=1e-6)
        assert np.array_equal(image.affine, AFFINE)


def test_a_scan_is_cropped_to_its_body() -> None:
    hu = np.full((80, 32, 24), -1000, np.float32)
    hu[20:60] = scan().hu
    (image,) = embedded(page(View(Volume(hu, AFFINE)), "a scan")).values()
    first = round((image.affine[0, 3] - AFFINE[0, 3]) / 2)
    assert 17 <= first <= 20
    assert image.shape[0] < 50
    assert np.array_equal(np.asarray(image.dataobj), hu[first : first + image.shape[0]])


def test_images_that_are_too_large_are_averaged_and_the_page_says_so(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    whole = page(view(), "a scan")
    size = sum(len(data) for data in re.findall(r'text/plain" id="\w+">([^<]*)<', whole))
    monkeypatch.setattr(module, "MOST_MB", size / 1e6 / 2)
    small = page(view(), "a scan")
    assert "averaged" not in whole
    assert "averaged from 40 x 32 x 24 onto" in small
    image = embedded(small)["image0"]
    corner = np.array([*image.shape, 1]) - [0.5, 0.5, 0.5, 0]  # the outer corner of the last voxel
    assert np.allclose(image.affine @ corner, AFFINE @ [39.5, 31.5, 23.5, 1])
    assert np.allclose(image.affine @ [-0.5, -0.5, -0.5, 1], AFFINE @ [-0.5, -0.5, -0.5, 1])


def test_words_from_outside_cannot_become_markup() -> None:
    text = page(
        view(names=("</script><b>", "after"), places=(Place("<i>", (0, 0, 0)),)), "<u> & co"
    )
    assert "</script><b>" not in text
    assert "<i>" not in text
    assert "<title>&lt;u&gt; &amp; co" in text


# ---- in a browser -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Callable[..., Any]]:
    """Flags -> headless Chromium."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    if CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    with sync.sync_playwright() as playwright:
        yield lambda *flags: playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", *flags]
        )


@pytest.fixture(scope="module")
def shown(chromium: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page in a browser without a network; its requests are kept in `asked`."""
    path: Path = tmp_path_factory.mktemp("viewer") / "index.html"
    path.write_text(page(view(window=Window(400, 40)), "a scan"), "utf-8")
    browser = chromium("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
    opened = browser.new_page(viewport={"width": 900, "height": 800}, offline=True)
    opened.set_default_timeout(120_000)
    opened.asked, opened.errors = [], []
    opened.on("request", lambda request: opened.asked.append(request.url))
    opened.on("pageerror", lambda error: opened.errors.append(str(error)))
    opened.goto(path.as_uri())
    opened.wait_for_selector('#viewer[data-state="ready"], #viewer[data-state="failed"]')
    yield opened
    browser.close()


def values(shown: Any) -> dict[str, float]:
    return {name: value for name, value, _ in shown.evaluate("denovox.values()")}


@pytest.mark.slow
def test_the_page_loads_without_a_request(shown: Any) -> None:
    assert shown.get_attribute("#viewer", "data-state") == "ready", shown.inner_text("#status")
    assert shown.errors == []
    assert [url for url in shown.asked if not url.startswith(("data:", "blob:"))] == [shown.url]


@pytest.mark.slow
def test_the_values_at_the_cursor_are_those_of_the_volumes(shown: Any) -> None:
    for voxel in ((11, 15, 12), (25, 15, 12), (20, 10, 3), (0, 0, 0)):
        shown.evaluate("mm => denovox.goTo(mm)", list(position(*voxel)))
        hu = float(scan().hu[voxel])
        lesion = 1.0 if voxel == (11, 15, 12) else 0.0
        score = -4.25 if voxel == (25, 15, 12) else 0.0
        found = {"before": hu, "after": hu + 25, "lesion": lesion, "z-score": score}
        assert values(shown) == pytest.approx(found, abs=1e-3)
        assert f"before {hu:g} HU" in shown.inner_text("#readout")


@pytest.mark.slow
def test_a_place_and_the_keyboard_move_the_cursor(shown: Any) -> None:
    shown.click("#places button")
    assert values(shown)["z-score"] == pytest.approx(-4.25, abs=1e-3)
    start = values(shown)["before"]
    shown.focus("#under")
    for key, change in (("PageUp", 3), ("ArrowLeft", 1), ("PageDown", -3), ("ArrowRight", -1)):
        before = values(shown)["before"]
        shown.keyboard.press(key)
        assert values(shown)["before"] - before == change
    assert values(shown)["before"] == start


@pytest.mark.slow
def test_the_line_moves_pixels(shown: Any) -> None:
    """Left of the line the image before is drawn, right of it the image after, which is brighter
    by 25 of 400 HU."""
    from io import BytesIO

    from PIL import Image

    shown.evaluate("mm => denovox.goTo(mm)", list(position(20, 16, 2)))
    shown.click("text=Axial")

    def grey(share: float) -> np.ndarray:
        shown.evaluate("share => denovox.moveLine(share)", share)
        png = shown.locator("#stage").screenshot()
        return np.asarray(Image.open(BytesIO(png)).convert("L")).astype(float)

    before, middle, after = grey(1.0), grey(0.5), grey(0.0)
    height, width = before.shape
    rows = slice(height // 2 - 100, height // 2 - 30)  # off the cursor and the line's handle
    left, right = slice(width // 2 - 160, width // 2 - 40), slice(width // 2 + 40, width // 2 + 160)
    step = np.median(after[rows, left] - before[rows, left])
    assert step == pytest.approx(255 * 25 / 400, abs=2)
    assert np.median(np.abs(middle - before)[rows, left]) <= 1
    assert np.median(np.abs(middle - after)[rows, right]) <= 1
    shown.click("text=All planes")


@pytest.mark.slow
def test_the_window_changes_by_preset_and_by_number(shown: Any) -> None:
    ends = "denovox.viewers.map(v => [v.volumes[0].cal_min, v.volumes[0].cal_max])"
    shown.click("text=Lung")
    assert shown.evaluate(ends) == [[-1350, 150]] * 2
    shown.fill("#level", "100")
    shown.press("#level", "Enter")
    assert shown.evaluate(ends) == [[-650, 850]] * 2
    assert shown.get_attribute("text=Lung", "aria-pressed") == "false"
    shown.click("text=Mediastinum")


@pytest.mark.slow
def test_every_control_has_a_name(shown: Any) -> None:
    controls = shown.evaluate(
        """[...document.querySelectorAll("button, input, canvas[tabindex='0']")].map(
             one => [one.getAttribute("aria-label") || one.textContent.trim(), one.outerHTML])"""
    )
    assert len(controls) >= 14
    assert [markup for name, markup in controls if not name] == []


@pytest.mark.slow
def test_without_webgl_the_page_shows_a_picture_and_says_why(
    chromium: Callable[..., Any], tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text(page(view(), "a scan"), "utf-8")
    browser = chromium("--disable-gpu", "--disable-3d-apis")
    opened = browser.new_page()
    opened.goto((tmp_path / "index.html").as_uri())
    opened.wait_for_selector('#viewer[data-state="failed"]', timeout=120_000)
    assert "WebGL 2" in opened.inner_text("#status")
    assert opened.is_visible("#still img")
    assert not opened.is_visible("#stage")
    browser.close()


def test_the_settings_of_the_page_are_readable_json() -> None:
    (text,) = re.findall(r'id="view">(.*?)</script>', page(view(), "a scan"), re.S)
    content = json.loads(text)
    assert [layer["name"] for layer in content["images"][1]] == ["after", "lesion", "z-score"]
    assert content["window"] == {"width": 400, "level": 40}
