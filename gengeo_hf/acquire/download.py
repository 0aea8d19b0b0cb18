"""Downloading a large file: continued after a stop or a broken connection, checked by size and checksum, renamed last.

Transport, ranges and Retry-After are those of huggingface_hub, which works for any address; its own `hf_hub_download`
starts anew after each stop.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import sha256_of, sync
from gengeo_hf.common.transfer import with_retries

PARTIAL = ".partial"  # suffix of a download that is not complete


def download(
    address: str,
    path: str | Path,
    *,
    size: int | None = None,
    sha256: str | None = None,
    git_oid: str | None = None,
    headers: Mapping[str, str] | None = None,
    name: str | None = None,
) -> Path:
    """Download one file. A file that is there already, of the right size, is left alone.

    What was fetched before a stop is kept in `<path>.partial`, and the next call continues it.

    Args:
        address: HTTP address; redirects are followed.
        path: Where the file will lie.
        size: Bytes, where they are known beforehand.
        sha256: Checksum in hex, where it is known beforehand. A file with another one is removed.
        git_oid: Checksum that Git gives the content (SHA-1 of a blob, in hex), likewise.
        headers: Further header fields, for example of authorisation.
        name: What messages call the file; default: the name of `path`.

    Returns:
        `path`.

    Raises:
        GenGeoError: The server refuses or does not answer, the disk is full, or the content is not what was expected.
    """
    path, name = Path(path), name or Path(path).name
    if path.is_file() and (size is None or path.stat().st_size == size):
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(path.name + PARTIAL)
    if partial.is_file() and (size is None or partial.stat().st_size > size):
        partial.unlink()  # it may not be the beginning of this file
    with_retries(lambda: _append(address, partial, size, headers, name), name)
    if problem := content_problem(partial, name, sha256=sha256, git_oid=git_oid):
        partial.unlink()
        raise GenGeoError(f"{problem}; it was removed, run the same command to fetch it again")
    sync(partial)
    partial.replace(path)
    return path


def _append(address: str, partial: Path, size: int | None, headers: Mapping[str, str] | None, name: str) -> None:
    """Fetch what is missing of a file; a connection that breaks is made again from the last byte."""
    from huggingface_hub.file_download import http_get

    with partial.open("ab") as file:
        try:
            # Compressed content has other positions than the file, so that it could not be continued.
            http_get(
                address,
                file,
                resume_size=file.tell(),
                headers={**(headers or {}), "Accept-Encoding": "identity"},
                expected_size=size,
                displayed_filename=name,
            )
        except OSError as error:
            if not str(error).startswith("Consistency check failed"):
                raise
            file.flush()
            problem = _unexpected(partial, name) or f"{name} has {partial.stat().st_size:,} bytes, expected {size:,}"
            partial.unlink()
            raise GenGeoError(f"{problem}; run the same command to fetch it again") from error


def content_problem(path: Path, name: str, *, sha256: str | None = None, git_oid: str | None = None) -> str | None:
    """What is wrong with the content of a file; None where its checksum fits, or none is known and nothing is odd."""
    found, expected = "", ""
    if sha256 is not None:
        found, expected = sha256_of(path), sha256
    elif git_oid is not None:
        found, expected = _git_oid(path), git_oid
    if found != expected:
        return _unexpected(path, name) or f"{name} has the checksum {found[:12]}, expected {expected[:12]}"
    return None if expected else _unexpected(path, name)


def _git_oid(path: Path) -> str:
    """What `git hash-object` prints for a file."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _unexpected(path: Path, name: str) -> str | None:
    """What a file is instead of the expected content: a login page, or a Git LFS pointer; None for anything else."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return f"the server sent a web page instead of {name} (a login page, or a proxy that blocks it?)"
    if head.startswith(b"version https://git-lfs"):
        return f"the server sent a Git LFS pointer instead of {name}"
    return None


def check_space(folder: str | Path, needed: int) -> None:
    """Make sure that a disk has room before a download begins.

    Args:
        folder: Where files will be written; it need not exist.
        needed: Bytes.

    Raises:
        GenGeoError: There is less free.
    """
    there = Path(folder).absolute()
    while not there.exists():
        there = there.parent
    free = shutil.disk_usage(there).free
    if free < needed:
        raise GenGeoError(
            f"{folder} needs {gigabytes(needed)} and {gigabytes(free)} are free: choose a directory on another disk "
            "(--out), or fetch less"
        )


def gigabytes(count: float) -> str:
    """A number of bytes as people read it."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
