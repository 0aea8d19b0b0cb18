"""Picture and bounds of a posterior on an asymmetric grid."""

import io
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.geo import offset
from gengeo_hf.localization.position_map import PositionMap

EAST, NORTH = np.array([-6.0, -2.0, 2.0, 6.0, 10.0]), np.array([-9.0, -3.0, 3.0])  # steps of 4 m and 6 m


def position_map(mass):
    """Map of mass (north, east), with rows from south to north."""
    north, east = np.meshgrid(NORTH, EAST, indexing="ij")
    return PositionMap(47.0, 8.0, np.stack([east, north], -1).reshape(-1, 2), np.asarray(mass, float).ravel())


def test_bounds_of_a_position_map_extend_half_a_step_beyond_its_positions():
    found = position_map(np.full((3, 5), 1 / 15)).bounds
    south, west = offset(47.0, 8.0, -8.0, -12.0)
    north, east = offset(47.0, 8.0, 12.0, 6.0)
    np.testing.assert_allclose(found, [west, south, east, north], rtol=0, atol=1e-12)


def test_picture_of_a_position_map_is_north_up_with_the_square_root_of_the_mass_as_opacity():
    mass = np.zeros((3, 5))
    mass[0, 3], mass[2, 1] = 0.64, 0.16  # in the south-east, and a quarter of it in the north-west
    picture = Image.open(io.BytesIO(position_map(mass).picture()))
    assert picture.mode == "RGBA" and picture.size == (8 * 5, 8 * 3)
    pixels = np.asarray(picture)
    assert (pixels[..., :3] == [255, 196, 0]).all()
    grid = np.zeros((3, 5), np.uint8)
    grid[2, 3], grid[0, 1] = 215, 108  # 215 x sqrt(0.25) = 107.5, rounded to even
    expected = Image.fromarray(grid).resize(picture.size, Image.Resampling.BICUBIC)
    assert np.array_equal(pixels[..., 3], np.asarray(expected))


def test_picture_of_a_position_map_without_mass_is_transparent():
    pixels = np.asarray(Image.open(io.BytesIO(position_map(np.zeros((3, 5))).picture())))
    assert (pixels[..., 3] == 0).all()


def test_position_map_cannot_be_changed():
    with pytest.raises(FrozenInstanceError):
        position_map(np.zeros((3, 5))).lat = 1.0
