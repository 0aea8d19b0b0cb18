"""What the manifest of an index says, and how it is read and written.

    index/manifest.json                    names everything below with its SHA-256; written last
    index/segment-<id>/descriptors.npy     float16 (tiles, dim), memory-mapped
    index/segment-<id>/tiles.arrow         one row for each descriptor (`SEGMENT_SCHEMA`), memory-mapped
    index/segment-<id>/blocks.npy          where each 256 rows lie: centre and radius on the unit sphere
    index/segment-<id>/scan-<n>.faiss      compressed search structure of large segments
    index/segment-<id>/thumbnails.parquet  small JPEGs for maps
    index/segment-<id>/deleted-<v>.npy     tombstones: one bit for each row, 1 for a removed tile
    index/left_out-<v>.parquet             tiles that could not be read, and why

Files are written once and never changed. An edit adds files and replaces the manifest in one step; files that no
manifest names are removed by the next edit.
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
MOST_DIMENSIONS = 1_000_000  # of a descriptor; DINOv2-SALAD has 8,448
EVENTS = 20  # of the history that are kept, beside the first
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
    """The compressed search structure of a segment, and what it was measured to lose against exact search.

    Args:
        factory: What FAISS calls it.
        files: The segment's files that hold it, in the order of the rows.
        depth: Tiles that are scored a second time, exactly, for ten that are asked for.
        samples: Made-up queries of the measurement.
        recall_at_1, recall_at_10: Share of the exact answer that was found.
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
    """Which rows of a segment were removed."""

    file: str
    count: int
    bytes: int
    sha256: str

    def __post_init__(self) -> None:
        _check(_FILE_NAME.fullmatch(self.file) is not None, f"{self.file!r:.60} is not a file name")
        _check(self.count > 0, f"{self.count} removed tiles")


@dataclass(frozen=True)
class TileSize:
    """How many tiles have which size on the ground, in metres."""

    width_m: float
    height_m: float
    tiles: int


