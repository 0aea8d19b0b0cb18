"""An upload beyond the limit hears of it, over a real connection: one that is reset would leave its sender guessing."""

import http.client
import json
from urllib.parse import urlsplit

import pytest

pytest.importorskip("fastapi", reason='the service needs pip install "gengeo_hf[serve]"')

from gengeo_hf.web.line import Limits  # after the skip
from gengeo_hf.web.service import create_app
from tests.web.conftest import running


@pytest.mark.parametrize("times", [1.1, 5])
def test_the_sender_of_a_large_upload_is_told(desk, times):
    limit = 1_000_000
    with running(create_app(desk, Limits(photo_bytes=limit))) as address:
        for _ in range(5):
            connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=60)
            connection.request("POST", "/locate", bytes(int(times * limit)), {"Connection": "close"})
            reply = connection.getresponse()
            assert reply.status == 413 and json.loads(reply.read())["error"]["code"] == "too_large"
            connection.close()
