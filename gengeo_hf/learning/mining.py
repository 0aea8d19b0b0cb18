"""Which tiles look most like a photo's place: the table of visual neighbours (dynamic similarity sampling).

For each training photo the K tiles that the model confuses with its own, which the batch sampler turns into batches
of hard negatives (Sample4Geo; GenGeo, section 3.4.2).
"""

import numpy as np
import torch

BLOCK = 2048
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

    Raises:
        ValueError: there is no second tile.
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
    """The other direction: the tiles of the k photos most similar to each tile, photos of the same tile left out.

    The loss is symmetric, so a tile needs photos that could be taken for its own as a photo needs tiles.

    Args:
        ground: unit descriptors of all photos, float32 (photos, dim).
        aerial: unit descriptors of the tiles that ask, float32 (tiles, dim).
        tile_of_photo: row of each photo's true tile, int (photos,).
        own_tile: row of each asking tile in the same numbering, int (tiles,).
        k: how many neighbours.
        max_similarity: photos at or above this cosine are left out (None: none is).
        device: where the blocks are multiplied.

    Returns:
        Tile rows, int32 (tiles, k), those of the most similar photo first (a tile with two photos may occur twice); -1
        where fewer than k photos qualify.
    """
    photos = _nearest(aerial, ground, own_tile, tile_of_photo, min(k, len(ground) - 1), max_similarity, device)
    return np.where(photos >= 0, np.asarray(tile_of_photo)[photos], -1).astype(np.int32)


def _nearest(
    asking: np.ndarray,
    answering: np.ndarray,
    own: np.ndarray,
    label: np.ndarray,
    k: int,
    max_similarity: float | None,
    device: Device,
) -> np.ndarray:
    """For each asking row the k most similar answering rows whose label is not its own, int32 (asking, k)."""
    found = np.empty((len(asking), k), dtype=np.int32)
    for first in range(0, len(asking), BLOCK):
        rows = slice(first, first + BLOCK)
        found[rows] = _best_of_block(asking[rows], answering, own[rows], label, k, max_similarity, device)
    return found


def _best_of_block(
    asking: np.ndarray,
    answering: np.ndarray,
    own: np.ndarray,
    label: np.ndarray,
    k: int,
    max_similarity: float | None,
    device: Device,
) -> np.ndarray:
    """`_nearest` for one block of asking rows: merge the best k so far with each block of answering rows."""
    queries = torch.as_tensor(asking, dtype=torch.float32, device=device)
    own_label = torch.as_tensor(own, device=device)[:, None]
    best = torch.full((len(queries), k), -torch.inf, device=device)
    rows = torch.full((len(queries), k), -1, dtype=torch.int64, device=device)
    for first in range(0, len(answering), BLOCK):
        items = torch.as_tensor(answering[first : first + BLOCK], dtype=torch.float32, device=device)
        scores = queries @ items.T
        if max_similarity is not None:
            scores.masked_fill_(scores >= max_similarity, -torch.inf)
        labels = torch.as_tensor(label[first : first + BLOCK], device=device)
        scores.masked_fill_(own_label == labels, -torch.inf)
        block_best, block_rows = scores.topk(min(k, len(items)), dim=1)
        best, order = torch.cat([best, block_best], dim=1).topk(k, dim=1)
        rows = torch.cat([rows, block_rows + first], dim=1).gather(1, order)
    return rows.masked_fill(torch.isinf(best), -1).to(torch.int32).cpu().numpy()
