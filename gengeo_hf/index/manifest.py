"""Manifest of an index: fields, reading and writing.

    index/manifest.json                    lists all files below with their SHA-256; written last
    index/segment-<id>/descriptors.npy     float16 (tiles, dim), memory-mapped
    index/segment-<id>/tiles.arrow         one row for each descriptor (`SEGMENT_SCHEMA`), memory-mapped
    index/segment-<id>/blocks.npy          bounding sphere of each 256 rows: centre and radius on the unit sphere
    index/segment-<id>/scan-<n>.faiss      compressed search structure of large segments
    index/segment-<id>/thumbnails.parquet  small JPEGs for maps
    index/segment-<id>/deleted-<v>.npy     tombstones: one bit for each row, 1 for a removed tile
    index/left_out-<v>.parquet             tiles that could not be read, with the reason

Files are written once and never changed. An edit adds files and replaces the manifest atomically; the next edit removes
files that the manifest does not list.
"""

import hashlib
import re
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import real_path, write_json
from gengeo_hf.common.manifest import read_manifest as read_strictly

FORMAT, FORMAT_VERSION = "gengeo-index", 2
MANIFEST = "manifest.json"
DESCRIPTORS, TILES, BLOCKS, THUMBNAILS = "descriptors.npy", "tiles.arrow", "blocks.npy", "thumbnails.parquet"
SEGMENT_NAME = re.compile(r"segment-[0-9a-f]{12}")
_FILE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.-]*")
MOST_DIMENSIONS = 1_000_000  # maximum of `dim`; DINOv2-SALAD has 8,448
EVENTS = 20  # stored events of the history, in addition to the first
REMEDY = "copy the index again or make it again"


def _check(condition: bool, message: str) -> None:
    if not condition:
        raise ValueError(message)


@dataclass(frozen=True)
class FileRecord:
    """Size and SHA-256 of a file."""

    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _check(self.bytes >= 0, f"bytes is {self.bytes}")
        _check(re.fullmatch("[0-9a-f]{64}", self.sha256) is not None, "sha256 needs 64 hexadecimal digits")


@dataclass(frozen=True)
class Scan:
    """Compressed search structure of a segment, and its measured recall against exact search.

    Args:
        factory: Kind of the structure.
        files: Files of the structure in the segment, in the order of the rows.
        depth: Number of tiles that are scored exactly for ten requested tiles.
        samples: Number of synthetic queries of the measurement.
        recall_at_1, recall_at_10: Share of the exact result that was found.
    """

    factory: str
    files: list[str]
    depth: int
    samples: int
    recall_at_1: float
    recall_at_10: float

    def __post_init__(self) -> None:
        _check(self.depth > 0 and bool(self.files), f"{len(self.files)} files, depth {self.depth}")


@dataclass(frozen=True)
class Tombstones:
    """File that marks the removed rows of a segment."""

    file: str
    count: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _check(_FILE_NAME.fullmatch(self.file) is not None, f"{self.file!r:.60} is not a file name")
        _check(self.count > 0, f"{self.count} removed tiles")
        self.record()

    def record(self) -> FileRecord:
        """Record of the file; a ValueError says what is invalid."""
        return FileRecord(self.bytes, self.sha256)


@dataclass(frozen=True)
class TileSize:
    """Number of tiles with a size on the ground, in metres."""

    width_m: float
    height_m: float
    tiles: int


@dataclass(frozen=True)
class Contents:
    """Summary of the live tiles of a segment.

    Args:
        bounds: West, south, east, north in degrees; west > east across the date line.
        tile_sizes: Most frequent sizes.
        sources: Number of tiles by name of the source.
    """

    bounds: list[float]
    tile_sizes: list[TileSize] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(len(self.bounds) == 4, "bounds needs four numbers")


