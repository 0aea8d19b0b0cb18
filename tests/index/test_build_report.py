"""What a build reports and stores in the manifest."""

import io
import time

import numpy as np
import pytest
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.tile_content import REASONS
from gengeo_hf.imagery.tiles import NO_DATA_SHARE, Rights
from gengeo_hf.index import GeoIndex, build, contents, work
from gengeo_hf.index.build import BuildReport, build_index
from gengeo_hf.index.manifest import read_manifest
from tests.stubs import ListSource, StubEncoder, encode_shards


def test_report_of_a_build_states_counts_and_speed(tmp_path):
    reason = sorted(REASONS)[0]
    report = BuildReport(
        "town",
        1234,
        no_data=1001,
        partly_empty=5,
        broken=[reason, "tile 7 is damaged"],
        broken_count=2003,
        by_content={reason: 1002},
        seconds=2.04,
        tiles_per_second=604.9,
        kept_work=[tmp_path / "a", tmp_path / "b"],
    )
    assert str(report).split("; ") == [
        "1,234 tiles of town in 2.0 s (604.9 tiles/s)",
        "1,001 tiles left out: no data",
        "5 tiles partly without data",
        f"1,002 tiles left out: {reason}",
        "1,001 tiles left out: unreadable, first: tile 7 is damaged",
        f"unfinished work of another command is kept in {tmp_path / 'a'}",
    ]
    assert str(BuildReport("town", 3, seconds=1.25)) == "3 tiles of town in 1.2 s"
    assert str(BuildReport("town")) == "0 tiles of town in 0.0 s"
    assert str(BuildReport("town", 4, broken_count=2, was_complete=True)) == (
        "the index is complete: 4 tiles of town; nothing to do (--overwrite makes it again, --add tries unreadable "
        "tiles again)"
    )
    assert str(BuildReport("town", 4, was_complete=True)).endswith("(--overwrite makes it again)")


def test_report_of_a_build_has_its_duration_and_the_reasons_of_ten_tiles(tmp_path):
    started = time.monotonic()
    report = build_index(StubEncoder(), ListSource(30, broken=range(4, 16)), tmp_path / "idx")
    assert 0 < report.seconds < time.monotonic() - started
    assert report.tiles_per_second * report.seconds == pytest.approx(30)  # unreadable tiles took time as well
    assert report.broken == [f"tile {number} is damaged" for number in range(4, 14)] and report.broken_count == 12
    stored = read_manifest(tmp_path / "idx").build
    assert (stored.seconds, stored.tiles_per_second) == (report.seconds, report.tiles_per_second)
    assert (report.was_complete, report.by_content, report.kept_work) == (False, {}, [])


@pytest.mark.parametrize(
    ("options", "size"), [({}, (128, 64)), ({"thumbnail_pixels": 20}, (20, 10)), ({"thumbnail_pixels": 0}, None)]
)
def test_build_stores_thumbnails_of_128_pixels_by_default(tmp_path, options, size):
    source = ListSource(2)
    pixels = np.random.default_rng(0).integers(0, 255, (150, 300, 3), np.uint8)
    source.images = [Image.fromarray(pixels)] * 2
    index = GeoIndex.build(StubEncoder(), source, tmp_path / "idx", **options)
    found = index.thumbnails(["noise-0", "noise-1"])
    sizes = {Image.open(io.BytesIO(jpeg)).size for jpeg in found.values()}
    assert sizes == ({size} if size else set()) and len(found) == (2 if size else 0)


def test_build_shows_a_bar_of_all_tiles_only_on_request(tmp_path, capfd):
    build_index(StubEncoder(), ListSource(12, broken=[3], empty=[5]), tmp_path / "a")
    assert capfd.readouterr().err == ""
    build_index(StubEncoder(), ListSource(12, broken=[3], empty=[5]), tmp_path / "b", progress=True)
    assert "index noise: 100%" in (shown := capfd.readouterr().err) and "12/12" in shown


def test_build_bar_counts_shards_of_an_earlier_run(tmp_path, capfd, monkeypatch):
    monkeypatch.setattr(work, "SHARD", 6)
    encode_shards(monkeypatch, ListSource(12), tmp_path / "idx")
    report = build_index(StubEncoder(), ListSource(12), tmp_path / "idx", progress=True)
    assert "12/12" in capfd.readouterr().err and (report.tiles, report.tiles_per_second) == (12, 0)


