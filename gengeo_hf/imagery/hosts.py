"""Host names and secrets of addresses: checked name resolution, and removal of secrets from text.

A name is resolved once for each connection, all resulting IP addresses are checked, and the connection uses a checked
one. This prevents DNS rebinding, in which a name resolves to different addresses for the check and for the connection.
"""

import ipaddress
import logging
import re
import socket
from collections.abc import Iterable
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

from gengeo_hf.common.errors import GenGeoError

HIDDEN = "***"
_SECRET_KEY = re.compile(
    r"^(?!quadkey$)(x-amz-.*|x-goog-.*|.*(key|token|secret|signature|password|passwd|credential).*|sig|pwd|auth)$",
    re.IGNORECASE,
)
_secrets: set[str] = set()


def remember_secret(value: str) -> None:
    """Register a text that `redact` must hide."""
    if len(value) >= 4:  # shorter values occur in ordinary text
        _secrets.add(value)


def redact(text: str) -> str:
    """Replace secrets in a text: registered ones, and user names, passwords and keys in addresses."""
    for secret in sorted(_secrets, key=len, reverse=True):
        text = text.replace(secret, HIDDEN)
    return re.sub(r"https?://[^\s'\"<>]+", lambda found: _redact_address(found[0]), text)


def _redact_address(address: str) -> str:
    try:
        parts = urlsplit(address)
        query = parse_qsl(parts.query, keep_blank_values=True)
    except ValueError:  # not a valid address
        return address
    netloc = f"{HIDDEN}@{parts.netloc.rpartition('@')[2]}" if "@" in parts.netloc else parts.netloc
    if any(_SECRET_KEY.match(key) for key, _ in query):
        kept = [(key, HIDDEN if _SECRET_KEY.match(key) else value) for key, value in query]
        return urlunsplit(parts._replace(netloc=netloc, query=urlencode(kept, safe="*{}/:,;")))
    return urlunsplit(parts._replace(netloc=netloc))


def secrets_of(address: str) -> list[str]:
    """Secrets in an address: the password, and query values whose names are those of secrets."""
    parts = urlsplit(address)
    found = [value for key, value in parse_qsl(parts.query) if _SECRET_KEY.match(key)]
    return [*found, *([parts.password] if parts.password else [])]


class RedactingFilter(logging.Filter):
    """Filter that removes secrets from log records, since httpx logs the address of every request."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Redact the message of a record; records are never dropped."""
        record.msg, record.args = redact(record.getMessage()), ()
        return True


def hide_secrets_in_logs(names: Iterable[str] = ("httpx", "httpcore", "rasterio", "urllib3")) -> None:
    """Add `RedactingFilter` once to the loggers of libraries that handle addresses.

    Args:
        names: Names of the loggers.
    """
    for name in names:
        logger = logging.getLogger(name)
        if not any(isinstance(known, RedactingFilter) for known in logger.filters):
            logger.addFilter(RedactingFilter())


def host_of(address: str) -> str:
    """Host name of an http or https address, in lower case, without the port.

    Raises:
        GenGeoError: The scheme is not http or https, or the address has no host name.
    """
    try:
        parts = urlsplit(address)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise GenGeoError(f"{redact(address)} is not an address: {error}") from None
    if parts.scheme.lower() not in ("http", "https"):
        raise GenGeoError(f"{redact(address)}: only http and https addresses are opened, found {parts.scheme!r}")
    if not host:
        raise GenGeoError(f"{redact(address)} has no host name; an address looks like https://tiles.example.org/...")
    return host.lower()


def resolve(host: str, port: int, allow_private: bool) -> list[str]:
    """Resolve a host name and check the IP addresses.

    Args:
        host: Host name or IP address.
        port: Port of the connection.
        allow_private: Whether private, loopback and link-local addresses are allowed.

    Returns:
        IP addresses as text, in the order of the resolver.

    Raises:
        GenGeoError: An IP address is not public, and `allow_private` is False.
        OSError: The name cannot be resolved.
    """
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    numbers = list(dict.fromkeys(str(entry[4][0]) for entry in found))
    for number in numbers:
        if not allow_private and not is_public(number):
            raise GenGeoError(
                f"{host} is {number}, a private or local address, which is refused; if the server is your own, add "
                "--allow-private"
            )
    return numbers


def is_public(number: str) -> bool:
    """Whether an IP address is public. Mapped, 6to4, Teredo and NAT64 addresses are judged by their IPv4 address."""
    address = ipaddress.ip_address(number.partition("%")[0])
    inner = None
    if isinstance(address, ipaddress.IPv6Address):
        inner = address.ipv4_mapped or address.sixtofour or (address.teredo[1] if address.teredo else None)
        if address in ipaddress.ip_network("64:ff9b::/96"):  # NAT64
            inner = ipaddress.IPv4Address(int(address) & 0xFFFFFFFF)
    public = address.is_global and not address.is_multicast
    if inner is not None:
        return inner.is_global and not inner.is_multicast
    return public
