"""Atomic writes of files and directories: write a temporary file beside the target, flush it to disk, rename it.

A reader sees either the old content or the complete new content. Links are resolved: the target of a link is replaced
and the link stays. `-`, devices and FIFOs are streams: the complete content is copied into them. A replaced file keeps
its permissions; a new file gets those of the umask, whichever library wrote it.
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

NEW, OLD, LOCK = "-gengeo-new-", "-gengeo-old-", ".lock"  # parts of the hidden names of temporary files
OUTPUT_RECORD = "gengeo_output.json"  # lists the kind and the files of a directory that a command wrote
_TAKEN = (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR)  # errors of a rename to a name that is in use
_STREAM_ROOTS = ("/dev/", "/proc/")


def digest_of(values: Mapping[str, Any]) -> str:
    """Return the SHA-256 of a JSON object in hex, independent of key order and layout."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def sha256_of(path: str | Path) -> str:
    """Return the SHA-256 of a file in hex."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sync(path: Path) -> None:
    """Flush a file or directory to disk, so that a rename never becomes visible before the content."""
    if path.is_dir() and sys.platform == "win32":  # a directory cannot be opened there
        return
    descriptor = os.open(path, os.O_RDWR if sys.platform == "win32" else os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def is_stream(path: str | Path) -> bool:
    """Whether a path is `-`, a device, a FIFO or a socket: these are written into and never replaced."""
    path = Path(path)
    if str(path) == "-" or str(path.absolute()).startswith(_STREAM_ROOTS):
        return True
    try:
        mode = path.stat().st_mode
    except OSError:
        return False
    return not (stat.S_ISREG(mode) or stat.S_ISDIR(mode))


def real_path(path: str | Path) -> Path:
    """Resolve all links of a path; the target of a dangling link need not exist."""
    return Path(os.path.realpath(path))


def write_small(path: Path, content: bytes) -> None:
    """Write one of many small files through a temporary file and a rename, without a flush to disk.

    `atomic_file` lists the whole directory and flushes each time, which is too slow for 100,000 tiles or photos.

    Args:
        path: File to write; its directory must exist.
        content: Content of the file.

    Raises:
        OSError: The disk is full or the directory cannot be written; no temporary file remains.
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
    """Yield a temporary path beside `path`; on success it replaces `path`, on any error it is removed.

    Args:
        path: File to write. `-` is stdout; devices and FIFOs are written into once the content is complete.

    Yields:
        Path of an empty file with the suffix of `path`, since some writers choose their format by the suffix.
    """
    if is_stream(path):
        with _stream(path) as temporary:
            yield temporary
        return
    path = real_path(path)
    with _temporary_beside(path, folder=False) as temporary:
        mode = stat.S_IMODE((path if path.is_file() else temporary).stat().st_mode)
        yield temporary
        temporary.chmod(mode)  # some writers replace the file by one that only its owner can read
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)


@contextlib.contextmanager
def _stream(path: str | Path) -> Iterator[Path]:
    """Yield a temporary file and copy its content into a stream at the end."""
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
    """Yield an empty temporary directory beside `path`; on success it replaces `path`, on any error it is removed.

    Where the system can exchange two directories in one step (Linux, on most file systems), it does. Elsewhere the old
    directory is moved aside first, and `put_back` restores it after a kill between the two renames.

    Args:
        path: Directory to write.
        kind: Kind of output, for example "export". The kind and the names of all files are then written to
            `gengeo_output.json`, which `check_replaceable` reads. None writes no such record.

    Yields:
        Path of the temporary directory.
    """
    path = real_path(path)
    with _temporary_beside(path, folder=True) as temporary:
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
        _replace_directory(temporary, path)
        sync(path.parent)


def match_modes(path: Path, folder: Path) -> None:
    """Set the permissions of a new file, or of a new directory and its content, to those of a directory.

    Args:
        path: File or directory that was written.
        folder: Directory whose permissions are copied; files get its execute bits only if they have their own.
    """
    mode = stat.S_IMODE(folder.stat().st_mode)
    for child in [path, *(path.rglob("*") if path.is_dir() else ())]:
        child.chmod(_mode_inside(child, mode))


def _mode_inside(child: Path, folder_mode: int) -> int:
    """Return the permissions of a file or directory inside a directory of mode `folder_mode`."""
    if child.is_dir():
        return folder_mode
    executable = child.stat().st_mode & 0o111
    return folder_mode & (0o666 | executable)


