"""Qdrant engine, for a server or cluster (`http://host:6333`), or in memory (`:memory:`) for tests.

A collection has one point for each tile. Tests use the in-memory mode of the client; connections to a server are not
tested.
"""

import uuid
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.transfer import first_line
from gengeo_hf.common.units import Near
from gengeo_hf.index.stores.address import shown, without_secrets

NAMESPACE = uuid.UUID("6f1bb6a5-6f0b-5d0c-9d0e-9a2f4f3c1e57")  # tile ids are text, ids of Qdrant are UUIDs


class QdrantEngine:
    """Qdrant, with the methods of `Engine`.

    Args:
        where: Address of a server, or `:memory:`.

    Raises:
        MissingExtraError: qdrant-client is not installed.
        GenGeoError: The server does not respond.
    """

    def __init__(self, where: str) -> None:
        try:
            from qdrant_client import QdrantClient
        except ImportError as error:
            raise MissingExtraError("qdrant_client", "qdrant", "use a Qdrant store") from error
        self._in_memory = where == ":memory:"
        try:
            self._client = (
                QdrantClient(where)
                if self._in_memory
                else QdrantClient(url=where, timeout=10, check_compatibility=False)
            )
            self._client.get_collections()
        except Exception as error:  # exceptions of the client and of httpx
            first = without_secrets(first_line(error), where)
            raise GenGeoError(f"no Qdrant at {shown('qdrant:' + where)}: {first}") from error

    def names(self) -> list[str]:
        """Names of all collections."""
        return [collection.name for collection in self._client.get_collections().collections]

    def create(self, name: str, dim: int) -> None:
        """Create a collection with an index of positions."""
        from qdrant_client import models

        if self._client.collection_exists(name):
            return
        vectors = models.VectorParams(size=dim, distance=models.Distance.DOT, datatype=models.Datatype.FLOAT16)
        self._client.create_collection(name, vectors_config=vectors)
        if not self._in_memory:  # the in-memory mode has no payload index
            self._client.create_payload_index(name, "place", models.PayloadSchemaType.GEO)

    def upsert(self, name: str, rows: Sequence[dict[str, Any]], vectors: np.ndarray) -> None:
        """Write rows and vectors.

        Args:
            name, rows, vectors: As in `Engine.upsert`.
        """
        from qdrant_client import models

        points = [
            models.PointStruct(
                id=_id(row["tile_id"]),
                vector=vector.tolist(),
                payload={**row, "place": {"lat": row["lat"], "lon": row["lon"]}},
            )
            for row, vector in zip(rows, vectors, strict=True)
        ]
        self._client.upsert(name, points, wait=True)

    def search(self, name: str, queries: np.ndarray, k: int, near: Near | None) -> list[list[tuple[dict, float]]]:
        """Search rows; exactly with a prior, because the approximate graph with a filter lost a fifth of the top ten.

        Args:
            name, queries, k, near: As in `Engine.search`.
        """
        from qdrant_client import models

        condition = None
        if near is not None:
            middle = models.GeoPoint(lat=near.lat, lon=near.lon)
            circle = models.GeoRadius(
                center=middle, radius=near.radius_m * 1.01
            )  # Qdrant may use another radius of the Earth
            condition = models.Filter(must=[models.FieldCondition(key="place", geo_radius=circle)])
        exact = (
            None if self._in_memory else models.SearchParams(exact=near is not None)
        )  # the in-memory mode is always exact
        answers = []
        for query in queries:
            found = self._client.query_points(
                name,
                query=query.tolist(),
                limit=k,
                query_filter=condition,
                with_payload=True,
                search_params=exact,
            )
            answers.append([(dict(point.payload or {}), float(point.score)) for point in found.points])
        return answers

    def rows(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """Yield all rows without their vectors."""
        offset = None
        while True:
            points, offset = self._client.scroll(name, limit=1000, offset=offset, with_payload=True)
            yield [dict(point.payload or {}) for point in points]
            if offset is None:
                return

    def count(self, name: str) -> int:
        """Number of rows of a collection."""
        return self._client.count(name, exact=True).count

    def delete(self, name: str, tile_ids: Sequence[str]) -> None:
        """Delete rows by tile id."""
        from qdrant_client import models

        selector = models.PointIdsList(points=[_id(tile) for tile in tile_ids])
        self._client.delete(name, points_selector=selector, wait=True)


def _id(tile_id: str) -> str:
    """Id of the point of a tile, the same in every run."""
    return str(uuid.uuid5(NAMESPACE, tile_id))
