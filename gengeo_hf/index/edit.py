"""Edits an index: writes new files, then one new manifest. Only one process edits an index at a time.

If a process is killed, the old version stays complete; the next edit removes files that the manifest does not list.
"""

import contextlib
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import NEW, atomic_folder, match_modes, real_path, sha256_of, sync
from gengeo_hf.common.locks import exclusive
from gengeo_hf.imagery.tile_content import REASONS
from gengeo_hf.index.contents import contents_of, with_totals
from gengeo_hf.index.manifest import (
    MANIFEST,
    SEGMENT_NAME,
    LeftOut,
    Manifest,
    Model,
    Segment,
    Source,
    new_manifest,
    read_manifest,
    write_manifest,
)
from gengeo_hf.index.scan import KIND
from gengeo_hf.index.search import BLOCK, needs_scan
from gengeo_hf.index.segment import (
    LEFT_OUT_SCHEMA,
    NewRows,
    SegmentReader,
    add_scan,
    write_segment,
    write_tombstones,
)
from gengeo_hf.index.version import Version, is_in

LOCK = ".lock"
CARD = "README.md"  # added when an index is published on the Hub
MOST_SEGMENTS = 20  # an edit merges the smallest segments if there are more
MERGED_TILES = 20_000  # maximum tiles of such a merge, so that edits stay fast; `compact` merges larger segments
TOO_MANY_SEGMENTS = 64  # larger segments are merged as well if there are more
MOST_DEAD = 0.5  # a segment with a larger share of removed tiles is rewritten
NO_DATA, UNREADABLE = "no data", "unreadable"  # reasons for which tiles are left out
LISTED = frozenset({UNREADABLE, *REASONS})  # reasons whose tiles are listed one by one


