"""One photo out of one HTTP request: a form upload or the bare bytes, never more than allowed."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from starlette.datastructures import UploadFile
from starlette.exceptions import HTTPException
from starlette.requests import Request

from gengeo_hf.serving.queue import Slot

if TYPE_CHECKING:
    from starlette.types import Message, Receive

FIELD = "image"
FORGOTTEN = 16  # times the largest upload, received and thrown away
SEND = "send the photo as the request's body, or as the form field image (curl -F image=@photo.jpg)"


class NoPhotoError(Exception):
    """The request holds no photo where one is expected."""


class TooLargeError(Exception):
    """The upload is larger than allowed.

    Args:
        limit: bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"the upload is larger than the {limit / 1e6:g} MB that are allowed; send a smaller photo")


async def photo_of(request: Request, slot: Slot, limit: int) -> bytes:
    """The photo's bytes.

    Args:
        request: its content type `multipart/form-data` means a form; everything else means the bytes themselves.
        slot: accounts for what is held.
        limit: largest body, in bytes.

    Raises:
        NoPhotoError: an empty body, or a form without exactly one file in the field `image`.
        TooLargeError: more than `limit`.
        BusyError: all requests together hold too much.
    """
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > limit:  # no need to receive it
        raise TooLargeError(limit)
    counted = Request(request.scope, _counted(request.receive, slot, limit))
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        body = await counted.body()
        if not body:
            raise NoPhotoError(f"the request is empty; {SEND}")
        return body
    async with contextlib.AsyncExitStack() as stack:
        try:
            form = await stack.enter_async_context(counted.form(max_files=8, max_fields=8))
        except (HTTPException, ValueError, LookupError) as error:  # the parser's ways to say that a form is damaged
            raise NoPhotoError(f"the form cannot be read ({getattr(error, 'detail', error)}); {SEND}") from error
        strange = sorted(set(form) - {FIELD})
        files = form.getlist(FIELD)
        if strange:
            raise NoPhotoError(f"the form has the field {strange[0][:80]!r}; options go into the query string; {SEND}")
        if len(files) != 1 or not isinstance(files[0], UploadFile):
            raise NoPhotoError(f"the form holds {len(files)} values of the field image, expected one file; {SEND}")
        return await files[0].read()


async def drain(request: Request, limit: int, seconds: float = 2.0) -> None:
    """Receive and forget what is still coming: a client that is cut off while it sends never sees why.

    Args:
        request: whose answer is known already.
        limit: largest upload; many times as much is received, so that a photo that is too large hears of it.
        seconds: after which the client is cut off all the same.
    """
    received = 0
    try:
        async with asyncio.timeout(seconds):
            while received <= FORGOTTEN * limit:
                message = await request.receive()
                received += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


def _counted(receive: Receive, slot: Slot, limit: int) -> Receive:
    """The same stream, ended when it holds more than allowed."""

    async def counted() -> Message:
        message = await receive()
        slot.take(len(message.get("body", b"")))
        if slot.held > limit:
            raise TooLargeError(limit)
        return message

    return counted
