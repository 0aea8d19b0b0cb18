"""From imagery to an index, in shards that survive an interruption (work.py)."""

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
    """What a build did.

    Args:
        source: Name of the imagery.
        tiles: Tiles now in the index.
        no_data: Tiles left out because the imagery is empty there.
        partly_empty: Tiles in the index of which some pixels hold no data.
        broken: The first ten tiles that could not be read, with the reason; all are in the index's `left_out`.
        broken_count: How many there were.
        by_content: Of these, how many show nothing that can be used, by reason (see `gengeo_hf.imagery.tile_content`).
        seconds: Of this run; resumed shards cost nothing.
        tiles_per_second: Encoded in this run; 0 where all was there.
        was_complete: The index was there already, made by the same command.
        kept_work: Folders with unfinished work of other commands with the same output.
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
            lines.append(f"{self.no_data:,} tiles left out: no data there")
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
        encoder: Has `encode`, `fingerprint`, `dim`.
        imagery: A `TileSource`, or a data set whose gallery is taken.
        path: Directory of the index.
        model_name: What an error about another model calls this one. Of a local path the last part is kept.
        thumbnail_pixels: Side of the small JPEGs for maps (about 4 kB each); 0 keeps none.
        readers: Threads that read and cut tiles while the model works.
        progress: Show a bar with tiles per second.
        overwrite: Replace an index that is there.
        add: Add to the index that is there; tiles whose id it has are replaced.
        shard: Encode only this part (number from 0, how many); `merge_indexes` joins the parts.
        fusion: How the scores of a cell are fused where the imagery has tiles of several ground sizes, "mean" or "max".

    Raises:
        GenGeoError: `path` holds something else, or an index while neither `overwrite` nor `add` is given; no tile
            could be read; the disk is full. Finished shards stay in `<path>.partial`; the same call continues there.
    """
    path = real_path(path)
    check_fusion(fusion)
    source = _as_source(imagery)
    work = Work.of(path, encoder, source, thumbnail_pixels)
    present = read_manifest(path) if add else check_output(path, overwrite=True)
    if present is not None and not add and not overwrite:
        if done := finished_build(path, source.name, work.key, _shard_record(shard, work)):
            return done
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
    with work.assembling() as ours:
        if not ours:  # another process that shared the work has put it together
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
    """The report about an index that the same command made before; None where there is none.

    Args:
        path: Directory of the index.
        name: Of the imagery.
        key: See `Work.key`.
        shard: Which part of a divided build it is, None for a whole one.
    """
    present = read_manifest(path) if has_manifest(path) else None
    if present is None or key not in present.work or present.shard != shard:
        return None
    reasons = present.left_out.reasons
    unreadable = sum(count for reason, count in reasons.items() if reason in LISTED)  # not rows that are no tile
    no_data = reasons.get(NO_DATA, 0)
    return BuildReport(name, tiles=present.tiles, no_data=no_data, broken_count=unreadable, was_complete=True)


def _shard_record(shard: tuple[int, int] | None, work: Work) -> Shard | None:
    return Shard(*shard, work.key) if shard else None


def _as_source(imagery: Any) -> TileSource:
    """A data set becomes a source; a source stays one."""
    if hasattr(imagery, "read") and hasattr(imagery, "table"):
        return imagery
    from gengeo_hf.imagery.dataset import DatasetTiles

    return DatasetTiles(imagery)


@dataclass
class _Assembly:
    """Finished shards that become a segment of an index."""

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
        """Write a new index, or a new version of the one that is there.

        Args:
            replaced: The index that `overwrite` replaces, or None.
            add: Keep what is there.
        """
        if add or replaced is not None:
            with editing(self.path) as edit:
                self._fill(edit, self._added if add else self._replaced)
            return
        if check_output(self.path, overwrite=True) is not None:
            raise GenGeoError(
                f"another process made an index in {self.path} meanwhile; the work is kept: give another --out, --add "
                "or --overwrite, and it is not done again"
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
            encoder.truncate_dim,  # photos are then shortened alike
            encoder.computed_by,  # for people: any backend may ask
        )
        return with_adaptation(new_manifest(int(encoder.dim), model, dict(encoder.preprocessing)), encoder)

    def _fill(self, edit: Edit, finish: Callable[[Edit, pa.Table], Manifest]) -> None:
        """Write the segment, then the manifest."""
        files = [self.work.file(unit) for unit in self.work.units(self.shard or (0, 1))]
        rows, broken, no_data, partly_empty = read_states(files)
        report = self.report
        report.partly_empty = partly_empty
        report.no_data, report.broken_count = no_data, len(broken)
        report.broken = sorted(broken.values(), key=lambda reason: reason in REASONS)[:10]  # the unreadable ones first
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
        repeated = finish == self._added and self.work.key in edit.manifest.work  # counted before
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
        """Count what is listed nowhere: tiles without data, and rows of a table that are no tile."""
        counts = {NO_DATA: no_data}
        if self.shard is None or self.shard[0] == 0:  # each part of a divided build reads the whole table
            counts |= getattr(self.source, "left_out", {})
        for reason, count in counts.items():
            edit.reasons[reason] = edit.reasons.get(reason, 0) + count

    def _replaced(self, edit: Edit, tiles: pa.Table) -> Manifest:
        """Nothing of the earlier version stays."""
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
        """Tiles of the same id are replaced."""
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
        """The rights of the imagery, under the name of each of its files."""
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
        dates = getattr(self.source, "acquired", {})  # of single files, where they state one
        return [Source(name or "", **(stated | ({"acquired": dates[name]} if name in dates else {}))) for name in names]


def joined_left_out(earlier: pa.Table, newer: pa.Table, tiles: pa.Table) -> pa.Table:
    """What is unreadable: the newer word counts, and what could be read by now is not listed.

    Args:
        earlier, newer: `LEFT_OUT_SCHEMA`.
        tiles: `TILE_SCHEMA`, tiles that could be read.
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
    """A tile table whose sources are named below their common directory: paths of this machine are not stored.

    Args:
        table: `TILE_SCHEMA`.

    Returns:
        The table, and the directory with a final separator; "" where no source is an absolute path.
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
