"""Estimates compared with the tiles of areas and with written indexes."""

import json

import numpy as np
import pytest

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, bounds_around
from gengeo_hf.imagery.plan import area_cells
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
