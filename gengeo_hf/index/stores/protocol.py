"""What a vector database must do for us, and `StoreIndex`, which answers from any that does it.

Addresses are `milvus:./local.db`, `milvus:http://host:19530`, `qdrant:http://host:6333` or `qdrant::memory:`, and may
end in `#NAME`, the name of one index in the store. Each index of each model has its own collection, named by the
model's fingerprint and the index's name: descriptors of two models never meet, and two cities stay apart.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import pyarrow as pa

from gengeo_hf.common.area import Area
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, great_circle_m
from gengeo_hf.common.registry import Registry
from gengeo_hf.common.transfer import first_line
from gengeo_hf.common.units import Near, check_near
from gengeo_hf.encoding.fingerprint import truncated
from gengeo_hf.encoding.protocol import EncoderProtocol
from gengeo_hf.imagery.tiles import TILE_SCHEMA
from gengeo_hf.index.edit import tombstone_mask
from gengeo_hf.index.hits import Hit, finite_queries
from gengeo_hf.index.stores.address import shown, split_address, without_secrets

PREFIX = "gengeo_"
BATCH = 256
MARK = 16  # letters of a model's fingerprint in the name of a collection
SIZE_SAMPLES, CENTRE_M = 4, 1.0  # tiles whose surroundings are compared; metres within which centres are one
RIGHTS = ("attribution", "licence", "acquired")  # of a tile's imagery, beside `TILE_SCHEMA` in each row


class _Guarded:
    """An engine whose own errors, of gRPC, HTTP or its client, become one line that names its address."""

    def __init__(self, engine: "Engine", address: str) -> None:
        self._engine, self._address, self._where = engine, shown(address), address.partition(":")[2]

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._engine, name)

        def guarded(*words: Any) -> Any:
            with self._about(name):
                return call(*words)

        return guarded

    def rows(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """All rows of a collection; an error may come with any of them."""
        with self._about("list its tiles"):
            yield from self._engine.rows(name)

    @contextlib.contextmanager
    def _about(self, what: str) -> Iterator[None]:
        try:
            yield
        except GenGeoError:
            raise
        except Exception as error:
            first = without_secrets(first_line(error), self._where)
            raise GenGeoError(f"{self._address} did not {what.replace('names', 'answer')}: {first}") from error


class Engine(Protocol):
    """One vector database. Vectors have unit length; scores are cosines, best first."""

    def names(self) -> list[str]:
        """Collections that are there."""
        ...

    def create(self, name: str, dim: int) -> None:
        """Make a collection; nothing happens where it exists.

        Args:
            name: Of the collection.
            dim: Length of its vectors.
        """
        ...

    def upsert(self, name: str, rows: Sequence[dict[str, Any]], vectors: np.ndarray) -> None:
        """Write rows (`TILE_SCHEMA` and `RIGHTS`) and vectors, float32 (rows, dim); a known tile_id is replaced."""
        ...

    def rows(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """All rows of a collection without their vectors, some hundreds at a time, in any order."""
        ...

    def search(self, name: str, queries: np.ndarray, k: int, near: Near | None) -> list[list[tuple[dict, float]]]:
        """Rows and scores; with a prior at least the k best of its circle, perhaps some tiles round it as well.

        Args:
            name: Of the collection.
            queries: float32 (queries, dim).
            k: Best tiles for each query.
            near: Circle that tiles must lie in, or None.
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
        engine: An open connection, see `connect`.
        address: For messages.
        index_name: Name of one index in the store; "" takes the only one of the model.
    """

    def __init__(self, engine: Engine, address: str = "", index_name: str = "") -> None:
        self.engine: Engine = _Guarded(engine, address or type(engine).__name__)
        self.address = shown(address)  # messages, files and answers to strangers say it
        self.index_name = index_name
        self._name = ""

    def create(self, fingerprint: str, dim: int, index_name: str) -> "StoreIndex":
        """Choose the collection of one index of a model, and make it where it is missing.

        Args:
            fingerprint: Of the model.
            dim: Length of its descriptors.
            index_name: Letters, digits and `_`.
        """
        self._name = f"{PREFIX}{fingerprint[:MARK]}_{index_name}"
        self.engine.create(self._name, dim)
        return self

    def use(self, fingerprint: str = "") -> "StoreIndex":
        """Choose the collection of the index that the address names, or the only one.

        Args:
            fingerprint: Of the model; "" takes an index of any model.

        Raises:
            GenGeoError: There is none, or there are several and the address names none of them.
        """
        names = self.engine.names()
        fitting = [name for name in names if _belongs(name, fingerprint)]
        found = [name for name in fitting if not self.index_name or _index_name(name) == self.index_name]
        if not found:
            here = ", ".join(sorted(f"{_index_name(n) or '(unnamed)'} of model {_mark(n)}" for n in names if _mark(n)))
            wanted = f" named {self.index_name}" if self.index_name else ""
            model = f" of this model ({fingerprint[:MARK]})" if fingerprint else ""
            raise GenGeoError(
                f"{self.address} has no tiles{model}{wanted}, only {here or 'none'}; fill it with gengeo to-store"
            )
        if len(found) > 1:
            choices = ", ".join(sorted(filter(None, (_index_name(name) for name in found))))
            raise GenGeoError(
                f"{self.address} holds {len(found)} indexes: {choices}; say which one by adding #NAME to the address"
            )
        self._name = found[0]
        return self

    def width_for(self, fingerprint: str, dim: int) -> int | None:
        """The width to which a model must cut its descriptors, because only such ones are here; None for whole ones.

        Args:
            fingerprint: Of the whole model.
            dim: Length of its descriptors.
        """
        marks = {_mark(name) for name in self.engine.names()}
        if fingerprint[:MARK] in marks:
            return None
        widths = (width for width in range(1, dim) if truncated(fingerprint, width)[:MARK] in marks)
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
            k: Best tiles for each query.
            near: Latitude, longitude in degrees, radius in metres; or a circle as `Area`; or None.

        Raises:
            GenGeoError: `k` is below 1, values are not finite, or the store does not answer.
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

    def size_caveat(self, dim: int) -> str:
        """A caution where tiles around one centre have several ground sizes, which an index would fuse; else empty.

        A store does not keep how its index was made, so the tiles around a few of its centres are compared.

        Args:
            dim: Length of a descriptor.
        """
        query = np.full((1, dim), dim**-0.5, np.float32)
        for hit in self.search(query, SIZE_SAMPLES)[0]:
            around = [other.bounds for other in self.search(query, SIZE_SAMPLES, (hit.lat, hit.lon, CENTRE_M))[0]]
            heights = [bounds.north - bounds.south for bounds in around if bounds is not None]
            if heights and max(heights) > 1.05 * min(heights):
                return "a store answers by single tiles: it does not fuse the ground sizes of this index"
        return ""

    def thumbnails(self, tile_ids: Sequence[str]) -> dict[str, bytes]:
        """None: pictures stay in the index folder."""
        return {}

    def remove(
        self,
        tile_ids: Sequence[str] = (),
        area: str | None = None,
        bounds: Bounds | None = None,
        source: str | None = None,
    ) -> int:
        """Remove tiles; arguments and result as `GeoIndex.remove`."""
        wanted = list(tile_ids)
        if area is not None or bounds is not None or source is not None:
            mask = tombstone_mask(tile_ids, area, bounds, source)
            for rows in self.engine.rows(self._name):
                columns = {field.name: [row.get(field.name) for row in rows] for field in TILE_SCHEMA}
                table = pa.table(columns, schema=TILE_SCHEMA)
                wanted += table.filter(pa.array(mask(table)))["tile_id"].to_pylist()
        return self.remove_ids(wanted)

    def remove_ids(self, tile_ids: Sequence[str]) -> int:
        """Remove tiles by id; the number that were there."""
        before = len(self)
        for start in range(0, len(tile_ids), BATCH):
            self.engine.delete(self._name, list(tile_ids)[start : start + BATCH])
        return before - len(self)


def _belongs(collection: str, fingerprint: str) -> bool:
    """Whether a collection is one of ours, and of a model."""
    return bool(_mark(collection)) and (not fingerprint or _mark(collection) == fingerprint[:MARK])


def _mark(collection: str) -> str:
    """The part of the model's fingerprint in the name of a collection; "" for collections of others."""
    return collection.removeprefix(PREFIX)[:MARK] if collection.startswith(PREFIX) else ""


def _index_name(collection: str) -> str:
    """The name of the index in the name of a collection; "" in those that earlier versions made."""
    return collection[len(PREFIX) + MARK + 1 :]


def is_address(text: str) -> bool:
    """True for the address of a store, False for a folder."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and kind in ENGINES


def connect(address: str) -> StoreIndex:
    """Open a store.

    Raises:
        GenGeoError: Not an address, or no server answers there.
        MissingExtraError: Its client is not installed.
    """
    kind, where, index_name = split_address(address)
    if kind not in ENGINES or not where:
        raise GenGeoError(
            f"{shown(address)!r} is not the address of a store ({', '.join(ENGINES)}): expected for example "
            "milvus:./local.db, milvus:http://host:19530 or qdrant:http://host:6333"
        )
    return StoreIndex(ENGINES[kind](where), f"{kind}:{where}", index_name)


def _hit(row: dict[str, Any], score: float) -> Hit:
    sides = [row.get(side) for side in ("west", "south", "east", "north")]
    bounds = None if None in sides else Bounds(*sides)  # type: ignore[arg-type]
    texts = {name: row.get(name) or "" for name in ("area", "source", *RIGHTS)}
    return Hit(row["tile_id"], score, row["lat"], row["lon"], bounds, **texts)
