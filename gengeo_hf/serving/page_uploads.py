"""Files of the page: a directory for uploads, and a check that requests name only files in it."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gengeo_hf.serving.access import send_refusal

if TYPE_CHECKING:
    from collections.abc import Iterator

    from starlette.types import ASGIApp, Message, Receive, Scope, Send

MAX_CALL_BYTES = 4_000_000  # size of a JSON call; uploads are not calls
NOT_UPLOADED = "a file of this request was not uploaded here; upload the photo first"


@contextlib.contextmanager
def uploads_directory() -> Iterator[Path]:
    """Make a directory for uploads that only this user can read, and delete it at the end.

    It is set as GRADIO_TEMP_DIR, which gradio reads at each upload.

    Yields:
        Path of the directory.
    """
    directory = Path(tempfile.mkdtemp(prefix="gengeo-uploads-")).resolve()
    before = os.environ.get("GRADIO_TEMP_DIR")
    os.environ["GRADIO_TEMP_DIR"] = str(directory)
    try:
        yield directory
    finally:
        if before is None:
            os.environ.pop("GRADIO_TEMP_DIR", None)
        else:
            os.environ["GRADIO_TEMP_DIR"] = before
        shutil.rmtree(directory, ignore_errors=True)


class UploadPathsMiddleware:
    """Refuse calls that name a file outside the uploads directory, or a URL, before gradio reads them.

    gradio would fetch a URL that is given instead of a path, and its error for other paths names directories.

    Args:
        app: Application of gradio.
        uploads: Directory of the uploads.
    """

    def __init__(self, app: ASGIApp, uploads: Path) -> None:
        self.app, self.uploads = app, uploads

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the JSON body of a call; pass other requests on."""
        kind = dict(scope.get("headers", [])).get(b"content-type", b"").lower()
        if scope["type"] != "http" or scope["method"] != "POST" or kind.startswith(b"multipart/form-data"):
            await self.app(scope, receive, send)
            return
        body = b""
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            if len(body) > MAX_CALL_BYTES:
                await send_refusal(send, 413, "too_large", "the call is too large; photos are uploaded as files")
                return
            if not message.get("more_body", False):
                break
        try:
            names_other_files = not self._is_allowed(json.loads(body)) if body else False
        except (ValueError, RecursionError):
            await send_refusal(send, 400, "bad_request", "the call is not JSON")
            return
        if names_other_files:
            await send_refusal(send, 400, "bad_request", NOT_UPLOADED)
            return
        sent = False

        async def receive_body() -> Message:
            nonlocal sent
            if sent:
                return await receive()
            sent = True
            return {"type": "http.request", "body": body, "more_body": False}

        await self.app(scope, receive_body, send)

    def _is_allowed(self, value: Any) -> bool:
        """Whether every `path` in decoded JSON is the path of an upload."""
        if isinstance(value, dict):
            path = value.get("path")
            if isinstance(path, str) and not self._is_upload(path):
                return False
            return all(map(self._is_allowed, value.values()))
        return all(map(self._is_allowed, value)) if isinstance(value, list) else True

    def _is_upload(self, path: str) -> bool:
        with contextlib.suppress(OSError, ValueError):
            return Path(path).resolve().is_relative_to(self.uploads)
        return False