@dataclass(frozen=True)
class Segment:
    """A part of an index: files that were written together and never change."""

    name: str
    tiles: int
    files: dict[str, FileRecord]
    contents: Contents
    scan: Scan | None = None
    tombstones: Tombstones | None = None

    def __post_init__(self) -> None:
        _check(SEGMENT_NAME.fullmatch(self.name) is not None, f"{self.name!r:.60} is not the name of a segment")
        for name in self.files:
            _check(_FILE_NAME.fullmatch(name) is not None, f"{name!r:.60} is not a file name")
        needed = {DESCRIPTORS, TILES, BLOCKS, *(self.scan.files if self.scan else ())}
        if missing := sorted(needed - self.files.keys()):
            raise ValueError(f"files lacks {missing[0]}")
        _check(self.tiles > self.deleted, f"{self.tiles} tiles, {self.deleted} of them removed")

    @property
    def deleted(self) -> int:
        """Number of removed rows."""
        return self.tombstones.count if self.tombstones else 0

    @property
    def live(self) -> int:
        """Number of rows that are not removed."""
        return self.tiles - self.deleted

    def checked_files(self) -> dict[str, FileRecord]:
        """Records of all files, by their path in the index."""
        found = {f"{self.name}/{name}": record for name, record in self.files.items()}
        if self.tombstones:
            found[f"{self.name}/{self.tombstones.file}"] = self.tombstones.record()
        return found


@dataclass(frozen=True)
class Model:
    """The model of the descriptors.

    Args:
        fingerprint: SHA-256 of weights and preprocessing, which is compared with that of an encoder.
        name: Name for display.
        truncate_dim: Number of values to which descriptors were truncated; None if they were not.
        computed_by: Backend and precision, for display.
        centering: "gallery" or "photos" if `Manifest.means` were subtracted; None if not.
        flip: Whether descriptors include those of the mirror images.
    """

    fingerprint: str
    name: str = ""
    truncate_dim: int | None = None
    computed_by: str = ""
    centering: str | None = None
    flip: bool = False


@dataclass(frozen=True)
class Source:
    """A source of tiles, with the rights of its imagery."""

    name: str
    tiles: int = 0
    attribution: str = ""
    licence: str = ""
    acquired: str = ""
    address: str = ""


@dataclass(frozen=True)
class LeftOut:
    """Tiles of the imagery that are not in the index.

    Args:
        reasons: Number of tiles by reason.
        file: Table of the tiles that could not be read; "" if there is none.
        bytes, sha256: Size and SHA-256 of the file.
    """

    reasons: dict[str, int] = field(default_factory=dict)
    file: str = ""
    bytes: int = 0
    sha256: str = ""

    def __post_init__(self) -> None:
        _check(not self.file or _FILE_NAME.fullmatch(self.file) is not None, f"{self.file!r:.60} is not a file name")
        self.record()

    def record(self) -> FileRecord | None:
        """Record of the file, None if there is none; a ValueError says what is invalid."""
        return FileRecord(self.bytes, self.sha256) if self.file else None


@dataclass(frozen=True)
class Shard:
    """Part of a divided build: zero-based `number` of `count` parts of the build with the key `work`."""

    number: int
    count: int
    work: str

    def __post_init__(self) -> None:
        _check(0 <= self.number < self.count, f"shard {self.number} of {self.count}")


@dataclass(frozen=True)
class Means:
    """Mean descriptors of each view, which are subtracted from descriptors (centring).

    Args:
        ground, aerial: Mean descriptors of length `dim`.
        images: Number of images of the ground mean.
    """

    ground: list[float]
    aerial: list[float]
    images: int = 0


@dataclass(frozen=True)
class PoseFeatures:
    """Features for the position inside a tile, which segments may hold in a separate file.

    Args:
        file: Name of the file in each segment.
        fingerprint: Fingerprint of the model.
        shape: Shape of the features of one tile.
        dtype: Type of the values, for example "float16".
    """

    file: str
    fingerprint: str
    shape: list[int]
    dtype: str = "float16"


@dataclass(frozen=True)
class Build:
    """Duration and speed of the last build."""

    seconds: float = 0.0
    tiles_per_second: float = 0.0


