import itertools
import json
import threading

import numpy as np
import pytest

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, great_circle_m
from gengeo_hf.imagery.tiles import row_bounds, tile_table
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.build import build_index
from tests.stubs import ListSource, StubEncoder


def brute_force(index, queries, k):
    scores = queries @ index.descriptors.astype(np.float32).T
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    ids = index.tiles["tile_id"].to_pylist()
    return [[ids[row] for row in line] for line in order]


def unit(count, dim=64, seed=0):
    vectors = np.random.default_rng(seed).standard_normal((count, dim)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=1, keepdims=True)


def test_search_of_stored_descriptors_finds_each_tile(index, encoder, source):
    loaded = GeoIndex.load(index.path)
    hits = loaded.search(encoder.encode(source.images, "aerial"), k=3)
    assert [line[0].tile_id for line in hits] == source.table["tile_id"].to_pylist()
    assert hits[0][0].score == pytest.approx(1, abs=2e-3) and hits[0][0].bounds.contains(hits[0][0].lat, hits[0][0].lon)


def test_search_equals_a_full_comparison(index):
    queries = unit(7)
    found = [[hit.tile_id for hit in line] for line in index.search(queries, k=5)]
    assert found == brute_force(index, queries, 5)
    assert len(index.search(queries, k=99)[0]) == len(index)


def test_search_with_a_prior_finds_only_tiles_within_the_radius(index):
    hits = index.search(unit(1), k=99, near=(60.17, 24.94, 250))[0]
    assert {hit.tile_id for hit in hits} == {"noise-0", "noise-1", "noise-2"}
    assert all(great_circle_m(60.17, 24.94, hit.lat, hit.lon) <= 250 for hit in hits)
    assert [h.score for h in hits] == sorted((h.score for h in hits), reverse=True)
    assert index.search(unit(1), near=(-60, 24.94, 250)) == [[]]
    for near in ((91, 0, 5), (0, 0, -1), (0, 0, float("nan"))):
        with pytest.raises(GenGeoError):
            index.search(unit(1), near=near)


def test_search_in_bounds_and_polygons_finds_only_tiles_with_their_centre_inside(index, tmp_path):
    lat, lon = index.tiles["lat"].to_numpy(), index.tiles["lon"].to_numpy()
    edges = np.quantile(lon, [0.2, 0.7])
    bounds = Bounds(edges[0], lat.min() - 0.001, edges[1], lat.max() + 0.001)
    inside = set(np.array(index.tiles["tile_id"].to_pylist())[(lon >= bounds.west) & (lon <= bounds.east)])
    ring = [
        [bounds.west, bounds.south],
        [bounds.east, bounds.south],
        [bounds.east, bounds.north],
        [bounds.west, bounds.north],
    ]
    file = tmp_path / "area.geojson"
    file.write_text(json.dumps({"type": "Polygon", "coordinates": [[*ring, ring[0]]]}))
    for area in (Area.from_bounds(bounds), Area.from_geojson(file)):
        hits = index.search(unit(1), k=99, near=area)[0]
        assert {hit.tile_id for hit in hits} == inside and 0 < len(inside) < len(index)


def test_search_with_a_prior_works_across_the_date_line(encoder, tmp_path):
    index = GeoIndex.build(encoder, ListSource(lat=-17, lon=179.9995), tmp_path / "idx")
    assert len(index.search(unit(1), k=99, near=(-17, -179.9999, 250))[0]) >= 4


def test_check_model_of_another_model_raises_an_error(index):
    with pytest.raises(GenGeoError, match="made by another model"):
        index.check_model(StubEncoder("other"))
    with pytest.raises(GenGeoError, match="made by another model"):
        index.add(StubEncoder("other"), ListSource(name="new"))


def test_search_with_invalid_queries_raises_an_error(index):
    with pytest.raises(GenGeoError, match="64 dimensions"):
        index.search(unit(1, dim=8))
    with pytest.raises(GenGeoError, match="NaN"):
        index.search(np.full((1, 64), np.nan))
    with pytest.raises(GenGeoError, match="k must be at least 1"):
        index.search(unit(1), k=0)


def segment_folder(index, number=0):
    return index.path / index.manifest.segments[number].name


