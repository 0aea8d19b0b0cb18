"""The service behind `gengeo serve`: photos in by HTTP, places out as JSON or GeoJSON.

Before: a desk (answering.py). After: programs of others. It keeps nothing of what it is sent.

    POST /locate     places of a photo          GET /health         how it is, which index, how full
    POST /describe   descriptor of an image     GET /openapi.json   the schema; GET /docs: a page that needs no internet

An index that was replaced on disk is taken at `kill -HUP`; questions that are being answered keep the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gengeo_hf import __version__
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.html import render
from gengeo_hf.localization.localizer import to_geojson
from gengeo_hf.serving import server
from gengeo_hf.serving.locator import Desk, PhotoError
from gengeo_hf.serving.queue import BusyError, Limits, Line
from gengeo_hf.serving.schemas import (
    DescribeOptions,
    DescribeReply,
    ErrorCode,
    ErrorReply,
    HealthReply,
    LocateOptions,
    LocateReply,
    Problem,
    health,
)
from gengeo_hf.serving.server import Access
from gengeo_hf.serving.uploads import FIELD, NoPhotoError, TooLargeError, drain, photo_of

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("gengeo.serve")
GEOJSON = "application/geo+json"
BINARY = {"type": "string", "format": "binary"}
PHOTO_BODY = {
    "requestBody": {
        "required": True,
        "description": "One image: JPEG, PNG, WebP, TIFF or HEIC.",
        "content": {
            "multipart/form-data": {"schema": {"type": "object", "properties": {FIELD: BINARY}, "required": [FIELD]}},
            "image/*": {"schema": BINARY},
            "application/octet-stream": {"schema": BINARY},
        },
    }
}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"model": ErrorReply, "description": "no_photo, bad_request: the request is empty or its form is damaged"},
    413: {"model": ErrorReply, "description": "too_large: the upload is larger than allowed"},
    422: {"model": ErrorReply, "description": "bad_parameter, bad_photo: an option or the image cannot be used"},
    503: {
        "model": ErrorReply,
        "description": "busy: the queue is full, try again after Retry-After; cannot_answer: the index fails",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}},
    },
    504: {"model": ErrorReply, "description": "timeout: not answered within the time limit"},
}


def create_app(desk: Desk, limits: Limits | None = None) -> FastAPI:
    """The service as an ASGI application, for any server of that kind.

    Args:
        desk: model and index.
        limits: see `Limits`; None takes its defaults.
    """
    limits = limits or Limits()
    line = Line(limits)
    app = FastAPI(
        title="GenGeo: where was this photo taken?",
        version=__version__,
        description=f"Model {desk.model_name}. {desk.caveat}".strip(),
        docs_url=None,  # the stock pages load their scripts from a CDN
        redoc_url=None,
        lifespan=_lifespan(desk, line),
    )
    app.state.desk, app.state.line, app.state.answered = desk, line, 0
    _add_error_replies(app, limits)
    app.post("/locate", **_operation("Places where a photo may have been taken", LocateReply))(locate)
    app.post("/describe", **_operation("The descriptor of a photo or a tile", DescribeReply))(describe)
    app.get("/health", summary="How the service is", tags=["service"])(state)
    app.get("/docs", include_in_schema=False)(docs)
    return app


async def locate(request: Request, options: Annotated[LocateOptions, Query()]) -> Response:
    """Best first, as JSON, or as a GeoJSON FeatureCollection (RFC 7946) with format=geojson."""
    desk: Desk = request.app.state.desk
    question = options.question()
    if question.threshold > 0 and desk.localizer.calibration is None:
        await drain(request, request.app.state.line.limits.photo_bytes)
        return _problem(422, "bad_parameter", "threshold: this service has no calibration, so it knows no confidence")
    answer, index = await _work(request, lambda photo: desk.ask(photo, question))
    accepted = request.headers.get("accept", "")
    if options.format == "geojson" or (options.format is None and GEOJSON in accepted):
        return Response(to_geojson([answer], desk.caveat), media_type=GEOJSON)
    return _json(LocateReply.of(answer, index, desk.caveat))


async def describe(request: Request, options: Annotated[DescribeOptions, Query()]) -> Response:
    """The unit vector that the index compares, for either view."""
    desk: Desk = request.app.state.desk
    vector = await _work(request, lambda photo: desk.describe(photo, options.view))
    return _json(
        DescribeReply(
            view=options.view,
            descriptor=vector.tolist(),
            model=desk.model_name,
            fingerprint=desk.encoder.fingerprint,
        )
    )


def state(request: Request) -> HealthReply:
    """Answers at once, also when the queue is full."""  # in a thread of its own: it looks at the disk
    line: Line = request.app.state.line
    return health(request.app.state.desk, line.inside, line.limits.queue, request.app.state.answered, line.refused)


async def docs(request: Request) -> Response:
    """The schema as a page without a script."""
    page = render(
        "docs.html.jinja",
        schema=request.app.openapi(),
        base=str(request.base_url).rstrip("/"),
        caveat=request.app.state.desk.caveat,
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def serve(
    desk: Desk,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    on_start: Callable[[str], None] = log.info,
    access: Access | None = None,
) -> None:
    """Answer requests until the process is told to stop; what is inside is answered first.

    Args:
        desk: model and index.
        host: address to listen on.
        port: 0 takes a free one.
        limits: see `Limits`.
        on_start: is given the service's address once connections are taken.
        access: who may ask; None answers loopback names and IP addresses.

    Raises:
        GenGeoError: the address is in use or does not belong to this machine.
    """
    with server.listen(host, port) as (listening, address):
        app = create_app(desk, limits)
        on_start(address)
        server.run(app, access or Access(), host, listening)


async def _work(request: Request, work: Callable[[bytes], Any]) -> Any:
    """Receive a photo and have it worked on, in the bounds of the line."""
    line: Line = request.app.state.line
    async with line.ticket() as ticket:
        photo = await photo_of(request, ticket, line.limits.photo_bytes)
        found = await line.run(lambda: work(photo))
    request.app.state.answered += 1
    return found


def _lifespan(desk: Desk, line: Line) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """Listen for SIGHUP while the service runs, and end the threads after it."""

    def reload() -> None:
        try:
            log.warning("reloaded the index: %s tiles", f"{desk.reload():,}")
        except GenGeoError as error:
            log.error("the index stays as it was: %s", error)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError):  # not the main thread, as in tests
            loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, reload))
        yield
        line.close()
        desk.close()

    return lifespan


def _operation(summary: str, reply: Any) -> dict[str, Any]:
    """What the two operations on a photo have in common in the schema."""
    responses = dict(ERRORS)
    if reply is LocateReply:
        responses[200] = {"content": {GEOJSON: {"schema": {"type": "object"}}}}
    return {
        "summary": summary,
        "response_model": reply,
        "responses": responses,
        "openapi_extra": PHOTO_BODY,
        "tags": ["photos"],
    }


def _json(reply: Any) -> Response:
    return Response(reply.model_dump_json(), media_type="application/json")


def _problem(status: int, code: ErrorCode, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    reply = ErrorReply(error=Problem(code=code, message=message))
    return JSONResponse(reply.model_dump(), status, headers=dict(headers or {}))


def _add_error_replies(app: FastAPI, limits: Limits) -> None:
    """Every way to fail, as one kind of reply."""

    def on(kind: type[Exception] | int, reply: Callable[[Any], Response]) -> None:
        async def handler(request: Request, error: Exception) -> Response:
            if isinstance(error, BusyError | TooLargeError | RequestValidationError | HTTPException):  # body unread
                await drain(request, limits.photo_bytes)
            return reply(error)

        typed: Callable[[Request, Exception], Awaitable[Response]] = handler
        app.add_exception_handler(kind, typed)

    def http(error: HTTPException) -> Response:
        codes: dict[int, ErrorCode] = {404: "not_found", 405: "method_not_allowed"}
        return _problem(error.status_code, codes.get(error.status_code, "bad_request"), error.detail, error.headers)

    def options(error: RequestValidationError) -> Response:
        first = error.errors()[0]
        name = ".".join(str(part) for part in first["loc"] if part != "query")
        message = f"{name}: {first['msg'].removeprefix('Value error, ')}"
        if first["type"] == "extra_forbidden":
            message = f"there is no option {name[:80]!r}; /docs lists them"
        return _problem(422, "bad_parameter", message)

    def busy(error: BusyError) -> Response:
        return _problem(503, "busy", str(error), {"Retry-After": str(error.retry_after)})

    def failed(error: Exception) -> Response:
        log.error("a request failed", exc_info=error)
        return _problem(500, "internal", "the service met an error of its own; its log says more")

    late = f"not answered within {limits.seconds:g} s; try again later or with a smaller photo"
    on(HTTPException, http)
    on(RequestValidationError, options)
    on(BusyError, busy)
    on(NoPhotoError, lambda error: _problem(400, "no_photo", str(error)))
    on(TooLargeError, lambda error: _problem(413, "too_large", str(error)))
    on(PhotoError, lambda error: _problem(422, "bad_photo", str(error)))
    on(GenGeoError, lambda error: _problem(503, "cannot_answer", str(error)))
    on(TimeoutError, lambda _: _problem(504, "timeout", late))
    on(ClientDisconnect, lambda _: Response(status_code=499))  # nobody is there to read it
    on(Exception, failed)