@dataclass(frozen=True)
class Contents:
    """What the live tiles of a segment are.

    Args:
        bounds: West, south, east, north in degrees; west > east across the date line.
        tile_sizes: The most frequent ones.
        sources: Tiles of each source, by its name.
    """

    bounds: list[float]
    tile_sizes: list[TileSize] = field(default_factory=list)
    sources: dict[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        _check(len(self.bounds) == 4, "bounds needs four numbers")


@dataclass(frozen=True)
class Segment:
    """One part of an index: files that were written together and never change."""

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
        """Rows that were removed."""
        return self.tombstones.count if self.tombstones else 0

    @property
    def live(self) -> int:
        """Rows that can be found."""
        return self.tiles - self.deleted

    def checked_files(self) -> dict[str, FileRecord]:
        """All files with their records, by their path inside the index."""
        found = {f"{self.name}/{name}": record for name, record in self.files.items()}
        if self.tombstones:
            record = FileRecord(self.tombstones.bytes, self.tombstones.sha256)
            found[f"{self.name}/{self.tombstones.file}"] = record
        return found


@dataclass(frozen=True)
class Model:
    """The model whose descriptors these are.

    Args:
        fingerprint: Hash of weights and preprocessing; what is compared.
        name: What a person calls it.
        truncate_dim: Length to which descriptors were shortened; None for whole ones.
        computed_by: Backend and precision, for people.
        centering: "gallery" or "photos" where `Manifest.means` were subtracted; None for plain descriptors.
        flip: Whether descriptors hold those of the mirror images too.
    """

    fingerprint: str
    name: str = ""
    truncate_dim: int | None = None
    computed_by: str = ""
    centering: str | None = None
    flip: bool = False


@dataclass(frozen=True)
class Source:
    """Imagery that tiles came from, and its rights."""

    name: str
    tiles: int = 0
    attribution: str = ""
    licence: str = ""
    acquired: str = ""
    address: str = ""


@dataclass(frozen=True)
class LeftOut:
    """Tiles of the imagery that are not in the index: how many for which reason, and where unreadable ones are listed.

    Args:
        reasons: Tiles for each reason.
        file: Table of those that could not be read; "" where there is none.
        bytes, sha256: Of the file.
    """

    reasons: dict[str, int] = field(default_factory=dict)
    file: str = ""
    bytes: int = 0
    sha256: str = ""

    def __post_init__(self) -> None:
        _check(not self.file or _FILE_NAME.fullmatch(self.file) is not None, f"{self.file!r:.60} is not a file name")


@dataclass(frozen=True)
class Shard:
    """Which part of a divided build this index is: part `number` of `count`, counted from 0, of the same `work`."""

    number: int
    count: int
    work: str

    def __post_init__(self) -> None:
        _check(0 <= self.number < self.count, f"shard {self.number} of {self.count}")


@dataclass(frozen=True)
class Means:
    """Means of descriptors of many images of each view, for centring: what is subtracted before the comparison.

    Args:
        ground, aerial: Of length `dim`.
        images: How many images they were taken over.
    """

    ground: list[float]
    aerial: list[float]
    images: int = 0


@dataclass(frozen=True)
class PoseFeatures:
    """Features for the position inside a tile, which segments may hold in a file of their own.

    Args:
        file: Name of that file in each segment.
        fingerprint: Of the model that made them.
        shape: Of the features of one tile.
        dtype: Of the values, for example "float16".
    """

    file: str
    fingerprint: str
    shape: list[int]
    dtype: str = "float16"


@dataclass(frozen=True)
class Build:
    """How the last build went."""

    seconds: float = 0.0
    tiles_per_second: float = 0.0


@dataclass(frozen=True)
class Event:
    """One entry of the history."""

    when: str
    what: str
    details: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """All that an index says of itself. `docs/tasks/index_city.md` lists the fields for people.

    Args:
        version: Counts the edits.
        work: Keys of the builds whose tiles are all here: the same command has nothing to do.
        bounds: West, south, east, north of all tiles in degrees; west > east across the date line.
        fusion: How the scores of a cell's tiles are fused where cells have tiles of several ground sizes, "mean" or
            "max"; "" where each tile stands for itself.
        partly_empty: Tiles that were built with some pixels without data.
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
        _check(len(set(names)) == len(names), "a segment is named twice")
        _check(self.bounds is None or len(self.bounds) == 4, "bounds needs four numbers")
        if self.means is not None:
            _check(len(self.means.ground) == len(self.means.aerial) == self.dim, f"means need {self.dim} values")

    @property
    def tiles(self) -> int:
        """Tiles that can be found."""
        return sum(segment.live for segment in self.segments)

    @property
    def deleted(self) -> int:
        """Removed tiles that still take room; `gengeo compact` frees it."""
        return sum(segment.deleted for segment in self.segments)

    @property
    def content_id(self) -> str:
        """Twelve letters that differ where the tiles or their descriptors differ."""
        parts = [(s.files[DESCRIPTORS].sha256, s.files[TILES].sha256, s.tombstones) for s in self.segments]
        return hashlib.sha256(repr(parts).encode()).hexdigest()[:12]

    def checked_files(self) -> dict[str, FileRecord]:
        """All files with their records, by their path inside the index."""
        found = {name: record for segment in self.segments for name, record in segment.checked_files().items()}
        if self.left_out.file:
            found[self.left_out.file] = FileRecord(self.left_out.bytes, self.left_out.sha256)
        return found

    def with_event(self, what: str, **details: Any) -> "Manifest":
        """The next version, with one more entry in the history; of a long one the first and the last are kept."""
        event = Event(now(), what, {key: value for key, value in details.items() if value not in (None, "", [])})
        history = [*self.history, event]
        if len(history) > EVENTS + 1:
            history = [history[0], *history[-EVENTS:]]
        return replace(self, version=self.version + 1, changed=event.when, history=history)


def now() -> str:
    """The time in UTC, as manifests write it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def new_manifest(dim: int, model: Model, preprocessing: dict[str, Any]) -> Manifest:
    """The manifest of an index without tiles."""
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
    """Whether a directory holds a manifest by name, ours or not."""
    return (real_path(path) / MANIFEST).is_file()


def read_manifest(path: str | Path) -> Manifest:
    """Read and check the manifest alone.

    Args:
        path: The index's directory.

    Raises:
        GenGeoError: There is no index, or its manifest is broken, of another format or of another version.
    """
    if not has_manifest(path):
        raise GenGeoError(
            f"there is no index at {path} (no {MANIFEST}); make one with: gengeo index IMAGERY --out {path}"
        )
    return read_strictly(Path(path) / MANIFEST, Manifest, FORMAT, FORMAT_VERSION, REMEDY)


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Make a version the current one, in one step."""
    write_json(folder / MANIFEST, asdict(manifest))
