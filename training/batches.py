"""From a dataset to batches: what may meet in a batch, and the neighbour tables of each epoch.

Before: a `CrossViewDataset` and the present weights. After: `Pairs`, `Rules` and tables for the batch sampler.
"""

import numpy as np
import torch
from accelerate import Accelerator

from gengeo_hf.data import CrossViewDataset
from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.data.neighbours import great_circle_neighbours
from gengeo_hf.encoder import Encoder, View
from gengeo_hf.errors import GenGeoError
from gengeo_hf.learning import Pairs, Rules, similar_tiles
from settings import Settings


def training_pairs(train: CrossViewDataset) -> Pairs:
    """Rows and positions of the training pairs, for the sampler."""
    row_of = {tile: row for row, tile in enumerate(train.gallery["tile_id"][:])}
    semi_ids = [row or [] for row in train.queries["semi_positives"][:]]
    semi = np.full((len(semi_ids), max(1, *(len(row) for row in semi_ids))), -1)
    for query, row in enumerate(semi_ids):
        semi[query, : len(row)] = [row_of[tile] for tile in row]
    positions = np.array([train.queries["lat"][:], train.queries["lon"][:]], dtype=float).T
    return Pairs(train.positive_rows(), semi, None if np.isnan(positions).any() else positions)


def batch_rules(settings: Settings) -> Rules:
    """The layout of a batch."""
    given = settings.sampling
    if given.protocol == "sample4geo":
        return Rules.sample4geo(given.batch_size, given.neighbours)
    if given.protocol != "gengeo":
        raise GenGeoError(f"sampling.protocol is {given.protocol!r}; it must be gengeo or sample4geo")
    return Rules(
        given.batch_size,
        given.neighbours,
        random_share=given.random_share,
        min_negative_distance_m=given.min_negative_distance_m,
    )


def neighbour_table(
    settings: Settings,
    epoch: int,
    train: CrossViewDataset,
    pairs: Pairs,
    tables: dict[str, np.ndarray],
    accelerator: Accelerator,
    encoder: Encoder,
) -> tuple[np.ndarray | None, tuple[np.ndarray, ...]]:
    """The table that this epoch's batches are grown from, and the descriptors if they were just made."""
    given, mined = settings.sampling, ()
    every = given.mining_every
    due = every and epoch > given.gps_epochs and (epoch - given.gps_epochs - 1) % every == 0
    if due:
        ground = describe(GroundImages(train), "ground", accelerator, encoder)
        aerial = describe(AerialImages(train), "aerial", accelerator, encoder)
        mined = (ground, aerial)
        candidates = np.unique(pairs.tile_of_query)  # a tile that is nobody's positive cannot be batched
        own = np.searchsorted(candidates, pairs.tile_of_query)
        found = similar_tiles(
            ground, aerial[candidates], own, given.pool, max_similarity=given.max_similarity, device=accelerator.device
        )
        tables.clear()
        tables["visual"] = np.where(found >= 0, candidates[found], -1).astype(np.int32)
    elif not tables and epoch <= max(given.gps_epochs, 0 if every else epoch) and pairs.lat_lon is not None:
        tables["geographic"] = geographic_table(train, pairs, given.pool, given.legacy_degrees)
    return next(iter(tables.values()), None), mined


def geographic_table(train: CrossViewDataset, pairs: Pairs, pool: int, legacy_degrees: bool) -> np.ndarray:
    """Nearest training tiles of each query's tile, int32 (queries, K) of gallery rows."""
    candidates = np.unique(pairs.tile_of_query)
    gallery = train.gallery.select_columns(["tile_id", "lat", "lon"])[candidates]
    found = great_circle_neighbours(
        gallery["tile_id"],
        gallery["lat"],
        gallery["lon"],
        min(pool, len(candidates) - 1),
        legacy_degrees=legacy_degrees,
    )
    of_tile = candidates[found.neighbours].astype(np.int32)
    return of_tile[np.searchsorted(candidates, pairs.tile_of_query)]


def describe(images: GroundImages | AerialImages, view: View, accelerator: Accelerator, encoder: Encoder) -> np.ndarray:
    """Descriptors of a whole table, each process describing its part; every process gets all of them."""
    encoder.model.eval()
    parts = np.array_split(np.arange(len(images)), accelerator.num_processes)
    longest = len(parts[0])
    own = np.zeros((longest, encoder.dim), dtype=np.float32)
    mine = parts[accelerator.process_index]
    own[: len(mine)] = encoder.encode(
        [images[int(row)] for row in mine] if accelerator.num_processes > 1 else images, view
    )
    every = accelerator.gather(torch.from_numpy(own).to(accelerator.device)).cpu().numpy()
    return np.concatenate([every[i * longest : i * longest + len(part)] for i, part in enumerate(parts)])