@pytest.mark.parametrize("name", ["descriptors.npy", "tiles.arrow", "blocks.npy", "thumbnails.parquet"])
def test_load_of_a_damaged_index_raises_an_error(index, name):
    file = segment_folder(index) / name
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.write_bytes(content)
    with pytest.raises(GenGeoError, match=f"{name} is damaged"):
        GeoIndex.load(index.path)
    file.write_bytes(content[:-5])
    with pytest.raises(GenGeoError, match="truncated"):
        GeoIndex.load(index.path, verify=False)
    file.unlink()
    with pytest.raises(GenGeoError, match=f"lacks .*{name}"):
        GeoIndex.load(index.path)


def test_load_of_another_format_or_version_raises_an_error(index, tmp_path):
    manifest = json.loads((index.path / "manifest.json").read_text())
    for change, message in (({"format_version": 99}, "format version 99"), ({"format": "x"}, "not a gengeo-index")):
        (index.path / "manifest.json").write_text(json.dumps(manifest | change))
        with pytest.raises(GenGeoError, match=message):
            GeoIndex.load(index.path)
    (index.path / "manifest.json").write_text("{")
    with pytest.raises(GenGeoError, match="broken"):
        GeoIndex.load(index.path)
    with pytest.raises(GenGeoError, match="no index at"):
        GeoIndex.load(tmp_path / "nowhere")


def test_load_of_a_manifest_with_outside_paths_raises_an_error(index):
    manifest = json.loads((index.path / "manifest.json").read_text())
    manifest["segments"][0]["files"]["../secret"] = {"bytes": 1, "sha256": "0" * 64}
    (index.path / "manifest.json").write_text(json.dumps(manifest))
    with pytest.raises(GenGeoError):
        GeoIndex.load(index.path)


def test_overwrite_keeps_foreign_files_in_an_index(index, encoder, source):
    for name in ("calibration.json", "README.md", "segment-of-mine"):
        (index.path / name).write_text("{}")
    index.add(encoder, source)
    index.remove(["noise-0"])
    index.compact()
    build_index(encoder, source, index.path, overwrite=True)
    for name in ("calibration.json", "README.md", "segment-of-mine"):
        assert (index.path / name).read_text() == "{}"
    assert len(GeoIndex.load(index.path)) == 12


def test_bounds_with_nan_are_unknown():
    table = tile_table(["a", "b"], [60, 60], [25, 25], [Bounds(1, 2, float("nan"), 4), Bounds(1, 2, 3, 4)])
    assert row_bounds(table, 0) is None and row_bounds(table, 1) == Bounds(1, 2, 3, 4)


def test_add_and_remove_change_the_tiles(index, encoder):
    more = ListSource(count=5, name="more", seed=1, area="north")
    assert index.add(encoder, more) == 17
    again = GeoIndex.load(index.path)
    hit = again.search(encoder.encode(more.images, "aerial"), k=1)[4][0]
    assert (hit.tile_id, hit.area) == ("more-4", "north")
    assert set(again.thumbnails(["more-0", "noise-0"])) == {"more-0", "noise-0"}
    assert index.add(encoder, ListSource(count=5, name="more", seed=2, area="north")) == 17  # replaced, not doubled
    assert index.remove(tile_ids=["noise-0"]) == 1
    assert index.remove(area="north") == 5
    assert index.remove(bounds=Bounds(-180, -90, 180, 90)) == 11
    assert len(index) == 0 and index.search(unit(2)) == [[], []] and index.search(unit(1), near=(60, 25, 1e6)) == [[]]
    assert "0 tiles" in index.verify()


def test_remove_without_a_match_changes_no_file(index, gengeo):
    before = {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in index.path.rglob("*")}
    manifest = index.manifest
    assert index.remove(tile_ids=["no such tile"], area="nowhere", source="none", bounds=Bounds(0, 0, 1, 1)) == 0
    assert {file: (file.stat().st_ino, file.stat().st_mtime_ns) for file in index.path.rglob("*")} == before
    assert index.manifest == manifest and len(index) == 12
    code, out, _ = gengeo("remove", index.path, "--area-name", "nowhere")
    assert code == 0 and out.startswith("no tile matches: nothing was removed")
    assert "removed 1 tiles, 11 left" in gengeo("remove", index.path, "--tile-id", "noise-3")[1]


def test_remove_counts_its_tiles_during_edits_of_another_process(index, encoder):
    GeoIndex.load(index.path).add(encoder, ListSource(count=5, name="more", seed=1))
    assert index.remove(tile_ids=["noise-0", "more-1"]) == 2 and len(index) == 15


