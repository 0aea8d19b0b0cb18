"""Estimates compared with the tiles of areas and with written indexes."""

import json

import numpy as np
import pytest

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, bounds_around
from gengeo_hf.imagery.plan import ImageryPlan, area_cells
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index.edit import write_index
from gengeo_hf.index.manifest import Model
from gengeo_hf.index.plan import bytes_of, plan_index, search_ms
from gengeo_hf.index.segment import NewRows


@pytest.mark.parametrize(("side", "tile", "overlap"), [(2000, 60, 0.5), (5000, 100, 0.0), (500, 65, 0.25)])
@pytest.mark.parametrize("lat", [0.0, 60.0, -80.0])
def test_plan_index_tiles_are_close_to_those_of_the_grid(side, tile, overlap, lat):
    area = Area.from_bounds(bounds_around(lat, 24.94, side, side))
    expected = len(area_cells(area, tile, overlap)[0])
    assert plan_index(area, tile, overlap=overlap).tiles == pytest.approx(expected, rel=0.15)


@pytest.mark.parametrize(("tiles", "limit"), [(4000, 200_000), (6000, 5000)])
def test_bytes_of_are_close_to_those_of_a_written_index(tmp_path, monkeypatch, tiles, limit):
    monkeypatch.setattr("gengeo_hf.index.search.EXACT_LIMIT", limit)
    monkeypatch.setattr("gengeo_hf.index.plan.EXACT_LIMIT", limit)
    dim, rng = 64, np.random.default_rng(0)
    vectors = rng.standard_normal((tiles, dim))
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    lat, lon = rng.uniform(48, 48.1, tiles), rng.uniform(11, 11.1, tiles)
    names = [f"tile-{n:06d}" for n in range(tiles)]
    table = tile_table(names, lat, lon, [Bounds(a, b, a, b) for a, b in zip(lon, lat, strict=True)])
    manifest = write_index(tmp_path / "idx", NewRows(table, [vectors]), dim, Model("0" * 64))
    written = sum(record.bytes for record in manifest.checked_files().values())
    assert bytes_of(tiles, dim, thumbnails=False)[0] == pytest.approx(written, rel=0.15)


def test_plan_index_of_more_tiles_costs_more():
    area = Area.from_bounds(Bounds(11, 48, 11.1, 48.1))
    small, large = (plan_index(area, tile, tiles_per_second=2.0) for tile in (120, 60))
    assert large.tiles == pytest.approx(4 * small.tiles, rel=0.1) and large.source_mb > 3 * small.source_mb
    assert large.encode_hours == pytest.approx(large.tiles / 7200) and large.index_mb > small.index_mb
    times = [search_ms(tiles, 256) for tiles in (10_000, 200_000, 1_000_000, 10_000_000)]
    assert times == sorted(times)
    for wrong in ({"overlap": 1.0}, {"tiles_per_second": 0.0}):
        with pytest.raises(GenGeoError, match="expected a size"):
            plan_index(area, 60, **wrong)


def test_plan_command_prints_json(gengeo, tiny_checkpoint):
    arguments = ("plan", "--bounds", "11,48,11.05,48.05", "--tile", "60m", "--model", tiny_checkpoint)
    code, out, err = gengeo(*arguments, "--throughput", "10", "--json")
    found = json.loads(out)
    assert code == 0, err
    assert {"tiles", "source_mb", "encode_hours", "index_mb", "memory_mb", "search_ms"} <= found.keys()
    assert found["encode_hours"] == pytest.approx(found["tiles"] / 36_000)
    code, out, _ = gengeo(*arguments)
    assert code == 0 and "tiles/s" in out
    assert gengeo("plan", "--model", tiny_checkpoint)[0] == 2


@pytest.mark.parametrize(
    ("tiles", "dim", "expected"),
    [
        (10_000, 256, 0.384),  # 0.15 ns for each tile and dimension
        (20_000, 512, 1.536),
        (20_001, 512, 0.665633),  # 0.065 ns
        (200_000, 256, 3.328),
        (200_001, 256, 3.297691),  # 0.006 ms times the root of the tiles, and 0.012 ns
        (2_097_152, 256, 15.131380),
        (2_097_153, 256, 11.910157),  # two files, scanned by two cores
        (10_000_000, 256, 34.333666),
    ],
)
def test_search_ms_follows_the_measured_times(tiles, dim, expected):
    assert search_ms(tiles, dim) == pytest.approx(expected, abs=2e-6)


