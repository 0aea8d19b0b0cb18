"""The service over HTTP: answers, errors, limits, reload of the index, metrics and logs."""

import errno
import io
import json
import logging
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason='the service needs pip install "gengeo_hf[serve]"')
httpx = pytest.importorskip("httpx", reason="the HTTP client of these tests, which gradio brings")

from gengeo_hf.common.errors import GenGeoError  # noqa: E402  # after the skips
from gengeo_hf.index import GeoIndex  # noqa: E402
from gengeo_hf.localization import GeoLocalizer  # noqa: E402
from gengeo_hf.localization.confidence import Calibration  # noqa: E402
from gengeo_hf.serving import locator as locator_module  # noqa: E402
from gengeo_hf.serving.locator import Locator  # noqa: E402
from gengeo_hf.serving.metrics import configure_logs  # noqa: E402
from gengeo_hf.serving.queue import Limits  # noqa: E402
from gengeo_hf.serving.service import create_app, serve  # noqa: E402
from tests.serving.conftest import picture, running  # noqa: E402
from tests.stubs import ListSource, StubEncoder  # noqa: E402


@pytest.fixture
def client(locator):
    with running(create_app(locator)) as address, httpx.Client(base_url=address, timeout=30) as client:
        yield client


def problem(reply, status, code):
    """Check the form of an error, and return its message."""
    assert reply.status_code == status, reply.text
    assert set(reply.json()) == {"error"} and reply.json()["error"]["code"] == code
    message = reply.json()["error"]["message"]
    assert message and "Traceback" not in message and "\n" not in message
    return message


def test_locate_with_form_or_bytes_gives_places_of_localizer(client, encoder, index, photo):
    best = GeoLocalizer(encoder, index).locate(photo, top=3).places
    for send in ({"content": photo}, {"files": {"image": ("street.png", photo, "image/png")}}):
        reply = client.post("/locate", params={"top": 3}, **send)
        assert reply.status_code == 200, reply.text
        found = reply.json()
        assert [place["tile_id"] for place in found["places"]] == [place.tile_id for place in best]
        assert found["places"][0]["lat"] == best[0].lat and found["places"][0]["bounds"] == list(best[0].bounds)
        assert found["known"] and "unknown training data" in found["caveat"]
        assert found["index"]["name"] == "city.gengeo" and len(found["index"]["version"]) == 12


def test_locate_accepts_bytes_with_form_content_type(client, photo):
    headers = {"Content-Type": "application/x-www-form-urlencoded"}  # as curl --data-binary sends it
    assert client.post("/locate", content=photo, headers=headers).status_code == 200


def test_locate_gives_geojson_by_parameter_or_accept_header(client, photo):
    for options in ({"params": {"format": "geojson"}}, {"headers": {"Accept": "application/geo+json"}}):
        reply = client.post("/locate", content=photo, **options)
        assert reply.headers["content-type"] == "application/geo+json"
        assert reply.json()["type"] == "FeatureCollection"
        lon, lat = reply.json()["features"][0]["geometry"]["coordinates"]
        assert lat == pytest.approx(60.17, abs=0.01) and lon == pytest.approx(24.947, abs=0.01)
    options = {"params": {"format": "json"}, "headers": {"Accept": "application/geo+json"}}
    assert "places" in client.post("/locate", content=photo, **options).json()


def test_locate_options_near_and_merge_are_used(client, photo):
    found = client.post("/locate", params={"near": "60.17,24.94,150m", "merge": False}, content=photo).json()
    assert [place["tile_id"] for place in found["places"]] != [] and len(found["places"]) == 2
    nowhere = client.post("/locate", params={"near": "-60,0,1km"}, content=photo)
    assert nowhere.status_code == 200 and nowhere.json()["places"] == []


def test_exif_position_is_reported_and_limits_search_only_with_near_exif(client, shared_data):
    photo = (shared_data / "exif" / "DSCN0010.jpg").read_bytes()
    found = client.post("/locate", content=photo).json()
    assert found["exif"]["lat"] == pytest.approx(43.467, abs=1e-3) and found["exif"]["distance_m"] > 1e6
    assert client.post("/locate", params={"near_exif": "1km"}, content=photo).json()["places"] == []


