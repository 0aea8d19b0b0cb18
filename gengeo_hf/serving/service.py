"""The service behind `gengeo serve`: photos in by HTTP, places out as JSON or GeoJSON.

It keeps nothing that it is sent.

    POST /locate   places of a photo           GET /health         model, index, queue; /health/live, /health/ready
    POST /encode   descriptor of an image      GET /metrics        for Prometheus
                                               GET /openapi.json   the schema; GET /docs: a page without a script

An index that was replaced on disk is taken at `kill -HUP`; requests that are being answered keep the old one.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import logging
import signal
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import FastAPI, Query, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect

from gengeo_hf import __version__
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.html import render
from gengeo_hf.localization.localizer import to_geojson
from gengeo_hf.serving import server
from gengeo_hf.serving.decoding import BudgetError
from gengeo_hf.serving.locator import Locator, PhotoError
from gengeo_hf.serving.metrics import CONTENT_TYPE, Metrics, ObservedMiddleware
from gengeo_hf.serving.queue import BusyError, Limits, RequestQueue
from gengeo_hf.serving.schemas import (
    EncodeParameters,
    EncodeResponse,
    ErrorCode,
    ErrorResponse,
    HealthResponse,
    LocateParameters,
    LocateResponse,
    Problem,
    health,
)
from gengeo_hf.serving.server import Access
from gengeo_hf.serving.uploads import FIELD, NoPhotoError, TooLargeError, drain, photo_of

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gengeo_hf.common.images import ImageFile

log = logging.getLogger("gengeo.serve")
GEOJSON = "application/geo+json"
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # why an upload cannot be stored
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
    400: {"model": ErrorResponse, "description": "no_photo, bad_request: the request is empty or its form is damaged"},
    413: {"model": ErrorResponse, "description": "too_large: the upload is larger than allowed"},
    422: {"model": ErrorResponse, "description": "bad_parameter, bad_photo: an option or the image cannot be used"},
    503: {
        "model": ErrorResponse,
        "description": "busy: the queue is full, try again after Retry-After; cannot_answer: the index fails",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}},
    },
    504: {"model": ErrorResponse, "description": "timeout: not answered within the time limit"},
    507: {"model": ErrorResponse, "description": "no_space: the upload cannot be stored"},
}


def create_app(locator: Locator, limits: Limits | None = None) -> FastAPI:
    """The service as an ASGI application, for any server of that kind.

    Args:
        locator: model and index.
        limits: see `Limits`; None takes its defaults.
    """
    limits = limits or Limits()
    queue = RequestQueue(limits)
    app = FastAPI(
        title="GenGeo: where was this photo taken?",
        version=__version__,
        description=f"Model {locator.model_name}. {locator.caveat}".strip(),
        docs_url=None,  # the stock pages load their scripts from a CDN
        redoc_url=None,
        lifespan=_lifespan(locator, queue),
    )
    app.state.locator, app.state.queue, app.state.answered = locator, queue, 0
    app.state.metrics = Metrics()
    app.add_middleware(ObservedMiddleware, metrics=app.state.metrics)
    _add_error_replies(app, limits)
    app.post("/locate", **_operation("Places where a photo may have been taken", LocateResponse))(locate)
    app.post("/encode", **_operation("The descriptor of a photo or a tile", EncodeResponse))(encode)
    app.get("/health", summary="How the service is", tags=["service"])(state)
    app.head("/health", include_in_schema=False)(state)  # what many supervisors send
    app.api_route("/health/live", methods=["GET", "HEAD"], include_in_schema=False)(alive)
    app.api_route("/health/ready", methods=["GET", "HEAD"], include_in_schema=False)(ready)
    app.get("/metrics", include_in_schema=False)(metrics)
    app.get("/", include_in_schema=False)(lambda: RedirectResponse("docs"))
    app.get("/docs", include_in_schema=False)(docs)
    return app


async def locate(request: Request, options: Annotated[LocateParameters, Query()]) -> Response:
    """Best first, as JSON, or as a GeoJSON FeatureCollection (RFC 7946) with format=geojson."""
    locator: Locator = request.app.state.locator
    query = options.query()
    if query.threshold > 0 and locator.localizer.calibration is None:
        await drain(request, request.app.state.queue.limits.photo_bytes)
        return _problem(422, "bad_parameter", "threshold: this service has no calibration, so it knows no confidence")
    answer, index = await _work(request, lambda photo: locator.ask(photo, query))
    accepted = request.headers.get("accept", "")
    if options.format == "geojson" or (options.format is None and GEOJSON in accepted):
        return Response(to_geojson([answer], locator.caveat), media_type=GEOJSON)
    return _json(LocateResponse.of(answer, index, locator.caveat))


async def encode(request: Request, options: Annotated[EncodeParameters, Query()]) -> Response:
    """The unit vector that the index compares, for either view."""
    locator: Locator = request.app.state.locator
    vector = await _work(request, lambda photo: locator.encode(photo, options.view))
    return _json(
        EncodeResponse(
            view=options.view,
            descriptor=vector.tolist(),
            model=locator.model_name,
            fingerprint=locator.encoder.fingerprint,
        )
    )


def state(request: Request) -> HealthResponse:
    """Answers at once, also when the queue is full."""  # in a thread of its own: it looks at the disk
    queue: RequestQueue = request.app.state.queue
    return health(
        request.app.state.locator, queue.inside, queue.limits.queue, request.app.state.answered, queue.refused
    )


async def alive() -> dict[str, str]:
    """Liveness: the event loop turns."""
    return {"status": "ok"}


def ready(request: Request) -> JSONResponse:
    """Readiness: the queue has room and uploads can be stored; 503 otherwise."""
    queue: RequestQueue = request.app.state.queue
    if queue.inside >= queue.limits.queue:
        return _problem(503, "busy", "the queue is full", {"Retry-After": str(queue.retry_after)})
    try:
        with tempfile.TemporaryFile() as file:
            file.write(bytes(1 << 16))
    except OSError as error:
        return _problem(503, "cannot_answer", f"temporary files cannot be written ({error.strerror})")
    return JSONResponse({"status": "ok"})


def metrics(request: Request) -> Response:
    """Counters for Prometheus."""
    state = request.app.state
    found: Metrics = state.metrics
    found.inside.set(state.queue.inside)
    found.pixels.set(state.locator.decoder.budget.used if state.locator.decoder else 0)
    found.tiles.set(len(state.locator.localizer.index))
    return Response(found.render(), media_type=CONTENT_TYPE)


async def docs(request: Request) -> Response:
    """The schema as a page without a script."""
    page = render(
        "docs.html.jinja",
        schema=request.app.openapi(),
        base=str(request.base_url).rstrip("/"),
        caveat=request.app.state.locator.caveat,
    )
    policy = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; frame-ancestors 'none'"
    return HTMLResponse(page, headers={"Content-Security-Policy": policy})


def serve(
    locator: Locator,
    host: str = "127.0.0.1",
    port: int = 8000,
    limits: Limits | None = None,
    on_start: Callable[[str], None] = log.info,
    access: Access | None = None,
) -> None:
    """Answer requests until the process is told to stop; what is inside is answered first.

    Args:
        locator: model and index.
        host: address to listen on.
        port: 0 takes a free one.
        limits: see `Limits`.
        on_start: is given the service's address once connections are taken.
        access: who may ask; None answers loopback names and IP addresses.

    Raises:
        GenGeoError: the address is in use or does not belong to this machine.
    """
    with server.listen(host, port) as (listening, address):
        app = create_app(locator, limits)
        on_start(address)
        server.run(app, access or Access(), host, listening)


async def _work(request: Request, work: Callable[[ImageFile], Any]) -> Any:
    """Receive a photo, decode it and have it worked on, in the bounds of the queue."""
    state = request.app.state
    queue: RequestQueue = state.queue
    async with queue.slot() as slot:
        content = await photo_of(request, slot, queue.limits.photo_bytes)
        async with queue.decoded(state.locator.read(content)) as photo:
            found = await queue.run(lambda: work(photo))
    state.answered += 1
    return found


def _lifespan(
    locator: Locator, queue: RequestQueue
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """Listen for SIGHUP while the service runs, and end the threads after it."""

    def reload() -> None:
        try:
            log.warning("reloaded the index: %s tiles", f"{locator.reload():,}")
        except GenGeoError as error:
            log.error("the index stays as it was: %s", error)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        # Not the main thread, as in tests; or a system without this signal.
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError, AttributeError):
            loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, reload))
        yield
        queue.close()
        locator.close()

    return lifespan


def _operation(summary: str, reply: Any) -> dict[str, Any]:
    """What the two operations on a photo have in common in the schema."""
    responses = dict(ERRORS)
    if reply is LocateResponse:
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
    reply = ErrorResponse(error=Problem(code=code, message=message))
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

    def no_space(error: OSError) -> Response:
        return _problem(507, "no_space", f"the upload cannot be stored ({error.strerror})")

    late = f"not answered within {limits.seconds:g} s; try again later or with a smaller photo"
    on(HTTPException, http)
    on(RequestValidationError, options)
    on(BusyError, busy)
    on(BudgetError, lambda error: _problem(503, "busy", str(error), {"Retry-After": "5"}))
    on(OSError, lambda error: no_space(error) if error.errno in FULL else failed(error))
    on(NoPhotoError, lambda error: _problem(400, "no_photo", str(error)))
    on(TooLargeError, lambda error: _problem(413, "too_large", str(error)))
    on(PhotoError, lambda error: _problem(422, "bad_photo", str(error)))
    on(GenGeoError, lambda error: _problem(503, "cannot_answer", str(error)))
    on(TimeoutError, lambda _: _problem(504, "timeout", late))
    on(ClientDisconnect, lambda _: Response(status_code=499))  # nobody is there to read it
    on(Exception, failed)
