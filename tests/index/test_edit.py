"""Edits: which segments are merged, which files are removed, which tiles are selected."""

import os

import faiss
import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index import GeoIndex, edit
from gengeo_hf.index.edit import Edit, check_output, editing, link_or_copy, merged_rows, tombstone_mask, write_index
from gengeo_hf.index.manifest import Model, read_manifest
from gengeo_hf.index.scan import read_scan
from gengeo_hf.index.segment import NewRows, SegmentReader, write_segment
from gengeo_hf.index.version import Version
from tests.index.test_contents import segment
from tests.stubs import ListSource, StubEncoder


@pytest.fixture
def merges(index, monkeypatch):
    """Edit with given segments (tiles, removed tiles); returns the tiles of the segments of each merge."""
    monkeypatch.setattr(Edit, "add_scans", lambda self: None)
    found = []

    def merge(self, records):
        found.append([record.tiles for record in records])
        self.segments = [record for record in self.segments if record not in records]

    monkeypatch.setattr(Edit, "merge", merge)

    def run(*sizes):
        found.clear()
        change = Edit(index.path, Version(index.path))
        contents = index.manifest.segments[0].contents
        change.segments = [segment(number, tiles, contents, dead) for number, (tiles, dead) in enumerate(sizes)]
        change.tidy()
        return list(found)

    return run


def test_tidy_merges_the_smallest_segments_of_more_than_twenty(merges):
    """At most 20,000 tiles are merged, and only if they are of two segments or more."""
    assert merges(*[(1000, 0)] * 20) == []
    assert merges(*[(1001 - number, 0) for number in range(21)]) == [list(range(981, 1001))]
    assert merges(*[(30_000, 0)] * 21) == []
    assert merges(*[(30_000, 0)] * 20, (15_000, 0)) == []
    assert merges(*[(30_000, 0)] * 19, (10_000, 0), (9_000, 0)) == [[9_000, 10_000]]
    assert merges(*[(30_000, 0)] * 19, (10_000, 0), (10_000, 0)) == [[10_000, 10_000]]
    assert merges(*[(30_000, 0)] * 19, (10_000, 0), (10_001, 0)) == []
    assert merges(*[(30_000, 0)] * 19, (10_000, 0), (10_002, 2)) == [[10_000, 10_002]]  # live tiles count


def test_tidy_merges_larger_segments_of_more_than_sixty_four(merges):
    assert merges(*[(30_000, 0)] * 64) == []
    assert merges(*[(30_000, 0)] * 65) == [[30_000] * 55]
    assert merges(*[(100, 0)] * 60, *[(30_000, 0)] * 5) == [[100] * 60]


def test_tidy_rewrites_segments_with_more_than_half_of_their_tiles_removed(merges):
    assert merges((10, 5), (12, 7), (9, 4), (9, 5)) == [[12], [9]]


def test_scan_of_an_added_segment_has_the_quantiser_of_the_largest(tmp_path, monkeypatch):
    for name, value in (("EXACT_LIMIT", 50), ("SMALLEST_SCAN", 20)):
        monkeypatch.setattr(f"gengeo_hf.index.search.{name}", value)

    parts = [GeoIndex.build(StubEncoder(), ListSource(n, f"p{n}", seed=n), tmp_path / f"p{n}") for n in (80, 60)]
    index = parts[0]
    index.add(StubEncoder(), parts[1])
    digests = {s.tiles: quantiser(index, s) for s in index.manifest.segments}
    assert digests[80] != digests[60]  # both are kept as they were
    index.add(StubEncoder(), ListSource(60, "same", seed=3))
    new = index.manifest.segments[-1]
    assert new.tiles == 60 and quantiser(index, new) == digests[80]


def test_scans_of_segments_of_one_size_have_one_quantiser(tmp_path, monkeypatch):
    index = GeoIndex.build(StubEncoder(), ListSource(40, "a"), tmp_path / "idx")
    for name, value in (("EXACT_LIMIT", 50), ("SMALLEST_SCAN", 20)):
        monkeypatch.setattr(f"gengeo_hf.index.search.{name}", value)
    index.add(StubEncoder(), ListSource(40, "b", seed=1))
    first, second = (quantiser(index, record) for record in index.manifest.segments)
    assert first == second


