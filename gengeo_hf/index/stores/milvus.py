"""Milvus engine, for a file (`./local.db`, milvus-lite) or a server or cluster (`http://host:19530`).

A collection has one row for each tile. A prior is converted to bounds of latitude and longitude, because `ST_DWITHIN`
of milvus-lite measures planar degrees; `StoreIndex` checks the circle in metres.
"""

import contextlib
import logging
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError, MissingExtraError
from gengeo_hf.common.geo import bounds_around
from gengeo_hf.common.transfer import first_line
from gengeo_hf.common.units import Near
from gengeo_hf.imagery.tiles import TILE_SCHEMA
from gengeo_hf.index.stores.address import shown, without_secrets
from gengeo_hf.index.stores.protocol import RIGHTS

FIELDS = (*TILE_SCHEMA.names, *RIGHTS)
TEXTS = ("area", "source", *RIGHTS)
TEXT = 1024  # maximum length of a tile id, area, source or attribution, bytes
PAGE = 1000  # rows of a page


class MilvusEngine:
    """Milvus, with the methods of `Engine`.

    Args:
        where: File of milvus-lite, or address of a server.

    Raises:
        MissingExtraError: pymilvus is not installed.
        GenGeoError: The file cannot be opened, or the server does not respond.
    """

    timeout = 120.0  # seconds; without it the client retries a stopped server 75 times

    def __init__(self, where: str) -> None:
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise MissingExtraError("pymilvus", "milvus", "use a Milvus store") from error
        with _captured_log() as logged:
            try:
                # The client pings every 10 s, so servers with the default limits of gRPC close an idle connection.
                options = {"grpc.keepalive_time_ms": 300_000, "grpc.keepalive_permit_without_calls": False}
                self._client = MilvusClient(where, timeout=10, **({"grpc_options": options} if "://" in where else {}))
            except Exception as error:  # exceptions of pymilvus and gRPC
                raise GenGeoError(_why_not_open(where, error, logged)) from error
        self._fields: dict[str, list[str]] = {}

    def names(self) -> list[str]:
        """Names of all collections."""
        return list(self._client.list_collections(timeout=self.timeout))

    def create(self, name: str, dim: int) -> None:
        """Create a collection with an exact index; an administrator may choose another index."""
        from pymilvus import DataType

        if self._client.has_collection(name):
            return
        schema = self._client.create_schema(auto_id=False, enable_dynamic_field=False)
        schema.add_field("tile_id", DataType.VARCHAR, is_primary=True, max_length=TEXT)
        schema.add_field("vector", DataType.FLOAT_VECTOR, dim=dim)
        for field in FIELDS[1:]:
            if field in TEXTS:
                schema.add_field(field, DataType.VARCHAR, max_length=TEXT, nullable=True)
            else:
                schema.add_field(field, DataType.DOUBLE, nullable=field not in ("lat", "lon"))
        indexes = self._client.prepare_index_params()
        indexes.add_index("vector", index_type="FLAT", metric_type="IP")
        self._client.create_collection(name, schema=schema, index_params=indexes, consistency_level="Strong")

    def upsert(self, name: str, rows: Sequence[dict[str, Any]], vectors: np.ndarray) -> None:
        """Write rows and vectors.

        Args:
            name, rows, vectors: As in `Engine.upsert`.

        Raises:
            GenGeoError: A text is too long for Milvus.
        """
        for row in rows:
            if any(len(str(row[field]).encode()) > TEXT for field in ("tile_id", *TEXTS)):
                raise GenGeoError(
                    f"tile {row['tile_id'][:60]!r}: ids, areas, sources and rights may have {TEXT} bytes in Milvus"
                )
        data = [{**row, "vector": vector.tolist()} for row, vector in zip(rows, vectors, strict=True)]
        self._client.upsert(name, data, timeout=self.timeout)

    def search(self, name: str, queries: np.ndarray, k: int, near: Near | None) -> list[list[tuple[dict, float]]]:
        """Search rows; a prior is extended to bounds that contain its circle.

        Args:
            name, queries, k, near: As in `Engine.search`.
        """
        found = self._client.search(
            name,
            queries.tolist(),
            limit=k,
            output_fields=self._load(name),
            filter=_box(near) if near else "",
            search_params={"metric_type": "IP"},
            timeout=self.timeout,
        )
        return [
            [(dict(hit["entity"]) | {"tile_id": hit["tile_id"]}, float(hit["distance"])) for hit in hits]
            for hits in found
        ]

    def rows(self, name: str) -> Iterator[list[dict[str, Any]]]:
        """Yield all rows without their vectors."""
        with _captured_log():  # suppresses a warning about its clock
            pages = self._client.query_iterator(name, batch_size=PAGE, output_fields=self._load(name), filter="")
            while page := pages.next():
                yield [dict(row) for row in page]
            pages.close()

    def count(self, name: str) -> int:
        """Number of rows of a collection."""
        self._load(name)
        return int(self._client.query(name, output_fields=["count(*)"], timeout=self.timeout)[0]["count(*)"])

    def delete(self, name: str, tile_ids: Sequence[str]) -> None:
        """Delete rows by tile id."""
        self._client.delete(name, ids=list(tile_ids), timeout=self.timeout)

    def _load(self, name: str) -> list[str]:
        """Load a collection, which another process may have created; returns the names of its fields."""
        if name not in self._fields:
            self._client.load_collection(name, timeout=self.timeout)
            fields = self._client.describe_collection(name, timeout=self.timeout)["fields"]
            self._fields[name] = [field["name"] for field in fields if field["name"] != "vector"]
        return self._fields[name]


class _Records(logging.Handler):
    """Stores log records."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Store a record."""
        self.records.append(record)


@contextlib.contextmanager
def _captured_log() -> Iterator[list[logging.LogRecord]]:
    """Collect the log records of the client instead of printing them; they explain its errors."""
    handler = _Records()
    loggers = [logging.getLogger(name) for name in ("milvus_lite", "pymilvus")]
    before = [logger.propagate for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.propagate = False
    try:
        yield handler.records
    finally:
        for logger, state in zip(loggers, before, strict=True):
            logger.removeHandler(handler)
            logger.propagate = state


def _why_not_open(where: str, error: Exception, logged: Sequence[logging.LogRecord]) -> str:
    """Message for a store that cannot be opened."""
    address = shown("milvus:" + where)
    causes = [r.exc_info[1] for r in logged if r.exc_info and isinstance(r.exc_info[1], Exception)]
    if any(type(cause).__name__ == "DataDirLockedError" for cause in causes):
        return (
            f"{address} is in use by another process, and only one at a time can open a Milvus file: end that process, "
            "or run a Milvus server for several"
        )
    reason = first_line(causes[-1] if causes else error)
    return f"no Milvus at {address}: {without_secrets(reason, where)}"


def _box(near: Near) -> str:
    """Filter of bounds that contain a circle, 1 % wider because bounds use the ellipsoid and the circle a sphere."""
    side = 2.02 * near.radius_m
    box = bounds_around(near.lat, near.lon, side, side)
    # A metre is most degrees of longitude at the edge nearest to a pole.
    top = max(abs(box.south), abs(box.north))
    edge = bounds_around(min(top, 90.0), near.lon, side, side)
    lat = f"lat >= {box.south} and lat <= {box.north}"
    if top >= 90 or (edge.west, edge.east) == (-180.0, 180.0):
        return lat
    operator = "or" if edge.crosses_date_line else "and"
    return f"{lat} and (lon >= {edge.west} {operator} lon <= {edge.east})"
