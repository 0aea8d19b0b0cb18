"""Which places lie next to which: the table of geographic neighbours for the first phase of training.

Before: ids and positions. After: for each place its K nearest, with distances, for the batch sampler.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from scipy.spatial import cKDTree

from gengeo_hf.errors import GenGeoError
from gengeo_hf.files import atomic_file

EARTH_RADIUS_M = 6_371_008.8  # mean radius of the IUGG


@dataclass(frozen=True)
class NeighbourTable:
    """Nearest places of each place, itself left out.

    Args:
        ids: the places.
        neighbours: rows of `ids`, nearest first, int32 (places, k).
        distances_m: great-circle distances in metres, float32 (places, k).
        kind: "great_circle", or "legacy_degrees" for the published error.
    """

    ids: list[str]
    neighbours: np.ndarray
    distances_m: np.ndarray
    kind: str

    @property
    def fingerprint(self) -> str:
        """Hash of the ids in their order: a table of other data must not be used."""
        return hashlib.sha256("\n".join(self.ids).encode()).hexdigest()

    def save(self, path: str | Path) -> None:
        """Write as Parquet, by id."""
        k = self.neighbours.shape[1]
        ids = pa.DictionaryArray.from_arrays(pa.array(self.neighbours.ravel()), pa.array(self.ids))
        table = pa.table(
            {
                "id": self.ids,
                "neighbours": pa.FixedSizeListArray.from_arrays(ids, k),
                "distances_m": pa.FixedSizeListArray.from_arrays(pa.array(self.distances_m.ravel()), k),
            }
        ).replace_schema_metadata({"kind": self.kind, "fingerprint": self.fingerprint})
        with atomic_file(path) as temporary:
            pq.write_table(table, temporary)

    @classmethod
    def load(cls, path: str | Path, ids: Sequence[str] | None = None) -> NeighbourTable:
        """Read a table, and check that it was made for `ids`, in any order, if they are given.

        Raises:
            GenGeoError: it is missing, damaged, or made for other places.
        """
        try:
            table = pq.read_table(path)
            found = table["id"].to_pylist()
            lists, distances = table["neighbours"].combine_chunks(), table["distances_m"].combine_chunks()
            metadata = table.schema.metadata or {}
            row_of = {name: row for row, name in enumerate(found)}
            rows = np.array([row_of[name] for name in lists.flatten().to_pylist()], dtype=np.int32)
            out = cls(
                found,
                rows.reshape(len(found), -1),
                distances.flatten().to_numpy().reshape(len(found), -1),
                metadata[b"kind"].decode(),
            )
        except (OSError, pa.ArrowException, KeyError, ValueError) as error:
            raise GenGeoError(f"{path} is no neighbour table ({error}); make it again") from error
        if out.fingerprint != metadata[b"fingerprint"].decode():
            raise GenGeoError(f"{path} is damaged: its ids do not match its fingerprint; make it again")
        if ids is not None and list(ids) != found:
            if set(ids) != set(found):
                raise GenGeoError(f"{path} was made for {len(found)} other places, not for these {len(ids)}")
            out = out._in_order_of(list(ids))
        return out

    def _in_order_of(self, ids: list[str]) -> NeighbourTable:
        row_of = {name: row for row, name in enumerate(self.ids)}
        old_rows = np.array([row_of[name] for name in ids])
        new_of_old = np.empty(len(ids), dtype=np.int32)
        new_of_old[old_rows] = np.arange(len(ids))
        return NeighbourTable(ids, new_of_old[self.neighbours[old_rows]], self.distances_m[old_rows], self.kind)


def great_circle_neighbours(
    ids: Sequence[str],
    lat: Sequence[float] | np.ndarray,
    lon: Sequence[float] | np.ndarray,
    k: int,
    *,
    legacy_degrees: bool = False,
) -> NeighbourTable:
    """The k nearest places of each place on the sphere, exactly.

    Places become points on the unit sphere, where the straight distance orders as the great circle does, and a
    KD-tree finds the nearest: no N x N matrix, and right at the poles and across the date line.

    Args:
        ids: unique names.
        lat, lon: degrees, WGS84.
        k: neighbours of each place, less than the number of places.
        legacy_degrees: reproduce the published scripts, which gave degrees to a metric that expects radians, so that
            places 6.28 degrees apart count as one. For comparison only; distances are then the true ones of the
            wrong neighbours.

    Raises:
        GenGeoError: a position is missing or out of range, or there are not more than k places.
    """
    lat, lon = np.asarray(lat, dtype=np.float64), np.asarray(lon, dtype=np.float64)
    if not (np.isfinite(lat).all() and np.isfinite(lon).all()):
        raise GenGeoError("geographic neighbours need the position of every place; some lat or lon are missing")
    if np.abs(lat).max() > 90 or np.abs(lon).max() > 180:
        raise GenGeoError("lat must lie in -90..90 and lon in -180..180 degrees; are they swapped or in metres?")
    if not 0 < k < len(lat):
        raise GenGeoError(f"{len(lat)} places have at most {len(lat) - 1} neighbours each, {k} were asked for")
    points = unit_vectors(lat, lon)
    searched = _unit(lat, lon) if legacy_degrees else points
    _, rows = cKDTree(searched).query(searched, k=k + 1, workers=-1)
    rows = _without_self(rows, k)
    chord = np.linalg.norm(points[rows] - points[:, None], axis=2)
    distances = 2 * EARTH_RADIUS_M * np.arcsin(np.minimum(chord / 2, 1.0))
    kind = "legacy_degrees" if legacy_degrees else "great_circle"
    return NeighbourTable(list(ids), rows.astype(np.int32), distances.astype(np.float32), kind)


def unit_vectors(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    """Degrees to points on the unit sphere, float64 (n, 3)."""
    return _unit(np.radians(lat), np.radians(lon))


def _unit(lat: np.ndarray, lon: np.ndarray) -> np.ndarray:
    return np.stack([np.cos(lat) * np.cos(lon), np.cos(lat) * np.sin(lon), np.sin(lat)], axis=1)


def _without_self(rows: np.ndarray, k: int) -> np.ndarray:
    """Drop each place from its own list. Among places at one position, itself need not come first."""
    own = rows == np.arange(len(rows))[:, None]
    own[~own.any(axis=1), -1] = True  # crowded out by more than k others at the same position
    return rows[~own].reshape(len(rows), k)
