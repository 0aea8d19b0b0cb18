"""Checks that a data set provides the views of a model, and positions of photos in their tiles."""

from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.schema import CrossViewDataset

MAX_OFFSET = 0.1  # share of the tile's side: maximum offset of a photo from the centre of a polar tile


def positions_in_tiles(dataset: CrossViewDataset) -> np.ndarray:
    """Position of each photo in its positive tile.

    Args:
        dataset: Queries and gallery.

    Returns:
        Column and row as fractions of the tile's width and height from its upper left corner, float32 (queries, 2); NaN
        where the photo's position or the tile's bounds are unknown.
    """
    rows = dataset.positive_rows()
    west, south, east, north = (
        np.array(dataset.gallery[name][:], dtype=float)[rows] for name in ("west", "south", "east", "north")
    )
    lat, lon = (np.array(dataset.queries[name][:], dtype=float) for name in ("lat", "lon"))
    with np.errstate(divide="ignore", invalid="ignore"):
        found = np.stack([(lon - west) / (east - west), (north - lat) / (north - south)], axis=1)
    return found.astype(np.float32)


def check_views(dataset: CrossViewDataset, processor: Any) -> None:
    """Check, before images are read, that a data set provides the views of a model.

    Args:
        dataset: Queries and gallery.
        processor: The model's image processor, with its `view_transforms`.

    Raises:
        GenGeoError: The model needs bird's-eye views, and some ground images are not panoramas; or it needs polar
            tiles, and some photos were not taken in the centre of their tile.
    """
    views = processor.view_transforms or {}
    if ground := views.get("ground"):
        cameras = dataset.cameras()
        photos = sum(not camera.is_panorama for camera in cameras)
        if photos:
            raise GenGeoError(
                f"the view {ground} needs panoramas, and {photos:,} of {len(cameras):,} ground images of "
                f"{dataset.name} are ordinary photos or have an unknown field of view: use a model or a configuration "
                "without a bird's-eye view"
            )
    if aerial := views.get("aerial"):
        off = np.abs(positions_in_tiles(dataset) - 0.5).max(axis=1)
        off = off[np.isfinite(off)]
        far = int((off > MAX_OFFSET).sum())
        if far:
            raise GenGeoError(
                f"the view {aerial} needs photos in the centre of their tiles, and {far:,} of {len(off):,} photos of "
                f"{dataset.name} with known positions are farther than {MAX_OFFSET:.0%} of the tile's side from it: "
                "use a model or a configuration without polar tiles"
            )
