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
    """Fetch the capabilities document of a service and check its kind.

    Args:
        client: HTTP client.
        address: Address of the service or of the document (`.xml`).
        kind: "WMTS" or "WMS".

    Returns:
        The document: XML without entities.

    Raises:
        GenGeoError: The response is not XML, has entities, or belongs to another kind of service.
        MissingExtraError: defusedxml is not installed.
    """
    try:
        from defusedxml import ElementTree
        from defusedxml.common import DefusedXmlException
    except ImportError as error:
        raise MissingExtraError("defusedxml", "net", "read capabilities") from error
    target = address
    if not urlsplit(address).path.lower().endswith(".xml"):
        kept = {k: v for k, v in parse_qsl(urlsplit(address).query) if k.lower() not in _OWN_PARAMETERS}
        query = urlencode(kept | {"SERVICE": kind, "REQUEST": "GetCapabilities"})
        target = urlunsplit(urlsplit(address)._replace(query=query))
    answer = client.get(target)
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
    """Convert every error in reading a capabilities document to a `GenGeoError` that names its address."""
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
        kind: "WMTS" or "WMS".
        address: Address of the document, for messages.
        content: XML from `capabilities`.

    Returns:
        An owslib `WebMapTileService` or `WebMapService`.

    Raises:
        GenGeoError: The document cannot be parsed.
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
    """Version of a WMS, "1.3.0" or "1.1.1", by the root element of its capabilities."""
    return "1.3.0" if b"WMS_Capabilities" in content[:4000] else "1.1.1"


def layer_names(kind: str, address: str, net: NetOptions) -> list[str]:
    """Names of the layers of a WMS or WMTS; if the address names a layer, only that one.

    Args:
        kind: "WMTS" or "WMS".
        address: Address of the service or of its document.
        net: Options with the limits of the client.

    Raises:
        GenGeoError: The capabilities cannot be read.
    """
    if named := query_value(address, "layer" if kind == "WMTS" else "layers"):
        return [named]
    client = ImageryClient(net.client, (host_of(address),))
    return list(parse_capabilities(kind, address, capabilities(client, address, kind)).contents)


def choose(found: Mapping[str, Any], wanted: str | None, what: str, name: str) -> Any:
    """The entry that the user named, or the only one.

    Args:
        found: Entries by name.
        wanted: Name from the user; None takes the only entry.
        what: Kind of entry for messages, "layer" or "matrix set".
        name: Name of the source for messages.

    Raises:
        GenGeoError: There is no such entry, or there are several and `wanted` is None.
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
    """Value of a query parameter of an address, None if missing. `key` is in lower case and matches any case."""
    return next((value for name, value in parse_qsl(urlsplit(address).query) if name.lower() == key), None)


def get_address(methods: Any) -> str:
    """Address for GET requests of an operation, "" if it is not stated."""
    return next((method["url"] for method in methods or [] if method.get("type", "").lower() == "get"), "")


def rights_of(document: Any, layer: Any, address: str) -> Rights:
    """Attribution and licence that the capabilities state."""
    identification = document.identification
    stated = getattr(layer, "attribution", None) or {}  # WMS only
    provider = getattr(document, "provider", None)
    constraint = str(getattr(identification, "accessconstraints", "") or "")
    licence = "" if constraint.strip().lower() in ("none", "-", "") else constraint
    return Rights(str(stated.get("title") or getattr(provider, "name", "") or ""), licence, "", redact(address))
