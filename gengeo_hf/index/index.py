"""The gallery that photos are compared with: built once, searched from any number of threads.

Before: imagery as a `TileSource` and an encoder. After: locate.py, which turns hits into places.
"""

import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, chord, to_unit_vectors
from gengeo_hf.common.locks import exclusive
from gengeo_hf.common.units import Near, check_near
from gengeo_hf.imagery.tiles import EncoderLike, TileSource, row_bounds
from gengeo_hf.index.build import build_index, happened
from gengeo_hf.index.folder import (
    MANIFEST,
    SEARCH,
    THUMBNAILS,
    check_files,
    check_place,
    open_descriptors,
    open_tiles,
    read_left_out,
    read_manifest,
    read_thumbnails,
    write_index,
)
from gengeo_hf.index.search import BLOCK, Searcher
from gengeo_hf.index.summary import summary

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset


@dataclass(frozen=True)
class Hit:
    """One tile that was found: where it is and how alike it is (cosine, -1 to 1)."""

    tile_id: str
    score: float
    lat: float
    lon: float
    bounds: Bounds | None
    area: str
    source: str


class _Snapshot:
    """The files of an index as they were at one moment. Searches use one from start to end."""

    def __init__(self, path: Path, verify: bool) -> None:
        self.manifest = read_manifest(path)
        check_files(path, self.manifest, checksums=verify)
        self.tiles: pa.Table = open_tiles(path, self.manifest)
        self.descriptors = open_descriptors(path, self.manifest)
        kind = str(self.manifest.get("search", {}).get("kind", "flat"))
        # A structure that the manifest does not know has no checksum, so it is made again instead of read.
        stored = path / SEARCH if SEARCH in self.manifest["files"] else None
        self.searcher = Searcher(kind, self.descriptors, stored)
        self.directions = to_unit_vectors(self.tiles["lat"].to_numpy(), self.tiles["lon"].to_numpy())

    def rows_near(self, near: Near) -> np.ndarray:
        """Rows whose centre lies within the radius, by the straight line through the Earth (no loss near zero)."""
        gaps = self.directions - to_unit_vectors(near.lat, near.lon)
        return np.flatnonzero(np.einsum("nd,nd->n", gaps, gaps) <= chord(near.radius_m) ** 2)


def _open(path: Path, verify: bool) -> _Snapshot:
    """Read an index, again if another process put a new one in its place meanwhile: old and new never mix."""
    while True:
        before = _stamp(path)
        try:
            snapshot = _Snapshot(path, verify)
            if _stamp(path) == before:
                return snapshot
        except (GenGeoError, OSError) as error:
            if _stamp(path) == before:
                raise (
                    error if isinstance(error, GenGeoError) else GenGeoError(f"{path} cannot be read: {error}")
                ) from error
        time.sleep(0.01)


def _stamp(path: Path) -> tuple[int, int] | None:
    """What changes when an index is replaced: number and time of its manifest."""
    try:
        found = (path / MANIFEST).stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns


