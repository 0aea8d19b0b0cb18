"""Construction of the two tables of the schema from columns, for loaders of image files.

Ids, paths and positions become the tables of a `CrossViewDataset`. Images are stored as paths and decoded on access, so
a table of 100,000 rows takes a few MB and about a second.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa

from gengeo_hf.common.schema import GALLERY_FEATURES, QUERY_FEATURES, present_camera

PANORAMA = 360.0  # degrees


def query_table(
    ids: Sequence[str],
    ground: Sequence[str | Path],
    positives: Sequence[str],
    *,
    semi_positives: Sequence[Sequence[str]] | None = None,
    lat: Any = None,
    lon: Any = None,
    heading: Any = None,
    fov: Any = None,
    vertical_fov: Any = None,
    pitch: Any = None,
    roll: Any = None,
    projection: Sequence[str | None] | None = None,
    area: Sequence[str | None] | None = None,
) -> datasets.Dataset:
    """Build the table of queries.

    Args:
        ids: Unique id of each query, length N.
        ground: Path of each image.
        positives: Id of the positive tile of each query.
        semi_positives: Ids of other tiles that cover the position of each query; None for no such tiles.
        lat, lon: Positions in degrees, (N,), NaN where unknown; None if all are unknown.
        heading: Heading of the centre column in degrees clockwise from north: one number for all queries, or (N,) with
            NaN where unknown; None if all are unknown.
        fov: Horizontal field of view in degrees, in the same form.
        vertical_fov, pitch, roll: Angles in degrees, see `CameraView`, in the same form; None omits the column.
        projection: Projection of each image, see `CameraView`, None where unknown; None omits the column.
        area: City or region of each query, None where unknown.
    """
    count = len(ids)
    columns = {
        "query_id": list(ids),
        "ground": _images(ground),
        "positive": list(positives),
        "semi_positives": [list(row) for row in semi_positives] if semi_positives is not None else [[]] * count,
        "lat": _numbers(lat, count),
        "lon": _numbers(lon, count),
        "heading": _numbers(heading, count),
        "fov": _numbers(fov, count),
        "area": list(area) if area is not None else [None] * count,
    }
    angles = {"vertical_fov": vertical_fov, "pitch": pitch, "roll": roll}
    columns |= {name: _numbers(values, count) for name, values in angles.items() if values is not None}
    if projection is not None:
        columns["projection"] = list(projection)
    return _table(columns, datasets.Features(QUERY_FEATURES | present_camera(columns)))


def gallery_table(
    ids: Sequence[str],
    aerial: Sequence[str | Path],
    *,
    lat: Any = None,
    lon: Any = None,
    bounds: np.ndarray | None = None,
    area: Sequence[str | None] | None = None,
) -> datasets.Dataset:
    """Build the table of the gallery.

    Args:
        ids: Unique id of each tile, length N.
        aerial: Path of each image.
        lat, lon: Centres in degrees, (N,), NaN where unknown; None if all are unknown.
        bounds: West, south, east, north in degrees, (N, 4), NaN where unknown; None if all are unknown.
        area: City or region of each tile, None where unknown.
    """
    count = len(ids)
    sides = np.full((count, 4), np.nan) if bounds is None else np.asarray(bounds, dtype=np.float64)
    columns = {
        "tile_id": list(ids),
        "aerial": _images(aerial),
        "lat": _numbers(lat, count),
        "lon": _numbers(lon, count),
        **{name: _numbers(sides[:, column], count) for column, name in enumerate(("west", "south", "east", "north"))},
        "area": list(area) if area is not None else [None] * count,
    }
    return _table(columns, GALLERY_FEATURES)


def _table(columns: dict[str, Any], features: datasets.Features) -> datasets.Dataset:
    schema = features.arrow_schema
    arrays = [
        pa.array(columns[name], schema.field(name).type) if isinstance(columns[name], list) else columns[name]
        for name in features
    ]
    return datasets.Dataset(pa.table(arrays, names=list(features)).cast(schema))


def _images(paths: Sequence[str | Path]) -> pa.StructArray:
    """Paths in the storage format of `datasets.Image`; no file is read."""
    named = pa.array([str(path) for path in paths], pa.string())
    return pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), named], ["bytes", "path"])


def _numbers(values: Any, count: int) -> pa.Array:
    """A float64 column with null for NaN; one number is repeated for all rows, and None makes all rows null."""
    array = np.full(count, np.nan if values is None else values, dtype=np.float64) if np.ndim(values) == 0 else values
    return pa.array(np.asarray(array, dtype=np.float64), from_pandas=True)