class Edit:
    """An index that is being edited.

    Args:
        path: Directory of the index.
        version: Version before the edit.
    """

    def __init__(self, path: Path, version: Version) -> None:
        self.path, self.version = path, version
        self.segments = list(version.manifest.segments)
        self.left_out = version.left_out
        self.reasons = dict(version.manifest.left_out.reasons)

    @property
    def manifest(self) -> Manifest:
        """Manifest of the version before the edit."""
        return self.version.manifest

    def reader(self, record: Segment) -> SegmentReader:
        """Open segment of a record, with the tombstones of the record."""
        for segment in self.version.segments:
            if segment.record == record:
                return segment
        return SegmentReader(self.path, record, self.manifest.dim, searchable=False)

    def remove(self, mask: Callable[[pa.Table], np.ndarray]) -> int:
        """Mark tiles as removed.

        Args:
            mask: Function from a table of tiles to bool (rows,), True for tiles to remove.

        Returns:
            Number of tiles that were not removed before.
        """
        removed, kept = 0, []
        for record in self.segments:
            segment = self.reader(record)
            dead = mask(segment.tiles)
            if segment.dead is not None:
                dead = dead | segment.dead
            new = int(dead.sum()) - record.deleted
            removed += new
            if new and int(dead.sum()) < record.tiles:
                tombstones = write_tombstones(self.path, record, dead, self.manifest.version + 1)
                contents = contents_of(segment.tiles.filter(pa.array(~dead)))
                record = replace(record, tombstones=tombstones, contents=contents)
            elif new:
                continue  # all tiles are removed
            kept.append(record)
        self.segments = kept
        return removed

    def take(self, records: Sequence[Segment], source: Path) -> None:
        """Add segments of another index, as hard links to its files if the file system supports them.

        Args:
            records: Records of the segments in the other manifest.
            source: Directory of the other index.
        """
        for record in records:
            folder = self.path / record.name
            if folder.exists():
                raise GenGeoError(f"{source} and {self.path} hold the same segment {record.name}: one is a copy")
            folder.mkdir()
            for name in record.checked_files():
                link_or_copy(source / name, self.path / name)
            match_modes(folder, self.path)
            sync(folder)
            self.segments.append(record)

    def merge(self, records: Sequence[Segment]) -> None:
        """Merge some segments into a new one, without removed tiles."""
        readers = [self.reader(record) for record in records]
        names = {record.name for record in records}
        merged = write_segment(self.path, merged_rows(readers), self.manifest.dim)
        self.segments = [record for record in self.segments if record.name not in names] + [merged]

    def tidy(self) -> None:
        """Merge segments if there are too many or they have too many removed tiles; add the scans of a large index."""
        for record in [s for s in self.segments if s.deleted > MOST_DEAD * s.tiles]:
            self.merge([record])
        if len(self.segments) > MOST_SEGMENTS:
            by_size = sorted(self.segments, key=lambda record: record.live)
            tiles = np.cumsum([record.live for record in by_size])
            count = int((tiles <= MERGED_TILES).sum())
            if len(self.segments) > TOO_MANY_SEGMENTS:
                count = max(count, len(self.segments) - MOST_SEGMENTS // 2)
            if count > 1:
                self.merge(by_size[:count])
        self.add_scans()

    def add_scans(self) -> None:
        """Add compressed structures to the segments that need one; all share the quantiser of the largest segment."""
        total = sum(record.live for record in self.segments)
        for record in sorted(self.segments, key=lambda record: -record.tiles):
            if record.scan is None and needs_scan(record.tiles, total):
                scanned = add_scan(self.path, record, self._scan_like(record.tiles))
                self.segments[self.segments.index(record)] = scanned

    def _scan_like(self, tiles: int) -> Path | None:
        """Path of the compressed structure of the largest segment; None if all have fewer tiles than `tiles`."""
        scanned = [(record.tiles, record.name, record.scan) for record in self.segments if record.scan]
        known = [one for one in scanned if one[2].factory == KIND and one[0] >= tiles]
        if not known:
            return None
        _, name, scan = max(known, key=lambda one: one[0])
        return self.path / name / scan.files[0]

    def commit(self, manifest: Manifest) -> None:
        """Write the manifest of the new version, with the segments and unreadable tiles of this edit.

        Args:
            manifest: Other values of the new version.
        """
        version = self.manifest.version + 1
        left_out = self._write_left_out(version)
        new = replace(manifest, version=version, segments=self.segments, left_out=left_out)
        sync(self.path)
        write_manifest(self.path, with_totals(new))

    def _write_left_out(self, version: int) -> LeftOut:
        """Count left-out tiles by reason, and write the table of unreadable tiles if it has changed."""
        reasons = {reason: count for reason, count in self.reasons.items() if count and reason not in LISTED}
        for found in pc.value_counts(self.left_out["reason"]).to_pylist():
            reason = found["values"] if found["values"] in REASONS else UNREADABLE
            reasons[reason] = reasons.get(reason, 0) + found["counts"]
        if self.left_out is self.version.left_out:
            return replace(self.manifest.left_out, reasons=reasons)
        if not self.left_out.num_rows:
            return LeftOut(reasons)
        file = self.path / f"left_out-{version:06d}.parquet"
        pa.parquet.write_table(self.left_out.cast(LEFT_OUT_SCHEMA), file, compression="zstd")
        match_modes(file, self.path)
        sync(file)
        return LeftOut(reasons, file.name, file.stat().st_size, sha256_of(file))


def link_or_copy(source: Path, target: Path) -> None:
    """Create a hard link if the file system supports it, else a copy. Files of an index never change."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync(target)


@contextlib.contextmanager
def editing(path: str | Path, wait: bool = True) -> Iterator[Edit]:
    """Lock an index for an edit, and remove unlisted files of killed edits before and after it.

    Args:
        path: Directory of the index.
        wait: Wait for other edits; False raises an error instead.

    Yields:
        The edit, whose `commit` writes the new version.

    Raises:
        GenGeoError: Another process edits the index, or it cannot be read or written; the index is then unchanged.
    """
    path = real_path(path)
    read_manifest(path)  # before a lock file is created in a directory that is not an index
    with exclusive(path / LOCK, wait) as held:
        if not held:
            raise GenGeoError(f"another process is changing {path}; let it finish and try again")
        sweep(path)
        try:
            yield Edit(path, Version(path, verify=False, searchable=False))
        except OSError as error:
            raise GenGeoError(f"the index could not be written to {path}: {error.strerror or error}") from error
        finally:
            sweep(path)


def sweep(path: Path) -> None:
    """Remove segments, tombstones and tables of an index that its manifest does not list."""
    try:
        manifest = read_manifest(path)
    except GenGeoError:  # without a manifest it is unknown which files are unlisted
        return
    named = manifest.checked_files()
    segments = {segment.name for segment in manifest.segments}
    for child in path.iterdir():
        if child.is_dir() and SEGMENT_NAME.fullmatch(child.name):
            if child.name not in segments:
                shutil.rmtree(child, ignore_errors=True)
                continue
            for file in child.glob("deleted-*.npy"):
                if f"{child.name}/{file.name}" not in named:
                    file.unlink(missing_ok=True)
        elif child.match("left_out-*.parquet") and child.name not in named:
            child.unlink(missing_ok=True)


def merged_rows(segments: Sequence[SegmentReader]) -> NewRows:
    """Live rows of some segments, read in blocks."""
    blocks = [
        (s, rows[start : start + BLOCK])
        for s in segments
        for rows in [s.live_rows()]
        for start in range(0, len(rows), BLOCK)
    ]

    def thumbnails() -> Iterator[list[bytes]]:
        for segment, rows in blocks:
            for start in range(0, len(rows), 1024):
                part = rows[start : start + 1024].tolist()
                found = segment.thumbnails(part)
                yield [found.get(row, b"") for row in part]

    has_pictures = any("thumbnails.parquet" in segment.record.files for segment in segments)
    return NewRows(
        pa.concat_tables([segment.live_tiles() for segment in segments]),
        (segment.descriptors[rows] for segment, rows in blocks),
        thumbnails() if has_pictures else None,
    )


def compact(path: str | Path) -> tuple[int, int]:
    """Merge all segments of an index into one, and free the disk space of removed tiles.

    Args:
        path: Directory of the index.

    Returns:
        Number of segments before, and number of removed tiles; (1, 0) if there was nothing to do.

    Raises:
        GenGeoError: Another process edits the index, or the disk is full; the index is then unchanged.
    """
    with editing(path, wait=False) as edit:
        before, deleted = len(edit.segments), edit.manifest.deleted
        if before > 1 or deleted:
            edit.merge(edit.segments)
            edit.add_scans()
            edit.commit(edit.manifest.with_event("compacted", segments=before, removed=deleted))
    return before, deleted


def write_index(
    path: str | Path, rows: NewRows, dim: int, model: Model, sources: Sequence[Source] = (), overwrite: bool = False
) -> Manifest:
    """Write an index of existing descriptors.

    Args:
        path: Directory to write.
        rows: Tiles and their descriptors.
        dim: Number of values of a descriptor.
        model: Model of the descriptors.
        sources: Rights of the imagery; names as in the column `source` of the tiles.
        overwrite: Replace an existing index.

    Raises:
        GenGeoError: The directory holds something else, or an index without `overwrite`; or the disk is full.
    """
    check_output(path, overwrite, whole=True)
    try:
        with atomic_folder(path) as folder:
            write_manifest(folder, new_manifest(dim, model, {}))
            edit = Edit(folder, Version(folder))
            edit.segments.append(write_segment(folder, rows, dim))
            edit.add_scans()
            edit.commit(replace(edit.manifest.with_event("built", tiles=rows.tiles.num_rows), sources=list(sources)))
    except OSError as error:
        raise GenGeoError(f"the index could not be written to {path}: {error.strerror or error}") from error
    return read_manifest(path)


def check_output(path: str | Path, overwrite: bool = False, whole: bool = False) -> Manifest | None:
    """Check that an index may be written to a directory.

    Args:
        path: The directory.
        overwrite: Allow to replace an existing index.
        whole: Whether the whole directory will be replaced; it must then hold no other files.

    Returns:
        Manifest of the existing index; None for a new or empty directory.

    Raises:
        GenGeoError: `path` is a file, holds something other than an index, or holds an index without `overwrite`.
    """
    path = real_path(path)
    if not path.exists() or (path.is_dir() and not any(path.iterdir())):
        return None
    if not (path / MANIFEST).is_file():
        raise GenGeoError(f"{path} exists and holds something else: give the name of a new directory")
    try:
        manifest = read_manifest(path)
    except GenGeoError as error:
        raise GenGeoError(f"{path} exists and holds something else, or an index that cannot be read: {error}") from None
    if not overwrite:
        raise GenGeoError(
            f"{path} holds an index of {manifest.tiles:,} tiles: add --add to add to it, --overwrite to "
            "replace it, or give the name of a new directory"
        )
    if whole:
        ours = {*manifest.checked_files(), MANIFEST, CARD, ".gitattributes"}
        present = [child.relative_to(path) for child in path.rglob("*") if child.is_file()]
        if foreign := sorted(f.as_posix() for f in present if f.as_posix() not in ours and not _is_leftover(f)):
            raise GenGeoError(f"{path} also holds {foreign[0]}: move it away or choose another directory")
    return manifest


def _is_leftover(file: Path) -> bool:
    """Whether a file belongs to an edit that was killed or is in progress."""
    segment = len(file.parts) == 2 and SEGMENT_NAME.fullmatch(file.parts[0]) is not None
    return segment or file.match("left_out-*.parquet") or file.name.startswith(LOCK) or NEW in file.name


def tombstone_mask(
    tile_ids: Sequence[str], area: str | None, bounds: Any | None, source: str | None
) -> Callable[[pa.Table], np.ndarray]:
    """Return a function that selects the tiles to remove from a table; arguments as in `GeoIndex.remove`."""

    def mask(table: pa.Table) -> np.ndarray:
        chosen = is_in(table["tile_id"], tile_ids)
        for column, value in (("area", area), ("source", source)):
            if value is not None:
                chosen |= is_in(table[column], [value])
        if bounds is not None:
            lat, lon = (table[name].to_numpy() for name in ("lat", "lon"))
            east = (
                (lon >= bounds.west) | (lon <= bounds.east)
                if bounds.crosses_date_line
                else ((lon >= bounds.west) & (lon <= bounds.east))
            )
            chosen |= (lat >= bounds.south) & (lat <= bounds.north) & east
        return chosen

    return mask