def test_edit_of_a_damaged_index_keeps_the_old_checksums(index, encoder):
    file = segment_folder(index) / "descriptors.npy"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    index.remove(["noise-0"])
    index.add(encoder, ListSource(2, "more"))
    with pytest.raises(GenGeoError, match=r"descriptors\.npy is damaged"):
        index.verify()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    assert "14 tiles, 1 of them removed" in index.verify()


def test_search_works_while_the_index_is_replaced(index, encoder):
    queries, stop, wrong = unit(4), threading.Event(), []

    def search():
        while not stop.is_set():
            try:
                counts = {len(line) for line in index.search(queries, k=99)}
                counts |= {len(line) for line in GeoIndex.load(index.path).search(queries, k=99)}
                wrong.extend(count for count in counts if count not in (12, 17))
            except Exception as error:
                wrong.append(repr(error))

    threads = [threading.Thread(target=search) for _ in range(3)]
    for thread in threads:
        thread.start()
    for turn in range(5):
        index.add(encoder, ListSource(count=5, name="more", seed=turn, area="north"))
        index.remove(area="north")
    stop.set()
    for thread in threads:
        thread.join()
    assert not wrong


def test_index_keeps_the_version_that_it_opened(index, encoder):
    reader = GeoIndex.load(index.path)
    queries = unit(3)
    before = reader.search(queries, k=99), reader.thumbnails(["noise-11"]), reader.tiles.to_pydict()
    index.remove(tile_ids=[f"noise-{n}" for n in range(11)])
    index.add(encoder, ListSource(count=5, name="more", seed=1))
    index.compact()
    assert (reader.search(queries, k=99), reader.thumbnails(["noise-11"]), reader.tiles.to_pydict()) == before
    assert reader.is_outdated and len(reader) == 12
    assert len(reader.reload()) == 6 and not reader.is_outdated


def test_verify_finds_vectors_that_are_not_unit_length(tmp_path, source):
    class Wrong(StubEncoder):
        def encode(self, images, view, progress=False):
            return super().encode(images, view) * 2

    index = GeoIndex.build(Wrong(), source, tmp_path / "idx")
    with pytest.raises(GenGeoError, match="length 1"):
        index.verify()


def test_build_of_a_data_set_uses_the_ids_of_its_gallery(encoder, tmp_path):
    import datasets

    from gengeo_hf.common.schema import GALLERY_FEATURES

    images = ListSource(count=3).images
    rows = [
        {
            "tile_id": f"t{n}",
            "aerial": image,
            "lat": 1.0 + n,
            "lon": 2.0,
            "west": None,
            "south": None,
            "east": None,
            "north": None,
            "area": "a",
        }
        for n, image in enumerate(images)
    ]
    gallery = datasets.Dataset.from_list(rows, features=GALLERY_FEATURES)
    index = GeoIndex.build(encoder, gallery, tmp_path / "idx")
    hit = index.search(encoder.encode(images, "aerial"), k=1)[2][0]
    assert (hit.tile_id, hit.lat, hit.bounds, hit.area) == ("t2", 3.0, None, "a")


def test_left_out_lists_unreadable_tiles(encoder, tmp_path):
    index = GeoIndex.build(encoder, ListSource(count=10_000, broken=[5000]), tmp_path / "idx", thumbnail_pixels=0)
    assert len(index) == 9999
    (row,) = index.left_out.to_pylist()
    assert (row["tile_id"], row["source"], row["reason"]) == ("noise-5000", "noise", "tile 5000 is damaged")
    assert row["lat"] == pytest.approx(60.17, abs=0.01)
    index.add(encoder, ListSource(count=3, name="more", seed=1, broken=[1]))
    index.remove(tile_ids=["noise-1"])
    assert index.left_out["tile_id"].to_pylist() == ["noise-5000", "more-1"]
    assert "9,999 tiles" not in index.report() and "noise-5000: tile 5000 is damaged" in index.report()
    assert "all match the manifest" in index.verify()


