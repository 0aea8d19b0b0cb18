"""Tiles of a ground size from a tile service: geometry, content without imagery, plan, cache and resumption."""

import json
import math

import numpy as np
import pytest

from gengeo_hf.common.area import parse_area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery import TilingOptions, open_imagery, tile_content
from gengeo_hf.imagery.options import ClientOptions, NetOptions
from gengeo_hf.imagery.registration import measure_shift
from gengeo_hf.imagery.tiles import ImageryStoppedError, Rights
from gengeo_hf.imagery.xyz import XyzTiles
from tests.imagery.tile_server import colour

HELSINKI = "24.93,60.16,24.9318,60.1609"


@pytest.fixture
def opened(server, tmp_path):
    def open_mode(mode, kind="png", bounds=HELSINKI, cache="cache", net=None, **options):
        client = ClientOptions(allow_private=True, rate=0, pause_s=0.01, attempts=2, timeout_s=2, total_s=5)
        said = NetOptions(**({"client": client, "cache": str(tmp_path / cache)} | (net or {})))
        tiling = TilingOptions(area=parse_area(bounds=bounds), net=said, **({"tile_m": 60.0} | options))
        return open_imagery(mode if "{" in mode else server.template(mode, kind), tiling)

    return open_mode


def read_all(source):
    """Images by row, and reasons of missing tiles by row."""
    images, reasons = {}, {}
    for row in range(source.table.num_rows):
        try:
            images[row] = source.read(row)
        except ImageryStoppedError:
            raise
        except GenGeoError as error:
            reasons[row] = str(error)
    return images, reasons


def seen_from_the_formula(source, row, image):
    """Expected tile: the server's formula at the latitude and longitude of each pixel, from the tile's bounds."""
    box = {side: source.table[side][row].as_py() for side in ("west", "south", "east", "north")}
    width, height = image.size
    lon = box["west"] + (np.arange(width) + 0.5) / width * ((box["east"] - box["west"]) % 360)
    lat = box["north"] - (np.arange(height) + 0.5) / height * (box["north"] - box["south"])
    u = (lon + 180) / 360
    v = 0.5 - np.log(np.tan(np.pi / 4 + np.radians(lat) / 2)) / (2 * np.pi)
    return colour(*np.meshgrid(u, v))


@pytest.mark.parametrize(
    ("lat", "lon", "tile_m", "zoom"),
    [
        (60.16, 24.93, 60.0, None),
        (0.01, 36.8, 60.0, None),
        (-41.3, 174.8, 150.0, None),
        (69.6, 18.9, 40.0, 18),
        (60.16, 24.93, 60.0, 21),
        (60.16, 24.93, 500.0, None),
        (-17.5, 179.9999, 60.0, None),
    ],
)
def test_service_tiles_show_the_ground_of_their_bounds(opened, lat, lon, tile_m, zoom):
    bounds = f"{lon},{lat},{lon + 0.0002},{lat + 0.0002}" if lon < 179.9 else "179.9998,-17.5,-179.9998,-17.4997"
    source = opened("good", bounds=bounds, tile_m=tile_m, zoom=zoom)
    for row in {0, source.table.num_rows - 1}:
        image = source.read(row)
        difference = np.asarray(image, dtype=float) - seen_from_the_formula(source, row, image)
        assert np.abs(difference).mean() < 4


def test_comparison_with_formula_detects_shift_of_a_few_metres(opened):
    """A displaced tile must fail the comparison of the test above."""
    source = opened("good", net={"shift_m": (4.0, 0.0), "client": ClientOptions(allow_private=True, rate=0)})
    image = source.read(0)
    assert np.abs(np.asarray(image, dtype=float) - seen_from_the_formula(source, 0, image)).mean() > 6


def test_service_tiles_shift_option_moves_imagery(opened, server):
    plain, moved = (
        opened("good"),
        opened("good", net={"shift_m": (6.0, -3.0), "client": ClientOptions(allow_private=True, rate=0)}),
    )
    lat, lon = plain.table["lat"][0].as_py(), plain.table["lon"][0].as_py()
    gsd = 60.0 / plain.read(0).width
    east, south = round(6.0 / gsd), round(3.0 / gsd)
    one, other = np.asarray(plain.read(0), float), np.asarray(moved.read(0), float)
    assert (lat, lon) == (moved.table["lat"][0].as_py(), moved.table["lon"][0].as_py())
    assert np.abs(other[south:, east:] - one[: other.shape[0] - south, : other.shape[1] - east]).mean() < 12


