"""Tiles of a gallery: a `CrossViewDataset`, or any Hugging Face dataset with the columns of a gallery.

The dataset may be on disk (`save_to_disk`), in Parquet files that contain the images, or on the Hub.
"""

import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pyarrow as pa
import pyarrow.parquet
from PIL import Image

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.common.transfer import first_line
from gengeo_hf.imagery.tiles import tile_table

if TYPE_CHECKING:
    import datasets

    from gengeo_hf.common.schema import CrossViewDataset

HUB = "hf:"  # prefix of the address of a dataset on the Hub


class DatasetTiles:
    """The gallery of a dataset as tiles.

    Args:
        data: A `CrossViewDataset`, or a `datasets.Dataset` with at least `tile_id`, `aerial`, `lat` and `lon`.
        name: Name in reports; None takes the dataset's own name.
        home: Directory that must contain image files named by the table; None allows any file, for users' own tables.

    Raises:
        GenGeoError: A column is missing.
    """

    def __init__(
        self, data: "CrossViewDataset | datasets.Dataset", name: str | None = None, home: Path | None = None
    ) -> None:
        import datasets

        gallery: datasets.Dataset = getattr(data, "gallery", data)
        if missing := {"tile_id", "aerial", "lat", "lon"} - set(gallery.column_names):
            raise GenGeoError(f"the gallery lacks the columns {sorted(missing)}; it has {gallery.column_names}")
        self.name, self._home = name or getattr(data, "name", None) or "dataset", home
        self._images = gallery.select_columns(["aerial"]).cast_column("aerial", datasets.Image(decode=False))
        rows = gallery.select_columns([c for c in gallery.column_names if c != "aerial"]).to_dict()
        unknown = [None] * len(gallery)
        sides = [self._numbers(side, rows.get(side, unknown)).tolist() for side in ("west", "south", "east", "north")]
        bounds = [Bounds(*box) for box in zip(*sides, strict=True)]
        area = ["" if value is None else str(value) for value in rows.get("area", unknown)]
        ids = self._ids(rows["tile_id"])
        lat, lon = (self._numbers(column, rows[column]) for column in ("lat", "lon"))
        self.table = tile_table(ids, lat, lon, bounds, area=area, source=self.name)

    def read(self, row: int) -> Image.Image:
        """Decode the tile of one row.

        Raises:
            GenGeoError: The row has no image, or the image cannot be decoded.
        """
        from gengeo_hf.common.images import open_image

        cell = self._images[row]["aerial"]
        if cell is None:
            raise GenGeoError(f"tile {self.table['tile_id'][row].as_py()!r} of {self.name} has no image")
        if cell.get("bytes") is not None:
            return open_image(io.BytesIO(cell["bytes"]))
        if self._home is not None and not Path(str(cell["path"])).resolve().is_relative_to(self._home.resolve()):
            raise GenGeoError(f"{self.name} names an image file outside {self._home}, which was not opened")
        return open_image(cell["path"])

    def _ids(self, values: list) -> list[str]:
        """Ids as text; numbers are accepted."""
        if None in values:
            raise GenGeoError(f"row {values.index(None) + 1} of {self.name} has no tile_id")
        return [str(value) for value in values]

    def _numbers(self, column: str, values: list) -> np.ndarray:
        """A column as float64 (n,), with NaN for null."""
        try:
            return np.array(values, dtype=np.float64)
        except (TypeError, ValueError) as error:
            raise GenGeoError(f"{self.name}: column {column!r} must hold degrees ({error})") from None


def holds_pictures(path: Path) -> bool:
    """Whether the `aerial` column of a Parquet file contains images rather than file names."""
    try:
        schema = pa.parquet.read_schema(path)
    except (pa.ArrowInvalid, OSError):
        return False  # the reader of tables reports the error
    return "aerial" in schema.names and pa.types.is_struct(schema.field("aerial").type)


def parquet_tiles(paths: Sequence[Path]) -> DatasetTiles:
    """Tiles of Parquet files in the format of `datasets`.

    Raises:
        GenGeoError: A file is damaged, or a column is missing.
    """
    import datasets

    name = paths[0].parent.name if len(paths) > 1 else paths[0].stem
    try:
        found = datasets.Dataset.from_parquet([str(path) for path in paths])
    except Exception as error:  # damaged files raise exceptions of many types
        raise GenGeoError(f"{name} cannot be read as a table with images: {first_line(error)}") from error
    return DatasetTiles(found, name, paths[0].parent)


def hub_tiles(address: str) -> DatasetTiles:
    """Tiles of a dataset on the Hub.

    Args:
        address: `owner/name`, `owner/name/config` or `owner/name/config/split`. Without a config, `gallery` is used if
            it exists (`gengeo push` makes it), else the first; without a split, the only one.

    Raises:
        GenGeoError: There is no such dataset, or the split is ambiguous.
    """
    import datasets

    owner, name, config, split, *more = [*address.split("/"), "", "", ""]
    if not (owner and name) or any(more):
        raise GenGeoError(f"{HUB}{address} is not a dataset: write {HUB}owner/name, with /config and /split if needed")
    where = f"{owner}/{name}"
    try:
        configs = datasets.get_dataset_config_names(where)
        config = config or ("gallery" if "gallery" in configs else configs[0])
        splits = datasets.get_dataset_split_names(where, config)
        if not split and len(splits) != 1:
            raise GenGeoError(f"{where} has the splits {splits}: write {HUB}{where}/{config}/SPLIT")
        found = datasets.load_dataset(where, config, split=split or splits[0])
    except GenGeoError:
        raise
    except Exception as error:  # errors of the Hub, the network and the files are of many types
        raise GenGeoError(f"the dataset {where} cannot be loaded: {first_line(error)}") from error
    return DatasetTiles(found, f"{where}/{config}", Path(datasets.config.HF_CACHE_HOME).expanduser())