class GeoIndex:
    """Descriptors of aerial tiles with their places, as a folder.

    Example:
        >>> index = GeoIndex.load("city.gengeo")
        >>> hits = index.search(descriptors, k=5, near=(60.17, 24.94, 2000))[0]
    """

    def __init__(self, path: Path, snapshot: _Snapshot) -> None:
        self.path = path
        self._snapshot = snapshot

    @classmethod
    def build(
        cls, encoder: EncoderLike, imagery: "TileSource | CrossViewDataset", path: str | Path, **options: Any
    ) -> "GeoIndex":
        """Encode imagery into a new index; an interrupted build goes on where it stopped.

        Args:
            encoder: the model that will also encode the photos.
            imagery: a `TileSource` (see `open_imagery`), or a `CrossViewDataset` whose gallery is taken.
            path: folder of the index; one that is there is replaced at the end.
            options: see `gengeo_hf.index.build.build_index`.

        Raises:
            GenGeoError: no tile could be read, or the folder holds something else than an index.
        """
        build_index(encoder, imagery, path, **options)
        return cls.load(path)

    @classmethod
    def load(cls, path: str | Path, verify: bool = True) -> "GeoIndex":
        """Open an index.

        Args:
            path: its folder.
            verify: compare the SHA-256 of every file (2 GB take some seconds); False compares sizes only.

        Raises:
            GenGeoError: not an index, damaged, or of another format version.
        """
        return cls(Path(path), _open(Path(path), verify))

    @property
    def manifest(self) -> dict[str, Any]:
        """What manifest.json says: model, preprocessing, counts, kind of search, how it was built."""
        return self._snapshot.manifest

    @property
    def tiles(self) -> pa.Table:
        """The tile table (`TILE_SCHEMA`), one row for each descriptor."""
        return self._snapshot.tiles

    @property
    def descriptors(self) -> np.ndarray:
        """Unit vectors, float16 (tiles, dim), memory-mapped and read-only."""
        return self._snapshot.descriptors

    def __len__(self) -> int:
        return len(self._snapshot.descriptors)

    def check_model(self, encoder: EncoderLike) -> None:
        """Refuse an encoder whose descriptors must not be compared with those of the index.

        Raises:
            GenGeoError: another model or another preprocessing made this index.
        """
        made_by = self.manifest["model"]
        if made_by["fingerprint"] != encoder.fingerprint:
            name = f"{made_by['name']} " if made_by.get("name") else ""
            raise GenGeoError(
                f"the index {self.path} was made by another model: {name}(fingerprint {made_by['fingerprint'][:12]}), "
                f"this one is {encoder.fingerprint[:12]}; use that model (--model) or index the imagery again"
            )

    def search(
        self, descriptors: np.ndarray, k: int = 5, near: tuple[float, float, float] | None = None
    ) -> list[list[Hit]]:
        """Best tiles for each query.

        Args:
            descriptors: float32 (queries, dim) or (dim,), unit length.
            k: how many tiles at most.
            near: only tiles within (lat, lon, radius in metres); they are scored exactly.

        Returns:
            For each query its hits, best first; none where the index or the prior's circle is empty.

        Raises:
            GenGeoError: another dimension, or values that are not finite.
        """
        snapshot = self._snapshot
        queries, dim = finite_queries(descriptors), int(snapshot.manifest["dim"])
        if queries.ndim != 2 or queries.shape[1] != dim:
            raise GenGeoError(f"the index holds descriptors of {dim} dimensions, the query has shape {queries.shape}")
        if k < 1:
            raise GenGeoError(f"at least one tile must be asked for, found k={k}")
        if near is None:
            scores, rows = snapshot.searcher.search(queries, k)
        else:
            scores, rows = snapshot.searcher.search_rows(queries, snapshot.rows_near(check_near(near)), k)
        return [
            [_hit(snapshot.tiles, int(row), float(score)) for score, row in zip(s, r, strict=True) if row >= 0]
            for s, r in zip(scores, rows, strict=True)
        ]

    def thumbnails(self, tile_ids: Sequence[str]) -> dict[str, bytes]:
        """Small JPEGs of tiles, where the index keeps them."""
        ids = self.tiles["tile_id"]  # of one moment: the index may be replaced meanwhile
        rows = np.flatnonzero(pc.is_in(ids, pa.array(list(tile_ids), pa.string())).to_numpy())
        names = dict(zip(rows.tolist(), ids.take(pa.array(rows)).to_pylist(), strict=True))
        return {names[row]: content for row, content in read_thumbnails(self.path, names, names).items()}

    @property
    def left_out(self) -> pa.Table:
        """Tiles that could not be read: the columns of `tiles`, and `reason`."""
        return read_left_out(self.path)

    def verify(self) -> str:
        """Check every byte against the manifest and every vector for its length; a line that says what was checked.

        Raises:
            GenGeoError: something is damaged.
        """
        manifest = read_manifest(self.path)
        check_files(self.path, manifest)
        descriptors = open_descriptors(self.path, manifest)
        for start in range(0, len(descriptors), BLOCK):
            lengths = np.linalg.norm(descriptors[start : start + BLOCK].astype(np.float32), axis=1)
            if not np.all(np.abs(lengths - 1) < 0.01):  # also catches NaN
                raise GenGeoError(
                    f"{self.path}: a descriptor near row {start} has not length 1; index the imagery again"
                )
        return f"{self.path}: {len(descriptors):,} tiles, {len(manifest['files'])} files, all as the manifest says"

    def add(self, encoder: EncoderLike, imagery: "TileSource | CrossViewDataset | GeoIndex", **options: Any) -> int:
        """Add imagery; tiles whose id is there already are replaced. Searches that run keep the old state.

        Processes that add to the same index wait for one another. To share the work on a large area, let them build an
        index of it together, and add that one: nothing is encoded again.

        Args:
            encoder: the model of the index.
            imagery: as `build`, or another index of the same model.
            options: as `build`.

        Returns:
            The number of tiles now in the index.

        Raises:
            GenGeoError: another model, or unreadable imagery; the index is then as before.
        """
        self.check_model(encoder)
        check_place(self.path)
        if isinstance(imagery, GeoIndex):
            imagery.check_model(encoder)
            return self._join(imagery.path, imagery._snapshot, str(imagery.path.name))
        aside = self.path.with_name(f".{self.path.name}.adding")
        with exclusive(self.path.with_name(f".{self.path.name}.adding.lock")):
            try:
                report = build_index(encoder, imagery, aside, **options)
                return self._join(aside, _Snapshot(aside, verify=False), report.source)
            finally:
                shutil.rmtree(aside, ignore_errors=True)

    def remove(
        self,
        tile_ids: Sequence[str] = (),
        area: str | None = None,
        bounds: Bounds | None = None,
        source: str | None = None,
    ) -> int:
        """Remove tiles by id, by area, by where their centre lies, or by the file that they came from.

        What the index tells of unreadable tiles goes with them. Where nothing matches, no file is touched.

        Returns:
            The number of tiles that were removed.

        Raises:
            GenGeoError: the index is damaged, or cannot be written; it is then as before.
        """
        unwanted = set(tile_ids)

        def keep(table: pa.Table) -> np.ndarray:
            columns = (table[name].to_pylist() for name in ("tile_id", "area", "source", "lat", "lon"))
            return np.array([
                not (tile in unwanted or (area is not None and place == area) or (source is not None and file == source)
                     or (bounds is not None and lat is not None and bounds.contains(lat, lon)))
                for tile, place, file, lat, lon in zip(*columns, strict=True)
            ], dtype=bool)  # fmt: skip

        details = {"area": area, "bounds": list(bounds) if bounds else None, "source": source}
        return self._rewrite(keep, None, "removed", details)

    def report(self) -> str:
        """What the index holds and how it was made, for people."""
        return summary(self.path, self.manifest, self.tiles, self.left_out)

    def _join(self, path: Path, new: _Snapshot, name: str) -> int:
        """Take over all rows of another index."""
        details = {"source": name, "tiles": len(new.descriptors)}
        self._rewrite(lambda table: ~_is_in(table, new.tiles), (path, new), "added", details)
        return len(self)

    def _rewrite(
        self,
        keep: Callable[[pa.Table], np.ndarray],
        added: tuple[Path, _Snapshot] | None,
        what: str,
        details: dict[str, Any],
    ) -> int:
        """Write kept and added rows as a new index, then use it; the number of rows that were not kept.

        One writer at a time, across processes. Where all is kept and nothing is added, nothing is written.
        """
        with exclusive(self.path.with_name(f".{self.path.name}.lock")):
            check_place(self.path)
            # Another process may have written since; and damage must not get the checksums of a new manifest.
            self._snapshot = _Snapshot(self.path, verify=True)
            kept = keep(self._snapshot.tiles)
            dropped = int((~kept).sum())
            told = read_left_out(self.path)
            left_out = told.filter(pa.array(keep(told)))
            parts = [(self.path, self._snapshot, np.flatnonzero(kept))]
            if added is not None:
                parts.append((*added, np.arange(len(added[1].descriptors))))
            elif not dropped and len(left_out) == len(told):
                return 0
            tiles = pa.concat_tables([snapshot.tiles.take(rows) for _, snapshot, rows in parts])
            about: dict[str, Any] = {
                key: self.manifest[key] for key in ("model", "preprocessing", "dim", "build") if key in self.manifest
            }
            about["history"] = [*self.manifest.get("history", []), happened(what, **({"tiles": dropped} | details))]
            has_thumbnails = any(THUMBNAILS in snapshot.manifest["files"] for _, snapshot, _ in parts)
            if added is not None:  # of what is unreadable twice, the newer word counts
                newer = read_left_out(added[0])
                left_out = pa.concat_tables([left_out.filter(pa.array(~_is_in(left_out, newer))), newer])
            left_out = left_out.filter(pa.array(~_is_in(left_out, tiles)))  # it could be read by now
            write_index(self.path, tiles, _blocks(parts), about, _jpegs(parts) if has_thumbnails else None, left_out)
            self._snapshot = _Snapshot(self.path, verify=False)
        return dropped


