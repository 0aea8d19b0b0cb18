"""Tiles that are already rows of a gallery: a `CrossViewDataset`, or any Hugging Face dataset with those columns.

Before: data/ and world/. After: a `TileSource`.
"""

import io
from typing import TYPE_CHECKING

from PIL import Image

from gengeo_hf.errors import GenGeoError
from gengeo_hf.places.geodesy import Bounds
from gengeo_hf.places.tiles import tile_table

if TYPE_CHECKING:
    import datasets

    from gengeo_hf.data import CrossViewDataset


class DatasetTiles:
    """The gallery of a dataset as tiles.

    Args:
        data: a `CrossViewDataset`, or a `datasets.Dataset` with at least `tile_id`, `aerial`, `lat` and `lon`.
        name: what the report calls it; None takes the dataset's own name.

    Raises:
        GenGeoError: a column is missing.
    """

    def __init__(self, data: "CrossViewDataset | datasets.Dataset", name: str | None = None) -> None:
        import datasets

        gallery: datasets.Dataset = getattr(data, "gallery", data)
        if missing := {"tile_id", "aerial", "lat", "lon"} - set(gallery.column_names):
            raise GenGeoError(f"a gallery needs the columns {sorted(missing)} too; it has {gallery.column_names}")
        self.name = name or getattr(data, "name", None) or "dataset"
        self._images = gallery.select_columns(["aerial"]).cast_column("aerial", datasets.Image(decode=False))
        rows = gallery.select_columns([c for c in gallery.column_names if c != "aerial"]).to_dict()
        unknown: list[float | None] = [None] * len(gallery)
        sides = zip(*(rows.get(side, unknown) for side in ("west", "south", "east", "north")), strict=True)
        bounds = [None if None in box else Bounds(*box) for box in sides]
        area = [value or "" for value in rows.get("area", unknown)]
        self.table = tile_table(rows["tile_id"], rows["lat"], rows["lon"], bounds, area=area, source=self.name)

    def read(self, row: int) -> Image.Image:
        """Decode one row's tile."""
        from gengeo_hf.data.images import open_image

        cell = self._images[row]["aerial"]
        return open_image(io.BytesIO(cell["bytes"]) if cell.get("bytes") is not None else cell["path"])
