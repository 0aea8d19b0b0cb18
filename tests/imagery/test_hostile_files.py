"""Malicious rasters and SQLite files: limited work, no network access, one-line errors."""

import shutil
import signal
import socket
import sqlite3
import threading

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery import open_imagery
from gengeo_hf.imagery import sqlite_files as bounds
from gengeo_hf.imagery.raster import RasterTiles
from gengeo_hf.imagery.xyz import MbTiles
from tests.torture.inputs import write_geotiff

pytest.importorskip("rasterio", reason='rasters need pip install "gengeo_hf[geo]"')


@pytest.fixture
def server():
    """A loopback port that counts connections."""
    connections = []
    with socket.create_server(("127.0.0.1", 0)) as listening:
        listening.settimeout(0.05)
        ended = threading.Event()

        def accept():
            while not ended.is_set():
                try:
                    connection, _ = listening.accept()
                except TimeoutError:
                    continue
                connections.append(connection)
                connection.close()

        thread = threading.Thread(target=accept)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/secret.tif", connections
        ended.set()
        thread.join()


def vrt(path, source, relative=1):
    path.write_text(
        '<VRTDataset rasterXSize="200" rasterYSize="200"><SRS>EPSG:32635</SRS>'
        "<GeoTransform>385000, 1, 0, 6672000, 0, -1</GeoTransform>"
        + "".join(
            f'<VRTRasterBand dataType="Byte" band="{band}"><SimpleSource>'
            f'<SourceFilename relativeToVRT="{relative}">{source}</SourceFilename><SourceBand>{band}</SourceBand>'
            "</SimpleSource></VRTRasterBand>"
            for band in (1, 2, 3)
        )
        + "</VRTDataset>"
    )
    return path


@pytest.mark.parametrize("prefix", ["", "/vsicurl/", "/VSICURL/"])
def test_open_raster_that_names_an_address_sends_no_request(tmp_path, server, prefix):
    address, connections = server
    inner = vrt(tmp_path / "inner.vrt", f"{prefix}{address}", 0)
    shutil.copy(inner, tmp_path / "photo.tif")
    for path, message in (
        (inner, "names an address or a virtual file"),
        (tmp_path / "photo.tif", "cannot be read as a georeferenced raster"),
        (vrt(tmp_path / "outer.vrt", "inner.vrt"), "names an address or a virtual file"),
        (vrt(tmp_path / "hidden.vrt", "photo.tif"), "names an address or a virtual file"),
    ):
        with pytest.raises(GenGeoError, match=message) as caught:
            open_imagery(path)
        assert "\n" not in str(caught.value)
    assert not connections


def test_open_raster_vrt_reads_local_rasters_only(tmp_path):
    write_geotiff(tmp_path / "real.tif")
    plain = RasterTiles([tmp_path / "real.tif"], 60)
    through = RasterTiles([vrt(tmp_path / "outer.vrt", vrt(tmp_path / "inner.vrt", "real.tif").name)], 60)
    assert through.read(0).tobytes() == plain.read(0).tobytes()
    (tmp_path / "service.xml").write_text("<GDAL_WMS></GDAL_WMS>")
    for source, message in (
        ("service.xml", "not a raster of a known kind"),
        ("missing.tif", "not a local file"),
        ("WMS:somewhere", "not a local file"),
        ("self.vrt", "names itself"),
    ):
        with pytest.raises(GenGeoError, match=message):
            RasterTiles([vrt(tmp_path / "self.vrt", source)], 60)
    (tmp_path / "cut.vrt").write_text("<VRTDataset><SRS>")
    with pytest.raises(GenGeoError, match="cannot be read as a VRT"):
        RasterTiles([tmp_path / "cut.vrt"], 60)


def test_open_raster_uses_driver_of_suffix(tmp_path):
    write_geotiff(tmp_path / "real.tif")
    shutil.copy(tmp_path / "real.tif", tmp_path / "real.jp2")
    shutil.copy(tmp_path / "real.tif", tmp_path / "real.nc")
    with pytest.raises(GenGeoError, match=r"real\.jp2 cannot be read as a georeferenced raster"):
        RasterTiles([tmp_path / "real.jp2"], 60)
    with pytest.raises(GenGeoError, match=r"suffix \.nc, expected one of \.tif.*gdal_translate"):
        RasterTiles([tmp_path / "real.nc"], 60)


def test_open_raster_geopackage_with_view_raises_error(tmp_path):
    with sqlite3.connect(tmp_path / "view.gpkg") as file:
        file.executescript(
            "CREATE TABLE gpkg_contents (table_name TEXT); INSERT INTO gpkg_contents VALUES ('t');"
            "CREATE VIEW t AS WITH RECURSIVE n(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM n) SELECT x FROM n;"
        )
    with pytest.raises(GenGeoError, match="keeps its tiles in a view"):
        RasterTiles([tmp_path / "view.gpkg"], 60)


ENDLESS = "WITH RECURSIVE n(x) AS (SELECT 0 UNION ALL SELECT x + 1 FROM n) "


def mbtiles(path, view):
    with sqlite3.connect(path) as file:
        file.executescript(f"CREATE TABLE metadata (name TEXT, value TEXT); CREATE VIEW tiles AS {view};")
    return path


def test_mbtiles_with_endless_view_raises_one_line_error(tmp_path, monkeypatch):
    monkeypatch.setattr(bounds, "STEPS", 2_000_000)
    columns = "SELECT 17 AS zoom_level, x AS tile_column, 0 AS tile_row, x'00' AS tile_data FROM n"
    with pytest.raises(GenGeoError, match="far more work than its size explains") as caught:
        MbTiles(mbtiles(tmp_path / "endless.mbtiles", ENDLESS + columns))
    assert "\n" not in str(caught.value)


def test_mbtiles_with_huge_values_raises_one_line_error(tmp_path):
    view = "SELECT 17 AS zoom_level, 1 AS tile_column, 0 AS tile_row, zeroblob(900000000) AS tile_data"
    with pytest.raises(GenGeoError, match="too big"):
        MbTiles(mbtiles(tmp_path / "large.mbtiles", view))


@pytest.fixture
def interrupts():
    """Make SIGINT raise KeyboardInterrupt, since shells ignore it in background processes."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def test_bounded_database_query_is_interrupted_by_sigint(tmp_path, interrupts):
    mbtiles(tmp_path / "endless.mbtiles", ENDLESS + "SELECT x FROM n")
    database = bounds.BoundedDatabase(tmp_path / "endless.mbtiles")
    alarm = threading.Timer(0.2, signal.raise_signal, [signal.SIGINT])
    alarm.start()
    with pytest.raises(KeyboardInterrupt):
        database.query("SELECT COUNT(*) FROM tiles")
    alarm.join()


def test_mbtiles_file_is_not_modified(tmp_path):
    path = mbtiles(tmp_path / "a.mbtiles", "SELECT 1")
    before = path.read_bytes()
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        bounds.BoundedDatabase(path).query("CREATE TABLE other (x)")
    assert path.read_bytes() == before
