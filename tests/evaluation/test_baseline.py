"""Colour histograms of pictures with a few colours."""

import datasets
import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.evaluation.baseline import colour_histogram, histogram_ranks
from tests.data.helpers import encoded, flat, toy_dataset


def picture(*rows):
    """Picture of four columns whose rows have one colour each."""
    return Image.fromarray(np.array([[colour] * 4 for colour in rows], np.uint8))


def test_colour_histogram_has_eight_levels_of_each_colour():
    rows = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (31, 32, 0), (31, 32, 0)]
    found = colour_histogram(picture(*rows))
    assert found.shape == (512,)
    expected = np.zeros(512)
    expected[[7 * 64, 7 * 8, 7]] = np.sqrt(1 / 5)
    expected[8] = np.sqrt(2 / 5)  # levels 0, 1 and 0
    np.testing.assert_allclose(found, expected)
    lower = colour_histogram(picture(*rows), lower_half=True)  # rows 2 to 4
    assert np.nonzero(lower)[0].tolist() == [7, 8] and lower[8] == pytest.approx(np.sqrt(2 / 3))


def test_histogram_ranks_use_the_whole_photo_unless_told_otherwise():
    colours = [(200, 0, 0), (0, 200, 0), (0, 0, 200)]
    data = toy_dataset(3)
    photos = []
    for row, query in enumerate(data.queries):
        pixels = flat(colours[row], 8, 16)
        pixels[5:] = colours[(row + 1) % 3]  # the lower three of eight rows have the colour of the next tile
        photos.append(query | {"ground": {"bytes": encoded(pixels), "path": None}})
    tiles = [
        tile | {"aerial": {"bytes": encoded(flat(colours[2 - row], 8, 8)), "path": None}}
        for row, tile in enumerate(data.gallery)
    ]
    tables = (
        datasets.Dataset.from_list(rows, features=table.features)
        for rows, table in ((photos, data.queries), (tiles, data.gallery))
    )
    world = CrossViewDataset("toy/train", *tables)
    assert histogram_ranks(world).tolist() == [0, 0, 0]
    assert histogram_ranks(world, lower_half=True).tolist() == [1, 1, 1]
