"""The static Space: its files, errors, and (slow) a photo located in a browser without other hosts."""

import contextlib
import http.server
import json
import shutil
import threading
from functools import partial
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.hub import static_space
from gengeo_hf.index import GeoIndex
from tests.stubs import ListSource

CACHED = Path.home() / ".cache" / "gengeo_hf" / f"{static_space.RUNTIME}-{static_space.RUNTIME_VERSION}.tgz"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
SECONDS = 90


def test_runtime_with_other_checksum_is_refused(tmp_path):
    (tmp_path / "runtime.tgz").write_bytes(b"something else")
    with pytest.raises(GenGeoError, match="its checksum differs"):
        static_space._check_runtime(tmp_path / "runtime.tgz")
    with pytest.raises(GenGeoError, match=r"is not there: give the npm package onnxruntime-web-\d"):
        static_space._check_runtime(tmp_path / "missing.tgz")


def test_space_static_without_int8_export_or_index_is_refused(tiny_checkpoint, tmp_path, gengeo):
    code, _, err = gengeo("space", tmp_path / "page", "--static", "--model", tiny_checkpoint)
    assert code == 2 and "--static, --model and --index" in err
    code, _, err = gengeo("space", tmp_path / "page", "--runtime", "a.tgz", "--model", tiny_checkpoint)
    assert code == 2
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    GeoIndex.build(encoder, ListSource(count=3), tmp_path / "a.gengeo")
    options = ("--static", "--model", tiny_checkpoint, "--index", tmp_path / "a.gengeo")
    code, _, err = gengeo("space", tmp_path / "page", *options)
    assert code == 1 and "holds no onnx_int8 export" in err and not (tmp_path / "page").exists()


def test_index_of_static_space_is_int8_with_one_factor_per_tile(tiny_checkpoint, tmp_path):
    encoder = Encoder.from_pretrained(tiny_checkpoint, device="cpu")
    index = GeoIndex.build(encoder, ListSource(count=7), tmp_path / "a.gengeo")
    static_space._write_index(index, tmp_path)
    codes = np.fromfile(tmp_path / "codes.bin", np.int8).reshape(7, encoder.dim)
    factors = np.fromfile(tmp_path / "factors.bin", "<f4")
    assert np.abs(codes * factors[:, None] - index.descriptors.astype(np.float32)).max() <= factors.max() / 2 + 1e-6
    assert json.loads((tmp_path / "tiles.json").read_text())["id"] == index.tiles["tile_id"].to_pylist()


@contextlib.contextmanager
def served(folder):
    """Serve a directory on the loopback address; gives the URL and the list of requested paths."""
    requested = []

    class Handler(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *_):
            requested.append(self.path)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(folder)))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}/", requested
    finally:
        server.shutdown()


@pytest.mark.slow
@pytest.mark.skipif(not CHROMIUM or not shutil.which("chromedriver"), reason="chromium is not installed")
@pytest.mark.skipif(not CACHED.is_file(), reason="gengeo space --static has not downloaded onnxruntime-web")
def test_static_space_locates_photo_in_browser(tiny_checkpoint, tmp_path, gengeo):
    webdriver = pytest.importorskip("selenium.webdriver")
    from selenium.webdriver.common.by import By
    from selenium.webdriver.support.ui import WebDriverWait

    photos, rng = tmp_path / "photos", np.random.default_rng(0)
    photos.mkdir()
    for number in range(10):
        coarse = Image.fromarray(rng.integers(0, 255, (6, 12, 3), np.uint8))
        coarse.resize((300, 150), Image.Resampling.BICUBIC).save(photos / f"{number}.png")
    exported, page = tmp_path / "exported", tmp_path / "page"
    assert gengeo("export", tiny_checkpoint, exported, "--int8", "--calibrate", photos)[0] == 0
    encoder = Encoder.from_pretrained(exported, backend="onnx", compute_dtype="int8")
    index = GeoIndex.build(encoder, ListSource(count=9), tmp_path / "a.gengeo")
    code, out, err = gengeo("space", page, "--static", "--model", exported, "--index", index.path)
    assert code == 0 and "MB" in out, err
    options = webdriver.ChromeOptions()
    options.binary_location = CHROMIUM
    for flag in ("--headless=new", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--window-size=800,900"):
        options.add_argument(flag)
    options.add_argument(f"--user-data-dir={tmp_path / 'profile'}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(shutil.which("chromedriver")))
    try:
        with served(page) as (address, _requested):
            driver.get(address)

            def status(text):
                read = lambda: driver.find_element(By.ID, "status").text  # noqa: E731  # called three times
                WebDriverWait(driver, SECONDS).until(lambda _: text in read() or "cannot" in read())
                return read()

            assert status("Ready").startswith("Ready: 9 tiles"), driver.get_log("browser")
            driver.find_element(By.ID, "photo").send_keys(str(photos / "3.png"))
            assert "seconds for this photo" in status("seconds for"), driver.get_log("browser")
            found = np.array(json.loads(driver.find_element(By.TAG_NAME, "body").get_attribute("data-descriptor")))
            expected = encoder.encode(photos / "3.png", "ground")
            assert float(found @ expected) > 0.999
            rows = driver.find_elements(By.CSS_SELECTOR, "#places tr")
            assert [row.text.split()[-1] for row in rows] == [hit.tile_id for hit in index.search(expected, 5)[0]]
            (tmp_path / "broken.png").write_bytes(b"not a photo")
            driver.find_element(By.ID, "photo").send_keys(str(tmp_path / "broken.png"))
            assert "broken.png cannot be read as a photo" in status("broken.png")
            # No request went to another host: the policy of the page would have logged it.
            assert not [line for line in driver.get_log("browser") if "Content Security Policy" in line["message"]]
    finally:
        driver.quit()