def test_encode_gives_descriptors_of_both_views(locator, client, encoder, source, tiny_model, tiny_processor):
    image = source.images[1]
    for view in ("ground", "aerial"):
        reply = client.post("/encode", params={"view": view}, content=picture(image)).json()
        np.testing.assert_allclose(reply["descriptor"], encoder.encode([image], view)[0], rtol=1e-6)
        assert reply["view"] == view and reply["fingerprint"] == encoder.fingerprint
    from gengeo_hf.encoding.encoder import Encoder

    real = Encoder(tiny_model, tiny_processor, device="cpu")
    index = GeoIndex.build(real, source, locator.localizer.index.path.with_name("real.gengeo"))
    with running(create_app(Locator(real, index))) as address:
        for view in ("ground", "aerial"):
            reply = httpx.post(f"{address}/encode", params={"view": view}, content=picture(image)).json()
            np.testing.assert_allclose(reply["descriptor"], real.encode([image], view)[0], atol=1e-5)


def test_health_reports_index_and_counts(client, photo):
    client.post("/locate", content=photo)
    client.post("/locate", content=b"no photo")
    found = client.get("/health").json()
    assert (found["status"], found["tiles"], found["answered"], found["inside"]) == ("ok", 8, 1, 0)
    assert found["index"]["name"] == "city.gengeo" and not found["index_outdated"]


@pytest.mark.parametrize(
    ("send", "status", "code", "text"),
    [
        ({"content": b""}, 400, "no_photo", "request is empty"),
        ({"content": b"hello"}, 422, "bad_photo", "is not an image"),
        ({"content": b"\x89PNG\r\n\x1a\n" + b"0" * 50}, 422, "bad_photo", "cannot be opened"),
        ({"files": {"photo": b"x"}}, 400, "no_photo", "field 'photo'"),
        ({"files": {"image": b"x"}, "data": {"top": "3"}}, 400, "no_photo", "query string"),
        ({"files": [("image", b"x"), ("image", b"y")]}, 400, "no_photo", "2 values"),
        ({"data": {"image": "text"}, "headers": {"Content-Type": "multipart/form-data"}}, 400, "no_photo", "form"),
        ({"content": b"x", "params": {"top": 0}}, 422, "bad_parameter", "top"),
        ({"content": b"x", "params": {"near": "91,0,1km"}}, 422, "bad_parameter", "is not a position"),
        ({"content": b"x", "params": {"near_exif": "far"}}, 422, "bad_parameter", "is not a length"),
        ({"content": b"x", "params": {"heading": "up"}}, 422, "bad_parameter", "heading"),
        ({"content": b"x", "params": {"fov": "nan"}}, 422, "bad_parameter", "fov"),
        ({"content": b"x", "params": {"tpo": 3}}, 422, "bad_parameter", "'tpo'"),
        ({"content": b"x", "params": {"threshold": 0.5}}, 422, "bad_parameter", "no calibration"),
    ],
)
def test_bad_request_gets_error_with_code(client, send, status, code, text):
    assert text in problem(client.post("/locate", **send), status, code)


def test_unknown_path_and_method_get_error_with_code(client):
    problem(client.get("/nothing"), 404, "not_found")
    problem(client.get("/locate"), 405, "method_not_allowed")


@pytest.mark.parametrize(("size", "status"), [((1, 1), 422), ((8, 8), 200), ((20_000, 8), 200), ((20_000, 2_600), 422)])
def test_photo_of_unusual_size_is_located_or_refused(client, size, status):
    reply = client.post("/locate", content=picture(Image.new("1", size)))
    assert reply.status_code == status, reply.text
    if size[1] == 2_600:
        assert "50 megapixels" in problem(reply, 422, "bad_photo")