def test_left_out_drops_tiles_that_are_removed_or_read_later(encoder, tmp_path):
    index = GeoIndex.build(encoder, ListSource(area="one", broken=[3, 5, 7]), tmp_path / "idx")
    left_out = lambda: index.left_out["tile_id"].to_pylist()  # noqa: E731  # used five times
    index.add(encoder, ListSource(count=4, name="more", seed=1, area="two", lat=10.0, broken=[1, 2]))
    assert left_out() == ["noise-3", "noise-5", "noise-7", "more-1", "more-2"]
    index.add(encoder, ListSource(area="one", broken=[5]))  # two are readable now, the third is listed once
    assert len(index) == 11 + 2 and left_out() == ["more-1", "more-2", "noise-5"]
    index.remove(bounds=Bounds(24.9401, 9.0, 24.9412, 11.0))  # where the first of two unreadable tiles would lie
    assert left_out() == ["more-2", "noise-5"] and len(index) == 13
    assert index.remove(tile_ids=["noise-5"]) == 0 and left_out() == ["more-2"]
    assert index.remove(source="more") == 2 and left_out() == [] and not list(index.path.glob("left_out*"))
    index.add(encoder, ListSource(count=4, name="more", seed=1, area="two", broken=[1]))
    assert index.remove(area="two") == 3 and left_out() == []
    assert index.remove(area="one") == 11 and len(index) == 0


def test_report_states_content_and_history(encoder, tmp_path):
    index = GeoIndex.build(encoder, ListSource(lat=-17, lon=179.9995, area="Fiji"), tmp_path / "idx", model_name="m")
    index.add(encoder, ListSource(count=2, name="more", seed=1))
    assert index.remove(tile_ids=["more-1", "never-there"]) == 1
    report = index.report()
    assert "13 of 64 dimensions" in report and "150 x 150 m (13)" in report
    assert "search       exact" in report and "m, fingerprint" in report
    assert [entry.what for entry in index.manifest.history] == ["built", "added", "removed"]
    assert index.manifest.history[-1].details["tiles"] == 1
    assert [GeoIndex.load(index.path).report()] == [report]
    fiji = GeoIndex.build(encoder, ListSource(lat=-17, lon=179.9995), tmp_path / "fiji").report()
    assert "west 179.9988" in fiji and "east -179.98" in fiji


def test_info_command_exports_bounds_of_tiles(encoder, tmp_path):
    from gengeo_hf.index.export import geojson_lines

    index = GeoIndex.build(encoder, ListSource(lat=-17, lon=179.9995), tmp_path / "idx")
    features = json.loads("".join(geojson_lines(index)))["features"]
    kinds = [feature["geometry"]["type"] for feature in features]
    assert len(kinds) == 12 and kinds.count("MultiPolygon") in (1, 2)
    ring = next(f["geometry"]["coordinates"][0] for f in features if f["geometry"]["type"] == "Polygon")
    assert ring[0] == ring[-1] and all(-180 <= lon <= 180 and lat < 0 for lon, lat in ring)
    signed = sum(a[0] * b[1] - b[0] * a[1] for a, b in itertools.pairwise(ring))
    assert signed > 0  # counter-clockwise, as RFC 7946 asks


def test_add_of_an_index_does_not_encode(index, encoder, tmp_path):
    other = GeoIndex.build(encoder, ListSource(count=5, name="more", seed=1), tmp_path / "other")
    before = encoder.encoded
    assert index.add(encoder, other) == 17 and encoder.encoded == before
    hit = index.search(encoder.encode(ListSource(count=5, seed=1).images, "aerial"), k=1)[2][0]
    assert hit.tile_id == "more-2" and set(index.thumbnails(["more-2"])) == {"more-2"}
    another = GeoIndex.build(StubEncoder("other"), ListSource(count=5), tmp_path / "another")
    with pytest.raises(GenGeoError, match="made by another model"):
        index.add(encoder, another)


def test_add_by_two_processes_at_once_keeps_all_tiles(index):
    sources = [ListSource(count=5, name=f"more{n}", seed=n) for n in range(4)]
    threads = [threading.Thread(target=lambda s=s: GeoIndex.load(index.path).add(StubEncoder(), s)) for s in sources]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(GeoIndex.load(index.path)) == 12 + 4 * 5


def test_edit_on_a_full_disk_keeps_the_old_index(index, encoder, monkeypatch):
    import errno

    def full(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("gengeo_hf.index.edit.write_tombstones", full)
    with pytest.raises(GenGeoError, match="No space left on device"):
        index.remove(tile_ids=["noise-1"])
    monkeypatch.undo()
    assert len(GeoIndex.load(index.path)) == 12 and "12 tiles" in index.verify()
    assert not [path.name for path in index.path.rglob(".*")]
