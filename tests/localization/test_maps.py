import io
import json
import re

import pytest
from PIL import Image

from gengeo_hf.common.geo import Bounds
from gengeo_hf.localization import Answer, GeoLocalizer, Place
from gengeo_hf.localization.maps import MapOverlay, MapPhoto, MapPoint, answers_map, data_uri, map_frame, map_page


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_a_page_asks_the_network_for_nothing():
    point = MapPoint(60.0, 25.0, "found", "here", 1, jpeg(), 10.0, Bounds(24.9, 59.9, 25.1, 60.1))
    page = map_page([MapPhoto("a.jpg", [point], jpeg())], [MapOverlay(jpeg(), Bounds(24, 59, 26, 61))])
    assert "default-src 'none'" in page and 'img-src data:"' in page
    assert not re.findall(r"""src=["'](?!data:)""", page)
    assert not re.findall(r"url\((?!data:|#)[^)]", page)
    assert "Copyright (c)" in page  # Leaflet's licence asks for it


def test_names_and_labels_cannot_break_out():
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>.jpg"
    page = map_page([MapPhoto(evil, [MapPoint(1, 2, "found", evil, 1)], note=evil)], title=evil, caveat=evil)
    assert "<script>alert" not in page and "<img src=x" not in page
    assert page.count("<script>") == 2
    assert "<script" not in map_frame(page).split(">", 1)[1]


def test_a_map_across_the_date_line_is_in_one_piece():
    points = [
        MapPoint(0, 179.9, "found", "a", 1),
        MapPoint(0, -179.9, "truth", "b", bounds=Bounds(179.95, 0, -179.95, 1)),
    ]
    page = map_page([MapPhoto("p", points)])
    assert "180.1" in page and "179.95" in page and "180.05" in page


def test_only_a_background_that_was_asked_for_is_allowed():
    page = map_page([], tile_url="https://tiles.example.org/{z}/{x}/{y}.png", attribution="Example")
    assert "img-src data: https://tiles.example.org" in page


def test_answers_show_tiles_truth_and_errors(index, encoder, source, tmp_path):
    source.images[4].save(tmp_path / "photo.png")
    (tmp_path / "bad.jpg").write_text("x")
    localizer = GeoLocalizer(encoder, index)
    answers = list(localizer.locate_many([tmp_path / "photo.png", tmp_path / "bad.jpg"], top=2))
    page = answers_map(answers, index, "careful")
    assert "careful" in page and "noise-4" in page and "bad.jpg" in page
    assert page.count("data:image/jpeg") >= 12  # photo, tiles in popups, tiles on the ground


@pytest.mark.parametrize(
    ("content", "start"), [(b"\x89PNG..", "data:image/png"), (b"\xff\xd8", "data:image/jpeg"), (b"", "")]
)
def test_data_uris(content, start):
    assert data_uri(content).startswith(start)


def test_a_drive_is_a_way_and_an_unsure_frame_is_faint():
    answers = [
        Answer(f"{n}.jpg", [Place(1, 60.0 + n / 1000, 25.0, 0.9, f"t{n}")], error="x", known=n != 1) for n in range(3)
    ]
    page = answers_map(answers, drive=True)
    assert '"line": [[60.0, 25.0], [60.002, 25.0]]' in page and page.count('"known": false') == 1
    assert '"line": []' in answers_map(answers)


@pytest.fixture
def browser(tmp_path):
    """Chromium without a screen, listening to every request it makes."""
    from shutil import which

    webdriver = pytest.importorskip("selenium.webdriver")
    if not (which("chromium") and which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = which("chromium")
    words = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking"
    for word in (*words.split(), "--window-size=1200,900", f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(word)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(which("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_the_map_in_a_browser(browser, index, encoder, source, tmp_path):
    """Load, look, click a place: its tile opens, its frame is drawn, and nothing is asked of any server."""
    names = [tmp_path / f"{n}.png" for n in (2, 7)]
    for name in names:
        source.images[int(name.stem)].save(name)
    answers = list(GeoLocalizer(encoder, index).locate_many(names, top=3, merge=False))
    (tmp_path / "map.html").write_text(answers_map(answers, index, "careful", drive=True), encoding="utf-8")
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get((tmp_path / "map.html").as_uri())

    def find(selector):
        return browser.find_elements("css selector", selector)

    assert len(find(".leaflet-image-layer")) == 12 and find(".caveat")[0].text == "careful"
    # Two best places, and the two lesser ones of the photo that is chosen; a way in two strokes; three frames.
    assert len(find(".leaflet-tooltip.rank")) == 4 and len(find("path.drive")) == 1
    assert [len(card.find_elements("css selector", "button.place")) for card in find(".photo")] == [3, 3]
    assert find(".photo.chosen .name")[0].text.startswith("1 · 2.png")
    find(".photo button.place.first")[1].click()
    assert find(".photo.chosen .name")[0].text.startswith("2 · 7.png")
    popup = find(".leaflet-popup-content")[0]
    assert "noise-7" in popup.text
    (tile,) = popup.find_elements("css selector", "img")
    assert browser.execute_script("return arguments[0].naturalWidth", tile) == 16
    box, pane = popup.rect, find("#map")[0].rect
    assert box["y"] >= pane["y"] and box["y"] + box["height"] <= pane["y"] + pane["height"]  # all of it can be seen
    find(".leaflet-control-layers-selector")[0].click()
    assert not find(".leaflet-image-layer")
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    asked = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert asked and all(url.startswith(("file:", "data:")) for url in asked)
    assert not browser.get_log("browser")
    assert browser.get_screenshot_as_png()[:4] == b"\x89PNG"