@pytest.mark.parametrize(
    ("tiles", "thumbnails", "disk", "memory"),
    [
        (1000, True, 1000 * (128 + 110 + 0.125 + 4000), 1000 * 64 * 4),
        (20_000, False, 20_000 * 238.125, 20_000 * 64 * 4),
        (20_001, False, 20_001 * 238.125, 20_001 * 64 * 2),
        (200_000, False, 200_000 * 238.125, 200_000 * 64 * 2),
        (200_001, False, 200_001 * 247.125, 200_001 * 9),  # half a byte for four dimensions, and one byte
    ],
)
def test_bytes_of_hold_descriptors_table_blocks_scan_and_thumbnails(tiles, thumbnails, disk, memory):
    assert bytes_of(tiles, 64, thumbnails) == (disk, memory)
    assert bytes_of(tiles, 64)[0] == bytes_of(tiles, 64, thumbnails=True)[0]


def test_plan_index_with_defaults_has_the_values_by_hand():
    """A box of 1112 x 2224 m on the sphere; 50 % overlap, 1024 dimensions, tiles of 392 pixels with thumbnails."""
    area = Area.from_bounds(Bounds(0.0, 0.0, 0.02, 0.01))
    found = plan_index(area, 50)
    assert found.tiles == round((1105.743 / 25 - 1) * (2226.390 / 25 - 1)) == 3807
    assert found.source_mb == pytest.approx(1111.9508 * 2223.9016 * (392 / 50) ** 2 * 0.4 / 1e6, rel=1e-6)
    assert found.index_mb == pytest.approx(3807 * (2048 + 110 + 0.125 + 4000) / 1e6)
    assert found.memory_mb == pytest.approx(80 + 3807 * 4096 / 1e6)
    assert found.search_ms == pytest.approx(3807 * 1024 * 0.15 / 1e6)
    assert (found.overlap, found.dim, found.tile_m, found.encode_hours) == (0.5, 1024, 50, None)
    assert str(found).splitlines() == [
        "area:         the box 0,0,0.02,0.01",
        "tiles:        3,807 of 50 m, overlap 50%, 1024 dimensions",
        "imagery:      61 MB",
        "encoding:     not known: give --throughput",
        "index:        23 MB on disk, 96 MB of memory",
        "search:       0.6 ms for one query",
    ]
    assert found.to_dict()["tiles"] == 3807


def test_plan_index_of_several_sizes_counts_the_smallest_for_each_size():
    area = Area.from_bounds(Bounds(0.0, 0.0, 0.02, 0.01))
    options = {"dim": 64, "pixels": 100, "thumbnails": False, "tiles_per_second": 2.5}
    found, single = plan_index(area, [80.0, 50.0, 80.0], **options), plan_index(area, 50.0, **options)
    assert found.tiles == 2 * 3807 and found.tile_m == 50.0
    assert found.source_mb == single.source_mb == pytest.approx(1111.9508 * 2223.9016 * 4 * 0.4 / 1e6, rel=1e-6)
    assert found.index_mb == pytest.approx(2 * single.index_mb) and found.encode_hours == pytest.approx(7614 / 9000)
    assert "encoding:     0.85 h at 2.5 tiles/s" in str(found)


def test_plan_index_with_a_plan_of_the_imagery_takes_its_tiles_and_megabytes():
    imagery = ImageryPlan("tiles", "town", 1500, 90, 40, 12.5, 3.0)
    area = Area.from_bounds(Bounds(0.0, 0.0, 0.02, 0.01))
    found = plan_index(area, 50, dim=64, imagery=imagery, tiles_per_second=1.0)
    assert (found.tiles, found.source_mb, found.encode_hours) == (1500, 12.5, pytest.approx(1500 / 3600))
    assert str(found).startswith(str(imagery)) and "the box" not in str(found)


def test_plan_index_of_an_area_smaller_than_a_tile_is_one_tile():
    assert plan_index(Area.from_bounds(Bounds(0.0, 0.0, 1e-5, 1e-5)), 50, overlap=0.0).tiles == 1


@pytest.mark.parametrize(
    ("tile", "options"),
    [
        (0, {}),
        (-5.0, {}),
        ([60, 0], {}),
        (60, {"overlap": -0.1}),
        (60, {"overlap": 1.0}),
        (60, {"tiles_per_second": 0}),
    ],
)
def test_plan_index_with_a_value_out_of_range_raises_an_error(tile, options):
    with pytest.raises(GenGeoError, match="expected a size above 0, an overlap of at least 0 and below 1"):
        plan_index(Area.from_bounds(Bounds(11, 48, 11.1, 48.1)), tile, **options)
