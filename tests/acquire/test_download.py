"""Downloads from a server on loopback that breaks connections, sends wrong content and requests pauses."""

import hashlib
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from gengeo_hf.acquire.download import check_space, download
from gengeo_hf.common.errors import GenGeoError

CONTENT = bytes(range(256)) * 4_000
SHA256 = hashlib.sha256(CONTENT).hexdigest()


class Server:
    """HTTP server whose `plan` lists the kind of each response: a status, "break" or "html"; then complete files."""

    def __init__(self):
        self.plan, self.ranges, self.headers = [], [], {}
        outer = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args):
                pass

            def do_GET(self):
                outer.ranges.append(self.headers.get("Range"))
                word = outer.plan.pop(0) if outer.plan else "whole"
                start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").rstrip("-"))
                content = b"<!DOCTYPE html><p>log in" if word == "html" else CONTENT[start:]
                status = word if isinstance(word, int) else 206 if start and word != "html" else 200
                self.send_response(status)
                if status >= 400:
                    content = b""
                    self.send_header("Retry-After", "0")
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if word == "break":
                    self.wfile.write(content[: len(content) // 2])
                    self.wfile.flush()
                    self.connection.close()
                    self.close_connection = True
                else:
                    self.wfile.write(content)

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.address = f"http://127.0.0.1:{self.server.server_port}/file"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()


@pytest.fixture
def server(online):
    server = Server()
    yield server
    server.server.shutdown()


def test_download_with_broken_connections_continues_from_the_last_byte(server, tmp_path):
    server.plan = ["break", "break"]
    path = download(server.address, tmp_path / "file", size=len(CONTENT), sha256=SHA256)
    assert path.read_bytes() == CONTENT
    assert server.ranges[0] is None
    assert all(entry for entry in server.ranges[1:])
    assert [entry.name for entry in tmp_path.iterdir()] == ["file"]


def test_download_continues_partial_file(server, tmp_path):
    (tmp_path / "file.partial").write_bytes(CONTENT[:1000])
    download(server.address, tmp_path / "file", size=len(CONTENT), sha256=SHA256)
    assert server.ranges == ["bytes=1000-"]
    download(server.address, tmp_path / "file", size=len(CONTENT), sha256=SHA256)
    assert len(server.ranges) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_download_temporary_failure_is_retried(server, tmp_path, status):
    server.plan = [status, status]
    assert download(server.address, tmp_path / "file", size=len(CONTENT), sha256=SHA256).exists()


@pytest.mark.parametrize(
    ("plan", "size", "sha256", "message"),
    [
        (["html"], len(CONTENT), SHA256, "web page instead of file"),
        (["html"], None, None, "web page instead of file"),
        ([], len(CONTENT), "0" * 64, "has the checksum"),
        ([], len(CONTENT) + 1, SHA256, "bytes, expected"),
        ([401], len(CONTENT), SHA256, "401"),
        ([403], len(CONTENT), SHA256, "403"),
        ([503] * 20, len(CONTENT), SHA256, "attempts"),
    ],
)
def test_download_unexpected_content_raises_one_line_error(server, tmp_path, plan, size, sha256, message):
    server.plan = plan
    with pytest.raises(GenGeoError, match=message):
        download(server.address, tmp_path / "file", size=size, sha256=sha256)
    assert not (tmp_path / "file").exists()


def test_check_space_too_little_raises_error(tmp_path):
    with pytest.raises(GenGeoError, match="are free"):
        check_space(tmp_path / "new" / "folder", 1 << 60)
    check_space(tmp_path, 1)
