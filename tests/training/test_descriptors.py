"""Encoding by several processes: which rows each one encodes, and how the rows are gathered."""

import dataclasses
from contextlib import nullcontext
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from accelerate import Accelerator

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.encoding.encoder import Encoder
from gengeo_hf.training import descriptors
from gengeo_hf.training.descriptors import encode_distributed, encode_parts, gather_parts, normalise
from tests.training.random_pairs import random_pairs


class StubEncoder:
    """An encoder whose descriptor of row n is (n, -n)."""

    def __init__(self, batch_size):
        self.batch_size, self.model = batch_size, torch.nn.Dropout()


def process(rank, count):
    return SimpleNamespace(num_processes=count, process_index=rank, device=torch.device("cpu"), autocast=nullcontext)


@pytest.mark.parametrize(
    ("count", "batch_size", "processes", "expected"),
    [
        (11, 2, 3, [4, 4, 3]),  # six batches, two for each process
        (10, 4, 2, [8, 2]),  # three batches, two for the first process
        (5, 4, 3, [4, 1, 0]),
        (7, 3, 1, [7]),
    ],
)
def test_encode_parts_each_process_has_complete_batches(monkeypatch, count, batch_size, processes, expected):
    wanted, parts, asked = np.arange(100, 100 + count), [], set()
    monkeypatch.setattr(descriptors, "gather_parts", lambda part, *sizes: asked.add(sizes[:2]) or part)
    for rank in range(processes):
        encoder = StubEncoder(batch_size)
        parts.append(encode_parts(wanted, lambda own: own, process(rank, processes), encoder))
        assert not encoder.model.training
    assert [len(part) for part in parts] == expected
    assert np.concatenate(parts).tolist() == wanted.tolist()
    ((total, share),) = asked
    assert total == count and share == expected[0] if processes > 1 else share >= count


@pytest.mark.parametrize(("processes", "count"), [(2, 9_999), (3, 14_999), (3, 12_288), (3, 12_291), (3, 7), (3, 1)])
def test_gather_parts_sends_each_row_once_in_blocks(processes, count):
    share = -(-count // processes)
    whole = np.arange(2 * count, dtype=np.int32).reshape(count, 2)
    parts = [whole[rank * share : (rank + 1) * share] for rank in range(processes)]
    sent = []

    def gather(own):
        first = sum(sent)
        sent.append(len(own))
        rows = torch.zeros(processes, len(own), 2, dtype=own.dtype)
        for rank, part in enumerate(parts):
            some = torch.from_numpy(part[first : first + len(own)])
            rows[rank, : len(some)] = some
        return rows.flatten(0, 1)

    group = SimpleNamespace(num_processes=processes, device=torch.device("cpu"), gather=gather)
    found = gather_parts(parts[0], count, share, group)
    assert found.dtype == np.int32 and np.array_equal(found, whole)
    assert sum(sent) == share and max(sent) < 4200  # blocks of a limited size


def test_gather_parts_of_one_process_is_not_copied():
    part = np.ones((3, 2), np.float32)
    assert gather_parts(part, 3, 3, Accelerator(cpu=True)) is part


@pytest.mark.parametrize(("given", "expected"), [({}, 1), ({"readers": 0}, 1), ({"readers": 3}, 3)])
def test_encode_distributed_has_at_least_one_reader(monkeypatch, given, expected):
    """`data.workers=0` reads images in the main process."""

    def encode(encoder, images, view, own, readers):
        assert (view, readers) == ("aerial", expected)
        return np.stack([own, -own], axis=1)

    monkeypatch.setattr(descriptors, "encode_images", encode)
    found = encode_distributed("abc", "aerial", Accelerator(cpu=True), StubEncoder(2), **given)
    assert found.tolist() == [[0, 0], [1, -1], [2, -2]]
    rows = np.array([2, 0])
    assert encode_distributed("abc", "aerial", Accelerator(cpu=True), StubEncoder(2), rows, **given).tolist() == [
        [2, -2],
        [0, 0],
    ]


def test_normalise_equals_formula_of_each_channel():
    processor = SimpleNamespace(image_mean=[0.5, 0.25, 0.0], image_std=[0.5, 0.25, 2.0])
    pixels = torch.tensor([255, 102, 51], dtype=torch.uint8)[None, :, None, None].expand(2, 3, 4, 5)
    found = normalise(pixels, processor)
    assert found.dtype == torch.float32 and found.shape == (2, 3, 4, 5)
    for channel, value in enumerate([1.0, 0.6, 0.1]):  # (1 - 0.5) / 0.5, (0.4 - 0.25) / 0.25, 0.2 / 2
        torch.testing.assert_close(found[:, channel], torch.full((2, 4, 5), value))


@pytest.mark.parametrize("rows", [[3, 1, 2], list(range(16))])
def test_encode_distributed_rows_equal_encoder(tiny_model, tiny_processor, rows):
    images = AerialImages(random_pairs(16))
    encoder = Encoder(tiny_model, tiny_processor, device="cpu", batch_size=5)
    found = encode_distributed(images, "aerial", Accelerator(cpu=True), encoder, np.array(rows))
    np.testing.assert_allclose(found, encoder.encode([images[row] for row in rows], "aerial"), atol=1e-5)


def test_encode_distributed_broken_image_is_one_line(tiny_model, tiny_processor):
    data = random_pairs(3)
    rows = data.queries.to_list()
    rows[1]["ground"] = {"bytes": b"nothing", "path": None}
    data = dataclasses.replace(data, queries=type(data.queries).from_list(rows, features=data.queries.features))
    encoder = Encoder(tiny_model, tiny_processor, device="cpu", batch_size=2)
    with pytest.raises(GenGeoError, match=r"^ground image of row 1: the image of 7 bytes is not an image"):
        encode_distributed(GroundImages(data), "ground", Accelerator(cpu=True), encoder, np.arange(3))
