"""Files by address, which the imagery client reads in blocks by HTTP range requests; blocks are cached on disk.

GDAL reads COGs through these objects (rasterio's `opener`), so that it opens no connections itself and all limits of
the client apply. A file that changes on the server between two requests is detected and refused.
"""

import threading
from collections import OrderedDict

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.imagery.client import Answer, ImageryClient, ServerError
from gengeo_hf.imagery.tile_cache import TileCache

BLOCK = 128 << 10  # bytes
MEMORY_BLOCKS = 128
MAX_BLOCKS = 64  # blocks in one request


class RemoteFile:
    """One file by address. Safe for threads; each reader from `open` has its own position.

    Args:
        client: Client that fetches the blocks.
        address: HTTP or HTTPS address of the file.
        cache: Cache of the blocks on disk.

    Raises:
        GenGeoError: The file does not exist, or the server does not support range requests.
    """

    def __init__(self, client: ImageryClient, address: str, cache: TileCache) -> None:
        self._client, self._address, self._cache = client, address, cache
        self._lock = threading.Lock()
        self._memory: OrderedDict[int, bytes] = OrderedDict()
        self.problem: GenGeoError | None = None  # last error, since GDAL hides exceptions of file objects
        self.size, self._etag = self._size_and_etag()

    def open(self) -> "RemoteReader":
        """A reader at the start of the file."""
        return RemoteReader(self)

    def read_at(self, offset: int, length: int) -> bytes:
        """Read `length` bytes from an offset; fewer at the end of the file.

        Raises:
            GenGeoError: The bytes cannot be fetched.
        """
        end = min(offset + length, self.size)
        if end <= offset:
            return b""
        first, last = offset // BLOCK, (end - 1) // BLOCK
        try:
            with self._lock:
                blocks = [self._block(number, last) for number in range(first, last + 1)]
        except GenGeoError as error:
            self.problem = error
            raise
        content = b"".join(blocks)
        return content[offset - first * BLOCK : end - first * BLOCK]

    def _size_and_etag(self) -> tuple[int, str]:
        """Size in bytes and entity tag, from the cache or from the response with the first block."""
        known = self._cache.get(0, 0, 0)
        if known is not None:
            size, _, etag = known.decode("utf-8", "replace").partition(" ")
            if size.isdecimal():
                return int(size), etag
            self._cache.drop(0, 0, 0)  # damaged
        answer = self._client.get(self._address, headers={"Range": f"bytes=0-{BLOCK - 1}"})
        if answer.is_missing:
            raise ServerError(f"there is no file at {answer.address} ({answer.status})", answer.status)
        total = answer.headers.get("content-range", "").rpartition("/")[2]
        if answer.status != 206 or not total.isdigit():
            raise ServerError(
                f"{answer.address} cannot be read in parts, because the server does not support range requests: "
                "download the file, and use it as the source"
            )
        etag = answer.headers.get("etag", "")
        etag = "" if etag.startswith("W/") else etag or answer.headers.get("last-modified", "")
        self._cache.put(0, 0, 0, f"{total} {etag}".encode(), ".bin")
        self._cache.put(1, 0, 0, answer.content, ".bin")
        return int(total), etag

    def _block(self, number: int, last: int) -> bytes:
        """One block, from memory, the cache or the server; `last` is the last block that will be needed."""
        if number in self._memory:
            self._memory.move_to_end(number)
            return self._memory[number]
        content = self._cache.get(1, number // 1000, number)
        if content is None or len(content) != self._length(number):
            self._fetch(number, last)
            return self._memory[number]
        self._keep(number, content)
        return content

    def _length(self, number: int) -> int:
        return min(BLOCK, self.size - number * BLOCK)

    def _fetch(self, number: int, last: int) -> None:
        """Fetch a block and, in the same request, the following ones up to `last` or to the next cached one."""
        stop = number
        while stop < min(last, number + MAX_BLOCKS - 1) and not self._cache.has(1, (stop + 1) // 1000, stop + 1):
            stop += 1
        start, end = number * BLOCK, min((stop + 1) * BLOCK, self.size)
        headers = {"Range": f"bytes={start}-{end - 1}"} | ({"If-Range": self._etag} if self._etag else {})
        answer = self._client.get(self._address, headers=headers)
        self._check(answer, start, end)
        for block in range(number, stop + 1):
            content = answer.content[(block - number) * BLOCK : (block - number + 1) * BLOCK]
            self._cache.put(1, block // 1000, block, content, ".bin")
            self._keep(block, content)

    def _check(self, answer: Answer, start: int, end: int) -> None:
        """Raise an error if a response is not the requested range of bytes."""
        stated = answer.headers.get("content-range", "").removeprefix("bytes ").partition("/")[0].strip()
        if answer.status != 206 or stated != f"{start}-{end - 1}" or len(answer.content) != end - start:
            raise ServerError(
                f"{answer.address} sent another range than requested, so the file may have changed: remove "
                f"{self._cache.directory} and run the same command again"
            )

    def _keep(self, number: int, content: bytes) -> None:
        self._memory[number] = content
        while len(self._memory) > MEMORY_BLOCKS:
            self._memory.popitem(last=False)


class RemoteReader:
    """A file object for reading a `RemoteFile`."""

    def __init__(self, file: RemoteFile) -> None:
        self._file, self._position = file, 0

    def read(self, size: int = -1) -> bytes:
        """Read at most `size` bytes; a negative size reads to the end."""
        content = self._file.read_at(self._position, self._file.size if size < 0 else size)
        self._position += len(content)
        return content

    def seek(self, offset: int, whence: int = 0) -> int:
        """Move the position, as `io.IOBase.seek`."""
        base = (0, self._position, self._file.size)[whence]
        self._position = max(0, base + offset)
        return self._position

    def tell(self) -> int:
        """The position in bytes."""
        return self._position

    @property
    def size(self) -> int:
        """Size of the file in bytes."""
        return self._file.size

    def seekable(self) -> bool:
        """Always true."""
        return True

    def readable(self) -> bool:
        """Always true."""
        return True

    def close(self) -> None:
        """Do nothing: the reader holds no resource."""

    def __enter__(self) -> "RemoteReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
