"""The service of `gengeo serve`: receives photos over HTTP and answers with places as JSON or GeoJSON.

The service does not store uploads.

    POST /locate   places of a photo           GET /health         model, index, queue; /health/live, /health/ready
    POST /encode   descriptor of an image      GET /metrics        metrics for Prometheus
                                               GET /openapi.json   the schema; GET /docs: as a page without scripts

`kill -HUP` loads an index that was replaced on disk; requests that are being processed keep the old index.
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
from gengeo_hf.serving.uploads import FIELD, NoPhotoError, TooLargeError, drain, read_upload

if TYPE_CHECKING:
    from collections.abc import Mapping

    from gengeo_hf.common.images import ImageFile

log = logging.getLogger("gengeo.serve")
GEOJSON = "application/geo+json"
NO_SPACE = (errno.ENOSPC, errno.EDQUOT, errno.EROFS)  # errors when an upload cannot be stored
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
    400: {"model": ErrorResponse, "description": "no_photo, bad_request: the request is empty, or its form is damaged"},
    413: {"model": ErrorResponse, "description": "too_large: the upload is larger than allowed"},
    422: {"model": ErrorResponse, "description": "bad_parameter, bad_photo: an option or the image cannot be used"},
    503: {
        "model": ErrorResponse,
        "description": "busy: the queue is full, try again after Retry-After; cannot_answer: error of the index",
        "headers": {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}},
    },
    504: {"model": ErrorResponse, "description": "timeout: the request took longer than the time limit"},
    507: {"model": ErrorResponse, "description": "no_space: the upload cannot be stored"},
}


def create_app(locator: Locator, limits: Limits | None = None) -> FastAPI:
    """Build the service as an ASGI application, for `serve` or any other ASGI server.

    Args:
        locator: Model and index.
        limits: Limits of the service; None takes the defaults of `Limits`.
    """
    limits = limits or Limits()
    queue = RequestQueue(limits)
    app = FastAPI(
        title="GenGeo: where was this photo taken?",
        version=__version__,
        description=f"Model {locator.model_name}. {locator.caveat}".strip(),
        docs_url=None,  # the pages of FastAPI load scripts from a CDN
        redoc_url=None,
        lifespan=_lifespan(locator, queue),
    )
    app.state.locator, app.state.queue, app.state.answered = locator, queue, 0
    app.state.metrics = Metrics()
    app.add_middleware(ObservedMiddleware, metrics=app.state.metrics)
    _add_error_handlers(app, limits)
    app.post("/locate", **_operation("Places where a photo may have been taken", LocateResponse))(locate)
    app.post("/encode", **_operation("Descriptor of a photo or a tile", EncodeResponse))(encode)
    app.get("/health", summary="State of the service", tags=["service"])(state)
    app.head("/health", include_in_schema=False)(state)  # used by process supervisors
    app.api_route("/health/live", methods=["GET", "HEAD"], include_in_schema=False)(alive)
    app.api_route("/health/ready", methods=["GET", "HEAD"], include_in_schema=False)(ready)
    app.get("/metrics", include_in_schema=False)(metrics)
    app.get("/", include_in_schema=False)(lambda: RedirectResponse("docs"))
    app.get("/docs", include_in_schema=False)(docs)
    return app


async def locate(request: Request, options: Annotated[LocateParameters, Query()]) -> Response:
    """The best place is first. JSON, or a GeoJSON FeatureCollection (RFC 7946) with format=geojson."""
    locator: Locator = request.app.state.locator
    query = options.query()
    if query.threshold > 0 and locator.localizer.calibration is None:
        await drain(request, request.app.state.queue.limits.photo_bytes)
        return _problem(422, "bad_parameter", "threshold: this service has no calibration, so there are no confidences")
    answer, index = await _process(request, lambda photo: locator.locate(photo, query))
    accepted = request.headers.get("accept", "")
    if options.format == "geojson" or (options.format is None and GEOJSON in accepted):
        return Response(to_geojson([answer], locator.caveat), media_type=GEOJSON)
    return _json(LocateResponse.of(answer, index, locator.caveat))


async def encode(request: Request, options: Annotated[EncodeParameters, Query()]) -> Response:
    """The vector of length 1 that is compared with those of the index."""
    locator: Locator = request.app.state.locator
    vector = await _process(request, lambda photo: locator.encode(photo, options.view))
    return _json(
        EncodeResponse(
            view=options.view,
            descriptor=vector.tolist(),
            model=locator.model_name,
            fingerprint=locator.encoder.fingerprint,
        )
    )


def state(request: Request) -> HealthResponse:
    """The service answers also when the queue is full."""  # not async: it runs in a thread, because it reads the disk
    queue: RequestQueue = request.app.state.queue
    return health(
        request.app.state.locator, queue.inside, queue.limits.queue, request.app.state.answered, queue.refused
    )


async def alive() -> dict[str, str]:
    """Liveness: the process answers."""
    return {"status": "ok"}


def ready(request: Request) -> JSONResponse:
    """Readiness: 200 if the queue has a free slot and uploads can be stored, else 503."""
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
    """Metrics in the text format of Prometheus."""
    state = request.app.state
    found: Metrics = state.metrics
    found.inside.set(state.queue.inside)
    found.pixels.set(state.locator.decoder.budget.used if state.locator.decoder else 0)
    found.tiles.set(len(state.locator.localizer.index))
    return Response(found.render(), media_type=CONTENT_TYPE)


async def docs(request: Request) -> Response:
    """The schema as a page without scripts."""
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
    """Serve until SIGTERM or Ctrl-C; requests in progress are answered first.

    Args:
        locator: Model and index.
        host: IP address or host name to listen on.
        port: TCP port; 0 chooses a free one.
        limits: Limits of the service; None takes the defaults of `Limits`.
        on_start: Called with the URL of the service once connections are accepted.
        access: Who may use the service; None allows loopback names and IP addresses.

    Raises:
        GenGeoError: The port is in use, or the address does not belong to this machine.
    """
    with server.listen(host, port) as (listening, address):
        app = create_app(locator, limits)
        on_start(address)
        server.run(app, access or Access(), host, listening)


async def _process(request: Request, work: Callable[[ImageFile], Any]) -> Any:
    """Receive a photo, decode it and run `work` on it, within the limits of the queue."""
    state = request.app.state
    queue: RequestQueue = state.queue
    async with queue.slot() as slot:
        content = await read_upload(request, slot, queue.limits.photo_bytes)
        async with queue.decoded(state.locator.read(content)) as photo:
            found = await queue.run(lambda: work(photo))
    state.answered += 1
    return found


def _lifespan(
    locator: Locator, queue: RequestQueue
) -> Callable[[FastAPI], contextlib.AbstractAsyncContextManager[None]]:
    """Reload the index at SIGHUP while the service runs, and end the threads afterwards."""

    def reload() -> None:
        try:
            log.warning("reloaded the index: %s tiles", f"{locator.reload():,}")
        except GenGeoError as error:
            log.error("the index is not reloaded: %s", error)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        loop = asyncio.get_running_loop()
        # Raised outside the main thread, as in tests, and on systems without this signal.
        with contextlib.suppress(RuntimeError, ValueError, NotImplementedError, AttributeError):
            loop.add_signal_handler(signal.SIGHUP, lambda: loop.run_in_executor(None, reload))
        yield
        queue.close()
        locator.close()

    return lifespan


def _operation(summary: str, model: Any) -> dict[str, Any]:
    """Schema of an operation on a photo."""
    responses = dict(ERRORS)
    if model is LocateResponse:
        responses[200] = {"content": {GEOJSON: {"schema": {"type": "object"}}}}
    return {
        "summary": summary,
        "response_model": model,
        "responses": responses,
        "openapi_extra": PHOTO_BODY,
        "tags": ["photos"],
    }


def _json(response: Any) -> Response:
    return Response(response.model_dump_json(), media_type="application/json")


def _problem(status: int, code: ErrorCode, message: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    body = ErrorResponse(error=Problem(code=code, message=message))
    return JSONResponse(body.model_dump(), status, headers=dict(headers or {}))


def _add_error_handlers(app: FastAPI, limits: Limits) -> None:
    """Answer every error with an `ErrorResponse`."""

    def on(kind: type[Exception] | int, respond: Callable[[Any], Response]) -> None:
        async def handler(request: Request, error: Exception) -> Response:
            if isinstance(error, BusyError | TooLargeError | RequestValidationError | HTTPException):  # before the body
                await drain(request, limits.photo_bytes)
            return respond(error)

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
        return _problem(500, "internal", "internal error of the service; see its log")

    def no_space(error: OSError) -> Response:
        return _problem(507, "no_space", f"the upload cannot be stored ({error.strerror})")

    late = f"the request took longer than {limits.seconds:g} s; try again later, or send a smaller photo"
    on(HTTPException, http)
    on(RequestValidationError, options)
    on(BusyError, busy)
    on(BudgetError, lambda error: _problem(503, "busy", str(error), {"Retry-After": "5"}))
    on(OSError, lambda error: no_space(error) if error.errno in NO_SPACE else failed(error))
    on(NoPhotoError, lambda error: _problem(400, "no_photo", str(error)))
    on(TooLargeError, lambda error: _problem(413, "too_large", str(error)))
    on(PhotoError, lambda error: _problem(422, "bad_photo", str(error)))
    on(GenGeoError, lambda error: _problem(503, "cannot_answer", str(error)))
    on(TimeoutError, lambda _: _problem(504, "timeout", late))
    on(ClientDisconnect, lambda _: Response(status_code=499))  # the client has disconnected
    on(Exception, failed)
