"""Decoding in worker processes: costly images are refused, other images are decoded as without a worker."""

import contextlib
import io
import struct
import threading
import time

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.images import read_image
from gengeo_hf.serving.decoding import BudgetError, Decoder, DecodingLimits, PixelBudget

pytest.importorskip("pebble")


def encoded(kind="JPEG", size=(320, 240), **options):
    rng = np.random.default_rng(0)
    small = Image.fromarray(rng.integers(0, 255, (24, 32, 3), np.uint8))
    buffer = io.BytesIO()
    small.resize(size).save(buffer, kind, **options)
    return buffer.getvalue()


def progressive_bomb(scans=20_000):
    """A progressive JPEG of 4000 x 4000 pixels whose last scan is repeated: each is a pass over all blocks."""
    plain = encoded("JPEG", (4000, 4000), progressive=True, quality=30)
    start = plain.rindex(b"\xff\xda")
    header = plain[start : start + 2 + struct.unpack(">H", plain[start + 2 : start + 4])[0]]
    return plain[:-2] + header * scans + b"\xff\xd9"


@pytest.fixture(scope="module")
def decoder():
    decoder = Decoder(DecodingLimits(workers=1, cpu_seconds=2.0))
    yield decoder
    decoder.close()


def test_decoder_gives_same_pixels_as_read_image(decoder):
    content = encoded()
    with decoder.read(content) as found:
        assert np.array_equal(np.asarray(found.image), np.asarray(read_image(content).image))
        assert found.size == (320, 240) and decoder.budget.used == 320 * 240
    assert decoder.budget.used == 0


def test_decoder_error_for_bad_file_is_one_line(decoder):
    for content in (b"", b"no picture", encoded()[:2000]):
        with pytest.raises(GenGeoError) as caught, decoder.read(content):
            pass
        assert "\n" not in str(caught.value)


def test_costly_jpeg_is_refused_and_next_image_is_decoded(decoder):
    bomb, started = progressive_bomb(), time.monotonic()
    with pytest.raises(GenGeoError, match="more than 500 scans"), decoder.read(bomb):
        pass
    strict = Decoder(DecodingLimits(workers=1, cpu_seconds=0.3))
    costly = pytest.raises(GenGeoError, match=r"takes more than 0\.3 s to decode")
    with contextlib.closing(strict), costly, strict.read(progressive_bomb(490)):  # below the limit of scans
        pass
    assert time.monotonic() - started < 60
    with decoder.read(encoded()) as found:
        assert found.size == (320, 240)


def test_image_with_too_many_pixels_is_refused():
    decoder = Decoder(DecodingLimits(workers=1, max_pixels=10_000))
    try:
        with (
            pytest.raises(GenGeoError, match=r"320 x 240 pixels, the limit is 0\.01 megapixels"),
            decoder.read(encoded()),
        ):
            pass
    finally:
        decoder.close()


def test_pixel_budget_small_image_does_not_wait_for_large_one():
    budget = PixelBudget(100)
    with budget.take(80, 1):
        with budget.take(20, 0.1):
            assert budget.used == 100
        with pytest.raises(BudgetError), budget.take(30, 0.05):
            pass
        waited = []

        def wait():
            with budget.take(200, 5):  # more than the budget takes all of it
                waited.append(budget.used)

        thread = threading.Thread(target=wait)
        thread.start()
    thread.join()
    assert waited == [100] and budget.used == 0
