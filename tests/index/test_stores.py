"""The interface of every store: Qdrant in memory, Milvus embedded, Milvus server."""

import contextlib
import importlib.util
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, great_circle_m
from gengeo_hf.imagery import TilingOptions, open_imagery
from gengeo_hf.imagery.tiles import Rights
from gengeo_hf.index import GeoIndex
from gengeo_hf.index.stores import connect, export_index, is_address
from gengeo_hf.localization import GeoLocalizer
from tests.imagery.test_raster_faults import noise, write
from tests.stubs import ListSource, StubEncoder


def installed(*packages):
    return all(importlib.util.find_spec(package) for package in packages)


needs_milvus = pytest.mark.skipif(
    not installed("pymilvus", "milvus_lite"), reason="pymilvus[milvus-lite] is not installed"
)
needs_qdrant = pytest.mark.skipif(not installed("qdrant_client"), reason="qdrant-client is not installed")


@contextlib.contextmanager
def running_server(folder):
    """Start a Milvus server on a free port; yields its address and process."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    program = Path(sys.executable).with_name("milvus-lite")
    command = [program, "server", "--data-dir", folder, "--port", str(port)]
    server = subprocess.Popen(list(map(str, command)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        for _ in range(600):
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.1)
        yield f"milvus:http://127.0.0.1:{port}", server
    finally:
        server.terminate()
        server.wait(timeout=20)


@pytest.fixture(scope="session")
def milvus_server(tmp_path_factory):
    with running_server(tmp_path_factory.mktemp("milvus")) as (address, _):
        yield address


@pytest.fixture(
    params=[
        pytest.param("qdrant", marks=needs_qdrant),
        pytest.param("milvus", marks=needs_milvus),
        pytest.param("milvus_server", marks=needs_milvus),
    ]
)
def store(request, tmp_path):
    if request.param == "qdrant":
        return connect("qdrant::memory:")
    if request.param == "milvus":
        return connect(f"milvus:{tmp_path / 'local.db'}")
    return connect(request.getfixturevalue("milvus_server"))


@pytest.fixture
def encoder(request):
    return StubEncoder(request.node.name)  # a separate collection on the shared server


@pytest.fixture
def gallery(encoder, tmp_path):
    return GeoIndex.build(encoder, ListSource(count=40, lat=-17.0, lon=179.99), tmp_path / "idx")


def ids(lines):
    return [[hit.tile_id for hit in line] for line in lines]


def test_store_search_equals_that_of_the_index(store, gallery, encoder):
    report = export_index(gallery, store)
    assert report == {"tiles": 40, "count": 40, "removed": 0, "index_name": "idx", "top10_agreement": 1.0}
    queries = encoder.encode(ListSource(count=5, seed=3).images, "ground")
    assert ids(store.search(queries, 7)) == ids(gallery.search(queries, 7))
    mine, theirs = gallery.search(queries, 1)[0][0], store.search(queries, 1)[0][0]
    assert theirs.score == pytest.approx(mine.score, abs=2e-3)
    assert (theirs.lat, theirs.lon, theirs.bounds, theirs.source) == (mine.lat, mine.lon, mine.bounds, mine.source)
    for near in ((-17.0, 179.9999, 700), (-17.0, -179.99, 450), (60.0, 20.0, 1000)):  # across the date line
        assert ids(store.search(queries, 99, near)) == ids(gallery.search(queries, 99, near))
        assert all(great_circle_m(h.lat, h.lon, *near[:2]) <= near[2] for h in store.search(queries, 99, near)[0])


def test_export_again_changes_nothing_and_remove_deletes_tiles(store, gallery):
    export_index(gallery, store)
    assert export_index(gallery, store)["count"] == 40
    assert store.remove(["noise-0", "noise-1", "not there"]) == 2
    assert len(store) == 38 and export_index(gallery, store)["count"] == 40


def test_export_after_an_interruption_resumes(store, encoder, tmp_path, monkeypatch):
    index = GeoIndex.build(encoder, ListSource(count=600), tmp_path / "big", thumbnail_pixels=0)
    written, original = [], store.engine.upsert

    def upsert(name, rows, vectors):
        if len(written) == 1:
            written.append(0)
            raise KeyboardInterrupt
        written.append(len(rows))
        original(name, rows, vectors)

    monkeypatch.setattr(store.engine, "upsert", upsert)
    with pytest.raises(KeyboardInterrupt):
        export_index(index, store)
    assert export_index(index, store)["count"] == 600 and sum(written) == 600
    assert not list(tmp_path.glob(".*export*"))


def test_export_of_changed_tiles_starts_again(store, encoder, tmp_path, monkeypatch):
    """The same pictures at corrected positions: descriptors are equal, and old rows must be replaced."""
    GeoIndex.build(encoder, ListSource(count=600), tmp_path / "big", thumbnail_pixels=0)
    original, calls = store.engine.upsert, []

    def upsert(name, rows, vectors):
        if calls:
            raise KeyboardInterrupt
        calls.append(name)
        original(name, rows, vectors)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(store.engine, "upsert", upsert)
        export_index(GeoIndex.load(tmp_path / "big"), store)
    source = ListSource(count=600, lat=10.0)
    moved = GeoIndex.build(encoder, source, tmp_path / "big", thumbnail_pixels=0, overwrite=True)
    export_index(moved, store)
    hits = store.search(encoder.encode(ListSource(count=600).images[:5], "ground"), 1)
    assert [line[0].lat for line in hits] == pytest.approx([10.0] * 5, abs=0.01)


def test_store_search_with_invalid_queries_raises_an_error(store, gallery):
    export_index(gallery, store)
    with pytest.raises(GenGeoError, match="NaN"):
        store.search(np.full((1, 64), np.nan), 3)


def test_check_model_of_another_model_in_a_store_raises_an_error(store, gallery):
    export_index(gallery, store)
    with pytest.raises(GenGeoError, match="no tiles of this model"):
        GeoLocalizer(StubEncoder("quite another"), store)


def test_export_deletes_tiles_that_are_not_in_the_index(store, gallery, encoder):
    export_index(gallery, store)
    gallery.remove([f"noise-{number}" for number in range(16)])
    report = export_index(gallery, store)
    assert (report["count"], report["removed"], report["top10_agreement"]) == (24, 16, 1.0)
    hits = store.search(encoder.encode(ListSource(count=40).images[:3], "ground"), 40)
    assert all(len(line) == 24 and not {hit.tile_id for hit in line} & {"noise-0", "noise-15"} for line in hits)


def test_two_indexes_of_one_model_have_separate_collections(store, gallery, encoder, tmp_path):
    other = GeoIndex.build(encoder, ListSource(count=7, seed=9, lat=50.0, name="other"), tmp_path / "far town.gengeo")
    export_index(gallery, store)
    assert export_index(other, store)["index_name"] == "far_town"
    with pytest.raises(GenGeoError, match="holds 2 indexes: far_town, idx; choose one by adding #NAME"):
        GeoLocalizer(encoder, store)
    store.index_name = "far_town"  # what #far_town in the address sets
    assert len(GeoLocalizer(encoder, store).index) == 7


def test_export_does_not_overwrite_another_index_of_the_same_name(store, gallery, encoder, tmp_path):
    other = GeoIndex.build(encoder, ListSource(count=7, seed=9, name="other"), tmp_path / "elsewhere" / "idx")
    export_index(gallery, store)
    with pytest.raises(GenGeoError, match="they belong to another index; give this index another name"):
        export_index(other, store)
    assert len(store) == 40


def test_store_remove_equals_that_of_an_index(store, gallery):
    export_index(gallery, store)
    box = Bounds(179.99, -17.2, -179.9, -16.8)
    kinds = [{"tile_ids": ["noise-3", "not there"]}, {"source": "noise"}, {"bounds": box}, {"area": "no such area"}]
    for kind in kinds:
        assert store.remove(**kind) == gallery.remove(**kind)
    assert len(store) == len(gallery)


def test_hits_of_a_store_hold_the_rights_of_the_imagery(store, encoder, tmp_path):
    source = ListSource(count=4)
    source.rights = Rights("Example Survey", "CC BY 4.0", "2024")
    index = GeoIndex.build(encoder, source, tmp_path / "rights")
    export_index(index, store)
    query = encoder.encode(source.images[:1], "ground")
    for hit in (index.search(query, 1)[0][0], store.search(query, 1)[0][0]):
        assert (hit.attribution, hit.licence, hit.acquired) == ("Example Survey", "CC BY 4.0", "2024")


@needs_milvus
def test_export_of_a_read_only_index_works(gallery, tmp_path, monkeypatch):
    from gengeo_hf.index.stores import export

    def refuse(path, content):
        raise GenGeoError(f"{path} cannot be read or written")

    monkeypatch.setattr(export, "write_json", refuse)
    assert export_index(gallery, connect(f"milvus:{tmp_path / 'local.db'}"))["count"] == 40


@needs_milvus
def test_connect_to_a_milvus_file_in_use_raises_one_line(tmp_path, capfd):
    fcntl = pytest.importorskip("fcntl")
    folder = tmp_path / "held.db"
    folder.mkdir()
    with (folder / "LOCK").open("w") as lock:  # as milvus-lite of another process holds it
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with pytest.raises(GenGeoError, match="in use by another process, and only one at a time"):
            connect(f"milvus:{folder}")
    assert "Traceback" not in capfd.readouterr().err


@needs_milvus
def test_store_commands_remove_and_compare(gallery, tmp_path, gengeo, monkeypatch):
    address = f"milvus:{tmp_path / 'cli.db'}"
    assert gengeo("to-store", gallery.path, "--store", address)[0] == 0
    assert "removed 1 tiles, 39 left" in gengeo("remove", f"{address}#idx", "--tile-id", "noise-3")[1]
    assert "nothing was removed" in gengeo("remove", address, "--tile-id", "noise-3")[1]
    monkeypatch.setattr("gengeo_hf.index.stores.export._agreement", lambda *_: 0.669)
    code, _, err = gengeo("to-store", gallery.path, "--store", address)
    assert code == 1 and "66.9%" in err


def test_locate_in_a_store_equals_the_index(store, gallery, encoder):
    export_index(gallery, store)
    localizer = GeoLocalizer(encoder, store)
    place = localizer.locate(ListSource(count=40).images[7], top=1).best
    assert place.tile_id == "noise-7" and place.votes > 1


@pytest.mark.parametrize(
    ("sizes", "caveat"),
    [
        ((60.0, 30.0), "a store searches single tiles: it does not fuse the ground sizes of this index"),
        ((60.0,), ""),
    ],
)
def test_size_caveat_of_several_ground_sizes_is_a_warning(store, encoder, tmp_path, sizes, caveat):
    pytest.importorskip("rasterio")
    tiling = TilingOptions(overlap=0.5, tile_m=60.0, tile_sizes=sizes if len(sizes) > 1 else ())
    imagery = open_imagery(write(tmp_path / "ortho.tif", noise(240, seed=3)), tiling)
    index = GeoIndex.build(encoder, imagery, tmp_path / f"sizes_{len(sizes)}")
    export_index(index, store)
    store.index_name = index.path.name  # another case of this test left its tiles on the shared server
    assert store.size_caveat(encoder.dim) == caveat
    assert caveat in GeoLocalizer(encoder, store).caveat and "fuse" not in GeoLocalizer(encoder, index).caveat


@pytest.mark.slow
@needs_milvus
def test_store_search_after_the_server_stops_raises_one_line(tmp_path_factory, gallery, encoder):
    with running_server(tmp_path_factory.mktemp("leaving")) as (address, server):
        store = connect(address)
        export_index(gallery, store)
        store.search(encoder.encode(ListSource(count=1).images, "ground"), 3)
        store.engine._engine.timeout = 2.0
        server.kill()
        server.wait(timeout=20)
        with pytest.raises(GenGeoError, match=address) as caught:
            store.search(encoder.encode(ListSource(count=1).images, "ground"), 3)
    assert "\n" not in str(caught.value)


@needs_milvus
def test_store_of_an_export_is_found_by_another_process(gallery, encoder, tmp_path):
    address = f"milvus:{tmp_path / 'kept.db'}"
    program = (
        "from gengeo_hf.index import GeoIndex; from gengeo_hf.index.stores import connect, export_index;"
        f"export_index(GeoIndex.load({str(gallery.path)!r}), connect({address!r}))"
    )
    subprocess.run([sys.executable, "-c", program], check=True, capture_output=True)
    place = GeoLocalizer(encoder, connect(address)).locate(ListSource(count=40).images[7], top=1).best
    assert place.tile_id == "noise-7"


@needs_milvus
def test_store_of_truncated_descriptors_truncates_those_of_photos(tiny_checkpoint, tmp_path):
    from gengeo_hf.encoding.encoder import Encoder

    address, source = f"milvus:{tmp_path / 'short.db'}", ListSource(count=4)
    for width in (6, 8):
        short = Encoder.from_pretrained(tiny_checkpoint, device="cpu", truncate_dim=width)
        index = GeoIndex.build(short, source, tmp_path / f"idx{width}")
        export_index(index, connect(address))
    found = GeoLocalizer.from_pretrained(tiny_checkpoint, address, device="cpu")
    assert found.encoder.dim == 8 and len(found.index) == 4  # the widest that is there
    mine = GeoLocalizer.from_pretrained(tiny_checkpoint, tmp_path / "idx8", device="cpu")
    photo = source.images[2]
    assert [p.tile_id for p in found.locate(photo, merge=False).places] == [
        p.tile_id for p in mine.locate(photo, merge=False).places
    ]
    assert GeoLocalizer.from_pretrained(tiny_checkpoint, address, device="cpu", truncate_dim=6).encoder.dim == 6
    export_index(GeoIndex.build(Encoder.from_pretrained(tiny_checkpoint), source, tmp_path / "whole"), connect(address))
    assert GeoLocalizer.from_pretrained(tiny_checkpoint, address, device="cpu").encoder.dim == 24


def test_is_address_and_connect_parse_addresses():
    assert is_address("milvus:./a.db") and is_address("qdrant:http://h:1") and not is_address("city.gengeo")
    for wrong in ("milvus:", "other:x", "folder"):
        with pytest.raises(GenGeoError, match="is not the address of a store"):
            connect(wrong)


@needs_qdrant
def test_connect_without_a_server_raises_one_line():
    with pytest.raises(GenGeoError, match="no Qdrant at") as caught:
        connect("qdrant:http://127.0.0.1:9")
    assert "\n" not in str(caught.value)
