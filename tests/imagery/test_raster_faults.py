"""Rasters with wrong or missing tags, and undeclared pixels without data."""

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery import TilingOptions, open_imagery
from gengeo_hf.imagery.raster import RasterTiles

rasterio = pytest.importorskip("rasterio")

# Lambert conformal conic systems, each with a position in its area of use: EPSG code, longitude, latitude.
LAMBERT = [
    (2154, 2.35, 48.86),
    (2249, -71.06, 42.36),
    (2263, -73.98, 40.75),
    (3034, 10.0, 50.0),
    (3347, -95.0, 52.0),
    (3812, 4.35, 50.85),
    (6372, -99.1, 19.4),
    (31370, 4.35, 50.85),
]


def write(path, bands, crs="EPSG:32635", origin=(385000.0, 6672300.0), pixel=1.0, gcps=None, tags=None, **options):
    """Write a raster file; with `origin` None it has no geotransform."""
    transform = rasterio.transform.from_origin(*origin, pixel, pixel) if origin else None
    count, height, width = bands.shape
    if gcps:
        options["gcps"] = gcps
    with rasterio.open(
        path,
        "w",
        driver="GTiff",
        width=width,
        height=height,
        count=count,
        dtype=bands.dtype,
        crs=crs,
        transform=transform,
        **options,
    ) as file:
        file.write(bands)
        file.update_tags(**(tags or {}))
    return path


def noise(side=120, seed=0, low=40, high=200):
    return np.random.default_rng(seed).integers(low, high, (3, side, side), np.uint8)


def tiles_of(path, **options):
    source = open_imagery(path, TilingOptions(tile_m=30.0, overlap=0.0, **options))
    return source, [source.read(row) for row in range(source.table.num_rows)]


@pytest.mark.parametrize(("code", "lon", "lat"), LAMBERT)
def test_raster_tiles_lambert_conformal_conic_is_at_its_position(tmp_path, code, lon, lat):
    from rasterio.crs import CRS
    from rasterio.warp import transform

    crs = CRS.from_epsg(code)
    (x,), (y,) = transform("EPSG:4326", crs, [lon], [lat])
    metre = 1.0 / crs.linear_units_factor[1]
    source, tiles = tiles_of(write(tmp_path / "r.tif", noise(), crs, (x - 60 * metre, y + 60 * metre), metre))
    assert len(tiles) in (16, 25) and not source.notes and abs(tiles[0].size[0] - 30) <= 1
    assert abs(source.table["lat"].to_numpy().mean() - lat) < 1e-3
    assert abs(source.table["lon"].to_numpy().mean() - lon) < 1e-3


def test_raster_tiles_coordinates_beyond_degrees_raise_error(tmp_path):
    with pytest.raises(GenGeoError, match="not degrees"):
        tiles_of(write(tmp_path / "r.tif", noise(), "EPSG:4326"))


def test_raster_tiles_without_geotransform_raise_error_unless_gcps_exist(tmp_path):
    from rasterio.control import GroundControlPoint

    with pytest.raises(GenGeoError, match="no geotransform"):
        tiles_of(write(tmp_path / "r.tif", noise(), origin=None))
    corners = [(0, 0), (0, 120), (120, 0), (120, 120)]
    gcps = [GroundControlPoint(row, column, 385000.0 + column, 6672300.0 - row) for row, column in corners]
    placed, tiles = tiles_of(write(tmp_path / "g.tif", noise(), origin=None, gcps=gcps))
    right, expected = tiles_of(write(tmp_path / "t.tif", noise()))
    assert placed.table["lat"].to_pylist() == pytest.approx(right.table["lat"].to_pylist(), abs=1e-7)
    assert np.abs(np.asarray(tiles[5], int) - np.asarray(expected[5])).mean() < 3


def test_raster_tiles_outside_area_of_use_are_noted(tmp_path):
    source, _ = tiles_of(write(tmp_path / "r.tif", noise(), "EPSG:28992"))
    assert "outside the area of use of its CRS EPSG:28992" in source.notes[0]


@pytest.mark.parametrize("fill", [255, 1])
def test_raster_tiles_filled_corners_have_no_data(tmp_path, fill):
    bands = noise()
    y, x = np.mgrid[:120, :120]
    corner = x + y < 110
    bands[:, corner] = fill
    _, tiles = tiles_of(write(tmp_path / "r.tif", bands))
    kept = [np.asarray(tile) for tile in tiles if tile is not None]
    assert any(tile is None for tile in tiles) and kept
    assert all((tile == fill).all(axis=-1).mean() < 0.02 for tile in kept)
    roofs = noise()
    roofs[:, 50:60, 50:60] = 255  # a white roof, not at a corner
    assert all(tile is not None for tile in tiles_of(write(tmp_path / "roof.tif", roofs))[1])


@pytest.mark.parametrize("fill", [np.nan, -9999.0])
def test_raster_tiles_sentinel_values_have_no_data(tmp_path, fill):
    bands = np.random.default_rng(0).uniform(100, 300, (3, 120, 120)).astype(np.float32)
    bands[:, 20:100, 10:60] = fill  # not at a corner
    _, tiles = tiles_of(write(tmp_path / "r.tif", bands))
    kept = [np.asarray(tile) for tile in tiles if tile is not None]
    assert len(kept) < len(tiles) and abs(np.mean([tile[tile > 0].mean() for tile in kept]) - 128) < 15


def test_raster_tiles_nodata_option_is_respected(tmp_path):
    bands = noise()
    bands[:, 30:60, 30:90] = 77
    path = write(tmp_path / "r.tif", bands)
    assert all(tile is not None for tile in tiles_of(path)[1])
    assert sum(tile is None for tile in tiles_of(path, nodata=77)[1]) >= 2
    assert sum(tile is None for tile in tiles_of(path, nodata=77, max_empty=0.99)[1]) < 2


def test_raster_tiles_newest_file_is_used_and_others_are_noted(tmp_path):
    for name, level, date in (("b_2020.tif", 200, "2020:07:01"), ("c_2018.tif", 90, "2018:07:01")):
        tags = {"ACQUISITIONDATE": date}
        write(tmp_path / name, np.full((3, 120, 120), level, np.uint8) + noise(high=45), tags=tags)
    source, tiles = tiles_of(tmp_path)
    assert np.asarray(tiles[0]).mean() > 200 and "1 of 2 files" in source.notes[0] and "c_2018" in source.notes[0]
    stated = RasterTiles(sorted(tmp_path.glob("*.tif")), 30, dates=[("c_*.tif", "2024")])
    assert np.asarray(stated.read(0)).mean() < 150 and stated.acquired["c_2018.tif"] == "2024"
    assert "overrides the date in the tags of 1 files" in stated.notes[0]
    with pytest.raises(GenGeoError, match="not a date: expected for example 2018"):
        RasterTiles(sorted(tmp_path.glob("*.tif")), 30, dates=[("*", "June")])
    undated = tmp_path / "undated"
    undated.mkdir()
    for name, level in (("a.tif", 90), ("b.tif", 180)):
        write(undated / name, np.full((3, 120, 120), level, np.uint8) + noise(high=45))
    assert np.asarray(tiles_of(undated)[1][0]).mean() > 180  # the file named last is used


def test_raster_tiles_of_small_raster_raise_error(tmp_path):
    path = write(tmp_path / "r.tif", noise(57)[:, :35])
    with pytest.raises(GenGeoError, match="smaller than half a tile"):
        open_imagery(path, TilingOptions(tile_m=65.0))
