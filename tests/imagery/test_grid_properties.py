"""Properties of map tiles for any zoom, column and row: the grid has no gaps, and bounds contain their positions."""

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from gengeo_hf.imagery.xyz import xyz_bounds


@st.composite
def tiles(draw):
    zoom = draw(st.integers(0, 22))
    side = st.integers(0, 2**zoom - 1)
    return zoom, draw(side), draw(side)


@settings(max_examples=200, deadline=None)
@given(tiles())
def test_xyz_bounds_four_children_cover_the_tile(tile):
    zoom, column, row = tile
    whole = xyz_bounds(*tile)
    parts = {(x, y): xyz_bounds(zoom + 1, 2 * column + x, 2 * row + y) for x in (0, 1) for y in (0, 1)}
    assert parts[0, 0].west == whole.west and parts[0, 0].north == whole.north
    assert parts[1, 1].east == whole.east and parts[1, 1].south == whole.south
    assert parts[0, 0].east == parts[1, 0].west and parts[0, 0].south == parts[0, 1].north
    assert whole.west < parts[0, 0].east < whole.east and whole.south < parts[0, 0].south < whole.north
    assert whole.west >= -180 and whole.east <= 180 and abs(whole.north) < 85.06


@settings(max_examples=300, deadline=None)
@given(st.floats(-85.05, 85.05), st.floats(-180, 179.999), st.integers(0, 22))
def test_xyz_bounds_contain_positions_of_the_tile(lat, lon, zoom):
    """The expected tile is computed by the projection (OGC 17-083r4, annex D), whose inverse is `xyz_bounds`."""
    column = int((lon + 180) / 360 * 2**zoom)
    row = int((1 - math.asinh(math.tan(math.radians(lat))) / math.pi) / 2 * 2**zoom)
    box = xyz_bounds(zoom, column, min(row, 2**zoom - 1))
    slack = 1e-9
    assert box.west - slack <= lon <= box.east + slack and box.south - slack <= lat <= box.north + slack
