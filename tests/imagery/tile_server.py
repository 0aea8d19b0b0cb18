"""Tile server with deliberate faults, which runs in its own process.

`python -m tests.imagery.tile_server` prints its port. The first part of a path is a behaviour, the rest is the tile:
`/good/17/74000/37000.png`. `GET /log` returns all requests since the last `GET /reset`.

Colours are a formula of the position (`colour`), so that tests can compute the expected pixels.
"""

import io
import json
import math
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

from tests.imagery.service_documents import Documents

WAVES = 300_300  # waves around the equator, of 134 m at the equator and 67 m at 60 degrees
HTML = b"<!DOCTYPE html><html><head><title>Sorry</title></head><body>The service is busy.</body></html>"


def colour(u, v):
    """RGB of positions in the unit square of Web Mercator (u to the east, v to the south), floats (..., 3)."""
    red = 128 + 90 * np.sin(2 * math.pi * WAVES * u)
    green = 128 + 90 * np.sin(2 * math.pi * WAVES * v)
    blue = 128 + 60 * np.sin(2 * math.pi * WAVES / 7 * (u + v))
    return np.stack([red, green, blue], axis=-1)


def draw(zoom, column, row, side=256):
    at = (np.arange(side) + 0.5) / side
    u, v = np.meshgrid((column + at) / 2**zoom, (row + at) / 2**zoom)
    return np.clip(np.rint(colour(u, v)), 0, 255).astype(np.uint8)


def encode(pixels, kind):
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, {"jpg": "JPEG", "jpeg": "JPEG", "png": "PNG", "webp": "WEBP"}[kind])
    return file.getvalue()


class State:
    def __init__(self):
        self.lock = threading.Lock()
        self.reset()

    def reset(self):
        with getattr(self, "lock", threading.Lock()):
            self.log, self.counts, self.open, self.most_open, self.starts = [], Counter(), 0, 0, []


STATE = State()
BLOCKED = encode(np.random.default_rng(7).integers(0, 255, (256, 256, 3), dtype=np.uint8), "png")


