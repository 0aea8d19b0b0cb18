"""Builds an index from imagery; an interrupted build resumes from its finished shards (work.py)."""

import os
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.compute as pc

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, real_path
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.imagery.tile_content import REASONS
from gengeo_hf.imagery.tiles import TileSource
from gengeo_hf.index.adapt import with_adaptation
from gengeo_hf.index.contents import MOST_SOURCES
from gengeo_hf.index.edit import LISTED, NO_DATA, Edit, check_output, editing
from gengeo_hf.index.encode import encode_units
from gengeo_hf.index.fusion import check_fusion
from gengeo_hf.index.manifest import (
    Build,
    Manifest,
    Model,
    Shard,
    Source,
    has_manifest,
    new_manifest,
    read_manifest,
    write_manifest,
)
from gengeo_hf.index.segment import LEFT_OUT_SCHEMA, NewRows, write_segment
from gengeo_hf.index.version import Version, is_in
from gengeo_hf.index.work import Work, read_descriptors, read_jpegs, read_states

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset


@dataclass
class BuildReport:
    """Result of a build.

    Args:
        source: Name of the imagery.
        tiles: Number of tiles in the index.
        no_data: Number of tiles without any data, which are left out.
        partly_empty: Number of tiles in the index with some pixels without data.
        broken: Reasons of the first ten tiles that could not be used; all are in `GeoIndex.left_out`.
        broken_count: Number of tiles that could not be used.
        by_content: Number of these tiles without usable content, by reason (see `gengeo_hf.imagery.tile_content`).
        seconds: Duration of encoding in this run, without shards of earlier runs.
        tiles_per_second: Encoded tiles per second in this run; 0 if all shards were there.
        was_complete: Whether the same command had already built the index.
        kept_work: Directories with unfinished work of other commands with the same output.
    """

    source: str
    tiles: int = 0
    no_data: int = 0
    partly_empty: int = 0
    broken: list[str] = field(default_factory=list)
    broken_count: int = 0
    by_content: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    tiles_per_second: float = 0.0
    was_complete: bool = False
    kept_work: list[Path] = field(default_factory=list)

    def __str__(self) -> str:
        if self.was_complete:
            again = "--overwrite makes it again" + (", --add tries unreadable tiles again" if self.broken_count else "")
            return f"the index is complete: {self.tiles:,} tiles of {self.source}; nothing to do ({again})"
        speed = f" ({self.tiles_per_second:.1f} tiles/s)" if self.tiles_per_second else ""
        lines = [f"{self.tiles:,} tiles of {self.source} in {self.seconds:.1f} s{speed}"]
        if self.no_data:
            lines.append(f"{self.no_data:,} tiles left out: no data")
        if self.partly_empty:
            lines.append(f"{self.partly_empty:,} tiles partly without data")
        lines += [f"{count:,} tiles left out: {reason}" for reason, count in self.by_content.items()]
        if unreadable := self.broken_count - sum(self.by_content.values()):
            first = next((f", first: {reason}" for reason in self.broken if reason not in REASONS), "")
            lines.append(f"{unreadable:,} tiles left out: unreadable{first}")
        if self.kept_work:
            lines.append(f"unfinished work of another command is kept in {self.kept_work[0]}")
        return "; ".join(lines)


def build_index(
    encoder: EncoderProtocol,
    imagery: "TileSource | CrossViewDataset",
    path: str | Path,
    *,
    model_name: str = "",
    thumbnail_pixels: int = 128,
    readers: int = 2,
    progress: bool = False,
    overwrite: bool = False,
    add: bool = False,
    shard: tuple[int, int] | None = None,
    fusion: str = "mean",
) -> BuildReport:
    """Encode every tile and write the index.

    Args:
        encoder: Encoder with the members of `EncoderProtocol`.
        imagery: `TileSource`, or a data set whose gallery is indexed.
        path: Directory of the index.
        model_name: Name of the model for messages; only the last part of a local path is stored.
        thumbnail_pixels: Side of thumbnails for maps in pixels (about 4 kB each at 128); 0 stores none.
        readers: Number of threads that read and crop tiles while the model runs.
        progress: Show a bar with tiles per second.
        overwrite: Replace an existing index.
        add: Add to an existing index; tiles with the same id are replaced.
        shard: Encode only one part: (zero-based index, number of parts); `merge_indexes` joins the parts.
        fusion: "mean" or "max": how scores are fused if the imagery has tiles of several ground sizes.

    Raises:
        GenGeoError: `path` holds something else, or an index without `overwrite` or `add`; no tile could be read; or
            the disk is full. Finished shards stay in `<path>.partial`, and the same call resumes from them.
    """
    path = real_path(path)
    check_fusion(fusion)
    source = _as_source(imagery)
    work = Work.of(path, encoder, source, thumbnail_pixels)
    present = read_manifest(path) if add else check_output(path, overwrite=True)
    if present is not None and not add and not overwrite:
        if report := finished_build(path, source.name, work.key, _shard_record(shard, work)):
            return report
        check_output(path)
    if add and present is not None and present.model.fingerprint != encoder.fingerprint:
        raise GenGeoError(f"{path} was made by another model; use that model, or index the imagery again")
    units = work.units(shard or (0, 1))
    try:
        work.begin()
        started = time.monotonic()
        options: dict[str, Any] = {"thumbnail_pixels": thumbnail_pixels, "readers": readers, "progress": progress}
        encoded = encode_units(encoder, source, work, units, **options)
        seconds = time.monotonic() - started
    except OSError as error:
        raise GenGeoError(f"the work could not be written to {work.folder}: {error.strerror or error}") from error
    with work.assembling() as is_ours:
        if not is_ours:  # another process has assembled the shards
            return BuildReport(source.name, tiles=read_manifest(path).tiles)
        report = BuildReport(source.name, seconds=seconds, tiles_per_second=encoded / max(seconds, 1e-9))
        job = _Assembly(path, work, source, encoder, model_name, thumbnail_pixels > 0, report, shard, fusion)
        try:
            job.write(None if add else present, add)
        except OSError as error:
            raise GenGeoError(f"the index could not be written to {path}: {error.strerror or error}") from error
        work.end()
        report.kept_work = work.others()
    return report


