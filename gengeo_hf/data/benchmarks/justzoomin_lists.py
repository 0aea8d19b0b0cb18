"""Published lists of Just Zoom In, its splits, and distances from test photos to training photos.

::

    metadata/large_area_train_map.csv      published training set: image_id,latitude,longitude,sequence
    metadata/large_area_val_map.csv        published test set; there is no validation list
    satellite/layout.yaml                  layout of the tile pyramid
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gengeo_hf.common.errors import GenGeoError
from gengeo_hf.common.tables import read_table
from gengeo_hf.data.area_split import split_training
from gengeo_hf.data.benchmarks import justzoomin_grid as grid
from gengeo_hf.data.own import SplitOptions, assign_splits

LISTS = {"train": "metadata/large_area_train_map.csv", "test": "metadata/large_area_val_map.csv"}
LAYOUT = "satellite/layout.yaml"
PHOTOS, SUFFIX = "streetview/images", "_undistorted.jpg"
STATE, LISTING, UNPACKED = ".get", "files.json", "unpacked"  # state files of `gengeo data get`
PUBLISHED_TEST, PUBLISHED_CELLS = 30_956, 12_029
PUBLISHED_ALL = 310_000  # rounded, from the page on the Hub
MAX_NEAR_MISSES = 0.001  # accepted share of rows whose stored cell is a neighbour of the cell at their position
BLOCK_M, MARGIN_M = 500.0, 100.0
VALIDATION_SHARE, TEST_SHARE = 0.05, 0.1
LEAK_M = (5, 25, 100)
_LAYOUT = {
    "crs": grid.CRS.lower(),
    "tile_axes": ["east", "north"],
    "tile_shape_crs": [grid.TILE_M] * 2,
    "tile_shape_px": [grid.TILE_PIXELS] * 2,
    "origin_crs": list(grid.TILE_ORIGIN_M),
}


@dataclass(frozen=True)
class Photos:
    """Photos of both lists, those of the test list last.

    Args:
        ids: Mapillary id of each photo, length N; text, since ids exceed 2^53.
        lat, lon: Positions in degrees, (N,).
        row, column: Stored cell of each photo, int64 (N,).
        is_test: Whether each photo is in the published test list, bool (N,).
        near_misses: Number of rows whose position is in a neighbour of the stored cell.
        misses: Number of rows whose position is further from the stored cell.
    """

    ids: list[str]
    lat: np.ndarray
    lon: np.ndarray
    row: np.ndarray
    column: np.ndarray
    is_test: np.ndarray
    near_misses: int
    misses: int

    def __len__(self) -> int:
        return len(self.ids)

    @property
    def cells(self) -> np.ndarray:
        """Index of each photo's cell, row * 256 + column, int64 (N,)."""
        return self.row * grid.CELLS + self.column

    def bounds(self, rows: np.ndarray) -> str:
        """Bounds of the photos that `rows` selects, as text."""
        lat, lon = self.lat[rows], self.lon[rows]
        return f"west {lon.min():.4f}, south {lat.min():.4f}, east {lon.max():.4f}, north {lat.max():.4f}"


def read_photos(root: str | Path) -> Photos:
    """Read both lists.

    Raises:
        GenGeoError: A list is missing, lacks a column, or holds an invalid id, position or sequence.
    """
    parts = [_read_list(Path(root) / LISTS[split]) for split in ("train", "test")]
    ids = parts[0][0] + parts[1][0]
    if len(set(ids)) != len(ids):
        seen: set[str] = set()
        repeated = next(name for name in ids if name in seen or seen.add(name))  # type: ignore[func-returns-value]  # `add` returns None
        raise GenGeoError(
            f"{root}: the photo {repeated} is listed twice in {' and '.join(LISTS.values())}; fetch them again"
        )
    lat, lon, actions = (np.concatenate([part[index] for part in parts]) for index in (1, 2, 3))
    row, column = grid.cells_of_sequences(actions)
    apart = np.abs(np.stack([row, column]) - grid.cells_at(lat, lon)).max(axis=0)
    is_test = np.arange(len(ids)) >= len(parts[0][0])
    return Photos(ids, lat, lon, row, column, is_test, int((apart == 1).sum()), int((apart > 1).sum()))


def _read_list(path: Path) -> tuple[list[str], np.ndarray, np.ndarray, np.ndarray]:
    """Ids, latitudes and longitudes in degrees (n,), and zoom steps (n, 4) of one list."""
    if not path.is_file():
        raise GenGeoError(f"there is no {path}: `gengeo data get justzoomin` fetches it")
    table = read_table(path)
    ids = [text or "" for text in table.text("image_id")]
    wrong = next((row for row, text in enumerate(ids) if not (text.isascii() and text.isdigit())), None)
    if wrong is not None:
        raise GenGeoError(
            f"{path}, row {wrong + 1}: image_id is {ids[wrong]!r}, expected digits; if a spreadsheet program rounded "
            "the ids, fetch the list again"
        )
    lat, lon = (table.numbers(name) for name in ("latitude", "longitude"))
    wrong = next(iter(np.flatnonzero(~((np.abs(lat) <= 90) & (np.abs(lon) <= 180))).tolist()), None)
    if wrong is not None:
        raise GenGeoError(f"{path}, row {wrong + 1}: {lat[wrong]}, {lon[wrong]} is not a latitude and a longitude")
    actions = np.array([_parse_actions(text, path, row) for row, text in enumerate(table.text("sequence"))], np.int64)
    return ids, lat, lon, actions.reshape(-1, 4)


