"""The viewer's page: what is embedded, and what a browser without a network shows of it."""

from __future__ import annotations

import base64
import gzip
import json
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nibabel
import numpy as np
import pytest
from scipy import ndimage

from denovox.core.errors import InputError
from denovox.core.volume import Volume, Window
from denovox.reports.viewer import page as module
from denovox.reports.viewer.page import Overlay, Place, View, page

SHAPE = (40, 32, 24)
AFFINE = np.array([[2.0, 0, 0, -40], [0, 2, 0, -30], [0, 0, 3, 100], [0, 0, 0, 1]])


def scan() -> Volume:
    """A body of 50 to 200 HU that fills most of the volume and rises along each axis."""
    x, y, z = np.indices(SHAPE)
    inside = ((x - 19.5) / 17) ** 2 + ((y - 15.5) / 13) ** 2 < 1
    return Volume(np.where(inside, 40 + x + 2 * y + 3 * z, -1000).astype(np.float32), AFFINE)


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
    whole = Volume(hu, AFFINE)
    mask = (hu > 60).astype(np.uint8)
    text = page(View(whole, whole.with_hu(hu + 1), (Overlay("mask", mask),)), "a scan")
    image, after, overlay = embedded(text).values()
    assert "Images are cropped to the body." in text
    first = round((image.affine[0, 3] - AFFINE[0, 3]) / 2)
    assert 17 <= first <= 20
    assert image.shape[0] < 50
    kept = slice(first, first + image.shape[0])
    assert np.array_equal(np.asarray(image.dataobj), hu[kept])
    assert np.array_equal(np.asarray(after.dataobj), hu[kept] + 1)
    assert np.array_equal(np.asarray(overlay.dataobj), mask[kept])


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


# ---- in browsers --------------------------------------------------------------------------------

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser"))), None)
FIREFOX = next(filter(None, map(shutil.which, ("firefox-esr", "firefox"))), None)
DEAD = {"server": "http://127.0.0.1:9"}  # a proxy that does not answer: no network


@pytest.fixture(scope="module")
def display() -> Iterator[str]:
    """An X display, without which Firefox has no WebGL."""
    if (server := shutil.which("Xvfb")) is None:
        pytest.skip("Xvfb is not installed")
    read, write = os.pipe()
    flags = ("-displayfd", str(write), "-nolisten", "tcp", "-screen", "0", "1280x1024x24")
    process = subprocess.Popen([server, *flags], pass_fds=[write], stderr=subprocess.DEVNULL)
    os.close(write)
    with os.fdopen(read) as number:
        yield f":{number.readline().strip()}"
    process.terminate()
    process.wait()


@pytest.fixture(scope="module", params=["chromium", "firefox"])
def launch(request: pytest.FixtureRequest) -> Iterator[Callable[[bool], Any]]:
    """Whether with WebGL -> a headless browser without a network."""
    sync = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    path = CHROMIUM if request.param == "chromium" else FIREFOX
    if path is None:
        pytest.skip(f"{request.param} is not installed")
    known: dict[str, Any] = {"executable_path": path, "proxy": DEAD}
    if request.param == "firefox":
        known |= {
            "channel": "moz-firefox",
            "env": {**os.environ, "DISPLAY": request.getfixturevalue("display")},
        }
    with sync.sync_playwright() as playwright:

        def chromium(webgl: bool) -> Any:
            software = ("--use-angle=swiftshader", "--enable-unsafe-swiftshader")
            flags = software if webgl else ("--disable-gpu", "--disable-3d-apis")
            return playwright.chromium.launch(**known, args=["--no-sandbox", *flags])

        def firefox(webgl: bool) -> Any:
            allowed = {"webgl.force-enabled": True, "webgl.forbid-software": False}
            wanted = allowed if webgl else {"webgl.disabled": True}
            browser = playwright.firefox.launch(**known, firefox_user_prefs=wanted)
            try:
                browser.new_context().close()
            except sync.Error as error:
                browser.close()
                if "unknown command" not in str(error):
                    raise
                pytest.skip("this Playwright is too new for Firefox; see constraints.txt")
            return browser

        yield chromium if request.param == "chromium" else firefox


