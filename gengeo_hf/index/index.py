"""`GeoIndex`: an index of aerial tiles that can be built, edited in place, and searched from several threads."""

import contextlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import atomic_folder, real_path
from gengeo_hf.common.geo import Bounds
from gengeo_hf.common.transfer import upload, with_retries
from gengeo_hf.common.units import check_near
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.imagery.tiles import TileSource
from gengeo_hf.index import edit
from gengeo_hf.index.build import build_index, joined_left_out
from gengeo_hf.index.card import index_card
from gengeo_hf.index.hits import Hit, finite_queries, make_hit
from gengeo_hf.index.manifest import MANIFEST, Manifest, Source, read_manifest
from gengeo_hf.index.search import BLOCK
from gengeo_hf.index.segment import SegmentReader, check_files
from gengeo_hf.index.summary import summary
from gengeo_hf.index.version import Version, is_in, open_version

PUBLISHED = ("segment-*/*", "left_out-*.parquet")  # files of an earlier upload that a new upload replaces

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset


class GeoIndex:
    """Descriptors and positions of aerial tiles in a directory of segments.

    An object keeps the version that it has opened, even if other processes write a new one; `reload` opens the newest.

    Example:
        >>> index = GeoIndex.load("city.gengeo")
        >>> hits = index.search(descriptors, k=5, near=(60.17, 24.94, 2000))[0]
    """

    def __init__(self, path: Path, version: Version) -> None:
        self.path = path
        self._use(version)

    def _use(self, version: Version) -> None:
        self._version = version
        self._tiles: pa.Table | None = None

    @classmethod
    def build(
        cls, encoder: EncoderProtocol, imagery: "TileSource | CrossViewDataset", path: str | Path, **options: Any
    ) -> "GeoIndex":
        """Encode imagery into a new index; an interrupted build continues where it stopped.

        Args:
            encoder: Encoder of the model that will also encode the photos.
            imagery: `TileSource` (see `open_imagery`), or a `CrossViewDataset` whose gallery is indexed.
            path: Directory of the index.
            options: Arguments of `gengeo_hf.index.build.build_index`; `overwrite=True` replaces an existing index.

        Raises:
            GenGeoError: No tile could be read, or the directory holds something else or an index of other imagery.
        """
        build_index(encoder, imagery, path, **options)
        return cls.load(path)

    @classmethod
    def load(cls, path: str | Path, verify: bool = True) -> "GeoIndex":
        """Open an index.

        Args:
            path: Directory of the index.
            verify: Compare the SHA-256 of every file (2 GB take some seconds); False compares only sizes.

        Raises:
            GenGeoError: The directory is not an index, is damaged, or has another format version.
        """
        return cls(Path(path), open_version(path, verify))

    @classmethod
    def from_pretrained(
        cls, name: str | Path, *, revision: str | None = None, token: str | None = None, verify: bool = True
    ) -> "GeoIndex":
        """Open an index in a directory, or download a published index to the cache of the Hub.

        Args:
            name: Directory, or `organisation/name` of a data set repository.
            revision: Branch, tag or commit of the repository.
            token: Token of the Hub; None takes the stored one.
            verify: As in `load`.

        Raises:
            GenGeoError: There is no such index, the Hub refuses the download, or the index is damaged.
        """
        if Path(name).exists():
            return cls.load(name, verify)
        from huggingface_hub import snapshot_download

        folder = with_retries(
            lambda: snapshot_download(str(name), repo_type="dataset", revision=revision, token=token), str(name)
        )
        return cls.load(folder, verify)

    def save_pretrained(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Copy the version in use to a directory that can be published.

        Args:
            path: Directory to write.
            overwrite: Replace an existing index.

        Raises:
            GenGeoError: The directory holds something else, or an index without `overwrite`; or the disk is full.
        """
        edit.check_output(path, overwrite, whole=True)
        manifest = read_manifest(self.path)
        try:
            with atomic_folder(path) as folder:
                for name in [*manifest.checked_files(), MANIFEST]:
                    (folder / name).parent.mkdir(exist_ok=True)
                    edit.link_or_copy(self.path / name, folder / name)
        except OSError as error:
            raise GenGeoError(f"the index could not be written to {path}: {error.strerror or error}") from error
        return Path(path)

    def push_to_hub(self, repository: str, *, private: bool = False, token: str | None = None) -> str:
        """Publish the version in use as a data set repository, in one commit; network errors are retried.

        Args:
            repository: `organisation/name`; the repository is created if it does not exist.
            private: Whether a new repository is private.
            token: Token of the Hub; None takes the stored one, or that of the variable HF_TOKEN.

        Returns:
            Address of the commit.

        Raises:
            GenGeoError: The Hub refuses the upload, or the name is not valid.
        """
        content: dict[str, Path | bytes] = {"README.md": index_card(repository, self).encode(), **self.files()}
        message = "Add the index"
        return upload(content, repository, "dataset", message, replaces=PUBLISHED, private=private, token=token)

    @property
    def segments(self) -> Sequence[SegmentReader]:
        """Open segments of the version in use, to read all tiles in bounded memory."""
        return self._version.segments

    def files(self) -> dict[str, Path]:
        """Files of the version in use, by their path in a repository; the manifest is last."""
        return {name: self.path / name for name in [*self.manifest.checked_files(), MANIFEST]}

    def reload(self, verify: bool = False) -> "GeoIndex":
        """Open the newest version for the following searches; running searches keep their version.

        Args:
            verify: As in `load`.

        Raises:
            GenGeoError: The newest version is missing or damaged; the old one stays in use.
        """
        self._use(open_version(self.path, verify))
        return self

    @property
    def is_outdated(self) -> bool:
        """Whether the directory holds another version than that in use."""
        try:
            return read_manifest(self.path) != self.manifest
        except GenGeoError:
            return True

    @property
    def manifest(self) -> Manifest:
        """Manifest of the version in use: model, segments, sources, bounds, history."""
        return self._version.manifest

    @property
    def tiles(self) -> pa.Table:
        """Table of all tiles (`TILE_SCHEMA`), one row for each descriptor."""
        if self._tiles is None:
            self._tiles = self._version.tiles()
        return self._tiles

    @property
    def descriptors(self) -> np.ndarray:
        """Unit vectors, float16 (tiles, dim), in the order of `tiles`; a copy if there are several segments."""
        return self._version.descriptors()

    def __len__(self) -> int:
        return self.manifest.tiles

    def check_model(self, encoder: EncoderProtocol) -> None:
        """Check that descriptors of an encoder can be compared with those of the index.

        Raises:
            GenGeoError: The index was made with another model or preprocessing.
        """
        made_by = self.manifest.model
        if made_by.fingerprint != encoder.fingerprint:
            stored, given = (one.get("input_scale", 1) for one in (self.manifest.preprocessing, encoder.preprocessing))
            if stored != given:
                raise GenGeoError(
                    f"the index {self.path} was made at input scale {stored:g}, this model encodes at {given:g}: leave "
                    "--fast and --input-scale out to take that of the index, or index the imagery again"
                )
            name = f"{made_by.name} " if made_by.name else ""
            raise GenGeoError(
                f"the index {self.path} was made by another model: {name}(fingerprint {made_by.fingerprint[:12]}), "
                f"this one is {encoder.fingerprint[:12]}; use that model (--model) or index the imagery again"
            )

    def search(
        self,
        descriptors: np.ndarray,
        k: int = 5,
        near: tuple[float, float, float] | Area | None = None,
        *,
        fused: bool = True,
    ) -> list[list[Hit]]:
        """Find the best tiles for each query.

        In an index with several ground sizes, the hits are the smallest tiles of the best cells.

        Args:
            descriptors: float32 (queries, dim) or (dim,), unit length.
            k: Maximum number of tiles for each query.
            near: Search only tiles within (lat, lon, radius in metres), or with their centre in an area; they are
                scored exactly.
            fused: False searches single tiles in an index with several ground sizes.

        Returns:
            Hits of each query, best first; empty if no tile lies in the searched area.

        Raises:
            GenGeoError: The descriptors have another dimension, or values that are not finite.
        """
        version = self._version
        queries, dim = finite_queries(descriptors), version.manifest.dim
        if queries.ndim != 2 or queries.shape[1] != dim:
            raise GenGeoError(f"the index holds descriptors of {dim} dimensions, the query has shape {queries.shape}")
        if k < 1:
            raise GenGeoError(f"k must be at least 1, found {k}")
        area = near if isinstance(near, Area) or near is None else Area.from_near(check_near(near))
        cells = version.cells if fused else None
        scores, rows = (version if cells is None else cells).search(queries, k, area)
        return [
            [make_hit(version, int(row), float(score)) for score, row in zip(s, r, strict=True) if row >= 0]
            for s, r in zip(scores, rows, strict=True)
        ]

    def source_of(self, name: str) -> Source:
        """Rights of a source by name; if it is not listed, those that all sources have in common."""
        return self._version.source_of(name)

    def thumbnails(self, tile_ids: Sequence[str]) -> dict[str, bytes]:
        """Small JPEGs of tiles by id, as far as the index has them."""
        return self._version.thumbnails(tile_ids)

    @property
    def left_out(self) -> pa.Table:
        """Table of tiles that could not be read, with the columns of `tiles` and `reason`."""
        return self._version.left_out

    def verify(self) -> str:
        """Check the SHA-256 of every file and the norm of every vector.

        Returns:
            One line with the number of checked tiles and files.

        Raises:
            GenGeoError: A file or a vector is damaged.
        """
        version = Version(self.path)
        files = version.manifest.checked_files()
        check_files(self.path, files)
        done = 0
        for segment in version.segments:
            for start in range(0, segment.record.tiles, BLOCK):
                lengths = np.linalg.norm(segment.descriptors[start : start + BLOCK].astype(np.float32), axis=1)
                if not np.all(np.abs(lengths - 1) < 0.01):  # also catches NaN
                    raise GenGeoError(
                        f"{self.path}: a descriptor of {segment.record.name} near row {start} has not length 1; index "
                        "the imagery again"
                    )
            done += segment.record.tiles
        removed = f", {version.manifest.deleted:,} of them removed" if version.manifest.deleted else ""
        return f"{self.path}: {done:,} tiles{removed}, {len(files)} files, all match the manifest"

    def add(self, encoder: EncoderProtocol, imagery: "TileSource | CrossViewDataset | GeoIndex", **options: Any) -> int:
        """Add imagery as a new segment; tiles with the same ids are replaced.

        Processes that add to the same index wait for one another.

        Args:
            encoder: Encoder of the model of the index.
            imagery: As in `build`, or another index of the same model.
            options: As in `build`.

        Returns:
            Number of tiles in the index.

        Raises:
            GenGeoError: The model is another one, or the imagery cannot be read; the index is then unchanged.
        """
        self.check_model(encoder)
        if isinstance(imagery, GeoIndex):
            imagery.check_model(encoder)
            self._join(imagery)
        else:
            build_index(encoder, imagery, self.path, add=True, **options)
            self._use(open_version(self.path, verify=False))
        return len(self)

    def _join(self, other: "GeoIndex") -> None:
        """Add all segments of another index."""
        with self._editing() as change:
            ids = other.tiles["tile_id"]
            change.remove(lambda table: is_in(table["tile_id"], ids))
            change.left_out = joined_left_out(change.left_out, other.left_out, other.tiles)
            for reason, count in other.manifest.left_out.reasons.items():
                change.reasons[reason] = change.reasons.get(reason, 0) + count
            change.take(other.manifest.segments, other.path)
            change.tidy()
            known = {source.name: source for source in [*change.manifest.sources, *other.manifest.sources]}
            mine, theirs = change.manifest, other.manifest
            manifest = replace(
                mine,
                sources=list(known.values()),
                work=[*mine.work, *theirs.work],
                fusion=mine.fusion or theirs.fusion,
                partly_empty=mine.partly_empty + theirs.partly_empty,
            )
            change.commit(manifest.with_event("added", source=other.path.name, tiles=len(other)))

    def remove(
        self,
        tile_ids: Sequence[str] = (),
        area: str | None = None,
        bounds: Bounds | None = None,
        source: str | None = None,
    ) -> int:
        """Remove the tiles that match any of the arguments, also from the table of unreadable tiles.

        Without a match no file is changed. `compact` frees the disk space of removed tiles.

        Args:
            tile_ids: Ids of tiles.
            area: Name of an area.
            bounds: Bounds that contain the centre of a tile.
            source: Name of a source in the table of tiles.

        Returns:
            Number of removed tiles.

        Raises:
            GenGeoError: The index cannot be read or written; it is then unchanged.
        """
        mask = edit.tombstone_mask(tile_ids, area, bounds, source)
        with self._editing() as change:
            removed = change.remove(mask)
            gone = mask(change.left_out)
            if removed or gone.any():
                if gone.any():
                    change.left_out = change.left_out.filter(pa.array(~gone))
                change.tidy()
                details = {"tiles": removed, "area": area, "bounds": list(bounds) if bounds else None, "source": source}
                manifest = replace(change.manifest, work=[], shard=None)  # the same build command must run again
                change.commit(manifest.with_event("removed", **details))
        return removed

    def compact(self) -> tuple[int, int]:
        """Merge all segments and free the disk space of removed tiles; see `gengeo_hf.index.edit.compact`."""
        done = edit.compact(self.path)
        self._use(open_version(self.path, verify=False))
        return done

    @contextlib.contextmanager
    def _editing(self) -> Any:
        """Edit the newest version, then open the result."""
        with edit.editing(self.path) as change:
            yield change
        if self.is_outdated:
            self._use(open_version(self.path, verify=False))

    def report(self) -> str:
        """Format content and history of the index for a terminal."""
        return summary(real_path(self.path).name, self.manifest, self.left_out)
