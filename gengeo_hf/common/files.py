"""Writing that cannot leave half a file behind: write aside, flush to disk, rename.

A file or directory is either the old one or the whole new one. Links are resolved, so what a link points to is replaced
and the link stays. `-`, devices and FIFOs are streams: the finished content is copied into them. What is replaced keeps
its permissions; what is new gets those of the umask, whatever library wrote it.
"""

import contextlib
import ctypes
import errno
import hashlib
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
import threading
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.locks import exclusive

NEW, OLD, LOCK = "-gengeo-new-", "-gengeo-old-", ".lock"  # in hidden names beside an output
OUTPUT_RECORD = "gengeo_output.json"  # what a directory written by a command says of itself
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # why a directory cannot be renamed to a name that is in use
_STREAM_ROOTS = ("/dev/", "/proc/")


def sum_of(values: Mapping[str, Any]) -> str:
    """SHA-256 of what a JSON object says, whatever its layout."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256_of(path: str | Path) -> str:
    """SHA-256 of a file, in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush one file or directory entry to disk, so that a rename is never seen before its content."""
    if path.is_dir() and sys.platform == "win32":  # a directory cannot be opened there
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_stream(path: str | Path) -> bool:
    """True for `-`, devices, FIFOs and sockets: they are written into and never replaced."""
    path = Path(path)
    if str(path) == "-" or str(path.absolute()).startswith(_STREAM_ROOTS):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def real_path(path: str | Path) -> Path:
    """The path that a link, or a link on the way, leads to; a dangling link leads to what it names."""
    return Path(os.path.realpath(path))


def write_small(path: Path, content: bytes) -> None:
    """Write one of very many small files aside and rename it.

    `atomic_file` looks through the whole folder each time and waits for the disk: too slow for 100,000 tiles or photos.

    Args:
        path: File to write; its folder exists.
        content: Its bytes.

    Raises:
        OSError: The disk is full or the folder cannot be written; nothing is left behind.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}")
    try:
        temporary.write_bytes(content)
        temporary.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_file(path: str | Path) -> Iterator[Path]:
    """Give a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    Args:
        path: File to write. `-` is stdout; devices and FIFOs are written into once the content is complete.

    Yields:
        A path with the same suffix (some writers pick their format by it).
    """
    if is_stream(path):
        with _stream(path) as temporary:
            yield temporary
        return
    path = real_path(path)
    with _beside(path, folder=False) as temporary:
        mode = stat.S_IMODE((path if path.is_file() else temporary).stat().st_mode)
        yield temporary
        temporary.chmod(mode)  # some writers replace the file by one for its owner alone
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


@contextlib.contextmanager
def _stream(path: str | Path) -> Iterator[Path]:
    """A temporary file whose content goes into a stream at the end."""
    suffix = "" if os.fspath(path) == "-" else Path(path).suffix
    with tempfile.TemporaryDirectory() as folder:
        temporary = Path(folder) / f"stream{suffix}"
        temporary.touch()
        yield temporary
        with temporary.open("rb") as content:
            if os.fspath(path) == "-":
                sys.stdout.flush()
                shutil.copyfileobj(content, sys.stdout.buffer)
                sys.stdout.buffer.flush()
            else:
                with Path(path).open("wb") as target:
                    shutil.copyfileobj(content, target)


@contextlib.contextmanager
def atomic_folder(path: str | Path, kind: str | None = None) -> Iterator[Path]:
    """Give an empty temporary directory beside `path`; on success it takes the place of `path`.

    The old directory and the new one change places in one step where the system can do that (Linux, on most file
    systems). Elsewhere the old one is moved aside first, and `put_back` helps after a kill between the two renames.

    Args:
        path: Directory to write.
        kind: What the directory is, for example "export". It is then written with the names of all files into
            `gengeo_output.json`, by which `check_replaceable` knows it again. None writes no such record.

    Yields:
        A directory beside `path` to fill.
    """
    path = real_path(path)
    with _beside(path, folder=True) as temporary:
        mode = stat.S_IMODE((path if path.is_dir() else temporary).stat().st_mode)
        yield temporary
        if kind is not None:
            _write_record(temporary, kind)
        temporary.chmod(mode)
        for child in temporary.rglob("*"):
            if not child.is_symlink():
                child.chmod(_mode_inside(child, mode))
                sync(child)
        sync(temporary)
        _take_place(temporary, path)
        sync(path.parent)


def match_modes(path: Path, folder: Path) -> None:
    """Give a new file, or a new directory with all that it holds, the permissions that fit the directory it is in.

    Args:
        path: What was written.
        folder: The directory whose permissions count.
    """
    mode = stat.S_IMODE(folder.stat().st_mode)
    for child in [path, *(path.rglob("*") if path.is_dir() else ())]:
        child.chmod(_mode_inside(child, mode))


def _mode_inside(child: Path, folder_mode: int) -> int:
    """Permissions of a file or directory in a directory of this mode."""
    if child.is_dir():
        return folder_mode
    executable = child.stat().st_mode & 0o111
    return folder_mode & (0o666 | executable)


