"""Documents of services with missing, empty and invalid values are read, or refused with a one-line error."""

import copy
import json
import xml.etree.ElementTree as ET

import httpx
import pytest

from gengeo_hf.common.area import parse_area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery import TilingOptions, open_imagery
from gengeo_hf.imagery.client import Answer, ImageryClient
from gengeo_hf.imagery.options import ClientOptions, NetOptions
from tests.imagery import service_documents as documents

HOST = "tiles.example.org"
VALUES = (None, {}, "x", -1, 0, 1e308, float("nan"))


@pytest.fixture
def opened(monkeypatch, tmp_path):
    """Open a source whose documents all have the content `content`."""
    content = {}
    monkeypatch.setattr("gengeo_hf.imagery.client.GuardedTransport", lambda allow_private: httpx.MockTransport(None))
    monkeypatch.setattr(
        ImageryClient, "get", lambda self, address, **_: Answer(200, content["now"], httpx.Headers({}), address)
    )

    def open_document(document, path, layer=None):
        content["now"] = document
        client = ClientOptions(allow_private=True, rate=0, attempts=1)
        net = NetOptions(client=client, cache=str(tmp_path / "cache"), layer=layer, needs_rights=False)
        area = parse_area(bounds="24.9305,60.1615,24.9315,60.162")
        return open_imagery(f"http://{HOST}/{path}", TilingOptions(tile_m=60.0, area=area, net=net))

    return open_document


def faults_of(open_source):
    """Text of an exception other than a `GenGeoError` of one line, "" if there is none."""
    try:
        open_source().plan()
    except GenGeoError as error:
        return "" if "\n" not in str(error) else "several lines"
    except Exception as error:  # the failure that the tests detect
        return f"{type(error).__name__}: {error}"
    return ""


def paths_of(value, path=()):
    yield path
    entries = value.items() if isinstance(value, dict) else enumerate(value[:1]) if isinstance(value, list) else ()
    for key, inner in entries:
        yield from paths_of(inner, (*path, key))


def changed(value, path, new):
    """A document in which one value is replaced or, if `new` is "removed", removed."""
    value = copy.deepcopy(value)
    holder = value
    for key in path[:-1]:
        holder = holder[key]
    if new == "removed":
        del holder[path[-1]]
    else:
        holder[path[-1]] = new
    return value


@pytest.mark.slow
@pytest.mark.parametrize("cached", [True, False])
def test_arcgis_invalid_document_raises_one_line_error(opened, cached):
    whole = documents.arcgis(cached)
    faults = {
        (path, str(new)): fault
        for path in list(paths_of(whole))[1:]
        for new in (*VALUES, "removed")
        if (
            fault := faults_of(
                lambda path=path, new=new: opened(json.dumps(changed(whole, path, new)).encode(), "arcgis/a/MapServer")
            )
        )
    }
    assert not faults


@pytest.mark.slow
@pytest.mark.parametrize(
    ("content", "path"),
    [
        (documents.wmts(HOST), "wmts?service=WMTS&layer=ortho"),
        (documents.wms(HOST), "wms?service=WMS&layers=ortho"),
        (documents.wms(HOST, "1.1.1"), "wms?service=WMS&layers=ortho"),
    ],
)
def test_capabilities_invalid_element_raises_one_line_error(opened, content, path):
    faults = {}
    tags = [element.tag for element in ET.fromstring(content).iter()]
    for number in sorted(map(tags.index, set(tags))):
        for change in ("removed", "emptied", "0", "1e400", "junk"):
            root = ET.fromstring(content)
            element = list(root.iter())[number]
            if change == "removed":
                parent = next((other for other in root.iter() if element in list(other)), None)
                if parent is None:
                    continue
                parent.remove(element)
            elif change == "emptied":
                element.clear()
            else:
                element.text = change
            document = ET.tostring(root)
            if fault := faults_of(lambda document=document: opened(document, path)):
                faults[element.tag, change] = fault
    assert not faults
