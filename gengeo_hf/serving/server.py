"""The HTTP server of the service and of the page: one socket, one way to listen, to protect and to stop."""

from __future__ import annotations

import contextlib
import os
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import uvicorn

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.serving.access import AccessMiddleware
from gengeo_hf.serving.connections import BodyTimeoutMiddleware, ShutdownMiddleware, TimedProtocol

if TYPE_CHECKING:
    from types import FrameType

    from starlette.types import ASGIApp

BACKLOG = 2048  # connections that may come at the same moment; the system's own limit may be lower
GRACE_SECONDS = 8  # from SIGTERM to the end; what is still worked on then is given up


@dataclass(frozen=True)
class Access:
    """Who may ask, and under which address.

    Args:
        allowed_hosts: Names under which the server is reached, besides loopback names and IP addresses.
        token: What callers must send; None lets everyone ask.
        root_path: Path prefix that a proxy removes, such as "/geo".
        body_seconds: Time limit for the body of a request.
    """

    allowed_hosts: Sequence[str] = ()
    token: str | None = None
    root_path: str = ""
    body_seconds: float = 60.0

    def protect(self, app: ASGIApp, host: str) -> ASGIApp:
        """Put the checks in front of an application that listens on `host`."""
        timed = BodyTimeoutMiddleware(app, self.body_seconds)
        return ShutdownMiddleware(AccessMiddleware(timed, [*self.allowed_hosts, host], self.token))


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Open a listening socket.

    Args:
        host: Address to listen on.
        port: 0 takes a free one.

    Yields:
        The socket, and the address for people, such as `http://127.0.0.1:8000`.

    Raises:
        GenGeoError: The address is in use, or does not belong to this machine.
    """
    six = ":" in host
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if six else socket.AF_INET, backlog=BACKLOG, dualstack_ipv6=six
        )
    except (OSError, OverflowError) as error:
        raise GenGeoError(f"cannot listen on {host} port {port} ({error}); choose another --port") from error
    with listening:
        yield listening, f"http://{f'[{host}]' if six else host}:{listening.getsockname()[1]}"


def make_server(app: ASGIApp, access: Access, host: str) -> uvicorn.Server:
    """A uvicorn server with our limits, not yet running."""
    _raise_open_files()
    config = uvicorn.Config(
        access.protect(app, host),
        http=TimedProtocol,
        backlog=BACKLOG,
        log_config=None,
        access_log=False,
        root_path=access.root_path,
        timeout_graceful_shutdown=GRACE_SECONDS,
        lifespan="on",
    )
    return uvicorn.Server(config)


def run(app: ASGIApp, access: Access, host: str, listening: socket.socket) -> None:
    """Answer until SIGTERM or Ctrl-C; the process ends `GRACE_SECONDS` later at the latest, whatever still runs."""
    server = make_server(app, access, host)
    handle_exit = server.handle_exit

    def end(sig: int, frame: FrameType | None) -> None:
        timer = threading.Timer(GRACE_SECONDS + 1, _end_now)
        timer.daemon = True
        timer.start()
        handle_exit(sig, frame)

    server.handle_exit = end  # type: ignore[method-assign]  # uvicorn's own hook for signals
    server.run(sockets=[listening])


@contextlib.contextmanager
def in_thread(app: ASGIApp, access: Access | None = None, host: str = "127.0.0.1", port: int = 0) -> Iterator[str]:
    """Serve from a thread of this process, for notebooks and tests.

    Yields:
        The server's address.
    """
    with listen(host, port) as (listening, address):
        server = make_server(app, access or Access(), host)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
        thread.start()
        pause = threading.Event()
        while not server.started and thread.is_alive():
            pause.wait(0.02)
        try:
            yield address
        finally:
            server.should_exit = True
            thread.join()


def _end_now() -> None:
    """A worker thread cannot be stopped: the process is, with code 0 (where all is answered, by the signal itself)."""
    sys.stderr.flush()
    os._exit(0)


def _raise_open_files() -> None:
    """Allow as many connections as the system does: slow clients must not use up the descriptors of others."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))