def finished_build(path: Path, name: str, key: str, shard: Shard | None = None) -> BuildReport | None:
    """Report of an index that the same command has already built.

    Args:
        path: Directory of the index.
        name: Name of the imagery.
        key: Key of the build, see `Work`.
        shard: Part of a divided build; None for a complete build.

    Returns:
        The report; None if there is no such index.
    """
    present = read_manifest(path) if has_manifest(path) else None
    if present is None or key not in present.work or present.shard != shard:
        return None
    reasons = present.left_out.reasons
    unreadable = sum(count for reason, count in reasons.items() if reason in LISTED)  # without rows that are not tiles
    no_data = reasons.get(NO_DATA, 0)
    return BuildReport(name, tiles=present.tiles, no_data=no_data, broken_count=unreadable, was_complete=True)


def _shard_record(shard: tuple[int, int] | None, work: Work) -> Shard | None:
    return Shard(*shard, work.key) if shard else None


def _as_source(imagery: Any) -> TileSource:
    """Convert a data set to a tile source."""
    if hasattr(imagery, "read") and hasattr(imagery, "table"):
        return imagery
    from gengeo_hf.imagery.dataset import DatasetTiles

    return DatasetTiles(imagery)


@dataclass
class _Assembly:
    """Assembles finished shards to a segment of an index."""

    path: Path
    work: Work
    source: TileSource
    encoder: EncoderProtocol
    model_name: str
    thumbnails: bool
    report: BuildReport
    shard: tuple[int, int] | None
    fusion: str

    def write(self, replaced: Manifest | None, add: bool) -> None:
        """Write a new index, or a new version of an existing index.

        Args:
            replaced: Manifest of the index that `overwrite` replaces, or None.
            add: Keep the existing tiles.
        """
        if add or replaced is not None:
            with editing(self.path) as edit:
                self._fill(edit, self._added if add else self._replaced)
            return
        if check_output(self.path, overwrite=True) is not None:
            raise GenGeoError(
                f"another process has created an index in {self.path}; finished shards are kept: run again with "
                "another --out, --add or --overwrite"
            )
        with atomic_folder(self.path) as folder:
            write_manifest(folder, self._manifest())
            self._fill(Edit(folder, Version(folder)), self._replaced)

    def _manifest(self) -> Manifest:
        encoder = self.encoder
        name = Path(self.model_name).name if Path(self.model_name).exists() else self.model_name
        model = Model(
            encoder.fingerprint,
            name,
            encoder.truncate_dim,  # photos are truncated as well
            encoder.computed_by,  # for display: any backend can search
        )
        return with_adaptation(new_manifest(int(encoder.dim), model, dict(encoder.preprocessing)), encoder)

    def _fill(self, edit: Edit, finish: Callable[[Edit, pa.Table], Manifest]) -> None:
        """Write the segment, then the manifest."""
        files = [self.work.file(unit) for unit in self.work.units(self.shard or (0, 1))]
        rows, broken, no_data, partly_empty = read_states(files)
        report = self.report
        report.partly_empty = partly_empty
        report.no_data, report.broken_count = no_data, len(broken)
        report.broken = sorted(broken.values(), key=lambda reason: reason in REASONS)[:10]  # unreadable tiles first
        report.by_content = dict(Counter(reason for reason in broken.values() if reason in REASONS))
        if not len(rows) and self.shard is None:  # a part of a divided build may be empty
            self.work.end()
            reason = f"first: {report.broken[0]}" if report.broken else "the imagery is empty"
            raise GenGeoError(f"none of the {self.work.tiles} tiles of {self.source.name} could be read; {reason}")
        table, root = without_local_paths(self.source.table)
        tiles = table.take(pa.array(rows))
        bad = table.take(pa.array(list(broken), pa.int64()))
        reasons = pa.array([reason.replace(root, "") if root else reason for reason in broken.values()], pa.string())
        left_out = bad.append_column("reason", reasons).cast(LEFT_OUT_SCHEMA)
        repeated = finish == self._added and self.work.key in edit.manifest.work  # already counted
        manifest = finish(edit, tiles)
        if not repeated:
            manifest = replace(manifest, partly_empty=manifest.partly_empty + partly_empty)
            self._count_left_out(edit, no_data)
        if len(getattr(self.source, "tile_sizes", ())) > 1:
            manifest = replace(manifest, fusion=manifest.fusion or check_fusion(self.fusion))
        edit.left_out = joined_left_out(edit.left_out, left_out, tiles)
        new = NewRows(tiles, read_descriptors(files, manifest.dim), read_jpegs(files) if self.thumbnails else None)
        if len(rows):
            edit.segments.append(write_segment(edit.path, new, manifest.dim))
        edit.tidy()
        report.tiles = sum(record.live for record in edit.segments)
        edit.commit(manifest)

    def _count_left_out(self, edit: Edit, no_data: int) -> None:
        """Count what is not listed one by one: tiles without data, and rows of a table that are not tiles."""
        counts = {NO_DATA: no_data}
        if self.shard is None or self.shard[0] == 0:  # each part of a divided build reads the whole table
            counts |= getattr(self.source, "left_out", {})
        for reason, count in counts.items():
            edit.reasons[reason] = edit.reasons.get(reason, 0) + count

    def _replaced(self, edit: Edit, tiles: pa.Table) -> Manifest:
        """Manifest of a new version without the earlier tiles."""
        edit.segments, edit.reasons, edit.left_out = [], {}, LEFT_OUT_SCHEMA.empty_table()
        manifest = replace(
            self._manifest(),
            sources=self._sources(tiles),
            work=[self.work.key],
            shard=_shard_record(self.shard, self.work),
            build=Build(self.report.seconds, self.report.tiles_per_second),
        )
        return manifest.with_event("built", source=self.source.name, tiles=tiles.num_rows)

    def _added(self, edit: Edit, tiles: pa.Table) -> Manifest:
        """Manifest of a new version with the earlier tiles, except those with the same ids."""
        ids = tiles["tile_id"]
        edit.remove(lambda table: is_in(table["tile_id"], ids))
        known = {source.name: source for source in edit.manifest.sources}
        known |= {source.name: source for source in self._sources(tiles)}
        manifest = replace(
            edit.manifest,
            sources=list(known.values()),
            work=[*edit.manifest.work, self.work.key],
            shard=None,
            build=Build(self.report.seconds, self.report.tiles_per_second),
        )
        return manifest.with_event("added", source=self.source.name, tiles=tiles.num_rows)

    def _sources(self, tiles: pa.Table) -> list[Source]:
        """Rights of the imagery for each of its files."""
        rights = getattr(self.source, "rights", None)
        stated = (
            {}
            if rights is None
            else {
                "attribution": rights.attribution,
                "licence": rights.licence,
                "acquired": rights.acquired,
                "address": rights.address,
            }
        )
        names = pc.unique(tiles["source"]).to_pylist()
        if len(names) > MOST_SOURCES:
            names = [self.source.name]
        dates = getattr(self.source, "acquired", {})  # dates of single files
        return [Source(name or "", **(stated | ({"acquired": dates[name]} if name in dates else {}))) for name in names]


