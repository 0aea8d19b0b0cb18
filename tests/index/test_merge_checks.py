"""Manifest of merged indexes, and which indexes cannot be merged."""

from dataclasses import replace

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.tiles import Rights, tile_table
from gengeo_hf.index import GeoIndex, work
from gengeo_hf.index.build import build_index
from gengeo_hf.index.edit import write_index
from gengeo_hf.index.manifest import Model, Source, read_manifest, write_manifest
from gengeo_hf.index.merge import merge_indexes
from gengeo_hf.index.segment import NewRows
from tests.stubs import ListSource, StubEncoder


def test_merge_of_indexes_joins_their_manifests(tmp_path):
    parts = []
    for number, count in enumerate((4, 6)):
        source = ListSource(count, f"s{number}", seed=number, broken=[1], empty=[2] * number)
        source.rights = Rights(f"Survey {number}", "CC0")
        index = GeoIndex.build(StubEncoder(), source, tmp_path / f"{number}", model_name="m")
        changed = replace(read_manifest(index.path), partly_empty=number + 2, fusion="max" * number)
        write_manifest(index.path, changed)
        parts.append(index.path)
    merged = merge_indexes(parts, tmp_path / "out")
    assert merged == read_manifest(tmp_path / "out")
    assert (merged.version, merged.tiles, merged.partly_empty, merged.fusion) == (1, 7, 5, "max")
    assert merged.left_out.reasons == {"unreadable": 2, "no data": 1} and merged.model.name == "m"
    assert merged.sources == [Source("s1", 4, "Survey 1", "CC0"), Source("s0", 3, "Survey 0", "CC0")]
    assert (merged.work, merged.shard, [event.what for event in merged.history]) == ([], None, ["merged"])
    assert merged.history[0].details == {"parts": 2, "tiles": 7}
    assert GeoIndex.load(tmp_path / "out").left_out["tile_id"].to_pylist() == ["s0-1", "s1-1"]


def test_merge_adds_counts_that_are_not_listed_one_by_one(tmp_path):
    parts = [
        GeoIndex.build(
            StubEncoder(), ListSource(5, f"s{number}", seed=number, empty=range(number + 1)), tmp_path / f"{number}"
        ).path
        for number in range(3)
    ]
    assert merge_indexes(parts, tmp_path / "out").left_out.reasons == {"no data": 1 + 2 + 3}


def test_merge_replaces_an_index_only_with_overwrite(tmp_path):
    parts = [GeoIndex.build(StubEncoder(), ListSource(3, name), tmp_path / name).path for name in ("a", "b")]
    assert merge_indexes(parts[:1], tmp_path / "out").tiles == 3
    with pytest.raises(GenGeoError, match="holds an index of 3 tiles"):
        merge_indexes(parts, tmp_path / "out")
    assert merge_indexes(parts, tmp_path / "out", overwrite=True).tiles == 6
    (tmp_path / "out" / "mine.txt").write_text("mine")
    with pytest.raises(GenGeoError, match=r"also holds mine\.txt"):
        merge_indexes(parts, tmp_path / "out", overwrite=True)
    with pytest.raises(GenGeoError, match="there is nothing to merge"):
        merge_indexes([], tmp_path / "none")


@pytest.mark.parametrize(("fingerprint", "dim"), [("0" * 64, 5), ("1" * 64, 4), ("1" * 64, 5)])
def test_merge_of_another_model_or_dimension_raises_an_error(tmp_path, fingerprint, dim):
    for name, mark, width in (("a", "0" * 64, 4), ("b", fingerprint, dim)):
        rows = NewRows(tile_table([name], [1.0], [2.0], [None]), [np.eye(1, width)])
        write_index(tmp_path / name, rows, width, Model(mark))
    with pytest.raises(GenGeoError, match=r"b was made by another model than .*a"):
        merge_indexes([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_merge_of_parts_of_different_builds_names_the_wrong_one(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "SHARD", 2)
    for name, source, shard in (
        ("a0", ListSource(6, "a"), (0, 3)),
        ("a1", ListSource(6, "a"), (1, 3)),
        ("a2", ListSource(6, "a"), (2, 3)),
        ("b1", ListSource(6, "b", seed=1), (1, 3)),
        ("half", ListSource(6, "a"), (1, 2)),
        ("whole", ListSource(6, "a"), None),
    ):
        build_index(StubEncoder(), source, tmp_path / name, shard=shard)
    for names, message in (
        (["a0", "b1", "a2"], "b1 is a part of another build than .*a0"),
        (["a0", "half"], "half is a part of another build than .*a0"),
        (["a0", "whole"], "whole is not a part of a divided build"),
        (["whole", "a0"], "whole is not a part of a divided build"),
        (["a0", "a1"], r"shard 2 of 3 is missing \(in all 1\): run .* --shard 2/3 first"),
        (["a2"], r"shard 0 of 3 is missing \(in all 2\)"),
        (["a0", "a1", "a1", "a2"], "a1 and .*a1 are both shard 1: give each part once"),
        (["whole", "whole"], "whole and .*whole are both the same index"),
    ):
        with pytest.raises(GenGeoError, match=message):
            merge_indexes([tmp_path / name for name in names], tmp_path / "out")
    merged = merge_indexes([tmp_path / name for name in ("a2", "a0", "a1")], tmp_path / "out")
    assert merged.tiles == 6 and merged.shard is None and merged.work == read_manifest(tmp_path / "whole").work
