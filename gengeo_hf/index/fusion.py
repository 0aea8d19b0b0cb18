"""Searches an index with tiles of several ground sizes, and fuses the scores of tiles with the same centre.

A cell is the set of tiles with one centre. Its score is the mean or the maximum of the cosines of its tiles. Cells with
a tile among the best single tiles are scored exactly from all of their tiles.
"""

from typing import TYPE_CHECKING

import numpy as np

from gengeo_hf.common.errors import GenGeoError

if TYPE_CHECKING:
    from gengeo_hf.common.area import Area
    from gengeo_hf.index.version import Version

FUSIONS = ("mean", "max")
DEPTH = 8  # single tiles that are searched for each requested cell and each ground size
LEAST_DEPTH = 256


def check_fusion(name: str) -> str:
    """Return the name of a fusion if it exists.

    Raises:
        GenGeoError: The name is unknown.
    """
    if name not in FUSIONS:
        raise GenGeoError(f"unknown fusion {name!r}: expected {' or '.join(FUSIONS)}")
    return name


class CellSearch:
    """Fused search over one version of an index.

    Args:
        version: Open version of an index.
        fusion: "mean" or "max".
    """

    def __init__(self, version: "Version", fusion: str) -> None:
        self._version, self._mean = version, check_fusion(fusion) == "mean"
        rows, centres, sides = [np.empty(0, np.int64)], [np.empty((0, 2))], [np.empty(0)]  # all tiles may be removed
        for base, segment in zip(version.bases[:-1], version.segments, strict=True):
            live = segment.live_rows()
            tiles = segment.tiles.select(["lat", "lon", "south", "north"]).take(live)
            rows.append(live + int(base))
            centres.append(np.stack([tiles["lat"].to_numpy(), tiles["lon"].to_numpy()], axis=1))
            sides.append(np.nan_to_num(tiles["north"].to_numpy() - tiles["south"].to_numpy(), nan=np.inf))
        row, centre, side = (np.concatenate(parts) for parts in (rows, centres, sides))
        cells = np.unique(centre, axis=0, return_inverse=True)[1].ravel()
        order = np.lexsort((side, cells))  # tiles of a cell are adjacent, the smallest first
        self._rows = row[order]
        self._first = np.concatenate([[0], np.flatnonzero(np.diff(cells[order])) + 1, [len(order)]])
        self._cell_of = np.full(int(version.bases[-1]), -1, np.int64)
        self._cell_of[row] = cells
        self._sizes = int(np.diff(self._first).max()) if len(order) else 1

    def search(self, queries: np.ndarray, k: int, area: "Area | None" = None) -> tuple[np.ndarray, np.ndarray]:
        """Find the best cells of each query.

        Args:
            queries: float32 (queries, dim), unit length.
            k: Maximum number of cells for each query.
            area: Area in which the centres of cells must lie; None searches everywhere.

        Returns:
            Fused scores, float32 (queries, cells), best first, and the row of each cell's smallest tile, int64; -1
            if there are fewer cells.
        """
        depth = max(LEAST_DEPTH, DEPTH * k) * self._sizes
        _, found = self._version.search(queries, depth, area)
        scores = np.full((len(queries), k), -np.inf, np.float32)
        rows = np.full((len(queries), k), -1, np.int64)
        for number, (query, candidates) in enumerate(zip(queries, found, strict=True)):
            cells = np.unique(self._cell_of[candidates[candidates >= 0]])
            fused = self._fused(query, cells)
            best = np.lexsort((cells, -fused))[:k]
            scores[number, : len(best)] = fused[best]
            rows[number, : len(best)] = self._rows[self._first[cells[best]]]
        return scores, rows

    def _fused(self, query: np.ndarray, cells: np.ndarray) -> np.ndarray:
        """Scores of cells from all of their tiles, float32 (cells,)."""
        if not len(cells):
            return np.zeros(0, np.float32)
        counts = self._first[cells + 1] - self._first[cells]
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]]).astype(np.int64)
        inside = np.arange(int(counts.sum())) - np.repeat(starts, counts)
        rows = self._rows[np.repeat(self._first[cells], counts) + inside]
        order = np.argsort(rows)
        scores = np.empty(len(rows), np.float32)
        scores[order] = self._version.searcher.scores(query, rows[order])
        if self._mean:
            return np.asarray(np.add.reduceat(scores, starts) / counts, dtype=np.float32)
        return np.asarray(np.maximum.reduceat(scores, starts), dtype=np.float32)
