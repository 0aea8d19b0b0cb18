"""Shards of an unfinished build: division, names, contents."""

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest

from gengeo_hf.index.work import SHARD_SCHEMA, Work, read_descriptors, read_jpegs, read_states
from tests.stubs import ListSource, StubEncoder


def table(*rows):
    """Shard of (row, state, descriptor or None, JPEG or None)."""
    columns = [list(column) for column in zip(*rows, strict=True)]
    columns[2] = [None if value is None else np.array(value, np.float16).tobytes() for value in columns[2]]
    return pa.table(columns, schema=SHARD_SCHEMA)


@pytest.fixture
def work(tmp_path):
    found = Work(tmp_path / "idx.partial" / "key", "key of the build", 1000)
    found.begin()
    return found


def test_units_are_shards_of_256_tiles_divided_evenly_among_parts(work):
    shards = [range(0, 256), range(256, 512), range(512, 768), range(768, 1000)]
    assert work.units() == shards
    assert [work.units((number, 3)) for number in range(3)] == [shards[:1], shards[1:2], shards[2:]]
    assert [work.units((number, 5)) for number in range(5)] == [[], shards[:1], shards[1:2], shards[2:3], shards[3:]]
    assert Work(work.folder, "", 512).units() == shards[:2] and Work(work.folder, "", 0).units() == []
    assert work.file(shards[1]).name == "shard-000000256.parquet"


def test_work_of_a_build_is_beside_the_index_under_its_key(tmp_path):
    made = Work.of(tmp_path / "town.gengeo", StubEncoder(), ListSource(7), 128)
    assert made.folder == tmp_path / "town.gengeo.partial" / made.key[:16] and len(made.key) == 64
    assert made.tiles == 7 and not made.folder.exists()
    others = [
        Work.of(tmp_path / "x", encoder, source, size).key
        for encoder, source, size in (
            (StubEncoder("other"), ListSource(7), 128),
            (StubEncoder(), ListSource(8), 128),
            (StubEncoder(), ListSource(7), 64),
        )
    ]
    assert len({made.key, *others}) == 4 and Work.of(tmp_path / "x", StubEncoder(), ListSource(7), 128).key == made.key


def test_read_states_counts_tiles_by_their_state(work):
    first, second = work.units()[:2]
    work.write(first, table((0, "", [1, 2], b"a"), (1, "no data", None, None), (2, "partly empty", [3, 4], b"")))
    work.write(second, table((256, "damaged", None, None), (257, "", [5, 6], b"c"), (258, "no data", None, None)))
    files = [work.file(first), work.file(second)]
    rows, broken, no_data, partly_empty = read_states(files)
    assert (rows.tolist(), broken, no_data, partly_empty) == ([0, 2, 257], {256: "damaged"}, 2, 1)
    assert [block.tolist() for block in read_descriptors(files, 2)] == [[[1, 2], [3, 4]], [[5, 6]]]
    assert list(read_jpegs(files)) == [[b"a", b""], [b"c"]]
    nothing = read_states([])
    assert (len(nothing[0]), *nothing[1:]) == (0, {}, 0, 0) and nothing[0].dtype == np.int64


def test_is_complete_compares_key_and_contents(work):
    unit = work.units()[3]
    assert not work.is_complete(unit)
    work.write(unit, table((768, "", [1, 2], b"a")))
    assert work.is_complete(unit)
    assert not Work(work.folder, "another key", 1000).is_complete(unit)
    stated = pyarrow.parquet.read_schema(work.file(unit)).metadata
    changed = table((768, "", [1, 3], b"a")).replace_schema_metadata(stated)
    pyarrow.parquet.write_table(changed, work.file(unit))
    assert not work.is_complete(unit)


def test_work_that_was_assembled_is_not_written_again(work):
    unit = work.units()[0]
    assert work.is_active()
    work.begin()
    with work.assembling() as is_ours:
        assert is_ours
        work.write(unit, table((0, "", [1, 2], b"")))
        assert work.file(unit).exists()
        work.end()
    assert not work.is_active() and not work.folder.parent.exists()
    work.end()  # a second time has no effect
    work.folder.mkdir(parents=True)
    with work.assembling() as is_ours:
        assert not is_ours
    work.folder.mkdir(parents=True)
    work.write(unit, table((0, "", [1, 2], b"")))
    assert not work.file(unit).exists()


def test_others_are_directories_with_shards_of_other_commands(work):
    parent = work.folder.parent
    for name, file in (("b", "shard-000000000.parquet"), ("a", "shard-000000256.parquet"), ("c", "plan.json")):
        (parent / name).mkdir()
        (parent / name / file).write_bytes(b"")
    work.write(work.units()[0], table((0, "", [1, 2], b"")))
    assert work.others() == [parent / "a", parent / "b"]
