"""HTTP connections with time limits: a client that sends its header or its body too slowly is disconnected.

uvicorn limits neither. The header is limited where bytes arrive (`TimedProtocol`), the body where it is read
(`BodyTimeoutMiddleware`). Requests that are cancelled when the server stops are answered (`ShutdownMiddleware`).
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.h11_impl import H11Protocol

from gengeo_hf.serving.access import send_refusal

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

HEADER_SECONDS = 10.0


class TimedProtocol(H11Protocol):
    """uvicorn's HTTP protocol with a time limit for the header of each request."""

    _timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: Any) -> None:
        """Start the time limit of the first header."""
        super().connection_made(transport)
        self._update_timer()

    def data_received(self, data: bytes) -> None:
        """Start the time limit of the next header, or end it where the header is complete."""
        super().data_received(data)
        self._update_timer()

    def connection_lost(self, exc: Exception | None) -> None:
        """End the time limit."""
        self._stop_timer()
        super().connection_lost(exc)

    def handle_websocket_upgrade(self, event: Any) -> None:
        """End the time limit: the connection changes to the WebSocket protocol."""
        self._stop_timer()
        super().handle_websocket_upgrade(event)

    def _update_timer(self) -> None:
        waits_for_header = self.cycle is None or self.cycle.response_complete
        if not waits_for_header or self.transport.is_closing():
            self._stop_timer()
        elif self._timer is None:
            self._timer = self.loop.call_later(HEADER_SECONDS, self.transport.abort)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def on_response_complete(self) -> None:
        """End the time limit: between two requests, the keep-alive limit of uvicorn applies."""
        self._stop_timer()
        super().on_response_complete()


class BodyTimeoutMiddleware:
    """Disconnect a client whose request body has not arrived in time.

    Args:
        app: Application that reads the body.
        seconds: Time limit in seconds, from the end of the header to the end of the body.
    """

    def __init__(self, app: ASGIApp, seconds: float = 60.0) -> None:
        self.app, self.seconds = app, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, with a time limit for its body."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        deadline, complete = time.monotonic() + self.seconds, False

        async def receive_in_time() -> Message:
            nonlocal complete
            if complete:  # the application waits for a disconnect
                return await receive()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(max(0.0, deadline - time.monotonic())):
                    message = await receive()
                    complete = not message.get("more_body", False)
                    return message
            complete = True
            return {"type": "http.disconnect"}

        await self.app(scope, receive_in_time, send)


class ShutdownMiddleware:
    """Answer 503 to requests that the server cancels when it stops; uvicorn would log a traceback for each.

    Args:
        app: Application whose requests may be cancelled.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on, and answer it if it is cancelled."""
        started = False

        async def observed_send(message: Message) -> None:
            nonlocal started
            started = True
            await send(message)

        try:
            await self.app(scope, receive, observed_send)
        except asyncio.CancelledError:
            if scope["type"] != "http":
                raise
            if not started:
                await send_refusal(send, 503, "busy", "the service is stopping; send the request again")
