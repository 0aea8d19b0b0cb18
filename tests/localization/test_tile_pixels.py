"""Tile pixels from imagery and from thumbnails."""

import io

import pyarrow as pa
import pytest
from PIL import Image

from gengeo_hf.localization.tile_pixels import IndexPictures


class Imagery:
    """Tiles "a" and "b", of which the second has no data."""

    table = pa.table({"tile_id": ["a", "b"]})

    def read(self, row):
        return Image.new("RGB", (5, 4), "red") if row == 0 else None


class Index:
    """Thumbnails of width x height pixels of every tile but "none"."""

    def __init__(self, width, height):
        self.size, self.requested = (width, height), []

    def thumbnails(self, tiles):
        self.requested += tiles
        buffer = io.BytesIO()
        Image.new("L", self.size).save(buffer, "JPEG")
        return {tile: buffer.getvalue() for tile in tiles if tile != "none"}


def test_images_come_from_imagery_and_else_from_thumbnails():
    index = Index(40, 30)
    found = IndexPictures(index, (30, 40), Imagery()).images(["c", "a", "b", "none"])
    assert set(found) == {"a", "b", "c"} and index.requested == ["c", "b", "none"]
    assert found["a"].size == (5, 4) and found["b"].size == found["c"].size == (40, 30)
    assert found["c"].mode == "RGB"


@pytest.mark.parametrize(
    ("size", "used"), [((40, 30), True), ((39, 30), False), ((40, 29), False), ((30, 40), False), ((90, 60), True)]
)
def test_thumbnails_smaller_than_the_aerial_images_of_the_model_are_not_used(size, used):
    assert ("t" in IndexPictures(Index(*size), (30, 40)).images(["t"])) is used


def test_images_of_an_index_without_thumbnails_are_those_of_the_imagery():
    assert set(IndexPictures(object(), (30, 40), Imagery()).images(["a", "b"])) == {"a"}
    assert IndexPictures(object(), (30, 40)).images(["a"]) == {}
