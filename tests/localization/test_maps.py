import contextlib
import io
import json
import re
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.common.html import Figure, Page, Section, Table, write_page
from gengeo_hf.localization import Answer, GeoLocalizer, Place
from gengeo_hf.localization.maps import (
    Background,
    MapOverlay,
    MapPhoto,
    MapPoint,
    answers_map,
    data_uri,
    map_frame,
    map_page,
)


def jpeg():
    buffer = io.BytesIO()
    Image.new("RGB", (4, 4)).save(buffer, "JPEG")
    return buffer.getvalue()


def test_map_page_makes_no_network_request():
    point = MapPoint(60.0, 25.0, "found", "here", 1, jpeg(), 10.0, Bounds(24.9, 59.9, 25.1, 60.1))
    page = map_page([MapPhoto("a.jpg", [point], jpeg())], [MapOverlay(jpeg(), Bounds(24, 59, 26, 61))])
    assert "default-src 'none'" in page and 'img-src data:"' in page
    assert not re.findall(r"""src=["'](?!data:)""", page)
    assert not re.findall(r"url\((?!data:|#)[^)]", page)
    assert "Copyright (c)" in page  # required by the licence of Leaflet


def test_map_page_escapes_names_and_labels():
    evil = "</script><script>alert(1)</script><img src=x onerror=alert(1)>.jpg"
    page = map_page([MapPhoto(evil, [MapPoint(1, 2, "found", evil, 1)], note=evil)], title=evil, caveat=evil)
    assert "<script>alert" not in page and "<img src=x" not in page
    assert page.count("<script>") == 2
    assert "<script" not in map_frame(page).split(">", 1)[1]


def test_map_page_allows_only_the_chosen_background():
    background = Background("https://tiles.example.org/{z}/{x}/{y}.png", "<b>Example</b>")
    page = map_page([], background=background)
    assert "img-src data: https://tiles.example.org" in page and "<b>Example" not in page
    for wrong in ("tiles.example.org/{z}/{x}/{y}", "https://tiles.example.org/{z}/{x}", "javascript:{z}{x}{y}"):
        with pytest.raises(GenGeoError, match=r"is not an address with \{z\}, \{x\} and \{y\}"):
            Background(wrong)
    with pytest.raises(GenGeoError, match="not a host name"):
        Background("https://a.org;script-src/{z}/{x}/{y}.png")


def test_answers_map_shows_tiles_exif_positions_and_errors(index, encoder, source, tmp_path):
    source.images[4].save(tmp_path / "photo.png")
    (tmp_path / "bad.jpg").write_text("x")
    localizer = GeoLocalizer(encoder, index)
    answers = list(localizer.locate_many([tmp_path / "photo.png", tmp_path / "bad.jpg"], top=2))
    page = answers_map(answers, index, "careful")
    assert "careful" in page and "noise-4" in page and "bad.jpg" in page
    assert page.count("data:image/jpeg") == 12  # each tile once, for popup and map; one is the photo


def test_label_of_a_place_states_position_uncertainty_and_confidence():
    place = Place(1, 60.0, 25.0, 0.9, "t0", uncertainty_m=26.6, confidence=0.4)
    page = answers_map([Answer("a.jpg", [place], error="x")])
    assert '"60.000000, 25.000000 \\u00b1 27 m \\u00b7 40% confident \\u00b7 score 0.900 \\u00b7 tile t0"' in page


def test_answers_map_of_many_photos_shows_only_best_tiles():
    class Index:
        def thumbnails(self, tiles):
            return {tile: jpeg() + tile.encode() for tile in tiles}

    def page(count):
        places = [Place(rank, 60.0, 25.0, 0.9, f"noise-{rank}") for rank in (1, 2)]
        return answers_map([Answer(f"{n}.jpg", places, error="x") for n in range(count)], Index())

    assert page(50).count("data:image/jpeg") == page(51).count("data:image/jpeg") + 1