def _parse_actions(text: str | None, path: Path, row: int) -> list[int]:
    """Parse the four zoom steps of a photo, 0 to 15 each."""
    try:
        values = json.loads(text or "")
        if len(values) == 4 and all(type(value) is int and 0 <= value < 16 for value in values):
            return list(values)
    except (ValueError, TypeError, RecursionError):
        pass
    raise GenGeoError(
        f"{path}, row {row + 1}: sequence is {text!r}, expected four numbers of 0 to 15, such as [7, 6, 6, 5]"
    )


def read_layout(root: str | Path) -> range:
    """Zoom levels of the tile pyramid, usually -9 to 0.

    Raises:
        GenGeoError: The file is missing or damaged, or states another pyramid.
    """
    import yaml

    path = Path(root) / LAYOUT
    try:
        found: Any = yaml.safe_load(path.read_text(encoding="utf-8"))
        for key, expected in _LAYOUT.items():
            value = found[key].lower() if isinstance(found[key], str) else [_plain(item) for item in found[key]]
            if value != expected:
                raise GenGeoError(f"{path}: {key} is {found[key]}, expected {expected}: the tiles lie on another grid")
        return range(int(found["min_zoom"]), int(found["max_zoom"]) + 1)
    except GenGeoError:
        raise
    except Exception as error:  # a damaged file raises many types
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise GenGeoError(
            f"{path} cannot be read as the layout of a tile pyramid ({problem:.150}); fetch it again"
        ) from error


def _plain(value: Any) -> Any:
    """Text in lower case, or a number as float, for comparison."""
    return value.lower() if isinstance(value, str) else float(value)


def list_parts(photos: Photos) -> np.ndarray:
    """Split of each photo by its list alone, "train" or "test", as used by the authors."""
    return np.where(photos.is_test, "test", "train")


def published_parts(photos: Photos) -> np.ndarray:
    """Split of each photo by the published lists; the training list is divided by area into training and validation.

    Returns:
        "train", "validation", "test", or "" for photos in the margin around validation photos, (N,).
    """
    parts = np.where(photos.is_test, "test", "").astype("U10")
    rows = np.flatnonzero(~photos.is_test)
    ids = [photos.ids[row] for row in rows]
    found = split_training(
        ids, photos.lat[rows], photos.lon[rows], VALIDATION_SHARE, block_m=BLOCK_M, margin_m=MARGIN_M
    )
    parts[rows[found.train]], parts[rows[found.validation]] = "train", "validation"
    return parts


def area_parts(photos: Photos) -> np.ndarray:
    """Split of each photo by area, with both lists joined; see `assign_splits`."""
    options = SplitOptions(VALIDATION_SHARE, TEST_SHARE, "area", BLOCK_M, MARGIN_M)
    return assign_splits(photos.ids, photos.lat, photos.lon, options)


def distances_to_training(photos: Photos, parts: np.ndarray, kept: np.ndarray | None = None) -> np.ndarray:
    """Distance from each test photo to the nearest training photo.

    Args:
        photos: Photos of both lists.
        parts: Split of each photo, (N,). Validation photos count as training photos, since they are from that list.
        kept: Photos to include, bool (N,); None includes all.

    Returns:
        Metres, float64 (number of test photos,); infinite without training photos.
    """
    from scipy.spatial import cKDTree

    points = grid.project(photos.lat, photos.lon).T
    chosen = np.ones(len(photos), bool) if kept is None else kept
    training = chosen & np.isin(parts, ("train", "validation"))
    test = chosen & (parts == "test")
    if not training.any() or not test.any():
        return np.full(int(test.sum()), np.inf)
    return np.asarray(cKDTree(points[training]).query(points[test])[0])


def format_leak(distances: np.ndarray, reaches: Sequence[float] = LEAK_M) -> str:
    """Format distances from test photos to training photos as one line.

    Args:
        distances: Metres, (number of test photos,).
        reaches: Distances in metres for which the share of test photos within them is stated.
    """
    shares = ", ".join(f"{(distances <= reach).mean():.1%} within {reach:g} m" for reach in reaches)
    low, middle, high = np.quantile(distances, [0.05, 0.5, 0.95])
    spread = f"quantiles 5, 50, 95 %: {low:.1f}, {middle:.1f}, {high:.1f} m"
    return f"of {len(distances):,} test photos {shares} of a training photo; {spread}"
