"""Access control of the service and the page: checks of the Host and Origin headers, and of an access token.

The web page of another site can make a browser send requests to a loopback address (DNS rebinding). Such a request
carries the host name of that site, so only known names are served: loopback names, IP addresses and those given by
`--allowed-host`. This is ASGI middleware, for the service (FastAPI) and for the page (gradio).
"""

from __future__ import annotations

import base64
import binascii
import hmac
import ipaddress
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

LOOPBACK = ("localhost", "127.0.0.1", "::1")
TOKEN_VARIABLE = "GENGEO_SERVICE_TOKEN"
OPEN_PATHS = ("/health/live", "/health/ready")  # for process supervisors, which send no token
MIN_TOKEN_LENGTH = 16  # characters


def read_token(file: str | Path | None = None) -> str | None:
    """Return the token that callers must send, or None where none is set.

    Args:
        file: Path of a text file with the token. None reads the environment variable GENGEO_SERVICE_TOKEN. The token
            itself is not an option: command lines are visible to other users.

    Raises:
        GenGeoError: The file cannot be read, or the token has fewer than 16 characters.
    """
    if file is not None:
        try:
            token = Path(file).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise GenGeoError(f"the access token file {file} cannot be read ({error})") from error
        where = str(file)
    else:
        token, where = os.environ.get(TOKEN_VARIABLE, "").strip(), TOKEN_VARIABLE
        if not token:
            return None
    if len(token) < MIN_TOKEN_LENGTH:
        found = f"the access token in {where} has {len(token)} characters"
        raise GenGeoError(f"{found}, expected {MIN_TOKEN_LENGTH} or more")
    return token


def hostname(text: str) -> str | None:
    """Return the host name in a Host or Origin header (`http://name:port`), in lower case; None if there is none."""
    try:
        return urlsplit(text if "://" in text else f"//{text}").hostname
    except ValueError:
        return None


def path_of(scope: Scope) -> str:
    """Return the path of a request without the prefix that a proxy removes (`root_path`)."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))


class AccessMiddleware:
    """Refuse requests with an unknown host, another origin or no token, before the application reads them.

    Args:
        app: Application to protect.
        allowed_hosts: Host names that are served, besides loopback names and IP addresses; "*" allows all.
        token: Access token that requests must send, as `Authorization: Bearer TOKEN` or as the password of Basic
            authentication; None requires none.
    """

    def __init__(self, app: ASGIApp, allowed_hosts: Sequence[str] = (), token: str | None = None) -> None:
        self.app, self.token = app, token
        self.allowed = {*LOOPBACK, *(name.lower() for name in allowed_hosts)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 400, 401 or 403 where a request is refused; otherwise pass it on."""
        if scope["type"] not in ("http", "websocket"):
            await self.app(scope, receive, send)
            return
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refusal = self._refusal(scope, headers)
        if refusal is None:
            await self.app(scope, receive, send)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1008})
        else:
            await send_refusal(send, *refusal)

    def _refusal(self, scope: Scope, headers: dict[bytes, str]) -> tuple[int, str, str] | None:
        """Status, code and message of the refusal; None for a request that is allowed."""
        if b"content-length" in headers and b"transfer-encoding" in headers:
            return 400, "bad_request", "the request has both Content-Length and Transfer-Encoding; send one of them"
        host = hostname(headers.get(b"host", ""))
        if not self._is_allowed(host):
            return 403, "forbidden", "this host name is not served here; start the service with --allowed-host NAME"
        origin = headers.get(b"origin")
        if origin and hostname(origin) != host and not self._is_allowed(hostname(origin)):
            return 403, "forbidden", "requests from pages of other sites are refused (Origin header)"
        if self.token and path_of(scope) not in OPEN_PATHS and not self._has_token(headers.get(b"authorization", "")):
            return 401, "unauthorized", "send the access token: Authorization: Bearer TOKEN"
        return None

    def _is_allowed(self, host: str | None) -> bool:
        """Whether a host may be served: DNS rebinding needs a domain name, so an IP address always may."""
        if "*" in self.allowed or host in self.allowed:
            return True
        try:
            ipaddress.ip_address(host or "")
        except ValueError:
            return False
        return True

    def _has_token(self, header: str) -> bool:
        kind, _, value = header.partition(" ")
        if kind.lower() == "basic":
            try:
                value = base64.b64decode(value, validate=True).decode("utf-8").partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                return False
        elif kind.lower() != "bearer":
            return False
        return hmac.compare_digest(value.strip().encode(), (self.token or "").encode())


async def send_refusal(send: Send, status: int, code: str, message: str) -> None:
    """Answer a request with an error in the JSON format of the service, and close the connection.

    Args:
        send: ASGI function that sends a message.
        status: HTTP status.
        code: Code of the error, for programs.
        message: Message of the error, for people.
    """
    body = json.dumps({"error": {"code": code, "message": message}}).encode()
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    if status == 401:
        headers.append((b"www-authenticate", b'Basic realm="gengeo"'))
    headers.append((b"connection", b"close"))  # the body is not read
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
