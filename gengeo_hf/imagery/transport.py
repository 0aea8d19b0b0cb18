"""Connections to checked addresses: what lies under the imagery client.

The name of a host is resolved here, each result is checked, and the connection goes to the checked number. Where the
environment names a proxy, the proxy resolves names; those that are known here are checked as well.
"""

import contextlib
import threading
import time
import urllib.request
from typing import Any

import httpx

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.hosts import redact, resolve

NAME_S = 60.0  # seconds for which a resolved name is kept


class GuardedTransport(httpx.BaseTransport):
    """Connects to checked addresses only, through the proxy of the environment where one is set.

    Args:
        allow_private: Whether private, loopback and link-local addresses are allowed.
    """

    def __init__(self, allow_private: bool = False) -> None:
        self._allow_private = allow_private
        self._lock = threading.Lock()
        self._names: dict[tuple[str, int], tuple[list[str], float]] = {}
        limits = httpx.Limits(max_connections=64, max_keepalive_connections=16)
        context = _certificates()
        self._connect = lambda: httpx.HTTPTransport(verify=context, limits=limits)
        # One pool for each name: two names with one address must not share a connection, whose certificate was
        # checked for the first one only.
        self._direct: dict[str, httpx.HTTPTransport] = {}
        found = urllib.request.getproxies()
        self._proxies = {
            scheme: httpx.HTTPTransport(verify=context, limits=limits, proxy=_proxy(found[key]))
            for scheme in ("http", "https")
            if (key := next((name for name in (scheme, "all") if name in found), ""))
        }

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        """Send one request to the first address of its host that answers."""
        host, port = request.url.host, request.url.port or (443 if request.url.scheme == "https" else 80)
        proxy = self._proxies.get(request.url.scheme)
        if proxy is not None and not urllib.request.proxy_bypass(host):
            with contextlib.suppress(OSError):  # inside of a company only the proxy may know names of the outside
                self._resolve(host, port)
            return proxy.handle_request(request)
        try:
            numbers = self._resolve(host, port)
        except OSError as error:
            raise httpx.ConnectError(f"the name {host} is not known ({error})", request=request) from error
        return self._first_that_answers(request, host, numbers)

    def _resolve(self, host: str, port: int) -> list[str]:
        with self._lock:
            numbers, until = self._names.get((host, port), ([], 0.0))
        if time.monotonic() > until:
            numbers = resolve(host, port, self._allow_private)
            with self._lock:
                self._names[host, port] = numbers, time.monotonic() + NAME_S
        return numbers

    def _first_that_answers(self, request: httpx.Request, host: str, numbers: list[str]) -> httpx.Response:
        extensions = request.extensions | {"sni_hostname": host}  # the certificate must be that of the name
        with self._lock:
            transport = self._direct.setdefault(host, self._direct.get(host) or self._connect())
        for number in numbers:
            url = request.url.copy_with(host=number)
            pinned = httpx.Request(
                request.method, url, headers=request.headers, stream=request.stream, extensions=extensions
            )
            try:
                return transport.handle_request(pinned)
            except (httpx.ConnectError, httpx.ConnectTimeout):
                if number == numbers[-1]:
                    raise
        raise httpx.ConnectError(f"the name {host} has no address", request=request)

    def close(self) -> None:
        """Close all connections."""
        for transport in (*self._direct.values(), *self._proxies.values()):
            transport.close()


def _certificates() -> Any:
    """Trusted certificates: SSL_CERT_FILE and SSL_CERT_DIR of the environment, else the usual ones."""
    try:
        return httpx.create_ssl_context()
    except OSError as error:
        raise GenGeoError(f"the certificates that SSL_CERT_FILE or SSL_CERT_DIR name cannot be read: {error}") from None


def _proxy(address: str) -> httpx.Proxy:
    try:
        return httpx.Proxy(address if "://" in address else f"http://{address}")
    except (ValueError, httpx.InvalidURL) as error:
        raise GenGeoError(f"the proxy of the environment cannot be used: {redact(str(error))}") from None
