"""Two hundred requests at the same moment: all answered, each its own answer, and no memory kept."""

import gc
import http.client
import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason='the service needs pip install "gengeo_hf[serve]"')

from gengeo_hf.serving.service import create_app  # after the skip
from tests.serving.conftest import picture, running

REQUESTS = 200


def resident_mb():
    """Memory of this process that is in use, in MB; client, server and model live in it."""
    gc.collect()
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def ask(address, photo):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
    connection.request("POST", "/locate?top=1&merge=false", photo)
    reply = connection.getresponse()
    body = json.loads(reply.read())
    connection.close()
    return reply.status, body


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_two_hundred_at_once_lose_none_and_keep_nothing(locator, source):
    # 600 x 600 pixels are 1 MB decoded: what 200 requests would keep is far above the noise of the measurement.
    photos = [picture(image.resize((600, 600), Image.Resampling.NEAREST), "JPEG") for image in source.images]
    memory = []
    with running(create_app(locator)) as address, ThreadPoolExecutor(REQUESTS) as pool:
        for _ in range(4):
            futures = [pool.submit(ask, address, photos[number % 8]) for number in range(REQUESTS)]
            found = [future.result() for future in futures]
            assert [status for status, _ in found] == [200] * REQUESTS
            assert [body["places"][0]["tile_id"] for _, body in found] == [f"noise-{n % 8}" for n in range(REQUESTS)]
            memory.append(resident_mb())
    # The first round fills pools; two more that kept their pictures would add 400 MB. In a process that has run other
    # tests the allocator's own noise is some tens of MB.
    assert memory[3] - memory[1] < 150, np.round(memory)
