"""Requests that are refused before they are read: the client reads the answer, the connection is not reset."""

import http.client
import json
import socket
import time
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason='the service needs pip install "gengeo_hf[serve]"')

from gengeo_hf.serving.queue import Limits  # after the skip
from gengeo_hf.serving.service import create_app
from tests.serving.conftest import running


@pytest.mark.parametrize("times", [1.1, 5])
def test_too_large_upload_client_reads_413(locator, times):
    limit = 1_000_000
    with running(create_app(locator, Limits(photo_bytes=limit))) as address:
        for _ in range(5):
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
            connection.request("POST", "/locate", bytes(int(times * limit)), {"Connection": "close"})
            reply = connection.getresponse()
            assert reply.status == 413 and json.loads(reply.read())["error"]["code"] == "too_large"
            connection.close()


@pytest.mark.parametrize(
    ("path", "status"), [("/locate?near=1,2", 422), ("/nowhere", 404), ("/locate?threshold=1", 422)]
)
def test_refusal_waits_until_body_is_sent(locator, path, status):
    body = bytes(5_000_000)
    head = (
        f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Length: {len(body)}\r\nConnection: close\r\n\r\n".encode()
    )
    with running(create_app(locator)) as address:
        where = urlsplit(address)
        with socket.create_connection((where.hostname, where.port), timeout=60) as connection:
            connection.sendall(head + body[:1000])
            time.sleep(0.3)  # long enough for a refusal that does not wait
            connection.sendall(body[1000:])
            reply = b""
            while part := connection.recv(65_536):
                reply += part
    assert reply.startswith(f"HTTP/1.1 {status}".encode())
