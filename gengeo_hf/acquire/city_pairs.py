"""Tiles and splits of a city's photos, computed from positions before any image is fetched."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pyarrow as pa

from gengeo_hf.acquire.photo_facts import PhotoRecord
from gengeo_hf.acquire.photo_rules import Selection, positions
from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.geo import Bounds, arc_m, great_circle_m, metres_per_degree, size_of, to_unit_vectors
from gengeo_hf.data.own import SplitOptions, assign_splits

NEIGHBOURS = 16  # nearest tile centres of a photo that are examined
INNER = 0.25  # maximum offset of a photo from a tile's centre on each axis, as a share of the side: its inner half
SEQUENCE_M = 200.0  # photos of one sequence nearer than this must not be in two splits
MIN_MARGIN_M = 100.0  # minimum distance between tiles of two splits


@dataclass(frozen=True)
class TileGrid:
    """Tiles of an area.

    Args:
        ids: Id of each tile.
        lat, lon: Centres in degrees, (tiles,).
        bounds: West, south, east, north in degrees, (tiles, 4).
    """

    ids: list[str]
    lat: np.ndarray
    lon: np.ndarray
    bounds: np.ndarray

    @classmethod
    def from_table(cls, table: pa.Table, name: str) -> "TileGrid":
        """Build from the table of an imagery source.

        Args:
            table: Table with `tile_id`, `lat`, `lon`, `west`, `south`, `east`, `north`.
            name: Name of the source, for messages.

        Raises:
            GenGeoError: The bounds of a tile are unknown.
        """
        sides = [table[side].to_numpy() for side in ("west", "south", "east", "north")]
        bounds = np.stack([np.asarray(side, dtype=np.float64) for side in sides], axis=1)
        if not np.isfinite(bounds).all():
            raise GenGeoError(f"{name} does not state how large its tiles are: photos cannot be paired with them")
        return cls(table["tile_id"].to_pylist(), table["lat"].to_numpy(), table["lon"].to_numpy(), bounds)

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def side_m(self) -> float:
        """Longest side of the first tile in metres; all tiles have about the same size."""
        return max(size_of(Bounds(*self.bounds[0].tolist())))


@dataclass(frozen=True)
class Pairing:
    """The tiles of each photo.

    Args:
        positive: Index of the nearest tile whose inner half contains the photo or, without one, of the nearest tile
            that contains it, int64 (photos,); -1 without any.
        further: Indices of other tiles whose inner half contains the photo.
    """

    positive: np.ndarray
    further: list[list[int]]


def pair(photos: Sequence[PhotoRecord], tiles: TileGrid) -> Pairing:
    """Find the tiles of photos by their positions.

    Args:
        photos: Photos with known positions.
        tiles: Tiles of the whole area.
    """
    from scipy.spatial import cKDTree

    lat, lon = positions(photos)
    if not len(lat):
        return Pairing(np.zeros(0, dtype=np.int64), [])
    count = min(NEIGHBOURS, len(tiles))
    _, near = cKDTree(to_unit_vectors(tiles.lat, tiles.lon)).query(to_unit_vectors(lat, lon), k=count)
    near = near.reshape(len(lat), count)
    per_lat, per_lon = metres_per_degree(lat)
    east = np.abs((tiles.lon[near] - lon[:, None] + 180.0) % 360.0 - 180.0) * per_lon[:, None]
    north = np.abs(tiles.lat[near] - lat[:, None]) * per_lat[:, None]
    west, south, right, top = (tiles.bounds[near, side] for side in range(4))
    wide = (right - west + np.where(west > right, 360.0, 0.0)) * per_lon[:, None]
    high = (top - south) * per_lat[:, None]
    tolerance = 1e-6 * high  # a photo on the border of two inner halves belongs to both
    holds = (east <= wide / 2 + tolerance) & (north <= high / 2 + tolerance)
    inner = (east <= wide * INNER + tolerance) & (north <= high * INNER + tolerance)
    # Neighbours are sorted by distance, so that the first match is the nearest.
    first = np.where(inner.any(axis=1), inner.argmax(axis=1), holds.argmax(axis=1))
    positive = np.where(holds.any(axis=1), near[np.arange(len(lat)), first], -1)
    further = [
        [int(tile) for tile, matches in zip(row, is_inner, strict=True) if matches and tile != nearest]
        for row, is_inner, nearest in zip(near.tolist(), inner.tolist(), positive.tolist(), strict=True)
    ]
    return Pairing(positive.astype(np.int64), further)


def keep_paired(chosen: Selection, tiles: TileGrid) -> Pairing:
    """Drop photos without a tile, and all but one photo of each sequence on a tile.

    Returns:
        Tiles of the photos that are left in `chosen`.
    """
    found = pair(chosen.photos, tiles)
    chosen.keep("no tile of the imagery shows the place", found.positive >= 0)
    found = pair(chosen.photos, tiles)
    seen: set[tuple[str, int]] = set()
    kept = []
    for photo, tile in zip(chosen.photos, found.positive.tolist(), strict=True):
        key = (photo.sequence or photo.id, tile)
        kept.append(key not in seen)
        seen.add(key)
    chosen.keep("another frame of the sequence on the same tile", kept)
    return pair(chosen.photos, tiles)


def min_margin_m(tile_m: float) -> float:
    """Minimum margin in metres with which tiles of two splits do not overlap, at least `MIN_MARGIN_M`.

    Args:
        tile_m: Side of a tile in metres.
    """
    return max(MIN_MARGIN_M, tile_m * 2**0.5 + 10.0)


def assign_photo_splits(
    photos: Sequence[PhotoRecord], pairing: Pairing, tiles: TileGrid, options: SplitOptions
) -> np.ndarray:
    """The split of each photo: "train", "validation", "test", or "" for a photo too near to another split.

    Photos are split by the centres of their tiles, so that photos of one tile are in one split. If a sequence passes
    through two splits, photos within `SEQUENCE_M` of each other are kept in one of them only: test before validation
    before training.

    Args:
        photos: Photos with known positions.
        pairing: Tiles of the photos, from `pair`.
        tiles: Tiles of the whole area.
        options: Shares and margin.

    Returns:
        Text (photos,).

    Raises:
        GenGeoError: The photos are too near to each other to be split.
    """
    lat, lon = tiles.lat[pairing.positive], tiles.lon[pairing.positive]
    try:
        parts = assign_splits([photo.id for photo in photos], lat, lon, options)
    except GenGeoError as error:
        reason = str(error).partition(":")[0]
        raise GenGeoError(
            f"{reason}: {len(photos):,} photos cannot be split by area; choose a larger area, or keep all of them "
            "for evaluation with --split test"
        ) from None
    for earlier, later in (("test", "validation"), ("test", "train"), ("validation", "train")):
        parts[_near_in_sequence(photos, parts, earlier, later)] = ""
    if not (parts == "train").any():
        raise GenGeoError(
            f"the margin of {options.margin_m:g} m around test and validation leaves none of {len(photos):,} photos "
            "for training; choose a larger area, or keep all for evaluation with --split test"
        )
    return parts


def _near_in_sequence(photos: Sequence[PhotoRecord], parts: np.ndarray, earlier: str, later: str) -> np.ndarray:
    """Rows, int64, of photos of the split `later` within `SEQUENCE_M` of one of `earlier` of the same sequence."""
    rows: dict[str, list[int]] = {}
    for row, photo in enumerate(photos):
        if photo.sequence and parts[row] == earlier:
            rows.setdefault(photo.sequence, []).append(row)
    lat, lon = positions(photos)
    found = []
    for row, photo in enumerate(photos):
        if parts[row] == later and photo.sequence in rows:
            others = rows[photo.sequence]
            if (great_circle_m(lat[row], lon[row], lat[others], lon[others]) < SEQUENCE_M).any():
                found.append(row)
    return np.array(found, dtype=np.int64)


def least_distance_m(photos: Sequence[PhotoRecord], parts: np.ndarray) -> float:
    """Distance in metres between the nearest photos of training and test; infinite if one of them is empty."""
    from scipy.spatial import cKDTree

    lat, lon = positions(photos)
    points = to_unit_vectors(lat, lon)
    train, test = points[parts == "train"], points[parts == "test"]
    if not len(train) or not len(test):
        return float("inf")
    return float(arc_m(cKDTree(train).query(test)[0]).min())
