"""Class maps that are rendered from ids belong to the stored images."""

import io

import datasets
import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.world import CLASS_NAMES, build_world
from gengeo_hf.world.pixel_classes import _parse, aerial_classes, ground_classes
from gengeo_hf.world.shards import samples_for


@pytest.mark.parametrize("domain", ["urban", "offcenter"])
def test_pixel_classes_of_id_match_stored_image(domain, tmp_path):
    world = build_world(domain, "test", 3, ground_size=(14, 56), aerial_size=(28, 28), cache_dir=tmp_path, workers=1)
    query, tile = world.queries[2], world.gallery[1]
    kinds = ground_classes(query["query_id"], (14, 56))
    assert kinds.shape == (14, 56) and CLASS_NAMES[kinds[0, 0]] == "sky" and not (kinds[-1] == 0).any()
    from_above = aerial_classes(tile["tile_id"], (28, 28))
    assert from_above.shape == (28, 28) and not (from_above == 0).any() and len(np.unique(from_above)) > 1
    # The region of an id renders the image that is stored under this id.
    region, numbers = _parse(query["query_id"].removesuffix("-ground"))
    position = region.camera_positions(numbers[0] + 1)[numbers[0]]
    again = region.draw_ground(position, (14, 56), samples_for((14, 56))).image
    stored = world.queries.cast_column("ground", datasets.Image(decode=False))[2]["ground"]["bytes"]
    np.testing.assert_array_equal(again, np.asarray(Image.open(io.BytesIO(stored)).convert("RGB")))


@pytest.mark.parametrize(
    "name", ["urban-test-0-0000-150-ground", "urban-test-0-0000-003-004", "offcenter-test-0-0000-500-500-ground"]
)
def test_pixel_classes_unknown_position_is_refused(name):
    with pytest.raises(GenGeoError, match="has the positions 000 to 149, found"):
        ground_classes(name, (14, 56))
    with pytest.raises(GenGeoError, match=r"has the positions|is not an id|is not a tile"):
        aerial_classes(name, (14, 56))


@pytest.mark.parametrize("name", ["photo.jpg", "mars-test-0-0000-003-ground", "urban-test-0-0000"])
def test_ground_classes_id_of_another_data_set_is_refused(name):
    with pytest.raises(GenGeoError, match="not an id of the synthetic world"):
        ground_classes(name, (14, 56))
