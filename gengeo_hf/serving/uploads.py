"""Uploads: the one photo of an HTTP request, sent as a form or as bare bytes, up to a size limit."""

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
DRAIN_FACTOR = 16  # times the largest upload: how much of a refused request is received and discarded
HOW_TO_SEND = "send the photo as the request's body, or as the form field image (curl -F image=@photo.jpg)"


class NoPhotoError(Exception):
    """The request does not contain exactly one photo."""


class TooLargeError(Exception):
    """The upload is larger than allowed.

    Args:
        limit: Size limit in bytes.
    """

    def __init__(self, limit: int) -> None:
        super().__init__(f"the upload is larger than the {limit / 1e6:g} MB that are allowed; send a smaller photo")


async def read_upload(request: Request, slot: Slot, limit: int) -> bytes:
    """Receive the image file of a request.

    Args:
        request: HTTP request. The content type `multipart/form-data` means a form, any other the bytes of the file.
        slot: Slot of the request in the queue; it counts the received bytes.
        limit: Largest body, in bytes.

    Returns:
        The bytes of the image file.

    Raises:
        NoPhotoError: The body is empty, or a form without exactly one file in the field `image`.
        TooLargeError: The body is larger than `limit`.
        BusyError: The uploads of all requests together exceed the limit of the queue.
    """
    stated_length = request.headers.get("content-length", "")
    if stated_length.isdecimal() and int(stated_length[:20]) > limit:  # refused without receiving it
        raise TooLargeError(limit)
    counted = Request(request.scope, _limited_receive(request.receive, slot, limit))
    if not request.headers.get("content-type", "").lower().startswith("multipart/form-data"):
        body = await counted.body()
        if not body:
            raise NoPhotoError(f"the request is empty; {HOW_TO_SEND}")
        return body
    async with contextlib.AsyncExitStack() as stack:
        try:
            form = await stack.enter_async_context(counted.form(max_files=8, max_fields=8))
        except (HTTPException, ValueError, LookupError) as error:  # raised by the parser for damaged forms
            raise NoPhotoError(f"the form cannot be read ({getattr(error, 'detail', error)}); {HOW_TO_SEND}") from error
        unknown = sorted(set(form) - {FIELD})
        files = form.getlist(FIELD)
        if unknown:
            raise NoPhotoError(
                f"the form has the field {unknown[0][:80]!r}; options go into the query string; {HOW_TO_SEND}"
            )
        if len(files) != 1 or not isinstance(files[0], UploadFile):
            raise NoPhotoError(f"the form has {len(files)} values of the field image, expected one file; {HOW_TO_SEND}")
        return await files[0].read()


async def drain(request: Request, limit: int, seconds: float = 2.0) -> None:
    """Receive and discard the rest of a refused request: a client that is disconnected while it sends reads no answer.

    Args:
        request: HTTP request that is refused.
        limit: Largest upload in bytes; `DRAIN_FACTOR` times as much is received, so that the senders of photos that are
            too large read the answer.
        seconds: Time limit in seconds; a client that sends longer is disconnected.
    """
    received = 0
    try:
        async with asyncio.timeout(seconds):
            while received <= DRAIN_FACTOR * limit:
                message = await request.receive()
                received += len(message.get("body", b""))
                if message["type"] != "http.request" or not message.get("more_body"):
                    return
    except TimeoutError:
        return


def _limited_receive(receive: Receive, slot: Slot, limit: int) -> Receive:
    """Return `receive` with a limit: more bytes than `limit` raise TooLargeError."""

    async def receive_counted() -> Message:
        message = await receive()
        slot.take(len(message.get("body", b"")))
        if slot.held > limit:
            raise TooLargeError(limit)
        return message

    return receive_counted
