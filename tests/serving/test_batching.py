"""`BatchingEncoder`: images of several threads are encoded together."""

import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.serving.batching import BatchingEncoder
from tests.stubs import StubEncoder


def noise(number):
    pixels = np.random.default_rng(number).integers(0, 255, (16, 16, 3), np.uint8)
    return Image.fromarray(pixels)


class Held(StubEncoder):
    """An encoder that waits for the event `go`, and records the size and view of each batch."""

    def __init__(self):
        super().__init__()
        self.go, self.batches, self.refuse = threading.Event(), [], None

    def encode(self, images, view, *, resize=True):
        self.go.wait(10)
        self.batches.append((len(images), view))
        if any(image is self.refuse for image in images):
            raise ValueError("a bad image")
        return super().encode(images, view)


@pytest.fixture
def held():
    return Held()


def ask(batching, jobs):
    """Encode each job in its own thread; gives the threads and the list of their results."""
    results = [None] * len(jobs)

    def one(number):
        try:
            results[number] = batching.encode(*jobs[number])
        except ValueError as error:
            results[number] = error

    threads = [threading.Thread(target=one, args=(number,)) for number in range(len(jobs))]
    for thread in threads:
        thread.start()
        threading.Event().wait(0.01)  # so that the jobs wait in this order
    return threads, results


def test_each_call_gets_descriptors_of_its_images(held):
    batching = BatchingEncoder(held, 4)
    jobs = [([noise(n) for n in range(i, i + 1 + i % 2)], "ground") for i in range(9)]
    threads, results = ask(batching, jobs)
    held.go.set()
    for thread in threads:
        thread.join(10)
    for (images, view), got in zip(jobs, results, strict=True):
        np.testing.assert_array_equal(got, StubEncoder().encode(images, view))
    assert 1 < max(size for size, _ in held.batches) <= 4 and len(held.batches) < len(jobs)
    batching.close()


def test_images_of_different_views_are_in_different_batches(held):
    batching = BatchingEncoder(held, 8)
    threads, results = ask(batching, [([noise(n)], "aerial" if n % 3 else "ground") for n in range(7)])
    held.go.set()
    for thread in threads:
        thread.join(10)
    assert all(result.shape == (1, 64) for result in results)
    assert sum(size for size, view in held.batches if view == "ground") == 3


def test_bad_image_fails_alone_in_its_batch(held):
    batching = BatchingEncoder(held, 8)
    held.refuse = noise(2)
    threads, results = ask(batching, [([held.refuse if n == 2 else noise(n)], "ground") for n in range(5)])
    held.go.set()
    for thread in threads:
        thread.join(10)
    assert [isinstance(result, ValueError) for result in results] == [False, False, True, False, False]


def test_properties_are_those_of_encoder_and_closed_encoder_raises(held):
    batching = BatchingEncoder(held)
    assert (batching.dim, batching.fingerprint, batching.training_record) == (64, held.fingerprint, {})
    held.go.set()
    batching.close()
    with pytest.raises(RuntimeError, match="closed"):
        batching.encode([noise(0)], "ground")


def test_images_without_resize_are_batched_by_size(held):
    """Photos whose file states their field of view are not resized to the same width."""
    sizes = []

    def encode(images, view, *, resize=True):
        held.go.wait(10)
        sizes.append(({image.size for image in images}, len(images), resize, threading.current_thread().name))
        return np.array([[image.width, image.getpixel((0, 0))[0]] for image in images], np.float32)

    held.encode = encode
    batching = BatchingEncoder(held, 4)
    images = [Image.new("RGB", (2 + n // 4, 2), (n, 0, 0)) for n in range(8)]
    with ThreadPoolExecutor(8) as pool:
        found = [pool.submit(batching.encode, image, "ground", resize=False) for image in images]
        threading.Event().wait(0.2)  # until all calls wait
        held.go.set()
        assert [future.result(10).tolist() for future in found] == [[2 + n // 4, n] for n in range(8)]
    batching.close()
    assert all(len(widths) == 1 and count <= 4 and not resize for widths, count, resize, _ in sizes)
    assert {name for *_, name in sizes} == {"gengeo-encoder"} and len(sizes) < 8