def test_damaged_photo_is_refused(client, big_photo):
    assert "damaged" in problem(client.post("/locate", content=big_photo[: len(big_photo) // 2]), 422, "bad_photo")


@pytest.mark.parametrize("has_length", [True, False])
def test_too_large_upload_is_refused_with_413(locator, has_length):
    body = b"0" * 3_000_000
    with running(create_app(locator, Limits(photo_bytes=1_000_000))) as address:
        content = body if has_length else (body[start : start + 65536] for start in range(0, len(body), 65536))
        assert "1 MB" in problem(httpx.post(f"{address}/locate", content=content), 413, "too_large")
        assert "1 MB" in problem(httpx.post(f"{address}/locate", files={"image": body}), 413, "too_large")
        assert httpx.get(f"{address}/health").json()["inside"] == 0


class Slow(StubEncoder):
    """An encoder that waits for the event `go`."""

    def __init__(self):
        super().__init__()
        self.go = threading.Event()

    def encode(self, images, view, **options):
        self.go.wait(20)
        return super().encode(images, view)


@pytest.fixture
def slow(index):
    encoder = Slow()
    yield encoder
    encoder.go.set()


def wait_for(condition):
    for _ in range(1000):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("the condition was not met in 10 s")


def test_full_queue_gives_503_with_retry_after_and_answers_waiting_requests(slow, index, photo):
    app = create_app(Locator(slow, index, batch_size=2), Limits(queue=6, workers=2))
    with running(app) as address, ThreadPoolExecutor(6) as pool:
        inside = [pool.submit(httpx.post, f"{address}/locate", content=photo, timeout=30) for _ in range(6)]
        wait_for(lambda: httpx.get(f"{address}/health").json()["inside"] == 6)
        refused = httpx.post(f"{address}/locate", content=photo * 100)
        assert "try again" in problem(refused, 503, "busy") and int(refused.headers["retry-after"]) >= 1
        slow.go.set()
        assert [future.result().status_code for future in inside] == [200] * 6
        assert httpx.get(f"{address}/health").json()["refused"] == 1


def test_time_limit_gives_504_and_frees_slot(slow, index, photo):
    with running(create_app(Locator(slow, index), Limits(seconds=0.2))) as address:
        assert "0.2 s" in problem(httpx.post(f"{address}/locate", content=photo), 504, "timeout")
        assert httpx.get(f"{address}/health").json()["inside"] == 0
        slow.go.set()
        assert httpx.post(f"{address}/locate", content=photo).status_code == 200


def test_model_error_gives_503_or_500_without_details(index, photo):
    class Broken(StubEncoder):
        def encode(self, images, view, **options):
            return np.full((len(images), 64), np.nan, np.float32)

    class Worse(StubEncoder):
        def encode(self, images, view, **options):
            raise RuntimeError("secret")

    with running(create_app(Locator(Broken(), index))) as address:
        assert "NaN" in problem(httpx.post(f"{address}/locate", content=photo), 503, "cannot_answer")
    with running(create_app(Locator(Worse(), index))) as address:
        assert "secret" not in problem(httpx.post(f"{address}/locate", content=photo), 500, "internal")


def test_known_depends_on_threshold(encoder, index, photo):
    calibration = Calibration(-9.0, 10.0, 0.0, 50, encoder.fingerprint, 8, 20, 0.0)
    with running(create_app(Locator(encoder, index, calibration))) as address:
        replies = [httpx.post(f"{address}/locate", params={"threshold": t}, content=photo).json() for t in (0.5, 0.99)]
    assert [reply["known"] for reply in replies] == [True, False]
    assert 0.5 < replies[0]["places"][0]["confidence"] < 0.99


def test_schema_describes_requests_and_docs_load_nothing(client, photo):
    schema = client.get("/openapi.json").json()
    assert set(schema["paths"]) == {"/locate", "/encode", "/health"}
    content = schema["paths"]["/locate"]["post"]["requestBody"]["content"]
    assert set(content) == {"multipart/form-data", "image/*", "application/octet-stream"}
    assert {"400", "413", "422", "503", "504", "200"} <= set(schema["paths"]["/locate"]["post"]["responses"])
    assert "HTTPValidationError" not in json.dumps(schema)
    page = client.get("/docs").text
    assert "/locate" in page and "near_exif" in page and "<script" not in page
    assert "src=" not in page and "https://" not in page and client.get("/redoc").status_code == 404


def test_answers_conform_to_schema(client, photo):
    jsonschema = pytest.importorskip("jsonschema")
    schema = client.get("/openapi.json").json()
    for path, reply in {
        "/locate": client.post("/locate", content=photo),
        "/encode": client.post("/encode", content=photo),
    }.items():
        wanted = schema["paths"][path]["post"]["responses"]["200"]["content"]["application/json"]["schema"]
        jsonschema.validate(reply.json(), wanted | {"components": schema["components"]})


def test_reload_uses_replaced_index_and_answers_never_mix_versions(encoder, index, photo):
    """During constant requests, each answer has the tiles and the version of one index."""
    locator = Locator(encoder, index)
    names = {locator.localizer.index.manifest.content_id: "noise"}
    stop, versions, wrong = threading.Event(), set(), []

    def keep_locating(address):
        with httpx.Client(base_url=address) as client:
            while not stop.is_set():
                reply = client.post("/locate", content=photo).json()
                kinds = {place["tile_id"].split("-")[0] for place in reply["places"]}
                versions.add(reply["index"]["version"])
                if kinds != {names.get(reply["index"]["version"])}:
                    wrong.append(reply)

    with running(create_app(locator)) as address, ThreadPoolExecutor(3) as pool:
        clients = [pool.submit(keep_locating, address) for _ in range(3)]
        for generation in ("second", "third", "fourth"):
            new = GeoIndex.build(encoder, ListSource(8, generation, seed=len(generation)), index.path, overwrite=True)
            assert httpx.get(f"{address}/health").json()["index_outdated"]
            names[new.manifest.content_id] = generation
            assert locator.reload() == 8
            assert not httpx.get(f"{address}/health").json()["index_outdated"]
        wait_for(lambda: len(versions) >= 2)
        stop.set()
        for future in clients:
            future.result()
    assert not wrong, wrong[0]


def test_reload_of_bad_index_keeps_open_index(encoder, index, photo):
    locator = Locator(encoder, index)
    GeoIndex.build(StubEncoder("other"), ListSource(3), index.path, overwrite=True)
    with pytest.raises(GenGeoError, match="made by another model"):
        locator.reload()
    (index.path / GeoIndex.load(index.path).manifest.segments[0].name / "tiles.arrow").write_bytes(b"broken")
    with pytest.raises(GenGeoError, match="truncated"):
        locator.reload()
    from gengeo_hf.serving.locator import LocateQuery

    assert locator.locate(photo, LocateQuery())[0].places[0].tile_id == "noise-4"


def test_serve_with_port_in_use_raises(locator):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(GenGeoError, match="cannot listen"):
        serve(locator, port=taken.getsockname()[1])


def test_encode_form_file_over_1_mb_equals_bytes(client):
    """Starlette stores form files of more than 1 MB on disk; the bytes must be the same."""
    noise = np.random.default_rng(0).integers(0, 255, (900, 900, 3), np.uint8)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "PNG")
    assert len(buffer.getvalue()) > 2_000_000
    form = client.post("/encode", files={"image": buffer.getvalue()}).json()
    assert form["descriptor"] == client.post("/encode", content=buffer.getvalue()).json()["descriptor"]


def test_health_accepts_head_and_root_redirects_to_docs(client):
    for path in ("/health", "/health/live", "/health/ready"):
        reply = client.head(path)
        assert reply.status_code == 200 and reply.content == b"", path
    assert client.get("/").headers["location"] == "docs"


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("world/urban/test", "world/urban/test"),
        ("hf:owner/name", "hf:owner/name"),
        ("/home/alice/flight.tif", "flight.tif"),
        ("C:\\Users\\alice\\flight.tif", "flight.tif"),
    ],
)
def test_public_source_removes_directories_of_local_paths(source, shown):
    assert locator_module._public_source(source) == shown


