"""Unpacking of untrusted tar archives: only plain files in expected directories, written under temporary names first.

Archives are read sequentially, for example from a network stream, and in small pieces. A record of each archive (name,
size and CRC-32 of every member) later shows whether it is unpacked and which files are damaged.
"""

import tarfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any

import pyarrow as pa
import pyarrow.parquet as pq

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_file

PIECE = 1 << 20  # bytes
PARTIAL = ".partial"
BLOCK = 512  # bytes of a block of a tar archive
COMPLETE, NEXT = b"complete", b"next_offset"
SCHEMA = pa.schema([("name", pa.string()), ("size", pa.int64()), ("crc32", pa.int64())])


@dataclass(frozen=True)
class Unpacked:
    """Record of the files unpacked from an archive or from its beginning.

    Args:
        members: Name, number of bytes and CRC-32 of each file.
        next_offset: Byte offset of the next member in the archive.
        is_complete: Whether the archive was read to its end.
    """

    members: list[tuple[str, int, int]]
    next_offset: int = 0
    is_complete: bool = False

    def save(self, path: Path) -> None:
        """Write the record as a Parquet file."""
        columns = [list(column) for column in zip(*self.members, strict=True)] or [[], [], []]
        metadata = {COMPLETE: str(int(self.is_complete)).encode(), NEXT: str(self.next_offset).encode()}
        with atomic_file(path) as temporary:
            pq.write_table(pa.table(columns, schema=SCHEMA.with_metadata(metadata)), temporary)

    @classmethod
    def load(cls, path: Path) -> "Unpacked | None":
        """Read a record; None if it is missing or damaged, so that the archive must be unpacked again."""
        try:
            table = pq.read_table(path)
            metadata = table.schema.metadata
            rows = zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True)
            return cls(list(rows), int(metadata[NEXT]), metadata[COMPLETE] == b"1")
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None

    def damaged(self, folder: Path) -> Iterator[str]:
        """Yield the names of members whose files are missing or changed.

        Args:
            folder: Directory to which the archive was unpacked.
        """
        for name, size, crc in self.members:
            path = folder / name
            try:
                if path.stat().st_size != size or _crc_of(path) != crc:
                    yield name
            except OSError:
                yield name


def unpack(
    archive: IO[bytes],
    folder: Path,
    tops: Iterable[str],
    name: str,
    *,
    start: int = 0,
    most: int | None = None,
    progress: Callable[[Iterable[Any]], Iterable[Any]] = iter,
) -> Unpacked:
    """Unpack an archive from its current position.

    Args:
        archive: Uncompressed tar archive, read sequentially.
        folder: Directory to which members are written.
        tops: Allowed top-level directories of the archive, for example "streetview".
        name: Name of the archive in messages.
        start: Byte offset in the archive of the current position, at which a member begins.
        most: Maximum number of files to unpack; None unpacks all.
        progress: Wraps the iteration over members to show progress.

    Returns:
        Record of the unpacked files.

    Raises:
        GenGeoError: A member is not a plain file in an allowed directory, or the archive is damaged or truncated.
    """
    allowed, members, end = frozenset(tops), list[tuple[str, int, int]](), start
    counted: Any = _Counted(archive)
    try:
        with tarfile.open(fileobj=counted, mode="r|", bufsize=PIECE) as tar:
            for member in progress(tar):
                end = start + _end_of(member)
                target = _target(member, folder, allowed, name)
                if target is None:
                    continue
                content = tar.extractfile(member)
                assert content is not None  # `_target` accepts plain files only
                members.append((member.name, member.size, _write(content, target, member.size)))
                if most is not None and len(members) >= most:
                    return Unpacked(members, end)
            if not members and not start:
                raise GenGeoError(f"{name} holds no file: it is damaged, or not a tar archive")
            if counted.bytes < end - start + BLOCK:  # a block of zeros follows the last member
                raise tarfile.ReadError("unexpected end of data")
    except (tarfile.TarError, EOFError) as error:
        raise GenGeoError(f"{name} is damaged or ends early ({error}): fetch it again") from error
    return Unpacked(members, end, True)


class _Counted:
    """Stream that counts the bytes read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.bytes = stream, 0

    def read(self, count: int) -> bytes:
        """Read `count` bytes; fewer only at the end."""
        pieces = bytearray()
        while len(pieces) < count and (piece := self._stream.read(count - len(pieces))):
            pieces += piece
        self.bytes += len(pieces)
        return bytes(pieces)


def _end_of(member: tarfile.TarInfo) -> int:
    """Byte offset of the end of a member, in whole blocks, relative to the first byte that was read."""
    return member.offset_data + -(-member.size // BLOCK) * BLOCK


def _target(member: tarfile.TarInfo, folder: Path, tops: frozenset[str], name: str) -> Path | None:
    """Path to which a member is written; None for a directory."""
    parts = PurePosixPath(member.name.removeprefix("./")).parts
    is_unsafe = member.name.startswith("/") or "\\" in member.name or ":" in member.name or ".." in parts
    if is_unsafe or not parts or parts[0] not in tops or not (member.isdir() or member.isfile()):
        raise GenGeoError(
            f"{name} holds {member.name!r}, which is not a plain file under {' or '.join(sorted(tops))}: the archive "
            "has another layout; nothing was written outside"
        )
    return None if member.isdir() else folder.joinpath(*parts)


def _write(content: IO[bytes], target: Path, size: int) -> int:
    """Write one member under a temporary name, rename it, and return its CRC-32."""
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_name(target.name + PARTIAL)
    crc, left = 0, size
    with partial.open("wb") as file:
        while left and (piece := content.read(min(PIECE, left))):
            crc, left = zlib.crc32(piece, crc), left - len(piece)
            file.write(piece)
    if left:
        raise tarfile.ReadError("unexpected end of data")
    partial.replace(target)
    return crc


def _crc_of(path: Path) -> int:
    crc = 0
    with path.open("rb") as file:
        while piece := file.read(PIECE):
            crc = zlib.crc32(piece, crc)
    return crc