def joined_left_out(earlier: pa.Table, newer: pa.Table, tiles: pa.Table) -> pa.Table:
    """Merge two tables of unreadable tiles: newer reasons replace earlier ones; tiles that were read are dropped.

    Args:
        earlier, newer: Tables of unreadable tiles, `LEFT_OUT_SCHEMA`.
        tiles: Tiles that could be read, `TILE_SCHEMA`.
    """
    kept = earlier
    for other in (newer, tiles):
        if len(kept):
            kept = kept.filter(pa.array(~is_in(kept["tile_id"], other["tile_id"])))
    newer = newer.filter(pa.array(~is_in(newer["tile_id"], tiles["tile_id"]))) if len(newer) else newer
    if len(kept) == len(earlier) and not len(newer):
        return earlier
    return pa.concat_tables([kept, newer])


def without_local_paths(table: pa.Table) -> tuple[pa.Table, str]:
    """Make the paths of sources relative to their common directory, so that no local paths are stored.

    Args:
        table: Table of tiles, `TILE_SCHEMA`.

    Returns:
        The table, and the common directory with a final separator; "" if no source is an absolute path.
    """
    names = [name for name in pc.unique(table["source"]).to_pylist() if name]
    local = [name for name in names if Path(name).is_absolute()]
    if not local:
        return table, ""
    root = os.path.commonpath([str(Path(name).parent) for name in local]) + os.sep
    column = table["source"].combine_chunks().dictionary_encode()
    if isinstance(column, pa.ChunkedArray):
        column = column.combine_chunks()
    shorter = [name.removeprefix(root) if name else name for name in column.dictionary.to_pylist()]
    decoded = pa.array(shorter, pa.string()).take(column.indices)
    position = table.schema.get_field_index("source")
    return table.set_column(position, table.schema.field("source"), decoded), root
