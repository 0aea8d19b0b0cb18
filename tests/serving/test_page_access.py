"""The page over HTTP: who may ask, and that a call names no file and no address but an upload."""

import json

import httpx
import pytest

pytest.importorskip("gradio", reason='the page needs pip install "gengeo_hf[app]"')

from gengeo_hf.serving.page import build_page, page_app
from gengeo_hf.serving.page_uploads import uploads_directory
from gengeo_hf.serving.server import Access, in_thread

TOKEN = "a-token-of-some-length"


@pytest.fixture
def page(locator):
    access = Access(token=TOKEN)
    with (
        uploads_directory() as uploads,
        in_thread(page_app(build_page(locator), uploads), access) as address,
        httpx.Client(base_url=address, auth=("me", TOKEN), timeout=60) as client,
    ):
        client.uploads = uploads
        yield client


def locate(page, path):
    """Ask the page's own API about a file; the answer of the call, and of its events."""
    settings = [5, "", "2km", False, "as its file tells", 65, "north", 0]
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, *settings]
    call = page.post("/gradio_api/call/locate", json={"data": data})
    if call.status_code != 200:
        return call, ""
    return call, page.get(f"/gradio_api/call/locate/{call.json()['event_id']}").text


def test_an_upload_is_located(page, photo):
    sent = page.post("/gradio_api/upload", files={"files": ("street.png", photo, "image/png")})
    path = sent.json()[0]
    assert path.startswith(str(page.uploads))
    call, events = locate(page, path)
    assert call.status_code == 200 and "Best place" in events


@pytest.mark.parametrize(
    "path", ["http://no-such-host.invalid/x.png", "file:///etc/passwd", "/etc/passwd", "../../etc/passwd", "a\0b"]
)
def test_other_files_and_addresses_are_refused_in_one_line(page, path):
    call, _ = locate(page, path)
    assert call.status_code == 400
    assert call.json() == {
        "error": {
            "code": "bad_request",
            "message": "a file of this request was not uploaded here; upload the photo first",
        }
    }


def test_strangers_are_refused(page):
    assert httpx.get(page.base_url).status_code == 401
    assert page.get("/", headers={"host": "evil.example"}).status_code == 403
    assert page.get("/config", headers={"origin": "http://evil.example"}).status_code == 403
    assert page.get("/config").status_code == 200


def test_the_configuration_names_no_directory(page):
    text = json.dumps(page.get("/config").json())
    assert str(page.uploads) not in text and str(page.uploads.parent) + "/" not in text
