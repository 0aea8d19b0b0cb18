"""Defaults and limits of `GeoIndex`, and the versions that it opens."""

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.tiles import Rights, tile_table
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.edit import write_index
from gengeo_hf.index.manifest import Model, Source
from gengeo_hf.index.segment import NewRows
from gengeo_hf.index.version import Version
from tests.stubs import ListSource, StubEncoder


def written(path, vectors, names=None, sources=()):
    count = len(vectors)
    table = tile_table([f"t{n}" for n in range(count)], 10.0 + np.arange(count), [20.0] * count, [None] * count)
    if names:
        table = table.set_column(8, table.schema.field("source"), [names])
    write_index(path, NewRows(table, [np.asarray(vectors)]), len(vectors[0]), Model("0" * 64), sources)
    return GeoIndex.load(path)


def damage(index, name="descriptors.npy"):
    """Change the last byte of a file of the first segment."""
    file = index.path / index.manifest.segments[0].name / name
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def test_search_returns_five_hits_by_default(index, encoder, source):
    queries = encoder.encode(source.images[:2], "ground")
    assert [len(line) for line in index.search(queries)] == [5, 5]
    assert [len(line) for line in index.search(queries[0], 1)] == [1]
    with pytest.raises(GenGeoError, match="64 dimensions, the query has shape"):
        index.search(np.zeros((1, 2, 64), np.float32))
    with pytest.raises(GenGeoError, match="64 dimensions, the query has shape"):
        index.search(np.zeros((2, 65), np.float32))


def test_search_with_a_value_that_is_not_finite_raises_an_error(index):
    queries = np.zeros((2, 64), np.float32)
    queries[1, 3] = np.inf
    with pytest.raises(GenGeoError, match="NaN or infinity"):
        index.search(queries)


@pytest.mark.parametrize(("length", "is_valid"), [(1.008, True), (0.992, True), (1.012, False), (0.988, False)])
def test_verify_accepts_lengths_within_a_hundredth(tmp_path, length, is_valid):
    """The last of several tiles is wrong."""
    vectors = np.repeat([[0.6, 0.8]], 5, axis=0)
    vectors[4] *= length
    index = written(tmp_path / "idx", vectors)
    if is_valid:
        assert index.verify() == f"{index.path}: 5 tiles, 3 files, all match the manifest"
    else:
        with pytest.raises(GenGeoError, match="has not length 1"):
            index.verify()


def test_verify_counts_tiles_of_all_segments(index, encoder):
    index.add(encoder, ListSource(4, "more", seed=1))
    index.remove(["noise-2", "more-0"])
    count = len(index.files()) - 1
    assert index.verify() == f"{index.path}: 16 tiles, 2 of them removed, {count} files, all match the manifest"


def test_versions_are_verified_by_default_but_not_when_they_are_reloaded(index):
    damage(index)
    for open_index in (GeoIndex.load, GeoIndex.from_pretrained, Version):
        with pytest.raises(GenGeoError, match="is damaged"):
            open_index(index.path)
        assert open_index(index.path, verify=False).manifest == index.manifest
    assert len(index.reload()) == 12
    with pytest.raises(GenGeoError, match="is damaged"):
        index.reload(verify=True)


def test_is_outdated_after_an_edit_of_another_process_or_without_a_manifest(index):
    assert not index.is_outdated
    GeoIndex.load(index.path).remove(["noise-1"])
    assert index.is_outdated and len(index) == 12
    assert not index.reload().is_outdated and len(index) == 11
    (index.path / "manifest.json").unlink()
    assert index.is_outdated


def test_version_of_a_large_index_searches_its_scan(tmp_path, monkeypatch):
    for name, value in (("EXACT_LIMIT", 10), ("SMALLEST_SCAN", 10)):
        monkeypatch.setattr(f"gengeo_hf.index.search.{name}", value)
    index = GeoIndex.build(StubEncoder(), ListSource(30), tmp_path / "idx")
    queries = np.asarray(index.descriptors[:2], np.float32)
    assert Version(index.path).searcher.ranked_candidates(queries, 4).shape == (2, 4)
    assert Version(index.path, searchable=False).searcher.ranked_candidates(queries, 4).shape == (2, 0)


