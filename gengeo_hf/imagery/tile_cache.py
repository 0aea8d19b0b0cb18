"""Map tiles on disk: `z/x/y.jpg` below one directory for each source, as the reader of tile folders takes them.

Beside a tile that the server does not have lies an empty file `y.missing`, which counts for a week. A cache may be
removed at any time: everything in it can be fetched again. Files are written aside and renamed; they are not flushed to
disk one by one, because a tile that a power failure cut is found when it is decoded, and fetched again.
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
    """Where the tiles of this user lie: GENGEO_CACHE, or the usual place of the system.

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
    """Tiles of one source.

    Args:
        root: Directory of all sources; None takes `user_cache()`.
        identity: What makes the source another one: its address without secrets, layer, grid.
        host: Host of the source, for the directory's name.
        limit_mb: Megabytes of all sources under `root` together; the tiles that were written first go first.
        retry_missing: Ask again for tiles that are remembered as missing.
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
        self._written = 0  # bytes since the size was last looked at
        self._known: set[Path] = set()  # directories that exist
        self._suffixes = self._suffixes_in_use()

    def describe(self, about: Mapping[str, Any]) -> None:
        """Write what the source is beside its tiles: address without secrets, attribution, licence.

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
        """Bytes of a tile, None where it is not there."""
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
        """Whether asking the server is not necessary: the tile is there, or known to be missing."""
        stem = self._stem(zoom, column, row)
        return any(stem.with_name(stem.name + suffix).exists() for suffix in self._suffixes) or bool(
            self.reason(zoom, column, row)
        )

    def put(self, zoom: int, column: int, row: int, content: bytes, suffix: str) -> None:
        """Keep a tile.

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
        """Remember for a week that the server has no picture there, and why."""
        stem = self._stem(zoom, column, row)
        self._write(stem.with_name(stem.name + MISSING_SUFFIX), reason.encode())

    def reason(self, zoom: int, column: int, row: int) -> str | None:
        """Why there is no picture at this place, None where that is not known or not any more."""
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
        """Remove a tile that turned out not to be one."""
        stem = self._stem(zoom, column, row)
        for suffix in _SUFFIXES:
            stem.with_name(stem.name + suffix).unlink(missing_ok=True)

    def shrink(self) -> int:
        """Remove the oldest files until all sources together are below the limit; the number of bytes removed."""
        files = []
        for path in self._root.glob("*/*/*/*"):
            with contextlib.suppress(OSError):  # another process may be removing as well
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
        """Suffixes of the tiles that are there already: each one that is tried costs a call of the system."""
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
