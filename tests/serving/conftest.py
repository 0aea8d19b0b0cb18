"""What the tests of this room share: a small gallery behind a locator, photos as bytes, and a running server."""

import contextlib
import io

import numpy as np
import pytest
from PIL import Image

from tests.stubs import ListSource, StubEncoder


def picture(image, kind="PNG", **options):
    """An image as the bytes of a file."""
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
    """The photo whose place is tile noise-4."""
    return picture(source.images[4])


@pytest.fixture
def index(encoder, source, tmp_path):
    from gengeo_hf.index import GeoIndex

    return GeoIndex.build(encoder, source, tmp_path / "city.gengeo")


@pytest.fixture
def locator(encoder, index):
    from gengeo_hf.serving.locator import Locator

    made = Locator(encoder, index, model_name="stub")
    yield made
    made.close()


@pytest.fixture
def big_photo():
    """The JPEG of a large photo of noise: as slow to decode as a phone's."""
    noise = np.random.default_rng(0).integers(0, 255, (1500, 2000, 3), np.uint8)
    return picture(Image.fromarray(noise), "JPEG")


@contextlib.contextmanager
def running(app):
    """Serve an ASGI application on a free port of loopback, as `gengeo serve` does; gives its address."""
    from gengeo_hf.serving.server import in_thread

    with in_thread(app) as address:
        yield address