def test_descriptors_are_in_the_order_of_the_tiles_of_all_segments(index, encoder):
    whole = dict(zip(index.tiles["tile_id"].to_pylist(), index.descriptors.tolist(), strict=True))
    assert isinstance(index.descriptors, np.memmap)
    index.remove(["noise-2"])
    assert index.descriptors.shape == (11, 64)
    index.add(encoder, ListSource(1, "noise", seed=9))  # replaces noise-0
    found = dict(zip(index.tiles["tile_id"].to_pylist(), index.descriptors.tolist(), strict=True))
    assert index.descriptors.dtype == np.float16 and len(found) == 11 and found["noise-0"] != whole["noise-0"]
    assert all(found[name] == whole[name] for name in found if name != "noise-0")
    (hit,) = index.search(np.array(found["noise-7"], np.float32), 1)[0]
    assert hit.tile_id == "noise-7" and hit.bounds.contains(hit.lat, hit.lon)


def test_thumbnails_of_removed_tiles_are_not_returned(index, encoder):
    index.remove(["noise-2"])
    index.add(encoder, ListSource(1, "noise", seed=9))
    names = [f"noise-{number}" for number in range(12)]
    found = index.thumbnails(names)
    assert found.keys() == {*names} - {"noise-2"}


@pytest.mark.parametrize(("licence", "common"), [("CC0", Source("", 0, "A", "CC0", "2020")), ("CC BY", Source(""))])
def test_source_of_an_unlisted_name_has_the_rights_that_all_sources_have(tmp_path, licence, common):
    sources = [Source("a", 0, "A", "CC0", "2020"), Source("b", 0, "A", licence, "2020")]
    index = written(tmp_path / "idx", np.eye(3, 4), ["a", "a", "b"], sources)
    assert index.source_of("elsewhere") == common
    assert index.source_of("a") == Source("a", 2, "A", "CC0", "2020")
    hit = index.search(np.array([0, 0, 1, 0], np.float32), 1)[0][0]
    assert (hit.tile_id, hit.source, hit.attribution, hit.licence) == ("t2", "b", "A", licence)


def test_join_of_an_index_adds_its_reasons_and_rights(index, encoder, tmp_path):
    source = ListSource(5, "more", seed=1, broken=[1], empty=[2])
    source.rights = Rights("Survey", "CC0")
    other = GeoIndex.build(encoder, source, tmp_path / "other")
    before = index.manifest
    assert index.add(encoder, other) == 15
    found = index.manifest
    assert found.left_out.reasons == {"no data": 1, "unreadable": 1}
    assert found.sources == [*before.sources, Source("more", 3, "Survey", "CC0")]
    assert found.work == [*before.work, *other.manifest.work] and found.version == before.version + 1
    assert found.history[-1].details == {"source": "other", "tiles": 3}
    again = GeoIndex.build(encoder, ListSource(2, "third", empty=[1]), tmp_path / "third")
    index.add(encoder, again)
    assert index.manifest.left_out.reasons == {"no data": 2, "unreadable": 1}


def test_check_model_of_another_input_scale_names_both_scales(index):
    encoder = StubEncoder("scaled")
    encoder.preprocessing = {"input_scale": 0.5}
    with pytest.raises(GenGeoError, match=r"was made at input scale 1, this model encodes at 0\.5"):
        index.check_model(encoder)


def test_compact_keeps_pictures_if_only_some_segments_have_them(index, encoder):
    index.add(encoder, ListSource(3, "more", seed=1), thumbnail_pixels=0)
    before = index.thumbnails(["noise-4", "more-1"])
    index.compact()
    assert before.keys() == {"noise-4"} and index.thumbnails(["noise-4", "more-1"]) == before