@pytest.mark.parametrize(
    ("content", "start"), [(b"\x89PNG..", "data:image/png"), (b"\xff\xd8", "data:image/jpeg"), (b"", "")]
)
def test_data_uri_has_the_type_of_the_picture(content, start):
    assert data_uri(content).startswith(start)


def test_answers_map_of_a_drive_has_a_line_and_faint_unknown_frames():
    answers = [
        Answer(f"{n}.jpg", [Place(1, 60.0 + n / 1000, 25.0, 0.9, f"t{n}")], error="x", known=n != 1) for n in range(3)
    ]
    page = answers_map(answers, drive=True)
    assert '"line": [[60.0, 25.0], [60.002, 25.0]]' in page and page.count('"known": false') == 1
    assert '"line": []' in answers_map(answers)


@pytest.fixture
def browser(tmp_path):
    """Headless Chromium that records its requests."""
    from shutil import which

    webdriver = pytest.importorskip("selenium.webdriver")
    if not (which("chromium") and which("chromedriver")):
        pytest.skip("chromium and chromedriver are not installed")
    options = webdriver.ChromeOptions()
    options.binary_location = which("chromium")
    flags = "--headless --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking"
    for flag in (*flags.split(), "--window-size=1200,900", f"--user-data-dir={tmp_path / 'profile'}"):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=webdriver.ChromeService(which("chromedriver")))
    yield driver
    driver.quit()


@pytest.mark.slow
def test_map_in_a_browser_shows_tiles_without_requests(browser, index, encoder, source, tmp_path):
    """Load the map and click a place: its tile opens, its frame is drawn, and there are no requests."""
    names = [tmp_path / f"{n}.png" for n in (2, 7)]
    for name in names:
        source.images[int(name.stem)].save(name)
    answers = list(GeoLocalizer(encoder, index).locate_many(names, top=3, merge=False))
    (tmp_path / "map.html").write_text(answers_map(answers, index, "careful", drive=True), encoding="utf-8")
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get((tmp_path / "map.html").as_uri())

    from selenium.webdriver.support.ui import WebDriverWait

    def find(selector):
        return browser.find_elements("css selector", selector)

    assert len(find(".leaflet-image-layer")) == 12 and find(".caveat")[0].text == "careful"
    # Two best places, and two further places of the chosen photo; the line of the drive is drawn twice.
    assert len(find(".leaflet-marker-icon .photo-at")) == 2 and len(find(".leaflet-marker-icon .place-at")) == 2
    assert len(find("path.drive")) == 1
    labels = [icon.get_attribute("aria-label") for icon in find(".leaflet-marker-icon[role=button][tabindex='0']")]
    assert len(labels) == 4 and all(label.startswith("Place ") for label in labels)
    assert "line of the drive" in find("#legend")[0].text and "EXIF" not in find("#legend")[0].text
    everything, zoom = next(b for b in find(".tools button") if b.text == "everything"), "return map.getZoom()"
    before = browser.execute_script(zoom)
    everything.click()
    assert browser.execute_script(zoom) <= before
    assert [len(card.find_elements("css selector", "button.place")) for card in find(".photo")] == [3, 3]
    assert find(".photo.chosen .name")[0].text.split() == ["1", "2.png"]
    find(".photo button.place.first")[1].click()
    assert find(".photo.chosen .name")[0].text.split() == ["2", "7.png"]
    wait_for = WebDriverWait(browser, 10).until  # the popup fades in, and the map moves until it is visible
    wait_for(lambda _: any("noise-7" in popup.text for popup in find(".leaflet-popup-content")))
    popup = find(".leaflet-popup-content")[0]
    targets = [link.get_attribute("href") for link in popup.find_elements("css selector", "a[rel]")]
    assert targets[0].startswith("geo:60.") and "openstreetmap.org/?mlat=60." in targets[1]
    (tile,) = popup.find_elements("css selector", "img")
    assert browser.execute_script("return arguments[0].naturalWidth", tile) == 16
    pane = find("#map")[0].rect

    def is_whole(_):
        box = popup.rect
        return box["y"] >= pane["y"] and box["y"] + box["height"] <= pane["y"] + pane["height"]

    wait_for(is_whole)
    find(".leaflet-control-layers-selector")[0].click()
    assert not find(".leaflet-image-layer")
    messages = [json.loads(line["message"])["message"] for line in browser.get_log("performance")]
    requests = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    assert requests and all(url.startswith(("file:", "data:")) for url in requests)
    assert not browser.get_log("browser")
    assert browser.get_screenshot_as_png()[:4] == b"\x89PNG"


