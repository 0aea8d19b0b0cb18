"""Projection and cells of Just Zoom In, compared with PROJ and with cells stated by the data set."""

import numpy as np
import pytest

from gengeo_hf.data.benchmarks import justzoomin_grid as grid

# Rows of the published lists: position, zoom actions, row and column.
PUBLISHED = [
    ((38.908513, -76.940898), [7, 6, 6, 5], (85, 233)),
    ((38.910576, -76.941785), [7, 2, 13, 15], (79, 231)),
    ((38.913548, -76.932969), [7, 3, 6, 15], (71, 251)),
    ((38.918031, -76.94114), [3, 14, 10, 9], (58, 233)),
]


@pytest.mark.parametrize(("position", "actions", "cell"), PUBLISHED)
def test_cells_of_published_rows_match_position_and_actions(position, actions, cell):
    assert grid.cells_at([position[0]], [position[1]])[:, 0].tolist() == list(cell)
    assert grid.cells_of_sequences(np.array([actions]))[:, 0].tolist() == list(cell)


def test_project_agrees_with_proj_and_its_inverse_to_1_mm():
    pyproj = pytest.importorskip("pyproj")
    rng = np.random.default_rng(0)
    lat, lon = rng.uniform(38.7, 39.1, 500), rng.uniform(-77.2, -76.8, 500)
    plane = pyproj.Proj(
        "+proj=lcc +lat_0=37.66666666666666 +lon_0=-77 +lat_1=38.3 +lat_2=39.45 +x_0=400000 +ellps=GRS80"
    )
    assert np.abs(grid.project(lat, lon) - np.array(plane(lon, lat))).max() < 1e-3
    back = grid.unproject(*grid.project(lat, lon))
    assert np.abs(back - [lat, lon]).max() < 1e-8  # 1 mm
    assert pytest.approx(395_993.681, abs=1e-3) == grid.WEST_M
    assert pytest.approx(141_194.915, abs=1e-3) == grid.NORTH_M


def test_cell_centres_are_in_their_cells():
    rows, columns = np.meshgrid([0, 85, 255], [0, 128, 255], indexing="ij")
    lat, lon = grid.cell_centres(rows.ravel(), columns.ravel())
    assert np.array_equal(grid.cells_at(lat, lon), [rows.ravel(), columns.ravel()])


def test_holding_cells_are_those_whose_crop_contains_the_position():
    lat, lon = np.array([38.908513, 38.9]), np.array([-76.940898, -77.01])
    assert grid.holding_cells(lat, lon, grid.CELL_M) == [[], []]
    easting, northing = grid.project(lat, lon)
    found = grid.holding_cells(lat, lon, 100.0)
    for index in range(2):
        own = tuple(grid.cells_at(lat[index : index + 1], lon[index : index + 1])[:, 0].tolist())
        slow = []
        for row in range(256):
            for column in range(256):
                east = grid.WEST_M + (column + 0.5) * 39.0625 - easting[index]
                north = grid.NORTH_M - (row + 0.5) * 39.0625 - northing[index]
                if max(abs(east), abs(north)) <= 50 and (row, column) != own:
                    slow.append((row, column))
        assert found[index] == slow
        assert len(slow) > 2
