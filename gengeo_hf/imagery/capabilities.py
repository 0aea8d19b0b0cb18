"""Capabilities documents of WMS and WMTS: fetched, checked, and parsed by owslib."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.client import ImageryClient, ServerError
from gengeo_hf.imagery.hosts import host_of, redact
from gengeo_hf.imagery.options import NetOptions
from gengeo_hf.imagery.tiles import Rights

ROOTS = {"WMTS": ("Capabilities",), "WMS": ("WMS_Capabilities", "WMT_MS_Capabilities")}
FORMATS = ("image/jpeg", "image/jpg", "image/png", "image/webp", "image/vnd.jpeg-png", "image/jpgpng")

_OWN_PARAMETERS = frozenset(
    "service request layer layers version bbox width height format styles style crs srs".split()
)


def capabilities(client: ImageryClient, address: str, kind: str) -> bytes:
    """Fetch the capabilities document of a service and check what it is.

    Args:
        client: Fetches it.
        address: Of the service or of the document (`.xml`).
        kind: WMTS or WMS.

    Returns:
        The document, XML without entities.

    Raises:
        GenGeoError: It is not XML, has entities, or belongs to another service.
    """
    try:
        from defusedxml import ElementTree
        from defusedxml.common import DefusedXmlException
    except ImportError as error:
        raise MissingExtraError("defusedxml", "net", "read capabilities") from error
    asked = address
    if not urlsplit(address).path.lower().endswith(".xml"):
        kept = {k: v for k, v in parse_qsl(urlsplit(address).query) if k.lower() not in _OWN_PARAMETERS}
        query = urlencode(kept | {"SERVICE": kind, "REQUEST": "GetCapabilities"})
        asked = urlunsplit(urlsplit(address)._replace(query=query))
    answer = client.get(asked)
    if answer.is_missing:
        raise ServerError(f"there is no {kind} at {answer.address} ({answer.status})", answer.status)
    try:
        root = ElementTree.fromstring(answer.content)
    except DefusedXmlException:
        raise GenGeoError(f"the capabilities at {answer.address} have XML entities, which are refused") from None
    except Exception as error:  # parsers raise exceptions of many types
        raise GenGeoError(f"{answer.address} is not a capabilities document ({error}): check the address") from None
    tag = root.tag.rpartition("}")[2]
    is_other = kind == "WMTS" and "wmts" not in root.tag.lower()
    if tag not in ROOTS[kind] or is_other:
        raise GenGeoError(f"{answer.address} is a document of another service ({tag}), expected a {kind}")
    return answer.content


@contextlib.contextmanager
def errors_in_one_line(address: str) -> Iterator[None]:
    """Turn every error in reading a capabilities document into one `GenGeoError` that names its address."""
    try:
        yield
    except GenGeoError:
        raise
    except Exception as error:  # owslib raises exceptions of many types for incomplete documents
        reason = redact(first_line(error))
        raise GenGeoError(f"the capabilities at {redact(address)} cannot be read: {reason}") from error


def parse_capabilities(kind: str, address: str, content: bytes) -> Any:
    """Parse a capabilities document with owslib.

    Args:
        kind: WMTS or WMS.
        address: Of the document, for messages.
        content: The document.

    Returns:
        An `owslib` `WebMapTileService` or `WebMapService`.

    Raises:
        GenGeoError: It cannot be read.
        MissingExtraError: owslib is not installed.
    """
    try:
        from owslib.wms import WebMapService
        from owslib.wmts import WebMapTileService
    except ImportError as error:
        raise MissingExtraError("owslib", "net", "read capabilities") from error
    with errors_in_one_line(address):
        if kind == "WMTS":
            return WebMapTileService(address, xml=content)
        return WebMapService(address, xml=content, version=wms_version(content))


def wms_version(content: bytes) -> str:
    """Version of a WMS by the name of its capabilities' root element."""
    return "1.3.0" if b"WMS_Capabilities" in content[:4000] else "1.1.1"


def layer_names(kind: str, address: str, net: NetOptions) -> list[str]:
    """Names of the layers of a WMS or WMTS; if the address itself names a layer, only that.

    Raises:
        GenGeoError: The capabilities cannot be read.
    """
    if named := query_value(address, "layer" if kind == "WMTS" else "layers"):
        return [named]
    client = ImageryClient(net.client, (host_of(address),))
    return list(parse_capabilities(kind, address, capabilities(client, address, kind)).contents)


def choose(found: Mapping[str, Any], wanted: str | None, what: str, name: str) -> Any:
    """The entry that the user named, or the only one.

    Raises:
        GenGeoError: There is no such entry, or there are several and none was named.
    """
    option = "--layer" if what == "layer" else "--matrix-set"
    listed = ", ".join(sorted(found)[:12]) + (" ..." if len(found) > 12 else "")
    if wanted is not None:
        if wanted not in found:
            raise GenGeoError(f"{name} has no {what} {wanted!r}; it has {listed}: see {option}")
        return found[wanted]
    if len(found) != 1:
        raise GenGeoError(f"{name} has {len(found)} {what}s: choose one with {option}; {listed}")
    return next(iter(found.values()))


def query_value(address: str, key: str) -> str | None:
    """A value of the address's query; the case of the key does not matter."""
    return next((value for name, value in parse_qsl(urlsplit(address).query) if name.lower() == key), None)


def get_address(methods: Any) -> str:
    """Address of the GET requests of an operation; empty where it is not stated."""
    return next((method["url"] for method in methods or [] if method.get("type", "").lower() == "get"), "")


def rights_of(document: Any, layer: Any, address: str) -> Rights:
    """Attribution and licence as the capabilities state them."""
    identification = document.identification
    stated = getattr(layer, "attribution", None) or {}  # WMS only
    provider = getattr(document, "provider", None)
    constraint = str(getattr(identification, "accessconstraints", "") or "")
    licence = "" if constraint.strip().lower() in ("none", "-", "") else constraint
    return Rights(str(stated.get("title") or getattr(provider, "name", "") or ""), licence, "", redact(address))