@pytest.mark.slow
def test_page_with_a_map_frame_opens_at_its_top(browser, index, encoder, source, tmp_path):
    source.images[2].save(tmp_path / "2.png")
    answers = list(GeoLocalizer(encoder, index).locate_many([tmp_path / "2.png"], top=3, merge=False))
    figure = Figure(Image.new("RGB", (900, 3000)), "high")
    sections = [Section("first", figures=[figure]), Section("map", map=answers_map(answers, index))]
    page = Page("title", "lead", [("1", "one")], Table(["a"], [["b"]]), sections, "next")
    write_page(page, tmp_path / "page.html")
    browser.get((tmp_path / "page.html").as_uri())
    browser.switch_to.frame(browser.find_element("css selector", "iframe"))
    assert browser.find_elements("css selector", ".photo.chosen")
    browser.switch_to.default_content()
    assert browser.execute_script("return scrollY == 0 && document.documentElement.scrollWidth <= innerWidth")


@contextlib.contextmanager
def tile_server(pages):
    """Server of pages, and of tiles up to level 19 for requests with a Referer; yields its address and its requests."""
    requests = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name = self.path.strip("/")
            if name in pages:
                self.answer(200, "text/html; charset=utf-8", pages[name].encode())
                return
            level = int(name.split("/")[0]) if name.count("/") == 2 else 99
            status = 403 if not self.headers.get("Referer") else 200 if level <= 19 else 404
            requests.append((level, status))
            self.answer(status, "image/jpeg", jpeg() if status == 200 else b"")

        def answer(self, status, kind, body):
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", requests
    server.shutdown()
    server.server_close()


@pytest.mark.slow
def test_map_background_with_referer_and_maximum_level_in_a_browser(browser, tmp_path):
    """A page of a web server shows the tiles, also beyond the last level; a page of a file says why it does not."""
    pages = {}
    with tile_server(pages) as (address, requests):
        place = Place(1, 60.0, 25.0, 0.9, "t", uncertainty_m=20.0)
        background = Background(f"{address}/{{z}}/{{x}}/{{y}}.png", "Example")
        pages["map.html"] = answers_map([Answer("a.jpg", [place], error="x")], background=background)
        (tmp_path / "map.html").write_text(pages["map.html"], encoding="utf-8")
        loaded = "return [...document.querySelectorAll('.leaflet-tile')].filter(tile => tile.naturalWidth).length"

        def wait_for(condition):
            deadline = time.monotonic() + 60
            while not condition() and time.monotonic() < deadline:
                time.sleep(0.1)
            return condition()

        browser.get(f"{address}/map.html")
        browser.execute_script("map.setZoom(21, {animate: false})")
        assert wait_for(lambda: browser.execute_script(loaded))
        tiles = [status for level, status in requests if level < 99]
        assert set(tiles) == {200} and max(level for level, status in requests if status == 200) == 19
        assert "Example" in browser.find_elements("css selector", ".leaflet-control-attribution")[0].text
        assert "background map" in browser.find_elements("css selector", ".leaflet-control-layers")[0].text
        browser.get((tmp_path / "map.html").as_uri())
        assert wait_for(lambda: browser.find_elements("css selector", ".status"))
        assert "sends no Referer" in browser.find_elements("css selector", ".status")[0].text
