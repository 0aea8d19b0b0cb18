"""The service and the page behind a proxy that removes a path prefix."""

import contextlib
import http.server
import threading

import httpx
import pytest

pytest.importorskip("fastapi", reason='the service needs pip install "gengeo_hf[serve]"')

from gengeo_hf.serving.server import Access, serve_in_thread
from gengeo_hf.serving.service import create_app

PREFIX = "/geo"
TOKEN = "a-token-of-some-length"
AUTHORIZED = {"authorization": f"Bearer {TOKEN}"}


@contextlib.contextmanager
def proxy_to(address):
    """Run a reverse proxy that serves `address` under PREFIX; gives its URL."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def forward(self):
            if not self.path.startswith(PREFIX + "/"):
                self.send_error(404)
                return
            body = self.rfile.read(int(self.headers.get("content-length", 0)))
            headers = {name: value for name, value in self.headers.items() if name.lower() != "content-length"}
            found = httpx.request(self.command, address + self.path[len(PREFIX) :], headers=headers, content=body)
            self.send_response(found.status_code)
            for name, value in found.headers.items():
                if name not in ("transfer-encoding", "content-length", "connection", "content-encoding"):
                    self.send_header(name, value)
            self.send_header("content-length", str(len(found.content)))
            self.end_headers()
            self.wfile.write(found.content)

        do_GET = do_POST = do_HEAD = forward

        def log_message(self, *_):
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}{PREFIX}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_service_answers_under_path_prefix(locator, photo):
    access = Access(token=TOKEN, root_path=PREFIX)
    with serve_in_thread(create_app(locator), access) as address, proxy_to(address) as outside:
        assert httpx.get(f"{outside}/health/live").json() == {"status": "ok"}  # without a token
        assert httpx.get(f"{outside}/health").status_code == 401
        found = httpx.post(f"{outside}/locate", content=photo, headers=AUTHORIZED)
        assert found.status_code == 200 and found.json()["places"]
        docs = httpx.get(f"{outside}/docs", headers=AUTHORIZED).text
        assert f"{PREFIX}/locate" in docs
        assert httpx.get(f"{outside}/openapi.json", headers=AUTHORIZED).json()["servers"] == [{"url": PREFIX}]
        start = httpx.get(f"{outside}/", headers=AUTHORIZED, follow_redirects=True)
        assert start.status_code == 200 and str(start.url) == f"{outside}/docs"
        metrics = httpx.get(f"{outside}/metrics", headers=AUTHORIZED).text
        assert 'gengeo_requests_total{path="/locate",status="200"} 1.0' in metrics


def test_page_names_its_files_under_path_prefix(locator):
    pytest.importorskip("gradio", reason='the page needs pip install "gengeo_hf[app]"')
    from gengeo_hf.serving.page import build_page, page_app
    from gengeo_hf.serving.page_uploads import uploads_directory

    with uploads_directory() as uploads:
        app = page_app(build_page(locator), uploads, PREFIX)
        with serve_in_thread(app, Access(root_path=PREFIX)) as address, proxy_to(address) as outside:
            assert httpx.get(f"{outside}/").status_code == 200
            assert httpx.get(f"{outside}/config").json()["root"].endswith(PREFIX)
