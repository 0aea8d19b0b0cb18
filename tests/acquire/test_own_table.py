"""Writing of tables of pairs, which `table` loads, with attribution and sources."""

import csv
import json

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.acquire.own_table import write_own_table
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data import load_pairs
from gengeo_hf.data.sources import DataSource, DataSources, read_sources

BIG_ID = "27000000000000001"  # above 2^53
SOURCES = DataSources(
    "a town",
    (
        DataSource("photos", "Mapillary contributors", "CC-BY-SA-4.0", "Mapillary contributors, CC BY-SA 4.0"),
        DataSource("aerial imagery", "the town", "CC-BY-4.0", "Aerial photo: the town 2021"),
    ),
    {"bounds": [24.0, 60.0, 25.0, 61.0]},
)


def write(folder, **columns):
    for name in ("photos/a.jpg", "tiles/a.jpg", "tiles/b.jpg"):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), "green").save(path)
    given = {
        "ground": ["photos/a.jpg", None],
        "aerial": ["tiles/a.jpg", "tiles/b.jpg"],
        "lat": [60.0, np.nan],
        "lon": [24.0, np.nan],
        "tile_lat": [60.0, 60.1],
        "tile_lon": [24.0, 24.1],
        "query_id": [BIG_ID, None],
        "tile_id": ["a", "b"],
        "extra_positives": [["b"], []],
        "split": ["test", "test"],
    }
    return write_own_table(folder, given | columns, SOURCES, [(BIG_ID, "someone", "https://example.org", "")])


def test_own_table_is_loaded_from_its_directory_with_ids_above_2_to_53(tmp_path):
    write(tmp_path)
    data = load_pairs("table", tmp_path, "test")
    assert data.queries["query_id"][:] == [BIG_ID]
    assert data.queries["semi_positives"][:] == [["b"]]
    assert data.gallery["tile_id"][:] == ["a", "b"]
    assert data.queries[0]["ground"].size == (8, 8)


def test_own_table_as_imagery_has_rights_of_its_tiles(tmp_path):
    from gengeo_hf.imagery.table import TableTiles

    write(tmp_path, lat=[60.0, 60.1], lon=[24.0, 24.1])
    tiles = TableTiles(tmp_path)
    assert (tiles.rights.attribution, tiles.rights.licence) == ("Aerial photo: the town 2021", "CC-BY-4.0")
    assert set(tiles.table["source"].to_pylist()) == {tiles.name}


def test_own_table_writes_sources_licences_and_attribution(tmp_path):
    table = write(tmp_path)
    assert read_sources(tmp_path) == read_sources(table) == SOURCES
    assert "must be distributed under CC-BY-SA-4.0" in (tmp_path / "LICENCES.md").read_text()
    with (tmp_path / "ATTRIBUTION.csv").open() as file:
        assert next(csv.DictReader(file))["creator"] == "someone"


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"colour": ["x", "y"]}, "has no column 'colour'"),
        ({"lat": [60.0]}, "differ in length"),
        ({"aerial": ["tiles/a.jpg"]}, "differ in length"),
    ],
)
def test_own_table_with_wrong_columns_raises_error_and_writes_nothing(tmp_path, columns, message):
    with pytest.raises(GenGeoError, match=message):
        write(tmp_path, **columns)
    assert not (tmp_path / "pairs.parquet").exists()


@pytest.mark.parametrize("text", ["{", "[]", '{"format": "other"}', json.dumps({"format": "gengeo-sources"})])
def test_read_sources_damaged_file_raises_one_line_error(tmp_path, text):
    (tmp_path / "SOURCES.json").write_text(text)
    with pytest.raises(GenGeoError, match=r"SOURCES\.json"):
        read_sources(tmp_path)


def test_read_sources_without_file_returns_none(tmp_path):
    assert read_sources(tmp_path) is None
