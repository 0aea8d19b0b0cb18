"""Stores the keys of pose heads for all tiles of an index, so that pose estimation does not need the imagery."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.data.loading import resize_images
from gengeo_hf.index.pose_features import StoredFeatures, features_path, write_features
from gengeo_hf.localization.sources import batched
from gengeo_hf.pose.head import FOLDER, PoseHead, heads_of
from gengeo_hf.pose.tokens import check_head, normalised, patch_tokens

if TYPE_CHECKING:
    from gengeo_hf.encoding.encoder import Encoder
    from gengeo_hf.index import GeoIndex


def store_features(
    encoder: Encoder,
    checkpoint: str | Path,
    index: GeoIndex,
    imagery: Any,
    *,
    batch_size: int = 64,
    progress: Callable[[str], None] = lambda line: None,
) -> dict[str, int]:
    """Store the keys of every head of a checkpoint for the tiles of an index.

    Tiles that already have keys are not read again.

    Args:
        encoder: Encoder of the checkpoint, with a torch model.
        checkpoint: Directory with heads under `pose/`.
        index: Index whose tiles get keys.
        imagery: `TileSource` from which the index was made, or its new tiles.
        batch_size: Tiles in one forward pass.
        progress: Function that is called with messages.

    Returns:
        Number of stored tiles by heading prior.

    Raises:
        GenGeoError: The checkpoint has no head, or no tile of the imagery is in the index.
    """
    priors = heads_of(checkpoint)
    if not priors:
        raise GenGeoError(f"{checkpoint} has no pose head under {FOLDER}/: fit one with gengeo pose fit")
    stored = {}
    for prior in priors:
        head = PoseHead.load(checkpoint, prior)
        check_head(head, encoder)
        path = features_path(index.path, prior)
        present = StoredFeatures(path) if path.is_file() else None
        if present is not None and present.head != head.checksum:
            present = None
        stored[prior] = write_features(path, head.checksum, _blocks(encoder, head, index, imagery, present, batch_size))
        progress(f"pose features of {stored[prior]:,} tiles for heading {prior}: {path}")
    return stored


def _blocks(
    encoder: Encoder, head: PoseHead, index: GeoIndex, imagery: Any, present: StoredFeatures | None, batch_size: int
) -> Iterator[tuple[list[str], np.ndarray]]:
    """Yield ids and keys in blocks: first the stored ones, then new ones."""
    wanted = index.tiles["tile_id"].to_pylist()
    done: set[str] = set()
    for ids in batched(wanted, 1024):
        found = {} if present is None else present.keys(ids)
        if found:
            done |= set(found)
            yield list(found), np.stack(list(found.values()))
    rows = {tile: row for row, tile in enumerate(imagery.table["tile_id"].to_pylist())}
    missing = [tile for tile in wanted if tile not in done and tile in rows]
    for ids in batched(missing, batch_size):
        images = {tile: imagery.read(rows[tile]) for tile in ids}
        images = {tile: image for tile, image in images.items() if image is not None}
        if not images:
            continue
        pixels = normalised(encoder, resize_images(encoder.processor, list(images.values()), "aerial"))
        with torch.inference_mode():
            keys = head.keys(patch_tokens(encoder, pixels).cpu().flatten(1, 2))
        yield list(images), keys.numpy()
