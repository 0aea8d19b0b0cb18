"""An open version of an index, whose segments do not change. A search uses one version from start to end."""

import functools
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import put_back, real_path
from gengeo_hf.imagery.tiles import TILE_SCHEMA
from gengeo_hf.index.fusion import CellSearch
from gengeo_hf.index.manifest import MANIFEST, Source, has_manifest, read_manifest
from gengeo_hf.index.search import BLOCK, Searcher
from gengeo_hf.index.segment import LEFT_OUT_SCHEMA, SegmentReader, check_files, read_left_out


class Version:
    """Open segments of one manifest.

    Args:
        path: Directory of the index.
        verify: Compare the SHA-256 of every file; False compares only sizes.
        searchable: Also read the compressed structures.

    Raises:
        GenGeoError: The directory is not an index, is damaged, or has another format version.
    """

    def __init__(self, path: Path, verify: bool = True, searchable: bool = True) -> None:
        self.path = path
        self.manifest = read_manifest(path)
        check_files(path, self.manifest.checked_files(), checksums=verify)
        dim = self.manifest.dim
        self.segments = [SegmentReader(path, record, dim, searchable) for record in self.manifest.segments]
        left_out = self.manifest.left_out.file
        self.left_out: pa.Table = read_left_out(path / left_out) if left_out else LEFT_OUT_SCHEMA.empty_table()
        sizes = [segment.record.tiles for segment in self.segments]
        self.bases = np.concatenate([[0], np.cumsum(sizes)]).astype(np.int64)
        self.searcher = Searcher([segment.part() for segment in self.segments])
        self._sources = {source.name: source for source in self.manifest.sources}
        stated = {(s.attribution, s.licence, s.acquired) for s in self.manifest.sources}
        self._common = replace(self.manifest.sources[0], name="", tiles=0) if len(stated) == 1 else Source("")

    def source_of(self, name: str) -> Source:
        """Rights of a source by name; if it is not listed, those that all sources have in common."""
        return self._sources.get(name, self._common)

    @functools.cached_property
    def cells(self) -> CellSearch | None:
        """Fused search of cells with tiles of several ground sizes; None for an index with one size."""
        return CellSearch(self, self.manifest.fusion) if self.manifest.fusion else None

    def search(self, queries: np.ndarray, k: int, area: Area | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the best tiles: scores and rows, counted through all segments; see `Searcher.search`.

        Args:
            queries: float32 (queries, dim), unit length.
            k: Number of tiles for each query.
            area: Area in which the centres of tiles must lie; they are scored exactly. None searches all tiles.
        """
        if area is None:
            return self.searcher.search(queries, k)
        runs = [
            (int(base) + first, int(base) + last, mask)
            for segment, base in zip(self.segments, self.bases[:-1], strict=True)
            for first, last, mask in segment.runs_in(area)
        ]
        return self.searcher.search_runs(queries, runs, k)

    def locate(self, row: int) -> tuple[SegmentReader, int]:
        """Segment of a row, and the row in this segment."""
        number = int(np.searchsorted(self.bases, row, side="right")) - 1
        return self.segments[number], row - int(self.bases[number])

    def tiles(self) -> pa.Table:
        """Table of all live tiles, `TILE_SCHEMA`."""
        return pa.concat_tables([TILE_SCHEMA.empty_table(), *(segment.live_tiles() for segment in self.segments)])

    def descriptor_blocks(self) -> Iterator[np.ndarray]:
        """Yield descriptors of all live tiles in the order of `tiles`, float16 (at most `BLOCK`, dim)."""
        for segment in self.segments:
            rows = segment.live_rows()
            for start in range(0, len(rows), BLOCK):
                yield segment.descriptors[rows[start : start + BLOCK]]

    def descriptors(self) -> np.ndarray:
        """Descriptors of all live tiles: memory-mapped if there is one segment without removed tiles, else a copy."""
        if len(self.segments) == 1 and self.segments[0].dead is None:
            return self.segments[0].descriptors
        return np.concatenate([np.empty((0, self.manifest.dim), np.float16), *self.descriptor_blocks()])

    def thumbnails(self, tile_ids: Sequence[str]) -> dict[str, bytes]:
        """JPEGs of live tiles by id, as far as the index has them."""
        found: dict[str, bytes] = {}
        for segment in self.segments:
            mask = is_in(segment.tiles["tile_id"], tile_ids)
            if segment.dead is not None:
                mask &= ~segment.dead
            for row, jpeg in segment.thumbnails(np.flatnonzero(mask).tolist()).items():
                found[segment.tiles["tile_id"][row].as_py()] = jpeg
        return found


def is_in(column: pa.ChunkedArray, ids: Sequence[str] | pa.ChunkedArray) -> np.ndarray:
    """Whether each value of a text column occurs in a list or another column: bool (rows,)."""
    wanted = ids.combine_chunks() if isinstance(ids, pa.ChunkedArray) else pa.array(list(ids), pa.string())
    return np.array(pc.is_in(column, wanted).to_numpy(), dtype=bool)


def open_version(path: str | Path, verify: bool = True) -> Version:
    """Open an index; repeats if another process writes a new version at the same time, so that versions never mix.

    Args:
        path: Directory of the index.
        verify: As in `Version`.

    Raises:
        GenGeoError: As `Version`.
    """
    path = Path(path)
    if not has_manifest(path):  # some file systems cannot exchange directories atomically
        put_back(path)
    while True:
        before = _manifest_state(path)
        try:
            opened = Version(path, verify)
            if _manifest_state(path) == before:
                return opened
        except (GenGeoError, OSError) as error:
            if _manifest_state(path) == before:
                if isinstance(error, GenGeoError):
                    raise
                raise GenGeoError(f"{path} cannot be read: {error}") from error
        time.sleep(0.01)


def _manifest_state(path: Path) -> tuple[int, int] | None:
    """Inode and modification time of the manifest, which change with every version."""
    try:
        found = (real_path(path) / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
