"""Two hundred simultaneous requests: each gets its own answer, and memory does not grow."""

import gc
import http.client
import json
import multiprocessing
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("fastapi", reason='the service needs pip install "gengeo_hf[serve]"')

from gengeo_hf.index import GeoIndex  # after the skip
from gengeo_hf.serving.locator import Locator
from gengeo_hf.serving.service import create_app
from tests.serving.conftest import picture, running
from tests.stubs import ListSource, StubEncoder

REQUESTS = 200


def resident_mb():
    """Resident memory of this process in MiB, with client, server and model."""
    gc.collect()
    return int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]) / 1024


def ask(address, photo):
    connection = http.client.HTTPConnection(urlsplit(address).netloc, timeout=120)
    connection.request("POST", "/locate?top=1&merge=false", photo)
    reply = connection.getresponse()
    body = json.loads(reply.read())
    connection.close()
    return reply.status, body


def rounds(folder):
    """Send 200 simultaneous requests three times; gives statuses and tiles of the answers, and memory use."""
    encoder, source = StubEncoder(), ListSource(8)
    locator = Locator(encoder, GeoIndex.build(encoder, source, Path(folder) / "city.gengeo"), model_name="stub")
    # 600 x 600 pixels are 1 MB decoded: photos of 200 requests in memory would exceed the noise of the measurement.
    photos = [picture(image.resize((600, 600), Image.Resampling.NEAREST), "JPEG") for image in source.images]
    answers, memory = [], []
    with running(create_app(locator)) as address, ThreadPoolExecutor(REQUESTS) as pool:
        for _ in range(3):
            futures = [pool.submit(ask, address, photos[number % 8]) for number in range(REQUESTS)]
            answers.append([(f.result()[0], f.result()[1]["places"][0]["tile_id"]) for f in futures])
            memory.append(resident_mb())
    locator.close()
    return answers, memory


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads memory from /proc")
def test_two_hundred_requests_are_answered_and_memory_stays_flat(tmp_path):
    # In a new process: memory that other tests have allocated would hide growth.
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as own:
        answers, memory = own.submit(rounds, tmp_path).result()
    for found in answers:
        assert found == [(200, f"noise-{n % 8}") for n in range(REQUESTS)]
    assert memory[2] - memory[0] < 60, np.round(memory)
