"""Disk cache of fetched tiles: `z/x/y.jpg` in one directory for each source, which can be read as map tiles.

For a tile that the server does not have, a file `y.missing` with the reason is valid for a week. The cache may be
deleted at any time. Files are written under a temporary name and renamed. They are not flushed to disk individually: a
tile that a power failure truncated is detected when it is decoded, and fetched again.
"""

import contextlib
import hashlib
import itertools
import os
import re
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.files import write_json, write_small
from gengeo_hf.imagery.options import DEFAULT_LIMIT_MB

MANIFEST = "source.json"
MISSING_SUFFIX = ".missing"
REMEMBER_MISSING_S = 7 * 24 * 3600.0
_SUFFIXES = (".jpg", ".png", ".webp", ".gif", ".tif", ".avif", ".bmp", ".img", ".bin")


def user_cache() -> Path:
    """Cache directory of the user: that of GENGEO_CACHE, or the one of the operating system.

    Raises:
        MissingExtraError: platformdirs is not installed.
    """
    if chosen := os.environ.get("GENGEO_CACHE"):
        return Path(chosen)
    try:
        import platformdirs
    except ImportError as error:
        raise MissingExtraError("platformdirs", "net", "keep fetched imagery") from error
    return Path(platformdirs.user_cache_dir("gengeo_hf", appauthor=False)) / "imagery"


class TileCache:
    """Cached tiles of one source.

    Args:
        root: Directory of all sources; None takes `user_cache()`.
        identity: Key of the source: address without secrets, layer, grid.
        host: Host name of the source, for the directory's name.
        limit_mb: Maximum size of all sources in `root` together in megabytes; the oldest tiles are removed first.
        retry_missing: Whether to ignore records of missing tiles.
    """

    def __init__(
        self,
        root: Path | None,
        identity: str,
        host: str,
        limit_mb: int = DEFAULT_LIMIT_MB,
        retry_missing: bool = False,
    ) -> None:
        self._root = root or user_cache()
        digest = hashlib.sha256(identity.encode()).hexdigest()[:10]
        self.directory = self._root / f"{re.sub(r'[^a-z0-9.-]', '_', host.lower())}-{digest}"
        self._limit, self._retry_missing = limit_mb << 20, retry_missing
        self._lock = threading.Lock()
        self._written = 0  # bytes written since the size was last checked
        self._known: set[Path] = set()  # directories that exist
        self._suffixes = self._suffixes_in_use()

    def describe(self, about: Mapping[str, Any]) -> None:
        """Write facts about the source beside its tiles.

        Args:
            about: Plain JSON values: address without secrets, attribution, licence.

        Raises:
            GenGeoError: The cache cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            write_json(self.directory / MANIFEST, dict(about))
        except OSError as error:
            raise GenGeoError(
                f"the cache {self._root} cannot be written: {error.strerror or error}; choose another with --cache"
            ) from error

    def get(self, zoom: int, column: int, row: int) -> bytes | None:
        """Bytes of a tile, None if the tile is not in the cache.

        Raises:
            GenGeoError: The cache cannot be read.
        """
        stem = self._stem(zoom, column, row)
        for suffix in self._suffixes:
            try:
                return stem.with_name(stem.name + suffix).read_bytes()
            except FileNotFoundError:
                continue
            except OSError as error:
                raise GenGeoError(f"the cache cannot be read: {error}") from error
        return None

    def has(self, zoom: int, column: int, row: int) -> bool:
        """Whether no request is needed: the tile is in the cache, or recorded as missing."""
        stem = self._stem(zoom, column, row)
        return any(stem.with_name(stem.name + suffix).exists() for suffix in self._suffixes) or bool(
            self.reason(zoom, column, row)
        )

    def put(self, zoom: int, column: int, row: int, content: bytes, suffix: str) -> None:
        """Store a tile.

        Args:
            zoom, column, row: Index of the tile.
            content: Bytes of the file.
            suffix: Suffix of the file, for example ".jpg".

        Raises:
            GenGeoError: The disk is full or the cache cannot be written.
        """
        stem = self._stem(zoom, column, row)
        self._write(stem.with_name(stem.name + suffix), content)
        if suffix not in self._suffixes:
            self._suffixes = [*self._suffixes, suffix]
        if self._retry_missing:
            stem.with_name(stem.name + MISSING_SUFFIX).unlink(missing_ok=True)
        with self._lock:
            self._written += len(content)
            is_due = self._written > max(self._limit // 20, 1 << 20)
            self._written = 0 if is_due else self._written
        if is_due:
            self.shrink()

    def remember(self, zoom: int, column: int, row: int, reason: str) -> None:
        """Record for a week that the server has no imagery for a tile.

        Args:
            zoom, column, row: Index of the tile.
            reason: Reason, see `tile_content`.

        Raises:
            GenGeoError: The cache cannot be written.
        """
        stem = self._stem(zoom, column, row)
        self._write(stem.with_name(stem.name + MISSING_SUFFIX), reason.encode())

    def reason(self, zoom: int, column: int, row: int) -> str | None:
        """Recorded reason why the server has no such tile; None without a record, or if it is older than a week."""
        if self._retry_missing:
            return None
        stem = self._stem(zoom, column, row)
        path = stem.with_name(stem.name + MISSING_SUFFIX)
        try:
            if time.time() - path.stat().st_mtime > REMEMBER_MISSING_S:
                return None
            return path.read_text(encoding="utf-8") or None
        except (OSError, UnicodeError):
            return None

    def drop(self, zoom: int, column: int, row: int) -> None:
        """Remove a tile."""
        stem = self._stem(zoom, column, row)
        for suffix in _SUFFIXES:
            stem.with_name(stem.name + suffix).unlink(missing_ok=True)

    def shrink(self) -> int:
        """Remove the oldest files until all sources together are below the limit.

        Returns:
            Number of bytes that were removed.
        """
        files = []
        for path in self._root.glob("*/*/*/*"):
            with contextlib.suppress(OSError):  # another process may remove files too
                status = path.stat()
                files.append((status.st_mtime, status.st_size, path))
        total, removed = sum(size for _, size, _ in files), 0
        for _, size, path in sorted(files):
            if total - removed <= self._limit:
                break
            path.unlink(missing_ok=True)
            removed += size
        return removed

    def _suffixes_in_use(self) -> list[str]:
        """Suffixes of the cached tiles, since fewer suffixes need fewer system calls for each tile."""
        some = itertools.islice(self.directory.glob("*/*/*"), 200)
        return sorted({path.suffix for path in some} & set(_SUFFIXES))

    def _stem(self, zoom: int, column: int, row: int) -> Path:
        return self.directory / str(zoom) / str(column) / str(row)

    def _write(self, path: Path, content: bytes) -> None:
        try:
            if path.parent not in self._known:
                path.parent.mkdir(parents=True, exist_ok=True)
                self._known.add(path.parent)
            write_small(path, content)
        except OSError as error:
            raise GenGeoError(
                f"the cache {self._root} cannot be written: {error.strerror or error}; choose another with --cache"
            ) from error
