"""The one HTTP client for imagery: every byte from a network passes it, so that its rules hold everywhere.

For each host at most `connections` requests at a time and `rate` requests a second; Retry-After is honoured, other
passing failures are tried again after growing pauses with jitter, within a time limit in all. Only hosts that the user
or a document of an allowed host named are asked, and only public addresses, unless private ones are allowed. Proxies
and certificates of the environment are used (HTTPS_PROXY, NO_PROXY, SSL_CERT_FILE). Secrets in addresses reach neither
a log nor a message.
"""

import email.utils
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urljoin

import httpx

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.hosts import hide_secrets_in_logs, host_of, redact, remember_secret, secrets_of
from gengeo_hf.imagery.options import ClientOptions
from gengeo_hf.imagery.tiles import ImageryStoppedError
from gengeo_hf.imagery.transport import GuardedTransport

PASSING = frozenset({408, 425, 429, 500, 502, 503, 504, 520, 521, 522, 523, 524})  # may be different later
REDIRECTS = frozenset({301, 302, 303, 307, 308})
MAX_REDIRECTS = 5
MAX_BYTES = 64 << 20  # of one answer


class ServerError(GenGeoError):
    """A server did not give what was asked for.

    Args:
        message: One line for the user.
        status: HTTP status, 0 where there was no answer.
        content: The beginning of what the server sent with it.
    """

    def __init__(self, message: str, status: int = 0, content: bytes = b"") -> None:
        super().__init__(redact(message))
        self.status, self.content = status, content


class HostUnavailableError(ServerError, ImageryStoppedError):
    """A host failed so often that it is not asked again: what it would have given must be fetched in a later run."""


@dataclass
class _Host:
    """What is remembered of one host."""

    slots: threading.Semaphore
    lock: threading.Lock = field(default_factory=threading.Lock)
    next_start: float = 0.0  # time.monotonic() before which no request starts
    failures: int = 0  # in a row
    has_answered: bool = False  # with what was asked for