def quantiser(index, record):
    """Rotation and constant of the query of a segment's structure."""
    made = read_scan(index.path / record.name / record.scan.files[0], 64)
    transform = faiss.downcast_VectorTransform(made.chain.at(0))
    return faiss.vector_to_array(transform.A).tobytes() + faiss.vector_to_array(transform.b).tobytes()


def test_remove_numbers_tombstones_and_tables_by_the_new_version(encoder, tmp_path):
    index = GeoIndex.build(encoder, ListSource(12, broken=[3, 5]), tmp_path / "idx")
    for name, left in (("noise-0", 2), ("noise-3", 1), ("noise-1", 1)):
        before = index.manifest.version
        index.remove([name])
        assert index.manifest.version == before + 1
        assert len(index.left_out) == left
    (record,) = index.manifest.segments
    assert record.tombstones.file == f"deleted-{index.manifest.version:06d}.npy" and record.deleted == 2
    assert index.manifest.left_out.file == f"left_out-{index.manifest.version - 1:06d}.parquet"
    assert index.remove(["noise-0", "noise-2"]) == 1 and index.manifest.deleted == 3


def test_edit_removes_files_that_no_manifest_lists_and_keeps_others(index):
    index.remove(["noise-0"])
    (record,) = index.manifest.segments
    stray = index.path / "segment-0123456789ab"
    stray.mkdir()
    (stray / "tiles.arrow").write_bytes(b"killed")
    lost = [index.path / record.name / "deleted-000099.npy", index.path / "left_out-000099.parquet"]
    kept = [index.path / name for name in ("deleted-000099.npy", "notes.parquet", "segment-mine.txt")]
    for file in lost + kept:
        file.write_bytes(b"x")
    with editing(index.path):
        pass
    assert not stray.exists() and [file.exists() for file in lost + kept] == [False] * 2 + [True] * 3
    assert "12 tiles, 1 of them removed" in GeoIndex.load(index.path).verify()


def test_editing_does_not_read_scans(tmp_path, monkeypatch):
    for name, value in (("EXACT_LIMIT", 10), ("SMALLEST_SCAN", 10)):
        monkeypatch.setattr(f"gengeo_hf.index.search.{name}", value)
    index = GeoIndex.build(StubEncoder(), ListSource(30), tmp_path / "idx")
    (record,) = index.manifest.segments
    file = index.path / record.name / record.scan.files[0]
    file.write_bytes(bytes(file.stat().st_size))
    with editing(index.path) as change:
        assert change.remove(tombstone_mask(["noise-4"], None, None, None)) == 1
    with pytest.raises(GenGeoError, match="cannot be read"):
        Version(index.path, verify=False)
    with pytest.raises(GenGeoError, match="is damaged"):
        Version(index.path)


