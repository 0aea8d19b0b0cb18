"""What a vector database must do for us, and what we do with any that does it.

Addresses look like `milvus:./local.db`, `milvus:http://host:19530`, `qdrant:http://host:6333`, `qdrant::memory:`.

Each model has its own collection, named by its fingerprint, so descriptors of two models cannot meet.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.files import write_json
from gengeo_hf.common.geo import Bounds, great_circle_m
from gengeo_hf.common.registry import Registry
from gengeo_hf.common.transfer import first_line
from gengeo_hf.common.units import Near, check_near
from gengeo_hf.encoding.fingerprint import truncated
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.imagery.tiles import TILE_SCHEMA
from gengeo_hf.index.hits import Hit, finite_queries
from gengeo_hf.index.index import GeoIndex
from gengeo_hf.index.scan import sample_queries
from gengeo_hf.index.stores.address import shown, without_secrets

PREFIX = "gengeo_"
BATCH = 256


class _Guarded:
    """An engine whose own errors, of gRPC, HTTP or its client, become one line that names its address."""

    def __init__(self, engine: "Engine", address: str) -> None:
        self._engine, self._address, self._where = engine, shown(address), address.partition(":")[2]

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._engine, name)

        def guarded(*words: Any) -> Any:
            try:
                return call(*words)
            except GenGeoError:
                raise
            except Exception as error:
                first = without_secrets(first_line(error), self._where)
                raise GenGeoError(f"{self._address} did not {name.replace('names', 'answer')}: {first}") from error

        return guarded


class Engine(Protocol):
    """One vector database. Vectors have unit length; scores are cosines, best first."""

    def names(self) -> list[str]:
        """Collections that are there."""
        ...

    def create(self, name: str, dim: int) -> None:
        """Make a collection; nothing happens where it exists.

        Args:
            name: of the collection.
            dim: length of its vectors.
        """
        ...

    def upsert(self, name: str, rows: Sequence[dict[str, Any]], vectors: np.ndarray) -> None:
        """Write rows (`TILE_SCHEMA`) and their vectors, float32 (rows, dim); a known tile_id is replaced."""
        ...

    def search(self, name: str, queries: np.ndarray, k: int, near: Near | None) -> list[list[tuple[dict, float]]]:
        """Rows and scores; with a prior at least the k best of its circle, perhaps some tiles round it as well.

        Args:
            name: of the collection.
            queries: float32 (queries, dim).
            k: best tiles for each query.
            near: circle that tiles must lie in, or None.
        """
        ...

    def count(self, name: str) -> int:
        """Rows in a collection."""
        ...

    def delete(self, name: str, tile_ids: Sequence[str]) -> None:
        """Remove rows; unknown ids are no error."""
        ...


_HOME = "gengeo_hf.index.stores."
# What opens the engine of each kind of address: (address without its kind) -> engine.
ENGINES: Registry[Callable[[str], Engine]] = Registry(
    "store", {"milvus": _HOME + "milvus:MilvusEngine", "qdrant": _HOME + "qdrant:QdrantEngine"}
)


class StoreIndex:
    """A collection in a vector database that answers like a `GeoIndex`.

    Args:
        engine: an open connection, see `connect`.
        address: for messages.
    """

    def __init__(self, engine: Engine, address: str = "") -> None:
        self.engine: Engine = _Guarded(engine, address or type(engine).__name__)
        self.address = shown(address)  # messages, files and answers to strangers say it
        self._name = ""

    def use(self, fingerprint: str, dim: int | None = None) -> "StoreIndex":
        """Choose the collection of a model; with `dim` make it where it is missing.

        Raises:
            GenGeoError: the model has no collection here.
        """
        name = PREFIX + fingerprint[:16]
        if dim is not None:
            self.engine.create(name, dim)
        elif name not in self.engine.names():
            others = [other.removeprefix(PREFIX) for other in self.engine.names() if other.startswith(PREFIX)]
            raise GenGeoError(
                f"{self.address} has no tiles of this model ({fingerprint[:16]}), only {', '.join(others) or 'none'}; "
                "fill it with gengeo to-store"
            )
        self._name = name
        return self

    def width_for(self, fingerprint: str, dim: int) -> int | None:
        """The width to which a model must cut its descriptors, because only such ones are here; None for whole ones.

        Args:
            fingerprint: of the whole model.
            dim: length of its descriptors.
        """
        names = set(self.engine.names())
        if PREFIX + fingerprint[:16] in names:
            return None
        widths = (width for width in range(1, dim) if PREFIX + truncated(fingerprint, width)[:16] in names)
        return max(widths, default=None)

    def check_model(self, encoder: EncoderProtocol) -> None:
        """Choose the collection of this encoder, or refuse it."""
        self.use(encoder.fingerprint)

    def __len__(self) -> int:
        return self.engine.count(self._name)

    def search(
        self, descriptors: np.ndarray, k: int = 5, near: tuple[float, float, float] | Area | None = None
    ) -> list[list[Hit]]:
        """Best tiles for each query, as `GeoIndex.search`.

        Args:
            descriptors: float32 (queries, dim).
            k: best tiles for each query.
            near: Latitude, longitude in degrees, radius in metres; or a circle as `Area`; or None.

        Raises:
            GenGeoError: k is below 1, values are not finite, or the store does not answer.
        """
        if k < 1:
            raise GenGeoError(f"at least one tile must be asked for, found k={k}")
        if isinstance(near, Area):
            if near.near is None:
                raise GenGeoError(f"a store searches within a circle, not in {near}: give --near lat,lon,radius")
            near = near.near
        prior = check_near(near) if near is not None else None
        return [self._one(query, k, prior) for query in finite_queries(descriptors)]

    def _one(self, query: np.ndarray, k: int, near: Near | None) -> list[Hit]:
        """Ask for more until k tiles lie within the great-circle radius, or there are no more."""
        asked = k if near is None else 2 * k + 16
        while True:
            found = self.engine.search(self._name, query[None], asked, near)[0]
            hits = [_hit(row, score) for row, score in found]
            if near is not None:
                hits = [h for h in hits if great_circle_m(h.lat, h.lon, near.lat, near.lon) <= near.radius_m]
            if len(hits) >= k or len(found) < asked or asked >= 16_384:  # Milvus answers at most 16,384 rows
                return sorted(hits, key=lambda hit: (-hit.score, hit.tile_id))[:k]
            asked = min(asked * 4, 16_384)

    def thumbnails(self, tile_ids: Sequence[str]) -> dict[str, bytes]:
        """None: pictures stay in the index folder."""
        return {}

    def remove(self, tile_ids: Sequence[str]) -> int:
        """Remove tiles by id; the number that were there."""
        before = len(self)
        for start in range(0, len(tile_ids), BATCH):
            self.engine.delete(self._name, list(tile_ids)[start : start + BATCH])
        return before - len(self)


def is_address(text: str) -> bool:
    """True for the address of a store, False for a folder."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and kind in ENGINES


