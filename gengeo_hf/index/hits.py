"""`Hit`: one tile of a search result, with position, score and rights of its imagery."""

from dataclasses import dataclass

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.tiles import row_bounds
from gengeo_hf.index.version import Version


@dataclass(frozen=True)
class Hit:
    """A tile of a search result; `score` is the cosine, -1 to 1, positions and bounds are in degrees."""

    tile_id: str
    score: float
    lat: float
    lon: float
    bounds: Bounds | None
    area: str
    source: str
    attribution: str = ""
    licence: str = ""
    acquired: str = ""


def finite_queries(descriptors: np.ndarray) -> np.ndarray:
    """Convert descriptors to queries: contiguous float32 (queries, dim).

    Args:
        descriptors: (queries, dim) or (dim,).

    Raises:
        GenGeoError: A value is not finite.
    """
    queries = np.ascontiguousarray(np.atleast_2d(descriptors), dtype=np.float32)
    if not np.isfinite(queries).all():
        raise GenGeoError("a query descriptor holds NaN or infinity: check the weights and the input of the model")
    return queries


def make_hit(version: Version, row: int, score: float) -> Hit:
    """Create the hit of a row.

    Args:
        version: Searched version of the index.
        row: Row, counted through all segments.
        score: Cosine of query and tile.
    """
    segment, row = version.locate(row)
    tiles = segment.tiles.slice(row, 1)
    values = {name: tiles[name][0].as_py() for name in ("tile_id", "lat", "lon", "area", "source")}
    rights = version.source_of(values["source"] or "")
    return Hit(
        score=score,
        bounds=row_bounds(tiles, 0),
        tile_id=values["tile_id"],
        lat=values["lat"],
        lon=values["lon"],
        area=values["area"] or "",
        source=values["source"] or "",
        attribution=rights.attribution,
        licence=rights.licence,
        acquired=rights.acquired,
    )
