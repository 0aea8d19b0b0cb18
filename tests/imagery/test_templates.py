"""Templates of tile addresses in several spellings, and their secrets."""

import pytest

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.options import NetOptions
from gengeo_hf.imagery.templates import TemplateService, is_template, quadkey


def address(template, *place, tms=False, environment=None, **options):
    return TemplateService(template, NetOptions(**options), tms, environment or {}).address(*place)


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        ("https://t.org/{z}/{x}/{y}.jpeg", "https://t.org/3/5/2.jpeg"),
        ("https://t.org/{zoom}/{x}/{y}.jpeg?a=1", "https://t.org/3/5/2.jpeg?a=1"),
        ("https://t.org/MapServer/tile/{z}/{y}/{x}", "https://t.org/MapServer/tile/3/2/5"),
        ("https://t.org/{z}/{x}/{-y}.png", "https://t.org/3/5/5.png"),
        ("https://t.org/${z}/${x}/${y}.png", "https://t.org/3/5/2.png"),
        ("https://{s}.t.org/{z}/{x}/{y}.png", "https://a.t.org/3/5/2.png"),
        ("https://{switch:k1,k2}.t.org/{z}/{x}/{y}.png", "https://k1.t.org/3/5/2.png"),
        ("https://t.org/a{quadkey}.jpeg", "https://t.org/a121.jpeg"),
        ("https://t.org/{z}/{x}/{y}{r}.png", "https://t.org/3/5/2.png"),
        ("https://t.org/%7Bz%7D/%7Bx%7D/%7By%7D.png", "https://t.org/3/5/2.png"),
        ("tms[19]:https://t.org/{zoom}/{x}/{-y}.jpg", "https://t.org/3/5/5.jpg"),
        ("tms:https://t.org/{zoom}/{x}/{y}.jpg", "https://t.org/3/5/2.jpg"),
        ("type=xyz&url=https://t.org/%7Bz%7D/%7Bx%7D/%7By%7D.png&zmax=19&zmin=0", "https://t.org/3/5/2.png"),
        (
            "https://t.org/w?tileMatrix={TileMatrix}&tileRow={TileRow}&tileCol={TileCol}",
            "https://t.org/w?tileMatrix=3&tileRow=2&tileCol=5",
        ),
    ],
)
def test_template_spellings_give_the_address(template, expected):
    assert is_template(template)
    assert address(template, 3, 5, 2) == expected


def test_template_tms_counts_rows_from_the_south():
    assert address("https://t.org/{z}/{x}/{y}.jpg", 3, 5, 2, tms=True) == "https://t.org/3/5/5.jpg"


def test_quadkey_equals_published_example():
    assert quadkey(3, 3, 5) == "213"  # Bing Maps Tile System: tile (3, 5) at level 3


def test_template_with_box_requests_web_mercator():
    service = TemplateService("https://t.org/wms?BBOX={bbox}&W={width}&H={height}&SRS={proj}")
    half = 20037508.3427892
    asked = service.address(1, 1, 0)
    box = [float(value) for value in asked.split("BBOX=")[1].split("&")[0].split(",")]
    assert box == pytest.approx([0, 0, half, half], abs=1)
    assert asked.endswith("&W=512&H=512&SRS=EPSG:3857") and service.kind == "WMS"


def test_template_zoom_limits_of_josm_and_qgis_are_used():
    service = TemplateService("tms[2,19]:https://t.org/{zoom}/{x}/{y}.jpg")
    assert max(service.grid.levels) == 19
    with pytest.raises(GenGeoError, match="0 to 19"):
        service.address(20, 0, 0)


def test_template_secret_is_read_from_environment_and_hidden():
    template = "https://t.org/{z}/{x}/{y}.jpg?key={apikey}"
    service = TemplateService(template, environment={"GENGEO_APIKEY": "hush-hush-1"})
    assert "hush-hush-1" in service.address(1, 0, 0)
    shown = [service.name, service.identity, service.rights.address]
    assert not any("hush" in text for text in shown) and "{z}" in service.name
    with pytest.raises(GenGeoError, match="export GENGEO_APIKEY"):
        TemplateService(template, environment={})


def test_template_pasted_secret_is_hidden():
    service = TemplateService("https://t.org/{z}/{x}/{y}.jpg?token=abcdef")
    assert "abcdef" not in service.name + service.identity and "abcdef" in service.address(1, 0, 0)


def test_templates_with_different_keys_share_one_cache():
    services = [
        TemplateService("https://t.org/{z}/{x}/{y}.jpg?key={apikey}", environment={"APIKEY": key})
        for key in ("first", "second")
    ]
    assert services[0].identity == services[1].identity


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("https://t.org/{x}/{y}.jpg", "no {z}"),
        ("https://t.org/{z}/{x}.jpg", "no {x} or no {y}"),
        ("ftp://t.org/{z}/{x}/{y}.jpg", "only http"),
        ("https://{z}.t.org/{x}/{y}/{z}.jpg", "host name"),
        ("https://t.org/{z}/{x}/{y}/{some thing}", "unknown placeholder"),
    ],
)
def test_template_invalid_raises_error(template, message):
    with pytest.raises(GenGeoError, match=message):
        address(template, 1, 0, 0)
