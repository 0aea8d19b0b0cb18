"""Test double of Mapillary's API, which runs in its own process and serves photos from a file.

`python -m tests.acquire.mapillary_server DIRECTORY` prints its port. DIRECTORY holds `photos.json`: a list of entities
with two additional keys: `_file` (image file in DIRECTORY; without it a small image is drawn) and `_fault` (fault of
the response). `POST /faults` sets faults of searches. `GET /log` returns all requests.
"""

import io
import json
import sys
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
from PIL import Image

TOKEN = "MLY|4242|0123456789abcdef0123"
LIMIT = 2000
HTML = b"<!DOCTYPE html><html><body>Please log in.</body></html>"


class State:
    def __init__(self, folder):
        self.folder, self.lock = Path(folder), threading.Lock()
        self.load()

    def load(self):
        file = self.folder / "photos.json"
        self.photos = {str(photo["id"]): photo for photo in json.loads(file.read_text())} if file.is_file() else {}
        self.log, self.counts, self.faults = [], Counter(), {}


def drawn(photo):
    """Image with the entity's aspect ratio and a colour that follows from its id; the column at north is red."""
    width, height = 128, 128 * photo.get("height", 64) // photo.get("width", 128)
    pixels = np.full((height, width, 3), 60 + int(photo["id"]) % 120, np.uint8)
    pixels[::4] += 40
    north = round(width / 2 - photo.get("computed_compass_angle", 0.0) * width / 360) % width
    pixels[:, north] = (255, 0, 0)
    if photo.get("_fault") == "dark":
        pixels //= 40
    if photo.get("_fault") == "square":
        pixels = pixels[:, : pixels.shape[0]]
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "JPEG", quality=95)
    return file.getvalue()


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status, body, media="application/json", **headers):
        body = json.dumps(body).encode() if media == "application/json" else body
        self.send_response(status)
        self.send_header("Content-Type", media)
        self.send_header("Content-Length", str(len(body)))
        for name, value in headers.items():
            self.send_header(name.replace("_", "-"), str(value))
        self.end_headers()
        self.wfile.write(body)

    def refuse(self, status, message, code=100):
        self.answer(status, {"error": {"message": message, "type": "MLYApiException", "code": code}})

    def do_POST(self):
        words = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with STATE.lock:
            STATE.load()
            STATE.faults = words
        self.answer(200, {})

    def do_GET(self):
        parts, words = urlsplit(self.path), parse_qs(urlsplit(self.path).query)
        if parts.path == "/log":
            return self.answer(200, {"log": STATE.log})
        with STATE.lock:
            STATE.log.append({"path": self.path, "token": self.headers.get("Authorization")})
            STATE.counts[parts.path] += 1
            times = STATE.counts[parts.path]
        if parts.path.startswith("/pixels/"):
            return self.pixels(parts.path.split("/")[2], words)
        if self.headers.get("Authorization") != f"OAuth {TOKEN}" or STATE.faults.get("token") == "refused":
            return self.refuse(401, "Invalid OAuth 2.0 Access Token", 190)
        if parts.path == "/images":
            return self.search(words, times)
        return self.entity(parts.path.strip("/"), words)

    def search(self, words, times):
        fault = STATE.faults.get("search")
        if fault == "429" and times == 1:
            return self.answer(429, {}, Retry_After=0)
        if fault == "500" and times <= 2:
            return self.answer(500, {})
        if fault == "403":
            return self.refuse(403, "Application request limit reached", 4)
        if fault == "html":
            return self.answer(200, HTML, "text/html")
        if fault == "slow":
            time.sleep(0.3)
        west, south, east, north = (float(side) for side in words["bbox"][0].split(","))
        if max(east - west, north - south) >= 0.01:
            return self.refuse(400, "The box is too large")
        if fault == "odd" and times == 2:
            return self.refuse(400, "Something about this box")
        pano = {"true": True, "false": False}[words["is_pano"][0]]
        found = []
        for photo in STATE.photos.values():
            lon, lat = photo.get("geometry", {}).get("coordinates", (None, None))
            near = lon is not None and west - 1e-5 <= lon <= east + 1e-5 and south - 1e-5 <= lat <= north + 1e-5
            if near and photo.get("is_pano", False) == pano:
                found.append(self.named(photo, words))
        self.answer(200, {"data": found[: min(LIMIT, int(words["limit"][0]))]})

    def named(self, photo, words):
        """The requested fields of a photo; unknown ones are missing keys."""
        fields = words["fields"][0].split(",")
        found = {key: value for key, value in photo.items() if key in fields and not key.startswith("_")}
        for key in fields:
            if key.startswith("thumb_"):
                fresh = STATE.counts[f"/{photo['id']}"]
                found[key] = f"http://127.0.0.1:{self.server.server_port}/pixels/{photo['id']}?oh=sig{fresh}"
        return found

    def entity(self, name, words):
        photo = STATE.photos.get(name)
        if photo is None or photo.get("_fault") == "deleted":
            return self.answer(404, {"error": {"message": "Unsupported get request", "code": 100}})
        self.answer(200, self.named(photo, words))

    def pixels(self, name, words):
        photo, times = STATE.photos[name], STATE.counts[f"/pixels/{name}"]
        fault = photo.get("_fault", "")
        if (fault == "expired" and words["oh"][0] == "sig1") or fault == "expires":
            return self.answer(403, b"URL signature expired", "text/plain")
        if fault == "gone once" and times == 1:
            return self.answer(410, b"", "text/plain")
        if fault == "down":
            return self.answer(503, b"", "text/plain")
        body = (STATE.folder / photo["_file"]).read_bytes() if "_file" in photo else drawn(photo)
        if fault == "cut" or (fault == "cut once" and times == 1):
            body = body[: len(body) // 2]
        if fault == "html":
            return self.answer(200, HTML, "text/html")
        return self.answer(200, body, "image/jpeg")


def main():
    global STATE
    STATE = State(sys.argv[1])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    print(server.server_address[1], flush=True)
    threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown()), daemon=True).start()
    server.serve_forever()


if __name__ == "__main__":
    main()
