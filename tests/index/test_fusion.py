"""Fused search of several ground sizes, compared with means and maxima computed one by one."""

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery import TilingOptions, open_imagery
from gengeo_hf.index import GeoIndex
from gengeo_hf.localization import GeoLocalizer
from tests.imagery.test_raster_faults import noise, write
from tests.stubs import StubEncoder


@pytest.fixture
def raster(tmp_path):
    pytest.importorskip("rasterio")
    return write(tmp_path / "ortho.tif", noise(240, seed=3))


def fused_by_hand(index, query, combine):
    """Cosines of all tiles of each centre."""
    cosines = {}
    tiles = index.tiles
    for row, descriptor in enumerate(index.descriptors.astype(np.float32)):
        centre = tiles["lat"][row].as_py(), tiles["lon"][row].as_py()
        cosines.setdefault(centre, []).append(float(descriptor @ query))
    return sorted(((combine(found), centre) for centre, found in cosines.items()), reverse=True)


@pytest.mark.parametrize(("fusion", "combine"), [("mean", np.mean), ("max", max)])
def test_cell_search_fuses_the_scores_of_all_sizes(raster, tmp_path, fusion, combine):
    encoder, source = StubEncoder(), open_imagery(raster, TilingOptions(overlap=0.0, tile_sizes=(60.0, 30.0)))
    names = [name.rpartition("_")[2] for name in source.table["tile_id"].to_pylist()]
    assert set(names) == {"30m", "60m"} and "30m 60m 30m 60m" in " ".join(names)
    index = GeoIndex.build(encoder, source, tmp_path / "x", fusion=fusion)
    assert index.manifest.fusion == fusion and f"fusion       {fusion}" in index.report()
    query = encoder.encode([source.read(40)], "ground")[0]
    by_hand = fused_by_hand(index, query, combine)
    hits = index.search(query, 20)[0]
    assert [hit.score for hit in hits] == pytest.approx([score for score, _ in by_hand[:20]], abs=1e-5)
    assert (hits[0].lat, hits[0].lon) == by_hand[0][1]
    assert all(hit.tile_id.endswith("_30m") for hit in hits)  # the smallest tile says how far the photo may be
    single = index.search(query, 20, fused=False)[0]
    assert single[0].score > hits[0].score or fusion == "max"


def test_cell_search_ignores_removed_tiles(raster, tmp_path):
    encoder, source = StubEncoder(), open_imagery(raster, TilingOptions(overlap=0.0, tile_sizes=(60.0, 30.0)))
    index = GeoIndex.build(encoder, source, tmp_path / "x")
    gone = source.table["tile_id"][20].as_py()
    query = encoder.encode([source.read(21)], "ground")[0]
    index.remove([gone])
    assert gone.endswith("_30m") and index.search(query, 1)[0][0].tile_id == gone.replace("_30m", "_60m")
    near = (source.table["lat"][20].as_py(), source.table["lon"][20].as_py(), 20.0)
    assert len(index.search(query, 50, near)[0]) == 1
    assert GeoLocalizer(encoder, index).locate(source.read(21)).best.score > 0.9


def test_drive_uses_the_fused_scores_of_cells(raster, tmp_path):
    encoder, source = StubEncoder(), open_imagery(raster, TilingOptions(overlap=0.0, tile_sizes=(60.0, 30.0)))
    index = GeoIndex.build(encoder, source, tmp_path / "x")
    frames = [source.read(row) for row in (20, 21, 22)]
    track = GeoLocalizer(encoder, index).locate(frames, sequence=True, top=3, merge=False)
    for answer, frame in zip(track, frames, strict=True):
        hits = index.search(encoder.encode([frame], "ground")[0], 200)[0]
        scores = {hit.tile_id: hit.score for hit in hits}
        assert [place.score for place in answer.places] == pytest.approx([scores[p.tile_id] for p in answer.places])


def test_unknown_fusion_and_imagery_with_fixed_tile_size_raise_errors(raster, tmp_path, source):
    with pytest.raises(GenGeoError, match="unknown fusion 'median': expected mean or max"):
        GeoIndex.build(StubEncoder(), source, tmp_path / "x", fusion="median")
    table = tmp_path / "tiles.csv"
    source.images[0].save(tmp_path / "a.png")
    table.write_text("aerial,lat,lon\na.png,60.0,25.0\n")
    with pytest.raises(GenGeoError, match="has tiles of its own size"):
        open_imagery(table, TilingOptions(tile_sizes=(30.0, 60.0)))


def test_build_counts_and_limits_partly_empty_tiles(tmp_path):
    pixels = noise(240)
    pixels[:, :, 100:] = 0  # no data from column 100 on: each row of tiles has one that it cuts
    path = write(tmp_path / "half.tif", pixels, nodata=0)
    index = GeoIndex.build(StubEncoder(), open_imagery(path, TilingOptions(tile_m=60.0, overlap=0.0)), tmp_path / "x")
    strict = open_imagery(path, TilingOptions(tile_m=60.0, overlap=0.0, max_empty=0.1))
    source = open_imagery(path, TilingOptions(tile_m=60.0, overlap=0.0))
    tiles = [image for row in range(len(source.table)) if (image := source.read(row)) is not None]
    shares = np.array([(np.asarray(image).max(axis=2) == 0).mean() for image in tiles])  # noise is never black
    partly = index.manifest.partly_empty
    assert partly == (shares > 0).sum() >= 4 and f"partly empty {partly} tiles" in index.report()
    assert len(GeoIndex.build(StubEncoder(), strict, tmp_path / "y")) == (shares <= 0.1).sum() < len(index)
