"""Time limits of connections: slow clients are disconnected, cancelled requests are answered."""

import asyncio
import contextlib
import http.client
import socket
import time
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

import pytest

pytest.importorskip("uvicorn")

from gengeo_hf.serving import connections, server
from gengeo_hf.serving.server import Access, serve_in_thread


async def app(scope, receive, send):
    """Answer with the length of the body, or with 408 if the client is disconnected."""
    if scope["type"] == "lifespan":
        while True:
            message = await receive()
            await send({"type": f"{message['type']}.complete"})
            if message["type"] == "lifespan.shutdown":
                return
    length = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            await send({"type": "http.response.start", "status": 408, "headers": []})
            await send({"type": "http.response.body", "body": b"late"})
            return
        length += len(message.get("body", b""))
        if not message.get("more_body"):
            break
    await send({"type": "http.response.start", "status": 200, "headers": []})
    await send({"type": "http.response.body", "body": str(length).encode()})


@pytest.fixture
def address(monkeypatch):
    monkeypatch.setattr(connections, "HEADER_SECONDS", 0.5)
    with serve_in_thread(app, Access(body_seconds=0.5)) as address:
        yield urlsplit(address).hostname, urlsplit(address).port


def talk(address, *parts, pause=0.0):
    """Send a request in parts, and return the answer."""
    answer = b""
    with socket.create_connection(address, timeout=30) as client, contextlib.suppress(ConnectionError):
        for part in parts:
            client.sendall(part)
            time.sleep(pause)
        while chunk := client.recv(4096):
            answer += chunk
    return answer


def test_header_without_end_is_disconnected(address):
    started = time.monotonic()
    assert talk(address, b"GET / HTTP/1.1\r\nHost: localhost\r\n") == b""
    assert time.monotonic() - started < 20


def test_header_in_small_parts_does_not_restart_time_limit(address):
    parts = [b"GET / HTTP/1.1\r\nHost: localhost\r\n", *[b"X-A: 1\r\n"] * 40]
    started = time.monotonic()
    talk(address, *parts, pause=0.1)
    assert time.monotonic() - started < 20


def test_body_without_end_is_disconnected(address):
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    assert b"408" in talk(address, head, b"half")


def test_keep_alive_connection_answers_every_request(address):
    client = http.client.HTTPConnection(*address, timeout=30)
    for _ in range(3):
        client.request("POST", "/", b"body")
        assert client.getresponse().read() == b"4"
        time.sleep(0.1)
    client.close()


@pytest.mark.parametrize("started", [False, True])
def test_requests_cancelled_at_shutdown_get_answer_without_traceback(monkeypatch, caplog, started):
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)

    async def slow(scope, receive, send):
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await asyncio.sleep(60)

    with ThreadPoolExecutor(1) as pool:
        with serve_in_thread(slow) as address:
            where = urlsplit(address)
            answer = pool.submit(talk, (where.hostname, where.port), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.5)
        assert answer.result(30).startswith(b"HTTP/1.1 200" if started else b"HTTP/1.1 503")
    assert "Traceback" not in caplog.text and "CancelledError" not in caplog.text
