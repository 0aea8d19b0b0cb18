"""Access control: requests with unknown hosts, other origins, no token or two lengths are refused."""

import asyncio
import base64

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.serving.access import AccessMiddleware, read_token

TOKEN = "a-token-of-some-length"


def status_of(headers, path="/locate", kind="http", **options):
    """Status of the answer to a request with these headers; 200 comes from the application."""
    sent = []

    async def app(scope, receive, send):
        await send({"type": "http.response.start", "status": 200})

    async def send(message):
        sent.append(message)

    scope = {"type": kind, "path": path, "headers": [(k.encode(), v.encode()) for k, v in headers]}
    asyncio.run(AccessMiddleware(app, **options)(scope, None, send))
    return sent[0].get("status", sent[0].get("code"))


@pytest.mark.parametrize(
    "host", ["localhost", "localhost:8000", "127.0.0.1:8000", "[::1]:8000", "192.168.1.7:80", "LOCALHOST"]
)
def test_host_loopback_name_or_ip_address_is_served(host):
    assert status_of([("host", host)]) == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "evil.example:8000", "localhost.evil.example", "", "[::1", "127.0.0.1.evil.example"]
)
def test_host_unknown_name_is_refused(host):
    assert status_of([("host", host)]) == 403


def test_allowed_hosts_are_served_and_star_allows_all():
    assert status_of([("host", "Geo.example")], allowed_hosts=["geo.example"]) == 200
    assert status_of([("host", "evil.example")], allowed_hosts=["*"]) == 200


def test_origin_of_another_site_is_refused():
    assert status_of([("host", "127.0.0.1:8000"), ("origin", "http://evil.example")]) == 403
    assert status_of([("host", "127.0.0.1:8000"), ("origin", "null")]) == 403
    assert status_of([("host", "127.0.0.1:8000"), ("origin", "http://127.0.0.1:8000")]) == 200


def test_websocket_of_unknown_host_is_closed():
    assert status_of([("host", "evil.example")], kind="websocket") == 1008


def test_request_with_content_length_and_transfer_encoding_is_refused():
    assert status_of([("host", "localhost"), ("content-length", "3"), ("transfer-encoding", "chunked")]) == 400


def test_token_is_required_except_for_health_checks():
    basic = base64.b64encode(f"anyone:{TOKEN}".encode()).decode()
    host = ("host", "localhost")
    assert status_of([host], token=TOKEN) == 401
    assert status_of([host, ("authorization", "Bearer wrong")], token=TOKEN) == 401
    assert status_of([host, ("authorization", "Basic !")], token=TOKEN) == 401
    assert status_of([host, ("authorization", f"Bearer {TOKEN}")], token=TOKEN) == 200
    assert status_of([host, ("authorization", f"Basic {basic}")], token=TOKEN) == 200
    assert status_of([host], path="/health/live", token=TOKEN) == 200
    assert status_of([host], path="/metrics", token=TOKEN) == 401


def test_read_token_takes_file_or_environment_and_refuses_short_tokens(tmp_path, monkeypatch):
    monkeypatch.delenv("GENGEO_SERVICE_TOKEN", raising=False)
    assert read_token() is None
    monkeypatch.setenv("GENGEO_SERVICE_TOKEN", TOKEN)
    assert read_token() == TOKEN
    (tmp_path / "token").write_text(f"{TOKEN}-of-a-file\n")
    assert read_token(tmp_path / "token") == f"{TOKEN}-of-a-file"
    (tmp_path / "short").write_text("short")
    with pytest.raises(GenGeoError, match="5 characters, expected 16"):
        read_token(tmp_path / "short")
    with pytest.raises(GenGeoError, match="cannot be read"):
        read_token(tmp_path / "missing")
