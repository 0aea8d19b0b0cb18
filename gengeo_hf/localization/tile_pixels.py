"""Pixels or stored features of retrieved tiles, for pose estimation."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image


class TilePictures(Protocol):
    """Source of tile pixels."""

    def images(self, tile_ids: Sequence[str]) -> Mapping[str, Image.Image]:
        """North-up pixels of the available tiles, by id."""
        ...


class TileFeatures(Protocol):
    """Stored keys of a pose head, see `gengeo_hf.index.pose_features`.

    Args:
        head: Checksum of the pose head.
    """

    head: str

    def keys(self, tile_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Float (K, d) keys of the available tiles, by id."""
        ...


@dataclass
class IndexPictures:
    """Tile pixels from imagery, else from thumbnails of an index that are large enough for the model.

    Args:
        index: `GeoIndex` with thumbnails; stores have none.
        size: (height, width) of the model's aerial images, pixels.
        imagery: `TileSource` with the same tile ids; None uses only thumbnails.
    """

    index: Any
    size: tuple[int, int]
    imagery: Any = None

    def __post_init__(self) -> None:
        ids = self.imagery.table["tile_id"].to_pylist() if self.imagery is not None else []
        self._rows = {tile: row for row, tile in enumerate(ids)}

    def images(self, tile_ids: Sequence[str]) -> Mapping[str, Image.Image]:
        """Pixels of the available tiles, by id."""
        found = {}
        for tile in tile_ids:
            if tile in self._rows and (image := self.imagery.read(self._rows[tile])) is not None:
                found[tile] = image
        missing = [tile for tile in tile_ids if tile not in found]
        if missing and hasattr(self.index, "thumbnails"):
            for tile, content in self.index.thumbnails(missing).items():
                image = Image.open(io.BytesIO(content)).convert("RGB")
                if image.height >= self.size[0] and image.width >= self.size[1]:
                    found[tile] = image
        return found
