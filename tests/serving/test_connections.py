"""Slow clients are disconnected, others are answered meanwhile."""

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
from gengeo_hf.serving.server import Access, in_thread


async def app(scope, receive, send):
    """Answer with the length of the body, or end where the client is gone."""
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
    with in_thread(app, Access(body_seconds=0.5)) as address:
        yield urlsplit(address).hostname, urlsplit(address).port


def talk(address, *parts, pause=0.0):
    """What a server says to a client that sends its request in parts."""
    answer = b""
    with socket.create_connection(address, timeout=30) as client, contextlib.suppress(ConnectionError):
        for part in parts:
            client.sendall(part)
            time.sleep(pause)
        while chunk := client.recv(4096):
            answer += chunk
    return answer


def test_a_header_that_never_ends_is_disconnected(address):
    started = time.monotonic()
    assert talk(address, b"GET / HTTP/1.1\r\nHost: localhost\r\n") == b""
    assert time.monotonic() - started < 20


def test_drops_of_a_header_do_not_start_the_limit_again(address):
    drops = [b"GET / HTTP/1.1\r\nHost: localhost\r\n", *[b"X-A: 1\r\n"] * 40]
    started = time.monotonic()
    talk(address, *drops, pause=0.1)
    assert time.monotonic() - started < 20


def test_a_body_that_never_ends_is_given_up(address):
    head = b"POST / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 100\r\n\r\n"
    assert b"408" in talk(address, head, b"half")


def test_a_request_in_one_piece_is_answered_and_so_is_the_next_on_the_same_connection(address):
    client = http.client.HTTPConnection(*address, timeout=30)
    for _ in range(3):
        client.request("POST", "/", b"body")
        assert client.getresponse().read() == b"4"
        time.sleep(0.1)
    client.close()


@pytest.mark.parametrize("started", [False, True])
def test_requests_that_are_given_up_at_the_end_get_an_answer_and_leave_no_traceback(monkeypatch, caplog, started):
    monkeypatch.setattr(server, "GRACE_SECONDS", 0.2)

    async def slow(scope, receive, send):
        if scope["type"] == "lifespan":
            await app(scope, receive, send)
            return
        if started:
            await send({"type": "http.response.start", "status": 200, "headers": [(b"content-length", b"9")]})
        await asyncio.sleep(60)

    with ThreadPoolExecutor(1) as pool:
        with in_thread(slow) as address:
            where = urlsplit(address)
            answer = pool.submit(talk, (where.hostname, where.port), b"GET / HTTP/1.1\r\nHost: localhost\r\n\r\n")
            time.sleep(0.5)
        assert answer.result(30).startswith(b"HTTP/1.1 200" if started else b"HTTP/1.1 503")
    assert "Traceback" not in caplog.text and "CancelledError" not in caplog.text
