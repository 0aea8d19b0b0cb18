"""Writing that cannot leave half a file behind: write aside, flush to disk, rename.

Before: any room that stores something. After: the file or folder is either the old one or the whole new one.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import json
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError

NEW, OLD = "-gengeo-new-", "-gengeo-old-"  # in hidden names beside an output: being written, moved aside
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # why a folder cannot be renamed to a name that is in use


def sum_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of what a JSON file says, whatever its layout."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sync(path: Path) -> None:
    """Flush one file or folder entry to disk, so that a rename is never seen before its content."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    Yields:
        A path in the same folder, with the same suffix (some writers pick their format by it).
    """
    path = Path(path)
    with _beside(path, folder=False) as temporary:
        yield temporary
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty temporary folder beside `path`; on success it takes the place of `path`.

    The old folder and the new one change places in one step where the system can do that (Linux, on most file
    systems). Elsewhere the old one is moved aside first, and `put_back` helps after a kill between the two renames.

    Yields:
        A folder beside `path` to fill.
    """
    path = Path(path)
    with _beside(path, folder=True) as temporary:
        yield temporary
        for child in temporary.rglob("*"):
            sync(child)
        sync(temporary)
        _take_place(temporary, path)
        sync(path.parent)


@contextlib.contextmanager
def _beside(path: Path, folder: bool) -> Iterator[Path]:
    """An empty file or folder beside `path`, locked while it is in use: what a killed process left has no lock."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    while True:
        # Not by `tempfile`: what it makes is for its owner alone, and the umask that says who else may read can only be
        # learned by changing it, under the feet of other threads.
        temporary = path.parent / f".{path.name}{NEW}{secrets.token_hex(4)}{'' if folder else path.suffix}"
        temporary.mkdir() if folder else temporary.touch(exist_ok=False)
        with _locked(temporary, wait=True) as ours:
            if not ours:  # another process swept it away before it had its lock
                continue
            try:
                yield temporary
            finally:
                _remove(temporary)  # unless it has taken its place; after an exchange it is the old folder
            return


@contextlib.contextmanager
def _locked(path: Path, wait: bool = False) -> Iterator[bool]:
    """Hold a lock on a file or folder itself; False where another process does, or where there is nothing.

    On file systems without locks whoever waits goes on without one, and nobody sweeps.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        yield False
        return
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            free = True
        except OSError:
            free = wait
        yield free and path.exists()
    finally:
        os.close(descriptor)


def sweep(path: str | Path) -> None:
    """Remove what killed processes left half written beside `path`, and put back what they had moved aside."""
    path = Path(path)
    put_back(path)
    for left in _leftovers(path, NEW, OLD):
        with _locked(left) as free:
            if free:
                _remove(left)


def put_back(path: str | Path) -> bool:
    """Give a folder its place again that a killed process moved aside and did not replace; True where that was so."""
    path = Path(path)
    for aside in [] if path.exists() else _leftovers(path, OLD):
        with _locked(aside) as free:
            if free and _give_back(aside, path):
                return True
    return False


def _leftovers(path: Path, *marks: str) -> list[Path]:
    starts = tuple(f".{path.name}{mark}" for mark in marks)
    if not path.parent.is_dir():
        return []
    with os.scandir(path.parent) as entries:
        return [Path(entry.path) for entry in entries if entry.name.startswith(starts)]


def _remove(path: Path) -> None:
    """Remove a file or folder; one that has gone meanwhile is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _take_place(temporary: Path, path: Path) -> None:
    """Give a folder its name. Where another process writes the same, the last one wins; nothing is ever a mixture."""
    with contextlib.ExitStack() as moved_aside:
        while True:
            try:
                temporary.replace(path)
                return
            except OSError as error:  # something stands there
                if error.errno not in _TAKEN:
                    raise
            with contextlib.suppress(FileNotFoundError):  # or stood there
                if _exchange(temporary, path):
                    return
                aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}{OLD}"))
                moved_aside.enter_context(_locked(aside))
                moved_aside.push(partial(_let_go, aside, path))
                path.replace(aside / path.name)


def _let_go(aside: Path, path: Path, failure: type[BaseException] | None, *_: object) -> None:
    """Remove what was moved aside; after a failure it gets its place back first."""
    if failure is not None:  # else what is missing there was moved aside by another writer, who has a newer one
        _give_back(aside, path)
    _remove(aside)


def _give_back(aside: Path, path: Path) -> bool:
    """Move what was set aside to its place; False where there is nothing, or something has taken the place."""
    if path.exists() or not (aside / path.name).exists():
        return False
    try:
        (aside / path.name).replace(path)
    except OSError as error:
        if error.errno not in (*_TAKEN, errno.ENOENT):  # another process was faster than the look above
            raise
        return False
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Let two paths change places in one step; False where system or file system cannot (renameat2(2))."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except AttributeError:
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(error, os.strerror(error), str(other))


def check_replaceable(path: str | Path, marker: str) -> None:
    """Make sure that a command which writes a folder whole does not take a user's own files away.

    Args:
        path: a folder that is about to be written by `atomic_folder`.
        marker: name of a file or folder that every earlier result of the same command holds.

    Raises:
        GenGeoError: the path is a file, a folder that holds something else, or one that the process is in.
    """
    path = Path(path)
    if Path.cwd().is_relative_to(path.resolve()):  # such a folder cannot be moved aside, which shows only at the end
        raise GenGeoError(f"{path} is the folder that you are in, or holds it: give the name of a new folder")
    if path.is_file() or (path.is_dir() and any(path.iterdir()) and not (path / marker).exists()):
        raise GenGeoError(f"{path} exists and holds something else: give the name of a new folder")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text in one step."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON in one step, indented and with a final newline. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
