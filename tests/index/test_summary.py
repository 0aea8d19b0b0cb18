"""Report and JSON of an index, with every line as expected."""

from dataclasses import replace

import pyarrow as pa
import pytest

from gengeo_hf.index.manifest import (
    Build,
    Contents,
    Event,
    FileRecord,
    LeftOut,
    Means,
    Model,
    Scan,
    Segment,
    Source,
    TileSize,
    Tombstones,
    new_manifest,
)
from gengeo_hf.index.segment import LEFT_OUT_SCHEMA
from gengeo_hf.index.summary import as_json, search_text, summary

HASH = "0123456789abcdef" * 4


def segment(number, tiles, recalls=None, deleted=0):
    names = ["descriptors.npy", "tiles.arrow", "blocks.npy", *(["scan-0.faiss"] if recalls else [])]
    files = {name: FileRecord(1_000_000, HASH) for name in names}
    scan = Scan("kind", ["scan-0.faiss"], 300 + 100 * number, 512 - number, *recalls) if recalls else None
    tombstones = Tombstones("deleted-000002.npy", deleted, 500_000, HASH) if deleted else None
    return Segment(f"segment-{number:012x}", tiles, files, Contents([1.0, 2.0, 3.0, 4.0]), scan, tombstones)


@pytest.fixture
def manifest():
    return replace(
        new_manifest(64, Model(HASH, "town", computed_by="torch"), {}),
        version=7,
        created="2026-01-02",
        changed="2026-01-09",
        segments=[segment(0, 2000, (0.98, 0.995)), segment(1, 3000, (0.99, 0.991)), segment(2, 505, deleted=5)],
        bounds=[10.5, -3.25, 11.25, -3.0],
        tile_sizes=[TileSize(60.0, 30.4, 1000 + number) for number in range(6)],
        sources=[
            Source(f"s{number}", 1200, "Survey" * (number < 2), "CC0", "2024" * (number > 3)) for number in range(7)
        ],
        fusion="max",
        partly_empty=1234,
        left_out=LeftOut({"no data": 1002, "unreadable": 6}),
        build=Build(12.34, 5.0),
        history=[Event(f"2026-01-0{day}", "added", {"tiles": day, "source": "x"}) for day in range(1, 9)],
    )


LINES = """\
index        town.gengeo, created 2026-01-02, version 7
tiles        5,500 of 64 dimensions, 11.5 MB, 2.1 kB a tile
segments     3; 5 removed tiles still take disk space: gengeo compact
model        town, fingerprint 0123456789abcdef, computed by torch
search       compressed scan of 5,000 tiles, the best 500 scored exactly; measured against exact search on 511 \
synthetic queries: recall@1 0.990, recall@10 0.991
ground       west 10.50000, south -3.25000, east 11.25000, north -3.00000 (WGS84)
tile size    60 x 30 m (1,000), 60 x 30 m (1,001), 60 x 30 m (1,002), 60 x 30 m (1,003), 60 x 30 m (1,004)
source       s0 (1,200 tiles); Survey, CC0
source       s1 (1,200 tiles); Survey, CC0
source       s2 (1,200 tiles); CC0
source       s3 (1,200 tiles); CC0
source       s4 (1,200 tiles); CC0, 2024
             and 2 more sources
fusion       max of the scores of the tiles around one centre
partly empty 1,234 tiles had pixels without data when they were built
left out     1,002 tiles: no data
left out     6 tiles: unreadable
             t0: damaged
             t1: damaged
             t2: damaged
             t3: damaged
             t4: damaged
build        12.3 s in its last run
added        2026-01-01 tiles 1, source x
added        2026-01-04 tiles 4, source x
added        2026-01-05 tiles 5, source x
added        2026-01-06 tiles 6, source x
added        2026-01-07 tiles 7, source x
added        2026-01-08 tiles 8, source x"""


def test_summary_lists_content_search_sources_and_history(manifest):
    rows = [{"tile_id": f"t{number}", "lat": 1.0, "lon": 2.0, "reason": "damaged"} for number in range(6)]
    assert summary("town.gengeo", manifest, pa.Table.from_pylist(rows, LEFT_OUT_SCHEMA)) == LINES


def test_summary_of_an_index_without_tiles_is_short():
    manifest = replace(new_manifest(8, Model(HASH), {}), created="")
    assert summary("x", manifest, LEFT_OUT_SCHEMA.empty_table()).splitlines() == [
        "index        x, created unknown, version 0",
        "tiles        0 of 8 dimensions, 0.0 MB",
        "segments     0",
        "model        unnamed, fingerprint 0123456789abcdef",
        "search       exact",
    ]


def test_summary_of_adapted_descriptors_names_the_adaptation_before_the_search():
    means = Means([0.0] * 8, [0.0] * 8, images=40)
    manifest = replace(new_manifest(8, Model(HASH, centering="photos"), {}), means=means)
    lines = summary("x", manifest, LEFT_OUT_SCHEMA.empty_table()).splitlines()
    assert lines[4].startswith("adapted ") and lines[4].endswith(", from 40 images")
    assert lines[3].startswith("model ") and lines[5].startswith("search ")


@pytest.mark.parametrize(
    ("tiles", "expected"),
    [
        ([1, 1, 1], ["sources      3 of one tile each, first s0"]),
        ([1], ["source       s0 (1 tiles)"]),
        ([2, 1], ["source       s0 (2 tiles)", "source       s1 (1 tiles)"]),
        ([9] * 5, [f"source       s{number} (9 tiles)" for number in range(5)]),
    ],
)
def test_summary_of_sources_with_one_tile_each_is_one_line(tiles, expected):
    sources = [Source(f"s{number}", count) for number, count in enumerate(tiles)]
    manifest = replace(new_manifest(8, Model(HASH), {}), sources=sources)
    lines = summary("x", manifest, LEFT_OUT_SCHEMA.empty_table()).splitlines()
    assert [line for line in lines if "source" in line] == expected


def test_search_text_states_the_worst_recall(manifest):
    assert "recall@1 0.990, recall@10 0.991" in search_text(manifest)
    assert search_text(replace(manifest, segments=manifest.segments[2:])) == "exact"


def test_as_json_holds_totals_rights_and_the_lowest_recalls(manifest):
    found = as_json(manifest)
    expected = {
        "tiles": 5500,
        "partly_empty": 1234,
        "fusion": "max",
        "attribution": "Survey",
        "licence": "CC0",
        "dimensions": 64,
        "version": 7,
        "segments": 3,
        "removed": 5,
        "bytes": 11_500_000,
        "left_out": {"no data": 1002, "unreadable": 6},
        "search": {"kind": "scan", "depth": 500, "recall_at_1": 0.98, "recall_at_10": 0.991, "samples": 511},
        "created": "2026-01-02",
        "changed": "2026-01-09",
    }
    assert {key: found[key] for key in expected} == expected and len(found["history"]) == 8
    assert found["model"]["name"] == "town" and found["sources"] == [f"s{number}" for number in range(7)]
    assert found["tile_sizes"][0] == {"width_m": 60.0, "height_m": 30.4, "tiles": 1000}
    plain = as_json(new_manifest(8, Model(HASH), {}))
    assert plain["search"] == {"kind": "exact", "depth": None, "recall_at_1": 1.0, "recall_at_10": 1.0, "samples": 0}
    assert (plain["fusion"], plain["attribution"], plain["licence"], plain["model"]["name"]) == (None,) * 4
