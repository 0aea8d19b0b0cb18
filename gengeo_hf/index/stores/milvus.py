"""Milvus, embedded (`./local.db`, milvus-lite) or a server or cluster (`http://host:19530`): the same calls.

A collection has one row for each tile. A prior becomes a box of latitudes and longitudes: milvus-lite's `ST_DWITHIN`
measures planar degrees, so `StoreIndex` checks the circle in metres.
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
TEXT = 1024  # longest tile id, area, source or attribution, in bytes
PAGE = 1000  # rows that are listed at a time


class MilvusEngine:
    """See `Engine`.

    Args:
        where: A file for milvus-lite, or the address of a server.

    Raises:
        MissingExtraError: pymilvus is not installed.
        GenGeoError: No server answers.
    """

    timeout = 120.0  # seconds; without one the client tries a server that has gone away 75 times

    def __init__(self, where: str) -> None:
        try:
            from pymilvus import MilvusClient
        except ImportError as error:
            raise MissingExtraError("pymilvus", "milvus", "use a Milvus store") from error
        with _captured_log() as logged:
            try:
                # The client's own pings, every 10 s, make servers with gRPC's default limits close an idle connection.
                calm = {"grpc.keepalive_time_ms": 300_000, "grpc.keepalive_permit_without_calls": False}
                self._client = MilvusClient(where, timeout=10, **({"grpc_options": calm} if "://" in where else {}))
            except Exception as error:  # its own exceptions, and those of gRPC
                raise GenGeoError(_why_not_open(where, error, logged)) from error
        self._fields: dict[str, list[str]] = {}

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
            name, rows, vectors: As `Engine.upsert`.

        Raises:
            GenGeoError: A text is longer than Milvus keeps.
        """
        for row in rows:
            if any(len(str(row[field]).encode()) > TEXT for field in ("tile_id", *TEXTS)):
                raise GenGeoError(
                    f"tile {row['tile_id'][:60]!r}: ids, areas, sources and rights may have {TEXT} bytes in Milvus"
                )
        data = [{**row, "vector": vector.tolist()} for row, vector in zip(rows, vectors, strict=True)]
        self._client.upsert(name, data, timeout=self.timeout)

    def search(self, name: str, queries: np.ndarray, k: int, near: Near | None) -> list[list[tuple[dict, float]]]:
        """Rows and scores, with a prior those of its box.

        Args:
            name, queries, k, near: As `Engine.search`.
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
        """All rows without their vectors."""
        with _captured_log():  # it warns that it uses its own clock
            pages = self._client.query_iterator(name, batch_size=PAGE, output_fields=self._load(name), filter="")
            while page := pages.next():
                yield [dict(row) for row in page]
            pages.close()

    def count(self, name: str) -> int:
        """Rows in a collection."""
        self._load(name)
        return int(self._client.query(name, output_fields=["count(*)"], timeout=self.timeout)[0]["count(*)"])

    def delete(self, name: str, tile_ids: Sequence[str]) -> None:
        """Remove rows."""
        self._client.delete(name, ids=list(tile_ids), timeout=self.timeout)

    def _load(self, name: str) -> list[str]:
        """Make sure that a collection, which another process may have made, can be asked; the names of its fields."""
        if name not in self._fields:
            self._client.load_collection(name, timeout=self.timeout)
            fields = self._client.describe_collection(name, timeout=self.timeout)["fields"]
            self._fields[name] = [field["name"] for field in fields if field["name"] != "vector"]
        return self._fields[name]


class _Records(logging.Handler):
    """Keeps what is logged."""

    def __init__(self) -> None:
        super().__init__()
        self.records: list[logging.LogRecord] = []

    def emit(self, record: logging.LogRecord) -> None:
        """Keep a record."""
        self.records.append(record)


@contextlib.contextmanager
def _captured_log() -> Iterator[list[logging.LogRecord]]:
    """What the client logs, instead of on the user's terminal: its own errors say less, with a stack trace."""
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
    """One line about a store that cannot be opened."""
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
