"""Inputs of the batch sampler: pairs, rules of a batch, and the neighbour tables of each epoch."""

import numpy as np
from accelerate import Accelerator

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset
from gengeo_hf.data.loading import AerialImages, GroundImages
from gengeo_hf.encoding.encoder import Encoder, View
from gengeo_hf.learning import Pairs, Rules, similar_photos, similar_tiles
from gengeo_hf.learning.neighbours import training_neighbours, true_tiles
from gengeo_hf.training.descriptors import encode_distributed, encode_parts, gather_parts
from gengeo_hf.training.settings import Settings
from gengeo_hf.training.token_cache import TokenCache

# Descriptors of photos and of tiles, and the row of the tile of each photo in the latter.
Mined = tuple[np.ndarray, np.ndarray, np.ndarray]


def training_pairs(train: CrossViewDataset) -> Pairs:
    """Return the gallery rows and positions of the training pairs, for the sampler."""
    row_of = {tile: row for row, tile in enumerate(train.gallery["tile_id"][:])}
    semi_ids = [row or [] for row in train.queries["semi_positives"][:]]
    semi = np.full((len(semi_ids), max(1, *(len(row) for row in semi_ids))), -1)
    for query, row in enumerate(semi_ids):
        semi[query, : len(row)] = [row_of[tile] for tile in row]
    positions = np.array([train.queries["lat"][:], train.queries["lon"][:]], dtype=float).T
    return Pairs(train.positive_rows(), semi, None if np.isnan(positions).any() else positions)


def batch_rules(settings: Settings, pairs: Pairs | None = None) -> Rules:
    """Return the rules of a batch.

    Args:
        settings: Settings of the run.
        pairs: Training pairs to check against the rules; None checks nothing.

    Raises:
        GenGeoError: The pairs cannot fill one batch, or do not have the positions that the rules need.
    """
    given = settings.sampling
    if pairs is not None:
        tiles = len(np.unique(pairs.tile_of_query))
        if tiles < given.batch_size:  # the tiles of a batch are different
            raise GenGeoError(
                f"{len(pairs):,} training pairs of {tiles:,} tiles cannot fill a batch of {given.batch_size} different "
                "tiles: set a smaller sampling.batch_size or give more data"
            )
        if given.min_negative_distance_m and pairs.lat_lon is None:
            raise GenGeoError("sampling.min_negative_distance_m needs the position of every training photo")
    if given.protocol == "sample4geo":
        return Rules.sample4geo(given.batch_size, given.neighbours)
    return Rules(
        given.batch_size,
        given.neighbours,
        random_share=given.random_share,
        ban_semi_positives=given.semi_positives == "banned",
        min_negative_distance_m=given.min_negative_distance_m,
    )


def neighbour_tables(
    settings: Settings,
    epoch: int,
    train: CrossViewDataset,
    pairs: Pairs,
    tables: dict[str, np.ndarray],
    accelerator: Accelerator,
    encoder: Encoder,
    cache: TokenCache | None = None,
) -> Mined | None:
    """Update the neighbour tables for an epoch.

    If tiles have no position, there is no geographic table: a message is printed, and batches are random.

    Args:
        settings: Settings of the run.
        epoch: One-based epoch.
        train: Training split.
        pairs: Pairs of the training split.
        tables: Neighbour tables by name, changed in place.
        accelerator: Accelerator with the processes and the device.
        encoder: Encoder with the current weights.
        cache: Outputs of the frozen blocks; None encodes the images.

    Returns:
        Descriptors if they were computed in this epoch, for the report of the sampler; else None.
    """
    given = settings.sampling
    first_phase = epoch <= given.gps_epochs or not given.mining_every
    mined = None
    if not first_phase and (epoch - given.gps_epochs - 1) % given.mining_every == 0:
        mined = encode_training_pairs(settings, train, pairs, accelerator, encoder, cache)
        for name in set(tables) - {"geographic"}:
            del tables[name]
        tables |= visual_tables(settings, pairs, mined, accelerator)
    on_map = given.first_phase == "geographic" if first_phase else given.geographic_share > 0
    if not on_map:
        tables.pop("geographic", None)
    elif "geographic" not in tables:
        lost = int(np.isnan(true_tiles(train)[1:]).any(axis=0).sum())
        if not lost:
            tables["geographic"] = geographic_table(train, pairs, given.pool, given.legacy_degrees)
        else:
            accelerator.print(
                f"epoch {epoch}: no geographic neighbours, since {lost:,} training tiles and their photos have no "
                "position: batches are random; sampling.first_phase=random avoids this message"
            )
    if given.protocol == "sample4geo":
        for name, table in tables.items():
            tables[name] = last_photo_of_a_tile(pairs, table)
    return mined


