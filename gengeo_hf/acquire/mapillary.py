"""Client of Mapillary's API, version 4: search for photos in bounds, and download of image files.

The access token is read from the environment and sent in a header to the API's own host only; it is never part of an
address, file, log or message. Addresses of image files expire, so they are requested right before each download. All
requests are made by `gengeo_hf.imagery.client`, with its limits, pauses and checks.
"""

import json
import os
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import urlencode

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.client import HostUnavailableError, ImageryClient, ServerError
from gengeo_hf.imagery.hosts import host_of, remember_secret
from gengeo_hf.imagery.options import ClientOptions

API = "https://graph.mapillary.com"
TOKEN_VARIABLE = "MAPILLARY_ACCESS_TOKEN"  # name of an environment variable, not a secret
TOKEN_PAGE = "https://www.mapillary.com/dashboard/developers"  # address of a page, not a secret
LICENCE = "CC-BY-SA-4.0"
LIMIT = 2000  # maximum number of photos in a response; there are no further pages
FULL = 0.95  # share of `LIMIT` from which a response counts as incomplete
KINDS = ("panorama", "perspective")
PIXELS = {256: "thumb_256_url", 1024: "thumb_1024_url", 2048: "thumb_2048_url"}
FIELDS = (
    "id",
    "geometry",
    "computed_geometry",
    "compass_angle",
    "computed_compass_angle",
    "computed_rotation",
    "captured_at",
    "camera_type",
    "camera_parameters",
    "is_pano",
    "width",
    "height",
    "sequence",
    "creator",
    "quality_score",
)
TRIES = 3  # attempts after a response that is not JSON, or an address that has expired
BAD_TOKEN = 190  # error code of an invalid, expired or revoked token
TOO_MANY = (4, 17, 32, 613)  # error codes of request limits, with any HTTP status

Box = tuple[float, float, float, float]  # west, south, east, north in degrees


class TokenError(GenGeoError):
    """The access token is missing or refused, so that all further requests would fail."""


@dataclass(frozen=True)
class Picture:
    """Image file of a photo as the server sent it.

    Args:
        content: Bytes of the file; empty if it is not available.
        reason: Reason why it is not available, "" otherwise.
    """

    content: bytes = b""
    reason: str = ""


def read_token() -> str:
    """Read the access token from the environment variable `TOKEN_VARIABLE`.

    Raises:
        TokenError: The variable is not set, or its value is not a valid token.
    """
    token = os.environ.get(TOKEN_VARIABLE, "").strip()
    if not token:
        raise TokenError(f"set {TOKEN_VARIABLE} to your access token; it is free: {TOKEN_PAGE}, 'Client Token'")
    remember_secret(token)
    if not token.isascii() or not token.isprintable() or any(letter.isspace() for letter in token):
        raise TokenError(f"{TOKEN_VARIABLE} contains white space or invalid characters: copy the token again")
    return token


