"""Milvus, embedded (`./local.db`, milvus-lite) or a server or cluster (`http://host:19530`): the same calls.

A collection has one row for each tile.

A prior becomes a box of latitudes and longitudes: milvus-lite's `ST_DWITHIN` measures planar degrees, so the circle is
checked in metres by `protocol.py`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.geo import bounds_around
from gengeo_hf.common.transfer import first_line
from gengeo_hf.common.units import Near
from gengeo_hf.imagery.tiles import TILE_SCHEMA
from gengeo_hf.index.stores.address import shown, without_secrets

FIELDS = tuple(TILE_SCHEMA.names)
TEXT = 1024  # longest tile id, area or source, in bytes


class MilvusEngine:
    """See `Engine`.

    Args:
        where: a file for milvus-lite, or the address of a server.

    Raises:
        MissingExtraError: pymilvus is not installed.
        GenGeoError: nobody answers.
    """

    timeout = 120.0  # seconds; without one the client tries a server that has gone away 75 times

    def __init__(self, where: str) -> None:
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise MissingExtraError("pymilvus", "milvus", "use a Milvus store") from error
        try:
            # The client's own pings, every 10 s, make servers with gRPC's default limits close an idle connection.
            calm = {"grpc.keepalive_time_ms": 300_000, "grpc.keepalive_permit_without_calls": False}
            self._client = MilvusClient(where, timeout=10, **({"grpc_options": calm} if "://" in where else {}))
        except Exception as error:  # its own exceptions, and those of gRPC
            first = without_secrets(first_line(error), where)
            raise GenGeoError(f"no Milvus at {shown('milvus:' + where)}: {first}") from error
        self._loaded: set[str] = set()

    def names(self) -> list[str]:
        """Collections that are there."""
        return list(self._client.list_collections(timeout=self.timeout))

    def create(self, name: str, dim: int) -> None:
        """Make a collection with an exact index; a cluster's administrator may choose another."""
        from pymilvus import DataType

        if self._client.has_collection(name):
            return
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("tile_id", DataType.VARCHAR, is_primary=True, max_length=TEXT)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        for field in FIELDS[1:]:
            if field in ("area", "source"):
                schema.add_field(field, DataType.VARCHAR, max_length=TEXT, nullable=True)
            else:
                schema.add_field(field, DataType.DOUBLE, nullable=field not in ("lat", "lon"))
        indexes = self._client.prepare_index_params()
        indexes.add_index("vector", index_type="FLAT", metric_type="IP")
        self._client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")

    def upsert(self, name: str, rows: Sequence[dict[str, Any]], vectors: np.ndarray) -> None:
        """Write rows and vectors.

        Args:
            name, rows, vectors: as `Engine.upsert`.

        Raises:
            GenGeoError: a text is longer than Milvus keeps.
        """
        for row in rows:
            if any(len(str(row[field]).encode()) > TEXT for field in ("tile_id", "area", "source")):
                raise GenGeoError(
                    f"tile {row['tile_id'][:60]!r}: ids, areas and sources may have {TEXT} bytes in Milvus"
                )
        data = [{**row, "vector": vector.tolist()} for row, vector in zip(rows, vectors, strict=True)]
        self._client.upsert(name, data, timeout=self.timeout)

    def search(self, name: str, queries: np.ndarray, k: int, near: Near | None) -> list[list[tuple[dict, float]]]:
        """Rows and scores, with a prior those of its box.

        Args:
            name, queries, k, near: as `Engine.search`.
        """
        self._load(name)
        found = self._client.search(
            name,
            queries.tolist(),
            limit=k,
            output_fields=list(FIELDS),
            filter=_box(near) if near else "",
            search_params={"metric_type": "IP"},
            timeout=self.timeout,
        )
        return [
            [(dict(hit["entity"]) | {"tile_id": hit["tile_id"]}, float(hit["distance"])) for hit in hits]
            for hits in found
        ]

    def count(self, name: str) -> int:
        """Rows in a collection."""
        self._load(name)
        return int(self._client.query(name, output_fields=["count(*)"], timeout=self.timeout)[0]["count(*)"])

    def delete(self, name: str, tile_ids: Sequence[str]) -> None:
        """Remove rows."""
        self._client.delete(name, ids=list(tile_ids), timeout=self.timeout)

    def _load(self, name: str) -> None:
        """A collection that was made by another process must be loaded before it can be asked."""
        if name not in self._loaded:
            self._client.load_collection(name, timeout=self.timeout)
            self._loaded.add(name)


def _box(near: Near) -> str:
    """A filter that holds the whole circle; one per cent wider, because a box of the ellipsoid is asked by a sphere."""
    side = 2.02 * near.radius_m
    box = bounds_around(near.lat, near.lon, side, side)
    # Away from the middle a metre is more degrees of longitude: take them at the edge that is nearest to a pole.
    top = max(abs(box.south), abs(box.north))
    edge = bounds_around(min(top, 90.0), near.lon, side, side)
    lat = f"lat >= {box.south} and lat <= {box.north}"
    if top >= 90 or (edge.west, edge.east) == (-180.0, 180.0):
        return lat
    word = "or" if edge.crosses_date_line else "and"
    return f"{lat} and (lon >= {edge.west} {word} lon <= {edge.east})"