@dataclass(frozen=True)
class Event:
    """An entry of the history."""

    when: str
    what: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """Manifest of an index. `docs/tasks/index_city.md` explains the fields.

    Args:
        version: Number of edits.
        work: Keys of the builds that are complete in this index; the same command has nothing to do.
        bounds: West, south, east, north of all tiles in degrees; west > east across the date line.
        fusion: "mean" or "max": how the scores of tiles of several ground sizes with one centre are fused; "" if there
            is one size.
        partly_empty: Number of tiles with some pixels without data.
    """

    format: str
    format_version: int
    dim: int
    model: Model
    segments: list[Segment]
    version: int = 1
    created_by: str = ""
    created: str = ""
    changed: str = ""
    preprocessing: dict[str, Any] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    left_out: LeftOut = field(default_factory=LeftOut)
    bounds: list[float] | None = None
    tile_sizes: list[TileSize] = field(default_factory=list)
    build: Build = field(default_factory=Build)
    work: list[str] = field(default_factory=list)
    shard: Shard | None = None
    means: Means | None = None
    pose: PoseFeatures | None = None
    fusion: str = ""
    partly_empty: int = 0
    history: list[Event] = field(default_factory=list)

    def __post_init__(self) -> None:
        _check(0 < self.dim <= MOST_DIMENSIONS, f"dim is {self.dim}")
        names = [segment.name for segment in self.segments]
        _check(len(set(names)) == len(names), "a segment is listed twice")
        _check(self.bounds is None or len(self.bounds) == 4, "bounds needs four numbers")
        if self.means is not None:
            _check(len(self.means.ground) == len(self.means.aerial) == self.dim, f"means need {self.dim} values")

    @property
    def tiles(self) -> int:
        """Number of tiles that are not removed."""
        return sum(segment.live for segment in self.segments)

    @property
    def deleted(self) -> int:
        """Number of removed tiles that still take disk space; `gengeo compact` frees it."""
        return sum(segment.deleted for segment in self.segments)

    @property
    def content_id(self) -> str:
        """Twelve hexadecimal digits that identify the tiles and their descriptors."""
        parts = [(s.files[DESCRIPTORS].sha256, s.files[TILES].sha256, s.tombstones) for s in self.segments]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    def checked_files(self) -> dict[str, FileRecord]:
        """Records of all files, by their path in the index."""
        found = {name: record for segment in self.segments for name, record in segment.checked_files().items()}
        if record := self.left_out.record():
            found[self.left_out.file] = record
        return found

    def with_event(self, what: str, **details: Any) -> "Manifest":
        """Return the next version with a new event; of a long history the first and the last events are kept."""
        event = Event(now(), what, {key: value for key, value in details.items() if value not in (None, "", [])})
        history = [*self.history, event]
        history = history[:1] + history[1:][-EVENTS:]
        return replace(self, version=self.version + 1, changed=event.when, history=history)


def now() -> str:
    """Current time in UTC as ISO 8601 text."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_manifest(dim: int, model: Model, preprocessing: dict[str, Any]) -> Manifest:
    """Create the manifest of an index without tiles."""
    from gengeo_hf import __version__

    return Manifest(
        FORMAT,
        FORMAT_VERSION,
        dim,
        model,
        [],
        version=0,
        created_by=f"gengeo_hf {__version__}",
        created=now(),
        preprocessing=preprocessing,
    )


def has_manifest(path: str | Path) -> bool:
    """Whether a directory holds a file with the name of a manifest."""
    return (real_path(path) / MANIFEST).is_file()


def read_manifest(path: str | Path) -> Manifest:
    """Read and check a manifest, without the other files.

    Args:
        path: Directory of the index.

    Raises:
        GenGeoError: There is no index, or its manifest is damaged or has another format or version.
    """
    if not has_manifest(path):
        raise GenGeoError(
            f"there is no index at {path} (no {MANIFEST}); make one with: gengeo index IMAGERY --out {path}"
        )
    return read_strictly(Path(path) / MANIFEST, Manifest, FORMAT, FORMAT_VERSION, REMEDY)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write a manifest atomically, which makes its version the current one."""
    write_json(folder / MANIFEST, asdict(manifest))
