"""HTTP client for imagery by address. It sends all requests, so that its limits and checks apply to every source.

Each host receives at most `connections` simultaneous requests and `rate` requests per second. The client honours
Retry-After and retries other temporary failures with exponential backoff and jitter, within a time limit. It connects
only to hosts named by the user or by a document of an allowed host, and only to public addresses unless private ones
are allowed. Proxies and certificates of the environment are used (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE). Secrets in
addresses are never logged or shown.
"""

import contextlib
import email.utils
import math
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import httpx

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.hosts import hide_secrets_in_logs, host_of, redact, remember_secret, secrets_of
from gengeo_hf.imagery.options import ClientOptions
from gengeo_hf.imagery.tiles import ImageryStoppedError
from gengeo_hf.imagery.transport import GuardedTransport

TEMPORARY = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})  # statuses that are retried
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
MAX_BYTES = 64 << 20  # of one response


class ServerError(GenGeoError):
    """A request failed.

    Args:
        message: Message for the user, one line.
        status: HTTP status, 0 if there was no response.
        content: Beginning of the body of the response.
    """

    def __init__(self, message: str, status: int = 0, content: bytes = b"") -> None:
        super().__init__(redact(message))
        self.status, self.content = status, content


class HostUnavailableError(ServerError, ImageryStoppedError):
    """A host failed too often, or requests a long pause, so that the rest must be fetched in a later run."""


@dataclass
class _Host:
    """State of one host."""

    name: str
    slots: threading.Semaphore
    lock: threading.Lock = field(default_factory=threading.Lock)
    next_start: float = 0.0  # time.monotonic() before which no request starts
    failures: int = 0  # in a row
    has_answered: bool = False  # with success or "not found"


@dataclass(frozen=True)
class Answer:
    """A successful response (status 200 or 206), or one that states that the resource is missing (204, 404 or 410).

    Args:
        status: HTTP status.
        content: Decoded body.
        headers: Header fields; names match any case.
        address: Final address after redirects, without secrets.
    """

    status: int
    content: bytes
    headers: Mapping[str, str]
    address: str

    @property
    def media_type(self) -> str:
        """Content-Type without parameters, in lower case."""
        return self.headers.get("content-type", "").partition(";")[0].strip().lower()

    @property
    def is_missing(self) -> bool:
        """Whether the resource does not exist."""
        return self.status in (204, 404, 410)


