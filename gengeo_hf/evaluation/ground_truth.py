"""The ground truth of a data set for evaluation: ids, true tiles and positions, without images."""

import base64
import hashlib
import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from gengeo_hf.common.schema import CrossViewDataset


@dataclass(frozen=True)
class GroundTruth:
    """Ids, pairs and positions of a data set, without images.

    Args:
        name: Name of the data set, for example `world/urban/test`.
        query_ids: Id of each query.
        tile_ids: Id of each tile of the gallery.
        positive_rows: (queries,) gallery row of each true tile.
        semi_positive_rows: (queries, S) gallery rows of semi-positives, -1 for none; None where no query has any.
        query_positions: (queries, 2) latitude, longitude in degrees, NaN where unknown.
        gallery_positions: (tiles, 2) tile centres, as `query_positions`.
        areas: Area of each query, None where unknown.
    """

    name: str
    query_ids: list[str]
    tile_ids: list[str]
    positive_rows: np.ndarray
    semi_positive_rows: np.ndarray | None
    query_positions: np.ndarray
    gallery_positions: np.ndarray
    areas: list[str | None]

    @classmethod
    def from_dataset(cls, data: "CrossViewDataset") -> "GroundTruth":
        """Read ids, pairs and positions of a data set."""
        tiles = data.gallery["tile_id"][:]
        row_of = {tile: row for row, tile in enumerate(tiles)}
        lists = [[row_of[tile] for tile in row or ()] for row in data.queries["semi_positives"][:]]
        semi = np.full((len(lists), max(map(len, lists))), -1, dtype=np.int64)
        for number, rows in enumerate(lists):
            semi[number, : len(rows)] = rows
        return cls(
            data.name,
            list(data.queries["query_id"][:]),
            list(tiles),
            data.positive_rows(),
            semi if semi.shape[1] else None,
            _positions(data.queries),
            _positions(data.gallery),
            list(data.queries["area"][:]),
        )

    @property
    def fingerprint(self) -> str:
        """Digest of ids, pairs and positions; results with equal fingerprints may be compared query by query."""
        digest = hashlib.sha256()
        for part in (self.query_ids, self.tile_ids, self.positive_rows.tolist()):
            digest.update(json.dumps(part).encode())
        for array in (self.semi_positive_rows, self.query_positions, self.gallery_positions):
            digest.update(b"none" if array is None else np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()

    def count_known_pairs(self, stored: str | None) -> int:
        """Count the queries that are among stored pairs.

        Args:
            stored: Text of `pair_hashes`; None or "" counts 0.
        """
        if not stored:
            return 0
        content = np.frombuffer(base64.b64decode(stored), dtype=np.uint8).reshape(-1, _HASH_BYTES)
        return int(np.isin(_hashes(self), _as_integers(content)).sum())

    @property
    def has_all_positions(self) -> bool:
        """Whether every query and tile has a position."""
        return not (np.isnan(self.query_positions).any() or np.isnan(self.gallery_positions).any())


_HASH_BYTES = 5  # for each pair: no accidental match in thousands of evaluations, 175 kB for CVUSA


def pair_hashes(data: "CrossViewDataset") -> str:
    """Hash all pairs of a data set to base64 text for a training record; see `GroundTruth.count_known_pairs`."""
    hashes = np.unique(_hashes(GroundTruth.from_dataset(data)))
    return base64.b64encode(hashes.astype(">u8").view(np.uint8).reshape(-1, 8)[:, -_HASH_BYTES:].tobytes()).decode()


def _hashes(truth: GroundTruth) -> np.ndarray:
    """Hash of each pair: ids of photo and tile, and the photo's position; uint64 (queries,)."""
    digests = []
    for row, query in enumerate(truth.query_ids):
        tile, (lat, lon) = truth.tile_ids[truth.positive_rows[row]], truth.query_positions[row]
        digests.append(hashlib.sha256(f"{query}\n{tile}\n{lat:.6f} {lon:.6f}".encode()).digest()[:_HASH_BYTES])
    return _as_integers(np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(-1, _HASH_BYTES))


def _as_integers(content: np.ndarray) -> np.ndarray:
    """(pairs, bytes) uint8 to uint64 (pairs,), the first byte the highest."""
    padded = np.zeros((len(content), 8), dtype=np.uint8)
    padded[:, -_HASH_BYTES:] = content
    return padded.view(">u8")[:, 0].astype(np.uint64)


def _positions(table: Any) -> np.ndarray:
    """(rows, 2) float64 latitude, longitude; null becomes NaN."""
    return np.array([table["lat"][:], table["lon"][:]], dtype=np.float64).T
