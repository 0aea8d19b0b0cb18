"""Tables of visual neighbours for hard-negative batches (dynamic similarity sampling).

For each training photo, the table has the K tiles that the model confuses with the tile of the photo; the batch sampler
builds batches of hard negatives from it (Sample4Geo; GenGeo, section 3.4.2).
"""

import numpy as np
import torch

BLOCK = 2048  # rows of a block of scores
Device = str | torch.device


def similar_tiles(
    ground: np.ndarray,
    aerial: np.ndarray,
    tile_of_query: np.ndarray,
    k: int,
    *,
    max_similarity: float | None = None,
    device: Device = "cpu",
) -> np.ndarray:
    """Find the k tiles most similar to each ground photo, except its true tile.

    Computed in blocks of photos and tiles: besides the descriptors, memory holds one block of scores and the best k.

    Args:
        ground: Unit descriptors of the photos, float32 (queries, dim).
        aerial: Unit descriptors of the tiles, float32 (tiles, dim).
        tile_of_query: Row of the true tile of each photo, int (queries,).
        k: Number of neighbours; limited to the number of tiles minus one.
        max_similarity: Tiles with at least this cosine are assumed to show the same ground and excluded; None excludes
            none.
        device: Device of the matrix products.

    Returns:
        Tile rows, int32 (queries, k), most similar first; -1 where fewer than k tiles qualify.

    Raises:
        ValueError: There are fewer than two tiles.
    """
    if len(aerial) < 2:
        raise ValueError(f"mining needs at least two tiles, found {len(aerial)}")
    tiles = np.arange(len(aerial))
    return _nearest(ground, aerial, tile_of_query, tiles, min(k, len(aerial) - 1), max_similarity, device)


def similar_photos(
    ground: np.ndarray,
    aerial: np.ndarray,
    tile_of_photo: np.ndarray,
    own_tile: np.ndarray,
    k: int,
    *,
    max_similarity: float | None = None,
    device: Device = "cpu",
) -> np.ndarray:
    """Find the tiles of the k photos most similar to each tile, except photos of the same tile.

    The loss is symmetric: a tile needs hard negative photos as a photo needs hard negative tiles.

    Args:
        ground: Unit descriptors of all photos, float32 (photos, dim).
        aerial: Unit descriptors of the tiles to search for, float32 (tiles, dim).
        tile_of_photo: Row of the true tile of each photo, int (photos,).
        own_tile: Row of each tile of `aerial` in the numbering of `tile_of_photo`, int (tiles,).
        k: Number of neighbours.
        max_similarity: Photos with at least this cosine are excluded; None excludes none.
        device: Device of the matrix products.

    Returns:
        Tile rows, int32 (tiles, k), those of the most similar photo first (a tile with two photos may occur twice); -1
        where fewer than k photos qualify.
    """
    photos = _nearest(aerial, ground, own_tile, tile_of_photo, min(k, len(ground) - 1), max_similarity, device)
    return np.where(photos >= 0, np.asarray(tile_of_photo)[photos], -1).astype(np.int32)


def _nearest(
    queries: np.ndarray,
    items: np.ndarray,
    own: np.ndarray,
    label: np.ndarray,
    k: int,
    max_similarity: float | None,
    device: Device,
) -> np.ndarray:
    """Find the k most similar rows of `items` with another label for each query, int32 (queries, k)."""
    found = np.empty((len(queries), k), dtype=np.int32)
    for first in range(0, len(queries), BLOCK):
        rows = slice(first, first + BLOCK)
        found[rows] = _nearest_of_block(queries[rows], items, own[rows], label, k, max_similarity, device)
    return found


def _nearest_of_block(
    block: np.ndarray,
    items: np.ndarray,
    own: np.ndarray,
    label: np.ndarray,
    k: int,
    max_similarity: float | None,
    device: Device,
) -> np.ndarray:
    """Compute `_nearest` for one block of queries: merge the best k so far with each block of items."""
    queries = torch.as_tensor(block, dtype=torch.float32, device=device)
    own_label = torch.as_tensor(own, device=device)[:, None]
    best = torch.full((len(queries), k), -torch.inf, device=device)
    rows = torch.zeros((len(queries), k), dtype=torch.int64, device=device)
    for first in range(0, len(items), BLOCK):
        part = torch.as_tensor(items[first : first + BLOCK], dtype=torch.float32, device=device)
        scores = queries @ part.T
        if max_similarity is not None:
            scores.masked_fill_(scores >= max_similarity, -torch.inf)
        labels = torch.as_tensor(label[first : first + BLOCK], device=device)
        scores.masked_fill_(own_label == labels, -torch.inf)
        part_best, part_rows = scores.topk(min(k, len(part)), dim=1)
        best, order = torch.cat([best, part_best], dim=1).topk(k, dim=1)
        rows = torch.cat([rows, part_rows + first], dim=1).gather(1, order)
    return rows.masked_fill(torch.isinf(best), -1).to(torch.int32).cpu().numpy()
