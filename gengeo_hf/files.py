"""Writing that cannot leave half a file behind: write aside, flush to disk, rename.

Before: any room that stores something. After: the file or folder is either the old one or the whole new one.
"""

import contextlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gengeo_hf.errors import GenGeoError


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
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.stem}-", suffix=path.suffix)
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o666 & ~umask)  # mkstemp makes files that only their owner can read
        sync(temporary)
        temporary.replace(path)
        sync(path.parent)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


@contextlib.contextmanager
def atomic_folder(path: str | Path) -> Iterator[Path]:
    """Give an empty temporary folder beside `path`; on success it takes the place of `path`.

    A folder cannot replace a full folder in one step. The old one is moved aside first and removed last: a process
    that is killed between the two renames leaves it beside, under a hidden name, and never a mixture.

    Yields:
        A folder beside `path` to fill.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-"))
    try:
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        temporary.chmod(0o777 & ~umask)
        for child in temporary.rglob("*"):
            sync(child)
        sync(temporary)
        if path.exists():
            aside = Path(tempfile.mkdtemp(dir=path.parent, prefix=f".{path.name}-old-"))
            path.replace(aside / path.name)
            temporary.replace(path)
            shutil.rmtree(aside)
        else:
            temporary.replace(path)
        sync(path.parent)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


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
