"""The two views of a camera position show the same ground, with the same north and scale, in every domain."""

import numpy as np
import pytest

from gengeo_hf.world import TILE_METRES
from gengeo_hf.world.ground_material import CAR, GRASS, PAVEMENT, ROAD, SKY
from gengeo_hf.world.regions import Region

GROUND = (42, 168)  # pixels
ON_THE_GROUND = (ROAD, PAVEMENT, GRASS)


def ground_pixels(region, position):
    """Return the positions of the ground pixels of a panorama, metres east and north of the camera, and their classes.

    Positions follow from the definition of the panorama (north in the centre column, azimuth clockwise, 35 degrees up
    and down), not from the rays of the renderer.
    """
    picture = region.draw_ground(position, GROUND, 1, with_labels=True)
    row, column = np.nonzero(np.isin(picture.kinds, ON_THE_GROUND))
    elevation = np.radians(35 - (row + 0.5) * 70 / GROUND[0])
    azimuth = np.radians(((column + 0.5) / GROUND[1] - 0.5) * 360)
    flat = picture.depth[row, column] * np.cos(elevation)
    return flat * np.sin(azimuth), flat * np.cos(azimuth), picture.kinds[row, column]


def agreement(region, position, tile, turn):
    """Return the fraction of ground pixels with the class of the tile, after `turn` quarter turns of the panorama."""
    east, north, kinds = ground_pixels(region, position)
    for _ in range(turn):
        east, north = north, -east
    side = 130
    above = region.draw_aerial(tile, (side, side), 1, with_labels=True).kinds
    column = np.floor((position.x + east - tile.x) / TILE_METRES * side + side / 2).astype(int)
    row = np.floor(side / 2 - (position.y + north - tile.y) / TILE_METRES * side).astype(int)
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    found = above[row[inside], column[inside]]
    visible = np.isin(found, ON_THE_GROUND)  # elsewhere trees, roofs and cars cover the ground
    assert visible.sum() > 300
    return np.mean(found[visible] == kinds[inside][visible])


@pytest.mark.parametrize("domain", ["urban", "rural", "offcenter"])
def test_panorama_and_tiles_show_the_same_ground(domain):
    region = Region(domain, "test", 0, 0)
    for position in region.camera_positions(3):
        for tile in position.tiles:
            right, *wrong = (agreement(region, position, tile, turn) for turn in range(4))
            assert right > 0.88 and right > max(wrong) + 0.05, (position, tile, right, wrong)


def test_views_of_a_position_differ_in_cars_and_light():
    region = Region("urban", "test", 0, 0)
    cars = region.scene.layout.cars
    assert len(cars["ground"]) and not np.array_equal(cars["ground"][:20], cars["aerial"][:20])
    ground, aerial = region.day("ground", 0), region.day("aerial", 0)
    assert ground.cloud != aerial.cloud and not np.allclose(ground.sun, aerial.sun)
    kinds = region.draw_ground(region.camera_positions(1)[0], GROUND, 1, with_labels=True).kinds
    assert (kinds[0] == SKY).any() and not (kinds[-1] == SKY).any()
    assert CAR in np.concatenate(
        [region.draw_ground(p, GROUND, 1, with_labels=True).kinds.ravel() for p in region.camera_positions(4)]
    )


def test_draw_ground_two_samples_are_closer_to_four_than_one():
    region = Region("urban", "test", 0, 0)
    position = region.camera_positions(1)[0]
    one, two, four = (region.draw_ground(position, (84, 336), samples).image.astype(float) for samples in (1, 2, 4))
    assert np.abs(two - four).mean() < np.abs(one - four).mean()