class ImageryClient:
    """HTTP client with limits for each host. Safe for threads.

    Args:
        options: Limits and the contact; None takes the defaults.
        hosts: Names of the hosts to which requests may be sent. `allow` adds hosts that documents name.
        transport: Transport that sends the requests; None connects to the network.
        sleep: Function that waits a number of seconds.
    """

    def __init__(
        self,
        options: ClientOptions | None = None,
        hosts: tuple[str, ...] = (),
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.options = options or ClientOptions()
        self.requests = 0  # number of sent requests, including retries
        self.bytes_received = 0
        self._allowed = {host.lower() for host in hosts}
        self._hosts: dict[str, _Host] = {}
        self._lock = threading.Lock()
        self._sleep = sleep
        hide_secrets_in_logs()
        self._client = httpx.Client(
            transport=transport or GuardedTransport(self.options.allow_private),
            headers={"User-Agent": user_agent(self.options.contact)},
            timeout=httpx.Timeout(self.options.timeout_s),
            follow_redirects=False,
        )

    def __enter__(self) -> "ImageryClient":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close all connections."""
        self._client.close()

    @property
    def hosts(self) -> list[str]:
        """Names of the hosts to which requests may be sent, sorted."""
        return sorted(self._allowed)

    def allow(self, address: str) -> None:
        """Allow requests to the host of an address, which a document of an allowed host named.

        Raises:
            GenGeoError: The address is not http or https.
        """
        self._allowed.add(host_of(address))

    def get(
        self,
        address: str,
        *,
        headers: Mapping[str, str] | None = None,
        method: str = "GET",
        json: Any = None,
        max_bytes: int = MAX_BYTES,
    ) -> Answer:
        """Fetch an address.

        Args:
            address: HTTP or HTTPS address; secrets in it are not shown.
            headers: Further header fields.
            method: GET, HEAD or POST.
            json: Body of a POST request, encoded as JSON.
            max_bytes: Maximum length of the body in bytes.

        Returns:
            The response, also for a missing resource (204, 404, 410).

        Raises:
            GenGeoError: The address, or one to which it redirects, is not allowed.
            HostUnavailableError: The host failed too often, or requests a pause beyond the time limit.
            ServerError: The response has another status or is too long, the host does not respond in time, or its
                certificate is not trusted.
        """
        host_of(address)  # raises an error for an invalid address
        for secret in secrets_of(address):
            remember_secret(secret)
        deadline = time.monotonic() + self.options.total_s
        for _ in range(MAX_REDIRECTS + 1):
            response = self._with_retries(method, address, headers, json, max_bytes, deadline)
            if response.status_code not in REDIRECTS or "location" not in response.headers:
                return self._answer(response, address)
            address = self._redirected(address, response.headers["location"])
        raise ServerError(f"{redact(address)} redirects more than {MAX_REDIRECTS} times", 310)

    def _answer(self, response: httpx.Response, address: str) -> Answer:
        """The final response of a request; an error for other statuses."""
        answer = Answer(response.status_code, response.content, response.headers, redact(address))
        name = host_of(address)
        host = self._host(name)
        if response.status_code in (200, 206) or answer.is_missing:
            host.failures, host.has_answered = 0, True
            return answer
        if not host.has_answered:  # later refusals may concern single tiles: some stores answer 403 for missing ones
            host.failures += 1
        raise _refused(name, response.status_code, response.content[:2000])

    def _redirected(self, address: str, location: str) -> str:
        """Address of a redirect, if it is allowed."""
        target = urljoin(address, location)
        host = host_of(target)
        if host not in self._allowed:
            raise ServerError(
                f"{host_of(address)} redirects to another host, {host}, which is not followed; if you trust it, use "
                "its address as the source"
            )
        if address.startswith("https:") and target.startswith("http:"):
            raise ServerError(f"{host_of(address)} redirects from https to http, which is not followed")
        return target

    def _with_retries(
        self, method: str, address: str, headers: Any, json: Any, max_bytes: int, deadline: float
    ) -> httpx.Response:
        """Request one address until the response is not a temporary failure."""
        name = host_of(address)
        if name not in self._allowed:
            raise GenGeoError(f"{name} was named neither by you nor by the source's documents; no request was sent")
        host = self._host(name)
        problem = ServerError(f"{name} did not answer within {self.options.total_s:g} s")
        for attempt in range(self.options.attempts):
            if host.failures >= self.options.give_up_after:
                raise HostUnavailableError(
                    f"{name} failed {host.failures} times in a row; run the same command later to continue"
                )
            try:
                response = self._send(host, method, address, headers, json, max_bytes, deadline)
            except httpx.RequestError as error:
                problem = _no_answer(name, error)
                if _is_lasting(error):
                    break
                pause = self._pause(attempt)
            else:
                if response.status_code not in TEMPORARY:
                    return response
                problem = _refused(name, response.status_code)
                pause = self._stated_pause(host, response) or self._pause(attempt)
            if attempt + 1 == self.options.attempts or time.monotonic() + pause > deadline:
                break
            self._sleep(pause)
        with host.lock:
            host.failures += 1
        raise problem

    def _send(
        self, host: _Host, method: str, address: str, headers: Any, json: Any, max_bytes: int, deadline: float
    ) -> httpx.Response:
        """Send a request once. The body is read in pieces, so that reading stops at the deadline."""
        with self._turn(host, deadline):
            with self._lock:
                self.requests += 1
            with self._open(method, address, headers, json) as response:
                pieces, length = [], 0
                for piece in response.iter_bytes():
                    pieces.append(piece)
                    length += len(piece)
                    if length > max_bytes:
                        raise ServerError(f"{redact(address)} sends more than {max_bytes >> 20} MB, which is refused")
                    if time.monotonic() > deadline:
                        raise httpx.ReadTimeout("the answer takes too long", request=response.request)
                with self._lock:
                    self.bytes_received += length
                headers_in = [(k, v) for k, v in response.headers.multi_items() if k != "content-encoding"]
                return httpx.Response(response.status_code, headers=headers_in, content=b"".join(pieces))

    def _open(self, method: str, address: str, headers: Any, json: Any) -> Any:
        try:
            return self._client.stream(method, address, headers=headers, json=json)
        except httpx.InvalidURL as error:
            raise GenGeoError(f"{redact(address)} is not an address: {error}") from None

    @contextlib.contextmanager
    def _turn(self, host: _Host, deadline: float) -> Iterator[None]:
        """Context manager that waits for a free connection to the host and for its rate limit.

        Raises:
            HostUnavailableError: The host requested a pause that ends after the deadline.
        """
        with host.slots:
            while True:
                with host.lock:
                    now = time.monotonic()
                    wait = host.next_start - now
                    if wait <= 0:
                        gap = 1 / self.options.rate if self.options.rate else 0.0
                        host.next_start = max(now, host.next_start) + gap
                        break
                if now + wait > deadline:
                    raise HostUnavailableError(
                        f"{host.name} asks for a pause of {wait:.0f} s; run the same command later to continue"
                    )
                self._sleep(wait)
            yield

    def _host(self, name: str) -> _Host:
        with self._lock:
            if name not in self._hosts:
                self._hosts[name] = _Host(name, threading.Semaphore(max(1, self.options.connections)))
            return self._hosts[name]

    def _pause(self, attempt: int) -> float:
        """Pause in seconds before the next try: exponential backoff, times a random factor of 0.5 to 1."""
        full = min(self.options.pause_s * 2**attempt, self.options.max_pause_s)
        return full * random.uniform(0.5, 1.0)

    def _stated_pause(self, host: _Host, response: httpx.Response) -> float:
        """Pause in seconds that the server requests (RFC 9110, section 10.2.3), applied to all requests to the host."""
        pause = _retry_after(response.headers.get("retry-after", ""))
        if pause:
            with host.lock:
                host.next_start = max(host.next_start, time.monotonic() + pause)
        return pause


def user_agent(contact: str) -> str:
    """The User-Agent field: program, version, and contact of the user."""
    from gengeo_hf import __version__

    safe = "".join(letter for letter in contact if letter.isprintable() and letter not in "()").strip()
    return f"gengeo_hf/{__version__}" + (f" (+{safe})" if safe else "")


def _refused(host: str, status: int, content: bytes = b"") -> ServerError:
    """Error for an HTTP status, with advice."""
    reasons = {
        400: "bad request: check layer, format and zoom",
        401: "a login is required: put the key into the address, for example as {apikey} from the environment",
        403: "access is denied: check the key, and whether the terms of the server allow programs",
        416: "the file is shorter than expected: it may have changed",
        418: "programs are blocked: give --contact, and ask the operator",
        429: "too many requests: lower --rate, and run the same command later",
    }
    reason = reasons.get(status, "server error: run the same command later" if status >= 500 else "unexpected status")
    return ServerError(f"{host} answers {status}: {reason}", status, content)


def _is_lasting(error: httpx.RequestError) -> bool:
    """Whether a retry would fail in the same way, as for untrusted certificates and unsupported protocols."""
    return isinstance(error, httpx.UnsupportedProtocol) or "CERTIFICATE_VERIFY_FAILED" in str(error)


def _no_answer(host: str, error: httpx.RequestError) -> ServerError:
    """Error for a request without a response, with advice."""
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return ServerError(
            f"the certificate of {host} is not trusted ({error}); if your network uses its own certificate authority, "
            "set SSL_CERT_FILE to its file"
        )
    if isinstance(error, httpx.TimeoutException):
        return ServerError(f"{host} did not answer in time ({type(error).__name__})")
    if isinstance(error, httpx.ProxyError):
        return ServerError(f"the proxy for {host} refuses: {error}; check HTTPS_PROXY")
    return ServerError(f"no connection to {host}: {error or type(error).__name__}")


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After field, which is a number or a date; 0 if it is missing or invalid."""
    if not value.strip():
        return 0.0
    with contextlib.suppress(ValueError):
        seconds = float(value)
        return max(0.0, seconds) if math.isfinite(seconds) else 0.0
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