@contextlib.contextmanager
def _beside(path: Path, folder: bool) -> Iterator[Path]:
    """An empty file or directory beside `path`, locked while it is in use: what a killed process left is not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    # Not by `tempfile`: what it makes is for its owner alone, and the umask that says who else may read can only be
    # learned by changing it, under the feet of other threads.
    temporary = path.parent / f".{path.name}{NEW}{secrets.token_hex(4)}{'' if folder else path.suffix}"
    with exclusive(_lock_of(temporary)):
        try:
            temporary.mkdir() if folder else temporary.touch(exist_ok=False)
            yield temporary
        finally:
            _remove(temporary)  # unless it has taken its place; after an exchange it is the old directory


def _lock_of(temporary: Path) -> Path:
    return temporary.with_name(temporary.name + LOCK)


def sweep(path: str | Path) -> None:
    """Remove what killed processes left half written beside `path`, and put back what they had moved aside."""
    path = real_path(path)
    put_back(path)
    for left in _leftovers(path, NEW, OLD):
        with contextlib.suppress(GenGeoError), exclusive(_lock_of(left), wait=False) as free:  # or not ours to write
            if free:
                _remove(left)


def sweep_all(folder: str | Path) -> None:
    """`sweep` for every file and directory of a folder that some process was writing."""
    with os.scandir(real_path(folder)) as entries:
        hidden = [entry.name for entry in entries if entry.name.startswith(".")]
    for name in {name[1:].split(mark)[0] for name in hidden for mark in (NEW, OLD) if mark in name}:
        sweep(Path(folder) / name)


def put_back(path: str | Path) -> bool:
    """Give a directory its place again that a killed process moved aside and did not replace.

    Returns:
        True where that was so.
    """
    path = real_path(path)
    for aside in [] if path.exists() else _leftovers(path, OLD):
        with exclusive(_lock_of(aside), wait=False) as free:
            if free and _give_back(aside, path):
                return True
    return False


def _leftovers(path: Path, *marks: str) -> list[Path]:
    """Temporaries of `path`, also those of which only the lock file is there."""
    starts = tuple(f".{path.name}{mark}" for mark in marks)
    if not path.parent.is_dir():
        return []
    with os.scandir(path.parent) as entries:
        names = {entry.name.removesuffix(".soft").removesuffix(LOCK) for entry in entries}
    return [path.parent / name for name in sorted(names) if name.startswith(starts)]


def _remove(path: Path) -> None:
    """Remove a file or directory; one that has gone meanwhile is no error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _take_place(temporary: Path, path: Path) -> None:
    """Give a directory its name. Where another process writes the same, the last one wins; never a mixture."""
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
                aside = path.parent / f".{path.name}{OLD}{secrets.token_hex(4)}"
                moved_aside.enter_context(exclusive(_lock_of(aside)))
                aside.mkdir()
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
    except (AttributeError, TypeError, OSError):
        return False
    here, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(here, os.fsencode(one), here, os.fsencode(other), exchange) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(error, os.strerror(error), str(other))


def _write_record(folder: Path, kind: str) -> None:
    names = sorted(child.relative_to(folder).as_posix() for child in folder.rglob("*") if not child.is_dir())
    write_json(folder / OUTPUT_RECORD, {"format": "gengeo-output", "kind": kind, "files": names})


def _read_record(folder: Path) -> tuple[str, set[str]] | None:
    """Kind and files of a directory that a command wrote; None where it was not one."""
    try:
        record = json.loads((folder / OUTPUT_RECORD).read_text(encoding="utf-8"))
        if record["format"] == "gengeo-output":
            return str(record["kind"]), {*map(str, record["files"]), OUTPUT_RECORD}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def check_replaceable(path: str | Path, kind: str, overwrite: bool = False) -> None:
    """Make sure that a command which writes a directory whole takes nothing away that it did not write.

    Args:
        path: A directory that is about to be written by `atomic_folder` with this `kind`.
        kind: What the command writes.
        overwrite: The user has asked for an earlier result to be replaced.

    Raises:
        GenGeoError: The path is a file, a directory that this command did not write or in which something was put
            since, one that the process is in, or an earlier result while `overwrite` is False.
    """
    path = real_path(path)
    if Path.cwd().is_relative_to(path):  # such a directory cannot be moved aside, which shows only at the end
        raise GenGeoError(f"{path} is the directory that you are in, or holds it: give the name of a new one")
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return
    record = _read_record(path) if path.is_dir() else None
    if record is None or record[0] != kind:
        raise GenGeoError(f"{path} exists and holds something else: give the name of a new directory")
    present = {child.relative_to(path).as_posix() for child in path.rglob("*") if not child.is_dir()}
    if foreign := sorted(present - record[1]):
        raise GenGeoError(
            f"{path} also holds {foreign[0]}, which this command did not write; nothing was touched: move it away or "
            "choose another directory"
        )
    if not overwrite:
        raise GenGeoError(f"{path} exists: add --overwrite to replace it, or give the name of a new directory")


def write_text(path: str | Path, text: str) -> None:
    """Write UTF-8 text in one step."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON in one step, indented and with a final newline. NaN is refused: it is not JSON."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
