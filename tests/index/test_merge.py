"""Divided builds and merged indexes: no tile is encoded twice or lost."""

import json
import shutil

import faiss
import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.index import GeoIndex, segment, work
from gengeo_hf.index.build import build_index
from gengeo_hf.index.merge import merge_indexes
from gengeo_hf.index.scan import read_scan
from tests.stubs import ListSource, StubEncoder


@pytest.fixture
def parts(tmp_path, monkeypatch):
    """A source of 40 tiles in units of six, built in three parts."""
    monkeypatch.setattr(work, "SHARD", 6)
    source = ListSource(40, broken=[3, 38], empty=[20])
    source.left_out = {"rows without a file": 7}  # of the whole table, which every part reads
    for number in range(3):
        build_index(StubEncoder(), source, tmp_path / f"part{number}", shard=(number, 3))
    return source, [tmp_path / f"part{number}" for number in range(3)]


def rows(index):
    """Contents of an index by tile, independent of the order of rows."""
    names, table = index.tiles["tile_id"].to_pylist(), index.tiles.to_pylist()
    pictures = index.thumbnails(names)
    return {
        name: (str(row), index.descriptors[n].tobytes(), pictures[name])
        for n, (name, row) in enumerate(zip(names, table, strict=True))
    }


def test_merge_of_parts_equals_one_build(parts, tmp_path):
    source, folders = parts
    sizes = [len(GeoIndex.load(folder)) for folder in folders]
    merge_indexes(folders, tmp_path / "merged")
    merged, whole = GeoIndex.load(tmp_path / "merged"), GeoIndex.build(StubEncoder(), source, tmp_path / "whole")
    assert sizes == [11, 11, 15] and rows(merged) == rows(whole)
    assert merged.manifest.left_out.reasons == whole.manifest.left_out.reasons
    assert merged.manifest.left_out.reasons == {"no data": 1, "unreadable": 2, "rows without a file": 7}
    assert merged.left_out["tile_id"].to_pylist() == ["noise-3", "noise-38"]
    queries = np.asarray(whole.descriptors[:5], np.float32)
    ids = [[[hit.tile_id for hit in line] for line in index.search(queries, 5)] for index in (merged, whole)]
    assert ids[0] == ids[1] and "all match the manifest" in merged.verify()
    again = StubEncoder()
    assert build_index(again, source, tmp_path / "merged").was_complete and not again.encoded
    shutil.rmtree(folders[0])  # a merged index stands alone
    assert "all match" in GeoIndex.load(tmp_path / "merged").verify()


def test_build_of_the_same_part_has_nothing_to_do_and_of_another_raises_an_error(parts):
    source, folders = parts
    assert build_index(StubEncoder(), source, folders[1], shard=(1, 3)).was_complete
    with pytest.raises(GenGeoError, match="--overwrite"):
        build_index(StubEncoder(), source, folders[1], shard=(2, 3))


