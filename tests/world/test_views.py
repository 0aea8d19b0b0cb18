"""The two views of a place show the same world: north is north, metres are metres, in every domain."""

import numpy as np
import pytest

from gengeo_hf.world import TILE_METRES
from gengeo_hf.world.ground_material import CAR, GRASS, PAVEMENT, ROAD, SKY
from gengeo_hf.world.places import Region

GROUND = (42, 168)  # pixels
ON_THE_GROUND = (ROAD, PAVEMENT, GRASS)


def seen_on_the_ground(region, place):
    """Where the panorama's ground pixels lie, metres from the camera east and north, and their classes.

    By the panorama's own definition (north in the centre column, azimuth clockwise, 35 degrees up and down), not by
    the renderer's rays.
    """
    picture = region.draw_ground(place, GROUND, 1, truth=True)
    row, column = np.nonzero(np.isin(picture.kinds, ON_THE_GROUND))
    elevation = np.radians(35 - (row + 0.5) * 70 / GROUND[0])
    azimuth = np.radians(((column + 0.5) / GROUND[1] - 0.5) * 360)
    flat = picture.depth[row, column] * np.cos(elevation)
    return flat * np.sin(azimuth), flat * np.cos(azimuth), picture.kinds[row, column]


def agreement(region, place, tile, turn):
    """Share of the panorama's ground pixels whose class the tile shows there, the panorama turned by quarter turns."""
    east, north, kinds = seen_on_the_ground(region, place)
    for _ in range(turn):
        east, north = north, -east
    side = 130
    above = region.draw_aerial(tile, (side, side), 1, truth=True).kinds
    column = np.floor((place.x + east - tile.x) / TILE_METRES * side + side / 2).astype(int)
    row = np.floor(side / 2 - (place.y + north - tile.y) / TILE_METRES * side).astype(int)
    inside = (column >= 0) & (column < side) & (row >= 0) & (row < side)
    found = above[row[inside], column[inside]]
    open_sky = np.isin(found, ON_THE_GROUND)  # trees, roofs and the other view's cars hide ground from above
    assert open_sky.sum() > 300
    return np.mean(found[open_sky] == kinds[inside][open_sky])


@pytest.mark.parametrize("domain", ["urban", "rural", "offcenter"])
def test_the_ground_around_the_camera_is_the_ground_in_every_tile_that_covers_it(domain):
    region = Region(domain, "test", 0, 0)
    for place in region.places(3):
        for tile in place.tiles:
            right, *wrong = (agreement(region, place, tile, turn) for turn in range(4))
            assert right > 0.88 and right > max(wrong) + 0.05, (place, tile, right, wrong)


def test_cars_and_light_differ_between_the_views_of_a_place():
    region = Region("urban", "test", 0, 0)
    cars = region.scene.layout.cars
    assert len(cars["ground"]) and not np.array_equal(cars["ground"][:20], cars["aerial"][:20])
    ground, aerial = region.day("ground", 0), region.day("aerial", 0)
    assert ground.cloud != aerial.cloud and not np.allclose(ground.sun, aerial.sun)
    kinds = region.draw_ground(region.places(1)[0], GROUND, 1, truth=True).kinds
    assert (kinds[0] == SKY).any() and not (kinds[-1] == SKY).any()
    assert CAR in np.concatenate([region.draw_ground(p, GROUND, 1, truth=True).kinds.ravel() for p in region.places(4)])


def test_edges_are_smoothed_where_pixels_differ():
    """Two samples a pixel move edge pixels towards the mean of four, against one sample."""
    region = Region("urban", "test", 0, 0)
    place = region.places(1)[0]
    one, two, four = (region.draw_ground(place, (84, 336), samples).image.astype(float) for samples in (1, 2, 4))
    assert np.abs(two - four).mean() < np.abs(one - four).mean()
