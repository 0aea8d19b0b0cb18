"""Tiles of one colour are left out and counted, for every kind of imagery."""

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.imagery import TilingOptions, open_imagery
from gengeo_hf.imagery.tile_content import ONE_COLOUR
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.build import build_index
from tests.stubs import ListSource, StubEncoder

TILING = {"tile_m": 30.0, "overlap": 0.0}


def raster(folder, **options):
    """Ground of 120 x 120 m; its western third is one blue."""
    rasterio = pytest.importorskip("rasterio")
    bands = np.random.default_rng(0).integers(40, 200, (3, 120, 120), np.uint8)
    bands[:, :, :40] = np.array([20, 60, 120], np.uint8)[:, None, None]
    shape = {"width": 120, "height": 120, "count": 3, "dtype": "uint8", "crs": "EPSG:32635"}
    transform = rasterio.transform.from_origin(385000.0, 6672300.0, 1.0, 1.0)
    with rasterio.open(folder / "r.tif", "w", driver="GTiff", transform=transform, **shape, **options) as file:
        file.write(bands)
    return folder / "r.tif"


def pictures(count):
    """Pictures of noise, of which the second shows one colour."""
    made = [Image.fromarray(np.random.default_rng(n).integers(0, 255, (16, 16, 3), np.uint8)) for n in range(count)]
    made[1] = Image.new("RGB", (16, 16), (20, 60, 120))
    return made


def table(folder):
    for number, picture in enumerate(pictures(4)):
        picture.save(folder / f"{number}.png")
    rows = "".join(f"{number}.png,60.{number},24.0\n" for number in range(4))
    (folder / "tiles.csv").write_text(f"image,lat,lon\n{rows}", encoding="utf-8")
    return folder / "tiles.csv"


def map_tiles(folder):
    (folder / "18/149000").mkdir(parents=True)
    for number, picture in enumerate(pictures(4)):
        picture.save(folder / f"18/149000/{76000 + number}.png")
    return folder


def saved_data_set(folder):
    datasets = pytest.importorskip("datasets")
    rows = [{"tile_id": str(n), "aerial": p, "lat": 60.0 + n, "lon": 24.0} for n, p in enumerate(pictures(4))]
    features = datasets.Features(
        {"tile_id": datasets.Value("string"), "aerial": datasets.Image(), "lat": datasets.Value("float64")}
        | {"lon": datasets.Value("float64")}
    )
    datasets.Dataset.from_list(rows, features=features).save_to_disk(folder / "set")
    return folder / "set"


@pytest.mark.parametrize("make", [raster, table, map_tiles, saved_data_set])
def test_build_leaves_out_tiles_of_one_colour_unless_requested(tmp_path, make):
    home = tmp_path / "imagery"
    home.mkdir()
    path = make(home)
    report = build_index(StubEncoder(), open_imagery(path, TilingOptions(**TILING)), tmp_path / "idx")
    index = GeoIndex.load(tmp_path / "idx")
    count = index.manifest.left_out.reasons[ONE_COLOUR]
    assert count == report.by_content[ONE_COLOUR] == index.left_out.num_rows > 0
    assert f"{count} tiles left out: {ONE_COLOUR}" in str(report) and "unreadable" not in str(report)
    assert ONE_COLOUR in index.report()
    kept = open_imagery(path, TilingOptions(**TILING, keep_one_colour=True))
    again = build_index(StubEncoder(), kept, tmp_path / "idx", overwrite=True)
    assert again.tiles == report.tiles + count and not again.broken_count


def test_one_colour_check_ignores_pixels_without_data(tmp_path):
    """A tile that is blue where it has data, and black where it has none, has one colour."""
    source = open_imagery(raster(tmp_path, nodata=0), TilingOptions(tile_m=70.0, overlap=0.0, max_empty=0.99))
    build_index(StubEncoder(), source, tmp_path / "idx")
    assert ONE_COLOUR not in GeoIndex.load(tmp_path / "idx").manifest.left_out.reasons
    blue = Image.new("RGB", (16, 16), (20, 60, 120))
    blue.paste((0, 0, 0), (0, 0, 8, 16))
    partly = ListSource(3)
    partly.images[1] = blue
    assert build_index(StubEncoder(), partly, tmp_path / "a").tiles == 3  # half black, half blue is a picture
    blue.info["no_data_share"] = 0.5
    assert build_index(StubEncoder(), partly, tmp_path / "b").by_content == {ONE_COLOUR: 1}


def test_black_tiles_of_a_raster_with_another_no_data_value_have_one_colour(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    path = raster(tmp_path, nodata=255)
    with rasterio.open(path, "r+") as file:
        bands = file.read()
        bands[:, :40] = 0
        file.write(bands)
    report = build_index(StubEncoder(), open_imagery(path, TilingOptions(**TILING)), tmp_path / "idx")
    assert report.by_content[ONE_COLOUR] >= 6


def test_build_counts_and_limits_partly_transparent_map_tiles(tmp_path):
    folder = map_tiles(tmp_path / "tiles")
    clear = Image.fromarray(np.random.default_rng(9).integers(0, 255, (16, 16, 4), np.uint8))
    clear.putalpha(Image.fromarray(np.where(np.arange(256).reshape(16, 16) < 160, 255, 0).astype(np.uint8)))
    clear.save(folder / "18/149000/76002.png")
    report = build_index(StubEncoder(), open_imagery(folder), tmp_path / "idx")
    assert (report.partly_empty, report.no_data) == (1, 0)
    strict = open_imagery(folder, TilingOptions(max_empty=0.2))
    report = build_index(StubEncoder(), strict, tmp_path / "idx", overwrite=True)
    assert (report.partly_empty, report.no_data) == (0, 1)
