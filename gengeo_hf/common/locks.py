"""Locks between processes: one writer at a time, on Linux, macOS and Windows, and on disks without native locks.

A lock is a file that exists while it is held; it is removed on release. The system frees a native lock when its process
ends, however it ends. File systems that refuse native locks (ENOLCK, EOPNOTSUPP: NFS without a lock daemon, Lustre
without `-o flock`, some FUSE) get a lock by the existence of a marker file, after one warning per process.
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
        path: The lock file. Its directory is made if it does not exist.
        wait: Wait for whoever holds the lock; False returns at once.

    Yields:
        True when the lock is held; False (only with `wait=False`) when somebody else holds it.

    Raises:
        GenGeoError: The directory cannot be written.
    """
    path = Path(path)
    while True:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = _acquire(path, wait)
            break
        except FileNotFoundError:  # somebody removed the directory between the two
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
    """Take a native lock, or a softer one where the file system has none; None where somebody else holds it."""
    # One object per call: two threads of a process exclude each other as two processes do.
    lock: BaseFileLock = FileLock(path, thread_local=False, is_singleton=False, fallback_to_soft=False)
    try:
        return _acquired(lock, wait)
    except OSError as error:
        if error.errno not in _NO_NATIVE_LOCKS:
            raise
    with contextlib.suppress(OSError):
        path.unlink()
    marker = path.with_name(f"{path.name}.soft")
    _warn_once(marker)
    return _acquired(SoftFileLock(marker, thread_local=False, is_singleton=False), wait)


def _acquired(lock: BaseFileLock, wait: bool) -> BaseFileLock | None:
    try:
        lock.acquire(timeout=-1 if wait else 0, poll_interval=_POLL_SECONDS)
    except Timeout:
        return None
    return lock


def _release(lock: BaseFileLock) -> None:
    """Remove the lock file and free the lock. filelock takes a lock on a removed file for none and tries again."""
    native = not isinstance(lock, SoftFileLock)
    if native and sys.platform != "win32":
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()
    lock.release()
    if native and sys.platform == "win32":  # an open file cannot be removed there; one that is in use again stays
        with contextlib.suppress(OSError):
            Path(lock.lock_file).unlink()


def _warn_once(marker: Path) -> None:
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(
            f"the file system of {marker.parent} has no locks: marker files are used instead; after a crash of another "
            f"machine, delete the marker that stays, for example {marker.name}",
            stacklevel=4,
        )