@contextlib.contextmanager
def _temporary_beside(path: Path, folder: bool) -> Iterator[Path]:
    """Yield an empty file or directory beside `path`, locked while in use; leftovers of killed processes are not."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep(path)
    # Not made by `tempfile`, whose files only their owner can read: the umask can only be read by changing it, which
    # affects the other threads of the process.
    temporary = path.parent / f".{path.name}{NEW}{secrets.token_hex(4)}{'' if folder else path.suffix}"
    with exclusive(_lock_of(temporary)):
        try:
            temporary.mkdir() if folder else temporary.touch(exist_ok=False)
            yield temporary
        finally:
            _remove(temporary)  # does not exist after a rename; after an exchange it is the old directory


def _lock_of(temporary: Path) -> Path:
    return temporary.with_name(temporary.name + LOCK)


def sweep(path: str | Path) -> None:
    """Remove incomplete output of killed processes beside `path`, and restore a directory that they moved aside."""
    path = real_path(path)
    put_back(path)
    for left in _leftovers(path, NEW, OLD):
        # GenGeoError: another user's directory, which cannot be written.
        with contextlib.suppress(GenGeoError), exclusive(_lock_of(left), wait=False) as free:
            if free:
                _remove(left)


def sweep_all(folder: str | Path) -> None:
    """Call `sweep` for every file and directory in `folder` that has leftovers of a process."""
    with os.scandir(real_path(folder)) as entries:
        hidden = [entry.name for entry in entries if entry.name.startswith(".")]
    for name in {name[1:].split(part)[0] for name in hidden for part in (NEW, OLD) if part in name}:
        sweep(Path(folder) / name)


def put_back(path: str | Path) -> bool:
    """Restore a directory that a killed process moved aside and did not replace.

    Returns:
        Whether a directory was restored.
    """
    path = real_path(path)
    for aside in [] if path.exists() else _leftovers(path, OLD):
        with exclusive(_lock_of(aside), wait=False) as free:
            if free and _restore(aside, path):
                return True
    return False


def _leftovers(path: Path, *parts: str) -> list[Path]:
    """List the temporary paths of `path`, including those of which only the lock file exists."""
    starts = tuple(f".{path.name}{part}" for part in parts)
    if not path.parent.is_dir():
        return []
    with os.scandir(path.parent) as entries:
        names = {entry.name.removesuffix(".soft").removesuffix(LOCK) for entry in entries}
    return [path.parent / name for name in sorted(names) if name.startswith(starts)]


def _remove(path: Path) -> None:
    """Remove a file or directory; a path that does not exist is not an error."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _replace_directory(temporary: Path, path: Path) -> None:
    """Rename a directory to `path`. Of several processes that write the same path, the last one wins as a whole."""
    with contextlib.ExitStack() as moved_aside:
        while True:
            try:
                temporary.replace(path)
                return
            except OSError as error:  # the path exists
                if error.errno not in _TAKEN:
                    raise
            with contextlib.suppress(FileNotFoundError):  # another process has just removed the path
                if _exchange(temporary, path):
                    return
                aside = path.parent / f".{path.name}{OLD}{secrets.token_hex(4)}"
                moved_aside.enter_context(exclusive(_lock_of(aside)))
                aside.mkdir()
                moved_aside.push(partial(_remove_aside, aside, path))
                path.replace(aside / path.name)


def _remove_aside(aside: Path, path: Path, failure: type[BaseException] | None, *_: object) -> None:
    """Remove a directory that was moved aside; after a failure restore it first."""
    if failure is not None:  # after a success a missing path means that another writer is replacing it
        _restore(aside, path)
    _remove(aside)


def _restore(aside: Path, path: Path) -> bool:
    """Move a directory from aside back to `path`; return False if there is none or if `path` exists."""
    if path.exists() or not (aside / path.name).exists():
        return False
    try:
        (aside / path.name).replace(path)
    except OSError as error:
        if error.errno not in (*_TAKEN, errno.ENOENT):  # these: another process acted after the check above
            raise
        return False
    return True


def _exchange(one: Path, other: Path) -> bool:
    """Exchange two paths in one step with renameat2(2); return False if the system or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, TypeError, OSError):
        return False
    at_cwd, exchange = -100, 2  # AT_FDCWD, RENAME_EXCHANGE
    if rename(at_cwd, os.fsencode(one), at_cwd, os.fsencode(other), exchange) == 0:
        return True
    error = ctypes.get_errno()
    if error in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):
        return False
    raise OSError(error, os.strerror(error), str(other))


def _write_record(folder: Path, kind: str) -> None:
    names = sorted(child.relative_to(folder).as_posix() for child in folder.rglob("*") if not child.is_dir())
    write_json(folder / OUTPUT_RECORD, {"format": "gengeo-output", "kind": kind, "files": names})


def _read_record(folder: Path) -> tuple[str, set[str]] | None:
    """Return the kind and the files of a directory that a command wrote; None if it has no valid record."""
    try:
        record = json.loads((folder / OUTPUT_RECORD).read_text(encoding="utf-8"))
        if record["format"] == "gengeo-output":
            return str(record["kind"]), {*map(str, record["files"]), OUTPUT_RECORD}
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        pass
    return None


def check_replaceable(path: str | Path, kind: str, overwrite: bool = False) -> None:
    """Refuse to replace a directory that contains files which this command did not write.

    Args:
        path: Directory that is going to be written by `atomic_folder` with this `kind`.
        kind: Kind of output that the command writes.
        overwrite: Whether an earlier result of the same kind may be replaced.

    Raises:
        GenGeoError: The path is a file, a directory that this command did not write or to which files were added, a
            directory that contains the working directory, or an earlier result and `overwrite` is False.
    """
    path = real_path(path)
    if Path.cwd().is_relative_to(path):  # it cannot be moved aside, which would fail only at the end
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
    """Write UTF-8 text atomically."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, value: Any) -> None:
    """Write JSON atomically, indented and with a final newline; NaN, which is not JSON, raises ValueError."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
