"""Groups the failed queries of a `Result` by distance and rank, the clearest cases of each group first."""

import numpy as np
import pyarrow as pa

from gengeo_hf.common.errors import GenGeoError

NEAR_M = 100.0
CLOSE_RANK = 10
GROUPS = {
    "near miss": "the best tile is not the true one but lies close to it",
    "look-alike far away": "the best tile is far away, and the true one is among the next best",
    "lost": "the best tile is far away, and the true one is not among the best",
    "unplaced": "wrong, and the distance is not known",
}


def group_failures(queries: pa.Table, *, near_m: float = NEAR_M, close_rank: int = CLOSE_RANK) -> dict[str, np.ndarray]:
    """Group the rows of the failed queries; empty groups are left out.

    A query fails when its true tile is not the best. Within a group, queries are ordered by the score of the best tile
    minus that of the true tile, largest first.

    Args:
        queries: Table of `Result.queries`.
        near_m: Largest distance of a near miss, metres from the true position to the centre of the best tile.
        close_rank: A far failure is a look-alike when the rank of its true tile (from 0) is below this, else lost.

    Returns:
        int64 (queries of the group,) row indices by name of `GROUPS`.

    Raises:
        GenGeoError: The table lacks a column of `Result.queries`.
    """
    needed = ("rank", "error_m", "top_scores", "positive_score")
    if missing := [name for name in needed if name not in queries.column_names]:
        raise GenGeoError(f"the table of queries lacks {', '.join(missing)}; take the one that gengeo evaluate wrote")
    rank, error, own = (queries[name].to_numpy() for name in ("rank", "error_m", "positive_score"))
    best = np.array([scores[0] for scores in queries["top_scores"].to_pylist()])
    failed, far = rank >= 1, error > near_m  # an unknown distance (NaN) is neither near nor far
    masks = {
        "near miss": failed & (error <= near_m),
        "look-alike far away": failed & far & (rank < close_rank),
        "lost": failed & far & (rank >= close_rank),
        "unplaced": failed & np.isnan(error),
    }
    margin = best - own
    groups = {}
    for name, mask in masks.items():
        rows = np.nonzero(mask)[0]
        if len(rows):
            groups[name] = rows[np.argsort(-margin[rows], kind="stable")]
    return groups


def tile_labels(queries: pa.Table, row: int) -> list[str]:
    """Label each of the best tiles of a query "right", "semi" or "wrong", for `pictures.strip`.

    Args:
        queries: Table of `Result.queries`.
        row: Row of the query.
    """
    positive = queries["positive"][row].as_py()
    semi = set(queries["semi_positives"][row].as_py() or ())
    tiles = [tile for tile in queries["top_tiles"][row].as_py() if tile]
    return ["right" if tile == positive else "semi" if tile in semi else "wrong" for tile in tiles]