def test_merge_of_unsuitable_parts_raises_one_line(parts, tmp_path):
    source, folders = parts
    whole = GeoIndex.build(StubEncoder(), source, tmp_path / "whole").path
    other = GeoIndex.build(StubEncoder("other"), source, tmp_path / "other").path
    build_index(StubEncoder(), ListSource(40, "else"), tmp_path / "else1", shard=(1, 3))
    cases = [
        ([folders[0], folders[2]], "shard 1 of 3 is missing"),
        ([folders[0], folders[1], folders[2], folders[1]], "are both shard 1"),
        ([whole, whole], "are both the same index"),
        ([folders[0], whole], "is not a part of a divided build"),
        ([whole, other], "another model"),
        ([folders[0], tmp_path / "else1", folders[2]], "a part of another build"),
        ([folders[0], tmp_path / "nowhere"], "there is no index at"),
        ([], "nothing to merge"),
    ]
    for given, message in cases:
        with pytest.raises(GenGeoError, match=message):
            merge_indexes(given, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_merge_of_equal_ids_keeps_the_last_tile(tmp_path):
    old = GeoIndex.build(StubEncoder(), ListSource(10, "a", seed=1), tmp_path / "old")
    new = GeoIndex.build(StubEncoder(), ListSource(5, "a", seed=2), tmp_path / "new")
    merge_indexes([old.path, new.path], tmp_path / "out")
    merged = GeoIndex.load(tmp_path / "out")
    assert len(merged) == 10 and rows(merged).items() >= rows(new).items()
    merged.compact()
    assert len(rows(GeoIndex.load(tmp_path / "out"))) == 10 and merged.manifest.deleted == 0


def test_merge_takes_an_index_without_tiles(tmp_path):
    indexes = [GeoIndex.build(StubEncoder(), ListSource(6, name), tmp_path / name) for name in ("full", "emptied")]
    indexes[1].remove(indexes[1].tiles["tile_id"].to_pylist())
    merge_indexes([index.path for index in indexes], tmp_path / "out")
    assert len(GeoIndex.load(tmp_path / "out")) == 6


def test_merge_of_a_damaged_part_raises_an_error_and_writes_nothing(parts, tmp_path):
    _, folders = parts
    file = folders[1] / GeoIndex.load(folders[1]).manifest.segments[0].name / "descriptors.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(GenGeoError, match="is damaged"):
        merge_indexes(folders, tmp_path / "out")
    file.unlink()
    with pytest.raises(GenGeoError, match="lacks"):
        merge_indexes(folders, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_merge_takes_a_part_without_a_readable_tile(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "SHARD", 6)
    source = ListSource(12, empty=range(6))
    for number in range(2):
        build_index(StubEncoder(), source, tmp_path / f"{number}", shard=(number, 2))
    merge_indexes([tmp_path / "0", tmp_path / "1"], tmp_path / "out")
    merged = GeoIndex.load(tmp_path / "out")
    assert len(merged) == 6 and merged.manifest.left_out.reasons == {"no data": 6}


def test_tidy_merges_many_small_segments_and_adds_scans_to_a_large_index(tmp_path, monkeypatch):
    for name, value in (("EXACT_LIMIT", 100), ("SMALLEST_SCAN", 40), ("LEAST_DEPTH", 40)):
        monkeypatch.setattr(f"gengeo_hf.index.search.{name}", value)
    index = GeoIndex.build(StubEncoder(), ListSource(90, "first"), tmp_path / "idx")
    assert index.manifest.segments[0].scan is None
    for number in range(25):
        index.add(StubEncoder(), ListSource(3, f"more{number}", seed=100 + number))
    assert len(index) == 165 and len(index.manifest.segments) <= 20
    assert index.manifest.segments[0].scan is not None and "compressed scan" in index.report()
    assert json.loads((index.path / "manifest.json").read_text())["version"] == 26
    assert len(index.manifest.history) == 21 and index.manifest.history[0].what == "built"
    hits = index.search(np.asarray(index.descriptors, np.float32), 1)
    assert [line[0].tile_id for line in hits] == index.tiles["tile_id"].to_pylist()


def test_segments_use_the_quantiser_of_the_largest_and_compact_learns_a_new_one(tmp_path, monkeypatch):
    for name, value in (("EXACT_LIMIT", 100), ("SMALLEST_SCAN", 40)):
        monkeypatch.setattr(f"gengeo_hf.index.search.{name}", value)

    def centroids(index):
        scans = [read_scan(file, 64) for name, file in index.files().items() if name.endswith(".faiss")]
        return [faiss.vector_to_array(faiss.downcast_index(scan.index).pq.centroids) for scan in scans]

    index = GeoIndex.build(StubEncoder(), ListSource(90, "first"), tmp_path / "idx")
    for number in range(2):  # the first addition makes the index a large one
        index.add(StubEncoder(), ListSource(60, f"more{number}", seed=100 + number))
    shared = centroids(index)
    assert len(shared) == 3 and all(np.array_equal(shared[0], other) for other in shared)
    hits = index.search(np.asarray(index.descriptors, np.float32), 1)
    assert [line[0].tile_id for line in hits] == index.tiles["tile_id"].to_pylist()
    index.compact()
    assert len(centroids(index)) == 1 and not np.array_equal(centroids(index)[0], shared[0])


def test_compact_that_cannot_write_its_scan_keeps_the_index(tmp_path, monkeypatch):
    resource = pytest.importorskip("resource")
    index = GeoIndex.build(StubEncoder(), ListSource(90), tmp_path / "idx")
    index.add(StubEncoder(), ListSource(30, "more", seed=1))
    for name, value in (("EXACT_LIMIT", 100), ("SMALLEST_SCAN", 40)):
        monkeypatch.setattr(f"gengeo_hf.index.search.{name}", value)
    monkeypatch.setattr("gengeo_hf.index.edit.add_scan", _with_file_limit(resource, 10_000, segment.add_scan))
    with pytest.raises(GenGeoError, match="could not be written"):
        index.compact()
    assert len(GeoIndex.load(index.path)) == 120 and len(list(index.path.glob("segment-*"))) == 2


def _with_file_limit(resource, size, call):
    """Simulate a full disk: files cannot grow beyond a size."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def limited(*arguments):
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
        try:
            return call(*arguments)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)

    return limited


def test_two_compactions_at_once_raise_one_line(tmp_path):
    from gengeo_hf.common.locks import exclusive

    index = GeoIndex.build(StubEncoder(), ListSource(), tmp_path / "idx")
    with exclusive(index.path / ".lock"), pytest.raises(GenGeoError, match="another process is changing"):
        index.compact()
    assert index.compact() == (1, 0)


def test_saved_copy_of_an_index_loads(tmp_path):
    index = GeoIndex.build(StubEncoder(), ListSource(broken=[2]), tmp_path / "idx")
    index.add(StubEncoder(), ListSource(4, "more", seed=3))
    index.remove(["noise-0"])
    index.save_pretrained(tmp_path / "copy")
    copy = GeoIndex.from_pretrained(tmp_path / "copy")
    assert rows(copy) == rows(index) and set(copy.files()) == set(index.files())
    with pytest.raises(GenGeoError, match="--overwrite"):
        index.save_pretrained(tmp_path / "copy")
    (tmp_path / "copy" / "mine.txt").write_text("precious")
    with pytest.raises(GenGeoError, match=r"also holds mine\.txt"):
        index.save_pretrained(tmp_path / "copy", overwrite=True)


def test_commands_build_shards_and_merge_them(gengeo, tiny_checkpoint, tmp_path):
    from tests.torture import inputs

    inputs.write_map_tiles(tmp_path / "tiles", 20, 15, 0)
    for number in (0, 1):
        code, _, err = gengeo(
            "index",
            tmp_path / "tiles",
            "--out",
            tmp_path / f"p{number}",
            "--model",
            tiny_checkpoint,
            "--shard",
            f"{number}/2",
        )
        assert code == 0, err
    code, out, _ = gengeo("merge", tmp_path / "p0", tmp_path / "p1", "--out", tmp_path / "city")
    assert code == 0 and "of 2 parts" in out
    arguments = ("index", tmp_path / "tiles", "--out", tmp_path / "city", "--model", tiny_checkpoint)
    code, out, _ = gengeo(*arguments)
    assert code == 0 and "nothing to do" in out
    assert gengeo(*arguments, "--shard", "2/2")[0] == 2
    code, out, _ = gengeo("compact", tmp_path / "city", "--json")
    assert code == 0 and json.loads(out)["tiles"] == json.loads(gengeo("info", tmp_path / "city", "--json")[1])["tiles"]
    assert gengeo("merge", tmp_path / "p0", "--out", tmp_path / "x")[0] == 1
