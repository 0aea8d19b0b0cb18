"""Fixtures of the tests of the page and the service: a small gallery, a locator, photos as bytes, a server."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from tests.stubs import ListSource, StubEncoder


def picture(image, kind="PNG", **options):
    """Encode an image as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture
def encoder():
    return StubEncoder()


@pytest.fixture
def source():
    return ListSource(8)


@pytest.fixture
def photo(source):
    """Photo whose tile is noise-4."""
    return picture(source.images[4])


@pytest.fixture
def index(encoder, source, tmp_path):
    from gengeo_hf.index import GeoIndex

    return GeoIndex.build(encoder, source, tmp_path / "city.gengeo")


@pytest.fixture
def locator(encoder, index):
    from gengeo_hf.serving.locator import Locator

    locator = Locator(encoder, index, model_name="stub")
    yield locator
    locator.close()


@pytest.fixture
def big_photo():
    """JPEG of a large photo of noise, as slow to decode as the photo of a phone."""
    noise = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), np.uint8)
    return picture(Image.fromarray(noise), "JPEG")


@contextlib.contextmanager
def running(app):
    """Serve an ASGI application on a free port of the loopback address; gives the URL."""
    from gengeo_hf.serving.server import serve_in_thread

    with serve_in_thread(app) as address:
        yield address
