"""Columns to the two tables of the schema, for loaders of image files.

Names, paths and positions become the tables of a `CrossViewDataset`. Images stay paths until they are asked for, so a
table of 100,000 rows takes some MB and a second.
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
    """A table of ground images.

    Args:
        ids: N different names.
        ground: path of each image.
        positives: id of each true tile.
        semi_positives: ids of other tiles that cover the place; None for none.
        lat, lon: degrees, (N,), NaN where unknown; None: nowhere known.
        heading: degrees clockwise from north of the centre column; one number, or (N,) with NaN where unknown.
        fov: horizontal field of view in degrees; likewise.
        vertical_fov, pitch, roll: degrees, see `CameraView`; likewise.
        projection: see `CameraView`; None where unknown.
        area: city, region or None, for each row.
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
    """A table of aerial tiles.

    Args:
        ids: N different names.
        aerial: path of each image.
        lat, lon: centre in degrees, (N,), NaN where unknown; None: nowhere known.
        bounds: (N, 4) west, south, east, north in degrees; None where unknown.
        area: city, region or None, for each row.
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
    """Paths in the storage of `datasets.Image`: nothing is read."""
    named = pa.array([str(path) for path in paths], pa.string())
    return pa.StructArray.from_arrays([pa.nulls(len(paths), pa.binary()), named], ["bytes", "path"])


def _numbers(values: Any, count: int) -> pa.Array:
    """float64 with null for NaN; one number stands for all rows, None for none."""
    array = np.full(count, np.nan if values is None else values, dtype=np.float64) if np.ndim(values) == 0 else values
    return pa.array(np.asarray(array, dtype=np.float64), from_pandas=True)