class Mapillary:
    """Client that searches for photos and fetches their image files. Safe for threads.

    Args:
        token: Access token.
        options: Limits of requests; None takes 8 connections and 20 requests per second, far below the API's limits.
        address: Address of the API.

    Raises:
        GenGeoError: The address is not https, so that the token would be sent in clear text.
    """

    def __init__(self, token: str, options: ClientOptions | None = None, address: str = API) -> None:
        options = options or replace(ClientOptions(), connections=8, rate=20.0)
        host = host_of(address)
        if not address.lower().startswith("https:") and not options.allow_private:
            raise GenGeoError(f"{host} would be accessed by http, which exposes your token: give an https address")
        remember_secret(token)
        self._address = address.rstrip("/")
        self._headers = {"Authorization": f"OAuth {token}"}
        # Two clients, so that hosts of image files never receive the token, not even by a redirect.
        self._api, self._pixels = ImageryClient(options, (host,)), ImageryClient(options)

    def __enter__(self) -> "Mapillary":
        return self

    def __exit__(self, *_: object) -> None:
        self._api.close()
        self._pixels.close()

    @property
    def requests(self) -> int:
        """Number of requests that were sent, including retries."""
        return self._api.requests + self._pixels.requests

    @property
    def hosts(self) -> list[str]:
        """Hosts that received requests."""
        return [*self._api.hosts, *self._pixels.hosts]

    def search(self, box: Box, is_panorama: bool) -> list[dict[str, Any]]:
        """Search for photos in bounds. At most `LIMIT` are returned, in arbitrary order.

        Args:
            box: West, south, east, north in degrees, with sides of less than 0.01 degrees.
            is_panorama: Whether to search for panoramas (True) or for all other photos (False).

        Returns:
            The API's record of each photo with the keys `FIELDS`; unknown values are missing keys.

        Raises:
            TokenError: The token is refused.
            ServerError: The request failed, or the response is not a list of photos.
        """
        query = {
            "bbox": ",".join(f"{side:.7f}" for side in box),
            "is_pano": str(is_panorama).lower(),
            "limit": str(LIMIT),
            "fields": ",".join(FIELDS),
        }
        found = self._get_json("images", query)
        photos = None if found is None else found.get("data")
        if not isinstance(photos, list) or not all(isinstance(photo, dict) for photo in photos):
            host = host_of(self._address)
            raise ServerError(f"{host} answers a search without a list of photos; run the same command later")
        return photos

    def picture(self, photo_id: str, pixels: int) -> Picture:
        """Fetch the image file of a photo.

        Args:
            photo_id: Id of the photo.
            pixels: Width in pixels: 256, 1024 or 2048.

        Raises:
            TokenError: The token is refused.
            ServerError: The request failed, or the response is not JSON.
        """
        field = PIXELS[pixels]
        for _ in range(TRIES):
            found = self._get_json(photo_id, {"fields": f"id,{field}"})
            address = None if found is None else found.get(field)
            if not isinstance(address, str):
                return Picture(reason="not there any more")
            self._pixels.allow(address)
            try:
                answer = self._pixels.get(address)
            except ServerError as error:
                if error.status == 403:  # the address has expired
                    continue
                raise
            if not answer.is_missing:
                return Picture(answer.content)
        return Picture(reason="address expires at once")

    def _get_json(self, path: str, query: dict[str, str]) -> dict[str, Any] | None:
        """Request a JSON object of the API; None if the API states that it does not exist."""
        host = host_of(self._address)
        address = f"{self._address}/{path}?{urlencode(query, safe=',')}"
        for _ in range(TRIES):
            try:
                answer = self._api.get(address, headers=self._headers)
            except ServerError as error:
                raise _to_specific_error(error, host) from None
            if answer.is_missing:
                return None
            try:
                found = json.loads(answer.content)
            except (ValueError, RecursionError):
                continue
            if isinstance(found, dict):
                return found
        kind = "a web page" if answer.media_type == "text/html" else f"{answer.media_type or 'something'}"
        raise ServerError(f"{host} sends {kind} instead of JSON: is a login or a proxy in between?")


def _to_specific_error(error: ServerError, host: str) -> GenGeoError:
    """Convert the error of a refused request by the error code in the response."""
    try:
        details = json.loads(error.content)["error"]
        message, code = str(details.get("message", ""))[:200], details.get("code")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        message, code = "", None
    if code in TOO_MANY:
        return HostUnavailableError(
            f"{host} asks for fewer requests ({message}); run the same command later to continue"
        )
    if error.status in (401, 403) or code == BAD_TOKEN:
        reason = f" ({message})" if message else ""
        return TokenError(
            str(ServerError(f"{host} refuses the token in {TOKEN_VARIABLE}{reason}: make a new one at {TOKEN_PAGE}"))
        )
    return ServerError(f"{error}; the server states: {message}", error.status) if message else error
