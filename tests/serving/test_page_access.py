"""The page over HTTP: access control, and calls that name other files than uploads."""

import json

import httpx
import pytest

pytest.importorskip("gradio", reason='the page needs pip install "gengeo_hf[app]"')

from gengeo_hf.serving.page import build_page, page_app
from gengeo_hf.serving.page_uploads import uploads_directory
from gengeo_hf.serving.server import Access, serve_in_thread

TOKEN = "a-token-of-some-length"


@pytest.fixture
def page(locator):
    access = Access(token=TOKEN)
    with (
        uploads_directory() as uploads,
        serve_in_thread(page_app(build_page(locator), uploads), access) as address,
        httpx.Client(base_url=address, auth=("me", TOKEN), timeout=60) as client,
    ):
        client.uploads = uploads
        yield client


def locate(page, path):
    """Locate a file by the API of the page; gives the response of the call, and the text of its events."""
    settings = [5, "", "2km", False, "as the file states", 65, "north", 0]
    data = [{"path": path, "meta": {"_type": "gradio.FileData"}}, *settings]
    call = page.post("/gradio_api/call/locate", json={"data": data})
    if call.status_code != 200:
        return call, ""
    return call, page.get(f"/gradio_api/call/locate/{call.json()['event_id']}").text


def test_uploaded_file_is_located(page, photo):
    sent = page.post("/gradio_api/upload", files={"files": ("street.png", photo, "image/png")})
    path = sent.json()[0]
    assert path.startswith(str(page.uploads))
    call, events = locate(page, path)
    assert call.status_code == 200 and "Best place" in events


@pytest.mark.parametrize(
    "path", ["http://no-such-host.invalid/x.png", "file:///etc/passwd", "/etc/passwd", "../../etc/passwd", "a\0b"]
)
def test_call_with_other_file_or_url_is_refused(page, path):
    call, _ = locate(page, path)
    assert call.status_code == 400
    assert call.json() == {
        "error": {
            "code": "bad_request",
            "message": "a file of this request was not uploaded here; upload the photo first",
        }
    }


def test_request_without_token_or_from_other_site_is_refused(page):
    assert httpx.get(page.base_url).status_code == 401
    assert page.get("/", headers={"host": "evil.example"}).status_code == 403
    assert page.get("/config", headers={"origin": "http://evil.example"}).status_code == 403
    assert page.get("/config").status_code == 200


def test_page_configuration_contains_no_directory(page):
    text = json.dumps(page.get("/config").json())
    assert str(page.uploads) not in text and str(page.uploads.parent) + "/" not in text
