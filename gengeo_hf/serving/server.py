"""The HTTP server of the service and of the page: listening socket, access checks, time limits and shutdown."""

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

BACKLOG = 2048  # connections that may wait to be accepted; the limit of the system may be lower
GRACE_SECONDS = 8  # after SIGTERM; requests that are not answered by then are cancelled


@dataclass(frozen=True)
class Access:
    """Who may use a server, and under which names and path it is reached.

    Args:
        allowed_hosts: Host names that are served, besides loopback names and IP addresses.
        token: Access token that every request must send; None serves requests without a token.
        root_path: Path prefix that a proxy removes, such as "/geo"; empty without such a proxy.
        body_seconds: Time limit for the body of a request, in seconds.
    """

    allowed_hosts: Sequence[str] = ()
    token: str | None = None
    root_path: str = ""
    body_seconds: float = 60.0

    def protect(self, app: ASGIApp, host: str) -> ASGIApp:
        """Add access checks and time limits to an application.

        Args:
            app: Application to protect.
            host: Address that the server listens on, which is an allowed host.
        """
        timed = BodyTimeoutMiddleware(app, self.body_seconds)
        return ShutdownMiddleware(AccessMiddleware(timed, [*self.allowed_hosts, host], self.token))


@contextlib.contextmanager
def listen(host: str, port: int) -> Iterator[tuple[socket.socket, str]]:
    """Open a listening socket.

    Args:
        host: IP address or host name to listen on.
        port: TCP port; 0 chooses a free one.

    Yields:
        The socket, and its URL, such as `http://127.0.0.1:8000`.

    Raises:
        GenGeoError: The port is in use, or the address does not belong to this machine.
    """
    is_ipv6 = ":" in host
    try:
        listening = socket.create_server(
            (host, port), family=socket.AF_INET6 if is_ipv6 else socket.AF_INET, backlog=BACKLOG, dualstack_ipv6=is_ipv6
        )
    except (OSError, OverflowError) as error:
        raise GenGeoError(f"cannot listen on {host} port {port} ({error}); choose another --port") from error
    with listening:
        yield listening, f"http://{f'[{host}]' if is_ipv6 else host}:{listening.getsockname()[1]}"


def make_server(app: ASGIApp, access: Access, host: str) -> uvicorn.Server:
    """Make a uvicorn server with access checks and time limits, which is not started.

    Args:
        app: Application to serve.
        access: Who may use it.
        host: Address that the server will listen on.
    """
    _raise_open_files_limit()
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
    """Serve until SIGTERM or Ctrl-C; the process ends `GRACE_SECONDS` + 1 later at most, even if a request runs.

    Args:
        app: Application to serve.
        access: Who may use it.
        host: Address of the socket.
        listening: Listening socket, see `listen`.
    """
    server = make_server(app, access, host)
    handle_exit = server.handle_exit

    def handle_exit_in_time(sig: int, frame: FrameType | None) -> None:
        timer = threading.Timer(GRACE_SECONDS + 1, _exit_process)
        timer.daemon = True
        timer.start()
        handle_exit(sig, frame)

    server.handle_exit = handle_exit_in_time  # type: ignore[method-assign]  # uvicorn's own hook for signals
    server.run(sockets=[listening])


@contextlib.contextmanager
def serve_in_thread(
    app: ASGIApp, access: Access | None = None, host: str = "127.0.0.1", port: int = 0
) -> Iterator[str]:
    """Serve from a thread of this process, for notebooks and tests.

    Args:
        app: Application to serve.
        access: Who may use it; None allows loopback names and IP addresses.
        host: IP address or host name to listen on.
        port: TCP port; 0 chooses a free one.

    Yields:
        The URL of the server.
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


def _exit_process() -> None:
    """Exit with code 0 although a worker thread still runs: a thread cannot be stopped."""
    sys.stderr.flush()
    os._exit(0)


def _raise_open_files_limit() -> None:
    """Open as many connections as the system allows, so that slow clients do not use up all file descriptors."""
    try:
        import resource
    except ImportError:  # Windows
        return
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (min(hard, 1 << 16), hard))