def test_service_tiles_detect_source_tiles_of_512_pixels(opened):
    source = opened("retina")
    assert "--tile-pixels 512" in source.prepare()
    image = source.read(3)
    assert np.abs(np.asarray(image, dtype=float) - seen_from_the_formula(source, 3, image)).mean() < 8


def test_service_tiles_ground_size_does_not_depend_on_latitude(opened):
    for bounds in ("24.93,60.16,24.932,60.161", "36.8,0.0,36.802,0.001"):
        source = opened("good", bounds=bounds)
        row = {side: source.table[side][0].as_py() for side in ("west", "south", "east", "north", "lat")}
        metres = 111_320 * math.cos(math.radians(row["lat"])) * (row["east"] - row["west"])
        assert metres == pytest.approx(60, rel=0.005)


def test_service_tiles_several_sizes_have_common_centres(opened):
    source = opened("good", tile_sizes=(120.0, 60.0))
    ids = source.table["tile_id"].to_pylist()
    assert [name.rsplit("_", 1)[1] for name in ids[:4]] == ["60m", "120m", "60m", "120m"]
    lat = source.table["lat"].to_numpy()
    assert (lat[::2] == lat[1::2]).all()
    for row in (0, 1):
        image = source.read(row)
        assert np.abs(np.asarray(image, dtype=float) - seen_from_the_formula(source, row, image)).mean() < 14


class TestContentWithoutImagery:
    @pytest.mark.parametrize(
        ("mode", "reason"),
        [
            ("html", tile_content.PAGE),
            ("html_as_png", tile_content.PAGE),
            ("xml", tile_content.MESSAGE),
            ("flat", tile_content.ONE_COLOUR),
            ("clear", tile_content.TRANSPARENT),
            ("small", tile_content.WRONG_SIZE),
            ("blocked", tile_content.REPEATED),
            ("cut", tile_content.DAMAGED),
            ("empty", tile_content.MISSING),
            ("notfound", tile_content.MISSING),
        ],
    )
    def test_source_without_imagery_raises_error_with_reason(self, opened, tmp_path, mode, reason):
        source = opened(mode)
        with pytest.raises(ImageryStoppedError, match=r"at zoom 19 in west 24.93, south 60.16") as caught:
            source.prepare()
        assert reason in str(caught.value)
        assert not list((tmp_path / "cache").rglob("*.png"))

    @pytest.mark.parametrize(
        ("mode", "reason"),
        [
            ("thirdhtml", tile_content.PAGE),
            ("thirdflat", tile_content.ONE_COLOUR),
            ("thirdblocked", tile_content.REPEATED),
            ("third404", tile_content.MISSING),
            ("thirdsmall", tile_content.WRONG_SIZE),
        ],
    )
    def test_source_tiles_without_imagery_are_counted_and_not_cached(self, opened, tmp_path, mode, reason):
        source = opened(mode, tile_m=20.0, zoom=18, bounds="24.93,60.16,24.933,60.1615")
        images, reasons = read_all(source)
        assert images and set(reasons.values()) == {reason}
        assert set(source.reader.bad) == {reason} and reason in source.summary()
        cached = [tuple(map(int, path.with_suffix("").parts[-3:])) for path in (tmp_path / "cache").rglob("*.png")]
        assert cached and all((column + row) % 3 for _, column, row in cached)
        for row, image in images.items():  # pixels with data show the right ground
            pixels = np.asarray(image, dtype=float)
            shown = pixels.any(axis=2)
            assert shown.mean() >= 0.5
            assert np.abs(pixels - seen_from_the_formula(source, row, image))[shown].mean() < 14

    def test_repeated_image_is_not_in_any_tile(self, opened):
        source = opened("thirdblocked")
        source.prepare()
        images, _ = read_all(source)
        for row, image in images.items():
            pixels = np.asarray(image, dtype=float)
            shown = pixels.any(axis=2)
            assert np.abs(pixels - seen_from_the_formula(source, row, image))[shown].mean() < 14