def test_link_or_copy_copies_if_the_file_system_has_no_links(tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(b"content")
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").stat().st_ino == (tmp_path / "a").stat().st_ino

    def refuse(*_):
        raise OSError("no links")

    monkeypatch.setattr(os, "link", refuse)
    link_or_copy(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"content" and (tmp_path / "b").stat().st_nlink == 1


def test_merged_rows_hold_the_live_rows_and_their_pictures(tmp_path, monkeypatch):
    """More rows than are read at a time, of which some are removed and some have no picture."""
    monkeypatch.setattr(edit, "BLOCK", 1030)
    parts, expected = [], {}
    for part, count in enumerate((2070, 5)):
        names = [f"{part}-{number}" for number in range(count)]
        pictures = [b"" if number % 7 == 3 else f"jpeg {name}".encode() for number, name in enumerate(names)]
        values = np.arange(count, dtype=np.float16) % 1000 + 1000 * part
        lat = 10.0 + part + np.arange(count) * 1e-3
        table = tile_table(names, lat, lat, [None] * count)
        record = write_segment(tmp_path, NewRows(table, [np.stack([values, values], axis=1)], [pictures]), 2)
        reader = SegmentReader(tmp_path, record, 2)
        reader.dead = np.arange(count) % 10 == 4
        ids = reader.tiles["tile_id"].to_pylist()
        for row in np.flatnonzero(~reader.dead):
            number = int(ids[row].split("-")[1])
            expected[ids[row]] = (values[number], pictures[number])
        parts.append(reader)
    merged = merged_rows(parts)
    descriptors, pictures = np.concatenate(list(merged.descriptors)), [p for block in merged.thumbnails for p in block]
    found = zip(merged.tiles["tile_id"].to_pylist(), descriptors[:, 0], pictures, strict=True)
    assert {name: (value, picture) for name, value, picture in found} == expected and len(descriptors) == len(expected)


@pytest.mark.parametrize(
    ("bounds", "expected"),
    [
        (Bounds(-10.0, 5.0, 20.0, 15.0), ["corner", "other corner", "inside"]),
        (Bounds(170.0, 5.0, -170.0, 15.0), ["west edge", "east edge", "beyond"]),
    ],
)
def test_tombstone_mask_of_bounds_includes_their_edges(bounds, expected):
    positions = {
        "corner": (5.0, -10.0),
        "other corner": (15.0, 20.0),
        "inside": (9.0, 0.0),
        "south of it": (4.999, 0.0),
        "north of it": (15.001, 0.0),
        "west edge": (5.0, 170.0),
        "east edge": (15.0, -170.0),
        "beyond": (9.0, 180.0),
        "west of it": (9.0, 169.999),
        "east of it": (9.0, -169.999),
        "south of both": (4.999, 175.0),
        "north of both": (15.001, 175.0),
    }
    lat, lon = zip(*positions.values(), strict=True)
    table = tile_table(list(positions), lat, lon, [None] * len(lat))
    mask = tombstone_mask([], None, bounds, None)(table)
    assert np.array(list(positions))[mask].tolist() == expected


def test_compact_of_one_segment_rewrites_it_only_if_tiles_were_removed(index, encoder):
    assert index.compact() == (1, 0) and index.manifest.version == 1
    index.remove(["noise-0", "noise-5"])
    assert index.compact() == (1, 2) and (len(index), index.manifest.deleted) == (10, 0)
    index.add(encoder, ListSource(3, "more", seed=1))
    assert index.compact() == (2, 0) and len(index.segments) == 1
    assert index.manifest.history[-1].details == {"segments": 2, "removed": 0}


def test_write_index_takes_an_empty_directory_and_replaces_an_index_only_with_overwrite(tmp_path):
    def rows(count):
        names = [f"t{number}" for number in range(count)]
        return NewRows(tile_table(names, [1.0] * count, [2.0] * count, [None] * count), [np.eye(count, 4)])

    (tmp_path / "idx").mkdir()
    assert check_output(tmp_path / "idx") is None and check_output(tmp_path / "new") is None
    write_index(tmp_path / "idx", rows(3), 4, Model("0" * 64))
    with pytest.raises(GenGeoError, match="holds an index of 3 tiles"):
        write_index(tmp_path / "idx", rows(2), 4, Model("0" * 64))
    with pytest.raises(GenGeoError, match="holds an index of 3 tiles"):
        check_output(tmp_path / "idx")
    assert write_index(tmp_path / "idx", rows(2), 4, Model("0" * 64), overwrite=True).tiles == 2
    (tmp_path / "idx" / "mine.txt").write_text("mine")
    assert check_output(tmp_path / "idx", overwrite=True).tiles == 2  # an edit keeps it
    with pytest.raises(GenGeoError, match=r"also holds mine\.txt"):
        write_index(tmp_path / "idx", rows(2), 4, Model("0" * 64), overwrite=True)
    assert read_manifest(tmp_path / "idx").tiles == 2


def test_check_output_ignores_files_of_edits_in_progress(index):
    (index.path / "segment-0123456789ab").mkdir()
    for name in ("segment-0123456789ab/tiles.arrow", ".lock", "left_out-000099.parquet", ".gitattributes", "README.md"):
        (index.path / name).write_bytes(b"x")
    assert check_output(index.path, overwrite=True, whole=True).tiles == 12
    for name in ("segment-0123456789ab/deep/file", "segment-of-mine/file"):
        (index.path / name).parent.mkdir()
        (index.path / name).write_bytes(b"x")
        with pytest.raises(GenGeoError, match=f"also holds {name}"):
            check_output(index.path, overwrite=True, whole=True)
        (index.path / name).unlink()
