"""Why queries fail: grouped, so that a page of strips teaches something.

From the table of queries of a `Result`: rows of each group, the clearest cases first.
"""

import numpy as np
import pyarrow as pa

from gengeo_hf.common.errors import GenGeoError

NEAR_M = 100.0
CLOSE_RANK = 10
GROUPS = {
    "near miss": "the best tile is not the true one but lies close to it",
    "look-alike far away": "the best tile is far, and the true one is among the next best",
    "lost": "the best tile is far, and the true one is not among the best",
    "unplaced": "wrong, and the distance is not known",
}


def group_failures(queries: pa.Table, *, near_m: float = NEAR_M, close_rank: int = CLOSE_RANK) -> dict[str, np.ndarray]:
    """Rows of the failed queries in each of `GROUPS`, empty groups left out.

    A query has failed when its true tile is not the best. Within a group the surest errors come first: those whose
    best tile scores highest above the true one.

    Args:
        queries: `Result.queries`.
        near_m: Metres from the true position to the centre of the best tile that still are a near miss.
        close_rank: The true tile counts as almost found when its rank is below this.

    Returns:
        For each group int64 (queries of the group,).

    Raises:
        GenGeoError: The table is not one of a result.
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


def marks_of(queries: pa.Table, row: int) -> list[str]:
    """For each best tile of a query: "right", "semi" or "wrong", as `pictures.strip` takes it.

    Args:
        queries: `Result.queries`.
        row: Of the query.
    """
    positive = queries["positive"][row].as_py()
    semi = set(queries["semi_positives"][row].as_py() or ())
    tiles = [tile for tile in queries["top_tiles"][row].as_py() if tile]
    return ["right" if tile == positive else "semi" if tile in semi else "wrong" for tile in tiles]