def connect(address: str) -> StoreIndex:
    """Open a store.

    Raises:
        GenGeoError: not an address, or nobody answers there.
        MissingExtraError: its client is not installed.
    """
    kind, _, where = address.partition(":")
    if kind not in ENGINES or not where:
        raise GenGeoError(
            f"{shown(address)!r} is not the address of a store ({', '.join(ENGINES)}): expected for example "
            "milvus:./local.db, milvus:http://host:19530 or qdrant:http://host:6333"
        )
    return StoreIndex(ENGINES[kind](where), address)


def export_index(index: GeoIndex, store: StoreIndex, progress: bool = False, samples: int = 20) -> dict[str, Any]:
    """Copy an index into a store, from where an interrupted export stopped, and compare the two.

    Tiles that the store has and the index has not are left alone and reported.

    Args:
        index: the store of record.
        store: an open connection.
        progress: show a bar with tiles per second.
        samples: queries whose top ten are compared with the exact answer of the index.

    Returns:
        `tiles` in the index, `count` in the store, `top10_agreement` in [0, 1].

    Raises:
        GenGeoError: the store holds fewer tiles than were written.
    """
    from tqdm.auto import tqdm

    model = index.manifest.model.fingerprint
    store.use(model, index.manifest.dim)
    # The state belongs to this content of the index, this store and what the store still holds.
    key = [store.address, index.manifest.content_id]
    state = index.path.with_name(f".{index.path.name}.export.json")
    done = _read_state(state, key) if len(store) else 0
    with tqdm(total=len(index), initial=done, desc="export", unit="tile", disable=not progress) as bar:
        seen = 0
        for tiles, vectors in _batches(index):
            seen += len(tiles)
            if seen > done:
                store.engine.upsert(store._name, tiles.to_pylist(), vectors.astype(np.float32))
                write_json(state, {"key": key, "done": seen})
                bar.update(len(tiles))
    state.unlink(missing_ok=True)
    count = len(store)
    if count < len(index):
        raise GenGeoError(f"{store.address} holds {count} tiles after writing {len(index)}; run the export again")
    agreement = [1.0]
    if len(index):
        largest = max(index.segments, key=lambda segment: segment.record.live)
        queries = sample_queries(largest.descriptors, samples)
        pairs = zip(index.search(queries, 10), store.search(queries, 10), strict=True)
        agreement = [len({h.tile_id for h in a} & {h.tile_id for h in b}) / len(a) for a, b in pairs]
    return {"tiles": len(index), "count": count, "top10_agreement": float(np.mean(agreement))}


def _batches(index: GeoIndex) -> Iterator[tuple[pa.Table, np.ndarray]]:
    """Live tiles and their descriptors, at most `BATCH` at a time, always in the same portions."""
    for segment in index.segments:
        rows = segment.live_rows()
        for start in range(0, len(rows), BATCH):
            some = rows[start : start + BATCH]
            yield segment.tiles.select(TILE_SCHEMA.names).take(pa.array(some)), segment.descriptors[some]


def _read_state(path: Path, key: list[str]) -> int:
    """Rows that an interrupted export of the same content to the same store has written."""
    try:
        state = json.loads(path.read_text(encoding="utf-8"))
        return int(state["done"]) if state["key"] == key else 0
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _hit(row: dict[str, Any], score: float) -> Hit:
    sides = [row.get(side) for side in ("west", "south", "east", "north")]
    bounds = None if None in sides else Bounds(*sides)  # type: ignore[arg-type]
    return Hit(row["tile_id"], score, row["lat"], row["lon"], bounds, row.get("area") or "", row.get("source") or "")
