"""Stream of a remote file from any byte, to read the beginning of a large archive without downloading all of it."""

import io
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.transfer import with_retries

PIECE = 1 << 18  # bytes


class RemoteStream(io.RawIOBase):
    """Stream of a remote file. After a broken connection, reading continues at the same byte.

    Args:
        address: HTTP address.
        name: Name of the file in messages.
        headers: Further HTTP header fields.
        start: First byte to read.

    Raises:
        GenGeoError: The server refuses, does not respond, or does not support byte ranges.
    """

    def __init__(self, address: str, name: str, headers: Mapping[str, str] | None = None, start: int = 0) -> None:
        self._address, self._name, self._headers, self.position = address, name, dict(headers or {}), start
        self._stack = ExitStack()
        self._pieces: Iterator[bytes] | None = None
        self._rest = memoryview(b"")

    def readable(self) -> bool:
        """Always true."""
        return True

    def close(self) -> None:
        """Close the connection."""
        self._stack.close()
        super().close()

    def readinto(self, buffer: Any) -> int:
        """Read up to the length of a buffer; 0 at the end of the file."""
        if not self._rest:
            self._rest = memoryview(with_retries(self._next, self._name))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        self.position += count
        return count

    def _next(self) -> bytes:
        """The next piece, b"" at the end. After an error, the next call opens a new connection."""
        try:
            if self._pieces is None:
                self._pieces = self._open()
            return next(self._pieces, b"")
        except BaseException:
            self._stack.close()
            self._pieces = None
            raise

    def _open(self) -> Iterator[bytes]:
        from huggingface_hub.utils import hf_raise_for_status, http_stream_backoff

        headers = {**self._headers, "Accept-Encoding": "identity", "Range": f"bytes={self.position}-"}
        response = self._stack.enter_context(
            http_stream_backoff("GET", self._address, headers=headers, timeout=30, follow_redirects=True)
        )
        hf_raise_for_status(response)
        if response.status_code != 206 and self.position:
            raise GenGeoError(
                f"the server of {self._name} does not send parts of files: fetch whole archives, without --max-photos"
            )
        pieces: Iterator[bytes] = response.iter_bytes(PIECE)
        return pieces