class Handler(Documents, BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body=b"", media="image/png", **headers):
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_GET(self):
        path = urlsplit(self.path).path  # also of a proxy request
        if path == "/reset":
            STATE.reset()
            return self.answer(200, b"{}", "application/json")
        if path == "/log":
            with STATE.lock:
                told = {"log": list(STATE.log), "most_open": STATE.most_open, "starts": list(STATE.starts)}
            return self.answer(200, json.dumps(told).encode(), "application/json")
        with STATE.lock:
            STATE.log.append(
                {"path": self.path, "agent": self.headers.get("User-Agent", ""), "host": self.headers["Host"]}
            )
            STATE.starts.append(time.monotonic())
            STATE.counts[self.path] += 1
            STATE.open += 1
            STATE.most_open = max(STATE.most_open, STATE.open)
        try:
            return self.behave(path.strip("/").split("/"))
        finally:
            with STATE.lock:
                STATE.open -= 1

    do_HEAD = do_GET

    def behave(self, parts):
        mode, *rest = parts
        handler = getattr(self, f"on_{mode}", None)
        if handler is not None:
            return handler(rest)
        return self.tile(mode, rest)

    def tile(self, mode, rest):
        zoom, column, name = int(rest[0]), int(rest[1]), rest[2]
        row, _, kind = name.partition(".")
        row, kind = int(row), kind or "png"
        times = STATE.counts[self.path]
        picture = lambda **more: self.answer(200, encode(draw(zoom, column, row, **more), kind), f"image/{kind}")  # noqa: E731
        if mode in ("good", "slow"):
            time.sleep(0.05 if mode == "slow" else 0)
            return picture()
        if mode == "southrows":  # rows are counted from the south
            return self.answer(200, encode(draw(zoom, column, 2**zoom - 1 - row), kind), f"image/{kind}")
        if mode == "exchanged":
            return self.answer(200, encode(draw(zoom, row, column), kind), f"image/{kind}")
        if mode == "retina":
            return picture(side=512)
        if mode == "tms":
            row = 2**zoom - 1 - row
            return picture() if abs(row / 2**zoom - 0.3) < 0.05 else self.answer(404)
        if mode == "zyx":
            return (
                self.answer(404) if column / 2**zoom > 0.5 else self.answer(200, encode(draw(zoom, row, column), kind))
            )
        if mode == "notfound":
            return self.answer(404, b"no such tile", "text/plain")
        if mode == "empty":
            return self.answer(204)
        if mode == "deep17":
            return picture() if zoom <= 17 else self.answer(404)
        if mode == "third404":
            return self.answer(404) if (column + row) % 3 == 0 else picture()
        if mode == "html":
            return self.answer(200, HTML, "text/html")
        if mode == "html_as_png":
            return self.answer(200, HTML, "image/png")
        if mode == "thirdhtml":
            return self.answer(200, HTML, "text/html") if (column + row) % 3 == 0 else picture()
        if mode == "xml":
            return self.answer(200, b'<?xml version="1.0"?><ServiceException>no</ServiceException>', "text/xml")
        if mode == "blocked":
            return self.answer(200, BLOCKED)
        if mode == "thirdblocked":
            return self.answer(200, BLOCKED) if (column + row) % 3 == 0 else picture()
        if mode == "flat":
            return self.answer(200, encode(np.full((256, 256, 3), 255, np.uint8), "png"))
        if mode == "thirdflat":
            flat = encode(np.full((256, 256, 3), 255, np.uint8), "png")
            return self.answer(200, flat) if (column + row) % 3 == 0 else picture()
        if mode == "clear":
            return self.answer(200, encode(np.zeros((256, 256, 4), np.uint8), "png"))
        if mode == "small":
            return self.answer(200, encode(draw(zoom, column, row, side=100), "png"))
        if mode == "thirdsmall":
            return picture(side=128) if (column + row) % 3 == 0 else picture()
        if mode == "cut":
            body = encode(draw(zoom, column, row), kind)
            return self.answer(200, body[: len(body) // 2])
        if mode == "broken":  # the connection ends in the middle of the first response
            body = encode(draw(zoom, column, row), kind)
            if times > 1:
                return self.answer(200, body)
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body[: len(body) // 2])
            self.close_connection = True
            return None
        if mode == "once429":
            return picture() if times > 1 else self.answer(429, b"", Retry_After=1)
        if mode == "never":
            return self.answer(429, b"", Retry_After=86400)
        if mode == "once500":
            return picture() if times > 1 else self.answer(503, b"oh")
        if mode == "down":
            return self.answer(502, b"oh")
        if mode == "hang":
            time.sleep(30)
            return None
        if mode == "drip":
            self.send_response(200)
            self.send_header("Content-Length", "100000")
            self.end_headers()
            for _ in range(300):
                self.wfile.write(b"x")
                self.wfile.flush()
                time.sleep(0.1)
            return None
        if mode == "bomb":
            self.send_response(200)
            self.send_header("Transfer-Encoding", "chunked")
            self.end_headers()
            for _ in range(200):
                self.wfile.write(b"100000\r\n" + bytes(1 << 20) + b"\r\n")
            return None
        if mode == "elsewhere":
            return self.answer(302, Location="http://other.example.org/1.png")
        if mode == "local":
            return self.answer(302, Location="file:///etc/passwd")
        if mode == "moved":
            return self.answer(301, Location=self.path.replace("/moved/", "/good/"))
        if mode == "loop":
            return self.answer(302, Location=self.path)
        if mode == "token":
            given = parse_qs(urlsplit(self.path).query).get("key", [""])[0]
            return picture() if given == "sesame-open-42" else self.answer(401, b"who are you?")
        if mode == "polite":
            return picture() if "me@example.org" in self.headers.get("User-Agent", "") else self.answer(403)
        if mode == "referer":
            return picture() if self.headers.get("Referer") else self.answer(403)
        return self.answer(404)


def main():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
