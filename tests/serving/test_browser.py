"""The page in a browser: an upload, its answer, a click on a place, a file that is not a photo, no other hosts."""

import contextlib
import json
import shutil
import socket
from urllib.parse import urlsplit

import pytest
from PIL import Image

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
if not CHROMIUM or not shutil.which("chromedriver"):
    pytest.skip("chromium and chromedriver are not installed", allow_module_level=True)
pytest.importorskip("gradio", reason='the page needs pip install "gengeo_hf[app]"')
pytest.importorskip("selenium", reason="it drives the browser")

from selenium import webdriver  # noqa: E402  # after the skips
from selenium.webdriver.common.by import By  # noqa: E402
from selenium.webdriver.support.ui import WebDriverWait  # noqa: E402

from gengeo_hf.serving.locator import Locator  # noqa: E402
from gengeo_hf.serving.page import build_page, page_app  # noqa: E402
from gengeo_hf.serving.page_uploads import uploads_directory  # noqa: E402
from gengeo_hf.serving.server import serve_in_thread  # noqa: E402

FLAGS = (
    "--headless=new --no-sandbox --disable-gpu --disable-dev-shm-usage --disable-background-networking "
    "--disable-component-update --disable-sync --window-size=1200,1600"
)
SECONDS = 60  # time limit for a busy machine; usually two seconds are enough


@pytest.fixture
def browser(tmp_path):
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in [*FLAGS.split(), f"--user-data-dir={tmp_path / 'profile'}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    yield driver
    driver.quit()


@pytest.fixture
def connections(monkeypatch):
    """Hosts that this process connects to while the test runs."""
    hosts, connect = [], socket.socket.connect

    def recorded(self, address):
        if isinstance(address, tuple):
            hosts.append(address[0])
        return connect(self, address)

    monkeypatch.setattr(socket.socket, "connect", recorded)
    return hosts


@contextlib.contextmanager
def serve(locator):
    """Serve the page; gives its URL."""
    with uploads_directory() as uploads, serve_in_thread(page_app(build_page(locator), uploads)) as address:
        yield address


def wait(browser, css):
    """Wait for the first visible element that matches a CSS selector."""
    return WebDriverWait(browser, SECONDS).until(
        lambda b: next((e for e in b.find_elements(By.CSS_SELECTOR, css) if e.is_displayed()), None)
    )


def upload(browser, path):
    field = WebDriverWait(browser, SECONDS).until(
        lambda b: b.find_elements(By.CSS_SELECTOR, "#photo input[type=file]")
    )[0]
    field.send_keys(str(path))


def requested_hosts(browser):
    """Hosts of all requests of the browser."""
    messages = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    addresses = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
    return {urlsplit(address).hostname for address in addresses if address.startswith(("http", "ws"))}


def test_page_locates_photo_and_explains_bad_file_without_other_hosts(locator, source, browser, connections, tmp_path):
    source.images[4].resize((160, 80)).save(tmp_path / "street.png")
    (tmp_path / "letter.jpg").write_text("Dear reader")
    with serve(locator) as address:
        browser.get(address)
        assert "unknown training data" in wait(browser, ".gg-caveat").text.lower()
        upload(browser, tmp_path / "street.png")
        assert "60.1" in wait(browser, "#answer .gg-plain").text
        browser.switch_to.frame(wait(browser, "#map iframe"))
        wait(browser, ".place.first").click()
        assert "Place 1 of street.png" in wait(browser, ".leaflet-popup-content").text
        browser.switch_to.default_content()
        assert len(browser.find_elements(By.CSS_SELECTOR, "#tiles img")) >= 2
        assert {"places.html", "places.geojson"} == {
            link.get_attribute("download") for link in browser.find_elements(By.CSS_SELECTOR, ".gg-save a")
        }
        wait(browser, "#photo button[aria-label='Clear'], #photo button[aria-label='Remove this file']").click()
        wait(browser, "#answer .gg-empty")
        upload(browser, tmp_path / "letter.jpg")
        message = wait(browser, "#answer .gg-bad").text
        assert "letter.jpg: the image" in message and str(tmp_path) not in message
        assert not [e for e in browser.find_elements(By.CSS_SELECTOR, "#map iframe") if e.is_displayed()]
        assert requested_hosts(browser) == {"127.0.0.1"}
        severe = [entry for entry in browser.get_log("browser") if entry["level"] == "SEVERE"]
        assert not [entry for entry in severe if "favicon" not in entry["message"]]
    assert {host for host in connections if host not in ("127.0.0.1", "localhost", "::1")} == set()


@pytest.mark.slow
def test_page_shows_heat_maps_of_photo_and_chosen_tile(tiny_model, tiny_processor, source, browser, tmp_path):
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index import GeoIndex

    encoder = Encoder(tiny_model, tiny_processor, device="cpu")
    locator = Locator(encoder, GeoIndex.build(encoder, source, tmp_path / "real.gengeo"))
    Image.effect_noise((224, 112), 90).convert("RGB").save(tmp_path / "street.png")
    with serve(locator) as address:
        browser.get(address)
        upload(browser, tmp_path / "street.png")
        before = wait(browser, "#kept-tile img").get_attribute("src")
        assert wait(browser, "#kept-photo img").get_attribute("naturalWidth") != "0"
        assert wait(browser, "#kept-photo img").get_attribute("alt").startswith("heat map: which parts of your photo")
        assert wait(browser, "#answer").get_attribute("aria-live") == "polite"
        browser.find_elements(By.CSS_SELECTOR, "#tiles button.thumbnail-item, #tiles .thumbnail-lg")[1].click()
        WebDriverWait(browser, SECONDS).until(
            lambda b: b.find_element(By.CSS_SELECTOR, "#kept-tile img").get_attribute("src") != before
        )
        assert "Tile of place 2" in wait(browser, "#kept-tile").text
        near = wait(browser, "#settings button")
        near.click()
        wait(browser, "#near textarea, #near input").send_keys("-60, 0")
        wait(browser, "#locate").click()
        assert "no tile lies in the search area" in wait(browser, "#answer .gg-bad").text.lower()
    locator.close()