@dataclass(frozen=True)
class Answer:
    """An answer of a server with status 200 or 206, or 404, 410 or 204.

    Args:
        status: HTTP status.
        content: The body, decoded.
        headers: Header fields, names in any case.
        address: Address that answered, after redirects, without secrets.
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
        """Whether the server says that there is nothing at this address."""
        return self.status in (204, 404, 410)


class ImageryClient:
    """A polite HTTP client; safe for threads.

    Args:
        options: Limits and the contact.
        hosts: Host names that may be asked. `allow` adds those that a capabilities document names.
        transport: Sends the requests; None connects to the network.
        sleep: Waits so many seconds; tests give their own.
    """

    def __init__(
        self,
        options: ClientOptions | None = None,
        hosts: tuple[str, ...] = (),
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.options = options or ClientOptions()
        self.requests = 0  # sent, tries counted
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
        """Hosts that may be asked, sorted."""
        return sorted(self._allowed)

    def allow(self, address: str) -> None:
        """Allow the host of an address that an allowed host's document named.

        Raises:
            GenGeoError: Not an http or https address.
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
        """Fetch an address under all rules.

        Args:
            address: Where; it may hold secrets, which are not shown.
            headers: Further header fields.
            method: GET, HEAD or POST.
            json: Body of a POST.
            max_bytes: Longest body that is read.

        Returns:
            The answer; missing ones (204, 404, 410) as well.

        Raises:
            GenGeoError: The address or where it leads to is not allowed.
            HostUnavailableError: The host failed too often.
            ServerError: Any other status, no answer in time, or a certificate that is not trusted.
        """
        host_of(address)  # refuses what is not an address
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
        answer = Answer(response.status_code, response.content, response.headers, redact(address))
        name = host_of(address)
        host = self._host(name)
        if response.status_code in (200, 206) or answer.is_missing:
            host.failures, host.has_answered = 0, True
            return answer
        if not host.has_answered:  # some stores answer 403 for what they do not have, so later ones count as missing
            host.failures += 1
        raise _refused(name, response.status_code, response.content[:2000])

    def _redirected(self, address: str, location: str) -> str:
        target = urljoin(address, location)
        host = host_of(target)
        if host not in self._allowed:
            raise ServerError(
                f"{host_of(address)} redirects to another host, {host}, which is not followed; if you trust it, give "
                "its address itself as the source"
            )
        if address.startswith("https:") and target.startswith("http:"):
            raise ServerError(f"{host_of(address)} redirects from https to http, which is not followed")
        return target

    def _with_retries(
        self, method: str, address: str, headers: Any, json: Any, max_bytes: int, deadline: float
    ) -> httpx.Response:
        """One address, tried until it answers with something that will not change."""
        name = host_of(address)
        if name not in self._allowed:
            raise GenGeoError(f"{name} was not named by you or by the source's own documents; it is not asked")
        host = self._host(name)
        problem = ServerError(f"{name} did not answer within {self.options.total_s:g} s")
        for attempt in range(self.options.attempts):
            if host.failures >= self.options.give_up_after:
                raise HostUnavailableError(
                    f"{name} failed {host.failures} times in a row and is not asked any more; the same command goes "
                    "on later"
                )
            try:
                response = self._send(host, method, address, headers, json, max_bytes, deadline)
            except httpx.RequestError as error:
                problem = _no_answer(name, error)
                if _is_lasting(error):
                    break
                pause = self._pause(attempt)
            else:
                if response.status_code not in PASSING:
                    return response
                problem = _refused(name, response.status_code)
                pause = self._asked_to_wait(host, response) or self._pause(attempt)
            if attempt + 1 == self.options.attempts or time.monotonic() + pause > deadline:
                break
            self._sleep(pause)
        with host.lock:
            host.failures += 1
        raise problem

    def _send(
        self, host: _Host, method: str, address: str, headers: Any, json: Any, max_bytes: int, deadline: float
    ) -> httpx.Response:
        """One try. The body is read in pieces, so that a server that drips bytes does not hold us for ever."""
        with self._turn(host, deadline):
            with self._lock:
                self.requests += 1
            with self._open(method, address, headers, json) as response:
                pieces, length = [], 0
                for piece in response.iter_bytes():
                    pieces.append(piece)
                    length += len(piece)
                    if length > max_bytes:
                        raise ServerError(f"{redact(address)} sends more than {max_bytes >> 20} MB; that is refused")
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

    @contextmanager
    def _turn(self, host: _Host, deadline: float) -> Iterator[None]:
        """Wait for a free connection of the host and for the next start that its rate allows.

        Raises:
            ServerError: The host asked for a pause that ends after the deadline.
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
                    raise ServerError(f"a server asks for a pause of {wait:.0f} s: go on later with the same command")
                self._sleep(wait)
            yield

    def _host(self, name: str) -> _Host:
        with self._lock:
            if name not in self._hosts:
                self._hosts[name] = _Host(threading.Semaphore(max(1, self.options.connections)))
            return self._hosts[name]

    def _pause(self, attempt: int) -> float:
        """Growing pause with jitter, in seconds: between half and all of the doubled value."""
        full = min(self.options.pause_s * 2**attempt, self.options.max_pause_s)
        return full * random.uniform(0.5, 1.0)

    def _asked_to_wait(self, host: _Host, response: httpx.Response) -> float:
        """Seconds that the server asks for (RFC 9110, section 10.2.3); the whole host rests so long."""
        pause = _retry_after(response.headers.get("retry-after", ""))
        if pause:
            with host.lock:
                host.next_start = max(host.next_start, time.monotonic() + pause)
        return pause


def user_agent(contact: str) -> str:
    """What servers are told of us: the program, its version and how to reach its user."""
    from gengeo_hf import __version__

    safe = "".join(letter for letter in contact if letter.isprintable() and letter not in "()").strip()
    return f"gengeo_hf/{__version__}" + (f" (+{safe})" if safe else "")


def _refused(host: str, status: int, content: bytes = b"") -> ServerError:
    reasons = {
        400: "the request is wrong in its eyes: check layer, format and zoom",
        401: "it wants a login: put the key into the address, for example as {apikey} from the environment",
        403: "it refuses us: check the key, and whether its terms allow programs",
        416: "the file is shorter than expected: it may have changed",
        418: "it blocks programs: give --contact, and ask its operator",
        429: "it wants fewer requests: lower --rate, and go on later",
    }
    reason = reasons.get(status, "its own fault: go on later" if status >= 500 else "an answer that is not understood")
    return ServerError(f"{host} answers {status}: {reason}", status, content)


def _is_lasting(error: httpx.RequestError) -> bool:
    """Whether another try would end in the same way: certificates, names and protocols do not change in a minute."""
    return isinstance(error, httpx.UnsupportedProtocol) or "CERTIFICATE_VERIFY_FAILED" in str(error)


def _no_answer(host: str, error: httpx.RequestError) -> ServerError:
    if "CERTIFICATE_VERIFY_FAILED" in str(error):
        return ServerError(
            f"the certificate of {host} is not trusted ({error}); if your network has an authority of its own, name "
            "its file in SSL_CERT_FILE"
        )
    if isinstance(error, httpx.TimeoutException):
        return ServerError(f"{host} did not answer in time ({type(error).__name__})")
    if isinstance(error, httpx.ProxyError):
        return ServerError(f"the proxy for {host} refuses: {error}; check HTTPS_PROXY")
    return ServerError(f"no connection to {host}: {error or type(error).__name__}")


def _retry_after(value: str) -> float:
    """Seconds of a Retry-After field, which is a number or a date; 0 where there is none."""
    if not value.strip():
        return 0.0
    try:
        return max(0.0, float(value))
    except ValueError:
        pass
    try:
        return max(0.0, email.utils.parsedate_to_datetime(value).timestamp() - time.time())
    except (ValueError, TypeError):
        return 0.0