def _is_in(table: pa.Table, other: pa.Table) -> np.ndarray:
    """Whether each row's tile is also a row of the other table: bool (rows,)."""
    found: np.ndarray = pc.is_in(table["tile_id"], other["tile_id"].combine_chunks()).to_numpy()
    return found


def _blocks(parts: Sequence[tuple[Path, _Snapshot, np.ndarray]]) -> Iterator[np.ndarray]:
    """Descriptors of some rows of some indexes, a block at a time."""
    for _, snapshot, rows in parts:
        for start in range(0, len(rows), BLOCK):
            yield snapshot.descriptors[rows[start : start + BLOCK]]


def _jpegs(parts: Sequence[tuple[Path, _Snapshot, np.ndarray]]) -> Iterator[list[bytes]]:
    """Thumbnails of the same rows; an empty one where there is none, or by now that of another tile."""
    for path, snapshot, rows in parts:
        for start in range(0, len(rows), 1024):
            part = rows[start : start + 1024]
            names = dict(zip(part.tolist(), snapshot.tiles["tile_id"].take(part).to_pylist(), strict=True))
            found = read_thumbnails(path, names, names)
            yield [found.get(row, b"") for row in names]


def finite_queries(descriptors: np.ndarray) -> np.ndarray:
    """Queries as searches want them: contiguous float32 (queries, dim).

    Args:
        descriptors: (queries, dim) or (dim,).

    Raises:
        GenGeoError: values are not finite.
    """
    queries = np.ascontiguousarray(np.atleast_2d(descriptors), dtype=np.float32)
    if not np.isfinite(queries).all():
        raise GenGeoError("a query descriptor holds NaN or infinity: the model's weights or its input are broken")
    return queries


def _hit(tiles: pa.Table, row: int, score: float) -> Hit:
    values = {name: tiles[name][row].as_py() for name in ("tile_id", "lat", "lon", "area", "source")}
    return Hit(
        score=score, bounds=row_bounds(tiles, row),
        tile_id=values["tile_id"], lat=values["lat"], lon=values["lon"],
        area=values["area"] or "", source=values["source"] or "",
    )  # fmt: skip
