"""Pixels or stored features of the tiles that an index finds, for poses."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from PIL import Image


class TilePictures(Protocol):
    """Where the pixels of tiles come from."""

    def images(self, tile_ids: Sequence[str]) -> Mapping[str, Image.Image]:
        """Pixels of those tiles that it has, north up."""
        ...


class TileFeatures(Protocol):
    """Stored keys of a head, see `gengeo_hf.index.pose_features`.

    Args:
        head: Checksum of the head that made them.
    """

    head: str

    def keys(self, tile_ids: Sequence[str]) -> Mapping[str, np.ndarray]:
        """Float (K, d) of those tiles that it has."""
        ...


@dataclass
class IndexPictures:
    """Tile pixels from imagery, else from an index's thumbnails where these have the model's size.

    Args:
        index: A `GeoIndex`; stores keep no pictures.
        size: (height, width) at which the model sees tiles.
        imagery: A `TileSource` with the same tile ids, or None.
    """

    index: Any
    size: tuple[int, int]
    imagery: Any = None

    def __post_init__(self) -> None:
        ids = self.imagery.table["tile_id"].to_pylist() if self.imagery is not None else []
        self._rows = {tile: row for row, tile in enumerate(ids)}

    def images(self, tile_ids: Sequence[str]) -> Mapping[str, Image.Image]:
        """Pixels of the tiles, where there are any."""
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
