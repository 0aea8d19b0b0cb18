"""Changing an index: new files first, then one new manifest; one writer at a time, across processes.

Whoever is killed leaves the old version whole, and files that no manifest names; the next edit removes those.
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
from gengeo_hf.index.contents import contents_of, summed
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
CARD = "README.md"  # what the Hub adds when an index is published
MOST_SEGMENTS = 20  # of more, the edit that makes them merges the smallest
MERGED_TILES = 20_000  # at most, so that an edit stays cheap; larger segments wait for `compact`
TOO_MANY_SEGMENTS = 64  # of more, also larger ones are merged
MOST_DEAD = 0.5  # of a segment; with more it is written anew
NO_DATA, UNREADABLE = "no data", "unreadable"  # why tiles are left out
LISTED = frozenset({UNREADABLE, *REASONS})  # reasons whose tiles are listed one by one, and counted from that list


class Edit:
    """An index that is being changed.

    Args:
        path: Its directory.
        version: What is there.
    """

    def __init__(self, path: Path, version: Version) -> None:
        self.path, self.version = path, version
        self.segments = list(version.manifest.segments)
        self.left_out = version.left_out
        self.reasons = dict(version.manifest.left_out.reasons)

    @property
    def manifest(self) -> Manifest:
        """The version that is being changed."""
        return self.version.manifest

    def reader(self, record: Segment) -> SegmentReader:
        """The open segment of a record, with the tombstones that the record names."""
        for segment in self.version.segments:
            if segment.record == record:
                return segment
        return SegmentReader(self.path, record, self.manifest.dim, searchable=False)

    def remove(self, mask: Callable[[pa.Table], np.ndarray]) -> int:
        """Mark tiles as removed; the number of those that were not before.

        Args:
            mask: Gives bool (rows,) for a part of the tile table.
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
                continue  # nothing of it is left
            kept.append(record)
        self.segments = kept
        return removed

    def take(self, records: Sequence[Segment], source: Path) -> None:
        """Take segments of another index over, as links to its files where the disk can do that.

        Args:
            records: What the other manifest says of them.
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
        """Write the live tiles of some segments as one new one, without the removed ones."""
        readers = [self.reader(record) for record in records]
        names = {record.name for record in records}
        merged = write_segment(self.path, merged_rows(readers), self.manifest.dim)
        self.segments = [record for record in self.segments if record.name not in names] + [merged]

    def tidy(self) -> None:
        """Merge what has become too many or too empty, and add the scans that a large index needs."""
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
        """Give every segment the compressed structure that it needs; all share the quantiser of the largest."""
        total = sum(record.live for record in self.segments)
        for record in sorted(self.segments, key=lambda record: -record.tiles):
            if record.scan is None and needs_scan(record.tiles, total):
                made = add_scan(self.path, record, self._scan_like(record.tiles))
                self.segments[self.segments.index(record)] = made

    def _scan_like(self, tiles: int) -> Path | None:
        """The compressed structure of the largest segment; None where all are smaller than these tiles."""
        scanned = [(record.tiles, record.name, record.scan) for record in self.segments if record.scan]
        known = [one for one in scanned if one[2].factory == KIND and one[0] >= tiles]
        if not known:
            return None
        _, name, scan = max(known, key=lambda one: one[0])
        return self.path / name / scan.files[0]

    def commit(self, manifest: Manifest) -> None:
        """Make the segments, and what was left out, the current version.

        Args:
            manifest: The next version in all else.
        """
        version = self.manifest.version + 1
        left_out = self._write_left_out(version)
        new = replace(manifest, version=version, segments=self.segments, left_out=left_out)
        sync(self.path)
        write_manifest(self.path, summed(new))

    def _write_left_out(self, version: int) -> LeftOut:
        """Counts by reason, and the table of unreadable tiles, which is written only where it has changed."""
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
    """Give a file a second name where the disk can do that, and copy it otherwise. Files of an index never change."""
    target.unlink(missing_ok=True)
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)
        sync(target)


@contextlib.contextmanager
def editing(path: str | Path, wait: bool = True) -> Iterator[Edit]:
    """Hold the index's lock, and clear away what killed edits left, before and after.

    Args:
        path: The index's directory.
        wait: False refuses where another process changes the index.

    Raises:
        GenGeoError: Another process changes the index, or it cannot be read or written; it is then as before.
    """
    path = real_path(path)
    read_manifest(path)  # before a lock is laid into a directory that is not ours
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
    """Remove segments, tombstones and tables of an index that its manifest does not name."""
    try:
        manifest = read_manifest(path)
    except GenGeoError:  # nothing is removed by a guess
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
    """The live rows of some segments, a block at a time."""
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
    """Write all live tiles of an index as one segment and free the room of the removed ones.

    Args:
        path: The index's directory.

    Returns:
        Segments before and removed tiles whose room was freed; (1, 0) where there was nothing to do.

    Raises:
        GenGeoError: Another process changes the index, or the disk is full; it is then as before.
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
    """Write an index of descriptors that are there already.

    Args:
        path: Directory to write.
        rows: Tiles and their descriptors.
        dim: Length of a descriptor.
        model: What made them.
        sources: Rights of the imagery, by the names in the table of tiles.
        overwrite: Replace an index that is there.

    Raises:
        GenGeoError: The directory holds something else, or an index while `overwrite` is False, or the disk is full.
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
    """Whether an index may be written to a directory.

    Args:
        path: The directory.
        overwrite: The user has asked for an index there to be replaced.
        whole: The directory will be replaced, not only the files that the index names: it must hold nothing else.

    Returns:
        The manifest of the index that is there; None for a new or empty directory.

    Raises:
        GenGeoError: A file, or a directory that holds anything but an index, or an index while `overwrite` is False.
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
    """Whether a file of an index is what an edit wrote that was killed, or is writing."""
    segment = len(file.parts) == 2 and SEGMENT_NAME.fullmatch(file.parts[0]) is not None
    return segment or file.match("left_out-*.parquet") or file.name.startswith(LOCK) or NEW in file.name


def tombstone_mask(
    tile_ids: Sequence[str], area: str | None, bounds: Any | None, source: str | None
) -> Callable[[pa.Table], np.ndarray]:
    """Which tiles of a table a removal means; see `GeoIndex.remove`."""

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
