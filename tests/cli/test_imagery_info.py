"""`gengeo imagery info`: layers, zoom levels, metres per pixel and rights, without requests of tiles."""

import json

import pytest

from tests.imagery.conftest import _server_process, server  # noqa: F401  # the same server process as tests/imagery

PRIVATE = ["--allow-private", "--rate", "0"]


def test_info_of_template_prints_metres_per_pixel(gengeo, server):  # noqa: F811
    address = server.template("good")
    code, out, _ = gengeo("imagery", "info", address, "--bounds", "24.93,60.16,24.94,60.17", "--json", *PRIVATE)
    printed = json.loads(out)
    assert code == 0 and printed["kind"] == "xyz" and server.paths == []
    assert printed["metres_per_pixel"]["19"] == pytest.approx(
        0.1488, abs=0.001
    )  # 156543 * cos(60.165) / 2^19, ellipsoid


def test_info_of_wmts_prints_layers_or_levels_of_layer(gengeo, server):  # noqa: F811
    address = f"{server.address}/wmts?service=WMTS"
    code, out, _ = gengeo("imagery", "info", address, *PRIVATE)
    assert code == 0 and "layers:      ortho, map" in out
    code, out, _ = gengeo("imagery", "info", address, "--layer", "ortho", *PRIVATE)
    assert "zoom levels: 15 to 18" in out and "Example Survey" in out and "CC BY 4.0" in out
    assert "west 24, south 60, east 26, north 61" in out
    assert not any("wmtstile" in path for path in server.paths)


@pytest.mark.parametrize(
    ("path", "kind", "texts"),
    [
        ("arcgis/cached/MapServer", "arcgis", ["15 to 18", "Example Survey"]),
        ("files/town.pmtiles", "pmtiles", ["17 to 17", "Example Survey"]),
        ("files/a.tif", "cog", ["tiles:", "set --licence"]),
    ],
)
def test_info_of_other_kinds_prints_kind_and_rights(gengeo, server, tmp_path, path, kind, texts):  # noqa: F811
    code, out, _ = gengeo("imagery", "info", f"{server.address}/{path}", "--cache", tmp_path, *PRIVATE)
    assert code == 0 and f"kind:        {kind}" in out and all(text in out for text in texts)


def test_info_of_missing_service_gives_one_line(gengeo, server):  # noqa: F811
    code, _, err = gengeo("imagery", "info", f"{server.address}/notfound/1/1/1?service=wms", *PRIVATE)
    assert code == 1 and err.count("\n") == 1 and "there is no WMS" in err


def test_info_of_files_on_disk_prints_tiles(gengeo, tmp_path):
    from PIL import Image

    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    (tmp_path / "tiles.csv").write_text("tile,lat,lon\na.png,60.1,24.9\n")
    code, out, _ = gengeo("imagery", "info", tmp_path, "--json")
    assert code == 0 and json.loads(out)["tiles"] == 1
    code, _, err = gengeo("imagery", "info", tmp_path / "none.tif")
    assert code == 1 and "there is nothing at" in err and err.count("\n") == 1