class TestInvalidSettings:
    def test_missing_zoom_raises_error_with_existing_zoom(self, opened):
        with pytest.raises(GenGeoError, match=r"at zoom 19 .* add --zoom 17"):
            opened("deep17").prepare()
        assert opened("deep17", zoom=17).prepare() == ""
        with pytest.raises(GenGeoError, match="no zoom level 31"):
            opened("good", zoom=31)

    def test_rows_from_the_south_raise_error_with_option(self, opened):
        bounds = "24.93,60.16,24.9303,60.1602"
        with pytest.raises(GenGeoError, match="--tms"):
            opened("tms", bounds=bounds).prepare()

    def test_exchanged_columns_and_rows_raise_error_with_advice(self, opened):
        with pytest.raises(GenGeoError, match=r"exchange {x} and {y}"):
            opened("zyx").prepare()

    def test_huge_area_raises_error_before_requests(self, opened, server):
        with pytest.raises(GenGeoError, match=r"source tiles at zoom 19, and 20,000 are allowed: .*--max-tiles"):
            opened("good", bounds="-10,36,30,70")
        assert server.paths == []

    def test_missing_area_raises_error(self, server):
        options = TilingOptions(net=NetOptions(client=ClientOptions(allow_private=True)))
        with pytest.raises(GenGeoError, match=r"--area FILE.geojson"):
            open_imagery(server.template("good"), options)

    def test_missing_rights_or_contact_raise_error_unless_disabled(self):
        options = TilingOptions(area=parse_area(bounds=HELSINKI))
        with pytest.raises(GenGeoError, match="--attribution and --licence and --contact"):
            open_imagery("https://t.org/{z}/{x}/{y}.jpg", options)
        said = NetOptions(rights=Rights("A", "B"), client=ClientOptions(contact="me@example.org"))
        source = open_imagery("https://t.org/{z}/{x}/{y}.jpg", TilingOptions(area=options.area, net=said))
        assert source.rights == Rights("A", "B", "", "https://t.org/{z}/{x}/{y}.jpg")

    def test_refused_token_raises_one_line_error(self, opened, server):
        with pytest.raises(GenGeoError, match=r"127\.0\.0\.1 answers 401: .*apikey") as caught:
            opened(server.template("token") + "?key=wrong-one").prepare()
        assert "wrong-one" not in str(caught.value)


class TestPlan:
    def test_plan_sends_no_request_and_equals_requests_of_build(self, opened, server):
        source = opened("good")
        plan = source.plan()
        assert server.paths == []
        read_all(source)
        assert len(server.paths) == len(set(server.paths)) == plan.requests == plan.source_tiles
        assert plan.hosts == ("127.0.0.1",) and plan.tiles == source.table.num_rows and plan.zooms == {"60": 19}
        assert json.loads(json.dumps(plan.to_dict()))["megabytes"] > 0 and "source tiles" in str(plan)

    def test_plan_of_cached_tiles_has_no_requests(self, opened):
        read_all(opened("good"))
        assert opened("good").plan().requests == 0

    def test_plan_minutes_follow_from_rate(self, opened):
        plan = opened("good", net={"client": ClientOptions(allow_private=True, rate=5.0)}).plan()
        assert plan.minutes == pytest.approx(plan.requests / 5 / 60)


