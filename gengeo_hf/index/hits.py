"""What a search finds: one tile with its position, its score and the rights of its imagery."""

from dataclasses import dataclass

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds
from gengeo_hf.imagery.tiles import row_bounds
from gengeo_hf.index.version import Version


@dataclass(frozen=True)
class Hit:
    """One tile that was found: where it is, how alike it is (cosine, -1 to 1), and the rights of its imagery."""

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
    """Queries as searches want them: contiguous float32 (queries, dim).

    Args:
        descriptors: (queries, dim) or (dim,).

    Raises:
        GenGeoError: Values are not finite.
    """
    queries = np.ascontiguousarray(np.atleast_2d(descriptors), dtype=np.float32)
    if not np.isfinite(queries).all():
        raise GenGeoError("a query descriptor holds NaN or infinity: the model's weights or its input are broken")
    return queries


def hit_of(version: Version, row: int, score: float) -> Hit:
    """The tile of a row, as found with a score.

    Args:
        version: That was searched.
        row: Numbered through all segments.
        score: Cosine.
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
