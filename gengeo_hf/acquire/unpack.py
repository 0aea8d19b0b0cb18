"""Unpack untrusted tar archives: only plain files under expected directories, each written aside and renamed.

Archives are read in order, so that a pipe or a network will do, and one member at a time is in memory in pieces. A
record of each archive (name, bytes and CRC-32 of every member) says later that it is unpacked, and what is damaged.
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
BLOCK = 512  # bytes, of which a tar archive consists
COMPLETE, NEXT = b"complete", b"next_offset"
SCHEMA = pa.schema([("name", pa.string()), ("size", pa.int64()), ("crc32", pa.int64())])


@dataclass(frozen=True)
class Unpacked:
    """What an archive, or its beginning, gave.

    Args:
        members: Name, bytes and CRC-32 of each file.
        next_offset: Byte of the archive at which the next member begins.
        is_complete: Whether the archive was read to its end.
    """

    members: list[tuple[str, int, int]]
    next_offset: int = 0
    is_complete: bool = False

    def save(self, path: Path) -> None:
        """Write the record."""
        columns = [list(column) for column in zip(*self.members, strict=True)] or [[], [], []]
        about = {COMPLETE: str(int(self.is_complete)).encode(), NEXT: str(self.next_offset).encode()}
        with atomic_file(path) as temporary:
            pq.write_table(pa.table(columns, schema=SCHEMA.with_metadata(about)), temporary)

    @classmethod
    def load(cls, path: Path) -> "Unpacked | None":
        """Read a record; None where there is none, or it is damaged: the archive is then unpacked again."""
        try:
            table = pq.read_table(path)
            about = table.schema.metadata
            rows = zip(*(table[name].to_pylist() for name in SCHEMA.names), strict=True)
            return cls(list(rows), int(about[NEXT]), about[COMPLETE] == b"1")
        except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
            return None

    def damaged(self, folder: Path) -> Iterator[str]:
        """Names of members that are missing in a folder, or are not what was unpacked."""
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
        archive: Tar archive, not compressed; read in order.
        folder: Where members lie by their names.
        tops: Directories at the top of the archive that are allowed, for example "streetview".
        name: What messages call the archive.
        start: Byte of the archive at which reading begins, where a member begins.
        most: Files after which it stops; None reads all.
        progress: Shows how far it is.

    Raises:
        GenGeoError: A member would lie outside, or is not a plain file; or the archive is damaged or ends early.
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
                assert content is not None  # of a plain file
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
    """A stream that knows how many bytes were read from it."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream, self.bytes = stream, 0

    def read(self, count: int) -> bytes:
        """The next bytes, fewer at the end only."""
        pieces = bytearray()
        while len(pieces) < count and (piece := self._stream.read(count - len(pieces))):
            pieces += piece
        self.bytes += len(pieces)
        return bytes(pieces)


def _end_of(member: tarfile.TarInfo) -> int:
    """Byte after a member, in whole blocks, from where reading began."""
    return member.offset_data + -(-member.size // BLOCK) * BLOCK


def _target(member: tarfile.TarInfo, folder: Path, tops: frozenset[str], name: str) -> Path | None:
    """Where a member goes; None for a directory."""
    parts = PurePosixPath(member.name.removeprefix("./")).parts
    is_odd = member.name.startswith("/") or "\\" in member.name or ":" in member.name or ".." in parts
    if is_odd or not parts or parts[0] not in tops or not (member.isdir() or member.isfile()):
        raise GenGeoError(
            f"{name} holds {member.name!r}, which is not a plain file under {' or '.join(sorted(tops))}: the archive "
            "is not what was expected; nothing outside was written"
        )
    return None if member.isdir() else folder.joinpath(*parts)


def _write(content: IO[bytes], target: Path, size: int) -> int:
    """Write one member aside, rename it, and give its CRC-32."""
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