class TestCacheAndResume:
    @pytest.mark.parametrize("mode", ["good", "third404", "thirdflat"])
    def test_second_run_sends_no_request(self, opened, server, mode):
        first, reasons = read_all(opened(mode))
        count = len(server.paths)
        assert count == len(set(server.paths))
        second, again = read_all(opened(mode))
        assert len(server.paths) == count and again == reasons
        assert all(np.array_equal(first[row], second[row]) for row in first)

    def test_interrupted_run_is_resumed_without_repeated_requests(self, opened, server):
        source = opened("third404")
        for row in range(source.table.num_rows // 2):
            try:
                source.read(row)
            except GenGeoError:
                continue
        read_all(opened("third404"))
        assert len(server.paths) == len(set(server.paths))

    def test_missing_tiles_are_recorded_for_a_week_and_retried_on_demand(self, opened, server, tmp_path):
        import os
        import time

        read_all(opened("third404"))
        first = set(server.paths)
        read_all(opened("third404", net={"retry_missing": True, "client": ClientOptions(allow_private=True, rate=0)}))
        missing = [path for path in server.paths if server.paths.count(path) == 2]
        assert missing and all((int(p.split("/")[3]) + int(p.split("/")[4][:-4])) % 3 == 0 for p in missing)
        for path in (tmp_path / "cache").rglob("*.missing"):
            os.utime(path, (time.time() - 8 * 86400,) * 2)
        read_all(opened("third404"))
        assert set(server.paths) == first and len(server.paths) == len(first) + 2 * len(set(missing))

    def test_damaged_file_of_cache_is_fetched_again(self, opened, server, tmp_path):
        read_all(opened("good"))
        path = min((tmp_path / "cache").rglob("*.png"))
        path.write_bytes(path.read_bytes()[:100])
        count = len(server.paths)
        read_all(opened("good"))
        assert len(server.paths) == count + 1 and path.stat().st_size > 100

    def test_cache_is_readable_as_map_tiles(self, opened, tmp_path):
        read_all(opened("good"))
        folder = next((tmp_path / "cache").iterdir())
        tiles = XyzTiles(folder)
        assert tiles.table.num_rows > 4 and tiles.read(0).size == (256, 256)
        assert json.loads((folder / "source.json").read_text())["address"].endswith("{z}/{x}/{y}.png")

    def test_cache_stays_below_limit(self, tmp_path):
        import os

        from gengeo_hf.imagery.tile_cache import TileCache

        cache = TileCache(tmp_path, "one", "h.org", limit_mb=1)
        for number in range(30):
            cache.put(1, number, 0, bytes(100_000), ".png")
            os.utime(cache.directory / "1" / str(number) / "0.png", (number, number))
        cache.shrink()
        left = sorted(int(path.parent.name) for path in tmp_path.rglob("*.png"))
        assert sum(path.stat().st_size for path in tmp_path.rglob("*.png")) <= 1 << 20
        assert left == list(range(30 - len(left), 30))  # the oldest tiles are removed first

    def test_read_only_cache_raises_one_line_error(self, opened, tmp_path):
        (tmp_path / "cache").write_text("a file")
        with pytest.raises(GenGeoError, match="--cache"):
            opened("good").prepare()


def test_service_tiles_of_failing_server_stop(opened):
    client = ClientOptions(allow_private=True, rate=0, attempts=1, give_up_after=3)
    with pytest.raises(ImageryStoppedError, match="run the same command later"):
        opened("down", net={"client": client}).prepare()


def test_tile_reader_in_threads_fetches_each_source_tile_once(opened, server):
    from concurrent.futures import ThreadPoolExecutor

    source = opened("good")
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(source.read, range(source.table.num_rows)))
    assert len(server.paths) == len(set(server.paths))


def test_tile_reader_memory_of_decoded_tiles_is_bounded(opened, monkeypatch):
    from gengeo_hf.imagery import tile_reader

    monkeypatch.setattr(tile_reader, "MEMORY_MB", 2)
    source = opened("good")
    read_all(source)
    assert source.reader._memory_bytes <= 2 << 20


@pytest.mark.parametrize(("mode", "advice"), [("southrows", "add --tms"), ("exchanged", "exchange {x} and {y}")])
def test_prepare_detects_wrong_order_from_two_zoom_levels(opened, mode, advice):
    source = opened(mode)
    with pytest.raises(ImageryStoppedError, match="shows other ground than its numbers say") as caught:
        source.prepare()
    assert advice in str(caught.value)
    assert opened("good", cache="other").prepare() == ""


def test_measure_shift_against_raster_states_correcting_option(tmp_path):
    rasterio = pytest.importorskip("rasterio")
    rng = np.random.default_rng(0)
    ground = rng.integers(0, 255, (3, 60, 60), np.uint8).repeat(10, axis=1).repeat(10, axis=2)
    ground = np.clip(ground + rng.integers(-20, 20, ground.shape), 0, 255).astype(np.uint8)
    for name, east, north in (("right.tif", 0.0, 0.0), ("moved.tif", 4.0, -7.0)):
        transform = rasterio.transform.from_origin(385000.0 + east, 6672300.0 + north, 1.0, 1.0)
        profile = {"driver": "GTiff", "width": 600, "height": 600, "count": 3, "dtype": "uint8", "crs": "EPSG:32635"}
        with rasterio.open(tmp_path / name, "w", transform=transform, **profile) as file:
            file.write(ground)
    area = parse_area(near="60.1704,24.9355,150")
    options = TilingOptions(tile_m=100.0, overlap=0.0, area=area)
    moved, right = (open_imagery(tmp_path / name, options) for name in ("moved.tif", "right.tif"))
    shift = measure_shift(moved, right)
    assert shift.is_clear and (shift.east_m, shift.north_m) == pytest.approx((4.0, -7.0), abs=0.4)
    east, north = (float(value) for value in str(shift).rpartition("--shift ")[2].split()[0].split(","))
    assert (east, north) == pytest.approx((-4.0, 7.0), abs=0.4)
    assert "--shift" not in str(measure_shift(right, right))
