"""WMTS, WMS, ArcGIS, PMTiles, COG, STAC and OpenAerialMap: geometry, rights, and one-line errors."""

import itertools

import numpy as np
import pytest

from gengeo_hf.common.area import parse_area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery import TilingOptions, open_imagery
from gengeo_hf.imagery.options import ClientOptions, NetOptions
from tests.imagery.test_service_tiles import seen_from_the_formula

BOX = "24.9305,60.1615,24.9315,60.162"  # within the raster of the server


@pytest.fixture
def opened(server, tmp_path):
    def open_path(path, bounds=BOX, layer=None, prefix="", **options):
        client = ClientOptions(allow_private=True, rate=0, pause_s=0.01, attempts=2)
        net = NetOptions(client=client, cache=str(tmp_path / "cache"), layer=layer)
        tiling = TilingOptions(tile_m=60.0, area=parse_area(bounds=bounds), net=net, **options)
        return open_imagery(f"{prefix}{server.address}/{path}", tiling)

    return open_path


@pytest.mark.parametrize(
    ("path", "layer", "prefix"),
    [
        ("wmts?SERVICE=WMTS&REQUEST=GetCapabilities", "ortho", ""),
        ("wmts/1.0.0/WMTSCapabilities.xml", "ortho", ""),
        ("wmtsswapped?service=wmts", "ortho", ""),
        ("wms?service=WMS&layers=ortho", None, ""),
        ("wms11", None, "wms:"),
        ("arcgis/cached/MapServer", None, ""),
        ("arcgis/drawn/MapServer", None, ""),
        ("arcgis/drawn/ImageServer?token=abcdef", None, ""),
        ("files/town.pmtiles", None, ""),
        ("files/a.tif", None, ""),
        ("stac?collections=ortho", None, "stac:"),
        ("", None, "oam:"),
    ],
)
def test_services_show_the_ground_of_each_tile(opened, server, path, layer, prefix):
    source = opened(path, layer=layer, prefix=prefix)
    plan = source.plan()
    assert plan.hosts == ("127.0.0.1",) and plan.asked_before > 0
    assert source.prepare() == ""
    for row in (0, source.table.num_rows - 1):
        image = source.read(row)
        assert np.abs(np.asarray(image, dtype=float) - seen_from_the_formula(source, row, image)).mean() < 8
    assert len(server.paths) == len(set(server.paths)) or "files" in "".join(server.paths)


def test_services_take_rights_from_documents(opened):
    rights = opened("wmts?service=wmts", layer="ortho").rights
    assert (rights.attribution, rights.licence) == ("Example Survey", "CC BY 4.0")
    rights = opened("wms", prefix="wms:").rights
    assert (rights.attribution, rights.licence) == ("Example Survey", "CC BY 4.0")
    rights = opened("stac?collections=ortho", prefix="stac:").rights
    assert (rights.attribution, rights.licence, rights.acquired) == ("Example Survey", "CC-BY-4.0", "2023-06-01")
    rights = opened("", prefix="oam:").rights
    assert (rights.attribution, rights.licence, rights.acquired) == ("A Flyer", "CC-BY 4.0", "2022-05-01")
    assert opened("arcgis/cached/MapServer").rights.attribution == "Example Survey"


@pytest.mark.parametrize(("path", "prefix"), [("files/a.tif", ""), ("stac?collections=ortho", "stac:")])
def test_remote_rasters_have_each_cell_in_several_sizes(opened, path, prefix):
    source = opened(path, prefix=prefix, tile_sizes=(60.0, 30.0))
    assert source.tile_sizes == (30.0, 60.0) and source.plan().tiles == source.table.num_rows
    names = source.table["tile_id"].to_pylist()
    pairs = [(a, b) for a, b in itertools.pairwise(names) if b == a.replace("_30m", "_60m") != a]
    assert len(pairs) == sum(name.endswith("_60m") for name in names) > 0
    for row in (names.index(pairs[0][0]), names.index(pairs[0][1])):
        image = source.read(row)
        assert np.abs(np.asarray(image, dtype=float) - seen_from_the_formula(source, row, image)).mean() < 8