@pytest.fixture(scope="module")
def shown(launch: Callable[[bool], Any], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    """The page in a browser; its requests are kept in `asked`."""
    path: Path = tmp_path_factory.mktemp("viewer") / "index.html"
    path.write_text(page(view(window=Window(400, 40)), "a scan"), "utf-8")
    browser = launch(True)
    opened = browser.new_page(viewport={"width": 900, "height": 800})
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
    assert [url for url in shown.asked if not url.startswith(("data:", "blob:", "file:"))] == []


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
    keys = (("PageUp", 3), ("ArrowLeft", 1), ("ArrowUp", 2))
    back = (("PageDown", -3), ("ArrowRight", -1), ("ArrowDown", -2))
    for key, change in (*keys, *back):
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
    shown.focus("#level")
    shown.keyboard.press("Control+A")
    shown.keyboard.type("100")
    shown.keyboard.press("Enter")
    assert shown.evaluate(ends) == [[-650, 850]] * 2
    assert shown.get_attribute("text=Lung", "aria-pressed") == "false"
    shown.click("text=Mediastinum")


@pytest.mark.slow
def test_every_control_has_a_name_and_can_be_reached_by_keyboard(shown: Any) -> None:
    """The name of a control is its label or its text; Tab reaches all, in order."""
    found = """[...document.querySelectorAll("button, input, select, a[href], [tabindex='0']")]"""
    name = "one.getAttribute('aria-label') || one.textContent.trim()"
    controls = shown.evaluate(f"{found}.map(one => [{name}, one.outerHTML])")
    assert len(controls) >= 16
    assert [markup for named, markup in controls if not named] == []
    assert len({named for named, _ in controls}) == len(controls)  # no two are called the same
    shown.focus("#line")
    reached = [controls[0][0]]
    for _ in controls[1:]:
        shown.keyboard.press("Tab")
        reached.append(shown.evaluate(f"(one => {name})(document.activeElement)"))
    assert reached == [named for named, _ in controls]


@pytest.mark.slow
def test_the_keyboard_moves_the_line_and_the_opacity(shown: Any) -> None:
    shown.evaluate("denovox.moveLine(0.5)")
    clip = "document.getElementById('over').style.clipPath"
    start = shown.evaluate(clip)
    shown.focus("#line")
    shown.keyboard.press("End")
    assert shown.input_value("#line") == "100"
    assert shown.evaluate(clip) != start
    shown.evaluate("denovox.moveLine(0.5)")
    shown.focus("[aria-label='Opacity of lesion']")
    shown.keyboard.press("Home")
    assert shown.evaluate("denovox.viewers.map(v => v.volumes[1].opacity)") == [0, 0]
    shown.fill("[aria-label='Opacity of lesion']", "50")


@pytest.mark.slow
def test_the_line_is_dragged_by_its_handle(shown: Any) -> None:
    shown.evaluate("denovox.moveLine(0.5)")
    box = shown.locator("#handles div").first.bounding_box()
    x, y = box["x"] + box["width"] / 2, box["y"] + box["height"] / 2
    shown.mouse.move(x, y)
    shown.mouse.down()
    shown.mouse.move(x + 40, y)
    shown.mouse.up()
    after = shown.locator("#handles div").first.bounding_box()
    assert after["x"] - box["x"] == pytest.approx(40, abs=1)
    assert int(shown.input_value("#line")) > 50
    shown.evaluate("denovox.moveLine(0.5)")


@pytest.mark.slow
@pytest.mark.parametrize(("share", "which"), [(1.0, "before"), (0.0, "after")])
def test_the_planes_are_drawn_as_numpy_draws_them(shown: Any, share: float, which: str) -> None:
    """Each plane at the centre of every voxel of the body: the grey of its HU in the window. The
    patient's right is on the left; in the sagittal plane, posterior is. Anterior and superior are
    at the top."""
    from io import BytesIO

    from PIL import Image

    at = (20, 16, 2)
    volume = view(window=Window(400, 40))
    scan_shown = volume.before if which == "before" else volume.after
    assert scan_shown is not None
    shown.evaluate("mm => denovox.goTo(mm)", list(position(*at)))
    shown.evaluate("share => denovox.moveLine(share)", share)
    shown.evaluate("denovox.viewers.forEach(v => [1, 2].forEach(k => v.setOpacity(k, 0)))")
    tiles = shown.evaluate(
        """denovox.viewers[1].screenSlices.filter(one => one.axCorSag < 3).map(one => [
             one.axCorSag, one.leftTopWidthHeight.map(n => n / over.width * over.clientWidth)])"""
    )
    shown.evaluate("document.getElementById('handles').style.display = 'none'")
    png = shown.locator("#stage").screenshot()
    shown.evaluate("document.getElementById('handles').style.display = ''")
    picture = np.asarray(Image.open(BytesIO(png)).convert("L")).astype(float)
    grey = np.clip((scan_shown.hu + 160) / 400, 0, 1) * 255
    body = ndimage.binary_erosion(scan_shown.hu > -500, iterations=2)  # off the interpolated edge
    planes = {0: (0, 1, 2), 1: (0, 2, 1), 2: (1, 2, 0)}  # across, down, through
    assert sorted(kind for kind, _ in tiles) == [0, 1, 2]
    for kind, (left, top, width, height) in tiles:
        across, down, through = planes[kind]
        wanted, inside = (
            np.take(one, at[through], through) for one in (grey, body)
        )  # wanted[i across, j down]
        columns, rows = (
            (np.arange(n) + 0.5) * size / n
            for n, size in zip(wanted.shape, (width, height), strict=True)
        )
        columns = width - columns if kind < 2 else columns
        x = np.rint(left + columns - 0.5).astype(int)
        y = np.rint(top + height - rows - 0.5).astype(int)
        drawn = picture[y[None, :], x[:, None]]
        inside = inside.copy()
        inside[at[across]], inside[:, at[down]] = False, False  # the cursor's lines
        assert inside.sum() > 100
        assert np.abs(drawn - wanted)[inside].max() <= 2
    shown.evaluate("denovox.viewers.forEach(v => [1, 2].forEach(k => v.setOpacity(k, 0.5)))")
    shown.evaluate("denovox.moveLine(0.5)")


@pytest.mark.slow
def test_without_webgl_the_page_shows_a_picture_and_says_why(
    launch: Callable[[bool], Any], tmp_path: Path
) -> None:
    (tmp_path / "index.html").write_text(page(view(), "a scan"), "utf-8")
    browser = launch(False)
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
    assert content["images"][1][2]["colour_map_negative"] == "winter"
    assert content["start_mm"] == list(position(25, 15, 12))  # the first place
    (text,) = re.findall(r'id="view">(.*?)</script>', page(View(scan()), "a scan"), re.S)
    content = json.loads(text)
    assert [layer["name"] for layer in content["images"][0]] == ["scan"]
    assert content["start_mm"] == pytest.approx(AFFINE[:3] @ [19.5, 15.5, 11.5, 1])


def test_a_result_on_another_grid_is_refused() -> None:
    other = Volume(scan().hu, AFFINE + np.diag([0, 0, 1.0, 0]))
    with pytest.raises(InputError, match="after is not on the grid of before"):
        page(view(after=other), "a scan")
