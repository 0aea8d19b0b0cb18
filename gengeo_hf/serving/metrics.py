"""Metrics of a service in the text format of Prometheus, and logs as JSON lines with a request id."""

from __future__ import annotations

import json
import logging
import time
import uuid
from contextvars import ContextVar
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from gengeo_hf.serving.access import path_of

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

log = logging.getLogger("gengeo.serve")
CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
PATHS = ("/locate", "/encode", "/health", "/health/live", "/health/ready", "/docs", "/metrics")  # others are "other"
request_id: ContextVar[str] = ContextVar("request_id", default="")


class Metrics:
    """Counters of one service; each has its own registry, so several may run in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gengeo_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "gengeo_request_seconds",
            "Seconds from the end of the header to the answer",
            ["path"],
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60),
            registry=self.registry,
        )
        self.inside = Gauge("gengeo_requests_inside", "Requests being received or answered", registry=self.registry)
        self.pixels = Gauge("gengeo_pixels_in_flight", "Pixels of decoded photos in memory", registry=self.registry)
        self.tiles = Gauge("gengeo_index_tiles", "Tiles of the index", registry=self.registry)

    def render(self) -> bytes:
        """The metrics as text."""
        return generate_latest(self.registry)


class ObservedMiddleware:
    """Give every request an id, count it and log it.

    Args:
        app: Application behind it.
        metrics: What counts.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on; its id is that of the header X-Request-ID, where it has a plain one."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        sent = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        name = sent if sent.isascii() and 0 < len(sent) <= 64 and sent.replace("-", "").isalnum() else uuid.uuid4().hex
        token, started, status = request_id.set(name), time.perf_counter(), 500

        async def observed(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", name.encode())]}
            await send(message)

        try:
            await self.app(scope, receive, observed)
        finally:
            seconds = time.perf_counter() - started
            path = path_of(scope) if path_of(scope) in PATHS else "other"
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            log.info("%s %s %d %.3f s", scope["method"], path, status, seconds)
            request_id.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, request_id, and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        entry = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
        }
        if name := request_id.get():
            entry["request_id"] = name
        if record.exc_info:
            entry["error"] = self.formatException(record.exc_info)
        return json.dumps(entry, ensure_ascii=False)


def configure_logs(style: str = "text") -> None:
    """Send the service's logs to stderr.

    Args:
        style: "text" logs warnings and errors; "json" logs each request as well, one JSON object a line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter("%(levelname)s: %(message)s"))
    for name in ("gengeo", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if style == "json" and name == "gengeo" else logging.WARNING)