@pytest.mark.parametrize("path", ["files/a.tif", "files/town.pmtiles", "arcgis/cached/MapServer"])
def test_services_second_run_requests_no_imagery(opened, server, path):
    def read_all():
        source = opened(path)
        for row in range(source.table.num_rows):
            source.read(row)

    read_all()
    before = [name for name in server.paths if "f=json" not in name]
    read_all()
    assert [name for name in server.paths if "f=json" not in name] == before


@pytest.mark.parametrize(
    ("path", "prefix", "layer", "message"),
    [
        ("wmts?service=wmts", "", None, "has 2 layers: choose one with --layer; map, ortho"),
        ("wmts?service=wmts", "", "orto", "no layer 'orto'; it has map, ortho"),
        ("wfs?service=wms", "", None, "another service"),
        ("wfs", "wmts:", None, "another service"),
        ("evilwms?service=wms", "", None, "entities"),
        ("html/1/1/1", "wms:", None, "another service \\(html"),
        ("notfound/1/1/1.png", "wms:", None, "there is no WMS"),
        ("arcgistoken/MapServer", "", None, "Token Required"),
        ("good/1/1/1.png", "arcgis:", None, "not an ArcGIS service"),
        ("good/1/1/1.png", "wmts:", None, "not a capabilities"),
        ("files/missing.tif", "", None, "there is no file"),
        ("files/whole.tif", "", None, "range requests"),
        ("files/page.tif", "", None, "cannot be read as a georeferenced raster"),
        ("files/a.tif", "pmtiles:", None, "cannot be read as a PMTiles archive"),
        ("files/vector.pmtiles", "", None, "vector tiles"),
        ("stac", "stac:", None, "has no collection"),
        ("html/1/1/1?collections=a", "stac:", None, "cannot be searched as a STAC API"),
        ("stac?collections=ortho", "stac:", "x", "no asset 'x'"),
        ("html/1/1", "oam:", None, "OpenAerialMap"),
        ("somewhere", "", None, "does not look like imagery"),
    ],
)
def test_services_invalid_source_raises_one_line_error(opened, path, prefix, layer, message):
    with pytest.raises(GenGeoError, match=message) as caught:
        opened(path, prefix=prefix, layer=layer)
    assert "\n" not in str(caught.value) and "hush" not in str(caught.value)


def test_services_area_outside_extent_raises_error(opened, server):
    with pytest.raises(GenGeoError, match="covers west 24"):
        opened("wmts?service=wmts", layer="ortho", bounds="10,50,10.001,50.001")
    with pytest.raises(GenGeoError, match="are latitude and longitude swapped"):
        opened("wmts?service=wmts", layer="ortho", bounds="60.16,24.93,60.161,24.931")
    with pytest.raises(GenGeoError, match="does not cover"):
        opened("files/a.tif", bounds="10,50,10.001,50.001")
    with pytest.raises(GenGeoError, match="has no item of ortho"):
        opened("stac?collections=ortho", prefix="stac:", bounds="10,50,10.001,50.001")


def test_services_private_host_in_document_raises_error(server, tmp_path):
    """Only the user's own host may be private; the document names the metadata address of cloud providers."""
    client = ClientOptions(allow_private=False, rate=0)
    net = NetOptions(client=client, cache=str(tmp_path), layer="ortho")
    options = TilingOptions(tile_m=60.0, area=parse_area(bounds=BOX), net=net)
    with pytest.raises(GenGeoError, match="--allow-private"):
        open_imagery(f"{server.address}/wmtsother?service=wmts", options)


def test_services_secrets_of_assets_are_not_in_names_and_files(opened, tmp_path):
    source = opened("stac?collections=ortho", prefix="stac:")
    source.read(0)
    shown = [source.name, source.rendering, str(source.rights), str(source.plan()), str(source.table.to_pydict())]
    assert "hush" not in "".join(shown)
    for path in tmp_path.rglob("*"):
        assert "hush" not in path.name and (path.is_dir() or b"hush-hush" not in path.read_bytes())


def test_sources_registered_by_a_module_are_opened(tmp_path):
    from gengeo_hf.imagery.addresses import SOURCES

    SOURCES.register("mygis", lambda address, options: ("opened", address, options.tile_m))
    try:
        assert open_imagery("mygis:over/there", TilingOptions(tile_m=7)) == ("opened", "over/there", 7)
    finally:
        del SOURCES._parts["mygis"]
