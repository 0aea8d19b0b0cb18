"""Files of a segment: descriptors, pictures, removed rows, and what does not match the manifest."""

import io
import os
import pickle
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
from PIL import Image

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.tiles import tile_table
from gengeo_hf.index import segment
from gengeo_hf.index.manifest import FileRecord, Scan, Tombstones
from gengeo_hf.index.segment import NewRows, SegmentReader, check_files, thumbnail, write_segment, write_tombstones


def rows(count, dim=2, blocks=1, pictures=None):
    """Tiles from north to south, so that the stored order is reversed; values count them."""
    lat = 50.0 - np.arange(count) * 1e-3
    table = tile_table([f"t{number}" for number in range(count)], lat, [10.0] * count, [None] * count)
    values = np.repeat(np.arange(count, dtype=np.float16)[:, None], dim, axis=1)
    return NewRows(table, np.array_split(values, blocks), pictures)


@pytest.mark.parametrize("allocates", [True, False])
@pytest.mark.parametrize("blocks", [1, 3])
def test_write_segment_stores_each_descriptor_with_its_tile(tmp_path, monkeypatch, allocates, blocks):
    if not allocates:
        monkeypatch.delattr(os, "posix_fallocate", raising=False)
    record = write_segment(tmp_path, rows(700, 3, blocks), 3)
    reader = SegmentReader(tmp_path, record, 3)
    order = [int(name[1:]) for name in reader.tiles["tile_id"].to_pylist()]
    assert sorted(order) == list(range(700)) and order[0] > order[-1]
    assert np.array_equal(reader.descriptors, np.repeat(np.array(order)[:, None], 3, axis=1))
    assert record.tiles == 700 and reader.balls.shape == (3, 4)
    size = record.files["descriptors.npy"].bytes
    assert size == (tmp_path / record.name / "descriptors.npy").stat().st_size == 128 + 2 * 3 * 700
    assert reader.thumbnails([0, 5]) == {} and reader.tiles["thumbnail"].null_count == 700


def test_write_segment_without_allocation_writes_no_more_bytes_than_needed(tmp_path, monkeypatch):
    """Zeros are written in blocks of 16 MiB."""
    monkeypatch.delattr(os, "posix_fallocate", raising=False)
    dim = 9_000_000
    record = write_segment(tmp_path, rows(1, dim), dim)
    assert (tmp_path / record.name / "descriptors.npy").stat().st_size == 128 + 2 * dim


@pytest.mark.parametrize("count", [6, 8])
def test_write_segment_with_another_number_of_descriptors_raises_an_error(tmp_path, count):
    wrong = replace(rows(7), descriptors=[np.zeros((3, 2)), np.zeros((count - 3, 2))])
    with pytest.raises(GenGeoError, match=f"found {count} descriptors for 7 tiles"):
        write_segment(tmp_path, wrong, 2)


def test_thumbnails_are_read_from_groups_of_64(tmp_path):
    """Blocks of other sizes, some tiles without a picture."""
    names = [b"" if number % 10 == 3 else f"jpeg {number}".encode() for number in range(150)]
    blocks = [names[:50], names[50:70], names[70:149], names[149:]]
    record = write_segment(tmp_path, rows(150, pictures=blocks), 2)
    reader = SegmentReader(tmp_path, record, 2)
    ids = [int(name[1:]) for name in reader.tiles["tile_id"].to_pylist()]
    found = reader.thumbnails(range(150))
    assert {ids[row]: jpeg for row, jpeg in found.items()} == {n: jpeg for n, jpeg in enumerate(names) if jpeg}
    row = ids.index(149)
    assert reader.thumbnails([row]) == {row: b"jpeg 149"}
    stored = pyarrow.parquet.ParquetFile(tmp_path / record.name / "thumbnails.parquet")
    sizes = [stored.metadata.row_group(number).num_rows for number in range(stored.num_row_groups)]
    assert sizes == [64, 64, 7] and stored.read()["tile_id"].to_pylist()[:4] == ["t0", "t1", "t2", "t4"]


def test_thumbnail_fits_into_a_square_and_keeps_the_shape():
    image = Image.fromarray(np.random.default_rng(0).integers(0, 255, (60, 200, 3), np.uint8))
    jpeg = thumbnail(image, 50)
    with Image.open(io.BytesIO(jpeg)) as small:
        assert small.size == (50, 15) and small.format == "JPEG"
    assert image.size == (200, 60)


