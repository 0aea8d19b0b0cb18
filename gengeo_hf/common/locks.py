"""Locks between processes, on Linux, macOS and Windows, and on file systems without native locks.

A lock is a file that exists while the lock is held; it is removed on release. The system frees a native lock when its
process ends for any reason. On file systems that refuse native locks (ENOLCK, EOPNOTSUPP: NFS without a lock daemon,
Lustre without `-o flock`, some FUSE) the existence of a marker file is the lock, after one warning per process.
"""

import contextlib
import errno
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from gengeo_hf.common.errors import GenGeoError

_NO_NATIVE_LOCKS = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOTSUP, errno.ENOSYS}
_POLL_SECONDS = 0.02
_warned = False


@contextlib.contextmanager
def exclusive(path: str | Path, wait: bool = True) -> Iterator[bool]:
    """Hold the lock file `path` for the duration of the block.

    Args:
        path: Lock file. Its directory is created if it does not exist.
        wait: Whether to wait until another holder releases the lock; False returns at once.

    Yields:
        True if this block holds the lock; False (only with `wait=False`) if another holder has it.

    Raises:
        GenGeoError: The directory cannot be written.
    """
    path = Path(path)
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _acquire(path, wait)
            break
        except FileNotFoundError:  # another process removed the directory in between
            continue
        except OSError as error:
            raise GenGeoError(f"{path.parent} cannot be written: {error.strerror or error}") from error
    if lock is None:
        yield False
        return
    try:
        yield True
    finally:
        _release(lock)


def _acquire(path: Path, wait: bool) -> BaseFileLock | None:
    """Acquire a native lock, or a marker file where the file system has no locks; None if another holder has it."""
    # One object per call: threads of one process exclude each other like processes.
    lock: BaseFileLock = FileLock(path, thread_local=False, is_singleton=False, fallback_to_soft=False)
    try:
        return _try_acquire(lock, wait)
    except OSError as error:
        if error.errno not in _NO_NATIVE_LOCKS:
            raise
    with contextlib.suppress(OSError):
        path.unlink()
    marker = path.with_name(f"{path.name}.soft")
    _warn_once(marker)
    return _try_acquire(SoftFileLock(marker, thread_local=False, is_singleton=False), wait)


def _try_acquire(lock: BaseFileLock, wait: bool) -> BaseFileLock | None:
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=_POLL_SECONDS)
    except Timeout:
        return None
    return lock


def _release(lock: BaseFileLock) -> None:
    """Remove the lock file and free the lock. filelock retries if the file that it locked has been removed."""
    native = not isinstance(lock, SoftFileLock)
    if native and sys.platform != "win32":
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
    lock.release()
    if native and sys.platform == "win32":  # Windows cannot remove an open file; one that is in use again stays
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()


def _warn_once(marker: Path) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"the file system of {marker.parent} has no locks: marker files are used instead; after a crash of another "
            f"machine, delete the marker file that remains, for example {marker.name}",
            stacklevel=4,
        )
