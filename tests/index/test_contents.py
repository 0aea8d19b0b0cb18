"""Bounds, tile sizes and sources in the manifest, with values by hand."""

from dataclasses import replace

import pytest

from gengeo_hf.common.geo import Bounds, bounds_around, offset
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index.contents import contents_of, with_totals
from gengeo_hf.index.manifest import Contents, FileRecord, Model, Segment, Source, TileSize, Tombstones, new_manifest


def table(boxes, sources=None):
    """Tiles with these bounds, or with a position (latitude, longitude) and without bounds."""
    points = [((b[1] + b[3]) / 2, b[0]) if len(b) == 4 else b for b in boxes]
    lat, lon = zip(*points, strict=True)
    bounds = [Bounds(*b) if len(b) == 4 else None for b in boxes]
    found = tile_table([f"t{n}" for n in range(len(boxes))], lat, lon, bounds)
    if sources:
        found = found.set_column(8, found.schema.field("source"), [sources])
    return found


@pytest.mark.parametrize(
    ("boxes", "expected"),
    [
        ([(10.5, -3.0, 11.0, -2.5)], [10.5, -3.0, 11.0, -2.5]),
        ([(10.5, -3.0, 11.0, -2.5), (20.0, 31.0)], [10.5, -3.0, 31.0, 20.0]),  # the second has no bounds
        ([(20.0, -31.0), (10.5, -3.0, 11.0, -2.5)], [-31.0, -3.0, 11.0, 20.0]),
        ([(179.5, -17, -179.75, -16.5), (178, -18, 178.5, -17.5), (-19.25, -179.25)], [178, -19.25, -179.25, -16.5]),
        ([(-179.5, -17, -179.25, -16.5), (179.5, -17, -179.75, -16)], [179.5, -17, -179.25, -16]),
        ([(170.0, 1.0, 180.0, 2.0)], [170.0, 1.0, 180.0, 2.0]),
        ([(-180.0, 1.0, -179.0, 2.0)], [-180.0, 1.0, -179.0, 2.0]),
        ([(0.0, 1.0, 1.0, 2.0), (179.5, 1.5, 179.75, 3.0)], [0.0, 1.0, 179.75, 3.0]),
        ([(0.0, 1.0, 1.0, 2.0), (-179.5, 1.5, -179.25, 3.0)], [-179.5, 1.0, 1.0, 3.0]),
        ([(5.0, 1.0, 6.0, 2.0), (-180.0, -10.0, 180.0, 1.5)], [-180.0, -10.0, 180.0, 2.0]),  # the second is global
        ([(-180.0, 1.0, 0.0, 2.0), (0.0, -1.0, 180.0, 1.5)], [-180.0, -1.0, 180.0, 2.0]),  # two halves of the world
    ],
)
def test_contents_of_bounds_are_the_smallest_around_all_tiles(boxes, expected):
    assert contents_of(table(boxes)).bounds == pytest.approx(expected, abs=1e-9)


def test_contents_of_lists_the_five_most_frequent_sizes():
    sizes = [(120.0, 60.0)] * 2 + [(33.333, 77.777)] * 4 + [(7000.0, 50.0)] * 3 + [(15.0, 25.0), (9.0, 8.0)]
    sizes += [(100.0, 40.0)] * 2 + [(99.0, 3.0)]
    boxes = [bounds_around(60.5, 179.9999, *size) for size in sizes]
    found = contents_of(table([*boxes, (60.0, 25.0)])).tile_sizes  # the last has no bounds
    expected = [(33.3, 77.8, 4), (7000.0, 50.0, 3), (100.0, 40.0, 2), (120.0, 60.0, 2), (9.0, 8.0, 1)]
    assert found == [TileSize(*size) for size in expected]
    assert contents_of(table([(60.0, 25.0)])).tile_sizes == []


def test_contents_of_lists_a_thousand_sources_by_tiles_and_name():
    names = ["b", "c", "a", "c", None, *(f"x{number:04d}" for number in range(998))]
    lat, lon = offset(10.0, 20.0, [100.0 * n for n in range(len(names))], 0.0)
    sources = contents_of(table(list(zip(lat.tolist(), lon.tolist(), strict=True)), names)).sources
    assert list(sources.items())[:4] == [("c", 2), ("", 1), ("a", 1), ("b", 1)]
    assert len(sources) == 1000 and "x0995" in sources and "x0996" not in sources


def segment(number, tiles, contents, deleted=0):
    record = FileRecord(1, "0" * 64)
    files = dict.fromkeys(("descriptors.npy", "tiles.arrow", "blocks.npy"), record)
    tombstones = Tombstones("deleted-000002.npy", deleted, 1, "0" * 64) if deleted else None
    return Segment(f"segment-{number:012x}", tiles, files, contents, tombstones=tombstones)


def manifest(segments, sources=()):
    return replace(new_manifest(8, Model("0" * 64), {}), segments=list(segments), sources=list(sources))


def test_with_totals_joins_bounds_sizes_and_sources_of_segments():
    first = Contents([178.0, -18.0, 179.0, -17.0], [TileSize(60.0, 30.0, 4), TileSize(9.0, 9.0, 1)], {"a": 4, "b": 1})
    other = Contents([179.5, -19.0, -179.5, -18.5], [TileSize(9.0, 9.0, 5), TileSize(30.0, 60.0, 2)], {"b": 6, "c": 1})
    found = with_totals(manifest([segment(1, 6, first, 1), segment(2, 7, other)], [Source("b", 99, "Survey", "CC0")]))
    assert found.bounds == pytest.approx([178.0, -19.0, -179.5, -17.0])
    assert found.tile_sizes == [TileSize(9.0, 9.0, 6), TileSize(60.0, 30.0, 4), TileSize(30.0, 60.0, 2)]
    assert found.sources == [Source("b", 7, "Survey", "CC0"), Source("a", 4), Source("c", 1)]


def test_with_totals_of_no_segments_has_no_bounds():
    found = with_totals(manifest([], [Source("a", 3)]))
    assert (found.bounds, found.tile_sizes, found.sources) == (None, [], [])


def test_with_totals_lists_five_sizes():
    sizes = [TileSize(10.0 * number, 5.0, number) for number in range(1, 8)]
    found = with_totals(manifest([segment(1, 28, Contents([1.0, 2.0, 3.0, 4.0], sizes, {"a": 28}))])).tile_sizes
    assert [size.tiles for size in found] == [7, 6, 5, 4, 3]


def test_with_totals_counts_tiles_of_unlisted_sources_in_the_last_source():
    part = segment(1, 12, Contents([1.0, 2.0, 3.0, 4.0], [], {"a": 4, "b": 3}), deleted=2)
    known = [Source("a", 1, "A"), Source("x"), Source("y"), Source("z", 5, "Z")]
    assert with_totals(manifest([part], known)).sources == [Source("a", 4, "A"), Source("b", 3), Source("z", 3, "Z")]
