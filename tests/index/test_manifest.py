"""Fields of the manifest: limits, defaults of absent fields, history."""

import json
from dataclasses import FrozenInstanceError, fields, is_dataclass, replace

import pytest

from gengeo_hf.index import manifest as manifest_module
from gengeo_hf.index.cluster import WorkerReport
from gengeo_hf.index.hits import Hit
from gengeo_hf.index.manifest import (
    Build,
    Contents,
    FileRecord,
    LeftOut,
    Means,
    Model,
    Scan,
    Segment,
    Shard,
    Source,
    Tombstones,
    new_manifest,
    read_manifest,
)
from gengeo_hf.index.plan import IndexPlan
from gengeo_hf.index.work import Work

HASH = "0" * 64
FILES = dict.fromkeys(("descriptors.npy", "tiles.arrow", "blocks.npy"), FileRecord(1, HASH))
BOX = Contents([1.0, 2.0, 3.0, 4.0])


def tombstones(count):
    return Tombstones("deleted-000002.npy", count, 0, HASH)


def segment(number=1, tiles=5, **options):
    return Segment(f"segment-{number:012x}", tiles, FILES, BOX, **options)


@pytest.fixture
def manifest():
    return new_manifest(2, Model(HASH), {})


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: FileRecord(-1, HASH), "bytes is -1"),
        (lambda: FileRecord(1, "0" * 63), "sha256 needs 64 hexadecimal digits"),
        (lambda: Scan("kind", ["scan-0.faiss"], 0, 9, 1.0, 1.0), "1 files, depth 0"),
        (lambda: Scan("kind", [], 5, 9, 1.0, 1.0), "0 files, depth 5"),
        (lambda: tombstones(0), "0 removed tiles"),
        (lambda: Contents([1.0, 2.0, 3.0]), "bounds needs four numbers"),
        (lambda: segment(tombstones=tombstones(5)), "5 tiles, 5 of them removed"),
        (lambda: segment(scan=Scan("kind", ["scan-0.faiss"], 5, 9, 1.0, 1.0)), r"files lacks scan-0\.faiss"),
        (lambda: LeftOut({}, "left_out-2.parquet", -1, HASH), "bytes is -1"),
        (lambda: Shard(-1, 2, "key"), "shard -1 of 2"),
        (lambda: Shard(2, 2, "key"), "shard 2 of 2"),
    ],
)
def test_record_with_a_value_out_of_range_raises_an_error(make, message):
    with pytest.raises(ValueError, match=message):
        make()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dim": 0}, "dim is 0"),
        ({"dim": 1_000_001}, "dim is 1000001"),
        ({"segments": [segment(), segment()]}, "a segment is listed twice"),
        ({"bounds": [1.0, 2.0, 3.0, 4.0, 5.0]}, "bounds needs four numbers"),
        ({"means": Means([1.0, 2.0], [1.0])}, "means need 2 values"),
        ({"means": Means([1.0], [1.0, 2.0])}, "means need 2 values"),
        ({"means": Means([1.0], [1.0])}, "means need 2 values"),
    ],
)
def test_manifest_with_a_value_out_of_range_raises_an_error(manifest, changes, message):
    with pytest.raises(ValueError, match=message):
        replace(manifest, **changes)


def test_manifest_with_values_at_their_limits_is_accepted(manifest):
    assert FileRecord(0, HASH).bytes == 0 and Scan("kind", ["scan-0.faiss"], 1, 9, 1.0, 1.0).depth == 1
    one = segment(tombstones=tombstones(1))
    assert (one.deleted, one.live) == (1, 4) and segment(tombstones=tombstones(4)).live == 1
    assert (segment().deleted, segment().live) == (0, 5)
    assert [Shard(number, 2, "key").number for number in (0, 1)] == [0, 1]
    assert [replace(manifest, dim=dim).dim for dim in (1, 1_000_000)] == [1, 1_000_000]
    both = replace(manifest, segments=[one, segment(2)], bounds=[1.0] * 4, means=Means([1.0, 2.0], [3.0, 4.0]))
    assert (both.tiles, both.deleted) == (9, 1)


def test_read_manifest_without_optional_fields_takes_their_defaults(tmp_path):
    """An earlier version wrote fewer fields."""
    record = {"bytes": 1, "sha256": HASH}
    content = {
        "format": "gengeo-index",
        "format_version": 2,
        "dim": 2,
        "model": {"fingerprint": HASH},
        "segments": [
            {
                "name": "segment-000000000001",
                "tiles": 5,
                "files": dict.fromkeys(FILES, record),
                "contents": {"bounds": [1.0, 2.0, 3.0, 4.0]},
            }
        ],
        "sources": [{"name": "a"}],
        "means": {"ground": [1.0, 2.0], "aerial": [3.0, 4.0]},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(content))
    found = read_manifest(tmp_path)
    assert (found.version, found.partly_empty, found.fusion, found.history) == (1, 0, "", [])
    assert found.model == Model(HASH, "", None, "", None, False) and not found.model.flip
    assert found.sources == [Source("a", 0)] and found.sources[0].tiles == 0
    assert found.build == Build(0.0, 0.0) and found.build.seconds == found.build.tiles_per_second == 0
    assert (found.left_out.reasons, found.left_out.bytes, found.means.images) == ({}, 0, 0)
    assert found.segments == [segment()]


def test_with_event_keeps_the_first_and_the_last_twenty_events(manifest):
    assert manifest.version == 0
    for number in range(1, 24):
        manifest = manifest.with_event("added", tiles=number, area=None, note="", ids=[], zero=0)
        kept = [event.details["tiles"] for event in manifest.history]
        assert kept == ([*range(1, number + 1)] if number <= 21 else [1, *range(number - 19, number + 1)])
    assert manifest.version == 23 and manifest.changed == manifest.history[-1].when
    assert manifest.history[-1].details == {"tiles": 23, "zero": 0} and manifest.history[-1].what == "added"


def test_content_id_has_twelve_digits_and_changes_with_removed_tiles(manifest):
    whole = replace(manifest, segments=[segment()])
    fewer = replace(manifest, segments=[segment(tombstones=tombstones(1))])
    other = replace(FileRecord(1, HASH), sha256="1" * 64)
    tiles = replace(manifest, segments=[replace(segment(), files=FILES | {"tiles.arrow": other})])
    ids = {one.content_id for one in (manifest, whole, fewer, tiles)}
    assert len(ids) == 4 and {len(one) for one in ids} == {12}


@pytest.mark.parametrize(
    "kind",
    [
        *(
            kind
            for kind in vars(manifest_module).values()
            if is_dataclass(kind) and kind.__module__ == manifest_module.__name__
        ),
        IndexPlan,
        WorkerReport,
        Work,
        Hit,
    ],
)
def test_record_cannot_be_changed(kind):
    """Records are shared by versions and threads."""
    with pytest.raises(FrozenInstanceError):
        setattr(object.__new__(kind), fields(kind)[0].name, 1)
