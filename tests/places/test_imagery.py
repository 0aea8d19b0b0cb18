import sqlite3

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.errors import GenGeoError
from gengeo_hf.places.geodesy import great_circle_m, size_of
from gengeo_hf.places.imagery import TilingOptions, open_imagery
from gengeo_hf.places.imagery.xyz import xyz_bounds
from gengeo_hf.places.tiles import row_bounds

rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402
from rasterio.warp import transform  # noqa: E402


def picture(path, colour=(10, 200, 30), size=(8, 8)):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, colour).save(path)


def raster(path, bands, crs="EPSG:32635", metres=1.0, at=(60.2, 24.9), turn=0.0, **profile):
    """A raster whose middle lies at (lat, lon)."""
    count, height, width = bands.shape
    (x,), (y,) = transform("EPSG:4326", crs, [at[1]], [at[0]])
    shape = Affine.translation(x, y) @ Affine.rotation(turn) @ Affine.scale(metres, -metres)
    options = {"driver": "GTiff", "count": count, "height": height, "width": width, "dtype": bands.dtype, "crs": crs}
    with rasterio.open(
        path, "w", **options | {"transform": shape @ Affine.translation(-width / 2, -height / 2)} | profile
    ) as f:
        f.write(bands)
    return path


def compass(side=400):
    """North half red, south half blue; the western half is darker."""
    bands = np.zeros((3, side, side), np.uint8)
    bands[0, : side // 2] = 200
    bands[2, side // 2 :] = 200
    bands[1, :, side // 2 :] = 150
    bands[1, :, : side // 2] = 50
    return bands


class TestTables:
    def test_a_table_with_ids_and_marked_files(self, tmp_path):
        for name in "ab":
            picture(tmp_path / f"{name}.jpg", (255, 0, 0))
            picture(tmp_path / f"{name}_sat.jpg")
        (tmp_path / "pairs.csv").write_text("Grd_ID,Latitude,Longitude\na,60.1,24.9\nb,60.2,24.8\n")
        source = open_imagery(tmp_path, TilingOptions(tile_size_m=250))
        assert source.table["tile_id"].to_pylist() == ["a", "b"]
        assert source.paths[0].name == "a_sat.jpg" and source.read(1).size == (8, 8)
        assert size_of(row_bounds(source.table, 0)) == pytest.approx((250, 250), rel=1e-4)

    def test_parquet_with_bounds_and_an_image_column(self, tmp_path):
        import pyarrow as pa
        import pyarrow.parquet

        picture(tmp_path / "tiles" / "x.png")
        columns = {"tile": ["tiles/x.png"], "lat": [1.0], "lng": [179.9], "west": [179.8], "south": [0.9],
                   "east": [-180.0], "north": [1.1]}  # fmt: skip
        pa.parquet.write_table(pa.table(columns), tmp_path / "t.parquet")
        source = open_imagery(tmp_path / "t.parquet")
        assert row_bounds(source.table, 0).crosses_date_line and source.read(0).getpixel((0, 0)) == (10, 200, 30)

    def test_sizes_from_a_column_and_named_columns(self, tmp_path):
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
            ("id,lat,lon\nx,north,2\n", "must hold numbers"),
            ("id,lat,lon\nx,400000,2\n", "swapped, empty or in metres"),
            ("id,lat,lon\nx,,2\n", "swapped, empty or in metres"),
            ("image,lat,lon\nx.png,1,2\nx.png,1,2\n", "occurs twice"),
            ("id,lat,lon\n", "lists no tile"),
        ],
    )
    def test_bad_tables_say_what_to_do(self, tmp_path, content, message):
        picture(tmp_path / "x.png")
        (tmp_path / "t.csv").write_text(content)
        with pytest.raises(GenGeoError, match=message.replace(".", r"\.")):
            open_imagery(tmp_path)

    def test_nothing_several_tables_and_strangers(self, tmp_path):
        with pytest.raises(GenGeoError, match="nothing at"):
            open_imagery(tmp_path / "no")
        with pytest.raises(GenGeoError, match="no imagery that we know"):
            open_imagery(tmp_path)
        for name in ("a.csv", "b.csv"):
            (tmp_path / name).write_text("id,lat,lon\n")
        with pytest.raises(GenGeoError, match=r"a\.csv, b\.csv"):
            open_imagery(tmp_path)

    def test_helsinki(self, shared_data):
        source = open_imagery(shared_data / "helsinki", TilingOptions(tile_size_m=250))
        assert source.table.num_rows == 5 and source.read(0).size == (500, 500)
        assert source.table["tile_id"][0].as_py() == "111050484379850"


class TestRasters:
    @pytest.mark.parametrize(
        ("crs", "at", "metres"),
        [
            ("EPSG:32635", (60.2, 24.9), 1.0),
            ("EPSG:3857", (60.2, 24.9), 2.01),  # a Web Mercator metre is half a ground metre here
            ("EPSG:4326", (60.2, 24.9), 1e-5),
            ("EPSG:3413", (78.2, 15.6), 1.0),  # polar stereographic: the grid is turned by 60 degrees
            ("EPSG:32701", (-17.0, 179.9999), 1.0),  # UTM zone 1 south, over the date line
        ],
    )
    def test_tiles_are_north_up_and_as_large_as_asked(self, tmp_path, crs, at, metres):
        # A disc of north-red and south-blue, painted in true metres, seen through the CRS.
        side = 500
        rows, columns = np.mgrid[0:side, 0:side] + 0.5
        path = raster(tmp_path / "r.tif", np.zeros((3, side, side), np.uint8), crs, metres, at)
        with rasterio.open(path, "r+") as file:
            x, y = file.transform @ (columns.ravel(), rows.ravel())
            lon, lat = transform(file.crs, "EPSG:4326", x.tolist(), y.tolist())
            bands = np.stack([np.asarray(lat) > at[0], (np.asarray(lon) - at[1] + 180) % 360 > 180, np.ones(side**2)])
            file.write((bands.reshape(3, side, side) * 200 + 20).astype(np.uint8))
        source = open_imagery(path, TilingOptions(tile_m=100, overlap=0.5))
        lat, lon = source.table["lat"].to_numpy(), source.table["lon"].to_numpy()
        middle = int(np.argmin(great_circle_m(lat, lon, *at)))
        assert size_of(row_bounds(source.table, middle)) == pytest.approx((100, 100), rel=1e-4)
        tile = np.asarray(source.read(middle), dtype=float)
        north_m = float(great_circle_m(lat[middle], lon[middle], at[0], lon[middle])) * np.sign(lat[middle] - at[0])
        east_m = float(great_circle_m(at[0], lon[middle], *at)) * np.sign((lon[middle] - at[1] + 180) % 360 - 180)
        assert (tile[..., 0] > 120).mean() == pytest.approx(0.5 + north_m / 100, abs=0.03)
        assert (tile[..., 1] > 120).mean() == pytest.approx(0.5 + east_m / 100, abs=0.03)
        top, bottom = tile[: len(tile) // 8, :, 0].mean(), tile[-len(tile) // 8 :, :, 0].mean()
        assert top > 200 and bottom < 40

    def test_a_turned_raster_is_turned_back(self, tmp_path):
        tile = np.asarray(
            open_imagery(raster(tmp_path / "r.tif", compass(), turn=180), TilingOptions(tile_m=150)).read(0)
        )
        assert tile[..., 0].max() < 60 and tile[..., 2].mean() > 100  # what was south in the file is north

    def test_neighbours_overlap_as_asked(self, tmp_path):
        path = raster(tmp_path / "r.tif", compass(1000))
        table = open_imagery(path, TilingOptions(tile_m=100, overlap=0.5)).table
        lat, lon = table["lat"].to_numpy(), table["lon"].to_numpy()
        gaps = np.sort(great_circle_m(lat, lon, lat[50], lon[50]))[1:5]
        assert gaps.max() <= 50.5 and gaps.min() > 40
        assert 19**2 <= table.num_rows <= 21**2

    def test_near_infrared_is_no_mask(self, tmp_path):
        bands = np.concatenate([compass(), np.random.default_rng(0).integers(0, 9, (1, 400, 400), np.uint8)])
        path = raster(tmp_path / "r.tif", bands)
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        source = open_imagery(path, TilingOptions(tile_m=100))
        assert np.asarray(source.read(0))[..., 0].max() > 150

    def test_a_true_mask_and_nodata_leave_tiles_out(self, tmp_path):
        mask = np.zeros((1, 400, 400), np.uint8)
        mask[:, :, 200:] = 255
        masked = raster(tmp_path / "a.tif", np.concatenate([compass(), mask]))
        with rasterio.open(masked, "r+") as file:
            file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        bands = compass()
        bands[:, :, :200] = 7
        marked = raster(tmp_path / "b.tif", bands, nodata=7)
        black = compass()
        black[:, :, :200] = 0
        unmarked = raster(tmp_path / "c.tif", black)
        for path in (masked, marked, unmarked):
            source = open_imagery(path, TilingOptions(tile_m=100, overlap=0))
            found = [source.read(row) is not None for row in range(source.table.num_rows)]
            assert 0.3 < np.mean(found) < 0.7, path

    def test_deep_grey_and_palette_rasters(self, tmp_path):
        deep = (compass().astype(np.uint16) * 40) + 1000
        tile = np.asarray(open_imagery(raster(tmp_path / "a.tif", deep), TilingOptions(tile_m=300)).read(0))
        assert tile.max() > 240 and tile.min() < 15
        grey = np.asarray(
            open_imagery(raster(tmp_path / "b.tif", compass()[:1] + 9), TilingOptions(tile_m=300)).read(0)
        )
        assert (grey[..., 0] == grey[..., 2]).all()
        path = tmp_path / "c.tif"
        raster(path, np.ones((1, 400, 400), np.uint8), photometric="palette")
        with rasterio.open(path, "r+") as file:
            file.write_colormap(1, {1: (1, 2, 250, 255)})
        assert open_imagery(path, TilingOptions(tile_m=100)).read(0).getpixel((50, 50)) == (1, 2, 250)

    def test_a_mosaic_has_no_seam_and_files_far_apart_are_fine(self, tmp_path):
        full = compass(600)
        whole = raster(tmp_path / "whole.tif", full)
        with rasterio.open(whole) as file:
            origin = file.transform
        (tmp_path / "parts").mkdir()
        for number, columns in enumerate((slice(0, 300), slice(300, 600))):
            part = full[:, :, columns]
            options = {
                "driver": "GTiff",
                "count": 3,
                "height": 600,
                "width": 300,
                "dtype": "uint8",
                "crs": "EPSG:32635",
            }
            shape = origin @ Affine.translation(300 * number, 0)
            with rasterio.open(tmp_path / "parts" / f"{number}.tif", "w", transform=shape, **options) as file:
                file.write(part)
        raster(tmp_path / "parts" / "far.tif", compass(200), "EPSG:32755", at=(-35.3, 149.1))
        a = open_imagery(tmp_path / "whole.tif", TilingOptions(tile_m=100))
        b = open_imagery(tmp_path / "parts", TilingOptions(tile_m=100))
        rows = {tile: row for row, tile in enumerate(b.table["tile_id"].to_pylist())}
        for row, tile in list(enumerate(a.table["tile_id"].to_pylist()))[::13]:
            gap = np.abs(np.asarray(a.read(row), float) - np.asarray(b.read(rows[tile]), float))
            assert gap.mean() < 2, tile
        assert b.table.num_rows > a.table.num_rows

    def test_deep_files_of_a_mosaic_share_one_range(self, tmp_path):
        """Two halves, one darker on the whole: stretched each by itself, the same ground would change at the seam."""
        (tmp_path / "parts").mkdir()
        ramp = np.linspace(1000, 9000, 800).astype(np.uint16)[None, None, :] * np.ones((3, 400, 1), np.uint16)
        options = {"driver": "GTiff", "count": 3, "height": 400, "width": 400, "dtype": "uint16", "crs": "EPSG:32635"}
        for number in range(2):
            shape = Affine(1, 0, 400_000 + 400 * number, 0, -1, 6_675_000)
            with rasterio.open(tmp_path / "parts" / f"{number}.tif", "w", transform=shape, **options) as file:
                file.write(ramp[:, :, 400 * number : 400 * (number + 1)])
        source = open_imagery(tmp_path / "parts", TilingOptions(tile_m=100, overlap=0))
        east = np.argsort(source.table["lon"].to_numpy())
        means = [np.asarray(source.read(int(row)), float).mean() for row in east]
        columns = [np.max(part) for part in np.array_split(means, 8)]  # tiles at the edge are black in part
        assert columns[0] < 40 and columns[-1] > 200 and np.all(np.diff(columns) > 10)
        dark = open_imagery(tmp_path / "parts", TilingOptions(tile_m=100, overlap=0, value_range=(0, 65535)))
        assert max(np.asarray(dark.read(row)).max() for row in range(0, dark.table.num_rows, 5)) < 40
        with pytest.raises(GenGeoError, match="must rise"):
            open_imagery(tmp_path / "parts", TilingOptions(value_range=(5, 5)))

    def test_a_mosaic_of_many_files_takes_memory_for_its_tiles_only(self, tmp_path):
        options = {"driver": "GTiff", "count": 3, "height": 100, "width": 100, "dtype": "uint8", "crs": "EPSG:32635"}
        for number in range(36):
            shape = Affine(1, 0, 400_000 + 100 * (number % 6), 0, -1, 6_675_000 - 100 * (number // 6))
            with rasterio.open(tmp_path / f"{number:02d}.tif", "w", transform=shape, **options) as file:
                file.write(np.full((3, 100, 100), 50 + 5 * number, np.uint8))
        source = open_imagery(tmp_path, TilingOptions(tile_m=50, overlap=0))
        assert source.table.num_rows >= 140
        assert len(source._pieces.tile) < 4.5 * source.table.num_rows  # a tile lies on four files at most
        lat, lon = source.table["lat"].to_numpy(), source.table["lon"].to_numpy()
        x, y = transform("EPSG:4326", "EPSG:32635", lon.tolist(), lat.tolist())
        for row in range(0, source.table.num_rows, 7):
            inside = [(np.asarray(v) - w) % 100 for v, w in ((x[row], 400_000), (y[row], 6_675_000))]
            if all(26 < value < 74 for value in inside):  # well inside one file
                number = int((x[row] - 400_000) // 100) + 6 * int((6_675_000 - y[row]) // 100)
                assert np.asarray(source.read(row)).mean() == pytest.approx(50 + 5 * number, abs=1)

    def test_overviews_are_used_where_they_are_enough(self, tmp_path):
        from rasterio.enums import Resampling

        path = raster(tmp_path / "r.tif", np.full((3, 1024, 1024), 40, np.uint8), tiled=True)
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4, 8], Resampling.average)
            file.write(np.full((3, 1024, 1024), 200, np.uint8))  # the overviews keep the old grey
        assert np.asarray(open_imagery(path, TilingOptions(tile_m=800, pixels=100)).read(0)).max() == 40
        assert np.asarray(open_imagery(path, TilingOptions(tile_m=50)).read(0)).max() == 200

    @pytest.mark.parametrize("driver", ["VRT", "COG"])
    def test_virtual_and_cloud_optimised_rasters(self, tmp_path, driver):
        import rasterio.shutil

        path = raster(tmp_path / "r.tif", compass())
        other = tmp_path / ("r.vrt" if driver == "VRT" else "cog.tif")
        rasterio.shutil.copy(path, other, driver=driver)
        a, b = (open_imagery(p, TilingOptions(tile_m=100)) for p in (path, other))
        assert a.table["tile_id"].to_pylist() == b.table["tile_id"].to_pylist()
        np.testing.assert_allclose(np.asarray(a.read(3), float), np.asarray(b.read(3), float), atol=3)

    def test_fractions_with_nan_where_there_is_no_data(self, tmp_path):
        bands = compass().astype(np.float32) / 255
        bands[:, :, :200] = np.nan
        path = raster(tmp_path / "r.tif", bands, nodata=float("nan"))
        source = open_imagery(path, TilingOptions(tile_m=100, overlap=0))
        tiles = [source.read(row) for row in range(source.table.num_rows)]
        kept = [np.asarray(tile) for tile in tiles if tile is not None]
        assert 0.3 < len(kept) / len(tiles) < 0.7 and max(tile.max() for tile in kept) > 200

    def test_tiles_over_the_pole(self, tmp_path):
        path = raster(tmp_path / "r.tif", compass(300), "EPSG:3413", at=(90.0, 0.0))
        source = open_imagery(path, TilingOptions(tile_m=100))
        assert source.table.num_rows > 5
        assert all(source.read(row) is not None for row in range(source.table.num_rows))

    def test_bad_rasters(self, tmp_path):
        bare = tmp_path / "bare.tif"
        options = {"driver": "GTiff", "count": 3, "height": 9, "width": 9, "dtype": "uint8"}
        with rasterio.open(bare, "w", transform=from_origin(0, 9, 1, 1), **options) as file:
            file.write(np.ones((3, 9, 9), np.uint8))
        with pytest.raises(GenGeoError, match="has no CRS"):
            open_imagery(bare)
        (tmp_path / "text.tif").write_text("hello")
        with pytest.raises(GenGeoError, match="cannot be read as a raster"):
            open_imagery(tmp_path / "text.tif")
        with pytest.raises(GenGeoError, match="smaller than half a tile"):
            open_imagery(raster(tmp_path / "small.tif", compass(20)), TilingOptions(tile_m=1000))

    def test_a_damaged_block_is_one_broken_tile(self, tmp_path, encoder):
        from gengeo_hf.places.build import build_index

        noise = np.random.default_rng(0).integers(1, 255, (3, 1024, 1024), np.uint8)
        path = raster(tmp_path / "r.tif", noise, tiled=True, blockxsize=128, blockysize=128, compress="deflate")
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 2000] = b"\0" * 2000
        path.write_bytes(content)
        report = build_index(encoder, open_imagery(path, TilingOptions(tile_m=100, overlap=0)), tmp_path / "idx")
        assert 1 <= report.broken_count <= 20 and report.tiles > 50

    def test_real_orthophotos(self, shared_data):
        source = open_imagery(shared_data / "geotiff" / "usgs_hro_colorado_15cm.tif", TilingOptions(tile_m=20))
        assert source.table.num_rows >= 6 and np.asarray(source.read(0)).std() > 10
        naip = open_imagery(shared_data / "geotiff" / "m_3211605_ne_11_060_20200415.tif", TilingOptions(tile_m=60))
        assert np.asarray(naip.read(0)).std() > 10


class TestMapTiles:
    def test_bounds_are_those_of_the_web_mercator_grid(self):
        pyproj = pytest.importorskip("pyproj")
        box = xyz_bounds(17, 74564, 37925)
        to_metres = pyproj.Transformer.from_crs(4326, 3857, always_xy=True).transform
        side = 2 * np.pi * 6378137 / 2**17
        west, south = to_metres(box.west, box.south)
        east, north = to_metres(box.east, box.north)
        assert (east - west, north - south) == pytest.approx((side, side), rel=1e-9)

    def test_a_folder_uses_the_deepest_level(self, tmp_path):
        picture(tmp_path / "3" / "4" / "2.png", (1, 2, 3))
        picture(tmp_path / "2" / "1" / "1.png")
        source = open_imagery(tmp_path)
        assert source.table["tile_id"].to_pylist() == ["3/4/2"] and source.read(0).getpixel((0, 0)) == (1, 2, 3)
        assert row_bounds(source.table, 0).contains(source.table["lat"][0].as_py(), source.table["lon"][0].as_py())
        assert open_imagery(tmp_path, TilingOptions(zoom=3, tms=True)).table["tile_id"].to_pylist() == ["3/4/5"]
        with pytest.raises(GenGeoError, match=r"it has \[2, 3\]"):
            open_imagery(tmp_path, TilingOptions(zoom=9))

    def test_mbtiles_count_rows_from_the_south(self, tmp_path):
        picture(tmp_path / "x.png")
        with sqlite3.connect(tmp_path / "m.mbtiles") as file:
            file.execute("CREATE TABLE metadata (name text, value text)")
            file.execute("CREATE TABLE tiles (zoom_level int, tile_column int, tile_row int, tile_data blob)")
            file.execute("INSERT INTO tiles VALUES (3, 4, 5, ?)", ((tmp_path / "x.png").read_bytes(),))
        source = open_imagery(tmp_path / "m.mbtiles")
        assert source.table["tile_id"].to_pylist() == ["3/4/2"] and source.read(0).getpixel((0, 0)) == (10, 200, 30)

    def test_strangers_are_refused(self, tmp_path):
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
        {"tile_id": datasets.Value("string"), "aerial": datasets.Image(), "lat": datasets.Value("float64"),
         "lon": datasets.Value("float64")}
    )  # fmt: skip
    return datasets.Dataset.from_list([row], features=features)


def test_a_dataset_on_disk_is_a_source(tmp_path):
    data = small_dataset()
    data.save_to_disk(str(tmp_path / "d"))
    (tmp_path / "p").mkdir()
    data.to_parquet(tmp_path / "p" / "test-00000-of-00001.parquet")
    for where in (tmp_path / "d", tmp_path / "p", tmp_path / "p" / "test-00000-of-00001.parquet"):
        source = open_imagery(where)
        assert source.table["tile_id"].to_pylist() == ["a"] and source.read(0).getpixel((0, 0)) == (9, 9, 9)


def test_ids_of_a_dataset_may_be_numbers_and_its_columns_are_checked():
    from gengeo_hf.places.imagery.dataset import DatasetTiles

    data = small_dataset().remove_columns("tile_id")
    numbered = DatasetTiles(data.add_column("tile_id", [1234567890123]).add_column("area", [7]))
    assert numbered.table.select(["tile_id", "area"]).to_pylist() == [{"tile_id": "1234567890123", "area": "7"}]
    for column, value, words in (("tile_id", None, "row 1 .* no tile_id"), ("lat", "north", "must hold degrees")):
        wrong = small_dataset().remove_columns(column).add_column(column, [value])
        with pytest.raises(GenGeoError, match=words):
            DatasetTiles(wrong)


def test_a_dataset_on_the_hub_is_a_source(monkeypatch):
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
    with pytest.raises(GenGeoError, match=r"cannot be had: nobody there$"):
        open_imagery("hf:me/city")
