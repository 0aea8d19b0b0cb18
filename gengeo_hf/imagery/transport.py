"""HTTP transport of the imagery client that connects to checked IP addresses only.

The name of a host is resolved when a connection is made, each IP address is checked, and the connection uses a checked
one. If the environment sets a proxy, the proxy resolves names; names that can be resolved locally are checked too.
"""

import contextlib
import urllib.request
from collections.abc import Iterable, Iterator
from typing import Any

import httpcore
import httpx

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.hosts import redact, resolve

MAX_CONNECTIONS = 64


class CheckedNetwork(httpcore.SyncBackend):
    """Network backend of httpcore that connects only to resolved and checked IP addresses.

    Args:
        allow_private: Whether private, loopback and link-local addresses are allowed.
    """

    def __init__(self, allow_private: bool) -> None:
        self._allow_private = allow_private

    def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.NetworkStream:
        """Connect to the first IP address of a host that accepts a connection.

        Raises:
            GenGeoError: An IP address is not public, and private ones are not allowed.
            httpcore.ConnectError: The name cannot be resolved, or no IP address accepts a connection.
        """
        try:
            numbers = resolve(host, port, self._allow_private)
        except OSError as error:
            raise httpcore.ConnectError(f"the name {host} is not known ({error})") from error
        for number in numbers:
            try:
                return super().connect_tcp(number, port, timeout, local_address, socket_options)
            except (httpcore.ConnectError, httpcore.ConnectTimeout):
                if number == numbers[-1]:
                    raise
        raise httpcore.ConnectError(f"the name {host} has no address")


class GuardedTransport(httpx.BaseTransport):
    """HTTP transport that connects to checked IP addresses only, or through the proxy of the environment.

    Args:
        allow_private: Whether private, loopback and link-local addresses are allowed.
    """

    def __init__(self, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        context = _certificates()
        # The pool identifies hosts by name, so that certificates are checked against the name.
        self._direct = httpcore.ConnectionPool(
            ssl_context=context,
            max_connections=MAX_CONNECTIONS,
            max_keepalive_connections=16,
            keepalive_expiry=30.0,
            network_backend=CheckedNetwork(allow_private),
        )
        found = urllib.request.getproxies()
        self._proxies = {
            scheme: httpx.HTTPTransport(verify=context, proxy=_proxy(found[key]))
            for scheme in ("http", "https")
            if (key := next((name for name in (scheme, "all") if name in found), ""))
        }

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request."""
        url = request.url
        proxy = self._proxies.get(url.scheme)
        if proxy is not None and not urllib.request.proxy_bypass(url.host):
            port = url.port or (443 if url.scheme == "https" else 80)
            with contextlib.suppress(OSError):  # in some networks only the proxy resolves public names
                resolve(url.host, port, self._allow_private)
            return proxy.handle_request(request)
        target = httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path)
        with _translated(request):
            answer = self._direct.handle_request(
                httpcore.Request(
                    request.method,
                    target,
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        stream = _Stream(answer.stream, request)
        return httpx.Response(answer.status, headers=answer.headers, stream=stream, extensions=answer.extensions)

    def close(self) -> None:
        """Close all connections."""
        self._direct.close()
        for transport in self._proxies.values():
            transport.close()


class _Stream(httpx.SyncByteStream):
    """Body of a response, which raises errors of httpx instead of httpcore."""

    def __init__(self, stream: Any, request: httpx.Request) -> None:
        self._stream, self._request = stream, request

    def __iter__(self) -> Iterator[bytes]:
        with _translated(self._request):
            yield from self._stream

    def close(self) -> None:
        self._stream.close()


@contextlib.contextmanager
def _translated(request: httpx.Request) -> Iterator[None]:
    """Convert exceptions of httpcore to those of httpx with the same name."""
    try:
        yield
    except (httpcore.TimeoutException, httpcore.NetworkError, httpcore.ProtocolError, httpcore.ProxyError) as error:
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise kind(str(error), request=request) from error


def _certificates() -> Any:
    """Trusted certificates: those of SSL_CERT_FILE and SSL_CERT_DIR if set, else those of certifi."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise GenGeoError(f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR name cannot be read: {error}") from None


def _proxy(address: str) -> httpx.Proxy:
    try:
        return httpx.Proxy(address if "://" in address else f"http://{address}")
    except (ValueError, httpx.InvalidURL) as error:
        raise GenGeoError(f"the proxy of the environment cannot be used: {redact(str(error))}") from None
