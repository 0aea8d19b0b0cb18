"""Download of a large file: resumed after interruptions, checked by size and checksum, renamed when complete.

Transport, ranges and Retry-After are handled by huggingface_hub, which works for any address. Its `hf_hub_download` is
not used, since it starts from the beginning after each interruption.
"""

import hashlib
import shutil
from collections.abc import Mapping
from pathlib import Path

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import sha256_of, sync
from gengeo_hf.common.transfer import with_retries

PARTIAL = ".partial"  # suffix of an incomplete download


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
    """Download one file. An existing file of the expected size is kept.

    An interrupted download is kept in `<path>.partial`, and the next call continues it.

    Args:
        address: HTTP address; redirects are followed.
        path: Path of the file.
        size: Expected number of bytes; None if unknown.
        sha256: Expected SHA-256 in hex; None if unknown. A file with another checksum is removed.
        git_oid: Expected Git object id (SHA-1 of the blob, in hex), which is treated in the same way.
        headers: Further HTTP header fields, for example for authorisation.
        name: Name of the file in messages; None takes the name of `path`.

    Returns:
        `path`.

    Raises:
        GenGeoError: The server refuses or does not respond, the disk is full, or size or checksum differ.
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
    """Fetch the missing bytes of a file; after a broken connection, continue from the last byte."""
    from huggingface_hub.file_download import http_get

    with partial.open("ab") as file:
        try:
            # Byte ranges of compressed content differ from those of the file, so compression is disabled.
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
    """Problem with the content of a file, as text.

    Args:
        path: Path of the file.
        name: Name of the file in the text.
        sha256: Expected SHA-256 in hex.
        git_oid: Expected Git object id in hex, used without `sha256`.

    Returns:
        None if the checksum matches or, without a checksum, if the file is not a web page or a Git LFS pointer.
    """
    found, expected = "", ""
    if sha256 is not None:
        found, expected = sha256_of(path), sha256
    elif git_oid is not None:
        found, expected = _git_oid(path), git_oid
    if found != expected:
        return _unexpected(path, name) or f"{name} has the checksum {found[:12]}, expected {expected[:12]}"
    return None if expected else _unexpected(path, name)


def _git_oid(path: Path) -> str:
    """Git object id of a file, as printed by `git hash-object`."""
    digest = hashlib.sha1(f"blob {path.stat().st_size}\0".encode(), usedforsecurity=False)
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _unexpected(path: Path, name: str) -> str | None:
    """Problem text if a file is a web page or a Git LFS pointer; None for any other content."""
    with path.open("rb") as file:
        head = file.read(512).lstrip().lower()
    if head.startswith((b"<!doctype html", b"<html")):
        return f"the server sent a web page instead of {name} (a login page, or a proxy that blocks it?)"
    if head.startswith(b"version https://git-lfs"):
        return f"the server sent a Git LFS pointer instead of {name}"
    return None


def check_space(folder: str | Path, needed: int) -> None:
    """Check that a disk has enough free space.

    Args:
        folder: Directory to which files will be written; it need not exist.
        needed: Number of bytes.

    Raises:
        GenGeoError: Less space is free.
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
    """Format a number of bytes in GB or MB."""
    return f"{count / 1e9:.2f} GB" if count >= 1e8 else f"{count / 1e6:.1f} MB"
