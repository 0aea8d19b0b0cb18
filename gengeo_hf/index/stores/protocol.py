"""`Engine`, the interface of a vector database, and `StoreIndex`, which searches it like a `GeoIndex`.

Addresses are `milvus:./local.db`, `milvus:http://host:19530`, `qdrant:http://host:6333` or `qdrant::memory:`, and may
end in `#NAME`, the name of one index in the store. Each index has its own collection, named by the fingerprint of the
model and the name of the index, so descriptors of different models or indexes are never in one collection.
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
FINGERPRINT_DIGITS = 16  # digits of the model's fingerprint in the name of a collection
SIZE_SAMPLES, CENTRE_M = 4, 1.0  # tiles whose surroundings are compared; metres within which centres are one
RIGHTS = (
    "attribution",
    "licence",
    "acquired",
)  # rights of the imagery, fields of each row in addition to `TILE_SCHEMA`


class _Guarded:
    """Wraps an engine; errors of gRPC, HTTP or the client become a one-line `GenGeoError` with the address."""

    def __init__(self, engine: "Engine", address: str) -> None:
        self._engine, self._address, self._where = engine, shown(address), address.partition(":")[2]

    def __getattr__(self, name: str) -> Any:
        call = getattr(self._engine, name)

        def guarded(*arguments: Any) -> Any:
            with self._about(name):
                return call(*arguments)

        return guarded

    def rows(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """Yield all rows of a collection; errors may occur for any of them."""
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
    """A vector database. Vectors have unit length; scores are cosines, best first."""

    def names(self) -> list[str]:
        """Names of all collections."""
        ...

    def create(self, name: str, dim: int) -> None:
        """Create a collection if it does not exist.

        Args:
            name: Name of the collection.
            dim: Number of values of a vector.
        """
        ...

    def upsert(self, name: str, rows: Sequence[dict[str, Any]], vectors: np.ndarray) -> None:
        """Write rows (`TILE_SCHEMA` and `RIGHTS`) and vectors, float32 (rows, dim); a known tile_id is replaced."""
        ...

    def rows(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """Yield all rows of a collection without their vectors, in lists of some hundreds, in any order."""
        ...

    def search(self, name: str, queries: np.ndarray, k: int, near: Near | None) -> list[list[tuple[dict, float]]]:
        """Search rows.

        Args:
            name: Name of the collection.
            queries: float32 (queries, dim).
            k: Number of tiles for each query.
            near: Circle that restricts the search, or None.

        Returns:
            Rows and scores of each query: with a prior at least the k best in its circle, possibly also tiles around
                it.
        """
        ...

    def count(self, name: str) -> int:
        """Number of rows of a collection."""
        ...

    def delete(self, name: str, tile_ids: Sequence[str]) -> None:
        """Delete rows by tile id; unknown ids are ignored."""
        ...


_PACKAGE = "gengeo_hf.index.stores."
# Functions that open the engine of each kind of address: (address without its kind) -> engine.
ENGINES: Registry[Callable[[str], Engine]] = Registry(
    "store", {"milvus": _PACKAGE + "milvus:MilvusEngine", "qdrant": _PACKAGE + "qdrant:QdrantEngine"}
)


class StoreIndex:
    """A collection in a vector database that is searched like a `GeoIndex`.

    Args:
        engine: Open connection, see `connect`.
        address: Address for messages.
        index_name: Name of an index in the store; "" takes the only index of the model.
    """

    def __init__(self, engine: Engine, address: str = "", index_name: str = "") -> None:
        self.engine: Engine = _Guarded(engine, address or type(engine).__name__)
        self.address = shown(address)  # used in messages, files and responses: must not hold secrets
        self.index_name = index_name
        self._name = ""

    def create(self, fingerprint: str, dim: int, index_name: str) -> "StoreIndex":
        """Select the collection of an index of a model, and create it if it does not exist.

        Args:
            fingerprint: Fingerprint of the model.
            dim: Number of values of a descriptor.
            index_name: Name of letters, digits and `_`.
        """
        self._name = f"{PREFIX}{fingerprint[:FINGERPRINT_DIGITS]}_{index_name}"
        self.engine.create(self._name, dim)
        return self

    def use(self, fingerprint: str = "") -> "StoreIndex":
        """Select the collection of the index named in the address, or the only collection.

        Args:
            fingerprint: Fingerprint of the model; "" takes an index of any model.

        Raises:
            GenGeoError: There is no such index, or there are several and the address has no name.
        """
        names = self.engine.names()
        suitable = [name for name in names if _belongs(name, fingerprint)]
        found = [name for name in suitable if not self.index_name or _index_name(name) == self.index_name]
        if not found:
            here = ", ".join(
                sorted(
                    f"{_index_name(n) or '(unnamed)'} of model {_model_digits(n)}" for n in names if _model_digits(n)
                )
            )
            wanted = f" named {self.index_name}" if self.index_name else ""
            model = f" of this model ({fingerprint[:FINGERPRINT_DIGITS]})" if fingerprint else ""
            raise GenGeoError(
                f"{self.address} has no tiles{model}{wanted}, only {here or 'none'}; fill it with gengeo to-store"
            )
        if len(found) > 1:
            choices = ", ".join(sorted(filter(None, (_index_name(name) for name in found))))
            raise GenGeoError(
                f"{self.address} holds {len(found)} indexes: {choices}; choose one by adding #NAME to the address"
            )
        self._name = found[0]
        return self

    def width_for(self, fingerprint: str, dim: int) -> int | None:
        """Number of values to which a model must truncate its descriptors to match an index of the store.

        Args:
            fingerprint: Fingerprint of the model without truncation.
            dim: Number of values of its descriptors.

        Returns:
            The width; None if descriptors must not be truncated, or no index matches.
        """
        models = {_model_digits(name) for name in self.engine.names()}
        if fingerprint[:FINGERPRINT_DIGITS] in models:
            return None
        widths = (width for width in range(1, dim) if truncated(fingerprint, width)[:FINGERPRINT_DIGITS] in models)
        return max(widths, default=None)

    def check_model(self, encoder: EncoderProtocol) -> None:
        """Select the collection of an encoder's model; raises an error if there is none."""
        self.use(encoder.fingerprint)

    def __len__(self) -> int:
        return self.engine.count(self._name)

    def search(
        self, descriptors: np.ndarray, k: int = 5, near: tuple[float, float, float] | Area | None = None
    ) -> list[list[Hit]]:
        """Find the best tiles for each query, as `GeoIndex.search`.

        Args:
            descriptors: float32 (queries, dim).
            k: Maximum number of tiles for each query.
            near: (latitude, longitude, radius in metres), a circle as `Area`, or None.

        Raises:
            GenGeoError: `k` is below 1, values are not finite, or the store does not respond.
        """
        if k < 1:
            raise GenGeoError(f"k must be at least 1, found {k}")
        if isinstance(near, Area):
            if near.near is None:
                raise GenGeoError(f"a store searches within a circle, not in {near}: give --near lat,lon,radius")
            near = near.near
        prior = check_near(near) if near is not None else None
        return [self._one(query, k, prior) for query in finite_queries(descriptors)]

    def _one(self, query: np.ndarray, k: int, near: Near | None) -> list[Hit]:
        """Search one query; requests more rows until k tiles lie within the radius, or there are no more."""
        count = k if near is None else 2 * k + 16
        while True:
            found = self.engine.search(self._name, query[None], count, near)[0]
            hits = [_hit(row, score) for row, score in found]
            if near is not None:
                hits = [h for h in hits if great_circle_m(h.lat, h.lon, near.lat, near.lon) <= near.radius_m]
            if len(hits) >= k or len(found) < count or count >= 16_384:  # Milvus returns at most 16,384 rows
                return sorted(hits, key=lambda hit: (-hit.score, hit.tile_id))[:k]
            count = min(count * 4, 16_384)

    def size_caveat(self, dim: int) -> str:
        """Warn if the index has tiles of several ground sizes, which a `GeoIndex` would fuse.

        A store does not hold the manifest of its index, so the tiles around a few centres are compared.

        Args:
            dim: Number of values of a descriptor.

        Returns:
            One sentence; empty without a warning.
        """
        query = np.full((1, dim), dim**-0.5, np.float32)
        for hit in self.search(query, SIZE_SAMPLES)[0]:
            around = [other.bounds for other in self.search(query, SIZE_SAMPLES, (hit.lat, hit.lon, CENTRE_M))[0]]
            heights = [bounds.north - bounds.south for bounds in around if bounds is not None]
            if heights and max(heights) > 1.05 * min(heights):
                return "a store searches single tiles: it does not fuse the ground sizes of this index"
        return ""

    def thumbnails(self, tile_ids: Sequence[str]) -> dict[str, bytes]:
        """Empty: stores have no thumbnails."""
        return {}

    def remove(
        self,
        tile_ids: Sequence[str] = (),
        area: str | None = None,
        bounds: Bounds | None = None,
        source: str | None = None,
    ) -> int:
        """Remove tiles; arguments and result as in `GeoIndex.remove`."""
        wanted = list(tile_ids)
        if area is not None or bounds is not None or source is not None:
            mask = tombstone_mask(tile_ids, area, bounds, source)
            for rows in self.engine.rows(self._name):
                columns = {field.name: [row.get(field.name) for row in rows] for field in TILE_SCHEMA}
                table = pa.table(columns, schema=TILE_SCHEMA)
                wanted += table.filter(pa.array(mask(table)))["tile_id"].to_pylist()
        return self.remove_ids(wanted)

    def remove_ids(self, tile_ids: Sequence[str]) -> int:
        """Remove tiles by id; returns the number of removed tiles."""
        before = len(self)
        for start in range(0, len(tile_ids), BATCH):
            self.engine.delete(self._name, list(tile_ids)[start : start + BATCH])
        return before - len(self)


def _belongs(collection: str, fingerprint: str) -> bool:
    """Whether a collection is a GenGeo index, and of a model if a fingerprint is given."""
    digits = _model_digits(collection)
    return bool(digits) and (not fingerprint or digits == fingerprint[:FINGERPRINT_DIGITS])


def _model_digits(collection: str) -> str:
    """Digits of the model's fingerprint in the name of a collection; "" for other collections."""
    return collection.removeprefix(PREFIX)[:FINGERPRINT_DIGITS] if collection.startswith(PREFIX) else ""


def _index_name(collection: str) -> str:
    """Name of the index in the name of a collection; "" in collections of earlier versions."""
    return collection[len(PREFIX) + FINGERPRINT_DIGITS + 1 :]


def is_address(text: str) -> bool:
    """Whether the text is the address of a store and not a directory."""
    kind, colon, _ = text.partition(":")
    return bool(colon) and kind in ENGINES


def connect(address: str) -> StoreIndex:
    """Open a store by its address.

    Raises:
        GenGeoError: The text is not an address, or the store does not respond.
        MissingExtraError: The client of the store is not installed.
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
