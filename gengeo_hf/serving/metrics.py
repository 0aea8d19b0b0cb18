"""Metrics of the service in the text format of Prometheus, and logs as JSON lines with a request id."""

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
PATHS = ("/locate", "/encode", "/health", "/health/live", "/health/ready", "/docs", "/metrics")  # else "other"
request_id: ContextVar[str] = ContextVar("request_id", default="")


class Metrics:
    """Metrics of one service; each has its own registry, so that several services can run in one process."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.requests = Counter(
            "gengeo_requests", "Requests by path and status", ["path", "status"], registry=self.registry
        )
        self.seconds = Histogram(
            "gengeo_request_seconds",
            "Seconds from the end of the request header to the end of the response",
            ["path"],
            buckets=(0.01, 0.03, 0.1, 0.3, 1, 3, 10, 30, 60),
            registry=self.registry,
        )
        self.inside = Gauge("gengeo_requests_inside", "Requests being received or answered", registry=self.registry)
        self.pixels = Gauge("gengeo_pixels_in_flight", "Pixels of decoded photos in memory", registry=self.registry)
        self.tiles = Gauge("gengeo_index_tiles", "Tiles of the index", registry=self.registry)

    def render(self) -> bytes:
        """Return the metrics in the text format of Prometheus."""
        return generate_latest(self.registry)


class ObservedMiddleware:
    """Give every request an id, count it and log it.

    Args:
        app: Application to observe.
        metrics: Metrics to update.
    """

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a request on. Its id is a plain X-Request-ID header (64 letters, digits, hyphens), else random."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        stated = dict(scope["headers"]).get(b"x-request-id", b"").decode("latin-1")
        is_plain = stated.isascii() and 0 < len(stated) <= 64 and stated.replace("-", "").isalnum()
        name = stated if is_plain else uuid.uuid4().hex
        token, started, status = request_id.set(name), time.perf_counter(), 500

        async def observed_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message = {**message, "headers": [*message.get("headers", []), (b"x-request-id", name.encode())]}
            await send(message)

        try:
            await self.app(scope, receive, observed_send)
        finally:
            seconds = time.perf_counter() - started
            path = path_of(scope) if path_of(scope) in PATHS else "other"
            self.metrics.requests.labels(path, str(status)).inc()
            self.metrics.seconds.labels(path).observe(seconds)
            log.info("%s %s %d %.3f s", scope["method"], path, status, seconds)
            request_id.reset(token)


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, request_id, and the traceback of an error."""

    def format(self, record: logging.LogRecord) -> str:
        """Return a log record as one line of JSON."""
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
        style: "text" logs warnings and errors; "json" also logs each request, as one JSON object per line.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if style == "json" else logging.Formatter("%(levelname)s: %(message)s"))
    for name in ("gengeo", "uvicorn"):
        logger = logging.getLogger(name)
        logger.handlers, logger.propagate = [handler], False
        logger.setLevel(logging.INFO if style == "json" and name == "gengeo" else logging.WARNING)
