"""Random requests: the service answers with a documented status, never with a 500."""

import io
import warnings
from pathlib import Path

import pytest
from PIL import Image

pytest.importorskip("fastapi", reason='the service needs pip install "gengeo_hf[serve]"')

from hypothesis import HealthCheck, given, settings  # after the skip
from hypothesis import strategies as st

from gengeo_hf.serving.queue import Limits
from tests.serving.conftest import picture

ALLOWED = {200, 400, 404, 405, 413, 422, 503, 504}
KINDS = ["PNG", "JPEG", "WEBP", "TIFF", "BMP", "GIF"]
SEEDS = [picture(Image.effect_noise((24, 16), 80).convert("RGB"), kind) for kind in KINDS]
EXIF = Image.Exif()
EXIF[0x010F] = "maker"
EXIF.get_ifd(0x8825)[2] = (60.0, 10.0, 11.0)
EXIF.get_ifd(0x8825)[4] = (24.0, 56.0, 1.0)
SEEDS.append(picture(Image.effect_noise((24, 16), 80).convert("RGB"), "JPEG", exif=EXIF))


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    from starlette.testclient import TestClient

    from gengeo_hf.index import GeoIndex
    from gengeo_hf.serving.locator import Locator
    from gengeo_hf.serving.service import create_app
    from tests.stubs import ListSource, StubEncoder

    folder: Path = tmp_path_factory.mktemp("fuzz") / "idx"
    locator = Locator(StubEncoder(), GeoIndex.build(StubEncoder(), ListSource(4), folder))
    app = create_app(locator, Limits(photo_bytes=20_000))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with TestClient(app, raise_server_exceptions=False) as client:
            yield client


def check(reply):
    """Check for a documented status, and for the form of errors."""
    assert reply.status_code in ALLOWED, (reply.status_code, reply.text)
    if reply.status_code != 200:
        assert set(reply.json()["error"]) == {"code", "message"}
        assert "/tmp" not in reply.json()["error"]["message"]


@st.composite
def damaged(draw):
    """An image file with some bytes changed, removed or inserted."""
    content = bytearray(draw(st.sampled_from(SEEDS)))
    for _ in range(draw(st.integers(0, 6))):
        start = draw(st.integers(0, len(content) - 1))
        content[start : start + draw(st.integers(0, 4))] = draw(st.binary(max_size=4))
        if not content:
            break
    return bytes(content[: draw(st.integers(0, len(content)))] if draw(st.booleans()) else content)


quick = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
long = settings(quick, max_examples=1500)


def check_damaged_image(client, content, path):
    check(client.post(path, content=content))
    check(client.post(path, files={"image": ("x.jpg", content)}))


def check_options(client, options, path):
    check(client.post(path, params=options, content=SEEDS[0]))


def check_form(client, kind, body):
    check(client.post("/locate", content=body, headers={"Content-Type": kind}))


PATHS = st.sampled_from(["/locate", "/encode"])
NAMES = st.sampled_from(
    ["top", "near", "near_exif", "merge", "threshold", "fov", "heading", "format", "view"]
) | st.text(max_size=8)
NUMBERS = st.floats().map(str) | st.integers().map(str)
VALUES = (
    NUMBERS
    | st.text(max_size=30)
    | st.sampled_from(["exif", "unknown", "json", "geojson", "ground", "aerial", "true", "0x1", "1e400", "-0", ""])
    | st.tuples(NUMBERS, NUMBERS, st.sampled_from(["1km", "0m", "1e300km", "m", "-1m", "NaN"])).map(",".join)
)
OPTIONS = st.dictionaries(NAMES, VALUES, max_size=4)
TYPES = st.sampled_from(
    [
        "multipart/form-data",
        "multipart/form-data; boundary=b",
        "multipart/form-data; boundary=",
        "text/plain",
        "application/json",
        "multipart/form-data; boundary=\x22b\x22; charset=utf-99",
        "image/jpeg; q=\x22",
        "",
    ]
)
PIECES = st.sampled_from(
    [
        b"--b\r\n",
        b"--b--\r\n",
        b"--b",
        b"\r\n",
        b"\r\n\r\n",
        b'Content-Disposition: form-data; name="image"',
        b'; filename="a.png"',
        b"Content-Type: image/png",
        b"Content-Disposition: ",
        b"name=",
        b"\xff\xfe",
        b"\x00",
    ]
)
BODIES = st.lists(PIECES | st.binary(max_size=6), max_size=14).map(b"".join)


@quick
@given(content=damaged(), path=PATHS)
def test_damaged_image_never_gives_500(client, content, path):
    check_damaged_image(client, content, path)


@quick
@given(options=OPTIONS, path=PATHS)
def test_random_options_never_give_500(client, options, path):
    check_options(client, options, path)


@quick
@given(kind=TYPES, body=BODIES)
def test_random_form_never_gives_500(client, kind, body):
    check_form(client, kind, body)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@long
@given(content=damaged() | st.binary(max_size=200), path=PATHS)
def test_damaged_image_long_run_never_gives_500(client, content, path):
    check_damaged_image(client, content, path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@long
@given(options=OPTIONS, path=PATHS)
def test_random_options_long_run_never_give_500(client, options, path):
    check_options(client, options, path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@long
@given(kind=TYPES, body=BODIES)
def test_random_form_long_run_never_gives_500(client, kind, body):
    check_form(client, kind, body)


def test_undamaged_seeds_are_located(client):
    for content in SEEDS:
        assert client.post("/locate", content=content).status_code == 200
        assert Image.open(io.BytesIO(content)).size == (24, 16)
