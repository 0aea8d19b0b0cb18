"""Tiles of rasters: geometry in several CRSs, bit depths, mosaics, pixels without data, and invalid files."""

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import great_circle_m, size_of
from gengeo_hf.imagery import TilingOptions, open_imagery
from gengeo_hf.imagery.tiles import row_bounds

rasterio = pytest.importorskip("rasterio")
from rasterio.enums import ColorInterp  # noqa: E402
from rasterio.transform import Affine, from_origin  # noqa: E402
from rasterio.warp import transform  # noqa: E402


def raster(path, bands, crs="EPSG:32635", metres=1.0, at=(60.2, 24.9), turn=0.0, **profile):
    """Write a raster whose centre is at (lat, lon)."""
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
    """Bands of an image with a red north half, a blue south half and a darker west half."""
    bands = np.zeros((3, side, side), np.uint8)
    bands[0, : side // 2] = 200
    bands[2, side // 2 :] = 200
    bands[1, :, side // 2 :] = 150
    bands[1, :, : side // 2] = 50
    return bands


class TestRasterTiles:
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
    def test_raster_tiles_are_north_up_with_the_requested_size(self, tmp_path, crs, at, metres):
        # A disc, red in the north and blue in the south, drawn in true metres and projected to the CRS.
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

    def test_raster_tiles_of_rotated_raster_are_north_up(self, tmp_path):
        tile = np.asarray(
            open_imagery(raster(tmp_path / "r.tif", compass(), turn=180), TilingOptions(tile_m=150)).read(0)
        )
        assert tile[..., 0].max() < 60 and tile[..., 2].mean() > 100  # the south of the file is up

    def test_raster_tiles_neighbours_overlap_as_requested(self, tmp_path):
        path = raster(tmp_path / "r.tif", compass(1000))
        table = open_imagery(path, TilingOptions(tile_m=100, overlap=0.5)).table
        lat, lon = table["lat"].to_numpy(), table["lon"].to_numpy()
        gaps = np.sort(great_circle_m(lat, lon, lat[50], lon[50]))[1:5]
        assert gaps.max() <= 50.5 and gaps.min() > 40
        assert 19**2 <= table.num_rows <= 21**2

    def test_raster_tiles_near_infrared_is_not_a_mask(self, tmp_path):
        bands = np.concatenate([compass(), np.random.default_rng(0).integers(0, 9, (1, 400, 400), np.uint8)])
        path = raster(tmp_path / "r.tif", bands)
        with rasterio.open(path, "r+") as file:
            file.colorinterp = [ColorInterp.red, ColorInterp.green, ColorInterp.blue, ColorInterp.alpha]
        source = open_imagery(path, TilingOptions(tile_m=100))
        assert np.asarray(source.read(0))[..., 0].max() > 150

    def test_raster_tiles_mask_and_nodata_leave_tiles_out(self, tmp_path):
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

    def test_raster_tiles_of_deep_grey_and_palette_files(self, tmp_path):
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

    def test_raster_tiles_mosaic_has_no_seam_and_files_may_be_far_apart(self, tmp_path):
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

    def test_raster_tiles_deep_files_of_a_mosaic_share_one_range(self, tmp_path):
        """Two halves, one darker: stretched separately, equal ground would differ at the seam."""
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
        columns = [np.max(part) for part in np.array_split(means, 8)]  # tiles at the edge are partly black
        assert columns[0] < 40 and columns[-1] > 200 and np.all(np.diff(columns) > 10)
        dark = open_imagery(tmp_path / "parts", TilingOptions(tile_m=100, overlap=0, value_range=(0, 65535)))
        assert max(np.asarray(dark.read(row)).max() for row in range(0, dark.table.num_rows, 5)) < 40
        # An interrupted build must not mix different renderings.
        assert (
            dark.rendering != source.rendering == open_imagery(tmp_path / "parts", TilingOptions(overlap=0)).rendering
        )
        with pytest.raises(GenGeoError, match="must rise"):
            open_imagery(tmp_path / "parts", TilingOptions(value_range=(5, 5)))

    def test_raster_tiles_memory_grows_with_tiles_not_with_files(self, tmp_path):
        options = {"driver": "GTiff", "count": 3, "height": 100, "width": 100, "dtype": "uint8", "crs": "EPSG:32635"}
        for number in range(36):
            shape = Affine(1, 0, 400_000 + 100 * (number % 6), 0, -1, 6_675_000 - 100 * (number // 6))
            with rasterio.open(tmp_path / f"{number:02d}.tif", "w", transform=shape, **options) as file:
                file.write(np.full((3, 100, 100), 50 + 5 * number, np.uint8))
        source = open_imagery(tmp_path, TilingOptions(tile_m=50, overlap=0))
        assert source.table.num_rows >= 140
        assert len(source._pieces.tile) < 4.5 * source.table.num_rows  # at most four files cover a tile
        lat, lon = source.table["lat"].to_numpy(), source.table["lon"].to_numpy()
        x, y = transform("EPSG:4326", "EPSG:32635", lon.tolist(), lat.tolist())
        for row in range(0, source.table.num_rows, 7):
            inside = [(np.asarray(v) - w) % 100 for v, w in ((x[row], 400_000), (y[row], 6_675_000))]
            if all(26 < value < 74 for value in inside):  # inside one file
                number = int((x[row] - 400_000) // 100) + 6 * int((6_675_000 - y[row]) // 100)
                assert np.asarray(source.read(row)).mean() == pytest.approx(50 + 5 * number, abs=1)

    def test_raster_tiles_use_overviews(self, tmp_path):
        from rasterio.enums import Resampling

        path = raster(tmp_path / "r.tif", np.full((3, 1024, 1024), 40, np.uint8), tiled=True)
        with rasterio.open(path, "r+") as file:
            file.build_overviews([2, 4, 8], Resampling.average)
            file.write(np.full((3, 1024, 1024), 200, np.uint8))  # the overviews are not updated and stay grey
        assert np.asarray(open_imagery(path, TilingOptions(tile_m=800, pixels=100)).read(0)).max() == 40
        assert np.asarray(open_imagery(path, TilingOptions(tile_m=50)).read(0)).max() == 200

    @pytest.mark.parametrize("driver", ["VRT", "COG"])
    def test_raster_tiles_of_vrt_and_cog(self, tmp_path, driver):
        import rasterio.shutil

        path = raster(tmp_path / "r.tif", compass())
        other = tmp_path / ("r.vrt" if driver == "VRT" else "cog.tif")
        rasterio.shutil.copy(path, other, driver=driver)
        a, b = (open_imagery(p, TilingOptions(tile_m=100)) for p in (path, other))
        assert a.table["tile_id"].to_pylist() == b.table["tile_id"].to_pylist()
        np.testing.assert_allclose(np.asarray(a.read(3), float), np.asarray(b.read(3), float), atol=3)

    def test_raster_tiles_of_floats_with_nan(self, tmp_path):
        bands = compass().astype(np.float32) / 255
        bands[:, :, :200] = np.nan
        path = raster(tmp_path / "r.tif", bands, nodata=float("nan"))
        source = open_imagery(path, TilingOptions(tile_m=100, overlap=0))
        tiles = [source.read(row) for row in range(source.table.num_rows)]
        kept = [np.asarray(tile) for tile in tiles if tile is not None]
        assert 0.3 < len(kept) / len(tiles) < 0.7 and max(tile.max() for tile in kept) > 200

    def test_raster_tiles_cover_the_pole(self, tmp_path):
        path = raster(tmp_path / "r.tif", compass(300), "EPSG:3413", at=(90.0, 0.0))
        source = open_imagery(path, TilingOptions(tile_m=100))
        assert source.table.num_rows > 5
        assert all(source.read(row) is not None for row in range(source.table.num_rows))

    def test_raster_tiles_invalid_files_raise_error(self, tmp_path):
        bare = tmp_path / "bare.tif"
        options = {"driver": "GTiff", "count": 3, "height": 9, "width": 9, "dtype": "uint8"}
        with rasterio.open(bare, "w", transform=from_origin(0, 9, 1, 1), **options) as file:
            file.write(np.ones((3, 9, 9), np.uint8))
        with pytest.raises(GenGeoError, match="has no CRS"):
            open_imagery(bare)
        (tmp_path / "text.tif").write_text("hello")
        with pytest.raises(GenGeoError, match="cannot be read as a georeferenced raster"):
            open_imagery(tmp_path / "text.tif")
        with pytest.raises(GenGeoError, match="smaller than half a tile"):
            open_imagery(raster(tmp_path / "small.tif", compass(20)), TilingOptions(tile_m=1000))

    def test_build_index_with_damaged_block_leaves_out_one_tile(self, tmp_path, encoder):
        from gengeo_hf.index.build import build_index

        noise = np.random.default_rng(0).integers(1, 255, (3, 1024, 1024), np.uint8)
        path = raster(tmp_path / "r.tif", noise, tiled=True, blockxsize=128, blockysize=128, compress="deflate")
        content = bytearray(path.read_bytes())
        content[len(content) // 2 : len(content) // 2 + 2000] = b"\0" * 2000
        path.write_bytes(content)
        report = build_index(encoder, open_imagery(path, TilingOptions(tile_m=100, overlap=0)), tmp_path / "idx")
        assert 1 <= report.broken_count <= 20 and report.tiles > 50

    def test_raster_tiles_of_real_orthophotos(self, shared_data):
        source = open_imagery(shared_data / "geotiff" / "usgs_hro_colorado_15cm.tif", TilingOptions(tile_m=20))
        assert source.table.num_rows >= 6 and np.asarray(source.read(0)).std() > 10
        naip = open_imagery(shared_data / "geotiff" / "m_3211605_ne_11_060_20200415.tif", TilingOptions(tile_m=60))
        assert np.asarray(naip.read(0)).std() > 10
