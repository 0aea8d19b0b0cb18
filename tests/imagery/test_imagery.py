"""Tables, map tiles and datasets as imagery, which do not need the extra for rasters."""

import sqlite3

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import size_of
from gengeo_hf.imagery import TilingOptions, open_imagery
from gengeo_hf.imagery.tiles import row_bounds
from gengeo_hf.imagery.xyz import xyz_bounds


def picture(path, colour=(10, 200, 30), size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.new("RGB", size, colour)
    image.putpixel((size[0] - 1, size[1] - 1), (250, 250, 250))  # tiles of one colour would be left out
    image.save(path)


class TestTables:
    def test_table_tiles_finds_files_of_ids_with_suffix(self, tmp_path):
        for name in "ab":
            picture(tmp_path / f"{name}.jpg", (255, 0, 0))
            picture(tmp_path / f"{name}_sat.jpg")
        (tmp_path / "pairs.csv").write_text("Grd_ID,Latitude,Longitude\na,60.1,24.9\nb,60.2,24.8\n")
        source = open_imagery(tmp_path, TilingOptions(tile_size_m=250))
        assert source.table["tile_id"].to_pylist() == ["a", "b"]
        assert source.table["source"][0].as_py().endswith("a_sat.jpg") and source.read(1).size == (8, 8)
        assert size_of(row_bounds(source.table, 0)) == pytest.approx((250, 250), rel=1e-4)

    def test_table_tiles_parquet_with_bounds_and_images(self, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet

        picture(tmp_path / "tiles" / "x.png")
        columns = {
            "tile": ["tiles/x.png"],
            "lat": [1.0],
            "lng": [179.9],
            "west": [179.8],
            "south": [0.9],
            "east": [-180.0],
            "north": [1.1],
        }
        pa.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
        source = open_imagery(tmp_path / "t.parquet")
        assert row_bounds(source.table, 0).crosses_date_line and source.read(0).getpixel((0, 0)) == (10, 200, 30)

    def test_table_tiles_prefers_position_of_tile_to_photo(self, tmp_path):
        picture(tmp_path / "x.png")
        (tmp_path / "t.csv").write_text("aerial,lat,lon,tile_lat,tile_lon\nx.png,60.18,24.91,60.17,24.9\n")
        assert open_imagery(tmp_path).table["lat"].to_pylist() == [60.17]
        (tmp_path / "t.csv").write_text("aerial,lat,lon,tile_lat,tile_lon\nx.png,60.17,24.9,24.9,60.17\n")
        assert "swapped" in open_imagery(tmp_path).notes[0]

    def test_table_tiles_with_bounds_only_computes_centres(self, tmp_path):
        picture(tmp_path / "x.png")
        (tmp_path / "t.csv").write_text("aerial,minx,miny,maxx,maxy\nx.png,24.899,60.1695,24.901,60.1705\n")
        table = open_imagery(tmp_path).table
        assert table["lat"][0].as_py() == pytest.approx(60.17) and table["lon"][0].as_py() == pytest.approx(24.9)
        (tmp_path / "t.csv").write_text("aerial,minx,miny,maxx,maxy\nx.png,24.899,60.1705,24.901,60.1695\n")
        with pytest.raises(GenGeoError, match="south must lie below north"):
            open_imagery(tmp_path)

    def test_table_tiles_counts_unusable_rows(self, tmp_path):
        for name in ("d1/0.png", "d2/0.png"):
            (tmp_path / name).parent.mkdir()
            picture(tmp_path / name)
        rows = ["d0/0.png,1,2", "d1/0.png,1,2", "d1/0.png,1,2", "d2/0.png,1,2.1", "d2/0.png,,", ",1,2"]
        (tmp_path / "t.csv").write_text("\n".join(["aerial,lat,lon", *rows]))
        source = open_imagery(tmp_path)
        assert source.table["tile_id"].to_pylist() == ["d0/0.png", "d1/0.png", "d2/0.png"]
        assert sum(source.left_out.values()) == 3 and len(source.notes) == len(source.left_out) == 3
        assert source.read(1).size == (8, 8)
        with pytest.raises(GenGeoError, match="there is no image"):  # a build counts such tiles as unreadable
            source.read(0)

    def test_table_tiles_uses_size_column_and_stated_columns(self, tmp_path):
        picture(tmp_path / "x.png")
        (tmp_path / "t.csv").write_text("pic,northing_deg,e,tile_size_m\nx.png,1,2,100m\n")
        options = TilingOptions(image_column="pic", lat_column="northing_deg", lon_column="e")
        source = open_imagery(tmp_path, options)
        assert size_of(row_bounds(source.table, 0)) == pytest.approx((100, 100), rel=1e-4)

    @pytest.mark.parametrize(
        ("content", "message"),
        [
            ("id,lat\na,1\n", "it has: id, lat. Name it with --lon-column"),
            ("lat,lon\n1,2\n", "--image-column"),
            ("id,lat,lon\na,1,2\n", "no image for 'a'"),
            ("id,lat,lon\nx,north,2\n", "expected a number"),
            ("id,lat,lon\nx,400000,2\n", "swapped, empty or in metres"),
            ("id,lat,lon\nx,,2\n", "no row has an image and a position"),
            ("id,lat,lon\n", "a header and no rows"),
            ("id,lat,lon,lat\nx,1,2,3\n", "two columns 'lat'"),
        ],
    )
    def test_table_tiles_invalid_table_raises_error_with_advice(self, tmp_path, content, message):
        picture(tmp_path / "x.png")
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(GenGeoError, match=message.replace(".", r"\.")):
            open_imagery(tmp_path)

    def test_open_imagery_missing_or_unknown_files_raise_error(self, tmp_path):
        with pytest.raises(GenGeoError, match="nothing at"):
            open_imagery(tmp_path / "no")
        with pytest.raises(GenGeoError, match="no imagery of a known kind"):
            open_imagery(tmp_path)
        for name in ("a.csv", "b.csv"):
            (tmp_path / name).write_text("id,lat,lon\n")
        with pytest.raises(GenGeoError, match=r"a\.csv, b\.csv"):
            open_imagery(tmp_path)

    def test_table_tiles_real_tiles_of_helsinki(self, shared_data):
        source = open_imagery(shared_data / "helsinki", TilingOptions(tile_size_m=250))
        assert source.table.num_rows == 5 and source.read(0).size == (500, 500)
        assert source.table["tile_id"][0].as_py() == "111050484379850"


class TestMapTiles:
    def test_xyz_bounds_match_web_mercator_grid(self):
        pyproj = pytest.importorskip("pyproj")
        box = xyz_bounds(17, 74564, 37925)
        to_metres = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform
        side = 2 * np.pi * 6378137 / 2**17
        west, south = to_metres(box.west, box.south)
        east, north = to_metres(box.east, box.north)
        assert (east - west, north - south) == pytest.approx((side, side), rel=1e-9)

    def test_xyz_tiles_directory_uses_level_with_most_tiles(self, tmp_path):
        picture(tmp_path / "3" / "4" / "2.png", (1, 2, 3))
        picture(tmp_path / "2" / "1" / "1.png")
        source = open_imagery(tmp_path)
        assert source.table["tile_id"].to_pylist() == ["3/4/2"] and source.read(0).getpixel((0, 0)) == (1, 2, 3)
        assert row_bounds(source.table, 0).contains(source.table["lat"][0].as_py(), source.table["lon"][0].as_py())
        assert open_imagery(tmp_path, TilingOptions(zoom=3, tms=True)).table["tile_id"].to_pylist() == ["3/4/5"]
        with pytest.raises(GenGeoError, match=r"it has \[2, 3\]"):
            open_imagery(tmp_path, TilingOptions(zoom=9))

    def test_mbtiles_rows_are_counted_from_the_south(self, tmp_path):
        picture(tmp_path / "x.png")
        with sqlite3.connect(tmp_path / "m.mbtiles") as file:
            file.execute("CREATE TABLE metadata (name text, value text)")
            file.execute("CREATE TABLE tiles (zoom_level int, tile_column int, tile_row int, tile_data blob)")
            file.execute("INSERT INTO tiles VALUES (3, 4, 5, ?)", ((tmp_path / "x.png").read_bytes(),))
        source = open_imagery(tmp_path / "m.mbtiles")
        assert source.table["tile_id"].to_pylist() == ["3/4/2"] and source.read(0).getpixel((0, 0)) == (10, 200, 30)

    def test_map_tiles_invalid_files_raise_error(self, tmp_path):
        (tmp_path / "m.mbtiles").write_text("hello")
        with pytest.raises(GenGeoError, match="cannot be read as MBTiles"):
            open_imagery(tmp_path / "m.mbtiles")
        with sqlite3.connect(tmp_path / "v.mbtiles") as file:
            file.execute("CREATE TABLE metadata (name text, value text)")
            file.execute("CREATE TABLE tiles (zoom_level int, tile_column int, tile_row int, tile_data blob)")
            file.execute("INSERT INTO metadata VALUES ('format', 'pbf')")
        with pytest.raises(GenGeoError, match="vector tiles"):
            open_imagery(tmp_path / "v.mbtiles")


def small_dataset():
    import datasets

    row = {"tile_id": "a", "aerial": Image.new("RGB", (8, 8), (9, 9, 9)), "lat": 1.0, "lon": 2.0}
    features = datasets.Features(
        {
            "tile_id": datasets.Value("string"),
            "aerial": datasets.Image(),
            "lat": datasets.Value("float64"),
            "lon": datasets.Value("float64"),
        }
    )
    return datasets.Dataset.from_list([row], features=features)


def test_open_imagery_saved_dataset_is_a_source(tmp_path):
    data = small_dataset()
    data.save_to_disk(str(tmp_path / "d"))
    (tmp_path / "p").mkdir()
    data.to_parquet(tmp_path / "p" / "test-00000-of-00001.parquet")
    for where in (tmp_path / "d", tmp_path / "p", tmp_path / "p" / "test-00000-of-00001.parquet"):
        source = open_imagery(where)
        assert source.table["tile_id"].to_pylist() == ["a"] and source.read(0).getpixel((0, 0)) == (9, 9, 9)


def test_dataset_tiles_accept_numbers_as_ids_and_check_columns():
    from gengeo_hf.imagery.dataset import DatasetTiles

    data = small_dataset().remove_columns("tile_id")
    numbered = DatasetTiles(data.add_column("tile_id", [1234567890123]).add_column("area", [7]))
    assert numbered.table.select(["tile_id", "area"]).to_pylist() == [{"tile_id": "1234567890123", "area": "7"}]
    degrees = "must hold degrees"
    for column, value, words in (
        ("tile_id", None, "row 1 .* no tile_id"),
        ("lat", "north", degrees),
        ("west", "x", degrees),
    ):
        data = small_dataset()
        wrong = data.remove_columns([column] if column in data.column_names else []).add_column(column, [value])
        with pytest.raises(GenGeoError, match=words):
            DatasetTiles(wrong)


def test_open_imagery_dataset_on_the_hub_is_a_source(monkeypatch):
    import datasets

    asked = []
    monkeypatch.setattr(datasets, "get_dataset_config_names", lambda name: ["queries", "gallery"])
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: ["test"])
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *words, split: asked.append((*words, split)) or small_dataset()
    )
    assert open_imagery("hf:me/city").name == "me/city/gallery" and open_imagery("hf:me/city/other").table.num_rows == 1
    assert asked == [("me/city", "gallery", "test"), ("me/city", "other", "test")]
    monkeypatch.setattr(datasets, "get_dataset_split_names", lambda name, config: ["train", "test"])
    with pytest.raises(GenGeoError, match="hf:me/city/gallery/SPLIT"):
        open_imagery("hf:me/city")
    with pytest.raises(GenGeoError, match="write hf:owner/name"):
        open_imagery("hf:city")

    def broken(name):
        raise ConnectionError("nobody there\nand more")

    monkeypatch.setattr(datasets, "get_dataset_config_names", broken)
    with pytest.raises(GenGeoError, match=r"cannot be loaded: nobody there$"):
        open_imagery("hf:me/city")

    def silent(name):
        raise ConnectionError

    monkeypatch.setattr(datasets, "get_dataset_config_names", silent)
    with pytest.raises(GenGeoError, match=r"cannot be loaded: ConnectionError$"):
        open_imagery("hf:me/city")