def test_part_of_a_divided_build_counts_rows_that_are_not_tiles_in_the_first_part(tmp_path, monkeypatch):
    monkeypatch.setattr(work, "SHARD", 6)
    source = ListSource(18, empty=[1, 7])
    source.left_out = {"rows without a file": 4, "no data": 5}
    for number in range(3):
        build_index(StubEncoder(), source, tmp_path / f"{number}", shard=(number, 3))
    reasons = [read_manifest(tmp_path / f"{number}").left_out.reasons for number in range(3)]
    assert reasons == [{"no data": 5, "rows without a file": 4}, {"no data": 1}, {}]
    shards = [read_manifest(tmp_path / f"{number}").shard for number in range(3)]
    assert [(shard.number, shard.count) for shard in shards] == [(0, 3), (1, 3), (2, 3)]


def test_additions_add_partly_empty_tiles_and_reasons(tmp_path):
    class Partly(ListSource):
        def read(self, row):
            image = super().read(row)
            if image is not None and row % 2:
                image.info[NO_DATA_SHARE] = 0.2
            return image

    report = build_index(StubEncoder(), Partly(6, empty=[0]), tmp_path / "idx")
    assert report.partly_empty == 3
    more = build_index(StubEncoder(), Partly(5, "more", seed=1, empty=[0, 2]), tmp_path / "idx", add=True)
    manifest = read_manifest(tmp_path / "idx")
    assert (more.partly_empty, more.tiles, manifest.partly_empty) == (2, 8, 5)
    assert manifest.left_out.reasons == {"no data": 3} and len(manifest.work) == 2
    other = GeoIndex.build(StubEncoder(), Partly(4, "other", seed=2, empty=[0], broken=[2]), tmp_path / "other")
    index = GeoIndex.load(tmp_path / "idx")
    index.add(StubEncoder(), other)
    assert index.manifest.partly_empty == 7 and index.manifest.left_out.reasons == {"no data": 4, "unreadable": 1}
    assert len(index.manifest.work) == 3 and index.manifest.history[-1].details == {"source": "other", "tiles": 2}


def test_build_again_of_tiles_with_unusable_content_reports_them(tmp_path):
    index = GeoIndex.build(StubEncoder(), ListSource(6, broken=[2], empty=[4]), tmp_path / "idx")
    again = build_index(StubEncoder(), ListSource(6, broken=[2], empty=[4]), index.path)
    assert (again.was_complete, again.tiles, again.no_data, again.broken_count) == (True, 4, 1, 1)


@pytest.mark.parametrize(
    ("limit", "expected"),
    [
        (3, {"a": (3, "2020"), "b": (2, "2024"), "c": (1, "2020")}),
        (2, {"noise": (1, "2020")}),  # for the tile of the source that is not listed
    ],
)
def test_build_lists_the_rights_of_each_source_up_to_a_number(tmp_path, monkeypatch, limit, expected):
    for module in (build, contents):
        monkeypatch.setattr(module, "MOST_SOURCES", limit)
    source = ListSource(6)
    column = source.table.schema.field("source")
    source.table = source.table.set_column(8, column, [["a", "a", "a", "b", "b", "c"]])
    source.rights, source.acquired = Rights("Survey", "CC0", "2020", "https://x"), {"b": "2024"}
    GeoIndex.build(StubEncoder(), source, tmp_path / "idx")
    found = read_manifest(tmp_path / "idx").sources
    listed = [one for one in found if one.attribution]
    assert {one.name: (one.tiles, one.acquired) for one in listed} == expected
    assert {(one.licence, one.address) for one in listed} == {("CC0", "https://x")}


@pytest.mark.parametrize(
    ("sizes", "options", "fusion"),
    [
        ((60.0,), {}, ""),
        ((60.0, 30.0), {}, "mean"),
        ((60.0, 30.0), {"fusion": "max"}, "max"),
        (None, {"fusion": "max"}, ""),
    ],
)
def test_build_stores_a_fusion_only_for_several_ground_sizes(tmp_path, sizes, options, fusion):
    source = ListSource(2)
    if sizes:
        source.tile_sizes = sizes
    build_index(StubEncoder(), source, tmp_path / "idx", **options)
    assert read_manifest(tmp_path / "idx").fusion == fusion


def test_report_of_a_build_names_unreadable_tiles_before_those_without_content(tmp_path):
    reason = sorted(REASONS)[0]

    class Plain(ListSource):
        def read(self, row):
            if row < 12:
                raise GenGeoError(reason)
            return super().read(row)

    report = build_index(StubEncoder(), Plain(20, broken=[17]), tmp_path / "idx")
    assert report.broken == ["tile 17 is damaged", *[reason] * 9]
    assert (report.tiles, report.broken_count, report.by_content) == (7, 13, {reason: 12})
    assert read_manifest(tmp_path / "idx").left_out.reasons == {reason: 12, "unreadable": 1}