def table_shares(settings: Settings, tables: dict[str, np.ndarray]) -> list[float]:
    """Return the fraction of the neighbours of an anchor from each table, in the order of `tables`."""
    visual = sum(name != "geographic" for name in tables)
    on_map = settings.sampling.geographic_share if visual else 1.0
    return [on_map if name == "geographic" else (1 - on_map * ("geographic" in tables)) / visual for name in tables]


def encode_training_pairs(
    settings: Settings,
    train: CrossViewDataset,
    pairs: Pairs,
    accelerator: Accelerator,
    encoder: Encoder,
    cache: TokenCache | None = None,
) -> Mined:
    """Encode all photos and all tiles that are the true tile of a photo; other tiles are not in batches."""
    tiles, photo_of_tile, own = np.unique(pairs.tile_of_query, return_index=True, return_inverse=True)
    if cache is not None:

        def from_tokens(view: View, rows: np.ndarray) -> np.ndarray:
            return encode_parts(rows, lambda part: cache.encode(encoder, view, part), accelerator, encoder)

        return from_tokens("ground", np.arange(len(pairs))), from_tokens("aerial", photo_of_tile), own
    readers = settings.data.workers
    photo_images, tile_images = GroundImages(train, replace_broken=True), AerialImages(train, replace_broken=True)
    ground = encode_distributed(photo_images, "ground", accelerator, encoder, readers=readers)
    aerial = encode_distributed(tile_images, "aerial", accelerator, encoder, tiles, readers)
    return ground, aerial, own


def visual_tables(settings: Settings, pairs: Pairs, mined: Mined, accelerator: Accelerator) -> dict[str, np.ndarray]:
    """Return the tables of the tiles that the model confuses with the true tile of each photo.

    Args:
        settings: Settings of the run.
        pairs: Pairs of the training split.
        mined: Descriptors, from `encode_training_pairs`.
        accelerator: Accelerator; each process searches for a part of the photos.

    Returns:
        Gallery rows, int32 (queries, K), by name of the table.
    """
    given, (ground, aerial, own) = settings.sampling, mined
    tiles = np.unique(pairs.tile_of_query)
    options = {"max_similarity": given.max_similarity, "device": accelerator.device}
    share = -(-len(pairs) // accelerator.num_processes)
    part = np.arange(len(pairs))[accelerator.process_index * share : (accelerator.process_index + 1) * share]
    found = {"visual": similar_tiles(ground[part], aerial, own[part], given.pool, **options)}
    if given.mining_direction == "both":
        found["visual_reverse"] = similar_photos(ground, aerial[own[part]], own, own[part], given.pool, **options)
    out = {}
    for name, rows in found.items():
        every = gather_parts(rows, len(pairs), share, accelerator)
        out[name] = np.where(every >= 0, tiles[every], -1).astype(np.int32)
    return out


def geographic_table(train: CrossViewDataset, pairs: Pairs, pool: int, legacy_degrees: bool) -> np.ndarray:
    """Return the nearest training tiles of the true tile of each query, gallery rows, int32 (queries, K)."""
    others = len(np.unique(pairs.tile_of_query)) - 1
    found = training_neighbours(train, min(pool, others), legacy_degrees=legacy_degrees)
    return found.rows_for(train.queries["positive"][:], train.gallery["tile_id"][:])


def last_photo_of_a_tile(pairs: Pairs, table: np.ndarray) -> np.ndarray:
    """Give all photos of a tile the row of the last one, as Sample4Geo, which stores one list per tile."""
    tiles = pairs.tile_of_query.tolist()
    last = {tile: photo for photo, tile in enumerate(tiles)}
    return table[[last[tile] for tile in tiles]]


def coverage_mask(pairs: Pairs, rows: np.ndarray) -> np.ndarray:
    """Return which tiles of a batch cover the position of which photo, bool (photos, tiles); True on the diagonal."""
    tiles = pairs.tile_of_query[rows]
    mask: np.ndarray = tiles[:, None] == tiles[None]
    if pairs.semi_positives is not None:
        mask |= (np.asarray(pairs.semi_positives)[rows][:, :, None] == tiles).any(axis=1)
    return mask