def test_metrics_count_requests_and_health_paths_answer(client, photo):
    client.post("/locate", content=photo)
    text = client.get("/metrics").text
    assert 'gengeo_requests_total{path="/locate",status="200"} 1.0' in text and "gengeo_index_tiles 8.0" in text
    assert client.get("/health/live").json() == {"status": "ok"} == client.get("/health/ready").json()
    assert client.get("/health", headers={"x-request-id": "abc-1"}).headers["x-request-id"] == "abc-1"
    assert client.get("/", follow_redirects=False).headers["location"] == "docs"


def test_ready_with_full_disk_gives_503(client, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("tempfile.TemporaryFile", full)
    assert "No space left" in problem(client.get("/health/ready"), 503, "cannot_answer")


def test_full_disk_gives_507_and_other_system_error_500(locator, photo, monkeypatch):
    for number, status, code in ((errno.ENOSPC, 507, "no_space"), (errno.EACCES, 500, "internal")):

        async def failing(*_, number=number, **__):
            raise OSError(number, "text of the system")

        monkeypatch.setattr("gengeo_hf.serving.service.read_upload", failing)
        with running(create_app(locator)) as address:
            message = problem(httpx.post(f"{address}/locate", content=photo), status, code)
        assert ("text of the system" in message) == (status == 507)


def test_json_logs_have_one_object_per_line_with_request_id(locator, photo, capfd):
    before = {name: (logging.getLogger(name).handlers, logging.getLogger(name).level) for name in ("gengeo", "uvicorn")}
    try:
        configure_logs("json")
        with running(create_app(locator)) as address:
            httpx.post(f"{address}/locate", content=photo, headers={"x-request-id": "abc-1"})
    finally:
        for name, (handlers, level) in before.items():
            logger = logging.getLogger(name)
            logger.handlers, logger.propagate, logger.level = handlers, True, level
    lines = [json.loads(line) for line in capfd.readouterr().err.splitlines() if line.startswith("{")]
    found = next(line for line in lines if line.get("request_id") == "abc-1")
    assert found["level"] == "info" and found["message"].startswith("POST /locate 200")