def test_write_tombstones_marks_the_removed_rows(tmp_path):
    record = write_segment(tmp_path, rows(11), 2)
    dead = np.isin(np.arange(11), [0, 3, 10])
    tombstones = write_tombstones(tmp_path, record, dead, 41)
    assert (tombstones.file, tombstones.count) == ("deleted-000041.npy", 3)
    reader = SegmentReader(tmp_path, replace(record, tombstones=tombstones), 2)
    assert np.array_equal(reader.dead, dead) and reader.live_rows().tolist() == [1, 2, *range(4, 10)]
    names = np.array(reader.tiles["tile_id"].to_pylist())
    assert reader.live_tiles()["tile_id"].to_pylist() == names[~dead].tolist()
    wrong = Tombstones(tombstones.file, 2, tombstones.bytes, tombstones.sha256)
    with pytest.raises(GenGeoError, match="does not fit the manifest"):
        SegmentReader(tmp_path, replace(record, tombstones=wrong), 2)


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("descriptors.npy", np.zeros((10, 2), np.float16)),
        ("descriptors.npy", np.zeros((11, 2), np.float32)),
        ("blocks.npy", np.zeros((2, 4))),
        ("blocks.npy", np.zeros((1, 5))),
    ],
)
def test_segment_with_an_array_of_another_shape_or_type_raises_an_error(tmp_path, name, content):
    record = write_segment(tmp_path, rows(11), 2)
    np.save(tmp_path / record.name / name, content)
    with pytest.raises(GenGeoError, match=f"{name} holds .*, expected"):
        SegmentReader(tmp_path, record, 2)


def test_segment_with_a_table_of_other_tiles_or_columns_raises_an_error(tmp_path):
    record, other = write_segment(tmp_path, rows(11), 2), write_segment(tmp_path, rows(12), 2)
    file = tmp_path / record.name / "tiles.arrow"
    whole = SegmentReader(tmp_path, record, 2).tiles
    file.unlink()
    os.link(tmp_path / other.name / "tiles.arrow", file)
    with pytest.raises(GenGeoError, match="does not fit its manifest"):
        SegmentReader(tmp_path, record, 2)
    file.unlink()
    fewer = whole.drop_columns("area")
    with pa.OSFile(str(file), "wb") as sink, pa.ipc.new_file(sink, fewer.schema) as writer:
        writer.write_table(fewer)
    with pytest.raises(GenGeoError, match="does not fit its manifest"):
        SegmentReader(tmp_path, record, 2)


def test_segment_with_a_scan_of_other_rows_raises_an_error(tmp_path):
    vectors = np.random.default_rng(0).standard_normal((40, 8)).astype(np.float16)
    lat = np.arange(40.0)
    tables = [tile_table([f"t{n}" for n in range(size)], lat[:size], lat[:size], [None] * size) for size in (40, 30)]
    record, other = (write_segment(tmp_path, NewRows(table, [vectors[: len(table)]]), 8) for table in tables)
    scanned = segment.add_scan(tmp_path, other, None)
    assert scanned.scan.files == ["scan-0.faiss"] and SegmentReader(tmp_path, scanned, 8).part().scan
    assert SegmentReader(tmp_path, scanned, 8, searchable=False).part().scan == []
    os.link(tmp_path / other.name / "scan-0.faiss", tmp_path / record.name / "scan-0.faiss")
    files = record.files | {"scan-0.faiss": FileRecord(1, "0" * 64)}
    with pytest.raises(GenGeoError, match="does not hold the 40 tiles of its segment"):
        SegmentReader(tmp_path, replace(record, files=files, scan=Scan("kind", ["scan-0.faiss"], 32, 9, 1.0, 1.0)), 8)


def test_runs_in_an_area_hold_only_centres_inside_its_edges(tmp_path):
    """0.5 m outside is outside."""
    lat = np.array([10.0, 10.1, 10.1 + 4.5e-6, 9.9, 9.9 - 4.5e-6])
    names = ["middle", "north", "beyond", "south", "below"]
    record = write_segment(tmp_path, NewRows(tile_table(names, lat, [5.0] * 5, [None] * 5), [np.eye(5, 8)]), 8)
    reader = SegmentReader(tmp_path, record, 8)
    ids = np.array(reader.tiles["tile_id"].to_pylist())
    runs = reader.runs_in(Area.from_bounds(Bounds(4.9, 9.9, 5.1, 10.1)))
    inside = np.concatenate([ids[first:end][mask] for first, end, mask in runs]).tolist()
    assert sorted(inside) == ["middle", "north", "south"]


def test_check_files_compares_checksums_unless_only_sizes_are_requested(tmp_path):
    record = write_segment(tmp_path, rows(11), 2)
    file = tmp_path / record.name / "descriptors.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    check_files(tmp_path, record.checked_files(), checksums=False)
    with pytest.raises(GenGeoError, match="is damaged"):
        check_files(tmp_path, record.checked_files())


class Attack:
    """Creates a directory when it is unpickled."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path,)


def test_segment_with_a_pickle_in_place_of_descriptors_does_not_run_it(tmp_path):
    record = write_segment(tmp_path, rows(11), 2)
    (tmp_path / record.name / "descriptors.npy").write_bytes(pickle.dumps(Attack(tmp_path / "attacked")))
    with pytest.raises(GenGeoError, match="cannot be read"):
        SegmentReader(tmp_path, record, 2)
    with pytest.raises(ValueError, match="allow_pickle="):
        segment.add_scan(tmp_path, record, None)
    assert not (tmp_path / "attacked").exists()
