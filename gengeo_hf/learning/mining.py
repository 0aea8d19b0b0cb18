"""Which tiles look most like a photo's place: the table of visual neighbours (dynamic similarity sampling).

Before: descriptors of all training photos and tiles. After: for each photo the K tiles that the model confuses
with its own, which the batch sampler turns into batches of hard negatives (Sample4Geo; GenGeo, section 3.5).
"""

import numpy as np
import torch

BLOCK = 2048


def similar_tiles(
    ground: np.ndarray,
    aerial: np.ndarray,
    tile_of_query: np.ndarray,
    k: int,
    *,
    max_similarity: float | None = None,
    device: str | torch.device = "cpu",
) -> np.ndarray:
    """The k tiles most similar to each ground photo, its own tile left out.

    Streams over blocks of photos and of tiles: beyond the descriptors it holds one block of scores and the running
    best k, whatever the number of photos.

    Args:
        ground: unit descriptors of the photos, float32 (queries, dim).
        aerial: unit descriptors of the tiles, float32 (tiles, dim).
        tile_of_query: row of each photo's true tile, int (queries,).
        k: how many neighbours; fewer than the number of tiles.
        max_similarity: tiles at or above this cosine are taken for the same place and left out (None: none is).
        device: where the blocks are multiplied.

    Returns:
        Tile rows, int32 (queries, k), most similar first; -1 where fewer than k tiles qualify.
    """
    k = min(k, len(aerial) - 1)
    if k < 1:
        raise ValueError(f"mining needs at least two tiles, found {len(aerial)}")
    found = np.empty((len(ground), k), dtype=np.int32)
    for first in range(0, len(ground), BLOCK):
        rows = slice(first, first + BLOCK)
        found[rows] = _best_of_block(ground[rows], aerial, tile_of_query[rows], k, max_similarity, device)
    return found


def _best_of_block(
    ground: np.ndarray,
    aerial: np.ndarray,
    own_tile: np.ndarray,
    k: int,
    max_similarity: float | None,
    device: str | torch.device,
) -> np.ndarray:
    """`similar_tiles` for one block of photos: merge the best k so far with each block of tiles."""
    queries = torch.as_tensor(ground, dtype=torch.float32, device=device)
    own = torch.as_tensor(own_tile, device=device)
    best = torch.full((len(queries), k), -torch.inf, device=device)
    rows = torch.full((len(queries), k), -1, dtype=torch.int64, device=device)
    for first in range(0, len(aerial), BLOCK):
        tiles = torch.as_tensor(aerial[first : first + BLOCK], dtype=torch.float32, device=device)
        scores = queries @ tiles.T
        if max_similarity is not None:
            scores.masked_fill_(scores >= max_similarity, -torch.inf)
        inside = (own >= first) & (own < first + len(tiles))
        scores[inside.nonzero()[:, 0], own[inside] - first] = -torch.inf
        block_best, block_rows = scores.topk(min(k, len(tiles)), dim=1)
        best, order = torch.cat([best, block_best], dim=1).topk(k, dim=1)
        rows = torch.cat([rows, block_rows + first], dim=1).gather(1, order)
    return rows.masked_fill(torch.isinf(best), -1).to(torch.int32).cpu().numpy()
